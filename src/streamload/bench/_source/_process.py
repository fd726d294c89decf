"""Move all objects once with one client, in a process of its own.

Part of `bench._source`. The request comes as JSON, the result goes to a file as JSON.
"""

from __future__ import annotations

import gc
import json
import resource
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..._machine import peak_bytes, restart_peak
from .._rounds import CannotRun, reason
from ._clients import CEILING, get_ready
from ._clients._course import Course, Moved, touched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Transfer", "TransferRequest", "main", "transfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """Say who moves what.

    Attributes:
        client: A name of `_clients.NAMES`.
        url: The checkpoint, as streamload opens it.
        storage_options: As fsspec takes them.
        keys: Each object's bucket and key.
        signed: What is asked for, of each object; empty where that is no HTTP.
        nbytes: Length of each object in bytes.
        weights_at: Where in each object its weights begin.
        sums: CRC-32 of each object's weights.
        range_bytes: Length of a request where the client leaves it open.
        connections: Requests in flight, likewise.
        scratch: A directory in memory.
        busy: Whether this process's main thread runs Python all the while.
        check: Whether to compare the bytes.
        trace_file: Where to write, as JSON, what was read and copied when; empty: nowhere.
    """

    client: str
    url: str
    storage_options: Mapping[str, object]
    keys: tuple[tuple[str, str], ...]
    signed: tuple[str, ...]
    nbytes: tuple[int, ...]
    weights_at: tuple[int, ...]
    sums: tuple[int, ...]
    range_bytes: int
    connections: int
    scratch: str
    busy: bool
    check: bool
    trace_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Hold what one client did once.

    Attributes:
        seconds: Until every byte was in memory.
        cpu_seconds: Processor time of this process meanwhile, less what a busy main thread used of it.
        page_faults: Pages that the kernel had to provide meanwhile.
        peak_memory_bytes: Most memory above that at the start; None where unknown.
        first_layer_seconds: Until a first layer could be used; None: not before the end.
        stats: What streamload's engine says; None for others.
        wrong: What is wrong with the bytes; empty when they are right or were not compared.
        cannot_run: Why the client did not take part; empty when it did.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    page_faults: int = 0
    peak_memory_bytes: int | None = None
    first_layer_seconds: float | None = None
    stats: Mapping[str, float] | None = None
    wrong: str = ""
    cannot_run: str = ""


def transfer(request: TransferRequest) -> Transfer:
    """Do what is asked for, once.

    Raises:
        CannotRun: The client cannot take part.
    """
    plain = request.client == CEILING or not request.client.startswith(("streamload", "download", "runai"))
    course = Course(
        url=request.url,
        storage_options=request.storage_options,
        keys=tuple((bucket, key) for bucket, key in request.keys),
        signed=tuple(request.signed),
        nbytes=tuple(request.nbytes),
        range_bytes=request.range_bytes,
        connections=request.connections,
        scratch=request.scratch,
        targets=[touched(nbytes) for nbytes in request.nbytes] if plain else [],
        traced=bool(request.trace_file),
    )
    move = get_ready(request.client, course)
    gc.collect()
    restart_peak()
    before, began = peak_bytes(), resource.getrusage(resource.RUSAGE_SELF)
    moved, seconds, spun = _run_beside_python(move) if request.busy else (*_run(move), 0.0)
    ended, peak = resource.getrusage(resource.RUSAGE_SELF), peak_bytes()
    if moved.trace is not None:
        Path(request.trace_file).write_text(json.dumps(moved.trace.as_dict()), encoding="utf-8")
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return Transfer(
        seconds=seconds,
        cpu_seconds=cpu - spun,
        page_faults=ended.ru_minflt - began.ru_minflt,
        peak_memory_bytes=None if peak is None or before is None else peak - before,
        first_layer_seconds=moved.first_layer_seconds,
        stats=moved.stats,
        wrong=_find_wrong(request, moved) if request.check else "",
    )


def _run(move: Callable[[], Moved]) -> tuple[Moved, float]:
    began = time.perf_counter()
    moved = move()
    return moved, time.perf_counter() - began


def _run_beside_python(move: Callable[[], Moved]) -> tuple[Moved, float, float]:
    """Run it on another thread while this one holds the GIL as much as it can, as a server at work does."""
    began = time.thread_time()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_run, move)
        count = 0
        while not running.done():
            for _ in range(1000):
                count += 1
        return *running.result(), time.thread_time() - began


def _find_wrong(request: TransferRequest, moved: Moved) -> str:
    if moved.objects is not None:
        found = [zlib.crc32(data[at:]) for data, at in zip(moved.objects, request.weights_at, strict=True)]
    elif moved.sums is not None:
        found = moved.sums()
    else:
        return ""
    wrong = [key for (_, key), sum_, got in zip(request.keys, request.sums, found, strict=True) if sum_ != got]
    return f"the bytes of {', '.join(wrong)} came out wrong" if wrong else ""


def main(text: str, file: Path) -> None:
    """Do a transfer, and write what came of it.

    Args:
        text: A `TransferRequest` as JSON.
        file: Where the `Transfer` goes, as JSON.
    """
    request = TransferRequest(**json.loads(text))
    try:
        found = transfer(request)
        if found.stats is not None:
            found = replace(found, stats=dict(found.stats))
    except CannotRun as error:
        found = Transfer(cannot_run=str(error))
    except Exception as error:  # a process's top: whatever a client raises is why it did not take part
        if request.client.startswith("streamload"):
            raise
        found = Transfer(cannot_run=reason(error))
    file.write_text(json.dumps(asdict(found)), encoding="utf-8")
