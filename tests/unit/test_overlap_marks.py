"""The marks that results of the overlap benchmark are held against, with made-up results."""

from __future__ import annotations

import copy
import importlib.util
import json

import pytest


def case(tokens: int, part: float) -> dict[str, object]:
    """The first tokens of one prompt, as the JSON has them."""
    return {"tokens": tokens, "figures": {"ratio": 1.04, "compute_to_move": part, "measured_to_predicted": 0.96}}


GOOD = {
    "kind": "bench overlap",
    "simulated_link": 1e9,
    "cold": [case(1, 0.1), case(100, 1.0), case(200, 2.0)],
    "steady": {"margin": 0.02, "figures": {"ratio": {"low": 0.99, "high": 1.015, "confidence": 0.96}}},
    "wake": {"figures": {"ratio": 1.03}},
    "oversized": {
        "figures": {
            "link_fraction": 0.97,
            "over_resident": 1.01,
            "compute_to_move": 3.9,
            "decode_to_predicted": 1.02,
            "prompt_to_predicted": 1.01,
        }
    },
}


@pytest.fixture
def check(repository, tmp_path):
    """Hold made-up results against the marks; gives back the exit code."""
    spec = importlib.util.spec_from_file_location("overlap_marks", repository / "benchmarks" / "overlap" / "marks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*results: dict[str, object]) -> int:
        paths = [tmp_path / f"result{number}.json" for number in range(len(results))]
        for path, result in zip(paths, results, strict=True):
            path.write_text(json.dumps(result), encoding="utf-8")
        return module.main([str(path) for path in paths])

    return run


def changed(value: object, *keys: object) -> dict[str, object]:
    """The good result with one value replaced."""
    result = copy.deepcopy(GOOD)
    inner = result
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return result


def test_a_result_that_meets_every_mark_passes(check, capsys):
    assert check(GOOD) == 0
    printed = capsys.readouterr().out
    assert "MISSED" not in printed
    assert len(printed.splitlines()) == 2 * 3 + 2 + 1 + 4 + 1


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (changed(1.06, "cold", 1, "figures", "ratio"), "max(X, C), 100 tokens: 1.060"),
        (changed(1.06, "cold", 2, "figures", "measured_to_predicted"), "200 tokens: off the simulation: 0.060"),
        (changed(None, "cold", 0, "figures", "measured_to_predicted"), "simulation: not measured"),
        (changed(0.3, "cold", 0, "figures", "compute_to_move"), "shortest prompt: 0.300"),
        (changed(1.5, "cold", 2, "figures", "compute_to_move"), "longest prompt: 1.500"),
        (changed(1.21, "wake", "figures", "ratio"), "after wake over max(X, C): 1.210"),
        (changed(None, "wake"), "after wake over max(X, C): not measured"),
        (changed(0.94, "oversized", "figures", "link_fraction"), "over the link: 0.940"),
        (changed(1.03, "oversized", "figures", "over_resident"), "over resident: 1.030"),
        (changed(1.9, "oversized", "figures", "compute_to_move"), "over resident: not measured"),
        (changed(0.94, "oversized", "figures", "decode_to_predicted"), "link-bound: off the simulation: 0.060"),
        (changed(1.06, "oversized", "figures", "prompt_to_predicted"), "compute-bound: off the simulation: 0.060"),
        (changed(0.97, "steady", "figures", "ratio", "low"), "off 1 at most: 0.030"),
        (changed(1.03, "steady", "figures", "ratio", "high"), "off 1 at most: 0.030"),
        (changed(0.9, "steady", "figures", "ratio", "confidence"), "off 1 at most: not measured"),
        (changed(None, "steady"), "off 1 at most: not measured"),
    ],
)
def test_a_mark_that_is_missed_or_was_not_measured_is_named(check, capsys, result, words):
    assert check(result) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSED"))
    assert words in line


def test_what_was_left_out_is_missed(check, capsys):
    assert check(changed(None, "oversized")) == 1
    assert capsys.readouterr().out.count("not measured") == 4
    assert check(changed([], "cold")) == 1


def test_a_real_link_chooses_no_prompts(check):
    short = copy.deepcopy(GOOD) | {"simulated_link": None, "cold": [case(128, 0.02)]}
    assert check(short) == 0


def test_other_results_have_no_marks(check, capsys):
    assert check({"kind": "bench engine"}) == 2
    assert check() == 2
    assert "no file given" in capsys.readouterr().err
