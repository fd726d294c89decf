"""Write reports: the end of a file's name says in what form.

Part of `_report`.
"""

from __future__ import annotations

import os
import re
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .._whole_file import replace_file, write_whole
from ._kinds import section_of
from ._page import page
from ._pictures import library, picture_png, picture_svg
from ._result import ReportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._chart import Section
    from ._result import Result

__all__ = ["Form", "check_report", "form_of", "write_report"]


class Form(Enum):
    """Name what a report is written as."""

    PAGE = "one HTML file"
    PNG = "one picture"
    SVG = "one drawing"
    FOLDER = "a PNG and an SVG of each chart"


_ENDINGS = {".html": Form.PAGE, ".htm": Form.PAGE, ".png": Form.PNG, ".svg": Form.SVG}


def form_of(target: str) -> Form:
    """Return the form that a path asks for by its end: .html, .png, .svg, or a folder's "/".

    Raises:
        ReportError: It asks for none of these.
    """
    if target.endswith("/") or Path(target).is_dir():
        return Form.FOLDER
    form = _ENDINGS.get(Path(target).suffix.lower())
    if form is None:
        raise ReportError(f"{target}: a report is a .html file, a .png or .svg picture, or a folder/ of both")
    return form


def check_report(target: str) -> Form:
    """Return the form that a path asks for, once it is known that it can be drawn and written.

    Raises:
        ReportError: The path asks for no form, its folder is not there or not to be written in.
        ModuleNotFoundError: vl-convert-python is not installed.
    """
    form = form_of(target)
    path = Path(target).absolute()
    folder = path if form is Form.FOLDER and path.exists() else path.parent
    if not folder.is_dir():
        raise ReportError(f"{target}: there is no such folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ReportError(f"{target}: its folder cannot be written in")
    if form is not Form.FOLDER and path.exists() and not path.is_file():
        raise ReportError(f"{target}: is no file")
    if find_spec("vl_convert") is None:
        raise ModuleNotFoundError("vl-convert-python is not installed", name="vl_convert")
    return form


def write_report(results: Sequence[Result], target: str, *, made: str) -> list[Path]:
    """Write a report, and return the files that it is.

    Each file appears when it is whole.

    Args:
        results: What it shows, in this order.
        target: Where; see `form_of`.
        made: When and by what, in a line at the page's foot.

    Raises:
        ReportError: As `check_report`; or a result cannot be shown, or has nothing to draw in a picture.
        ModuleNotFoundError: vl-convert-python is not installed.
        OSError: A file cannot be written.
    """
    form = check_report(target)
    sections = [section_of(result) for result in results]
    path = Path(target)
    if form is Form.PAGE:
        write_whole(path, page(sections, library=library(), made=made))
        return [path]
    if form is Form.FOLDER:
        return _write_each(sections, path)
    charts = [chart for section in sections for chart in section.charts]
    if not charts:
        raise ReportError(f"{target}: nothing in these results can be drawn")
    _write_bytes(path, picture_png(charts) if form is Form.PNG else picture_svg(charts))
    return [path]


def _write_each(sections: Sequence[Section], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    for section in sections:
        for chart in section.charts:
            stem = f"{Path(section.result.name).stem}-{_slug(chart.title)}"
            while any(path.stem == stem for path in written):
                stem += "-again"
            for ending, draw in ((".svg", picture_svg), (".png", picture_png)):
                path = folder / f"{stem}{ending}"
                _write_bytes(path, draw([chart]))
                written.append(path)
    if not written:
        raise ReportError(f"{folder}/: nothing in these results can be drawn")
    return written


def _write_bytes(path: Path, data: bytes) -> None:
    replace_file(str(path.resolve()), data)


def _slug(title: str) -> str:
    """Return a title as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
