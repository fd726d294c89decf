"""Run the source benchmark: every client in turn, each run in a process of its own.

Part of `bench._source`.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ... import _native
from ..._checkpoint import open as open_checkpoint
from ..._machine import machine_facts
from ..._sources import HttpSource
from ..._trace import Trace
from ..._units import say_bytes
from ...options import StreamOptions
from ...testing import LlamaShape, make_checkpoint
from .._forks import Forks
from .._result import BenchError
from ._clients import CEILING, FALLBACK, LOAD_AFTER, NAMES, OURS
from ._place import serve
from ._process import Transfer, TransferRequest
from ._result import SourceBench, SourceScore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..._sources import Source
    from .._progress import BenchProgress
    from .._settings import SourceSettings

__all__ = ["run"]

_THOROUGH_SHAPE = LlamaShape(
    layers=26, hidden=1024, heads=16, kv_heads=16, intermediate=2816, vocab=8192, dtype="F32"
)  # about 1.4 GB
_SHAPE = replace(_THOROUGH_SHAPE, layers=13)
_SHARDS = 4
_BUCKET, _PREFIX = "bucket", "model"
_IMPORTED = "streamload.bench._source._clients._ours"  # torch, and all that streamload's own clients import
_SECONDS = 120.0  # after which a client is given up


@dataclass(slots=True)
class _Course:
    """Run processes over one checkpoint, and gather what they found."""

    request: TransferRequest
    forks: Forks
    scratch: Path
    progress: Callable[[], object]
    out: dict[str, str] = field(default_factory=dict)  # of the running, by client: why

    def trace(self) -> Trace:
        """Let streamload move everything once more, and return what it read and copied when."""
        file = self.scratch / "timeline.json"
        self.move(OURS, busy=False, check=False, trace_file=file)
        return Trace.from_dict(json.loads(file.read_text(encoding="utf-8")))

    def move(self, client: str, *, busy: bool, check: bool, trace_file: Path | None = None) -> Transfer | None:
        """Let a client move everything once; None if it does not take part.

        Raises:
            BenchError: streamload or the ceiling failed, or streamload's bytes are wrong.
        """
        if client in self.out:
            self.progress()
            return None
        content = {**asdict(self.request), "client": client, "busy": busy, "check": check}
        content["trace_file"] = "" if trace_file is None else str(trace_file)
        file = self.scratch / "transfer.json"
        file.unlink(missing_ok=True)
        said = self.forks.run(json.dumps(content), file, _SECONDS)
        self.progress()
        found = Transfer(**json.loads(file.read_text())) if file.exists() else Transfer(cannot_run=f"{said:.200}")
        why = found.cannot_run or found.wrong
        if why and client.startswith("streamload"):
            raise BenchError(f"{client}: {why}; no rate is worth that")
        if why:
            self.out[client] = why
        return None if why else found


def run(settings: SourceSettings, progress: BenchProgress) -> SourceBench:
    """Do what `run_source_bench` says."""
    with ExitStack() as stack:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-source-", dir=memory)))
        url, storage_options = settings.url, dict(settings.storage_options)
        if url is None:
            url, storage_options = _serve_own(stack, _own_shape(settings), scratch, progress)
        request = _describe(url, storage_options, settings, scratch)
        clients = [name for name in NAMES if settings.peers or not _is_peer(name)]
        runs = settings.repeat * (len(clients) + len(_busy(clients, settings))) + 1
        with progress.stage("measuring", runs, "transfer") as advance:
            course = _Course(request, stack.enter_context(Forks(Transfer.__module__, _IMPORTED)), scratch, advance)
            return _race(course, clients, settings, url)


def _own_shape(settings: SourceSettings) -> LlamaShape:
    return _THOROUGH_SHAPE if settings.thorough else _SHAPE


def _serve_own(
    stack: ExitStack, shape: LlamaShape, scratch: Path, progress: BenchProgress
) -> tuple[str, dict[str, object]]:
    """Make a checkpoint and a server that speaks as much S3 as reading takes."""
    directory = scratch / "objects" / _BUCKET / _PREFIX
    with progress.stage("checkpoint", shape.nbytes, "B") as advance:
        make_checkpoint(directory, shape, shards=_SHARDS, progress=advance)
    (scratch / "objects").chmod(0o755)
    scratch.chmod(0o755)  # for the server's own user
    server = scratch / "server"
    server.mkdir()
    endpoint = stack.enter_context(serve(scratch / "objects", server))
    options: dict[str, object] = {"key": "reader", "secret": "secret", "endpoint_url": endpoint}
    return f"s3://{_BUCKET}/{_PREFIX}/model.safetensors.index.json", options


def _describe(
    url: str, storage_options: Mapping[str, object], settings: SourceSettings, scratch: Path
) -> TransferRequest:
    """Open the checkpoint, and read it once to know what right bytes are."""
    with open_checkpoint(url, storage_options=dict(storage_options)) as checkpoint:
        shards = checkpoint.shards
        starts = [min([t.start for t in checkpoint.values() if t.shard == k]) for k in range(len(shards))]
        sums: list[int] = []
        for shard, start in zip(shards, starts, strict=True):
            data = memoryview(bytearray(shard.nbytes - start))
            if shard.source.read_into(start, data) != len(data):
                raise BenchError(f"{shard.url}: ended before its {shard.nbytes} bytes")
            sums.append(zlib.crc32(data))
        parts = [urlsplit(shard.url) for shard in shards]
        return TransferRequest(
            client="",
            url=url,
            storage_options=storage_options,
            keys=tuple((part.netloc, part.path.lstrip("/")) for part in parts),
            signed=tuple(_signed(shard.source) for shard in shards),
            nbytes=tuple(shard.nbytes for shard in shards),
            weights_at=tuple(starts),
            sums=tuple(sums),
            range_bytes=settings.range_bytes,
            connections=settings.connections,
            scratch=str(scratch),
            busy=False,
            check=False,
        )


def _signed(source: Source) -> str:
    """Return what is asked for, signature and all; nothing where the source speaks no HTTP."""
    return source.request()[0] if isinstance(source, HttpSource) else ""


def _race(course: _Course, clients: list[str], settings: SourceSettings, url: str) -> SourceBench:
    found: dict[tuple[str, bool], list[Transfer]] = {(name, busy): [] for name in clients for busy in (False, True)}
    for number in range(settings.repeat):
        for busy, everyone in ((False, clients), (True, _busy(clients, settings))):
            turn = number % max(len(everyone), 1)
            for name in [*everyone[turn:], *everyone[:turn]]:
                moved = course.move(name, busy=busy, check=number == 0)  # after the clock has stopped
                if moved is not None:
                    found[name, busy].append(moved)
    return SourceBench(
        url=url,
        nbytes=sum(course.request.nbytes),
        objects=len(course.request.nbytes),
        range_bytes=settings.range_bytes,
        connections=settings.connections,
        staging_cap_bytes=StreamOptions().staging_bytes,
        rounds=settings.repeat,
        served_here=settings.url is None,
        scores=tuple(_score(name, course.out.get(name, ""), found) for name in clients),
        left_out=_left_out(clients, settings),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
        timelines=(course.trace(),),
    )


def _is_peer(name: str) -> bool:
    return name != CEILING and not name.startswith("streamload")


def _busy(clients: list[str], settings: SourceSettings) -> list[str]:
    """Return who is measured beside a busy main thread."""
    return [name for name in clients if settings.busy and (settings.thorough or not _is_peer(name))]


def _left_out(clients: list[str], settings: SourceSettings) -> tuple[str, ...]:
    """Say what a thorough run measures beside this."""
    if settings.thorough:
        return ()
    sizes = [say_bytes(shape.nbytes) for shape in (_SHAPE, _THOROUGH_SHAPE)]
    size = [] if settings.url is not None else [f"a checkpoint of {sizes[0]}, not {sizes[1]}"]
    others = len([name for name in clients if settings.busy and _is_peer(name)])
    return (*size, *(["others not beside a busy main thread"] if others else []))


def _score(name: str, cannot_run: str, found: Mapping[tuple[str, bool], list[Transfer]]) -> SourceScore:
    role = "peer" if _is_peer(name) else "ceiling" if name == CEILING else "streamload"
    idle, busy = (tuple(found[name, with_python]) if not cannot_run else () for with_python in (False, True))
    return SourceScore(
        name=name,
        role=role,
        kind="whole load" if name == LOAD_AFTER else "fallback" if name == FALLBACK else "ranges",
        idle=idle,
        busy=busy,
        cannot_run=cannot_run,
    )
