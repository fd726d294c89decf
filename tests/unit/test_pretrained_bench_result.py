"""Ratios of the benchmark of `from_pretrained`, and what its JSON and its table say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamload._machine import MachineFacts
from streamload.bench import BenchError
from streamload.bench._pretrained._result import LoadTimes, PretrainedBench

STOCK = LoadTimes(
    return_seconds=(0.5, 1.0, 0.4, 0.8),
    first_token_seconds=(2.0, 4.0),
    resident_seconds=(0.4, 0.8),
    copied_seconds=(1.0, 2.0),
    peak_memory_bytes=(300, 100),
    private_peak_bytes=50,
)
STREAMED = LoadTimes(
    return_seconds=(0.25, 0.25, 0.4, 0.4),
    first_token_seconds=(1.0, 3.0),
    resident_seconds=(0.8, 0.8),
    peak_memory_bytes=(120, 120),
    private_peak_bytes=110,
)
MACHINE = MachineFacts("Linux", "a processor", 2, 1 << 30, "3.11", "0.1", "release", None, {}, None, None)
BENCH = PretrainedBench(
    model="LlamaForCausalLM",
    dtype="float32",
    nbytes=1_050_000_000,
    tensors=183,
    device="cpu",
    tokens=16,
    pairs=2,
    cache="warm",
    cached=(1.0,) * 8,
    output="equal",
    ceiling_seconds=(0.2, 0.4),
    stock=STOCK,
    streamed=STREAMED,
    command="streamload bench from_pretrained",
    machine=MACHINE,
)
ON_GPU = replace(
    BENCH,
    device="cuda:0",
    stock=replace(STOCK, copied_seconds=(), device_peak_bytes=(200, 200)),
    streamed=replace(STREAMED, device_peak_bytes=(100, 100)),
)


def test_ratios_are_those_of_pairs():
    ratios = BENCH.ratios()
    assert ratios["return_seconds"] == [0.5, 0.25, 1.0, 0.5]
    assert ratios["first_token_seconds"] == [0.5, 0.75]
    assert ratios["resident_seconds"] == [2.0, 1.0]


def test_what_is_resident_is_held_against_copies_of_mapped_files_too():
    assert BENCH.ratios()["resident_to_copied"] == [0.8, 0.4]
    assert "resident_to_copied" not in ON_GPU.ratios()


def test_what_is_resident_is_held_against_the_ceiling_of_its_pair():
    assert BENCH.ratios()["resident_to_ceiling"] == [4.0, 2.0]
    assert "3.000  2.000 to 4.000" in BENCH.table()
    assert "a processor, 2 CPUs" in BENCH.table()


def test_medians_are_of_all_loads_and_none_where_nothing_is_known():
    medians = STOCK.medians()
    assert medians["return_seconds"] == pytest.approx(0.65)
    assert medians["peak_memory_bytes"] == 200
    assert medians["private_peak_bytes"] == 50
    assert medians["device_peak_bytes"] is None


def test_json_holds_every_sample_the_medians_and_the_machine(tmp_path):
    BENCH.write(tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["kind"] == "bench from_pretrained"
    assert result["stock"]["first_token_seconds"] == [2.0, 4.0]
    assert result["median_ratios"]["first_token_seconds"] == 0.625
    assert result["medians"]["streamed"]["resident_seconds"] == 0.8
    assert result["machine"]["processor"] == "a processor"
    assert result["cached"] == [1.0] * 8


def test_a_debug_build_writes_nothing(tmp_path):
    debug = replace(BENCH, machine=replace(MACHINE, native_build="debug"))
    with pytest.raises(BenchError, match="debug build"):
        debug.write(tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("bench", [BENCH, ON_GPU], ids=["host", "gpu"])
def test_table_is_narrow_and_has_every_figure(bench):
    table = bench.table()
    assert max(map(len, table.splitlines())) <= 100
    for words in ("until it returns", "until the first token", "until all is resident", "peak memory"):
        assert words in table
    assert "0.625" in table


def test_table_says_that_stock_pages_are_mapped_where_they_are():
    assert "mapped files: when it returns" in BENCH.table()
    assert "when it returns" not in ON_GPU.table()
    assert "on the GPU" in ON_GPU.table()


def test_table_leaves_out_memory_that_nobody_knows():
    unknown = replace(STOCK, peak_memory_bytes=(), private_peak_bytes=None)
    table = replace(BENCH, stock=unknown, streamed=unknown).table()
    assert "peak memory" not in table
