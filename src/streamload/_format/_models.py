"""Check and write a list of models: the JSON that says which models to pull, and what was pulled.

Part of `_format`. One form for both: what `streamload pull` writes can be given to it again. A list of what is wanted
may be as short as `{"models": {"llama": "s3://bucket/llama"}}`. Names become paths, so they are held to what a shard's
name is held to.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..errors import FormatError
from ._index import PLAIN_PATH, is_plain_path
from ._json import MAX_JSON_NBYTES, U64_MAX, decode_object, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT: Final = "streamload-models"
_VERSION: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MODEL_FIELDS: Final = (
    "source",
    "format",
    "nbytes",
    "files",
    "sha256",
    "include",
    "exclude",
    "storage_options",
    "complete",
)
_FILE_FIELDS: Final = ("nbytes", "format", "sha256", "etag", "mtime_ns")
_SAFETENSORS: Final = "safetensors"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Say what one file of a model is.

    Attributes:
        nbytes: Its length; None where a list of wanted models does not say.
        sha256: SHA-256 of its bytes, 64 hexadecimal digits; None where it is not known.
        etag: What its store called the version that was pulled; empty where it has no word for it.
        mtime_ns: When it was last written as it was published, in nanoseconds since 1970; None where that is not known.
            A file of another time has to be read again to be believed.
    """

    nbytes: int | None = None
    sha256: str | None = None
    etag: str = ""
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ListedModel:
    """Say where a model comes from and which files it has.

    Attributes:
        sources: URLs of its files, of a place that holds them, or of their index.
        files: Its files by their path below the model's directory; None: all that the sources hold.
        sha256: SHA-256 of some of the files, by the same path; of the only file by "".
        include: Glob patterns; where there are any, only files that match one are wanted.
        exclude: Glob patterns; files that match one are not wanted.
        storage_options: For the stores of the sources; never written.
        complete: Whether all files are there as the list says; False while a pull replaces some.
    """

    sources: tuple[str, ...]
    files: Mapping[str, ModelFile] | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    storage_options: Mapping[str, object] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class ModelList:
    """Hold a checked list of models.

    Attributes:
        models: The models by name. A name is that of a directory too, as plain as a shard's.
    """

    models: Mapping[str, ListedModel]


def parse_models(data: bytes | memoryview, *, url: str) -> ModelList:
    """Parse and check a list of models.

    Args:
        data: The whole file.
        url: Where the bytes come from, for the error's text.

    Raises:
        FormatError: The bytes are not a valid list of a version that is known here.
    """
    try:
        if len(data) > MAX_JSON_NBYTES:
            raise _Wrong(f"{len(data)} bytes long, at most {MAX_JSON_NBYTES} are allowed")
        return ModelList(_check_list(decode_object(data, url=url, what="list of models")))
    except _Wrong as error:
        raise FormatError(f"{url}: list of models: {error}") from None


def format_models(listed: ModelList) -> str:
    """Return the text of a list of models; storage options are left out, as they may hold secrets."""
    models = {name: _format_model(model) for name, model in sorted(listed.models.items())}
    described = {"format": _FORMAT, "version": _VERSION, "models": models}
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def format_of(name: str) -> str:
    """Return what kind of file a name stands for: "safetensors", or its suffix, or "" where it has none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot and stem else ""


def _format_model(model: ListedModel) -> dict[str, object]:
    described: dict[str, object] = {"source": model.sources[0] if len(model.sources) == 1 else list(model.sources)}
    if not model.complete:
        described["complete"] = False
    for pattern in ("include", "exclude"):
        if getattr(model, pattern):
            described[pattern] = list(getattr(model, pattern))
    if model.sha256:
        described["sha256"] = model.sha256[""] if set(model.sha256) == {""} else dict(model.sha256)
    if model.files is not None:
        formats = {format_of(name) for name in model.files}
        described["format"] = _SAFETENSORS if _SAFETENSORS in formats else min(formats, default="")
        if all(file.nbytes is not None for file in model.files.values()):
            described["nbytes"] = sum([file.nbytes or 0 for file in model.files.values()])
        described["files"] = {name: _format_file(name, file) for name, file in sorted(model.files.items())}
    return described


def _format_file(name: str, file: ModelFile) -> dict[str, object]:
    fields = {
        "nbytes": file.nbytes,
        "format": format_of(name),
        "sha256": file.sha256,
        "etag": file.etag or None,
        "mtime_ns": file.mtime_ns,
    }
    return {field: value for field, value in fields.items() if value is not None}


class _Wrong(Exception):
    """Say what is wrong; where is added on the way out."""


def _check_list(fields: dict[str, object]) -> dict[str, ListedModel]:
    for name, known in (("format", _FORMAT), ("version", _VERSION)):
        value = fields.get(name, known)
        if type(value) is not type(known) or value != known:
            raise _Wrong(f"expected {name} {known!r}, got {shown(value)}")
    _check_known(fields, ("format", "version", "models"))
    if "models" not in fields:
        raise _Wrong("no field 'models', which holds the models by name")
    models: dict[str, ListedModel] = {}
    for name, entry in _check_object(fields["models"]).items():
        try:
            if not is_plain_path(name) or name.startswith("."):
                raise _Wrong(f"the name becomes a directory: expected {PLAIN_PATH}, and no '.' at its start")
            models[name] = _check_model(entry)
        except _Wrong as error:
            raise _Wrong(f"model {shown(name)}: {error}") from None
    for name in models:
        inside = next((other for other in models if other.startswith(f"{name}/")), None)
        if inside is not None:
            raise _Wrong(f"model {shown(inside)} would stand in the directory of model {shown(name)}")
    return models


def _check_model(entry: object) -> ListedModel:
    fields: dict[str, object] = {"source": entry} if type(entry) is str else _check_object(entry)
    _check_known(fields, _MODEL_FIELDS)
    source = fields.get("source")
    sources = (source,) if type(source) is str else _check_texts(source, "source")
    if not sources or not all(sources):
        raise _Wrong(f"expected a URL, or several, as source, got {shown(source)}")
    files = None
    if "files" in fields:
        files = {name: _check_file(name, file) for name, file in _check_object(fields["files"]).items()}
    return ListedModel(
        tuple(sources),
        files,
        _check_sums(fields.get("sha256")),
        _check_texts(fields.get("include", []), "include"),
        _check_texts(fields.get("exclude", []), "exclude"),
        _check_object(fields.get("storage_options", {})),
        _check_flag(fields.get("complete", True), "complete"),
    )


def _check_file(name: str, entry: object) -> ModelFile:
    _check_path(name)
    fields = _check_object(entry)
    _check_known(fields, _FILE_FIELDS)
    nbytes, etag = fields.get("nbytes"), fields.get("etag", "")
    sha256, mtime_ns = fields.get("sha256"), fields.get("mtime_ns")
    if nbytes is not None and (type(nbytes) is not int or not 0 <= nbytes <= U64_MAX):
        raise _Wrong(f"file {shown(name)}: expected a whole number of at most 64 bits as nbytes, got {shown(nbytes)}")
    if type(etag) is not str:
        raise _Wrong(f"file {shown(name)}: expected text as etag, got {shown(etag)}")
    if mtime_ns is not None and (type(mtime_ns) is not int or abs(mtime_ns) > U64_MAX):
        raise _Wrong(f"file {shown(name)}: expected a whole number as mtime_ns, got {shown(mtime_ns)}")
    return ModelFile(nbytes, None if sha256 is None else _check_sha256(sha256), etag, mtime_ns)


def _check_sums(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if type(value) is str:
        return {"": _check_sha256(value)}
    sums = {name: _check_sha256(known) for name, known in _check_object(value).items()}
    for name in sums:
        _check_path(name)
    return sums


def _check_path(name: str) -> None:
    if not is_plain_path(name):
        raise _Wrong(f"file {shown(name)}: refused: expected {PLAIN_PATH}")


def _check_sha256(value: object) -> str:
    if type(value) is not str or not _SHA256.fullmatch(value.lower()):
        raise _Wrong(f"expected 64 hexadecimal digits as sha256, got {shown(value)}")
    return value.lower()


def _check_flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"expected true or false as {what}, got {shown(value)}")
    return value


def _check_texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(type(text) is str for text in value):
        raise _Wrong(f"expected a list of texts as {what}, got {shown(value)}")
    return tuple(value)


def _check_known(fields: dict[str, object], known: tuple[str, ...]) -> None:
    """Refuse a field nobody reads: it may be one that somebody relied on."""
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise _Wrong(f"unknown field {shown(unknown)}, known are {', '.join(known)}")


def _check_object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Wrong(f"expected an object, got {shown(value)}")
    return value
