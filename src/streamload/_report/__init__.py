"""Pages and pictures of results: of every benchmark, and of cold starts.

Floor 3; `vl-convert-python` (the `report` extra) is imported when something is drawn. `write_report` writes results,
one section each, as one HTML file that needs no network, or their charts as PNG or SVG. The map:

    _result                         a result as its file holds it
    _kinds                          kind of result → section: verdicts, charts, tables
    _bars, _lines, _layers, _timeline   figures → chart, as Vega-Lite
    _chart, _say, _theme            what they share: records, words for figures, colours
    _page, page.css, page.js        sections → HTML
    _pictures, _write               charts → PNG, SVG; files
"""

from ._kinds import KINDS, section_of
from ._result import ReportError, Result, read_result, result_of
from ._write import Form, check_report, form_of, write_report

__all__ = [
    "KINDS",
    "Form",
    "ReportError",
    "Result",
    "check_report",
    "form_of",
    "read_result",
    "result_of",
    "section_of",
    "write_report",
]
