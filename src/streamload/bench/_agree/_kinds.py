"""What each kind of result holds, by its JSON: figures with their samples, and under what conditions they were taken.

Part of `bench._agree`; pure. The tests hold it to the schemas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._samples import SampledFigure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Content = Mapping[str, Any]

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Describe a kind of result.

    Attributes:
        conditions: Keys of what two results have to have in common before their figures are of the same thing.
        figures: Yields its figures; `KeyError` and the like where it is not such a result.
    """

    conditions: tuple[str, ...]
    figures: Callable[[Content], Iterator[SampledFigure]]


def _engine(result: Content) -> Iterator[SampledFigure]:
    yield from _scores(result["scores"], result["nbytes"])
    yield _figure("fixed cost", result["fixed_cost_seconds"], "s")


def _many_tensors(result: Content) -> Iterator[SampledFigure]:
    for side, nbytes in zip(("few", "many"), result["nbytes"], strict=True):
        yield from _scores(result[side], nbytes)
    planning = result["planning"]
    yield _figure("open", planning["open_seconds"], "s")
    yield _figure("plan", planning["plan_seconds"], "s")


def _compare(result: Content) -> Iterator[SampledFigure]:
    for side in result["sides"].values():
        yield from _scores(side["scores"], result["nbytes"], f"{side['cache']}: ")


def _figures(result: Content) -> Iterator[SampledFigure]:
    for figure in result["figures"]:
        yield from _scores([figure["score"]], figure["nbytes"])


def _source(result: Content) -> Iterator[SampledFigure]:
    for score in result["scores"]:
        for state in ("idle", "busy"):
            name = f"{score['name']}{', beside busy Python' if state == 'busy' else ''}"
            yield _moved(name, [transfer["seconds"] for transfer in score[state]], result["nbytes"])


def _from_pretrained(result: Content) -> Iterator[SampledFigure]:
    for way in ("stock", "streamed"):
        times = result[way]
        for name in ("return_seconds", "first_token_seconds", "resident_seconds", "copied_seconds"):
            yield _figure(f"{way}: {_words(name)}", times[name], "s")
        yield _figure(f"{way}: peak memory", times["peak_memory_bytes"], "B")
    for name, ratios in result["ratios"].items():
        yield _figure(f"ratio: {_words(name)}", ratios, "")


def _overlap(result: Content) -> Iterator[SampledFigure]:
    """Ratios: how long a prompt is follows from how fast the machine computed, and with it every time."""
    count = len(result["cold"])
    for number, case in enumerate(result["cold"], 1):
        yield _figure(f"first token over max(X, C), prompt {number} of {count}", case["ratios"], "")
    yield _figure("first token after sleep over max(X, C)", result["wake"]["ratios"], "")
    oversized = result["oversized"]
    passed = [nbytes / 1e9 for nbytes in oversized["decode_bytes"]]
    yield _figure("oversized, 1 token a pass", _over(oversized["decode_seconds"], passed), "s/GB")
    yield _figure("oversized, over resident", _over(oversized["prompt_seconds"], oversized["resident_seconds"]), "")
    yield _figure("once resident, streamed / plain", result["steady"]["ratios"], "")
    yield _figure("once resident, plain / plain", result["steady"]["controls"], "")
    for peer in result["peers"]:
        yield _figure(f"{peer['name']}, first token", peer["first_token_seconds"], "s")
        yield _figure(f"{peer['name']}, a pass", peer["pass_seconds"], "s")


def _scores(scores: Sequence[Content], nbytes: float, before: str = "") -> Iterator[SampledFigure]:
    for score in scores:
        yield _moved(f"{before}{score['name']}", score["seconds"], nbytes)


def _moved(name: str, seconds: Sequence[float], nbytes: float) -> SampledFigure:
    """Return the seconds for 10^9 bytes: two runs of a benchmark may choose to move more bytes or fewer."""
    return _figure(name, [each / (nbytes / 1e9) for each in seconds], "s/GB")


def _figure(name: str, samples: Sequence[float], unit: str) -> SampledFigure:
    return SampledFigure(name, tuple(map(float, samples)), unit)


def _over(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [top / bottom for top, bottom in zip(over, under, strict=True)]


def _words(name: str) -> str:
    return name.removesuffix("_seconds").replace("_", " ")


_MODEL: Final = ("nbytes", "tensors", "device", "rounds")

KINDS: Final[Mapping[str, Kind]] = {
    "bench engine": Kind((*_MODEL, "cache", "peer_settings"), _engine),
    "bench many tensors": Kind(_MODEL, _many_tensors),
    "bench compare": Kind((*_MODEL, "peer_settings"), _compare),
    "bench link": Kind(("device", "rounds"), _figures),
    "bench storage": Kind(("where", "store", "files", "cache", "rounds"), _figures),
    "bench source": Kind(("url", "nbytes", "objects", "range_bytes", "connections", "rounds", "served_here"), _source),
    "bench from_pretrained": Kind(
        ("model", "dtype", "nbytes", "tensors", "device", "tokens", "pairs", "cache"), _from_pretrained
    ),
    "bench overlap": Kind(
        (
            *("model", "layers", "nbytes", "device", "simulated_link", "simulated_compute", "threads", "cache"),
            "rounds",
        ),
        _overlap,
    ),
}
"""By what a result's "kind" says."""
