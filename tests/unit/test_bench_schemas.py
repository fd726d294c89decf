"""The published schemas: every committed result keeps to its own, and they are not so wide that anything would."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamload._trace import Lane, Span, Trace
from streamload.bench import BenchError, result_kinds, result_schema
from streamload.cli import main

from .test_bench_figures import COMPARE, LINK, STORAGE
from .test_bench_result import BENCH, MANY
from .test_overlap_result import BENCH as OVERLAP
from .test_pretrained_bench_result import BENCH as PRETRAINED
from .test_source_bench_result import BENCH as SOURCE

jsonschema = pytest.importorskip("jsonschema")
COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
MADE_UP = [LINK, STORAGE, COMPARE, BENCH, MANY, OVERLAP, PRETRAINED, SOURCE]
OPTIONAL = {"cache", "ceiling_seconds", "left_out", "ratios_to_ceiling", "timelines"}  # older results do not have them


def kind_of(schema):
    properties = schema["properties"]
    return (properties["kind"] if "kind" in properties else properties["benchmark"])["const"]


def validator_for(result):
    kind = result["kind"] if "kind" in result else result["benchmark"]
    (schema,) = (each for each in map(result_schema, result_kinds()) if kind_of(each) == kind)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("kind", result_kinds())
def test_every_schema_is_one(kind):
    jsonschema.Draft202012Validator.check_schema(result_schema(kind))


def test_every_benchmark_has_a_schema():
    assert {"engine", "many-tensors", "overlap", "from_pretrained", "source", "link", "storage", "compare"} <= set(
        result_kinds()
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_keep_to_their_schemas(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert [error.message for error in validator_for(result).iter_errors(result)] == []


@pytest.mark.parametrize("bench", MADE_UP, ids=lambda bench: type(bench).__name__)
def test_results_have_what_their_schema_names_and_nothing_else(bench):
    result = json.loads(json.dumps(bench.as_dict()))
    validator = validator_for(result)
    assert [error.message for error in validator.iter_errors(result)] == []
    assert set(validator.schema["properties"]) == set(result)
    assert set(result) - set(validator.schema["required"]) <= OPTIONAL


@pytest.mark.parametrize("bench", MADE_UP, ids=lambda bench: type(bench).__name__)
def test_a_result_that_lacks_or_adds_something_is_found_out(bench):
    result = json.loads(json.dumps(bench.as_dict()))
    validator = validator_for(result)
    for name in result:
        if name != "kind" and name in validator.schema["required"]:
            assert not validator.is_valid({key: value for key, value in result.items() if key != name}), name
    assert not validator.is_valid({**result, "fancy": 1})
    assert not validator.is_valid({**result, "machine": {**result["machine"], "cpus": "two"}})


def test_a_timeline_keeps_to_its_schema_and_a_wrong_one_is_found_out():
    span = Span(Lane.COPY, "layers.0", 0.0, 0.5, 100)
    result = json.loads(json.dumps(replace(BENCH, timelines=(Trace("a load", (span,), (("end", 0.5),)),)).as_dict()))
    validator = validator_for(result)
    assert [error.message for error in validator.iter_errors(result)] == []
    for key, wrong in (("lane", "phase"), ("start", None), ("nbytes", 0.5), ("fancy", 1)):
        changed = copy.deepcopy(result)
        changed["timelines"][0]["spans"][0][key] = wrong
        assert not validator.is_valid(changed), key
    result["timelines"][0]["instants"] = [["end"]]
    assert not validator.is_valid(result)


def test_a_figure_without_its_rate_is_found_out():
    result = json.loads(json.dumps(LINK.as_dict()))
    wrong = copy.deepcopy(result)
    del wrong["figures"][0]["gigabytes_per_second"]
    assert not validator_for(wrong).is_valid(wrong)


def test_the_command_prints_a_schema_or_lists_them():
    done = CliRunner().invoke(main, ["bench", "schema", "link"], catch_exceptions=False)
    assert json.loads(done.output) == result_schema("link")
    assert CliRunner().invoke(main, ["bench", "schema"]).output.split() == list(result_kinds())
    refused = CliRunner().invoke(main, ["bench", "schema", "nothing"])
    assert refused.exit_code == 2
    assert "there are compare, demo, engine" in refused.output
    with pytest.raises(BenchError):
        result_schema("../_result")
