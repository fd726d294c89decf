"""The ranges an index is read in."""

from __future__ import annotations

import pytest
import torch

from streamload.torch._slice import MOST_RANGES, select

SHAPE = (4, 6, 5)


@pytest.mark.parametrize(
    ("index", "ranges"),
    [
        (1, [(30, 60)]),
        (-1, [(90, 120)]),
        (slice(1, 3), [(30, 90)]),
        (..., [(0, 120)]),
        ((), [(0, 120)]),
        ((2, 3, 4), [(79, 80)]),
        ((slice(None), 2), [(10, 15), (40, 45), (70, 75), (100, 105)]),
        ((slice(None, 2), slice(1, 3)), [(5, 15), (35, 45)]),
        ((0, slice(None), 2), [(n, n + 1) for n in (2, 7, 12, 17, 22, 27)]),
        ((0, 0, slice(None, None, 2)), [(0, 1), (2, 3), (4, 5)]),
        ((0, slice(None, None, 3)), [(0, 5), (15, 20)]),
        ((None, 3, None), [(90, 120)]),
        (slice(2, 2), []),
        ([3, 0, 3], [(0, 30), (90, 120)]),
        ([1, 2], [(30, 90)]),
        ((0, [0, 1, 4]), [(0, 10), (20, 25)]),
        ((..., [2, 2]), [(n, n + 1) for n in range(2, 120, 5)]),
        ([], []),
        (torch.tensor([False, True, False, False]), [(30, 60)]),
    ],
)
def test_an_index_reads_exactly_its_elements(index, ranges):
    selection = select(SHAPE, 4, index)
    assert selection.ranges == ranges
    assert selection.count == sum(end - start for start, end in ranges)


@pytest.mark.parametrize(("index", "ranges"), [(..., [(0, 1)]), ((), [(0, 1)]), (None, [(0, 1)])])
def test_a_scalar_has_one_element(index, ranges):
    assert select((), 8, index).ranges == ranges


@pytest.mark.parametrize(
    ("index", "error"),
    [(4, IndexError), ((0, 0, 0, 0), IndexError), (slice(None, None, -1), ValueError), ([9], IndexError)],
)
def test_what_torch_refuses_is_refused_as_torch_does(index, error):
    with pytest.raises(error):
        torch.empty(SHAPE)[index]
    with pytest.raises(error):
        select(SHAPE, 4, index)


def test_very_many_near_ranges_are_read_with_what_lies_between():
    rows = MOST_RANGES + 1
    selection = select((rows, 8), 4, (slice(None), slice(None, None, 4)))
    assert selection.ranges == [(0, rows * 8 - 3)]
    buffer = torch.arange(selection.count, dtype=torch.int32)
    result = selection.apply(buffer.view(torch.uint8).clone(), torch.int32)
    assert torch.equal(result, torch.arange(rows * 8, dtype=torch.int32).view(rows, 8)[:, ::4])
    assert result.is_contiguous()


def test_ranges_that_are_far_apart_stay_apart_however_many():
    rows = MOST_RANGES + 1
    assert len(select((rows, 2048), 4, (slice(None), slice(0, 4))).ranges) == rows


def test_very_many_listed_elements_are_read_in_spans():
    rows = torch.arange(0, 4 * MOST_RANGES, 2)
    selection = select((4 * MOST_RANGES, 3), 4, rows)
    assert len(selection.ranges) == 1
    content = torch.arange(selection.count, dtype=torch.int32)
    result = selection.apply(content.view(torch.uint8).clone(), torch.int32)
    assert torch.equal(result, torch.arange(4 * MOST_RANGES * 3, dtype=torch.int32).view(-1, 3)[rows])
