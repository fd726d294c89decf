"""Rectangles and batches over the real driver: whatever the widths, pitches and numbers, the right bytes land.

The host device runs the same tests, which proves them right.
"""

from __future__ import annotations

import random
from array import array
from contextlib import ExitStack

import pytest
import torch

from streamload._engine import open_device

NBYTES = 4 << 20


class Setting:
    """Host bytes no two places of which are alike, and device memory full of zeros."""

    def __init__(self, device) -> None:
        self.device = device
        self.source = torch.frombuffer(bytearray(random.Random(0).randbytes(NBYTES)), dtype=torch.uint8)
        self.target = device.allocate(NBYTES)
        zeros = torch.zeros(NBYTES, dtype=torch.uint8)
        self.copy([(0, 0, zeros.data_ptr(), 0, NBYTES, 1)], whole=True)

    def copy(self, blocks, *, whole=False, blocks_per_call=0) -> None:
        """Copy blocks whose addresses are offsets (`whole`: whose sources are addresses) and wait for them."""
        source = 0 if whole else self.source.data_ptr()
        flat = array("Q")
        for to, to_pitch, start, from_pitch, row_bytes, rows in blocks:
            flat.extend((self.target + to, to_pitch, source + start, from_pitch, row_bytes, rows))
        self.device.time_copies(flat, blocks_per_call, 1)

    def check(self, blocks, *, blocks_per_call=0) -> None:
        """Copy blocks; each row of each must be where it belongs, and nothing else changed."""
        self.copy(blocks, blocks_per_call=blocks_per_call)
        data = self.source.numpy().tobytes()
        expected = bytearray(NBYTES)
        for to, to_pitch, start, from_pitch, row_bytes, rows in blocks:
            for row in range(rows):
                at, begins = to + row * to_pitch, start + row * from_pitch
                expected[at : at + row_bytes] = data[begins : begins + row_bytes]
        assert self.device.read_back(self.target, NBYTES) == bytes(expected)


@pytest.fixture(params=[True, False], ids=["pinned", "ordinary"])
def setting(place, request):
    """A device of its own kind, its memory given back afterwards."""
    with place.engine() as engine, ExitStack() as cleanup:
        made = Setting(engine.device)
        cleanup.callback(engine.device.deallocate, made.target, NBYTES)
        if request.param:
            engine.device.pin(made.source.data_ptr(), NBYTES)
            cleanup.callback(engine.device.unpin, made.source.data_ptr(), NBYTES)
        yield made


@pytest.mark.parametrize("row_bytes", [1, 3, 64, 511, 2048, 4097])
def test_rectangles_of_any_width_and_pitch_land(setting, row_bytes):
    rows = min(200, NBYTES // (row_bytes + 1031))
    setting.check([(5, row_bytes + 7, 11, row_bytes + 1031, row_bytes, rows)])


def test_a_rectangle_that_leaves_no_gaps_lands(setting):
    setting.check([(4096, 512, 512, 512, 512, 1000)])


def test_a_thousand_small_blocks_land(setting):
    numbers = random.Random(1)
    setting.check(
        [(i * 4096 + i % 13, 0, numbers.randrange(NBYTES - 4096), 0, 1 + i * 4 % 4000, 1) for i in range(1000)]
    )


def test_rectangles_among_small_blocks_land(setting):
    blocks = []
    for i in range(100):
        at = i * 40_000
        blocks.append((at, 0, i * 7, 0, 100 + i, 1))
        blocks.append((at + 300, 0, i * 5, 0, 64, 1))
        blocks.append((at + 500, 33, i * 3, 45, 31, 1 + i))
    setting.check(blocks)


def test_one_at_a_time_is_the_same(setting):
    setting.check([(i * 100, 0, i * 50, 0, 99, 1) for i in range(300)], blocks_per_call=1)


@pytest.mark.needs_cuda
def test_pitch_above_the_drivers_limit_lands():
    """Two rows further apart than CU_DEVICE_ATTRIBUTE_MAX_PITCH, 2 GiB less one byte."""
    device, apart, data = open_device("cuda:0"), 1 << 31, bytes(range(200))
    source = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    target = device.allocate(apart + 100)
    device.time_copies(array("Q", [target, apart, source.data_ptr(), 100, 100, 2]), 0, 1)
    assert device.read_back(target, 100) + device.read_back(target + apart, 100) == data
    device.deallocate(target, apart + 100)


@pytest.mark.needs_cuda
def test_devices_of_one_driver_share_their_pinned_memory():
    device, again = open_device("cuda:0"), open_device("cuda:0")
    assert device.pin_domain == again.pin_domain
    assert device.numa_node == device.properties["numa_node"]
