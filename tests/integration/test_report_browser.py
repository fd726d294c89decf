"""A report in a real Chromium: how it fits, what it says beside the pointer, what it asks for, how it prints."""

from __future__ import annotations

import re
from contextlib import contextmanager
from statistics import median

import pytest

from streamload._report import write_report

from ..reports import COLD_START, COMMITTED, TIMELINES, as_result, committed, hostile, with_timelines
from ..unit.test_bench_figures import COMPARE, LINK, STORAGE
from ..unit.test_bench_result import BENCH, MANY

pytest.importorskip("vl_convert")
pytestmark = pytest.mark.slow

WIDTHS = pytest.mark.parametrize("width", [360, 820, 1440])
BLUE = {"light": "rgb(10, 102, 183)", "dark": "rgb(88, 170, 245)"}
MADE_UP = [as_result(each.as_dict(), f"{type(each).__name__}.json") for each in (LINK, STORAGE, COMPARE, BENCH, MANY)]

# Elements that lie outside the window, those within a table that scrolls aside; and texts that a chart cuts off.
OUTSIDE = """() => {
    const width = document.documentElement.clientWidth;
    const out = [...document.querySelectorAll("body *")].filter((each) => {
        const scroll = each.closest(".scroll");
        const box = each.getBoundingClientRect();
        return (!scroll || scroll === each) && box.width && (box.right > width + 0.5 || box.left < -0.5);
    });
    const cut = [...document.querySelectorAll(".chart svg text")].filter((each) => {
        const box = each.getBoundingClientRect();
        const frame = each.closest(".chart").getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1;
    });
    return [...out, ...cut].map((each) => `${each.tagName} ${each.textContent.slice(0, 60)}`);
}"""


def seconds(value):
    if value == 0:
        return "0 s"
    return f"{value:#.4g} s" if value >= 1 else f"{value * 1e3:#.4g} ms"


def rate(value):
    return f"{value:#.4g} GB/s"


@contextmanager
def opened(chromium, path, **settings: object):
    """A page that has drawn its charts; whatever it says or asks for is in `said` and `asked`, and must be nothing."""
    said, asked = [], []
    with chromium.new_context(offline=True, **settings) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        if settings.get("java_script_enabled", True):
            page.wait_for_selector("html[data-drawn=all]", state="attached")
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def sized(width):
    return {"viewport": {"width": width, "height": 900}}


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "every.html"
    results = [
        *map(committed, [path.stem for path in COMMITTED]),
        *MADE_UP,
        as_result(COLD_START),
        with_timelines(),
        hostile(),
    ]
    write_report(results, str(path), made="Made for a test")
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A source, an engine, an overlap, timelines, a cold start and a link, in this order."""
    path = tmp_path_factory.mktemp("report") / "several.html"
    results = [
        committed("host-source"),
        committed("engine-warm"),
        committed("host-overlap"),
        with_timelines(),
        as_result(COLD_START),
        MADE_UP[0],
    ]
    write_report(results, str(path), made="Made for a test")
    return path


def beside_the_pointer(page, chart, *, every=1):
    """Hover over each mark of a chart that feels the pointer, or every so manieth; return what appears, as dicts."""
    found = []
    marks = page.locator(f"#{chart} g.hit_marks > path")
    for number in range(0, marks.count(), every):
        mark = marks.nth(number)
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#vg-tooltip-element.visible")
        rows = page.locator("#vg-tooltip-element tr")
        found.append(dict(rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")))
        shown = page.locator("#vg-tooltip-element").bounding_box()
        assert shown["x"] >= 0
        assert shown["x"] + shown["width"] <= page.viewport_size["width"]
    page.mouse.move(0, 0)
    return found


@WIDTHS
def test_every_kind_fits_and_says_nothing(chromium, every, width):
    with opened(chromium, every, **sized(width)) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate(OUTSIDE) == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate(OUTSIDE) == []
        charts = page.locator(".chart svg")
        assert charts.count() == page.locator(".chart").count() > 30


def test_charts_follow_the_width_of_the_window(chromium, several):
    with opened(chromium, several, **sized(1440)) as page:
        wide = page.locator("#chart-0-0 svg").bounding_box()["width"]
        page.set_viewport_size({"width": 360, "height": 900})
        page.wait_for_function("document.querySelector('#chart-0-0 svg').getBoundingClientRect().width <= 328")
        assert wide > 400
        assert page.evaluate(OUTSIDE) == []


@WIDTHS
def test_beside_the_pointer_stand_the_source_s_rates(chromium, several, width):
    content = committed("host-source").content
    with opened(chromium, several, **sized(width)) as page:
        found = beside_the_pointer(page, "chart-0-0")
    assert {each["who"]: each["median"] for each in found} == {
        name: rate(value) for name, value in content["gigabytes_per_second"].items()
    }
    rounds = {
        score["name"]: sorted(content["nbytes"] / each["seconds"] / 1e9 for each in score["idle"])
        for score in content["scores"]
        if not score["cannot_run"]
    }
    assert {each["who"]: each["rounds"] for each in found} == {
        name: f"{rate(each[0])} to {rate(each[-1])}" for name, each in rounds.items()
    }


@WIDTHS
def test_beside_the_pointer_stands_what_a_layer_did(chromium, several, width):
    with opened(chromium, several, **sized(width)) as page:
        found = beside_the_pointer(page, "chart-3-0", every=1 if width == 360 else 5)
    expected = [
        {
            "load": made["title"],
            "layer": span["layer"],
            "lane": span["lane"],
            "began": seconds(span["start"]),
            "ended": seconds(span["end"]),
            "took": seconds(span["end"] - span["start"]),
            "bytes": f"{span['nbytes'] / 1e6:.2f} MB" if span["nbytes"] else "–",
            "spans": "1",
        }
        for made in TIMELINES
        for span in made["spans"]
    ]
    assert len(found) == (len(expected) if width == 360 else -(-len(expected) // 5))
    assert all(each in expected for each in found)


def test_beside_the_pointer_stand_the_other_charts_figures(chromium, several):
    engine, overlap = committed("engine-warm").content, committed("host-overlap").content
    with opened(chromium, several, **sized(1440)) as page:
        # Before the bars stands what was done when.
        bars = [each for place in range(1, 4) for each in beside_the_pointer(page, f"chart-1-{place}")]
        cold, layers = beside_the_pointer(page, "chart-2-0"), beside_the_pointer(page, "chart-2-1", every=9)
        first_tokens = beside_the_pointer(page, "chart-3-1")
        phases = beside_the_pointer(page, "chart-4-0")
        points = beside_the_pointer(page, "chart-5-0")
    assert {each["who"]: each["median"] for each in bars} == {
        name: rate(engine["nbytes"] / took / 1e9) for name, took in engine["median_seconds"].items()
    }
    assert [each["median"] for each in cold if each["who"] == "streamed"] == [
        seconds(case["figures"]["streamed_seconds"]) for case in overlap["cold"]
    ]
    worst = max(overlap["cold"], key=lambda case: case["figures"]["stall_seconds"])
    assert {each["layer"]: (each["took"], each["the other way"]) for each in layers} == {
        name: (seconds(took), seconds(worst["layer_streamed_seconds"][name]))
        for name, took in list(worst["layer_compute_seconds"].items())[::9]
    }
    demo = committed("host-demo").content
    assert {each["who"]: each["median"] for each in first_tokens}["first token, streamed"] == seconds(
        median(demo["streamed"]["seconds"])
    )
    assert sorted((each["phase"], each["began at"], each["took"]) for each in phases) == sorted(
        (phase["name"], seconds(phase["start"]), seconds(phase["end"] - phase["start"]))
        for phase in COLD_START["phases"]
    )
    copies = [each for each in MADE_UP[0].content["figures"] if each["score"]["target"] == "copies"]
    assert sorted((each["who"], each["median"]) for each in points) == sorted(
        (each["score"]["name"], rate(each["gigabytes_per_second"])) for each in copies
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_paper_is_white(chromium, several, scheme):
    fill = "getComputedStyle(document.querySelector('#chart-3-1 g.layer_0_marks > path:nth-child(3)')).fill"
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(chromium, several, **sized(820), color_scheme=scheme) as page:
        assert page.evaluate(fill) == BLUE[scheme]
        assert (page.evaluate(background) == "rgb(255, 255, 255)") == (scheme == "light")
        page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        assert page.evaluate(fill) == BLUE["light" if scheme == "dark" else "dark"]
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(fill) == BLUE["light"]
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        assert page.locator("button").first.is_hidden()


def test_it_prints_with_its_tables(chromium, several):
    with opened(chromium, several, **sized(820)) as page:
        page.evaluate(
            "addEventListener('beforeprint', () => setTimeout(() => 0)); addEventListener('beforeprint', () => "
            "(window.folded = document.querySelectorAll('details:not([open])').length))"
        )
        printed = page.pdf(format="A4")
        assert page.evaluate("window.folded") == 0
        assert page.locator("details[open]").count() == 0
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 6  # each result begins a page


def test_the_data_comes_out_to_the_byte(chromium, tmp_path):
    results = [committed("host-source"), hostile()]
    path = tmp_path / "report.html"
    write_report(results, str(path), made="Made for a test")
    with opened(chromium, path, accept_downloads=True) as page:
        assert page.evaluate("document.querySelectorAll('script').length") == 4
        assert page.locator("img").count() == 0
        for number, result in enumerate(results):
            with page.expect_download() as download:
                page.locator(f"button[data-result='{number}']").click()
            target = tmp_path / f"{number}.json"
            download.value.save_as(target)
            assert target.read_bytes() == result.text.encode()
            if number == 0:
                assert download.value.suggested_filename == result.name


@WIDTHS
def test_without_javascript_the_tables_say_it_all(chromium, several, width):
    content = committed("host-source").content
    with opened(chromium, several, java_script_enabled=False, **sized(width)) as page:
        assert page.get_by_text(rate(content["gigabytes_per_second"]["obstore"]), exact=True).first.is_visible()
        assert page.locator("button").first.is_hidden()
        assert page.locator("details:not([open])").count() == len(page.locator("details.facts").all())
