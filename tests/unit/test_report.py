"""What reports show: every figure is the JSON's, in charts, tables and verdicts."""

from __future__ import annotations

import json
from statistics import median

import pytest

from streamload._report import (
    KINDS,
    read_result,
    section_of,
)
from streamload._report._say import say, say_ratio
from streamload.bench import result_kinds, result_schema

from ..reports import COLD_START, COMMITTED, TIMELINES, as_result, committed, with_timelines
from .test_bench_figures import COMPARE, LINK, STORAGE
from .test_bench_result import BENCH, MANY

MADE_UP = [
    as_result(bench.as_dict(), f"{type(bench).__name__}.json") for bench in (LINK, STORAGE, COMPARE, BENCH, MANY)
]
EVERY = [*map(read_result, COMMITTED), *MADE_UP, as_result(COLD_START, "cold.json"), with_timelines()]
each_result = pytest.mark.parametrize("result", EVERY, ids=lambda result: result.name)


def layer(chart, name="hit"):
    (found,) = (each for each in chart.spec["layer"] if each.get("name") == name)
    return found


def drawn(chart):
    """Return a chart's bars, points or spans as (name, figure)."""
    rows = layer(chart).get("data", chart.spec.get("data"))["values"]
    return [(row["name"], row["rate"] if "rate" in row else row["to"]) for row in rows]


def charts(result, *, like=""):
    return [chart for chart in section_of(result).charts if like in chart.title]


# --- what is shown -----------------------------------------------------------------------------------------------


def test_every_kind_of_result_has_a_page():
    kinds = set()
    for name in result_kinds():
        properties = result_schema(name)["properties"]
        kinds.add((properties["kind"] if "kind" in properties else properties["benchmark"])["const"])
    assert set(KINDS) == kinds | {"cold start"}


@each_result
def test_every_result_is_shown_with_verdicts_charts_and_the_same_values_in_tables(result):
    section = section_of(result)
    assert section.verdicts
    assert section.charts
    for chart in section.charts:
        assert chart.table.rows
        assert all(len(row) == len(chart.table.head) for row in chart.table.rows)
        words = {cell for row in chart.table.rows for cell in row}
        for row in layer(chart).get("data", chart.spec.get("data"))["values"]:
            if "words" in row:
                assert row["words"] in words


@each_result
def test_the_command_and_the_machine_are_shown(result):
    facts = dict(section_of(result).facts)
    machine = result.content.get("machine", {})
    for name, key in (("Native build", "native_build"), ("Commit", "commit"), ("Machine", "processor")):
        assert facts.get(name) == machine.get(key)
    if result.content.get("command") and isinstance(result.content["command"], str):
        assert facts["Command"] == result.content["command"]


@pytest.mark.parametrize("stem", ["engine-warm", "engine-cold"])
def test_the_engine_s_bars_are_its_medians_and_the_mark_is_what_its_ratio_is_to(stem):
    result = committed(stem)
    content = result.content
    seen = set()
    by_target = charts(result)[-3:]  # newer results have a timeline before them
    for target, chart in zip(("existing", "new", "ring"), by_target, strict=True):
        for name, rate in drawn(chart):
            assert rate == content["nbytes"] / content["median_seconds"][name] / 1e9
            seen.add(name)
        ours = max(rate for name, rate in drawn(chart) if "fill" in name or "iter" in name)
        mark = layer(chart, "mark")["data"]["values"][0]["x"]
        assert ours / mark == pytest.approx(content["ratios"][f"{target}_to_ceiling"], rel=1e-12)
    assert seen == set(content["median_seconds"])


@pytest.mark.parametrize("stem", ["host-source", "host-source-own"])
def test_the_source_s_bars_are_its_rates(stem):
    result = committed(stem)
    idle, *busy = charts(result)
    assert dict(drawn(idle)) == pytest.approx(result.content["gigabytes_per_second"])
    assert [dict(drawn(chart)) for chart in busy] == [
        pytest.approx(rates) for rates in [result.content["busy_gigabytes_per_second"]] if rates
    ]
    ran = {row[0] for row in idle.table.rows if "GB/s" in row[2]}
    assert ran == set(result.content["gigabytes_per_second"])


def test_a_client_that_did_not_run_is_in_the_table_with_the_reason():
    rows = {row[0]: row[2] for row in charts(committed("host-source"))[0].table.rows}
    assert rows["runai-model-streamer"] == "humanize is not installed"


def test_the_comparison_s_bars_are_its_rates():
    result = MADE_UP[2]
    for side, chart in zip(("warm", "cold"), charts(result), strict=True):
        assert dict(drawn(chart)) == pytest.approx(result.content["gigabytes_per_second"][side])
    assert {row[0]: row[2] for row in charts(result)[0].table.rows}["liar"].startswith("wrong: the bytes of 'a'")


def test_the_drive_s_bars_are_its_figures_and_marks_what_its_ratios_are_to():
    result = MADE_UP[1]
    rates = {each["score"]["name"]: each["gigabytes_per_second"] for each in result.content["figures"]}
    for target, chart in zip(("direct", "buffered", "cached"), charts(result), strict=True):
        bars = dict(drawn(chart))
        assert bars.items() <= rates.items()
        ours = max(
            bars[each["score"]["name"]]
            for each in result.content["figures"]
            if (each["score"]["role"], each["score"]["target"]) == ("streamload", target)
        )
        mark = layer(chart, "mark")["data"]["values"][0]["x"]
        assert ours / mark == pytest.approx(result.content["ratios"][f"{target}_to_ceiling"])


def test_the_link_s_points_are_its_figures():
    figures = MADE_UP[0].content["figures"]
    for target, chart in zip(("copies", "pageable"), charts(MADE_UP[0], like="Copies"), strict=True):
        own = [each for each in figures if each["score"]["target"] == target]
        assert sorted(drawn(chart)) == sorted((each["score"]["name"], each["gigabytes_per_second"]) for each in own)
    (pinning,) = charts(MADE_UP[0], like="pinning")
    assert dict(drawn(pinning)) == MADE_UP[0].content["pinning_seconds_per_gb"]


def test_the_overlap_s_bars_are_its_figures():
    result = committed("host-overlap")
    cold, layers, peers = charts(result)
    expected = []
    for case in result.content["cold"]:
        figures = case["figures"]
        expected += [
            ("max(X, C)", max(figures["move_seconds"], figures["compute_seconds"])),
            ("streamed", figures["streamed_seconds"]),
            ("every weight waited for first", figures["usual_seconds"]),
        ]
    assert drawn(cold) == expected
    assert dict(drawn(peers)) == {
        peer["name"]: peer["figures"]["first_token_seconds"]
        for peer in result.content["peers"]
        if not peer["cannot_run"]
    }
    worst = max(result.content["cold"], key=lambda case: case["figures"]["stall_seconds"])
    seconds = {(row["layer"], row["way"]): row["seconds"] for row in layers.spec["data"]["values"]}
    assert {name: took for (name, way), took in seconds.items() if way == "resident"} == worst["layer_compute_seconds"]
    assert {name: took for (name, way), took in seconds.items() if way != "resident"} == worst["layer_streamed_seconds"]


def test_first_tokens_are_the_json_s():
    demo = committed("host-demo")
    bars = dict(drawn(charts(demo)[0]))
    medians = demo.content["median_seconds"]
    assert bars["first token, streamed"] == medians["streamed"]
    assert bars["first token, the usual way"] == medians["usual"]
    assert bars["C: one pass, all resident"] == medians["compute"]
    assert bars["X: all weights over the link"] == demo.content["move_seconds"]
    assert "first token, safetensors" not in bars  # null in this result

    pretrained = committed("from-pretrained")
    (chart,) = charts(pretrained)
    medians = pretrained.content["medians"]
    assert [value for _, value in drawn(chart)] == [
        medians[side][f"{what}_seconds"]
        for what in ("return", "first_token", "resident", "copied")
        for side in ("stock", "streamed")
        if medians[side][f"{what}_seconds"] is not None
    ]

    planning = committed("planning")
    assert [value for _, value in drawn(charts(planning)[0])] == [
        median(planning.content[f"{side}_seconds"]) for side in ("stock", "streamed", "resident")
    ]


def test_servers_and_slow_links_show_medians_of_their_runs():
    server, slow = committed("host-server"), committed("slow-link")
    values = [value for _, value in drawn(charts(server)[0])]
    for prompt in server.content["prompts"].values():
        for way in ("streaming", "blocking"):
            assert median(run[way]["first_token"] for run in prompt["runs"]) in values
    values = [value for _, value in drawn(charts(slow)[0])]
    for case in slow.content["compute_to_link"].values():
        assert {median(run[way] for run in case["runs"]) for way in ("streamed", "usual")} <= set(values)
    vllm = committed("vllm")
    expected = sorted(took for each in vllm.content["loaders"].values() for took in each["median_seconds"].values())
    assert sorted(value for _, value in drawn(charts(vllm)[0])) == expected


def test_many_tensors_show_their_rates():
    for result in (committed("engine-many"), MADE_UP[4]):
        rates, costs = charts(result)
        expected = {
            score["name"]: nbytes / median(score["seconds"]) / 1e9
            for nbytes, side in zip(result.content["nbytes"], ("few", "many"), strict=True)
            for score in result.content[side]
        }
        assert dict(drawn(rates)) == expected
        assert dict(drawn(costs)) == {
            "opening": result.content["open_microseconds_per_tensor"],
            "planning": result.content["plan_microseconds_per_tensor"],
        }


@each_result
def test_a_verdict_is_one_of_the_json_s_figures_to_three_digits(result):
    numbers = set()

    def collect(value):
        if isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers.update({f"{say_ratio(value)} ×", say(value, "s")})

    collect(result.content)
    derived = {
        "bench engine": 1,
        "bench compare": 1,
        "bench source": 1,
        "bench storage": 1,
        "demo": 2,
        "vllm-load-weights": 2,
    }
    strange = [verdict for verdict in section_of(result).verdicts if verdict.figure not in numbers]
    assert len(strange) <= derived.get(result.kind, 0), strange  # spreads, what is equal, and ratios of two medians


def test_phases_stand_where_they_were_and_add_up():
    (chart,) = charts(as_result(COLD_START))
    rows = layer(chart).get("data", chart.spec["data"])["values"]
    by_start = sorted(rows, key=lambda row: row["start"])
    assert [(row["name"], row["start"], row["end"]) for row in by_start] == [
        (phase["name"], phase["start"], phase["end"]) for phase in COLD_START["phases"]
    ]
    assert [row["detail"] for row in by_start] == [
        "process_start",
        "torch",
        "first_token",
        "transformers",
        "first_token",
    ]
    assert {row[0]: row[1] for row in chart.table.rows} == {
        name: say(seconds, "s") for name, seconds in COLD_START["totals"].items()
    }


def test_a_timeline_has_every_span_where_it_was_with_the_sequential_load_above():
    chart = charts(with_timelines())[0]
    rows = layer(chart)["data"]["values"]
    for made in TIMELINES:
        own = [row for row in rows if row["load"] == made["title"]]
        assert sorted((row["lane"], row["layer"], row["start"], row["end"], row["nbytes"]) for row in own) == sorted(
            (span["lane"], span["layer"], span["start"], span["end"], span["nbytes"]) for span in made["spans"]
        )
    first, second = ([row for row in rows if row["load"] == made["title"]] for made in TIMELINES)
    assert max(row["low"] for row in first) < min(row["high"] for row in second)
    domains = {
        json.dumps(each["encoding"]["x"].get("scale"))
        for each in chart.spec["layer"]
        if "scale" in each["encoding"]["x"]
    }
    assert domains == {json.dumps({"domain": [0, 1.3], "nice": False})}
    first_row = (
        "embed_tokens",
        TIMELINES[0]["title"],
        "0 s to 40.00 ms",
        "50.00 ms to 90.00 ms",
        "700.0 ms to 780.0 ms",
    )
    assert chart.table.rows[0] == first_row


def test_a_timeline_of_very_many_layers_and_spans_stays_readable():
    layers = [f"model.layers.{number}" for number in range(200)]
    spans = [
        {
            "lane": "read",
            "layer": name,
            "start": place * 0.01 + part * 0.001,
            "end": place * 0.01 + part * 0.001 + 0.001,
            "nbytes": 7,
            "thread": 0,
        }
        for place, name in enumerate(layers)
        for part in range(10)
    ]
    instants = [*[[f"{name} resident", 0.01] for name in layers], ["all resident", 2.0]]
    made = {"title": "one", "layers": layers, "spans": spans, "instants": instants}
    chart = charts(as_result({**committed("host-demo").content, "timelines": [made]}))[0]
    rows = layer(chart)["data"]["values"]
    assert len(chart.table.rows) <= 24
    assert len(rows) == len(chart.table.rows)
    assert sum(row["nbytes"] for row in rows) == 7 * len(spans)
    assert sum(row["spans"] for row in rows) == len(spans)
    texts = [value.get("text") for each in chart.spec["layer"] for value in each["data"]["values"]]
    assert "all resident 2.000 s" in texts
    assert not any(text and text.startswith("model.layers.3 resident") for text in texts)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (3.0495975, "GB/s", "3.050 GB/s"),
        (12.0, "GB/s", "12.00 GB/s"),
        (0.0123456, "s", "12.35 ms"),
        (1234.5, "s", "1,234 s"),
        (0.0, "s", "0 s"),
        (1e-7, "s", "0.0001 ms"),
        (None, "s", "–"),
        (1_048_576, "bytes", "1.05 MB"),
    ],
)
def test_figures_have_four_digits(value, unit, words):
    assert say(value, unit) == words
