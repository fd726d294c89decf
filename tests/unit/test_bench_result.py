"""What follows from a benchmark's numbers: ratios, tables, JSON. The numbers are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamload._machine import machine_facts
from streamload.bench import BenchError, EngineBench, ManyTensorsBench, PeerSettings
from streamload.bench._planning import PlanningCost
from streamload.bench._result import Score, cache_state

STATS = {
    "bytes_read": 1000,
    "buffered_bytes": 750,
    "direct_bytes": 250,
    "in_place_bytes": 0,
    "cached_direct_bytes": 250,
    "pinned_bytes": 64e6,
}


def score(name, role, target, *seconds: float, **rest: object):
    return Score(name=name, role=role, target=target, seconds=seconds, cpu_seconds=seconds, **rest)


BENCH = EngineBench(
    nbytes=1_000_000_000,
    tensors=300,
    device="cpu",
    cache="warm",
    rounds=3,
    scores=(
        score("preadv", "ceiling", "existing", 0.1, 0.2, 0.3),
        score("mapped", "ceiling", "existing", 0.1, 0.1, 0.4),
        score("by hand", "ceiling", "ring", 0.4, 0.4, 0.4),
        score("fill", "streamload", "existing", 0.125, 0.125, 0.125, stats=STATS, first_byte_seconds=(0.01,)),
        score("iter_tensors", "streamload", "new", 0.2, 0.2, 0.2),
        score("ring", "streamload", "ring", 0.5, 0.5, 0.5),
        score("one, existing", "peer", "existing", 0.5, 0.5, 0.5, peak_memory_bytes=1_100_000_000),
        score("one, new", "peer", "new", 1.0, 1.0, 1.0),
        score("two, new", "peer", "new", 0.4, 0.4, 0.4),
        Score(name="three, new", role="peer", target="new", cannot_run="three is not installed"),
        Score(name="four, new", role="peer", target="new", wrong="the bytes of 'a' came out wrong"),
    ),
    fixed_cost_seconds=(0.01, 0.02, 0.03),
    cached=(1.0, None),
    peer_settings=PeerSettings.from_env({"RUNAI_STREAMER_CONCURRENCY": "4", "HOME": "elsewhere"}),
    command="streamload bench engine",
    machine=machine_facts(native_build="release"),
)


def test_each_target_is_held_against_its_own_ceiling_and_its_best_peer():
    assert BENCH.ratios() == pytest.approx(
        {
            "existing_to_ceiling": 0.8,
            "existing_to_best_peer": 4.0,
            "new_to_ceiling": 0.5,
            "new_to_best_peer": 2.0,
            "ring_to_ceiling": 0.8,
        }
    )


def test_streamload_is_compared_with_every_peer_that_ran():
    assert BENCH.ratios_to_peers() == pytest.approx({"one, existing": 4.0, "one, new": 5.0, "two, new": 2.0})


def test_a_drive_that_was_measured_is_a_ceiling_of_every_target():
    cold = replace(BENCH, scores=(*BENCH.scores, score("O_DIRECT", "ceiling", "drive", 0.05, 0.05, 0.05)))
    assert cold.ratios()["existing_to_ceiling"] == pytest.approx(0.4)
    assert cold.ratios()["ring_to_ceiling"] == pytest.approx(0.1)


def test_figures_are_medians_and_the_spread_is_a_part_of_them():
    preadv = BENCH.scores[0]
    assert preadv.rate(BENCH.nbytes) == pytest.approx(5e9)
    assert preadv.spread == pytest.approx(1.0)
    assert preadv.cpu_seconds_per_gb(2_000_000_000) == pytest.approx(0.1)


def test_tables_name_the_machine_and_the_cache():
    for bench in (BENCH, MANY):
        assert f"{bench.machine.cpus} CPUs" in bench.table()
        assert "page cache warm" in bench.table()


def test_the_table_groups_by_target_and_gives_reasons():
    table = BENCH.table()
    order = [table.index(word) for word in ("into existing", "fill", "into new", "two, new", "through the ring")]
    assert order == sorted(order)
    assert "three, new" in table
    assert "not run: three is not installed" in table
    assert "wrong: the bytes of 'a' came out wrong" in table
    assert "existing to ceiling: 0.800" in table
    assert "20.0 ms" in table  # the fixed cost
    assert "fill read 75% buffered, 25% direct, 25% CACHED BUT DIRECT" in table


def test_json_keeps_what_older_readers_look_for():
    found = json.loads(json.dumps(BENCH.as_dict()))
    assert found["kind"] == "bench engine"
    assert {"nbytes", "cache", "median_seconds", "ratios", "scores", "machine", "command"} <= set(found)
    assert set(found["ratios"]) >= {
        f"{target}_to_{other}" for target in ("existing", "new") for other in ("ceiling", "best_peer")
    }
    assert found["median_seconds"]["fill"] == 0.125
    assert found["cpu_seconds_per_gb"]["fill"] == 0.125
    (missing,) = (one for one in found["scores"] if one["cannot_run"])
    (wrong,) = (one for one in found["scores"] if one["wrong"])
    assert missing["seconds"] == wrong["seconds"] == []
    assert not {"three, new", "four, new"} & (set(found["median_seconds"]) | set(found["ratios_to_peers"]))


def test_peers_settings_are_told_and_no_other_variable():
    assert BENCH.as_dict()["peer_settings"] == {"RUNAI_STREAMER_CONCURRENCY": "4"}
    assert "peers found RUNAI_STREAMER_CONCURRENCY=4" in BENCH.table()
    assert "elsewhere" not in BENCH.table()


def test_a_debug_build_writes_no_result(tmp_path):
    for bench in (BENCH, MANY):
        debug = replace(bench, machine=replace(bench.machine, native_build="debug"))
        with pytest.raises(BenchError, match="debug build"):
            debug.write(tmp_path / "result.json")
        assert not (tmp_path / "result.json").exists()
        bench.write(tmp_path / "released.json")
        assert json.loads((tmp_path / "released.json").read_text())["kind"].startswith("bench ")


MANY = ManyTensorsBench(
    tensors=(300, 20_000),
    nbytes=(1_000_000_000, 900_000_000),
    device="cpu",
    cache="warm",
    rounds=1,
    few=(
        score("preadv, 300 tensors", "ceiling", "existing", 0.08),
        score("fill, 300 tensors", "streamload", "existing", 0.1),
    ),
    many=(
        score("preadv, 20,000 tensors", "ceiling", "existing", 0.09),
        score("fill, 20,000 tensors", "streamload", "existing", 0.18),
    ),
    planning=PlanningCost(90_000, (0.9,), (0.45,)),
    command="",
    machine=machine_facts(native_build="release"),
)


def test_many_tensors_are_compared_with_few_by_rate():
    assert MANY.ratios() == pytest.approx({"existing": 0.5})
    assert MANY.ratios_to_ceiling()["existing"] == pytest.approx((0.8, 0.5))
    found = json.loads(json.dumps(MANY.as_dict()))
    assert found["plan_microseconds_per_tensor"] == pytest.approx(5.0)
    assert found["open_microseconds_per_tensor"] == pytest.approx(10.0)


def test_the_table_of_many_tensors_names_both_rates_and_their_ratio():
    table = MANY.table()
    for word in ("300 tensors", "20,000 tensors", "10.0 GB/s", "5.00 GB/s", "0.500", "5.0 µs each to plan"):
        assert word in table
    assert "existing to ceiling: 0.800 and 0.500" in table
    assert "page cache warm" in table


def test_cache_is_named_by_what_was_found():
    assert cache_state(asked_cold=False, cached=[1.0, None]) == "warm"
    assert cache_state(asked_cold=False, cached=[1.0, 0.5]) == "mixed"
    assert cache_state(asked_cold=True, cached=[0.0, 0.0]) == "cold"
    assert cache_state(asked_cold=True, cached=[0.0, 0.5]) == "mixed"
    assert cache_state(asked_cold=True, cached=[0.0, None]) == "cold, unverified"
