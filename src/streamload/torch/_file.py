"""Load whole files: the functions of `safetensors.torch`, by the same names.

Floor 4, part of `torch`. On the CPU files are mapped and nothing is copied; on CUDA the copy engine fills large
blocks. Read next: `_host`, `_submit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checkpoint import Shard
from .._checkpoint import open as open_checkpoint
from .._format import header_nbytes, parse_header
from .._sources import MemorySource
from ._groups import cut
from ._host import HostTensors
from ._memory import place, resolve_device
from ._submit import Target, check_options, choose_engine, submit

if TYPE_CHECKING:
    import os

    import torch

    from .._checkpoint import Checkpoint
    from ..options import StreamOptions


def load_file(
    filename: str | os.PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    options: StreamOptions | None = None,
) -> dict[str, torch.Tensor]:
    """Load all tensors of a safetensors file, or of a directory that holds a checkpoint.

    On the CPU the tensors are private mappings of the file, copied by nobody until they are written to. On CUDA the
    call blocks until every byte is there.

    Args:
        filename: Path of the file or directory.
        device: "cpu", "cuda", "cuda:<n>", a number of a CUDA device, or a `torch.device`.
        options: How to read, where the copy engine reads (CUDA).

    Returns:
        Tensors by name, in the order of their bytes in the file; each has a storage of its own.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This process may not read it.
        FormatError: It is not a valid safetensors file.
        TypeError: torch has no dtype for one of the tensors.
        SourceError: Reading failed.
        DeviceError: There is no such device, or it failed.
    """
    where = resolve_device(device)
    check_options(options)
    with open_checkpoint(filename) as checkpoint:
        if where.type == "cpu":
            host = HostTensors(checkpoint.shards)
            return {info.name: host.tensor(info) for info in checkpoint.values()}
        return _load_to_device(checkpoint, where, options)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """Load all tensors of a safetensors file's bytes, to the CPU.

    Args:
        data: The whole file. Every tensor is copied out of it.

    Returns:
        Tensors by name, in the order of their bytes; each has a storage of its own.

    Raises:
        FormatError: The bytes are not a valid safetensors file.
        TypeError: torch has no dtype for one of the tensors.
    """
    url = "bytes"
    size = header_nbytes(data[:8], url=url, file_nbytes=len(data))
    header = parse_header(data[:size], url=url, file_nbytes=len(data))
    with MemorySource(data, url=url) as source:
        host = HostTensors([Shard(url, len(data), source, header.metadata)])
        return {info.name: host.tensor(info) for info in header.tensors}


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int | torch.device = "cpu",
) -> tuple[set[str], list[str]]:
    """Load a file into a model's parameters and buffers, as `safetensors.torch.load_model` does; blocks.

    Tensors that share memory in the model are in the file once, under one of their names.

    Args:
        model: What to fill; its tensors stay where they are and keep their dtypes.
        filename: Path of the file or directory.
        strict: Refuse names that only one of the two has.
        device: Where the file's tensors are loaded before they are copied into the model.

    Returns:
        The names that the file lacks, and those that the model lacks (or has twice).

    Raises:
        RuntimeError: `strict`, and a name is missing or unexpected; or a shape differs.
        FileNotFoundError, FormatError, SourceError, DeviceError: As `load_file`.
    """
    tensors = load_file(filename, device)
    shared = _shared_names(model.state_dict())
    incompatible = model.load_state_dict(tensors, strict=False)
    missing, unexpected = set(incompatible.missing_keys), list(incompatible.unexpected_keys)
    for names in shared:
        kept = next((name for name in names if name in tensors), names[0])
        for name in names:
            if name in missing:
                if name != kept:
                    missing.remove(name)
            elif name != kept:
                unexpected.append(name)
    if strict and (missing or unexpected):
        text = f"Error(s) in loading state_dict for {type(model).__name__}:"
        for label, found in (("Missing", missing), ("Unexpected", unexpected)):
            if found:
                text += f"\n    {label} key(s) in state_dict: " + ", ".join(f'"{name}"' for name in sorted(found))
        raise RuntimeError(text)
    return missing, unexpected


def _load_to_device(
    checkpoint: Checkpoint, device: torch.device, options: StreamOptions | None
) -> dict[str, torch.Tensor]:
    engine = choose_engine(device, options, None)
    infos = list(checkpoint.values())
    placement = place(infos, device)
    targets = [Target(info, tensor) for info, tensor in zip(infos, placement.tensors, strict=True)]
    groups = [[target.copy() for target in group] for group in cut(targets, lambda target: target.info.nbytes)]
    with submit(engine, checkpoint.shards, groups, device, placement.blocks) as ticket:
        ticket.wait()
    return {target.info.name: target.tensor for target in targets}


def _shared_names(state: dict[str, torch.Tensor]) -> list[list[str]]:
    """Return the names, sorted, of tensors that are one and the same memory."""
    by_memory: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        if tensor.device.type != "meta" and tensor.numel():
            key = (tensor.device, tensor.data_ptr(), tensor.numel() * tensor.element_size())
            by_memory.setdefault(key, []).append(name)
    return [sorted(names) for names in by_memory.values() if len(names) > 1]
