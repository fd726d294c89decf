"""What joining tensors comes to is foretold as the meta device says it, or left to it."""

from __future__ import annotations

import pytest
import torch

from streamload._lazy._forms import joined_form

CAT, STACK = torch.ops.aten.cat.default, torch.ops.aten.stack.default


def on_meta(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


@pytest.mark.parametrize(
    ("func", "forms", "options"),
    [
        (CAT, on_meta((2, 3), (4, 3)), ()),
        (CAT, on_meta((2, 3), (2, 5), (2, 0)), (1,)),
        (CAT, on_meta((2, 3, 4), (2, 5, 4), dtype=torch.bfloat16), (-2,)),
        (CAT, on_meta((2, 3)), (0,)),
        (CAT, on_meta((2, 1, 4, 4), (2, 1, 4, 4)), (1,)),
        (STACK, on_meta((2, 3), (2, 3), (2, 3)), ()),
        (STACK, on_meta((2, 3), (2, 3)), (1,)),
        (STACK, on_meta((2, 3), (2, 3), dtype=torch.int8), (-1,)),
        (STACK, on_meta((), ()), (0,)),
        (STACK, on_meta((1, 4, 4), (1, 4, 4)), (1,)),
    ],
)
def test_a_plain_case_comes_to_what_the_meta_device_says(func, forms, options):
    found, said = joined_form(func, forms, options), func(forms, *options)
    assert found.is_meta
    assert (found.shape, found.stride(), found.dtype) == (said.shape, said.stride(), said.dtype)


@pytest.mark.parametrize(
    ("func", "forms", "options"),
    [
        (torch.ops.aten.hstack.default, on_meta((2, 3), (2, 3)), ()),
        (CAT, [], ()),
        (CAT, on_meta((), ()), ()),
        (CAT, on_meta((2, 3), (2, 4)), (0,)),
        (CAT, on_meta((0,), (2, 3)), (0,)),
        (CAT, on_meta((2, 3), (2, 3)), (2,)),
        (CAT, [*on_meta((2, 3)), *on_meta((2, 3), dtype=torch.int8)], (0,)),
        (CAT, [each.t() for each in on_meta((2, 3), (2, 3))], (0,)),
        (STACK, on_meta((2, 3), (3, 2)), (0,)),
        (STACK, on_meta((2, 3), (2, 3)), (3,)),
        (STACK, on_meta((2, 3), (2, 3)), (-4,)),
    ],
)
def test_what_is_not_plain_is_left_to_the_meta_device(func, forms, options):
    assert joined_form(func, forms, options) is None
