"""Tensors are cut into groups in order of use."""

from __future__ import annotations

from streamload.torch._groups import GROUP_BYTES, LEAST_GROUP_BYTES, SMALL_BYTES, cut, group_bytes


def sizes(items):
    return [list(group) for group in cut(items, lambda nbytes: nbytes)]


def test_small_tensors_come_first_in_their_order():
    assert sizes([SMALL_BYTES, 5, SMALL_BYTES + 1, 3]) == [[5, 3, SMALL_BYTES, SMALL_BYTES + 1]]


def test_a_group_closes_once_it_is_full():
    half = GROUP_BYTES // 2
    assert sizes([half, half, half]) == [[half, half], [half]]
    assert sizes([10 * GROUP_BYTES, half]) == [[10 * GROUP_BYTES], [half]]


def test_nothing_makes_no_group():
    assert sizes([]) == []


def test_groups_of_a_small_model_are_a_small_part_of_it():
    assert group_bytes(100 << 30) == GROUP_BYTES
    assert group_bytes(1 << 30) == 2 << 20
    assert group_bytes(10 << 20) == LEAST_GROUP_BYTES
    assert [len(group) for group in cut([3, 1, 4, 2], lambda item: item, 4)] == [2, 1, 1]
