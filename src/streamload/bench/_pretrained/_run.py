"""The whole benchmark of `from_pretrained`: pairs of processes, stock and streamed, by turns.

Part of `bench._pretrained`; needs torch and transformers.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ... import _native
from ..._engine import open_device
from ..._machine import machine_facts
from ..._trace import Trace
from ...testing import LlamaShape, make_checkpoint
from .._forks import Forks
from .._overlap._place import Place, open_files
from .._result import BenchError, cache_state
from ._process import CHECK, RESIDENT, STOCK, STREAMED, TIMELINE, TOKEN, Load, LoadRequest
from ._result import LoadTimes, PretrainedBench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._overlap._place import Files
    from .._progress import BenchProgress
    from .._settings import PretrainedSettings

__all__ = ["run"]

_OWN_SHAPE = LlamaShape(
    layers=20, hidden=1024, heads=16, kv_heads=16, intermediate=2816, vocab=8192, dtype="F32"
)  # about 1 GB, as the engine benchmark's
_SMALL_SHAPE = LlamaShape(layers=1, hidden=32, heads=2, kv_heads=2, intermediate=32, vocab=32, dtype="F32")
_TOKENS = 16
_WAYS = (STOCK, STREAMED)


@dataclass(slots=True)
class _Course:
    """Run processes over one checkpoint, and gather what they found."""

    path: Path
    files: Files
    forks: Forks
    nbytes: int
    device: str
    scratch: Path
    progress: Callable[[], object]
    cached: list[float | None] = field(default_factory=list)
    ceiling_seconds: list[float] = field(default_factory=list)

    def load(self, way: str, goal: str) -> Load:
        """Load it once in a process of its own.

        Raises:
            BenchError: The process refused, or failed.
        """
        return Load(**self._run(way, goal))

    def trace(self, way: str, token: int | None) -> Trace:
        """Load it once more, with marks; what a timed load computed is expected.

        Raises:
            BenchError: As `load`, or the first token was another one.
        """
        found = self._run(way, TIMELINE)
        if found["token"] != token:
            raise BenchError(f"the {way} load with marks gave another first token: {found['token']}, not {token}")
        return Trace.from_dict(found["timeline"])

    def _run(self, way: str, goal: str) -> dict[str, Any]:
        file = self.scratch / f"{way}.json"
        file.unlink(missing_ok=True)
        request = LoadRequest(
            path=str(self.path),
            way=way,
            goal=goal,
            device=self.device,
            tokens=_TOKENS,
            small=str(self.scratch / "small"),
            touched_bytes=self.nbytes if self.device == "cpu" else 0,
        )
        self.cached.append(self.files.cached())
        said = self.forks.run(json.dumps(asdict(request)), file)
        if not file.exists():
            raise BenchError(f"a {way} load failed: {said}")
        found: dict[str, Any] = json.loads(file.read_text())
        if "refused" in found:
            raise BenchError(found["refused"])
        self.progress()
        return found

    def time_ceiling(self) -> None:
        """Move all weights by plain calls, at the lower of the rates of files and link."""
        rate = self.files.storage_rate()
        if self.device != "cpu":
            rate = min(rate, Place(self.device, open_device(self.device)).link_rate())
        self.ceiling_seconds.append(self.nbytes / rate)

    def logits(self, way: str) -> torch.Tensor:
        """Return what the last load that was checked computed."""
        found: torch.Tensor = torch.load(self.scratch / f"{way}.logits", weights_only=True)
        return found


def run(settings: PretrainedSettings, progress: BenchProgress) -> PretrainedBench:
    """Do what `run_pretrained_bench` says."""
    try:
        open_device(settings.device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    pairs = settings.repeat
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-pretrained-")))
        path = _written(scratch / "checkpoint", progress) if settings.path is None else Path(settings.path)
        make_checkpoint(scratch / "small", _SMALL_SHAPE, shards=1)
        files = open_files(path)
        nbytes = sum(tensor.nbytes for tensor in files.tensors)
        with progress.stage("measuring", 2 * (2 + 2 * pairs), "load") as advance:
            forks = stack.enter_context(Forks(Load.__module__))
            course = _Course(path, files, forks, nbytes, settings.device, scratch, advance)
            checked = {way: course.load(way, CHECK) for way in _WAYS}  # which warms the page cache too
            output = _compare(checked, course)
            course.cached.clear()
            token, resident = _race(course, pairs)
            cached = tuple(course.cached)
            timelines = tuple(course.trace(way, checked[way].token) for way in _WAYS)
    same = {load.token for load in [*checked.values(), *token[STOCK], *token[STREAMED]]}
    if len(same) > 1:
        raise BenchError(f"loads gave different first tokens: {sorted(map(str, same))}")
    return PretrainedBench(
        model=checked[STOCK].title,
        dtype=checked[STOCK].dtype,
        nbytes=nbytes,
        tensors=len(files.tensors),
        device=settings.device,
        tokens=_TOKENS,
        pairs=pairs,
        cache=cache_state(asked_cold=False, cached=cached),
        cached=cached,
        output=output,
        ceiling_seconds=tuple(course.ceiling_seconds),
        stock=_times(checked[STOCK], token[STOCK], resident[STOCK]),
        streamed=_times(checked[STREAMED], token[STREAMED], resident[STREAMED]),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
        timelines=timelines,
    )


def _written(path: Path, progress: BenchProgress) -> Path:
    with progress.stage("checkpoint", _OWN_SHAPE.nbytes, "B") as advance:
        return make_checkpoint(path, _OWN_SHAPE, progress=advance)


def _race(course: _Course, pairs: int) -> tuple[dict[str, list[Load]], dict[str, list[Load]]]:
    """Load in pairs, whoever comes first taking turns; by goal and way."""
    found: dict[str, dict[str, list[Load]]] = {goal: {way: [] for way in _WAYS} for goal in (TOKEN, RESIDENT)}
    for number in range(pairs):
        course.time_ceiling()
        for turn, goal in enumerate((TOKEN, RESIDENT)):
            for way in _WAYS if (number + turn) % 2 else _WAYS[::-1]:
                found[goal][way].append(course.load(way, goal))
    return found[TOKEN], found[RESIDENT]


def _compare(checked: dict[str, Load], course: _Course) -> str:
    """Return how equal the logits are.

    Mapped weights lie at addresses that are not aligned, where matrix products may round in another way.

    Raises:
        BenchError: Weights or logits differ.
    """
    if checked[STOCK].weights != checked[STREAMED].weights:
        raise BenchError("the streamed weights are not those of the stock load; no figure is worth that")
    stock, streamed = (course.logits(way) for way in _WAYS)
    if torch.equal(stock, streamed):
        return "equal"
    if checked[STOCK].token != checked[STREAMED].token or not torch.allclose(
        stock.float(), streamed.float(), rtol=1e-2, atol=1e-2 * float(stock.float().abs().max())
    ):
        raise BenchError("the streamed model's logits are not those of the stock one; no figure is worth that")
    return "equal to rounding"


def _times(checked: Load, token: Sequence[Load], resident: Sequence[Load]) -> LoadTimes:
    return LoadTimes(
        return_seconds=tuple(load.return_seconds for load in [*token, *resident]),
        first_token_seconds=tuple(load.first_token_seconds or 0.0 for load in token),
        resident_seconds=tuple(load.resident_seconds for load in resident),
        copied_seconds=_known(resident, "copied_seconds"),
        peak_memory_bytes=tuple(map(int, _known(token, "peak_memory_bytes"))),
        private_peak_bytes=checked.private_peak_bytes,
        device_peak_bytes=tuple(map(int, _known(token, "device_peak_bytes"))),
    )


def _known(loads: Sequence[Load], name: str) -> tuple[float, ...]:
    found = [getattr(load, name) for load in loads]
    return () if None in found else tuple(found)
