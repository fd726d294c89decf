"""The engine over the real driver, with no torch tensors between: bytes go in, the same bytes come back."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from streamload._engine import CopyEngine, open_device
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import StreamClosedError
from streamload.options import StreamOptions

NBYTES = (4 << 20) + 12_345


@pytest.fixture(scope="module")
def data():
    """Bytes no two places of which are alike."""
    return random.Random(0).randbytes(NBYTES)


@pytest.fixture
def memory(place):
    """An engine and native device memory for the data, freed afterwards."""
    with place.engine(StreamOptions(chunk_bytes=256 << 10, staging_bytes=1 << 20)) as engine:
        address = engine.device.allocate(NBYTES)
        yield engine, address
        engine.close()
        engine.device.deallocate(address, NBYTES)


def scattered(address):
    """Copies that cover the data in uneven pieces, in four groups, each group's order mixed."""
    cuts = sorted({0, NBYTES, *random.Random(1).sample(range(NBYTES), 199)})
    pieces = [Copy(0, start, end, address + start) for start, end in pairwise(cuts)]
    return [random.Random(group).sample(part, len(part)) for group in range(4) if (part := pieces[group::4])]


@pytest.mark.parametrize("kind", ["file", "callback"])
def test_bytes_come_back_as_they_went(memory, data, tmp_path, kind):
    engine, address = memory
    if kind == "file":
        (tmp_path / "data").write_bytes(data)
        source = FileSource(tmp_path / "data")
    else:
        source = MemorySource(data)
    plan = make_plan(scattered(address), chunk_bytes=engine.options.chunk_bytes)
    with source, engine.submit(plan, [source]) as ticket:
        ticket.wait(timeout=60)
        assert all(ticket.resident(group) for group in range(plan.group_count))
        assert ticket.stats().bytes_resident == NBYTES
    assert engine.device.read_back(address, NBYTES) == data


def test_two_loads_share_an_engine(memory, data):
    engine, address = memory
    other = engine.device.allocate(NBYTES)
    plans = [make_plan(scattered(at), chunk_bytes=engine.options.chunk_bytes) for at in (address, other)]
    with MemorySource(data) as source:
        tickets = [engine.submit(plan, [source]) for plan in plans]
        for ticket in tickets:
            ticket.wait(timeout=60)
            ticket.close()
    assert engine.device.read_back(address, NBYTES) == engine.device.read_back(other, NBYTES) == data
    engine.device.deallocate(other, NBYTES)


def test_engine_works_again_after_a_cancelled_load(memory, data):
    engine, address = memory
    plan = make_plan(scattered(address), chunk_bytes=engine.options.chunk_bytes)
    with MemorySource(data) as source:
        for _ in range(10):
            ticket = engine.submit(plan, [source])
            ticket.cancel()
            ticket.close()
        with engine.submit(plan, [source]) as ticket:
            ticket.wait(timeout=60)
    assert engine.device.read_back(address, NBYTES) == data


def test_trace_tells_when_each_read_was_copied(memory, data):
    engine, address = memory
    plan = make_plan(scattered(address), chunk_bytes=engine.options.chunk_bytes)
    with MemorySource(data) as source, engine.submit(plan, [source]) as ticket:
        ticket.wait(timeout=60)
        trace = ticket.trace()
    assert sum(chunk.nbytes for chunk in trace) == NBYTES
    for chunk in trace:
        assert 0 <= chunk.read_start <= chunk.read_end <= chunk.copy_issued <= chunk.copy_done


def test_link_is_measured(place):
    with place.engine() as engine:
        seconds = engine.device.measure_link(64 << 20, 3)
    assert len(seconds) == 3
    assert all((64 << 20) / each > 1e8 for each in seconds), "a link of less than 0.1 GB/s is no link"


def test_closed_engine_takes_no_loads(place, data):
    engine = place.engine()
    engine.close()
    engine.close()
    with MemorySource(data) as source, pytest.raises(StreamClosedError):
        engine.submit(make_plan([[Copy(0, 0, 10, 4096)]], chunk_bytes=1 << 20), [source])


@pytest.mark.needs_cuda
def test_driver_and_torch_name_the_same_device():
    device = open_device("cuda:0")
    properties, torchs = device.properties, torch.cuda.get_device_properties(0)
    assert properties["name"] == torchs.name
    assert properties["total_bytes"] == torchs.total_memory
    assert (properties["compute_major"], properties["compute_minor"]) == (torchs.major, torchs.minor)


@pytest.mark.needs_cuda
def test_engine_shares_torchs_context(data):
    """Memory of torch's is memory of ours: one primary context, whoever made it."""
    target = torch.zeros(NBYTES, dtype=torch.uint8, device="cuda:0")
    plan = make_plan(scattered(target.data_ptr()), chunk_bytes=256 << 10)
    stream = torch.cuda.current_stream().cuda_stream
    options = StreamOptions(chunk_bytes=256 << 10, staging_bytes=1 << 20)
    with (
        CopyEngine(open_device("cuda:0"), options) as engine,
        MemorySource(data) as source,
        engine.submit(plan, [source], after_stream=stream) as ticket,
    ):
        for group in range(plan.group_count):
            ticket.wait_group(group, stream=stream)
        doubled = target.to(torch.int32) * 2  # on the stream that was made to wait
        ticket.wait(timeout=60)
    assert bytes(target.cpu().numpy()) == data
    assert torch.equal(doubled, target.to(torch.int32) * 2)
