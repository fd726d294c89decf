"""What every contestant of the engine benchmark works on, and what it leaves.

Floor 6; needs torch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file as safetensors_load_file

from .._checkpoint import open as open_checkpoint
from .._machine import cached_fraction, drop_from_cache
from .._sources import local_path
from ._result import BenchError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ._rounds import Outcome

__all__ = ["Course", "open_course", "overwrite"]

_SCRAMBLED = 0xA5
_PIECE_BYTES = 1 << 20  # of one read whose bytes nobody wants


@dataclass(frozen=True, slots=True)
class Course:
    """Hold what every contestant works on.

    Attributes:
        path: The checkpoint.
        files: Its shards.
        nbytes: Bytes of its weights.
        torch_device: Where they go.
        existing: Memory for every tensor, touched, by name.
        scratch: A directory for the files a peer needs in its own format.
    """

    path: str | os.PathLike[str]
    files: tuple[Path, ...]
    nbytes: int
    torch_device: str
    existing: dict[str, torch.Tensor]
    scratch: Path

    @property
    def on_host(self) -> bool:
        """Whether the bytes stay in host memory."""
        return self.torch_device == "cpu"

    def scramble(self) -> None:
        """Overwrite the existing memory, so that bytes left by one contestant cannot pass for another's."""
        overwrite(self.existing)

    def find_wrong(self, outcome: Outcome) -> str:
        """Compare what a contestant left with safetensors' own reading, bit for bit; say what differs, or nothing.

        The reference is opened here and let go of: a mapping that stays would hold the files in the page cache.
        """
        if outcome.tensors is None:
            return ""
        if outcome.tensors.keys() != self.existing.keys():
            return f"{len(outcome.tensors)} tensors came out, expected these {len(self.existing)}"
        for file in self.files:
            for name, expected in safetensors_load_file(file).items():
                found = outcome.tensors[name]
                if (found.dtype, found.shape) != (expected.dtype, expected.shape):
                    return f"{name!r} came out as {found.dtype}, {tuple(found.shape)}"
                if not _same_bytes(found, expected):
                    return f"the bytes of {name!r} came out wrong"
        return ""

    def drop_from_cache(self) -> None:
        """Ask the kernel to forget the shards and the files made beside them."""
        for file in self._all_files():
            drop_from_cache(file)

    def bring_into_cache(self) -> None:
        """Read what of the shards and the files made beside them the page cache may lack, and keep nothing of it."""
        piece = bytearray(_PIECE_BYTES)
        for file in self._all_files():
            if cached_fraction(file) == 1.0:
                continue
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(piece):
                    pass

    def cached(self) -> float | None:
        """Return the part of the shards that the page cache holds; None where the kernel will not say."""
        parts = [cached_fraction(file) for file in self.files]
        known = [part for part in parts if part is not None]
        return sum(known) / len(known) if len(known) == len(parts) else None

    def _all_files(self) -> tuple[Path, ...]:
        return (*self.files, *(path for path in self.scratch.iterdir() if path.is_file()))


def open_course(path: str | os.PathLike[str], device: str, scratch: Path) -> Course:
    """Find a checkpoint's files and make memory for its tensors.

    Raises:
        BenchError: It holds no bytes.
        FormatError, FileNotFoundError: As opening it does.
    """
    with open_checkpoint(path) as checkpoint:
        files = tuple(Path(local_path(shard.url)) for shard in checkpoint.shards)
        nbytes = checkpoint.nbytes
    if not nbytes:
        raise BenchError(f"{path}: the checkpoint holds no bytes to move")
    existing: dict[str, torch.Tensor] = {}
    for file in files:
        existing |= {name: torch.zeros_like(t, device=device) for name, t in safetensors_load_file(file).items()}
    return Course(path, files, nbytes, device, existing, scratch)


def overwrite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Write to all memory of tensors."""
    for tensor in tensors.values():
        if tensor.device.type == "cpu":
            ctypes.memset(tensor.data_ptr(), _SCRAMBLED, tensor.nbytes)
        else:
            _raw(tensor).fill_(_SCRAMBLED)


def _same_bytes(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Compare on the device where the bytes came out.

    On the host not by torch, whose threads wait for each other at every tensor, spinning: with 20,000 of them, and one
    processor in use elsewhere, that is most of a benchmark.
    """
    if found.device.type != "cpu":
        return torch.equal(_raw(found), _raw(expected).to(found.device))
    left, right = found.detach().contiguous(), expected.contiguous()
    where = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (left, right))
    order: int = ctypes.CDLL(None).memcmp(*where, ctypes.c_size_t(right.nbytes))
    return order == 0


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
