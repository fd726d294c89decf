"""What the overlap benchmark feeds into the simulation, and how it counts what passes through slots."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from streamload._plan import SlotPlan
from streamload.bench._overlap._oversized import time_decode
from streamload.bench._overlap._place import Files
from streamload.bench._overlap._predict import (
    Turns,
    first_token_seconds,
    make_pipeline,
    pass_seconds,
    reads_in_trace,
    scaled,
)
from streamload.bench._overlap._prompts import _between
from streamload.bench._result import BenchError

MB = 1_000_000
PIPELINE = make_pipeline([100.0 * MB] * 2, [1e12], [0.01, 0.02, 0.03])


def test_pipeline_takes_the_medians_of_what_was_measured():
    assert PIPELINE.link_bytes_per_second == 100 * MB
    assert PIPELINE.load_seconds == 0.02


def test_parts_are_stretched_to_the_pass_that_was_timed_without_marks():
    passes = [[("a", 1.0), ("b", 2.0)], [("a", 1.0), ("b", 4.0)], [("a", 2.0), ("b", 3.0)]]
    assert scaled(passes, 2.0) == [("a", pytest.approx(0.5)), ("b", pytest.approx(1.5))]


def test_transfer_bound_first_token_comes_one_layer_after_the_last_byte():
    parts = [("a", 0.01), ("b", 0.01)]
    found = first_token_seconds(parts, {"a": 0, "b": 1}, [[10 * MB], [10 * MB]], PIPELINE)
    assert found == pytest.approx(0.02 + 0.2 + 0.01, abs=1e-3)


def test_compute_bound_first_token_begins_with_the_first_bytes():
    parts = [("a", 1.0), ("b", 1.0)]
    found = first_token_seconds(parts, {"a": 0, "b": 1}, [[10 * MB], [10 * MB]], PIPELINE)
    assert found == pytest.approx(0.02 + 0.1 + 2.0, abs=1e-3)


def test_part_that_waits_for_nothing_computes_before_any_byte():
    parts = [("table", 0.05), ("a", 0.01)]
    found = first_token_seconds(parts, {"a": 0}, [[10 * MB]], PIPELINE)
    assert found == pytest.approx(0.02 + 0.1 + 0.01, abs=1e-3)


def test_part_that_needs_an_earlier_group_does_not_go_back():
    parts = [("b", 0.01), ("a", 0.01)]
    found = first_token_seconds(parts, {"a": 0, "b": 1}, [[10 * MB], [10 * MB]], PIPELINE)
    assert found == pytest.approx(0.02 + 0.2 + 0.02, abs=1e-3)


TURNS = Turns(("layers.1", "layers.3"), ((10 * MB,), (10 * MB,)), SlotPlan((), (0, 1), (0, 1), 2, 10 * MB, 20 * MB))


def parts_of(seconds: float) -> list[tuple[str, float]]:
    """Four layers, two parts each; `layers.1` is not to be taken for `layers.10`."""
    return [(f"layers.{layer}.{part}", seconds) for layer in (0, 1, 10, 3) for part in ("a", "b")]


def test_link_bound_pass_takes_what_its_bytes_take_when_slots_suffice():
    turns = Turns(TURNS.paths, TURNS.reads, SlotPlan((), (0, 1), (0, 1), 2, 10 * MB, 20 * MB))
    found = pass_seconds(parts_of(0.001), turns, PIPELINE, read_ahead=True)
    assert found == pytest.approx(0.0, abs=0.01)  # a slot for each: nothing is streamed again
    shared = Turns(TURNS.paths, TURNS.reads, SlotPlan((), (0, 1), (0, 0), 1, 10 * MB, 10 * MB))
    assert pass_seconds(parts_of(0.001), shared, PIPELINE, read_ahead=True) == pytest.approx(0.2, abs=0.01)


def test_compute_bound_pass_takes_what_it_computes():
    shared = Turns(TURNS.paths, TURNS.reads, SlotPlan((), (0, 1), (0, 0), 1, 10 * MB, 10 * MB))
    found = pass_seconds(parts_of(0.5), shared, PIPELINE, read_ahead=True)
    assert found == pytest.approx(4.0, rel=0.01)


def test_reads_are_gathered_by_group_in_the_order_of_the_file():
    chunks = [(1, 0, 20, 7), (0, 0, 0, 10), (1, 0, 10, 10)]
    trace = [SimpleNamespace(group=g, source=s, offset=o, nbytes=n) for g, s, o, n in chunks]
    assert reads_in_trace(trace) == [[10], [10, 7]]


def test_time_of_parts_is_added_up_by_layer():
    layer_of = {"layers.0.a.weight": "layers.0", "layers.0.b.weight": "layers.0", "norm.weight": "norm"}
    parts = [("layers.0.a", 1.0), ("act", 0.5), ("layers.0.b", 2.0), ("norm", 4.0)]
    assert Files((), (), layer_of).by_layer(parts) == {"layers.0": 3.5, "norm": 4.0}


@pytest.mark.parametrize(("seconds", "tokens"), [(0.5, 8), (1.0, 16), (1.5, 24), (3.0, 48), (9.0, 64)])
def test_prompts_lie_between_those_that_were_tried(seconds, tokens):
    assert _between([(1.0, 16), (2.0, 32), (4.0, 64)], seconds) == tokens


def test_prompts_are_found_where_a_longer_one_took_less():
    assert 16 <= _between([(1.0, 16), (0.9, 32), (4.0, 64)], 2.0) <= 64


class FakeStream:
    """Counts bytes as a rotation does; streams so many a pass."""

    def __init__(self, each: int) -> None:
        self.each, self.streamed = each, 1000

    def rotation_stats(self):
        return SimpleNamespace(bytes_streamed=self.streamed)

    def run_pass(self):
        self.streamed += self.each
        return torch.zeros(1)


def test_decode_counts_only_what_was_streamed_meanwhile():
    stream = FakeStream(50)
    found = time_decode(stream.run_pass, stream, 3)
    assert (found.nbytes, len(found.outputs)) == (150, 3)
    assert found.seconds > 0


def test_an_oversized_model_that_streams_nothing_is_an_error():
    with pytest.raises(BenchError, match="streamed no bytes"):
        time_decode(lambda: torch.zeros(1), FakeStream(0), 3)
    nothing = SimpleNamespace(rotation_stats=lambda: None)
    with pytest.raises(BenchError, match="nothing of the model passes through slots"):
        time_decode(lambda: torch.zeros(1), nothing, 3)
