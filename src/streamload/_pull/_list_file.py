"""Read and change the list of models in a directory: `models.json`.

Part of `_pull`. Changed under a lock and written in one step, so that several pulls into one directory each leave
their models in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._format import ListedModel, ModelList, format_models, parse_models
from .._whole_file import replace_file
from ._partial import WorkFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event

LIST_NAME: Final = "models.json"


def read_models(path: str | os.PathLike[str]) -> ModelList:
    """Read and check a list of models.

    Raises:
        FileNotFoundError, PermissionError, OSError: It cannot be read.
        FormatError: It is not valid.
    """
    text = os.fspath(path)
    return parse_models(Path(text).read_bytes(), url=text)


def listed_in(directory: Path) -> Mapping[str, ListedModel]:
    """Return the models that the list of a directory names; none where there is no list."""
    try:
        return read_models(directory / LIST_NAME).models
    except FileNotFoundError:
        return {}


def change_list(
    directory: Path, name: str, change: Callable[[ListedModel | None], ListedModel | None], stop: Event
) -> None:
    """Change what the list of a directory says of one model; nothing is written where nothing changes.

    Raises:
        FormatError: The list is not valid.
        OSError: It cannot be read or written.
        StreamClosedError: `stop` was set while another pull was writing.
    """
    with WorkFiles(directory, LIST_NAME) as files:
        files.lock(stop, lambda: None)
        models = dict(listed_in(directory))
        before = models.get(name)
        after = change(before)
        if after is not None and after != before:
            models[name] = after
            replace_file(
                str(directory / LIST_NAME), format_models(ModelList(models)).encode(), temporary=files.temporary
            )
        files.forget()
