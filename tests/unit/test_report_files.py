"""Pages and pictures of results: whatever is in a result stays text, nothing is asked for, errors say what to do."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from streamload._report import (
    KINDS,
    Form,
    ReportError,
    Result,
    check_report,
    form_of,
    read_result,
    section_of,
    write_report,
)
from streamload._report import result_of as read_text
from streamload.cli import main
from streamload.cli._bench_options import measured

from ..reports import COLD_START, COMMITTED, HOSTILE, LAYERS, as_result, committed, hostile, with_timelines
from .test_bench_figures import LINK
from .test_report import EVERY, MADE_UP


def drawing(test):
    """Mark a test that draws: it needs the library, which takes a second to get ready."""
    absent = importlib.util.find_spec("vl_convert") is None
    return pytest.mark.slow(pytest.mark.skipif(absent, reason="needs vl-convert-python")(test))


class Page(HTMLParser):
    """A page's elements, and what its scripts hold."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.said = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data
        else:
            self.said += data


def page_of(tmp_path, *results: Result):
    path = tmp_path / "report.html"
    write_report(results, str(path), made="Made for a test")
    return Page(path.read_text(encoding="utf-8"))


# --- what cannot be shown ----------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_those_that_are_known():
    with pytest.raises(
        ReportError, match=r"no report shows results of kind 'horoscope'; known are bench compare, .*demo"
    ):
        section_of(as_result({"kind": "horoscope"}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_lacks_something_is_refused(kind):
    with pytest.raises(ReportError, match=r"made-up\.json: is no whole result of kind"):
        section_of(as_result({"kind": kind, "machine": "a Commodore 64"}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no JSON"),
        ("[1]", "a JSON object was expected"),
        ('{"a": 1}', 'it has no "kind"'),
        ('{"kind": 3}', 'it has no "kind"'),
        ("[" * 100_000, "is no JSON"),
        ("﻿{}", "is no JSON"),
    ],
)
def test_what_is_no_result_is_refused(text, why):
    with pytest.raises(ReportError, match=re.escape(why)):
        read_text("x.json", text)


def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"kind": "\xff"}')
    with pytest.raises(ReportError, match=r"x\.json: is no UTF-8 text"):
        read_result(path)


def test_numbers_that_json_does_not_know_are_gaps():
    assert read_text("x", '{"kind": "x", "a": NaN, "b": -Infinity, "c": 1e999}').content == {
        "kind": "x",
        "a": None,
        "b": None,
        "c": None,
    }


@pytest.mark.parametrize(
    ("target", "form"),
    [("a.html", Form.PAGE), ("A.HTM", Form.PAGE), ("a.png", Form.PNG), ("b/a.svg", Form.SVG), ("charts/", Form.FOLDER)],
)
def test_the_end_of_a_name_says_in_what_form(target, form):
    assert form_of(target) is form


def test_a_report_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ReportError, match=r"a report is a \.html file"):
        check_report(str(tmp_path / "a.pdf"))
    with pytest.raises(ReportError, match="there is no such folder"):
        check_report(str(tmp_path / "nowhere" / "a.html"))
    with pytest.raises(ReportError, match="there is no such folder"):
        check_report(f"{tmp_path}/nowhere/charts/")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ReportError, match="cannot be written in"):
        check_report(str(tmp_path / "a.html"))


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("streamload._report._write.find_spec", lambda _: None)
    done = CliRunner().invoke(main, ["report", str(COMMITTED[0]), "--to", str(tmp_path / "a.html")])
    assert done.exit_code == 2
    assert "this needs vl_convert: pip install 'streamload[report]'" in done.output
    assert list(tmp_path.iterdir()) == []


# --- the page ----------------------------------------------------------------------------------------------------


@drawing
def test_the_page_embeds_each_result_once_and_to_the_byte(tmp_path):
    results = [committed("host-source"), hostile()]
    page = page_of(tmp_path, *results)
    embedded = json.loads(page.scripts[1])
    assert [(each["name"], each["text"]) for each in embedded] == [(each.name, each.text) for each in results]
    assert embedded[0]["text"].encode() == next(path for path in COMMITTED if path.name == results[0].name).read_bytes()


@drawing
def test_whatever_is_in_a_result_stays_text(tmp_path):
    page = page_of(tmp_path, hostile(), with_timelines())
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 4
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE in page.said
    assert json.loads(page.scripts[0]).keys() >= {"chart-0-0", "chart-1-1"}


@drawing
def test_the_page_asks_nobody_for_anything(tmp_path):
    page = page_of(tmp_path, *EVERY)
    sources = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert {source[:6] for source in sources} <= {"data:,", "#resul"}
    (policy,) = (each["content"] for tag, each in page.elements if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    for script in page.scripts[2:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    style = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


@drawing
def test_several_results_have_a_list_of_contents(tmp_path):
    page = page_of(tmp_path, *EVERY)
    assert [each["href"] for tag, each in page.elements if tag == "a"] == [f"#result-{n}" for n in range(len(EVERY))]
    assert {f"result-{n}" for n in range(len(EVERY))} <= {each.get("id") for _, each in page.elements}
    assert [tag for tag, _ in page.elements].count("h1") == 1


# --- pictures ----------------------------------------------------------------------------------------------------


@drawing
def test_pictures_of_every_result_are_made(tmp_path):
    results = [*MADE_UP, as_result(COLD_START), with_timelines(), committed("host-overlap"), committed("host-demo")]
    written = write_report(results, f"{tmp_path}/charts/", made="")
    assert len(written) == len(set(written)) == 2 * sum(len(section_of(result).charts) for result in results)
    for path in written:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG")
        else:
            text = data.decode()
            ElementTree.fromstring(text)
            assert "var(--" not in text
            assert "NaN" not in text


@drawing
def test_one_picture_holds_all_charts(tmp_path):
    (path,) = write_report([with_timelines()], str(tmp_path / "a.svg"), made="")
    texts = [each.text for each in ElementTree.fromstring(path.read_text("utf-8")).iter() if each.tag.endswith("}text")]
    assert {"What was done when", "Until the first token", "load everything, then compute"} <= set(texts)
    assert all(name.removeprefix("model.") in texts for name in LAYERS)


@drawing
@pytest.mark.parametrize("stem", ["compare", "host-source", "engine-many"])
def test_one_picture_draws_what_each_chart_draws_alone(stem, tmp_path):
    (one,) = write_report([committed(stem)], str(tmp_path / "a.svg"), made="")
    each = [path for path in write_report([committed(stem)], f"{tmp_path}/charts/", made="") if path.suffix == ".svg"]
    assert len(each) > 1
    assert bars_of(one) == sorted(bar for path in each for bar in bars_of(path))


def bars_of(path) -> list[str]:
    """What bars and lines are drawn, as a screen reader says it."""
    marks = re.findall(r'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="([^"]*)"', path.read_text())
    return sorted(f"{kind}: {label}" for label, kind in marks if "axis" not in kind)


# --- the command line --------------------------------------------------------------------------------------------


@drawing
def test_the_command_makes_a_page_of_committed_results(tmp_path):
    target = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", *map(str, COMMITTED), "--to", str(target)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert f"report written to {target}" in done.stderr
    assert len(json.loads(Page(target.read_text("utf-8")).scripts[1])) == len(COMMITTED)


def test_the_command_names_the_file_that_it_cannot_show(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"kind": "horoscope"}', encoding="utf-8")
    done = CliRunner().invoke(main, ["report", str(COMMITTED[0]), str(bad), "--to", str(tmp_path / "a.html")])
    assert done.exit_code == 2
    assert "bad.json: no report shows results of kind 'horoscope'" in done.stderr
    assert not (tmp_path / "a.html").exists()


@drawing
def test_a_benchmark_s_report_holds_what_its_json_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("streamload.bench._result.check_build", lambda _: None)
    json_path, target = tmp_path / "link.json", tmp_path / "link.html"
    measured(lambda _: LINK, str(json_path), report_path=str(target))
    (embedded,) = json.loads(Page(target.read_text("utf-8")).scripts[1])
    assert embedded == {"name": "link.json", "text": json_path.read_text("utf-8")}


@pytest.mark.parametrize("command", ["link", "storage", "compare", "engine", "overlap", "from_pretrained", "source"])
def test_benchmarks_refuse_a_report_that_cannot_be_written_before_they_measure(command):
    assert "--report" in CliRunner().invoke(main, ["bench", command, "--help"]).output
    done = CliRunner().invoke(main, ["bench", command, "--report", "nowhere/out.html"])
    assert done.exit_code == 2
    assert "nowhere/out.html: there is no such folder" in done.stderr
    done = CliRunner().invoke(main, ["bench", command, "--report", "out.docx"])
    assert done.exit_code == 2
    assert "out.docx: a report is a .html file" in done.stderr


def test_a_cold_start_refuses_a_report_that_cannot_be_written_before_it_measures():
    done = CliRunner().invoke(main, ["coldstart", "--report", "nowhere/out.html", "--", "python", "-c", "print(1)"])
    assert done.exit_code == 2
    assert "nowhere/out.html: there is no such folder" in done.stderr
