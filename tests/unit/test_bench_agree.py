"""Two results held against each other: which medians agree, which results are refused. The numbers are made up."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamload.bench import BenchError, agreement_of, result_kinds, result_schema
from streamload.bench._agree._kinds import KINDS
from streamload.bench._samples import medians_agree, spread_of
from streamload.cli import main

from .test_bench_figures import COMPARE, LINK, STORAGE
from .test_bench_result import BENCH, MANY
from .test_overlap_result import BENCH as OVERLAP
from .test_pretrained_bench_result import BENCH as PRETRAINED
from .test_source_bench_result import BENCH as SOURCE

COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
MADE_UP = [LINK, STORAGE, COMPARE, BENCH, MANY, OVERLAP, PRETRAINED, SOURCE]
# Where one figure of each kind has its samples, and what the figure is called.
SAMPLES = {
    "bench engine": (("scores", 3, "seconds"), "fill"),
    "bench many tensors": (("many", 1, "seconds"), "fill, 20,000 tensors"),
    "bench compare": (("sides", "warm", "scores", 1, "seconds"), "warm: iter_tensors"),
    "bench link": (("figures", 1, "score", "seconds"), "copies queued, 1 MiB"),
    "bench storage": (("figures", 2, "score", "seconds"), "io_uring, direct"),
    "bench source": (("scores", 1, "idle", 0, "seconds"), "streamload, into place"),
    "bench from_pretrained": (("streamed", "first_token_seconds"), "streamed: first token"),
    "bench overlap": (("cold", 0, "ratios"), "first token over max(X, C), prompt 1 of 1"),
}


def as_json(bench):
    return json.loads(json.dumps(bench.as_dict()))


def of_kind(kind):
    (found,) = (result for result in map(as_json, MADE_UP) if result["kind"] == kind)
    if kind == "bench many tensors":  # made up with one round
        for score in (*found["few"], *found["many"]):
            score["seconds"] *= 3
    return found


def changed(result, path, change):
    """A copy with something else at a path."""
    found = copy.deepcopy(result)
    *before, last = path
    inside = found
    for step in before:
        inside = inside[step]
    inside[last] = change(inside[last])
    return found


def slower(samples):
    return [100 + each for each in samples] if isinstance(samples, list) else 100 + samples


def verdicts(agreement):
    return {row.first.name: row.verdict for row in agreement.rows}


def test_medians_agree_within_the_larger_width():
    assert medians_agree((1.0, 1.1, 1.3), (1.35, 1.4, 1.4))  # 0.3 apart, 0.3 wide
    assert not medians_agree((1.0, 1.1, 1.2), (1.35, 1.4, 1.4))
    assert medians_agree((1.0,), (0.9, 1.1, 1.2))
    assert medians_agree((1.0, 1.0, 1.0), (1.009, 1.009, 1.009))  # less than is shown
    assert not medians_agree((1.0, 1.0, 1.0), (1.011, 1.011, 1.011))
    assert spread_of((1.0, 2.0, 4.0)) == pytest.approx(1.5)


@pytest.mark.parametrize(("rounds", "expected"), [(3, 0.94), (4, 0.988), (5, 0.996)])
def test_medians_of_the_same_agree_nearly_always_from_five_rounds_on(rounds, expected):
    chance = random.Random(5)
    pairs = [[[chance.gauss(1.0, 0.05) for _ in range(rounds)] for _ in range(2)] for _ in range(20_000)]
    agreeing = sum(medians_agree(*pair) for pair in pairs) / len(pairs)
    assert agreeing == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_agrees_with_itself_figure_by_figure(kind):
    found = agreement_of(of_kind(kind), of_kind(kind))
    assert found.agrees
    assert SAMPLES[kind][1] in verdicts(found)
    assert set(verdicts(found).values()) <= {"agrees", "one sample"}


@pytest.mark.parametrize("kind", KINDS)
def test_one_figure_that_is_slower_by_more_than_the_spread_differs(kind):
    path, name = SAMPLES[kind]
    result = of_kind(kind)
    if kind == "bench source":  # a transfer for each round
        result["scores"][1]["idle"] = result["scores"][1]["idle"][:1]
        result["scores"][1]["idle"].append(dict(result["scores"][1]["idle"][0]))
        other = changed(changed(result, path, slower), ("scores", 1, "idle", 1, "seconds"), slower)
    else:
        other = changed(result, path, slower)
    found = agreement_of(result, other)
    assert not found.agrees
    assert [figure for figure, verdict in verdicts(found).items() if verdict == "DIFFERS"] == [name]
    assert f"{name:<50}"[:50] in found.table()
    assert "DIFFERS" in found.table()
    assert "1 differs" in found.table()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_agree_with_themselves_or_have_no_figures_with_samples(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("kind") in KINDS:
        figures = list(KINDS[result["kind"]].figures(result))
        assert len({figure.name for figure in figures}) == len(figures)
        assert agreement_of(result, result).agrees
    else:
        with pytest.raises(BenchError, match="is wanted"):
            agreement_of(result, result)


def test_every_kind_of_the_tool_can_be_compared_and_its_conditions_are_in_its_schema():
    schemas = {
        schema["properties"].get("kind", {}).get("const"): schema for schema in map(result_schema, result_kinds())
    }
    tools = {kind for kind in schemas if kind and kind.startswith("bench ")} - {"bench from_pretrained planning"}
    assert set(KINDS) == tools
    for name, kind in KINDS.items():
        assert set(kind.conditions) <= set(schemas[name]["properties"]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_lacks_its_figures_is_refused(kind):
    result = of_kind(kind)
    del result[SAMPLES[kind][0][0]]
    with pytest.raises(BenchError, match=f"no whole result of '{kind}': KeyError"):
        agreement_of(result, result)


def test_a_loader_that_ran_in_one_of_two_results_is_no_agreement():
    result = as_json(BENCH)
    other = changed(result, ("scores", 8, "seconds"), lambda _: [])
    found = agreement_of(result, other)
    assert not found.agrees
    assert verdicts(found)["two, new"] == "only in the first"
    assert verdicts(agreement_of(other, result))["two, new"] == "only in the second"
    assert "1 only in the first result" in found.table()
    assert "three, new" not in verdicts(found)  # ran in neither


def test_figures_of_one_sample_have_no_spread_to_agree_within():
    once = changed(as_json(BENCH), ("scores", 0, "seconds"), lambda _: [0.1])
    slow = changed(once, ("scores", 0, "seconds"), slower)
    found = agreement_of(once, slow)
    assert verdicts(found)["preadv"] == "one sample"
    assert "9 of 9 figures agree within the spread, 1 of one sample" in found.table()
    assert found.agrees
    with pytest.raises(BenchError, match="no figure of both has more than one sample"):
        agreement_of(as_json(MANY), as_json(MANY))


def test_other_kinds_machines_and_settings_are_refused():
    result = as_json(LINK)
    with pytest.raises(BenchError, match="'bench link', the other of 'bench storage'"):
        agreement_of(result, as_json(STORAGE), whatever_differs=True)
    for path, words in ((("rounds",), "rounds is 3 and 4"), (("machine", "cpus"), "the machine's cpus is 2 and 3")):
        other = changed(result, path, lambda number: number + 1)
        with pytest.raises(BenchError, match=words):
            agreement_of(result, other)
        found = agreement_of(result, other, whatever_differs=True)
        assert found.agrees
        assert f"NOT THE SAME: {words}" in found.table()


def test_code_of_another_commit_is_said_and_compared():
    result = as_json(LINK)
    found = agreement_of(result, changed(result, ("machine", "commit"), lambda _: "0123abc"))
    assert found.agrees
    assert "measured by different code: unknown and 0123abc" in found.table()


def test_a_drive_whose_runs_read_more_bytes_is_compared_by_its_rate():
    result = as_json(STORAGE)
    more = copy.deepcopy(result)
    for figure in more["figures"]:
        figure["nbytes"] *= 2
        figure["score"]["seconds"] = [2 * each for each in figure["score"]["seconds"]]
    assert agreement_of(result, more).agrees


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_fits_a_hundred_and_twenty_columns(kind):
    table = agreement_of(of_kind(kind), of_kind(kind)).table()
    assert [line for line in table.splitlines() if len(line) > 120] == []


def command(tmp_path, first, second, *options: str):
    for name, content in (("first.json", first), ("second.json", second)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return CliRunner().invoke(
        main, ["bench", "agree", *options, *(str(tmp_path / n) for n in ("first.json", "second.json"))]
    )


def test_the_command_exits_with_one_where_a_figure_differs(tmp_path):
    result = as_json(LINK)
    done = command(tmp_path, result, result)
    assert (done.exit_code, "6 of 6 figures agree within the spread" in done.output) == (0, True)
    done = command(tmp_path, result, changed(result, SAMPLES["bench link"][0], slower))
    assert (done.exit_code, "5 of 6 figures agree within the spread, 1 differs" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "a JSON object is wanted"),
        ("{}", "is wanted, got None"),
        (json.dumps({**as_json(LINK), "device": "cpu"}), 'device is "cuda:0" and "cpu"'),
    ],
)
def test_the_command_refuses_what_cannot_be_compared(tmp_path, second, words):
    done = command(tmp_path, as_json(LINK), second)
    assert done.exit_code == 2
    assert words in done.stderr


def test_the_command_compares_other_settings_where_it_is_told_to(tmp_path):
    done = command(tmp_path, as_json(LINK), {**as_json(LINK), "device": "cpu"}, "--anyway")
    assert done.exit_code == 0
    assert "NOT THE SAME" in done.output


def test_a_file_that_is_not_there_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["bench", "agree", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert done.exit_code == 2
    assert "does not exist" in done.stderr
