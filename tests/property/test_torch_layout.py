"""Bytes moved row by row lie where torch's own indexing and `copy_` would have put them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamload.torch._layout import blocks_of, packed_stride, split, suits, take_apart, take_part

DTYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@st.composite
def indices(draw, shape):
    """Ints and slices of step 1, at most one a dimension."""
    parts: list[int | slice] = []
    for extent in shape[: draw(st.integers(0, len(shape)))]:
        bound = st.none() | st.integers(-extent - 1, extent + 1)
        choices = [st.builds(slice, bound, bound)]
        if extent:
            choices.append(st.integers(-extent, extent - 1))
        parts.append(draw(st.one_of(choices)))
    return tuple(parts)


def raw(tensor):
    """The bytes of a tensor's whole storage."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def view_of(draw, shape, dtype):
    """A strided view of a shape in larger memory: some dimensions longer, some exchanged, some offset."""
    order = draw(st.permutations(range(len(shape))))
    extra = [draw(st.integers(0, 2)) for _ in shape]
    first = [draw(st.integers(0, more)) for more in extra]
    whole = torch.full([shape[at] + extra[at] for at in order], 77).to(dtype)
    view = whole[tuple(slice(first[at], first[at] + shape[at]) for at in order)]
    return view.permute([order.index(at) for at in range(len(shape))])


def put(source, target, part, view):
    """Move the pieces between two storages, and count the writes to each byte."""
    written = [0] * len(target)
    stride = [step * part.itemsize for step in view.stride()]
    base = view.storage_offset() * part.itemsize
    for at, to, row, rows, by, pitch in take_apart(part, stride):
        for number in range(rows):
            start, end = at + number * by, base + to + number * pitch
            target[end : end + row] = source[start : start + row]
            written[end : end + row] = [count + 1 for count in written[end : end + row]]
    return written


@given(st.data(), st.lists(st.integers(0, 4), max_size=4), st.sampled_from(sorted(DTYPES)))
@settings(max_examples=300)
def test_pieces_do_what_indexing_and_copying_do(data, shape, itemsize):
    dtype = DTYPES[itemsize]
    whole = torch.arange(math.prod(shape)).to(dtype).reshape(shape)
    index = data.draw(indices(shape))
    part = take_part(shape, itemsize, index)
    expected = whole[index]
    assert part.shape == tuple(expected.shape)
    view = view_of(data.draw, part.shape, dtype)
    before = raw(view).clone()
    written = put(raw(whole), raw(view), part, view)
    assert torch.equal(view, expected)
    assert max(written, default=0) <= 1
    assert sum(written) == part.nbytes
    untouched = torch.tensor([count == 0 for count in written], dtype=torch.bool)
    assert torch.equal(raw(view)[untouched], before[untouched])


def test_every_index_of_a_small_tensor_into_every_order_of_dimensions():
    shape = (2, 3, 4)
    whole = torch.arange(24, dtype=torch.int16).reshape(shape)
    for parts in itertools.product(
        *[[0, extent - 1, *[slice(a, b) for a in range(extent) for b in range(a + 1, extent + 1)]] for extent in shape]
    ):
        part = take_part(shape, 2, parts)
        expected = whole[parts]
        for order in itertools.permutations(range(len(part.shape))):
            view = torch.zeros([part.shape[at] for at in order], dtype=torch.int16)
            view = view.permute([order.index(at) for at in range(len(order))])
            put(raw(whole), raw(view), part, view)
            assert torch.equal(view, expected)


@given(st.data(), st.lists(st.integers(0, 4), max_size=4), st.sampled_from(sorted(DTYPES)))
def test_blocks_are_the_bytes_of_a_view(data, shape, itemsize):
    view = view_of(data.draw, tuple(shape), DTYPES[itemsize])
    found = blocks_of(
        view.storage_offset() * itemsize, view.shape, [step * itemsize for step in view.stride()], itemsize
    )
    assert found is not None
    held = [at + row * pitch + i for at, nbytes, rows, pitch in found for row in range(rows) for i in range(nbytes)]
    places = torch.arange(len(raw(view)) // itemsize)
    expected = places.as_strided(view.shape, view.stride(), view.storage_offset()).flatten().tolist()
    assert sorted(held) == sorted(at * itemsize + i for at in expected for i in range(itemsize))


@pytest.mark.parametrize("view", [torch.zeros(3).expand(2, 3), torch.zeros(9).as_strided((3, 3), (1, 1))])
def test_a_view_whose_elements_share_memory_has_no_blocks(view):
    assert blocks_of(0, view.shape, [step * 4 for step in view.stride()], 4) is None


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from([1, 8]), st.integers(1, 60))
def test_a_split_covers_every_element_once_within_the_limit(shape, itemsize, most):
    seen = torch.zeros(shape, dtype=torch.int32)
    for index in split(shape, itemsize, most):
        part = seen[index]
        part += 1
        assert part.numel() * itemsize <= max(most, itemsize)
    assert seen.eq(1).all()


def test_rows_that_both_sides_agree_on_are_joined():
    whole = take_part((8, 16), 2, ())
    assert take_apart(whole, packed_stride((8, 16), 2)) == [(0, 0, 256, 1, 0, 0)]
    columns = take_part((8, 16), 2, (slice(None), slice(4, 8)))
    assert take_apart(columns, packed_stride((8, 4), 2)) == [(8, 0, 8, 8, 32, 8)]
    stacked = take_part((4, 8, 16), 2, (slice(None), slice(2, 4), slice(0, 8)))
    assert len(take_apart(stacked, packed_stride((4, 2, 8), 2))) == 4


def test_a_transposed_view_does_not_suit_rows_and_columns_do():
    whole = take_part((100, 200), 2, ())
    assert suits(whole, (400, 2))
    assert suits(whole, (1000, 2))
    assert not suits(whole, (2, 200))
    assert suits(take_part((100, 200), 2, (slice(None), slice(0, 4))), (8, 2)), "packed memory would be no better"


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (0, TypeError, "expected a tuple of ints and slices"),
        ((True,), TypeError, "expected a tuple of ints and slices"),
        ((...,), TypeError, "expected a tuple of ints and slices"),
        ((None,), TypeError, "expected a tuple of ints and slices"),
        (([0],), TypeError, "expected a tuple of ints and slices"),
        ((0, 0, 0), IndexError, "3 indices for 2 dimensions"),
        ((4,), IndexError, "index 4 is out of range for dimension 0 of 4"),
        ((0, -6), IndexError, "index -6 is out of range for dimension 1 of 5"),
        ((slice(0, 4, 2),), ValueError, "step 1"),
        ((slice(None, None, -1),), ValueError, "step 1"),
    ],
)
def test_an_index_of_another_kind_is_refused(index, error, text):
    with pytest.raises(error, match=text):
        take_part((4, 5), 2, index)
