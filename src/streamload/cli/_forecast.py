"""Turn `streamload plan MODEL --device NAME` into text and JSON.

Part of `cli`; needs neither torch nor the native core. What is predicted comes from `_schedule`.
"""

from __future__ import annotations

import json
import re
import textwrap
from contextlib import closing
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from .._format import MAX_JSON_NBYTES
from .._plan import least_device_bytes
from .._schedule import (
    ACCELERATORS,
    GROUP_SECONDS,
    LOAD_SECONDS,
    MOST_TOKENS,
    STORAGE_RATES,
    Accelerator,
    Forecast,
    ModelFacts,
    Pipeline,
    cost_of_layers,
    make_forecast,
)
from .._sources import FileSource, is_remote, read_head
from .._units import say_bytes, say_count, say_rate, say_seconds
from ._describe import padded_bytes, plan_layers, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._checkpoint import Checkpoint, Layer
    from .._sources import Source
    from ..options import StreamOptions

__all__ = ["LayerForecast", "describe_forecast", "forecast_layers", "forecast_text", "parse_rate", "parse_size"]

_SHARE = 0.9  # of a device's memory that weights may take where nobody says how much: the rest is KV cache and work
_DEFAULT_STORAGE = "page-cache"
_DEFAULT_TOKENS = (128, 2048, 8192)
_LONGEST_PROMPT = 10**8
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?)\s*([kmgt]?i?)b?", re.IGNORECASE)
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class LayerForecast:
    """Hold a forecast and what it is of.

    Attributes:
        url: Of the checkpoint.
        names: Of the layers.
        device_bytes: What each layer takes on the device.
        storage: Where the bytes come from, as it was asked for.
        forecast: What is predicted.
        notes: A sentence for each thing that had to be guessed.
    """

    url: str
    names: tuple[str, ...]
    device_bytes: tuple[int, ...]
    storage: str
    forecast: Forecast
    notes: tuple[str, ...]


def forecast_layers(
    checkpoint: Checkpoint,
    options: StreamOptions,
    *,
    device: str,
    device_memory: str | None,
    link: str | None,
    storage: str | None,
    tokens: Sequence[str],
) -> LayerForecast:
    """Predict how a checkpoint would load and run on a device that need not be here.

    Args:
        checkpoint: The model.
        options: Sizes of reads and of staging memory.
        device: A name from the table of accelerators.
        device_memory: What weights may take; None: what the options say, else nine tenths of the device's.
        link: Rate of the link; None: the table's.
        storage: A rate, or a kind of storage from the table; None: the page cache.
        tokens: Lengths of prompts, single ones or lists with commas; none: a short, a middling and a long one.

    Raises:
        ValueError: A text is no size, rate, number or name; or the memory is too small for the largest layer.
    """
    accelerator = _find(device)
    layers = checkpoint.layers
    names = tuple([layer.name for layer in layers])
    device_bytes = tuple([sum(map(padded_bytes, layer.tensors)) for layer in layers])
    budget = parse_size(device_memory) if device_memory is not None else options.device_memory
    if budget is None:
        budget = int(accelerator.memory_bytes * _SHARE)
    _check_budget(budget, layers, device_bytes)
    facts, notes = _read_facts(checkpoint)
    if storage is None and is_remote(checkpoint.url):
        notes.append("storage: page-cache is assumed; the weights are behind a URL: give --storage RATE, such as 1GB/s")
    storage = storage or _DEFAULT_STORAGE
    costs, guesses = cost_of_layers(layers, facts)
    pipeline = Pipeline(
        link_bytes_per_second=accelerator.link_bytes_per_second if link is None else parse_rate(link),
        storage_bytes_per_second=STORAGE_RATES[storage] if storage in STORAGE_RATES else parse_rate(storage),
        staging_bytes=options.staging_bytes,
        chunk_bytes=options.chunk_bytes,
        load_seconds=LOAD_SECONDS,
        group_seconds=GROUP_SECONDS,
    )
    forecast = make_forecast(
        plan_layers(checkpoint.layers, chunk_bytes=options.chunk_bytes),
        device_bytes,
        costs,
        accelerator,
        pipeline,
        budget_bytes=budget,
        tokens=_parse_tokens(tokens),
    )
    return LayerForecast(checkpoint.url, names, device_bytes, storage, forecast, (*notes, *guesses))


def parse_size(text: str) -> int:
    """Return the bytes of "24GB" (powers of 1000), "24GiB" (of 1024) or "24000000000"."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].lower() == "i":
        raise ValueError(f"expected a size such as 24GB, 24GiB or 24000000000, got {text!r}")
    return int(Decimal(found[1]) * _UNITS[found[2].lower()])


def parse_rate(text: str) -> float:
    """Return the bytes per second of "14GB/s", "14GB" or "14000000000"."""
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        kinds = ", ".join(STORAGE_RATES)
        raise ValueError(
            f"expected a rate such as 14GB/s or 14000000000 (for storage also {kinds}), got {text!r}"
        ) from None
    if not rate:
        raise ValueError(f"expected a rate above 0, got {text!r}")
    return float(rate)


def describe_forecast(found: LayerForecast) -> dict[str, object]:
    """Return a forecast as JSON can hold it."""
    described: dict[str, object] = {"url": found.url, **asdict(found.forecast), "storage": found.storage}
    oversized = found.forecast.oversized
    streamed = {} if oversized is None else dict(zip(oversized.slots.streamed, oversized.slots.slot_of, strict=True))
    described["layers"] = [
        {"name": name, "device_bytes": nbytes, "resident": number not in streamed, "slot": streamed.get(number)}
        for number, (name, nbytes) in enumerate(zip(found.names, found.device_bytes, strict=True))
    ]
    described["notes"] = list(found.notes)
    return described


def forecast_text(found: LayerForecast) -> str:
    """Return a forecast as text of at most 80 columns, but for long names."""
    forecast = found.forecast
    pipeline = forecast.pipeline
    kind = f" ({found.storage})" if found.storage in STORAGE_RATES else ""
    least = f"at least {say_bytes(forecast.least_overlapping_bytes)}"
    if forecast.least_bytes < forecast.least_overlapping_bytes:
        least += f", or {say_bytes(forecast.least_bytes)} if nothing need overlap"
    free = say_count(forecast.free_tokens, "token") if forecast.free_tokens < MOST_TOKENS else "any number of tokens"
    head = [
        printable(found.url),
        f"on {forecast.accelerator.title}, link {say_rate(pipeline.link_bytes_per_second)}, "
        f"storage {say_rate(pipeline.storage_bytes_per_second)}{kind}",
        "",
        f"weights      {say_bytes(forecast.weights_bytes)} on the device, in {say_count(len(found.names), 'layer')}; "
        f"they may take {say_bytes(forecast.budget_bytes)}",
        f"             {least}",
        f"transfer     X = {say_seconds(forecast.transfer_seconds)} for all weights",
        f"free prompt  T* = {free} compute while the weights travel",
    ]
    rows = [
        (
            say_count(prompt.tokens),
            say_seconds(prompt.compute_seconds),
            say_seconds(prompt.first_token_seconds),
            f"{prompt.over_best:.3f}",
        )
        for prompt in forecast.prompts
    ]
    parts = ["\n".join(head), table(("prompt", "compute C", "first token", "over max(X, C)"), rows)]
    if forecast.oversized is not None:
        parts.append(_oversized_text(found))
    notes = [
        "From a table of data sheets and a simulation: nothing was measured. The KV cache and everything but weights "
        "are left out.",
        *[note[0].upper() + note[1:] + "." for note in found.notes],
    ]
    parts.append("\n".join(_wrap(note) for note in notes))
    return "\n\n".join(parts)


def _oversized_text(found: LayerForecast) -> str:
    oversized = found.forecast.oversized
    assert oversized is not None
    slots = oversized.slots
    stays = ", ".join(_runs(found.names[unit] for unit in slots.resident)) or "nothing"
    alone = " (nothing overlaps)" if slots.slots == 1 else ""
    lines = [
        f"oversized    {say_bytes(oversized.resident_bytes)} stay, {say_count(len(slots.streamed), 'layer')} pass "
        f"through {say_count(slots.slots, 'slot')} of {say_bytes(slots.slot_bytes)}{alone}",
        f"a pass       streams {say_bytes(oversized.bytes_streamed)} in {say_seconds(oversized.pass_seconds)}, "
        f"{oversized.link_fraction:.1%} of the link",
        f"decode       {_say_per_second(oversized.passes_per_second)} passes/s, as many tokens/s at batch 1",
        textwrap.fill(
            printable(stays), _WIDTH, initial_indent="stays        ", subsequent_indent=" " * 13, break_long_words=False
        ),
    ]
    return "\n".join(lines)


def _say_per_second(count: float) -> str:
    return f"{count:.0f}" if count >= 100 else f"{count:#.3g}"


def _runs(names: Iterable[str]) -> list[str]:
    """Join numbered names that follow each other: "h.3" to "h.5" become "h.3-5"."""
    runs: list[tuple[str, int, int]] = []
    for name in names:
        prefix, _, last = name.rpartition(".")
        number = int(last) if last.isdecimal() and len(last) < 10 else -1
        if number >= 0 and runs and runs[-1][0] == prefix and runs[-1][2] == number - 1:
            runs[-1] = prefix, runs[-1][1], number
        else:
            runs.append((prefix, number, number) if number >= 0 else (name or "(rest)", -1, -1))
    texts = []
    shown = ""
    for prefix, first, last_number in runs:
        if first < 0:
            shown = ""
            texts.append(prefix)
            continue
        span = str(first) if first == last_number else f"{first}-{last_number}"
        texts.append(span if prefix == shown else f"{prefix}.{span}")
        shown = prefix
    return texts


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  ")


def _find(device: str) -> Accelerator:
    name = device.strip().lower()
    if name == "cpu":
        raise ValueError("--device cpu: a plan is for weights that travel over a link, and to a CPU there is none")
    if name not in ACCELERATORS:
        raise ValueError(f"--device {device}: not in the table; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def _check_budget(budget: int, layers: Sequence[Layer], device_bytes: Sequence[int]) -> None:
    needed = least_device_bytes(device_bytes, slots=1)
    if needed > budget:
        largest = max(range(len(layers)), key=device_bytes.__getitem__)
        raise ValueError(
            f"weights may take {say_bytes(budget)} ({budget} bytes) of the device; at least {needed} bytes are needed, "
            f"for layer {layers[largest].name}"
        )


def _parse_tokens(texts: Sequence[str]) -> list[int]:
    found = []
    for word in [word for text in texts for word in text.split(",")]:
        if not (word.strip().isdecimal() and len(word) < 12 and 1 <= int(word) <= _LONGEST_PROMPT):
            raise ValueError(f"--tokens: expected numbers from 1 to {_LONGEST_PROMPT}, such as 128,2048, got {word!r}")
        found.append(int(word))
    return found or list(_DEFAULT_TOKENS)


def _read_facts(checkpoint: Checkpoint) -> tuple[ModelFacts, list[str]]:
    """Read the config beside the checkpoint's first shard, if there is one."""
    if not checkpoint.shards:
        return ModelFacts(), []
    try:
        with closing(_open_config(checkpoint)) as source:
            path = source.url
            if source.nbytes > MAX_JSON_NBYTES:
                return ModelFacts(), [f"{path} is too long to be a config, and was not read"]
            config = json.loads(bytes(read_head(source, source.nbytes)))
    except FileNotFoundError:
        return ModelFacts(), []
    except PermissionError:  # what stores say of what is missing, too, where listing is denied
        if not is_remote(checkpoint.url):
            raise
        return ModelFacts(), []
    except (ValueError, RecursionError):
        return ModelFacts(), [f"{path} is not JSON, and was not used"]
    return (ModelFacts.from_config(config), []) if isinstance(config, dict) else (ModelFacts(), [])


def _open_config(checkpoint: Checkpoint) -> Source:
    if is_remote(checkpoint.url):
        return checkpoint.open_beside("config.json")
    return FileSource(str(Path(checkpoint.shards[0].url).parent / "config.json"))
