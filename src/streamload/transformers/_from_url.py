"""A directory that stands for a model in a store: small files are there, of weights only the headers.

Part of `transformers`, which wants files. Each shard's file has its header and its length, and no bytes of tensors:
whoever looks at shapes and dtypes finds them, and `_patch`, which is given the file's path, streams from the store
instead. What `_patch` is not given must not be loaded: the bytes are zeros.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from .._checkpoint import open as open_checkpoint
from .._format._index import is_plain_path
from .._sources import open_store, read_head, redact
from ..errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._sources import Store
    from ..options import StreamOptions

__all__ = ["RemoteModel", "remote_model"]

_WEIGHTS: Final = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite", ".pkl",
    ".onnx_data", ".npz", ".pdf", ".png", ".jpg", ".mp4",
)  # fmt: skip
"""Ends of names that no model needs beside its shards."""

_ADAPTER: Final = "adapter_"
_MOST_BYTES: Final = 1 << 30  # of a small file
_UNLISTED: Final = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "adapter_config.json",
)  # fmt: skip
"""What is asked for where a place cannot be listed."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model in a store, and the directory that stands for it.

    Attributes:
        url: Where it is, as errors name it.
        directory: The directory.
        checkpoint: Its weights; open.
    """

    url: str
    directory: str
    checkpoint: Checkpoint

    def open_instead(self, files: Sequence[str]) -> Checkpoint | None:
        """Open the weights that files stand for, for the caller to close; None for files that are what they seem.

        Raises:
            ValueError: They are some of its shards and not all, or others, too.
            ChangedError, FileNotFoundError, PermissionError, SourceError: A shard can no longer be opened.
        """
        shards = {shard.url.rpartition("/")[2] for shard in self.checkpoint.shards}
        here = {Path(file).name for file in files if Path(file).parent == Path(self.directory)} & shards
        if not here:
            return None
        if here != shards or len(files) != len(shards):
            raise ValueError(f"{len(files)} files are to be loaded, and the checkpoint has {len(shards)} shards")
        return self.checkpoint.reopen()


@contextlib.contextmanager
def remote_model(
    url: str,
    *,
    variant: str | None,
    storage_options: Mapping[str, object] | None,
    options: StreamOptions | None,
) -> Iterator[RemoteModel]:
    """Open a model in a store, and make the directory that stands for it; gone at the end.

    Raises:
        ValueError, TypeError, ImportError, FileNotFoundError, PermissionError, FormatError, SourceError: As
            `streamload.open`.
    """
    with contextlib.ExitStack() as stack:
        store = open_store(url, storage_options=storage_options, options=options)
        checkpoint = open_checkpoint(url, variant=variant, storage_options=storage_options, options=options)
        stack.enter_context(checkpoint)
        directory = tempfile.mkdtemp(prefix="streamload-")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        shards = {shard.url.rpartition("/")[2]: number for number, shard in enumerate(checkpoint.shards)}
        with ThreadPoolExecutor(16, "streamload-open") as pool:
            jobs = [pool.submit(_fetch, store, name, directory) for name in _small_names(store, shards)]
            jobs += [pool.submit(_stand_in, checkpoint, n, f"{directory}/{name}") for name, n in shards.items()]
            for job in jobs:
                job.result()
        yield RemoteModel(redact(url), directory, checkpoint)


def _small_names(store: Store, shards: Mapping[str, int]) -> list[str]:
    names = store.names()
    if names is None:
        indices = [f"{stem}.safetensors.index.json" for stem in ("model",)] if len(shards) > 1 else []
        return [*_UNLISTED, *indices]
    return sorted(
        name
        for name in names
        if name not in shards and is_plain_path(name) and (name.startswith(_ADAPTER) or not name.endswith(_WEIGHTS))
    )


def _fetch(store: Store, name: str, directory: str) -> None:
    """Bring a small file; nothing where there is none."""
    try:
        source = store.open(name)
    except FileNotFoundError:
        return
    try:
        if source.nbytes > _MOST_BYTES:
            raise FormatError(f"{source.url}: {source.nbytes} bytes, too many for a file beside the weights")
        Path(directory, name).write_bytes(read_head(source, source.nbytes))
    finally:
        source.close()


def _stand_in(checkpoint: Checkpoint, number: int, path: str) -> None:
    """Write a shard's header, and nothing into the rest of its length."""
    shard = checkpoint.shards[number]
    starts = [info.start for info in checkpoint.values() if info.shard == number]
    header = read_head(shard.source, min(starts, default=shard.nbytes))
    with open(path, "wb") as file:  # noqa: PTH123 - the name is a shard's, taken as it is
        file.write(header)
        file.truncate(shard.nbytes)


def refuse_stock(model: RemoteModel, reason: str) -> NoReturn:
    """Say that a model cannot be streamed from its store, since nothing else can be done with stand-ins.

    Raises:
        OSError: Always.
    """
    raise OSError(
        errno.ENOTSUP,
        f"the model cannot be streamed from its store: {reason}; fetch it with `streamload pull`",
        model.url,
    )
