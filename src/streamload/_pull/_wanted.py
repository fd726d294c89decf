"""Turn URLs as they are typed into a list of wanted models: each with a name.

Part of `_pull`; pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from .._format import ListedModel, ModelList, is_plain_path
from .._sources import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a model's files are called; a dot alone does not make a file of `llama-3.1-8b`.
_FILE: Final = re.compile(
    r"\.(safetensors|json|jsonl|gguf|bin|pth?|ckpt|txt|model|tiktoken|jinja|py|md|ya?ml|vocab|onnx|npz)$", re.IGNORECASE
)


def wanted_models(
    urls: Sequence[str], *, name: str | None = None, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> ModelList:
    """Return the models that URLs stand for; files of one directory are one model.

    Args:
        urls: As they were typed.
        name: What the model is called; all URLs then belong to it. None: by the URLs.
        include: Patterns for each model.
        exclude: The same.

    Raises:
        ValueError: There is no URL, one has no name in it, or places of one name compete.
    """
    if not urls or not all(urls):
        raise ValueError("expected at least one URL")
    named: dict[str, list[str]] = {}
    for url in urls:
        named.setdefault(name or name_of(url), []).append(url)
    for found, members in named.items():
        if not is_plain_path(found) or found.startswith("."):
            raise ValueError(f"a model cannot be called {found[:120]!r}: its name becomes a directory")
        if name is None and len({directory_of(url) for url in members}) > 1:
            shown = ", ".join([redact(url) for url in members])
            raise ValueError(
                f"several models would be called {found!r}: {shown}; pull them one by one, each with --name"
            )
    return ModelList(
        {
            found: ListedModel(tuple(members), None, {}, tuple(include), tuple(exclude))
            for found, members in named.items()
        }
    )


def name_of(url: str) -> str:
    """Return what a model is called by its URL: a place by its last part, a file by the part before its own name.

    Raises:
        ValueError: There is no such part.
    """
    parts = [part for part in directory_of(url).partition("://")[2 if "://" in url else 0].split("/") if part]
    has_host = re.match(r"(https?|s3a?|gc?s|az|abfss?)://", url, re.IGNORECASE) is not None
    if not parts or (has_host and len(parts) < 2 and is_file(url)) or parts[-1] in (".", ".."):
        raise ValueError(f"{redact(url)!r}: has no part that could be the model's name; give one with --name")
    last = unquote(parts[-1]) if "://" in url else parts[-1]
    return last.partition("@")[0] if url.lower().startswith("hf://") else last


def directory_of(url: str) -> str:
    """Return the URL of the place, or of the place that holds the file."""
    path = _path(url).rstrip("/")
    return path.rpartition("/")[0] if is_file(url) else path


def is_file(url: str) -> bool:
    """Whether a URL ends in what a model's files are called."""
    return not _path(url).endswith("/") and _FILE.search(_path(url)) is not None


def _path(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0] if "://" in url else url
