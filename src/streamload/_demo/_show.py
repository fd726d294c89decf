"""The whole demo: write or open a checkpoint, measure, show, judge.

Floor 6. `run_demo` is called by the command line and says everything through the function it is given.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from .. import _native
from .._engine import open_device
from .._machine import machine_facts, usable_cpus
from .._models import load_plainly, one_processor_for_copying, own_subject, transformers_subject
from .._trace import write_trace
from .._units import say_bytes, say_count, say_rate
from ..errors import StreamloadError
from ..testing import make_checkpoint
from ._measure import Place, measure_compute, run_safetensors, run_streamload
from ._picture import write_picture
from ._report import Figures, Samples
from ._scales import SCALES
from ._text import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .._models import Subject
    from ._measure import Run
    from ._timeline import Timeline

__all__ = ["DemoSettings", "run_demo"]

_COMPUTE_REPEAT = 5
_COMPUTE_TO_MOVE = 0.7  # C / X on the simulated link; argued in docs/decisions/2026-11-20-demo-room.md
_LEAST_MOVE_SECONDS = 0.05  # of the simulated link: below this, threads cost more than the link
_FOREIGN_TOKENS = 512
_LEAST_TOKENS = 32
_COMPUTE_SECONDS = (1.2, 1.6)  # a prompt is halved while a pass takes longer, doubled while two take less
_PROBE_BYTES = 256 << 20  # moved to measure the link
_USUAL, _STREAMED = "the usual way: load everything, then compute", "streamed: compute while the weights arrive"


class DemoError(StreamloadError):
    """Report that the demo cannot show what it was asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Choose what the demo shows.

    Attributes:
        directory: Where the checkpoint and the results go.
        model: A real checkpoint's directory; None writes one.
        device: "cpu", "cuda:N", or "auto" for a GPU if there is one.
        scale: "tiny", "small" or "large", of the checkpoint written.
        tokens: Length of the prompt; None chooses by scale.
        link_bytes_per_second: Rate of the simulated link; None chooses by the time of a pass.
        repeat: Pairs of timed runs.
        width: Columns of the drawing.
        unicode: False draws in ASCII.
        command: What the user typed, for the record.
    """

    directory: Path
    model: Path | None = None
    device: str = "auto"
    scale: str = "small"
    tokens: int | None = None
    link_bytes_per_second: float | None = None
    repeat: int = 3
    width: int = 100
    unicode: bool = True
    command: str = "streamload demo"


def run_demo(settings: DemoSettings, *, say: Callable[[str], None]) -> bool:
    """Run the demo and return whether everything was as it must be.

    Args:
        settings: What to show.
        say: Prints one text.

    Raises:
        DemoError: It cannot be shown; the message says why.
        SubjectError: The model cannot be computed with.
        OSError: The directory cannot be written.
    """
    device = settings.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and settings.link_bytes_per_second:
        raise DemoError("--link sets the rate of the simulated link; a GPU's link is real")
    place = Place(device, _open_device(device))
    settings.directory.mkdir(parents=True, exist_ok=True)
    with one_processor_for_copying() if device == "cpu" else nullcontext():
        return _run(settings, place, say)


def _run(settings: DemoSettings, place: Place, say: Callable[[str], None]) -> bool:
    device = place.torch_device
    subject = _subject(settings, device)
    plain = load_plainly(subject, device)
    if device == "cpu" and settings.tokens is None and settings.scale != "tiny":
        subject = _fit_prompt(subject, place, plain)
    say(f"{subject.title}: {say_bytes(subject.nbytes)}, prompt of {say_count(subject.tokens, 'token')}, on {device}")
    if _native.build_type != "release":
        say(f"NOTE: the native core is a {_native.build_type} build; its times mean nothing")

    expected, passes = measure_compute(subject, place, plain, _COMPUTE_REPEAT)
    del plain
    compute, simulated = Samples(tuple(passes)), None
    if device == "cpu":
        simulated = settings.link_bytes_per_second or _suitable_rate(subject.nbytes, compute.median)
        place = Place(device, _native.HostDevice(link_bytes_per_second=simulated))
        say(_explain_simulation(simulated, chosen=not settings.link_bytes_per_second))
    figures, timelines = _measure(subject, place, settings.repeat, expected, compute, simulated)

    say("\n" + draw(timelines, width=settings.width, unicode=settings.unicode))
    say("(drawn from one more pair of runs, with marks; the figures below are from runs without)\n")
    say("\n".join([figures.heading, "", *figures.lines(), ""]))
    _write(figures, timelines, settings, say)
    if figures.doubts:
        say(f"The machine was busy, so take these figures lightly and run again: {'; '.join(figures.doubts)}.\n")
    for failure in figures.failures:
        say(f"FAILED: {failure}")
    return not figures.failures


def _open_device(device: str) -> _native.HostDevice | _native.CudaDevice:
    try:
        return open_device(device)
    except ValueError as error:
        raise DemoError(str(error)) from error


def _subject(settings: DemoSettings, device: str) -> Subject:
    if settings.model is not None:
        return transformers_subject(settings.model, settings.tokens or _FOREIGN_TOKENS, device)
    scale = SCALES[settings.scale, device.partition(":")[0]]
    path = settings.directory / f"checkpoint-{settings.scale}-{scale.shape.dtype.lower()}"
    with _bar(scale.shape.nbytes, "checkpoint", in_bytes=True) as bar:
        make_checkpoint(path, scale.shape, shards=scale.shards, progress=bar.update)
    return own_subject(path, scale.shape, settings.tokens or scale.tokens)


def _fit_prompt(subject: Subject, place: Place, module: torch.nn.Module) -> Subject:
    """Halve or double the prompt until a pass takes about a second.

    Shorter, and the simulated link would have to be faster than this machine copies; longer, and the whole demo
    would not be over within a minute.
    """
    low, high = _COMPUTE_SECONDS
    while True:
        seconds = min(measure_compute(subject, place, module, 2)[1])
        if seconds > high and subject.tokens > _LEAST_TOKENS:
            subject = replace(subject, tokens=subject.tokens // 2)
        elif 2 * seconds < low and 2 * subject.tokens <= subject.most_tokens:
            subject = replace(subject, tokens=subject.tokens * 2)
        else:
            return subject


def _suitable_rate(nbytes: int, compute_seconds: float) -> float:
    """Return the rate at which C is 0.7 of X, to two digits."""
    rate = nbytes / max(compute_seconds / _COMPUTE_TO_MOVE, _LEAST_MOVE_SECONDS)
    return float(f"{rate:.1e}")


def _explain_simulation(rate: float, *, chosen: bool) -> str:
    why = (
        "chosen so that one pass computes for 0.7 times as long as\nthe weights travel: what a 16-bit model meets "
        "with a prompt of about 7,500 tokens on an H100 (55 GB/s)."
        if chosen
        else "as asked for."
    )
    return (
        f"No GPU is used, so the link to it is SIMULATED: host memory, filled at {say_rate(rate)}, {why}\n"
        "Both ways of loading go over this same link, through the same engine. In both, and in C below, the\n"
        f"model computes on {torch.get_num_threads()} of {usable_cpus()} processors, since a GPU would not compute "
        "on those that copy."
    )


def _measure(
    subject: Subject,
    place: Place,
    repeat: int,
    expected: torch.Tensor,
    compute: Samples,
    simulated: float | None,
) -> tuple[Figures, list[Timeline]]:
    probe_nbytes = min(subject.nbytes, _PROBE_BYTES)
    link = Samples(tuple(place.device.measure_link(probe_nbytes, 5)))
    runs = _run_all(subject, place, repeat, with_safetensors=simulated is None)
    every = [run for part in runs.values() for run in part]
    timelines = [run.timeline for run in every if run.timeline is not None]
    figures = Figures(
        subject=subject.title,
        nbytes=subject.nbytes,
        tokens=subject.tokens,
        device=place.torch_device,
        simulated_link=simulated,
        link_bytes_per_second=probe_nbytes / link.median,
        compute=compute,
        usual=_samples(runs["usual"]),
        streamed=_samples(runs["streamed"]),
        safetensors=_samples(runs["safetensors"]) if runs["safetensors"] else None,
        bits_equal=all(_same_bits(run.output, expected) for run in every),
        first_layer_arrived=_arrived_at_first_layer(timelines[-1], subject.nbytes),
        first_layer_most=subject.first_layer_most,
        residue=tuple(dict.fromkeys(left for run in every for left in run.residue)),
    )
    return figures, timelines


def _run_all(subject: Subject, place: Place, repeat: int, *, with_safetensors: bool) -> dict[str, list[Run]]:
    """Run every way `repeat` times, one after the other in each round, then the two marked runs."""
    runs: dict[str, list[Run]] = {"usual": [], "streamed": [], "safetensors": [], "marked": []}
    with _bar(repeat * (2 + with_safetensors) + 2, "runs") as bar:
        for _ in range(repeat):
            runs["usual"].append(run_streamload(subject, place, wait_first=True))
            bar.update()
            runs["streamed"].append(run_streamload(subject, place, wait_first=False))
            bar.update()
            if with_safetensors:
                runs["safetensors"].append(run_safetensors(subject, place))
                bar.update()
        for wait_first, title in ((True, _USUAL), (False, _STREAMED)):
            runs["marked"].append(run_streamload(subject, place, wait_first=wait_first, title=title))
            bar.update()
    return runs


def _samples(runs: list[Run]) -> Samples:
    return Samples(tuple(run.first_token_seconds for run in runs))


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left.view(torch.uint8), right.view(torch.uint8))


def _arrived_at_first_layer(timeline: Timeline, nbytes: int) -> float:
    """Return which part of the bytes had arrived when the first numbered layer began to compute."""
    numbered = [layer for layer in timeline.layers if layer.rpartition(".")[2].isdigit()]
    began = timeline.began(numbered[0] if numbered else timeline.layers[0])
    return timeline.bytes_arrived(began) / nbytes


def _write(figures: Figures, timelines: list[Timeline], settings: DemoSettings, say: Callable[[str], None]) -> None:
    facts = machine_facts(native_build=_native.build_type)
    note = (
        f"{figures.subject}, {say_bytes(figures.nbytes)}, prompt of {say_count(figures.tokens, 'token')}; "
        f"{figures.link_words}.\n"
        "The heading's times are medians; the bars are from one more pair of runs, with marks. "
        f"Both ways over the same link; outputs {'bit-equal' if figures.bits_equal else 'DIFFER'}; "
        f"{facts.processor}, {facts.cpus} CPUs, {facts.gpu or 'no GPU'}."
        f"{' The machine was busy: figures are unsteady.' if figures.doubts else ''}"
    )
    picture, trace, result = (settings.directory / name for name in ("timeline.png", "trace.json", "result.json"))
    write_trace([timeline.as_trace() for timeline in timelines], trace)
    result.write_text(json.dumps(figures.as_dict(facts, settings.command), indent=2) + "\n", encoding="utf-8")
    try:
        write_picture(timelines, picture, heading=figures.heading, note=note)
    except ModuleNotFoundError as error:
        say(f"no picture, for {error.name} is not installed: pip install 'streamload[demo]'")
    else:
        say(f"written: {picture}")
    say(f"written: {trace} (open it at https://ui.perfetto.dev), {result}")
    if settings.model is None:
        size = say_bytes(figures.nbytes)
        say(f"the checkpoint ({size}) stays in {settings.directory} for the next run; delete it when you are done")


@contextmanager
def _bar(total: int, title: str, *, in_bytes: bool = False) -> Iterator[tqdm[None]]:
    """Show progress on stderr, where stderr is a terminal."""
    units = {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if in_bytes else {"unit": "run"}
    with tqdm(total=total, desc=title, leave=False, disable=None, **units) as bar:
        yield bar
