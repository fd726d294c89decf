"""Ratios of the overlap benchmark, how sure a median is, and what its JSON and its table say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamload._machine import MachineFacts
from streamload.bench import OverlapSettings
from streamload.bench._overlap._effort import left_out
from streamload.bench._overlap._interval import interval_of_median, paired_ratios
from streamload.bench._overlap._result import ColdCase, OverlapBench, OversizedCase, PeerScore, SteadyState, WakeCase

CASE = ColdCase(
    tokens=128,
    nbytes=100,
    link_bytes_per_second=(100.0, 100.0, 200.0),
    storage_bytes_per_second=(1000.0, 1000.0, 50.0),
    compute_seconds=(0.1, 0.1, 0.1),
    streamed_seconds=(1.03, 1.02, 2.1),
    since_call_seconds=(1.0, 1.0, 2.0),
    load_seconds=(0.01, 0.01, 0.01),
    usual_seconds=(1.2, 1.2, 2.2),
    waited_seconds=(0.5, 0.5, 0.5),
    layer_compute_seconds={"layers.0": 0.05, "layers.1": 0.05},
    layer_streamed_seconds={"layers.0": 0.35, "layers.1": 0.04},
    predicted_seconds=(),
)
STEADY = SteadyState(
    model="a small model",
    tokens=1,
    models=10,
    pairs=4,
    plain_seconds=0.007,
    ratios=(1.0, 1.01, 1.02, 1.01, 1.01, 1.01, 1.0, 1.01, 1.01, 1.015),
    controls=(1.0,) * 10,
)
OVERSIZED = OversizedCase(
    device_memory=60,
    streamed_bytes=40,
    units=4,
    slots=2,
    demanded_fills=0,
    wasted_fills=0,
    link_bytes_per_second=(95.0, 105.0),
    decode_passes=2,
    decode_seconds=(0.8, 1.0, 0.8),
    decode_bytes=(78, 80, 80),
    tokens=256,
    prompt_link_bytes_per_second=(90.0, 110.0),
    prompt_seconds=(2.02, 4.04, 2.1),
    resident_seconds=(2.0, 4.0, 2.0),
    predicted_decode_seconds=(0.4, 0.4, 0.4),
    predicted_prompt_seconds=(2.0, 4.0, 2.0),
)
WAKE = WakeCase(
    tokens=128,
    nbytes=100,
    link_bytes_per_second=(100.0, 50.0, 100.0),
    storage_bytes_per_second=(1000.0, 1000.0, 1000.0),
    compute_seconds=(0.1, 0.1, 4.0),
    wake_seconds=(1.02, 2.08, 4.4),
    sleep_seconds=(0.01, 0.01, 0.01),
)
PEERS = (
    PeerScore(
        name="a peer",
        role="peer",
        moves="half",
        nbytes=100,
        first_token_seconds=(1.0, 3.0),
        pass_seconds=(0.5, 0.5),
        output="equal to rounding",
    ),
    PeerScore(
        name="ours, half",
        role="streamload",
        moves="half",
        nbytes=100,
        first_token_seconds=(0.4, 0.6),
        pass_seconds=(0.5, 0.5),
        output="equal",
    ),
    PeerScore(name="another", role="peer", moves="all", nbytes=100, cannot_run="x is not installed"),
)
MACHINE = MachineFacts(
    system="Linux",
    processor="a processor",
    cpus=2,
    memory_bytes=None,
    python="3.12",
    streamload="1",
    native_build="release",
    commit=None,
    versions={},
    gpu=None,
    gpu_driver=None,
)
BENCH = OverlapBench(
    model="a Llama",
    layers=2,
    nbytes=100,
    device="cpu",
    simulated_compute=None,
    simulated_link=100.0,
    threads=1,
    cache="warm",
    rounds=3,
    cold=(CASE,),
    steady=STEADY,
    oversized=OVERSIZED,
    wake=WAKE,
    peers=PEERS,
    left_out=(),
    command="streamload bench overlap",
    machine=MACHINE,
)


def test_move_time_is_that_of_the_slower_of_link_and_storage():
    assert CASE.move_seconds == pytest.approx([1.0, 1.0, 2.0])


def test_first_token_is_held_against_the_longer_of_moving_and_computing_of_its_own_round():
    slow_compute = replace(CASE, compute_seconds=(0.1, 4.0, 0.1))
    assert slow_compute.ratios == pytest.approx([1.03, 1.02 / 4.0, 2.1 / 2.0])


def test_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians():
    figures = CASE.figures()
    assert figures["ratio"] == pytest.approx(1.03)
    assert figures["streamed_seconds"] / figures["move_seconds"] == pytest.approx(1.03)
    drifting = replace(CASE, streamed_seconds=(1.2, 1.05, 2.2), link_bytes_per_second=(100.0, 100.0, 50.0))
    assert drifting.figures()["ratio"] == pytest.approx(1.1)


def test_stall_of_a_layer_is_what_it_took_longer_and_never_below_nothing():
    assert CASE.layer_stall_seconds == pytest.approx({"layers.0": 0.3, "layers.1": 0.0})
    assert CASE.figures()["stall_seconds"] == pytest.approx(0.3)
    assert CASE.figures()["longest_stall_seconds"] == pytest.approx(0.3)


def test_what_is_not_predicted_has_no_ratio_to_a_prediction():
    assert CASE.figures()["measured_to_predicted"] is None


def test_measured_over_predicted_is_the_median_of_the_pairs():
    predicted = replace(CASE, predicted_seconds=(1.0, 1.0, 2.0)).figures()
    assert predicted["measured_to_predicted"] == pytest.approx(1.03)
    assert predicted["predicted_seconds"] == 1.0


def test_spread_of_the_pairs_stands_beside_their_median():
    assert (CASE.figures()["ratio_least"], CASE.figures()["ratio_greatest"]) == pytest.approx((1.02, 1.05))


def test_first_token_after_sleep_is_held_against_the_longer_of_moving_and_computing():
    assert WAKE.ratios == pytest.approx([1.02, 1.04, 1.1])
    assert WAKE.figures()["ratio"] == pytest.approx(1.04)
    assert "after sleep, 128 tokens: 2.08 s from wake(), 1.040 of max(X, C)" in BENCH.table()


def test_interval_of_the_median_is_that_of_the_sign_test():
    five, six, many = (interval_of_median(range(1, count + 1)) for count in (5, 6, 31))
    assert (five.low, five.high, five.confidence) == (1, 5, 1 - 2 / 32)
    assert (six.low, six.high, six.confidence) == (1, 6, 1 - 2 / 64)
    assert (many.median, many.low, many.high) == (16, 10, 22)  # tables of the sign test: 31 samples, 0.95
    assert many.confidence >= 0.95


def test_interval_of_one_sample_is_no_confidence_and_of_none_an_error():
    assert interval_of_median([3.0]).confidence == 0.0
    with pytest.raises(ValueError, match="no samples"):
        interval_of_median([])


def test_few_pairs_show_no_equivalence_however_close_they_are():
    assert not interval_of_median([1.0] * 5).within(0.02)
    assert interval_of_median([1.0] * 6).within(0.02)


def test_equivalence_wants_all_of_the_interval_within_the_margin():
    assert not interval_of_median([0.97, *[1.0] * 4, 1.0]).within(0.02)
    assert not interval_of_median([1.03, *[1.0] * 4, 1.0]).within(0.02)


def test_pairs_have_to_be_pairs():
    assert paired_ratios([2.0, 3.0], [1.0, 2.0]) == [2.0, 1.5]
    with pytest.raises(ValueError, match="argument"):
        paired_ratios([1.0], [1.0, 2.0])


def test_steady_state_says_how_sure_its_ratio_is():
    assert STEADY.ratio().median == pytest.approx(1.01)
    assert STEADY.figures()["equivalent"]
    assert not replace(STEADY, margin=0.005).figures()["equivalent"]


def test_usual_way_is_held_against_the_rounds_it_was_run_in():
    assert replace(CASE, usual_seconds=(1.2,)).usual_ratios == pytest.approx([1.2])


def test_oversized_decode_is_bytes_a_second_over_the_link():
    figures = OVERSIZED.figures()
    assert figures["streamed_bytes_per_second"] == pytest.approx(97.5)
    assert figures["link_fraction"] == pytest.approx(0.975)
    assert figures["decode_seconds"] == pytest.approx(0.4)
    assert figures["decode_to_predicted"] == pytest.approx(1.0)


def test_oversized_prompt_is_held_against_the_resident_pass_beside_it():
    figures = OVERSIZED.figures()
    assert figures["over_resident"] == pytest.approx(1.01)
    assert figures["compute_to_move"] == pytest.approx(2.0 * 100 / 40)
    assert figures["prompt_to_predicted"] == pytest.approx(1.01)
    assert figures["over_resident_interval"]["high"] == pytest.approx(1.05)


def test_peer_that_did_not_run_has_no_figures_and_its_reason_is_in_the_table():
    assert set(PEERS[2].figures().values()) == {None}
    assert "x is not installed" in BENCH.table()


def test_rate_of_a_peer_counts_what_it_moves():
    assert PEERS[0].figures()["bytes_per_second"] == pytest.approx(0.5 * 100 / 0.5)
    assert replace(PEERS[0], moves="nothing").figures()["bytes_per_second"] is None


def test_peer_is_held_against_streamload_with_as_much_to_move():
    assert BENCH.ratio_to_peer(PEERS[0]) == pytest.approx(4.0)
    assert BENCH.ratio_to_peer(PEERS[1]) is None
    assert BENCH.ratio_to_peer(replace(PEERS[0], moves="all")) is None  # nobody of ours moves all
    assert "4.00  rounded" in BENCH.table()


def test_table_names_the_machine_and_what_a_thorough_run_measures_beside():
    assert "a processor, 2 CPUs" in BENCH.table()
    assert "--thorough" not in BENCH.table()
    short = replace(BENCH, left_out=left_out(OverlapSettings())).table()
    assert "a short run: 3 prompts, not 4; X of 1.5 s, not 2.5" in short
    assert "--thorough" in short
    assert left_out(OverlapSettings(thorough=True)) == ()


def test_nothing_is_said_to_be_left_out_that_was_asked_for():
    asked = OverlapSettings(path="model", tokens=(8,), link_bytes_per_second=1e9)
    assert not any(said.startswith(("3 prompts", "X of", "12 models")) for said in left_out(asked))
    assert "30 pairs once resident, not 100" in left_out(asked)


def test_json_holds_every_round_and_what_follows_from_it():
    written = json.loads(json.dumps(BENCH.as_dict()))
    assert written["kind"] == "bench overlap"
    assert written["cold"][0]["streamed_seconds"] == [1.03, 1.02, 2.1]
    assert written["cold"][0]["figures"]["ratio"] == pytest.approx(1.03)
    assert written["cold"][0]["layer_stall_seconds"]["layers.0"] == pytest.approx(0.3)
    assert written["steady"]["figures"]["ratio"]["median"] == pytest.approx(1.01)
    assert written["oversized"]["decode_bytes"] == [78, 80, 80]
    assert written["oversized"]["figures"]["link_fraction"] == pytest.approx(0.975)
    assert written["peers"][0]["figures"]["bytes_per_second"] == pytest.approx(100.0)
    assert written["peers"][2]["cannot_run"] == "x is not installed"
    assert written["wake"]["figures"]["ratio"] == pytest.approx(1.04)
    assert written["machine"]["cpus"] == 2
    assert written["cache"] == "warm"
    assert written["command"] == "streamload bench overlap"


def test_table_fits_a_hundred_columns_and_says_that_the_link_is_simulated():
    table = BENCH.table()
    assert max(len(line) for line in table.splitlines()) <= 100
    assert "SIMULATED" in table
    assert "SIMULATED" not in replace(BENCH, simulated_link=None, device="cuda:0").table()
