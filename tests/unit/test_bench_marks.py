"""The marks that results are held against, with made-up results."""

from __future__ import annotations

import importlib.util
import json

import pytest

WARM = {
    "kind": "bench engine",
    "device": "cpu",
    "cache": "warm",
    "ratios": {"existing_to_ceiling": 0.96, "ring_to_ceiling": 0.85},
    "ratios_to_peers": {
        "safetensors, existing memory": 1.0,
        "torch.load(mmap=True), existing memory": 1.0,
        "tensorizer, existing memory": 2.6,
        "safetensors, new memory": 3.5,
    },
    "fixed_cost_seconds": [0.01, 0.02, 0.2],
}
COLD = {
    **WARM,
    "cache": "cold",
    "nbytes": 1000,
    "median_seconds": {"O_DIRECT, 4 threads": 1.0, "O_DIRECT, 16 threads": 2.0, "fill": 1.05},
    "cpu_seconds_per_gb": {"fill": 0.01},
    "scores": [
        {
            "name": "fill",
            "role": "streamload",
            "target": "existing",
            "seconds": [1.05],
            "stats": {"read_cpu_seconds": 1e-9},
        }
    ],
}
MANY = {"kind": "bench many tensors", "ratios": {"existing": 0.8}, "plan_microseconds_per_tensor": 3.0}


@pytest.fixture
def check(repository, tmp_path):
    """Hold made-up results against the marks; gives back the exit code."""
    spec = importlib.util.spec_from_file_location("marks", repository / "benchmarks" / "engine" / "marks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*results: dict[str, object]) -> int:
        paths = [tmp_path / f"result{number}.json" for number in range(len(results))]
        for path, result in zip(paths, results, strict=True):
            path.write_text(json.dumps(result), encoding="utf-8")
        return module.main([str(path) for path in paths])

    return run


def test_results_that_meet_every_mark_pass(check, capsys):
    assert [check(result) for result in (WARM, COLD, MANY)] == [0, 0, 0]
    assert "MISSED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({**WARM, "ratios": {**WARM["ratios"], "existing_to_ceiling": 0.9}}, "over the ceiling: 0.900"),
        ({**WARM, "ratios_to_peers": {"safetensors, new memory": 3.5}}, "stages: not measured"),
        ({**WARM, "fixed_cost_seconds": [0.06]}, "fixed cost in seconds: 0.060"),
        ({**COLD, "cpu_seconds_per_gb": {"fill": 0.03}}, "CPU seconds per GB of all threads: 0.030"),
        ({**MANY, "plan_microseconds_per_tensor": 12.0}, "plan a tensor: 12.000"),
    ],
)
def test_a_mark_that_is_missed_or_was_not_measured_is_named(check, capsys, result, words):
    assert check(result) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSED"))
    assert words in line


def test_results_of_before_and_of_a_gpu_have_no_marks(check, capsys):
    before = {key: value for key, value in WARM.items() if key != "ratios_to_peers"}
    assert [check(before), check({**WARM, "device": "cuda:0"}), check({"kind": "demo"})] == [2, 2, 2]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no mark applies" in printed.err
    assert check(before, WARM) == 0


def test_no_file_is_no_success(check, capsys):
    assert check() == 2
    assert "no file given" in capsys.readouterr().err
