"""Look up embedding rows in the file, so that the table can travel last.

Floor 4, part of `torch`. The first pass needs a few rows of a table that may be a tenth of the model; while the table
is on its way, the gate asks here for the rows and the pass goes on. What is looked up is read on the calling thread,
from the page cache or with the drive reading ahead. Read next: `_gate`, which asks, and `_groups`, which puts tables
last.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from .._sources import FileSource
from ..errors import StreamClosedError
from ._assembly import Assembly
from ._dtypes import torch_dtype
from ._groups import GROUP_BYTES
from ._host import HostTensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ._seats import Seat

TABLE_BYTES = GROUP_BYTES
"""Tables below this travel in their place: they are there before a lookup would pay."""

LARGEST_PART = 16
"""Of a table at most a sixteenth is looked up. From the page cache rows are read one system call each, at a fraction of
the link's rate; past this, waiting for the table is as quick."""


def is_table(found: Seat, info: TensorInfo | Assembly, checkpoint: Checkpoint) -> bool:
    """Whether a tensor is an embedding table whose rows can be looked up while it is on its way."""
    return (
        info.nbytes >= TABLE_BYTES
        and not isinstance(info, Assembly)
        and len(info.shape) == 2
        and isinstance(checkpoint.shards[info.shard].source, FileSource)
        and any(isinstance(owner, torch.nn.Embedding) and name == "weight" for owner, name in found.places)
    )


class EmbeddingRows:
    """Read rows of tables from the files of a checkpoint. Thread-safe.

    Opens a file at the first row that is asked of it, and holds it until `close`.

    Args:
        checkpoint: Where the tables are; may be closed.
        tables: Tensor in the checkpoint by what a table is called here.
    """

    def __init__(self, checkpoint: Checkpoint, tables: Mapping[int, TensorInfo]) -> None:
        self._shards = checkpoint.shards
        self._tables = {
            table: info for table, info in tables.items() if isinstance(self._shards[info.shard].source, FileSource)
        }
        self._opened: dict[int, FileSource] = {}
        self._closed = False
        self._lock = threading.Lock()  # guards _opened and _closed
        self.bytes_read = 0

    def look_up(self, table: int, ids: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return the rows that ids name, in their order; shape `(*ids.shape, width)`, in memory of their own.

        Blocks: the ids come to the host, the rows are read.

        Args:
            table: What it is called here.
            ids: Row numbers, of any integer dtype and shape.
            device: Where the rows go, in the order of its current stream.

        Returns:
            None where waiting for the table is the better choice, or an id is out of range: torch says it best.

        Raises:
            ChangedError: The file is no longer the one whose header was read.
            ShortReadError, SourceError: It cannot be read.
            StreamClosedError: This was closed.
        """
        info = self._tables.get(table)
        if info is None or ids.dtype not in (torch.int64, torch.int32) or not ids.numel():
            return None
        count, width = info.shape
        asked, place = torch.unique(ids.detach().cpu(), return_inverse=True)
        if int(asked[0]) < 0 or int(asked[-1]) >= count or len(asked) * LARGEST_PART > count:
            return None
        row = info.nbytes // count
        ranges = [(int(first) * row, int(first) * row + row) for first in asked]
        rows = self._read(info, _joined(ranges), len(asked) * row)
        dtype = torch_dtype(info)
        return rows.view(dtype).view(len(asked), width)[place].to(device)

    def close(self) -> None:
        """Close the files. Harmless when repeated."""
        with self._lock:
            opened, self._opened = self._opened, {}
            self._closed = True
        for source in opened.values():
            source.close()

    def _read(self, info: TensorInfo, ranges: Sequence[tuple[int, int]], nbytes: int) -> torch.Tensor:
        source = self._open(info.shard)
        for start, end in ranges:  # so that a drive has all of them in flight
            with suppress(OSError):
                os.posix_fadvise(source.fileno(), info.start + start, end - start, os.POSIX_FADV_WILLNEED)
        rows = HostTensors([replace(self._shards[info.shard], source=source)]).read(
            replace(info, shard=0), ranges, nbytes
        )
        source.check_unchanged()
        self.bytes_read += nbytes
        return rows

    def _open(self, shard: int) -> FileSource:
        with self._lock:
            if self._closed:
                raise StreamClosedError("the load that the rows were for is over")
            source = self._opened.get(shard)
            if source is None:
                source = self._opened[shard] = cast("FileSource", self._shards[shard].source).reopen()
            return source


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that follow each other; ascending."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
