"""Bring models from where they are stored into a directory, whole and verified: the work of `streamload pull`.

Floor 4; needs no torch. `_wanted` names models, `_places` says which files they have at their sources and opens them,
`_partial` holds one file on its way, `_fetch` fills it through the native engine or by threads, `_digest` sums it
meanwhile, `_run` does all files of all models, `_list_file` keeps `models.json`, `_check` holds a directory to it. Read
`_run` next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._format import ModelList, is_plain_path, parse_models
from ..options import StreamOptions
from ._check import ModelFault, ModelsVerdict, verify_models
from ._list_file import LIST_NAME, listed_in, read_models
from ._partial import WORK_DIRECTORY, is_unfinished
from ._progress import PullProgress
from ._run import Pulled, PullRun
from ._wanted import wanted_models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "LIST_NAME",
    "WORK_DIRECTORY",
    "ModelFault",
    "ModelsVerdict",
    "PullProgress",
    "Pulled",
    "is_unfinished",
    "listed_in",
    "pull",
    "pull_models",
    "read_models",
    "verify_models",
    "wanted_models",
]


def pull(
    sources: str | Sequence[str] | Mapping[str, object],
    to: str | os.PathLike[str],
    *,
    name: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    report: Callable[[PullProgress], None] | None = None,
) -> Pulled:
    """Bring models into a directory, every file whole and verified, and write down in its `models.json` what is there.

    Each model gets a directory of its name below `to`. Files are fetched in parallel ranges; what an earlier pull left
    off is gone on with, if the object is still the same. A file appears under its name only once it is complete, its
    SHA-256 is the expected one where one is known, and a safetensors file has a valid header. Several pulls into one
    directory wait for each other file by file. Ctrl-C keeps what has arrived.

    Args:
        sources: One URL or several; each is a file, a place that can be listed (`s3://bucket/llama/`, `hf://org/name`,
            a directory), or an index, which brings its shards. Or models by name, each with a URL or with the fields of
            an entry of `models.json` (`source`, `files`, `sha256`, `include`, `exclude`, `storage_options`).
        to: The directory; made where it is missing.
        name: What the model is called; all URLs then belong to it. None: the last part of a place's URL, and of a
            file's URL the part before its name.
        include: Glob patterns, on paths and on names; where there are any, only files that match one are pulled.
        exclude: Glob patterns; files that match one are not pulled.
        storage_options: Credentials and endpoints, as `streamload.open` takes them.
        options: How to read. `cache_dir` and `memory_dir` are of no use here.
        report: Called a few times a second with how far the pull is, on the calling thread.

    Returns:
        What was pulled.

    Raises:
        ValueError: A URL or a name is none, or two models have the same.
        FileNotFoundError: A source is not there.
        PermissionError: A store denies it, or the directory may not be written.
        ChangedError: An object kept changing while it was pulled.
        ChecksumError: A file was fetched twice and neither time had the expected SHA-256.
        FormatError: A file is no safetensors file though named so, an index is not valid, or the directory's
            `models.json` is not.
        SourceError, OSError: A store failed for too long; the disk is full.
    """
    if not isinstance(sources, Mapping):
        urls = [sources] if isinstance(sources, str) else list(sources)
        models = wanted_models(urls, name=name, include=include, exclude=exclude)
    elif name is not None or include or exclude:
        raise ValueError("name, include and exclude are of URLs; give them inside each model")
    else:
        models = parse_models(json.dumps({"models": dict(sources)}).encode(), url="sources")
    return pull_models(models, to, storage_options=storage_options, options=options, report=report)


def pull_models(
    models: ModelList,
    to: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    report: Callable[[PullProgress], None] | None = None,
) -> Pulled:
    """Bring the models of a list into a directory; arguments and errors as those of `pull`."""
    text = os.fspath(to)
    if not text or "\0" in text:
        raise ValueError(f"expected the path of a directory, got {text!r}")
    for name in models.models:
        if not is_plain_path(name) or name.startswith(".") or name == LIST_NAME:
            raise ValueError(f"a model cannot be called {name[:120]!r}: its name becomes a directory")
    return PullRun(Path(text), options or StreamOptions(), storage_options, report).run(models.models)
