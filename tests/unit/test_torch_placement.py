"""How tensors lie in new memory: as in the file where that is aligned, on huge pages on the CPU, and little wasted."""

from __future__ import annotations

import ctypes
import gc
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamload._format import TensorInfo
from streamload._native import make_host_blocks
from streamload.torch import _memory
from streamload.torch._memory import ALIGNMENT, DIRECT_GRID, GRIDDED_BYTES, lay_out, place

CPU = torch.device("cpu")
MIB = 1 << 20
HUGE_PAGE_BYTES = 2 * MIB
DTYPES = {1: "U8", 2: "BF16", 4: "F32", 8: "I64"}


def infos_of(*sizes: int, start=1000, itemsize=2, shard=0):
    """Tensors that follow each other in a file."""
    made = []
    for number, nbytes in enumerate(sizes):
        name = f"{shard}.{start}.{number}"
        made.append(TensorInfo(name, DTYPES[itemsize], (nbytes // itemsize,), start, start + nbytes, shard))
        start += nbytes
    return made


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_neighbours_in_the_file_are_neighbours_in_memory_on_its_grid():
    infos = infos_of(60_000, 2, 70_000, 400)
    tensors = place(infos, CPU, as_in_file=True).tensors
    assert all((t.data_ptr() - i.start) % DIRECT_GRID == 0 for t, i in zip(tensors, infos, strict=True))
    assert {t.data_ptr() - i.start for t, i in zip(tensors, infos, strict=True)} == {
        tensors[0].data_ptr() - infos[0].start
    }


def test_the_order_asked_for_does_not_matter_within_a_block():
    infos = infos_of(60_000, 20_000, 40_000)
    tensors = place(infos[::-1], CPU, as_in_file=True).tensors
    assert len({t.data_ptr() - i.start for t, i in zip(tensors, infos[::-1], strict=True)}) == 1


def test_a_run_with_a_misaligned_tensor_is_aligned_one_by_one():
    tensors = place(infos_of(100_000, 100_000, start=1001, itemsize=2), CPU, as_in_file=True).tensors
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def test_a_small_tensor_by_itself_is_aligned_for_compute():
    (tensor,) = place(infos_of(GRIDDED_BYTES - 2), CPU, as_in_file=True).tensors
    assert tensor.data_ptr() % ALIGNMENT == 0


@st.composite
def tensors_of_files(draw):
    """Tensors of two shards: runs, gaps, sizes from none to large, aligned to their elements or not."""
    made = []
    for shard in range(2):
        start = draw(st.integers(0, 9000))
        for number in range(draw(st.integers(0, 8))):
            itemsize = draw(st.sampled_from(sorted(DTYPES)))
            count = draw(st.sampled_from([0, 1, 3, 100, 5000, 40_000]))
            made.append(
                TensorInfo(f"{shard}.{number}", DTYPES[itemsize], (count,), start, start + count * itemsize, shard)
            )
            start += count * itemsize + draw(st.sampled_from([0, 0, 0, 2, 5000]))
    return draw(st.permutations(made))


@given(tensors_of_files())
def test_tensors_never_meet_are_aligned_and_waste_little(infos):
    sizes = {name: size for size, name in DTYPES.items()}
    itemsizes = [sizes[info.dtype] for info in infos]
    offsets, total, grid = lay_out(infos, itemsizes)
    assert grid in (ALIGNMENT, DIRECT_GRID)
    assert all(offset % itemsize == 0 for offset, itemsize in zip(offsets, itemsizes, strict=True))
    spans = sorted((offset, offset + info.nbytes) for offset, info in zip(offsets, infos, strict=True) if info.nbytes)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    nbytes = sum(info.nbytes for info in infos)
    assert max([end for _, end in spans], default=0) <= total <= nbytes * 17 // 16 + ALIGNMENT * len(infos)


@given(tensors_of_files(), st.booleans())
def test_placed_tensors_have_their_shape_dtype_and_a_storage_each(infos, as_in_file):
    tensors = place(infos, CPU, block_bytes=100_000, as_in_file=as_in_file).tensors
    assert as_in_file or all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)
    for number, (info, tensor) in enumerate(zip(infos, tensors, strict=True)):
        assert (tuple(tensor.shape), tensor.nbytes) == (info.shape, info.nbytes)
        assert tensor.untyped_storage().nbytes() == info.nbytes
        assert not tensor._is_view()
        tensor.view(torch.uint8).fill_(number)
    assert all(tensor.view(torch.uint8).eq(number).all() for number, tensor in enumerate(tensors))


@pytest.mark.parametrize("nbytes", [0, 1, 5000, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 5, 9 * HUGE_PAGE_BYTES - 9])
@pytest.mark.parametrize("beside", [(), (5000, 3 * HUGE_PAGE_BYTES + 5, 9 * HUGE_PAGE_BYTES)])
def test_a_block_is_zeros_and_all_of_it_may_be_written(nbytes, beside):
    blocks = make_host_blocks([*beside, nbytes, *beside])
    block = blocks.pop(len(beside))
    for other in blocks:
        assert ctypes.string_at(other.address, other.nbytes) == bytes(other.nbytes)
        ctypes.memset(other.address, 1, other.nbytes)
    assert block.nbytes == nbytes
    assert nbytes < HUGE_PAGE_BYTES or block.address % HUGE_PAGE_BYTES == 0
    assert bytes(block) == bytes(nbytes)
    if nbytes:
        ctypes.memset(block.address, 2, nbytes)
    assert bytes(block) == b"\2" * nbytes
    assert all(bytes(other) == b"\1" * other.nbytes for other in blocks)


@pytest.mark.parametrize("nbytes", [1, 3 * MIB, 15 * MIB, 16 * MIB + 1, 18 * MIB + 1, 33 * MIB])
def test_little_more_than_was_asked_for_becomes_resident(nbytes):
    before = resident_bytes()
    block, other = make_host_blocks([nbytes, nbytes])
    assert resident_bytes() - before < MIB, "nothing is touched before it is read into"
    ctypes.memset(block.address, 1, nbytes)
    assert resident_bytes() - before <= nbytes * 9 // 8 + MIB  # and what the test itself takes
    ctypes.memset(other.address, 1, nbytes)
    del block
    assert resident_bytes() - before <= nbytes * 9 // 8 + MIB, "each is freed by itself"
    assert bytes(other) == b"\1" * nbytes


def test_more_memory_than_there_is_is_refused():
    for sizes in ([1 << 60], [3 * MIB, 1 << 60], [1 << 62, 1 << 62], [(1 << 64) - 1] * 2):
        with pytest.raises(MemoryError, match=r"refuses [0-9]+ bytes"):
            make_host_blocks(sizes)
    with pytest.raises(MemoryError):
        place([TensorInfo("a", "U8", (1 << 60,), 0, 1 << 60)], CPU)


def test_a_block_lives_as_long_as_a_tensor_over_it(monkeypatch):
    def watched_blocks(sizes):
        blocks = make_host_blocks(sizes)
        watched.extend(map(weakref.ref, blocks))
        return blocks

    watched: list[weakref.ref] = []
    monkeypatch.setattr(_memory, "make_host_blocks", watched_blocks)
    one, other = place(infos_of(3 * MIB, 3 * MIB), CPU).tensors
    gc.collect()
    (memory,) = watched
    del one
    gc.collect()
    assert memory() is not None
    del other
    gc.collect()
    assert memory() is None
