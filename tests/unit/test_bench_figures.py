"""What follows from the figures of the link, storage and compare benchmarks. The numbers are made up."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload._machine import MachineFacts
from streamload.bench import BenchError, CompareBench, LinkBench, PeerSettings, StorageBench
from streamload.bench._compare._result import CompareSide
from streamload.bench._figures import Figure
from streamload.bench._result import Score, write_result

MACHINE = MachineFacts("Linux", "a processor", 2, 16 << 30, "3.11", "0.1", "release", None, {}, None, None)
MIB = 1 << 20


def score(name, role, target, *seconds: float, **more: object) -> Score:
    return Score(name=name, role=role, target=target, seconds=seconds, cpu_seconds=seconds, **more)


def figure(name, role, target, *seconds: float, size=MIB, count=1, **more: object) -> Figure:
    one = score(name, role, target, *seconds, **more)
    return Figure(score=one, nbytes=1_000_000_000, request_bytes=size, in_flight=count)


LINK = LinkBench(
    device="cuda:0",
    stand_in=False,
    rounds=3,
    figures=(
        figure("one pinned copy, 1 GB", "ceiling", "copies", 0.02, 0.02, 0.03, size=1_000_000_000),
        figure("copies queued, 1 MiB", "streamload", "copies", 0.05, 0.05, 0.05),
        figure("copies queued, 4 MiB", "streamload", "copies", 0.025, 0.025, 0.025, size=4 * MIB),
        figure("torch copy_, 4 MiB", "peer", "copies", 0.04, 0.04, 0.04, size=4 * MIB),
        figure("torch copy_ of pageable memory, 4 MiB", "peer", "pageable", 0.1, 0.1, 0.1, size=4 * MIB),
        figure("register huge pages, 1 GB", "streamload", "pinning", 0.2, 0.2, 0.2, size=1_000_000_000),
        figure(
            "mlock, 1 GB", "ceiling", "pinning", cannot_run="mlock: Cannot allocate memory; ulimit -l allows no more"
        ),
    ),
    command="streamload bench link",
    machine=MACHINE,
)
STORAGE = StorageBench(
    where="model.safetensors",
    store="drive",
    nbytes=1_000_000_000,
    files=2,
    cache={"cold": "cold", "warm": "warm"},
    cached={"cold": (0.0,), "warm": (1.0, None)},
    rounds=3,
    figures=(
        figure("O_DIRECT preadv, 4 of 1 MiB", "ceiling", "direct", 0.5, 0.5, 0.6, count=4),
        figure("O_DIRECT preadv, 16 of 1 MiB", "ceiling", "direct", 0.4, 0.4, 0.4, count=16),
        figure("io_uring, direct", "streamload", "direct", 0.5, 0.5, 0.5, count=0),
        figure("preadv, buffered", "ceiling", "buffered", 0.8, 0.8, 0.8),
        figure("buffered, buffered", "streamload", "buffered", 1.0, 1.0, 1.0, count=0),
        figure("readinto, buffered", "peer", "buffered", 2.0, 2.0, 2.0),
        figure("preadv, cached", "ceiling", "cached", 0.1, 0.1, 0.1),
        figure("as it chooses, cached", "streamload", "cached", 0.1, 0.1, 0.1, count=0),
    ),
    command="streamload bench storage",
    machine=MACHINE,
)
WARM = CompareSide(
    cache="warm",
    cached=(1.0, None),
    scores=(
        score("preadv, 2 threads", "ceiling", "existing", 0.1, 0.1, 0.1),
        score("iter_tensors", "streamload", "new", 0.2, 0.2, 0.25),
        score("safetensors", "peer", "new", 0.22, 0.21, 0.2),
        score("InstantTensor", "peer", "new", cannot_run="it loads to CUDA devices only"),
        score("liar", "peer", "new", wrong="the bytes of 'a' came out wrong"),
    ),
)
COLD = CompareSide(
    cache="cold, unverified",
    cached=(None,),
    scores=(
        score("O_DIRECT, 4 threads", "ceiling", "drive", 0.9, 0.9, 0.9),
        score("iter_tensors", "streamload", "new", 1.0, 1.0, 1.0),
        score("safetensors", "peer", "new", 4.0, 4.0, 4.0),
        score("InstantTensor", "peer", "new", cannot_run="it loads to CUDA devices only"),
    ),
)
COMPARE = CompareBench(
    nbytes=1_000_000_000,
    tensors=300,
    device="cpu",
    rounds=3,
    sides={"warm": WARM, "cold": COLD},
    peer_settings=PeerSettings.from_env({"RUNAI_STREAMER_CONCURRENCY": "4"}),
    command="streamload bench compare",
    machine=MACHINE,
)
RESULTS = pytest.mark.parametrize("bench", [LINK, STORAGE, COMPARE], ids=["link", "storage", "compare"])


def test_the_link_is_held_against_the_fastest_copy_and_its_best_peer():
    assert LINK.ratios() == pytest.approx({"copies_to_ceiling": 0.8, "copies_to_best_peer": 1.6})
    assert LINK.pinning_seconds_per_gb() == pytest.approx({"register huge pages, 1 GB": 0.2})


def test_what_comes_from_a_drive_is_held_against_the_drive_however_it_was_read():
    assert STORAGE.ratios() == pytest.approx(
        {"direct_to_ceiling": 0.8, "buffered_to_ceiling": 0.4, "buffered_to_best_peer": 2.0, "cached_to_ceiling": 1.0}
    )


def test_loaders_are_compared_warm_and_cold():
    assert COMPARE.ratios() == pytest.approx(
        {"warm_to_ceiling": 0.5, "warm_to_best_peer": 1.05, "cold_to_ceiling": 0.9, "cold_to_best_peer": 4.0}
    )
    assert COMPARE.loaders()[0][0] == "ceiling"
    assert [name for role, name in COMPARE.loaders() if role == "peer"] == ["safetensors", "InstantTensor", "liar"]


def test_a_stand_in_says_so_before_its_figures():
    table = replace(LINK, device="cpu", stand_in=True).table()
    assert table.index("NO GPU: a stand-in") < table.index("copies queued")
    assert "NO GPU" not in LINK.table()


@RESULTS
def test_tables_are_within_100_columns_and_name_the_machine(bench):
    lines = bench.table().splitlines()
    assert [line for line in lines if len(line) > 100] == []
    assert any("a processor, 2 CPUs" in line for line in lines)


def test_tables_tell_sizes_depths_states_and_reasons():
    assert "not run: mlock: Cannot allocate memory" in LINK.table()
    assert "0.200 s/GB" in LINK.table()
    table = STORAGE.table()
    for words in ("cold runs: page cache cold", "warm runs: page cache warm", "adapts", "direct to ceiling: 0.800"):
        assert words in table
    table = COMPARE.table()
    for words in ("cold rounds: page cache cold, unverified", "RUNAI_STREAMER_CONCURRENCY=4", "warm to ceiling: 0.500"):
        assert words in table
    assert table.count("it loads to CUDA devices only") == 1
    assert "wrong: the bytes of 'a' came out wrong" in table


def test_a_ratio_within_the_spread_is_called_so():
    said = {line.partition(":")[0]: line for line in COMPARE.table().splitlines()}
    assert said["warm to best peer"].endswith("within the spread)")
    assert "within the spread" not in said["cold to best peer"]


@RESULTS
def test_a_debug_build_writes_no_result(bench, tmp_path):
    debug = replace(bench, machine=replace(MACHINE, native_build="debug"))
    with pytest.raises(BenchError, match="debug build"):
        debug.write(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []
    bench.write(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["kind"].startswith("bench ")


SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


@given(SECONDS, SECONDS)
def test_medians_agree_where_each_lies_between_the_others_fastest_and_slowest(one, other):
    first, second = (score("one", "peer", "new", *seconds) for seconds in (one, other))
    assert first.spread == pytest.approx((max(one) - min(one)) / median(one))
    inside = min(one) <= median(other) <= max(one) and min(other) <= median(one) <= max(other)
    assert first.agrees_with(second) or not inside
    assert first.agrees_with(second) == second.agrees_with(first)


def test_medians_further_apart_than_both_spreads_do_not_agree():
    assert score("a", "peer", "new", 1.0, 1.1, 1.2).agrees_with(score("b", "peer", "new", 1.2, 1.3, 1.4))
    assert not score("a", "peer", "new", 1.0, 1.1, 1.2).agrees_with(score("b", "peer", "new", 1.3, 1.4, 1.5))


def test_a_result_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("before")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_result(path, {"kind": "x"}, native_build="release")
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "before"


def test_a_result_goes_through_a_link_and_into_a_pipe(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "result.json")
    write_result(tmp_path / "link.json", {"kind": "x"}, native_build="release")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "result.json").read_text()) == {"kind": "x"}
    reading, writing = os.pipe()
    write_result(tmp_path.__class__(f"/dev/fd/{writing}"), {"kind": "y"}, native_build="release")
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 - a descriptor
        assert json.load(pipe) == {"kind": "y"}
