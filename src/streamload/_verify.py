"""Sum every byte of a checkpoint at rest: make its manifest, or hold it to the one it has.

Floor 4; knows checkpoints and runs the engine, needs no torch and no memory for weights: the plan is one of reads
alone, shard after shard, and the engine sums what passes. The words for a person are `cli`'s.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

from ._checkpoint import open as open_checkpoint
from ._checksums import UNKNOWN, combine, manifest_path, plan_sums, read_manifest, write_manifest
from ._engine import CopyEngine, open_device
from ._format import Manifest, ShardSums, TensorSum
from ._plan import make_reading_plan
from ._sources import is_remote, local_path, redact
from .errors import FormatError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ._checkpoint import Checkpoint
    from ._engine import Ticket
    from ._format import TensorInfo
    from .options import StreamOptions

__all__ = ["Fault", "Summed", "Verdict", "make_manifest", "verify"]

_REPORT_SECONDS: Final = 0.1  # between two updates of the progress bar


@dataclass(frozen=True, slots=True)
class Summed:
    """Say what `make_manifest` did.

    Attributes:
        manifest: Path of the manifest.
        shards: How many files were read.
        tensors: How many tensors are in them.
        nbytes: Bytes read: the whole files.
        seconds: How long reading and summing took.
    """

    manifest: str
    shards: int
    tensors: int
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Name one thing that is not as the manifest says.

    Attributes:
        shard: The shard's path below the checkpoint's directory; empty where the checkpoint cannot be opened.
        tensor: The tensor, None where the fault is in none.
        start: First byte in question, in the shard.
        end: One past the last.
        text: What is wrong, got against expected.
    """

    shard: str
    tensor: str | None
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say what `verify` found.

    Attributes:
        url: The checkpoint, as it was given.
        manifest: Path of the manifest it was held to.
        shards: How many files were read.
        tensors: How many tensors were compared.
        nbytes: Bytes read.
        seconds: How long reading and summing took.
        faults: What is wrong, in the order of the files; empty when everything is right.
    """

    url: str
    manifest: str
    shards: int
    tensors: int
    nbytes: int
    seconds: float
    faults: tuple[Fault, ...]

    @property
    def right(self) -> bool:
        """Whether every byte is the one the manifest was made of."""
        return not self.faults


def make_manifest(
    url: str,
    *,
    manifest: str | None = None,
    options: StreamOptions | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> Summed:
    """Sum every byte of a checkpoint and write its manifest, over an older one.

    A single file may be one shard of several: what a manifest that is there says of the others stays in it.

    Args:
        url: The checkpoint, as `streamload.open` takes it.
        manifest: Where to write. None: beside the shards.
        options: How to read.
        storage_options: For the store of a URL.

    Raises:
        ValueError: Of a URL without `manifest`: nothing is written into a store.
        ValueError, FileNotFoundError, FormatError, SourceError: As `streamload.open`.
        FormatError: What stands at the manifest's path is no regular file; or, for a single file, no valid manifest,
            or one that has a tensor of this file in another shard.
        ChangedError: A file changed while it was read.
        OSError: The manifest cannot be read or written.
    """
    if manifest is None and is_remote(url):
        raise ValueError(f"{redact(url)}: nothing is written into a store; say where the manifest goes (--manifest)")
    path = manifest_path(url) if manifest is None else manifest
    begin = perf_counter()
    with open_checkpoint(url, storage_options=storage_options, options=options) as checkpoint:
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - as below
            # write_manifest would say so too, once everything has been read.
            raise FormatError(f"{path}: is not a regular file; a manifest is not written over it")
        others = _other_shards(checkpoint, path) if _is_one_file(url) else {}
        shards = _sum_shards(checkpoint, options)
        tensors = len(checkpoint)
    seconds = perf_counter() - begin
    write_manifest(path, Manifest({**others, **shards}))
    return Summed(path, len(shards), tensors, sum([shard.nbytes for shard in shards.values()]), seconds)


def verify(
    url: str,
    *,
    manifest: str | None = None,
    options: StreamOptions | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> Verdict:
    """Read every byte of a checkpoint once and compare it with its manifest.

    A directory or an index must hold every shard of the manifest; a single file is held to its own part alone. A
    checkpoint that cannot be opened although it is there is a fault like any other.

    Args:
        url: The checkpoint, as `streamload.open` takes it.
        manifest: The manifest's file. None: beside the shards.
        options: How to read.
        storage_options: For the store of a URL.

    Raises:
        ValueError: The path is empty or no local one.
        FileNotFoundError: There is no such checkpoint, or no manifest.
        FormatError: The manifest is not valid.
        ChangedError: A file changed while it was read.
        OSError: A file cannot be read.
    """
    path = manifest_path(url) if manifest is None else manifest
    if _is_missing(url):
        open_checkpoint(url).close()  # says so; without a checkpoint its manifest does not matter
    expected = read_manifest(path, url=url, storage_options=storage_options).shards
    begin = perf_counter()
    try:
        checkpoint = open_checkpoint(url, storage_options=storage_options, options=options)
    except (FormatError, FileNotFoundError) as error:
        if _is_missing(url):
            raise
        text = f"{error.filename}: {error.strerror}" if isinstance(error, FileNotFoundError) else str(error)
        return Verdict(redact(url), redact(path), 0, 0, 0, perf_counter() - begin, (Fault("", None, 0, 0, text),))
    with checkpoint:
        wanted = dict(expected)
        if _is_one_file(url):
            wanted = {name: wanted[name] for name in _shard_names(checkpoint) if name in wanted}
        actual = _sum_shards(checkpoint, options)
        faults = tuple(_compare(checkpoint, wanted, actual))
        tensors = len(checkpoint)
    nbytes = sum([shard.nbytes for shard in actual.values()])
    return Verdict(redact(url), redact(path), len(actual), tensors, nbytes, perf_counter() - begin, faults)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of a shard, or the bytes between two (the header, mostly)."""

    shard: int
    start: int
    end: int
    tensor: TensorInfo | None


def _sum_shards(checkpoint: Checkpoint, options: StreamOptions | None) -> dict[str, ShardSums]:
    """Read every byte of every shard once; return what they sum to, by the shards' names."""
    pieces = list(_cover(checkpoint))
    shards = checkpoint.shards
    with CopyEngine(open_device("cpu"), options) as engine:
        ranges = [(number, 0, shard.nbytes) for number, shard in enumerate(shards)]
        plan = make_reading_plan(ranges, chunk_bytes=engine.options.chunk_bytes)
        # Shards follow each other in the plan and pieces do so in a shard: all keys are read whole, in order.
        sums, _ = plan_sums(plan, [(piece.shard, piece.start, piece.end) for piece in pieces])
        plan = replace(plan, sums=sums, expected=array("Q", [UNKNOWN]) * len(pieces))
        with engine.submit(plan, [shard.source for shard in shards]) as ticket:
            _wait(ticket, sum([shard.nbytes for shard in shards]))
            summed = ticket.sums()
    tensors: list[dict[str, TensorSum]] = [{} for _ in shards]
    lengths: list[list[tuple[int, int]]] = [[] for _ in shards]
    for piece, crc in zip(pieces, summed, strict=True):
        nbytes = piece.end - piece.start
        if nbytes == 0:
            crc = 0  # there was nothing to sum
        if crc is None:
            url = shards[piece.shard].url
            text = f"{url}: {nbytes} bytes at offset {piece.start} were not summed"
            raise SourceError(text, url=url, offset=piece.start, nbytes=nbytes)
        lengths[piece.shard].append((crc, nbytes))
        if piece.tensor is not None:
            tensors[piece.shard][piece.tensor.name] = TensorSum(piece.tensor.dtype, piece.tensor.shape, crc)
    return {
        name: ShardSums(shard.nbytes, combine(lengths[number]), tensors[number])
        for number, (name, shard) in enumerate(zip(_shard_names(checkpoint), shards, strict=True))
    }


def _cover(checkpoint: Checkpoint) -> Iterator[_Piece]:
    """Cut every shard into its tensors and what is between them, in the file's order."""
    members: list[list[TensorInfo]] = [[] for _ in checkpoint.shards]
    for info in checkpoint.values():
        members[info.shard].append(info)
    for number, (shard, tensors) in enumerate(zip(checkpoint.shards, members, strict=True)):
        at = 0
        for info in sorted(tensors, key=lambda info: (info.start, info.end)):
            if at < info.start:
                yield _Piece(number, at, info.start, None)
            yield _Piece(number, info.start, info.end, info)
            at = info.end
        if at < shard.nbytes:
            yield _Piece(number, at, shard.nbytes, None)


def _wait(ticket: Ticket, nbytes: int) -> None:
    """Wait for the last byte, with a bar where there is a terminal."""
    from tqdm import tqdm

    with tqdm(total=nbytes, unit="B", unit_scale=True, desc="reading", leave=False, disable=None) as bar:
        while not bar.disable:
            try:
                ticket.wait(timeout=_REPORT_SECONDS)
            except TimeoutError:
                bar.update(ticket.stats().bytes_read - bar.n)
            else:
                return
        ticket.wait()


def _compare(checkpoint: Checkpoint, expected: dict[str, ShardSums], actual: dict[str, ShardSums]) -> Iterator[Fault]:
    for name in expected:
        if name not in actual:
            yield Fault(name, None, 0, expected[name].nbytes, "this shard of the manifest is not in the checkpoint")
    for name, shard in actual.items():
        known = expected.get(name)
        if known is None:
            yield Fault(name, None, 0, shard.nbytes, "this shard is not in the manifest")
            continue
        faults = list(_compare_tensors(name, checkpoint, known, shard))
        yield from faults
        if known.nbytes != shard.nbytes:
            yield Fault(name, None, 0, shard.nbytes, f"{shard.nbytes} bytes long, expected {known.nbytes}")
        elif known.crc32c != shard.crc32c and not faults:
            end = min([checkpoint[tensor].start for tensor in shard.tensors], default=shard.nbytes)
            text = f"every tensor is right, the rest of the file is not (its header): the whole {_said(shard, known)}"
            yield Fault(name, None, 0, end, text)


def _compare_tensors(name: str, checkpoint: Checkpoint, known: ShardSums, shard: ShardSums) -> Iterator[Fault]:
    for tensor, got in shard.tensors.items():
        info, want = checkpoint[tensor], known.tensors.get(tensor)
        if want is None:
            text = "this tensor is not in the manifest"
        elif (got.dtype, got.shape) != (want.dtype, want.shape):
            text = f"{got.dtype} of shape {list(got.shape)}, expected {want.dtype} of shape {list(want.shape)}"
        elif got.crc32c != want.crc32c:
            text = _said(got, want)
        else:
            continue
        yield Fault(name, tensor, info.start, info.end, text)
    for tensor in known.tensors:
        if tensor not in shard.tensors:
            yield Fault(name, tensor, 0, 0, "this tensor of the manifest is not in the shard")


def _said(got: TensorSum | ShardSums, want: TensorSum | ShardSums) -> str:
    return f"sums to {got.crc32c:08x}, expected {want.crc32c:08x}"


def _shard_names(checkpoint: Checkpoint) -> list[str]:
    """Return the shards' paths below the checkpoint's directory."""
    directory = os.path.split(manifest_path(checkpoint.url))[0] or "."
    return [os.path.relpath(shard.url, directory) for shard in checkpoint.shards]


def _other_shards(checkpoint: Checkpoint, path: str) -> dict[str, ShardSums]:
    """Return what the manifest at a path, if there is one, knows of shards that are not this checkpoint's."""
    if not os.path.exists(path):  # noqa: PTH110 - as below
        return {}
    mine = set(_shard_names(checkpoint))
    others = {name: shard for name, shard in read_manifest(path, url=checkpoint.url).shards.items() if name not in mine}
    for name, shard in others.items():
        twice = next((tensor for tensor in shard.tensors if tensor in checkpoint), None)
        if twice is not None:
            raise FormatError(
                f"{path}: belongs to another checkpoint than {checkpoint.url}: tensor {twice[:120]!r} is in its shard "
                f"{name[:120]!r} too; write this manifest elsewhere, or remove that one"
            )
    return others


def _is_missing(url: str) -> bool:
    return not is_remote(url) and not os.path.exists(local_path(url))  # noqa: PTH110 - a str path may hold what Path would normalise away


def _is_one_file(url: str) -> bool:
    if is_remote(url):
        return url.partition("?")[0].endswith(".safetensors")
    path = local_path(url)
    return not os.path.isdir(path) and not path.endswith(".index.json")  # noqa: PTH112 - a str path may hold what Path would normalise away
