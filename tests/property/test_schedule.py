"""The simulation against formulas where there are any, and against following every single read where there are not."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload._plan import least_reuse_distance, plan_slots
from streamload._schedule import Pipeline, simulate_cold_start, simulate_passes

seconds = st.floats(0, 10, allow_subnormal=False)
LINK = 64.0


def pipeline(**changes: object):
    return Pipeline(**{"link_bytes_per_second": LINK, "staging_bytes": 1 << 30, "chunk_bytes": 64, **changes})


def chunks(nbytes, size=64):
    return [min(size, nbytes - at) for at in range(0, nbytes, size)]


layers = st.lists(st.tuples(st.integers(1, 2000), seconds), min_size=1, max_size=20)


@given(layers)
def test_the_first_token_comes_when_the_formula_says(layers):
    """TTFT = max over k of what arrives up to k and what computes from k on; research and PipeSwitch alike."""
    arrive = [nbytes / LINK for nbytes, _ in layers]
    compute = [work for _, work in layers]
    start = simulate_cold_start([chunks(nbytes) for nbytes, _ in layers], compute, pipeline())
    expected = max(sum(arrive[: k + 1]) + sum(compute[k:]) for k in range(len(layers)))
    assert start.first_token_seconds == pytest.approx(expected)
    assert sum(start.stalls) == pytest.approx(expected - sum(compute))


@given(st.integers(1, 40), st.integers(1, 500), seconds)
def test_of_equal_layers_the_longer_side_counts_and_one_layer_of_the_other(count, nbytes, work):
    start = simulate_cold_start([chunks(nbytes)] * count, [work] * count, pipeline())
    arrive = nbytes / LINK
    assert start.first_token_seconds == pytest.approx(max(count * arrive + work, arrive + count * work))


@given(layers, st.sampled_from([8.0, 64.0, 640.0]))
def test_with_storage_the_slowest_stage_counts_and_one_chunk_of_each(layers, storage):
    groups = [chunks(nbytes, 2) for nbytes, _ in layers]
    start = simulate_cold_start(groups, [0.0] * len(layers), pipeline(storage_bytes_per_second=storage))
    slowest = sum(nbytes for nbytes, _ in layers) / min(LINK, storage)
    assert slowest <= start.transfer_seconds * (1 + 1e-9)
    assert start.transfer_seconds <= slowest + 2 / LINK + 2 / storage + 1e-9


@given(st.integers(4, 40), st.integers(0, 30), st.integers(1, 500), seconds, st.integers(2, 5))
def test_a_steady_pass_takes_as_long_as_the_link_or_the_computing(count, stay, nbytes, work, slots):
    plan = plan_slots([256] * count, range(count), budget=256 * (stay + slots), most_slots=slots)
    steady = simulate_passes([chunks(nbytes)] * count, [work] * count, range(count), plan, pipeline())
    link, compute = len(plan.streamed) * nbytes / LINK, count * work
    assert steady.bytes_streamed == nbytes * len(plan.streamed)
    assert steady.seconds >= max(link, compute) * (1 - 1e-9)
    assert steady.seconds == pytest.approx(steady.compute_seconds + steady.stall_seconds)
    assert steady.link_fraction <= 1 + 1e-9
    if not plan.resident and least_reuse_distance(plan.slot_of) > 1:
        assert steady.seconds == pytest.approx(max(link, compute))
    if plan.slots > 1:
        assert steady.seconds <= (link + compute) * (1 + 1e-9)


def follow_every_read(units, compute, order, plan, pipe, on_host, read_ahead, passes):
    """Seconds of a steady pass, by a loop over single reads and their buffers."""
    slot_of = dict(zip(plan.streamed, plan.slot_of, strict=True))
    holds, released, ready = {}, {}, {}
    freed = [0.0] * pipe.buffers
    at = 0
    read = copied = computed = 0.0
    ends = []
    for _ in range(passes):
        for unit in order:
            slot = slot_of.get(unit)
            if slot is not None and holds.get(slot) != unit:
                copied = max(copied, released.get(slot, 0.0))
                if unit in on_host:
                    copied += sum(units[unit]) / pipe.link_bytes_per_second
                else:
                    if not read_ahead:
                        read = max(read, released.get(slot, 0.0))
                    for nbytes in units[unit]:
                        read = max(read, freed[at]) + nbytes / pipe.storage_bytes_per_second
                        copied = max(copied, read) + nbytes / pipe.link_bytes_per_second
                        freed[at] = copied
                        at = (at + 1) % len(freed)
                holds[slot], ready[slot] = unit, copied + pipe.group_seconds
            computed = max(computed, ready.get(slot, 0.0) if slot is not None else 0.0) + compute[unit]
            if slot is not None:
                released[slot] = computed
        ends.append(computed)
    return (ends[-1] - ends[passes // 2 - 1]) / (passes - passes // 2)


@st.composite
def rotations(draw):
    count = draw(st.integers(2, 12))
    sizes = draw(st.lists(st.integers(10, 60), min_size=count, max_size=count))
    units = [[16] * size for size in sizes]
    compute = draw(st.lists(st.floats(0, 30, allow_subnormal=False), min_size=count, max_size=count))
    padded = [256 * -(-16 * size // 256) for size in sizes]
    budget = draw(st.integers(max(padded), sum(padded)))
    plan = plan_slots(padded, range(count), budget=budget, most_slots=draw(st.integers(1, 4)))
    pipe = pipeline(
        chunk_bytes=16,
        staging_bytes=16 * draw(st.integers(4, 10)),
        storage_bytes_per_second=draw(st.sampled_from([16.0, 60.0, 64.0, 80.0, 640.0, inf])),
        group_seconds=draw(st.sampled_from([0.0, 0.01])),
    )
    return units, compute, plan, pipe, set(draw(st.lists(st.integers(0, count - 1))))


@given(rotations(), st.booleans())
def test_fills_followed_as_a_whole_agree_with_following_every_read(rotation, read_ahead):
    units, compute, plan, pipe, on_host = rotation
    order = range(len(units))
    steady = simulate_passes(units, compute, order, plan, pipe, on_host=on_host, read_ahead=read_ahead, passes=40)
    exact = follow_every_read(units, compute, order, plan, pipe, on_host, read_ahead, 40)
    assert steady.seconds == pytest.approx(exact, rel=1e-6)
