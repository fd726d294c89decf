"""Load whole files: the functions of `safetensors.torch`, by the same names.

Floor 4, part of `torch`. On the CPU files are mapped and nothing is copied; on CUDA the copy engine fills large
blocks. Read next: `_host`, `_submit`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.modules.batchnorm import _NormBase

from .._checkpoint import Shard
from .._checkpoint import open as open_checkpoint
from .._engine import fetch_whole
from .._format import header_nbytes, parse_header
from .._sources import MemorySource
from ._dtypes import torch_dtype, torch_shape
from ._fill import fill
from ._groups import cut
from ._host import HostTensors, can_map
from ._memory import place, resolve_device
from ._seats import tensors_of, walk
from ._submit import Target, check_options, choose_engine, known_sums, submit

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from .._checkpoint import Checkpoint
    from ..options import StreamOptions

_PLAIN_TENSORS: Final = (torch.Tensor, torch.nn.Parameter)


def load_file(
    filename: str | os.PathLike[str],
    device: str | int | torch.device = "cpu",
    *,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
) -> dict[str, torch.Tensor]:
    """Load all tensors of a safetensors file, or of a directory or prefix that holds a checkpoint.

    On the CPU the tensors of local files are private mappings, copied by nobody until they are written to; so are those
    of objects in a store where `options.memory_dir` names a tier in memory, which a machine's processes then share.
    Else, and where `options.verify` asks for checksums, the copy engine reads. Blocks until every byte is there.

    Args:
        filename: Path or URL of the file or directory.
        device: "cpu", "cuda", "cuda:<n>", a number of a CUDA device, or a `torch.device`.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read, where the copy engine reads.

    Returns:
        Tensors by name, in the order of their bytes in the file; each has a storage of its own.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This process may not read it.
        FormatError: It is not a valid safetensors file.
        TypeError: torch has no dtype for one of the tensors.
        ChecksumError: `options.verify`, and a tensor is not what it was.
        SourceError: Reading failed.
        DeviceError: There is no such device, or it failed.
    """
    where = resolve_device(device)
    check_options(options)
    with open_checkpoint(filename, storage_options=storage_options, options=options) as checkpoint:
        if where.type == "cpu" and (options is None or not options.verify):
            mapped = _map_all(checkpoint, options)
            if mapped is not None:
                return mapped
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
    *,
    storage_options: Mapping[str, object] | None = None,
) -> tuple[set[str], list[str]]:
    """Load a file into a model's parameters and buffers, as `safetensors.torch.load_model` does; blocks.

    Tensors that share memory in the model are in the file once, under one of their names. A load that fails once it
    reads leaves what is in the model's tensors undefined: some are filled, some partly.

    Args:
        model: What to fill; its tensors stay where they are and keep their dtypes.
        filename: Path or URL of the file or directory.
        strict: Refuse names that only one of the two has.
        device: Where the file's tensors are loaded before they are copied into the model, where they cannot go
            straight into its own: a shape differs, or a module changes its state dict while it loads.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.

    Returns:
        The names that the file lacks, and those that the model lacks (or has twice).

    Raises:
        RuntimeError: `strict`, and a name is missing or unexpected; or a shape differs.
        FileNotFoundError, FormatError, SourceError, DeviceError: As `load_file`.
    """
    where = resolve_device(device)
    with open_checkpoint(filename, storage_options=storage_options) as checkpoint:
        tensors = _fill_model(model, checkpoint)
    if tensors is None:
        tensors = load_file(filename, where, storage_options=storage_options)
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


def _map_all(checkpoint: Checkpoint, options: StreamOptions | None) -> dict[str, torch.Tensor] | None:
    """Return every tensor as a mapping of its file; None where one is not a file and no tier in memory makes it one."""
    shards, fetched = checkpoint.shards, ExitStack()
    if not can_map(shards):
        if options is None or options.memory_dir is None:
            return None
        engine = choose_engine(torch.device("cpu"), options, None)
        files = fetch_whole(engine, [shard.source for shard in shards])
        if files is None:
            return None
        for file in files:
            fetched.callback(file.close)
        shards = tuple([replace(shard, source=file) for shard, file in zip(shards, files, strict=True)])
    with fetched:
        host = HostTensors(shards)
        return {info.name: host.tensor(info) for info in checkpoint.values()}


def _load_to_device(
    checkpoint: Checkpoint, device: torch.device, options: StreamOptions | None
) -> dict[str, torch.Tensor]:
    engine = choose_engine(device, options, None)
    infos = list(checkpoint.values())
    placement = place(infos, device)
    targets = [Target(info, tensor) for info, tensor in zip(infos, placement.tensors, strict=True)]
    groups = [[target.copy() for target in group] for group in cut(targets, lambda target: target.info.nbytes)]
    with submit(engine, checkpoint, groups, device, placement.blocks, known_sums(checkpoint, engine)) as ticket:
        ticket.wait()
    return {target.info.name: target.tensor for target in targets}


def _fill_model(model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, torch.Tensor] | None:
    """Fill a model's own tensors, and return them by the file's names; on meta those that it lacks.

    To load what is returned into the model changes nothing and tells which names fit. None: nothing was done, since
    only `load_state_dict` with the file's numbers would do the right thing.
    """
    if torch.__future__.get_swap_module_params_on_conversion() or not _loads_plainly(model):
        return None
    own = {
        prefix + attribute: tensor
        for prefix, owner in walk(model)
        for attribute, tensor in tensors_of(owner)
        if attribute not in owner._non_persistent_buffers_set
    }
    state: dict[str, torch.Tensor] = {}
    by_memory: dict[tuple[object, ...], tuple[str, torch.Tensor]] = {}
    for name, tensor in own.items():
        if name in checkpoint:
            if type(tensor) not in _PLAIN_TENSORS or tensor.shape != torch_shape(checkpoint[name]):
                return None
            # Of tied tensors the last name counts, as in load_state_dict.
            by_memory[(tensor.device, tensor.data_ptr() or name, tensor.shape)] = (name, tensor)
    for info in checkpoint.values():
        missing = None if info.name in own else torch.empty(torch_shape(info), dtype=torch_dtype(info), device="meta")
        state[info.name] = own[info.name] if missing is None else missing
    try:
        fill(checkpoint, dict(by_memory.values()))
    except (TypeError, ValueError):  # refused before a byte was written
        return None
    return state


def _loads_plainly(model: torch.nn.Module) -> bool:
    """Whether loading copies each tensor into the one of its name, and does nothing else."""
    plain = torch.nn.Module
    return type(model).load_state_dict is plain.load_state_dict and all(
        type(owner)._load_from_state_dict in (plain._load_from_state_dict, _NormBase._load_from_state_dict)
        and type(owner).set_extra_state is plain.set_extra_state
        and not owner._load_state_dict_pre_hooks
        and not owner._load_state_dict_post_hooks
        and not isinstance(owner, torch.jit.ScriptModule)
        for owner in model.modules()
    )


def _shared_names(state: dict[str, torch.Tensor]) -> list[list[str]]:
    """Return the names, sorted, of tensors that are one and the same memory."""
    by_memory: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        if tensor.device.type != "meta" and tensor.numel():
            key = (tensor.device, tensor.data_ptr(), tensor.numel() * tensor.element_size())
            by_memory.setdefault(key, []).append(name)
    return [sorted(names) for names in by_memory.values() if len(names) > 1]
