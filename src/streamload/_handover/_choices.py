"""What an engine's free-form options say: a mapping from the command line becomes typed values, or is refused.

Part of `_handover`; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, cast

from ..options import StreamOptions
from ..torch._submit import check_options

__all__ = ["Choices", "read_choices"]

_OWN: Final = ("storage_options", "uri")


@dataclass(frozen=True, slots=True)
class Choices:
    """Hold what was chosen for the loads of one engine.

    Attributes:
        options: How to read and stage.
        uri: Where the weights of the model are; None: where the engine says.
        storage_options: Credentials and endpoints of the store that `uri` is in.
    """

    options: StreamOptions
    uri: str | None = None
    storage_options: Mapping[str, object] | None = field(default=None, repr=False)  # it may hold secrets


def read_choices(given: object, where: str) -> Choices:
    """Return what a mapping says.

    Args:
        given: The fields of `StreamOptions`, `uri` and `storage_options`; each may be missing.
        where: What the engine calls it, for messages.

    Raises:
        ValueError: It is no mapping, a key is not known, or a value is out of range or of the wrong kind.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} must be a mapping, got {type(given).__name__}")
    known = {each.name for each in fields(StreamOptions)}
    unknown = sorted(str(key) for key in given if key not in known and key not in _OWN)
    if unknown:
        raise ValueError(
            f"{where} has no key {', '.join(map(repr, unknown))}; the keys are {', '.join(sorted([*known, *_OWN]))}"
        )
    uri, storage_options = given.get("uri"), given.get("storage_options")
    if uri is not None and (not isinstance(uri, str) or not uri):
        raise ValueError(f"{where}: uri must be a path or URL, got {uri!r:.80}")
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise ValueError(f"{where}: storage_options must be a mapping, got {type(storage_options).__name__}")
    if storage_options is not None and uri is None:
        raise ValueError(f"{where}: storage_options are for the store that uri is in; give uri too")
    try:
        options = StreamOptions(**{str(key): value for key, value in given.items() if key in known})
        check_options(options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Choices(options, uri, cast("Mapping[str, object] | None", storage_options))
