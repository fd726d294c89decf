"""Decide which files a path stands for, without opening any of them but an index.

Part of `_checkpoint`. The choice is transformers' for the names it knows, in a directory:

1. `model.safetensors`, else `model.safetensors.index.json` and the shards it names; then the same for
   `diffusion_pytorch_model`. With a variant only its files: `model.fp16.safetensors`, and its index by any of the
   three spellings in use.
2. else the only other `*.safetensors.index.json`,
3. else every `*.safetensors`; `consolidated*` only when nothing else is there, as it repeats the other files.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._format import MAX_JSON_NBYTES, parse_index
from .._sources import FileSource, Source, read_head
from ..errors import FormatError
from ._layers import natural_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STEMS = ("model", "diffusion_pytorch_model")
SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_NUMBERED = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Say which shard each tensor is in.

    Attributes:
        shards: File names of the shards, relative to the directory of the index, each once.
        weight_map: Tensor name to one of them.
    """

    shards: list[str]
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """List the shards of a checkpoint.

    Attributes:
        paths: The shards' files, each once.
        index_path: The index they come from, None where there is none.
        shard_index: What the index says, its shards in the order of `paths`; None without one.
    """

    paths: tuple[str, ...]
    index_path: str | None = None
    shard_index: ShardIndex | None = None


def find_files(path: str, *, variant: str | None) -> CheckpointFiles:
    """Return the files of the checkpoint at a local path: a file, an index or a directory.

    Raises:
        ValueError: A variant is given for a single file, is no part of a file name, or several indices compete.
        FileNotFoundError: Nothing of the kind is there.
        FormatError: The index is not valid, or there are only pickle files.
        OSError: The directory or the index cannot be read.
    """
    if variant is not None and (not variant or not {"/", "\0"}.isdisjoint(variant)):
        raise ValueError(f"expected a variant such as 'fp16', got {variant!r}")
    if os.path.isdir(path):  # noqa: PTH112 - a str path may hold what Path would normalise away
        from pathlib import Path  # a tenth of the package's import time, and single files do without

        return _find_in_directory(Path(path), variant)
    if variant is not None:
        raise ValueError(f"{path}: a variant ({variant!r}) is chosen in a directory, and this is none")
    if path.endswith(".index.json"):
        return _follow_index(path)
    return CheckpointFiles((path,))


def is_pickle_name(path: str) -> bool:
    """Whether a file of that name is usually written by `torch.save`."""
    return path.endswith(_PICKLE_SUFFIXES)


def _find_in_directory(directory: Path, variant: str | None) -> CheckpointFiles:
    try:
        names = {entry.name for entry in directory.iterdir()}
    except PermissionError as error:
        text = "permission denied: this user may not list the directory"
        raise PermissionError(error.errno, text, str(directory)) from error
    index, shards = choose(names, variant, where=str(directory))
    if index is not None:
        return _follow_index(str(directory / index))
    return CheckpointFiles(tuple([str(directory / name) for name in shards]))


def choose(names: set[str], variant: str | None, *, where: str) -> tuple[str | None, list[str]]:
    """Return the index to follow, or None and the shards, of a directory or prefix that holds such names.

    Raises:
        ValueError: Several indices compete.
        FileNotFoundError: Nothing of the kind is there, or a shard of a numbered set is missing.
        FormatError: There are only pickle files.
    """
    for stem in STEMS:
        single, index_names = expected_names(stem, variant)
        if single in names:
            return None, [single]
        for index in index_names:
            if index in names:
                return index, []
    if variant is not None:
        raise _explain_nothing(where, names, f"no safetensors file of variant {variant!r}")
    indices = _without_consolidated(name for name in names if name.endswith(_INDEX_SUFFIX))
    if len(indices) > 1:
        raise ValueError(f"{where}: holds {len(indices)} indices, open one of them: {', '.join(indices[:8])}")
    if indices:
        return indices[0], []
    shards = _without_consolidated(name for name in names if name.endswith(SUFFIX))
    if not shards:
        raise _explain_nothing(where, names, "no safetensors file")
    _check_numbering(where, shards)
    return None, shards


def expected_names(stem: str, variant: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the name of a whole checkpoint, and those that its index may have."""
    if variant is None:
        return f"{stem}{SUFFIX}", (f"{stem}{_INDEX_SUFFIX}",)
    return f"{stem}.{variant}{SUFFIX}", (
        f"{stem}.safetensors.index.{variant}.json",  # transformers
        f"{stem}.safetensors.{variant}.index.json",  # diffusers
        f"{stem}.{variant}{_INDEX_SUFFIX}",
    )


def _without_consolidated(names: Iterable[str]) -> list[str]:
    ordered = sorted(names, key=natural_key)
    return [name for name in ordered if not name.startswith("consolidated")] or ordered


def _check_numbering(where: str, shards: list[str]) -> None:
    """Refuse a part of a numbered set (`…-00001-of-00003.safetensors`), which would load a part of a model."""
    present: dict[tuple[str, str], set[int]] = {}
    for name in shards:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            present.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (stem, total), numbers in present.items():
        for number in range(1, int(total) + 1):
            if number not in numbers:
                missing = f"{where}/{stem}-{number:05d}-of-{total}{SUFFIX}"
                raise FileNotFoundError(errno.ENOENT, "a shard of this numbered set is missing", missing)


def _follow_index(path: str) -> CheckpointFiles:
    with FileSource(path) as source:
        index = read_index(source)
    directory, _ = os.path.split(path)
    paths = tuple([os.path.join(directory, shard) for shard in index.shards])  # noqa: PTH118 - as in find_files
    return CheckpointFiles(paths, path, index)


def read_index(source: Source) -> ShardIndex:
    """Read and check an index.

    Raises:
        FormatError: It is not valid, names a shard outside its directory, or is that of a pickle checkpoint.
        SourceError: It cannot be read.
    """
    url = source.url
    if source.nbytes > MAX_JSON_NBYTES:
        raise FormatError(f"{url}: index of {source.nbytes} bytes, at most {MAX_JSON_NBYTES} are allowed")
    weight_map = parse_index(read_head(source, source.nbytes), url=url).weight_map
    shards = sorted(set(weight_map.values()), key=natural_key)
    if is_pickle_name(url) or any(is_pickle_name(shard) for shard in shards):
        raise FormatError(f"{url}: the index of a pickle checkpoint; only safetensors are read")
    return ShardIndex(shards, weight_map)


def _explain_nothing(where: str, names: set[str], what: str) -> FormatError | FileNotFoundError:
    pickles = sorted(name for name in names if is_pickle_name(name))
    if pickles and not any(name.endswith(SUFFIX) for name in names):
        return FormatError(
            f"{where}: {what}, only pickle checkpoints ({', '.join(pickles[:4])}), which are not read because "
            "a pickle can run any code; convert it with safetensors or use a revision that has safetensors"
        )
    held = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
    return FileNotFoundError(errno.ENOENT, f"{what} in this directory, which holds {held}", where)
