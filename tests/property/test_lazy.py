"""Whatever is done to lazy tensors: parts put in place, values, and the same done to real tensors are one."""

from __future__ import annotations

import math
import operator
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import streamload
from streamload._lazy import LazyTensor, assemble, lazy_state_dict
from streamload.torch._dtypes import torch_dtype, torch_shape
from streamload.torch._submit import Target

pytestmark = pytest.mark.slow

SHAPES = [(4, 6), (4, 6), (6, 4), (2, 3, 4), (12,), (), (0, 6)]
CONTENT = {
    f"t{number}": (torch.arange(math.prod(shape), dtype=torch.float32) + 100 * number).view(shape)
    for number, shape in enumerate(SHAPES)
}


def put_together(data, source):
    memory, filled = bytearray(source.nbytes), bytearray(source.nbytes)
    for copy in Target(source, SimpleNamespace(data_ptr=lambda: 0)).copies():
        length = copy.end - copy.start
        assert copy.rows == 1 or min(copy.file_pitch, copy.pitch) >= length
        for row in range(copy.rows):
            at, to = copy.start + row * copy.file_pitch, copy.address + row * copy.pitch
            assert not any(filled[to : to + length])
            memory[to : to + length] = data[at : at + length]
            filled[to : to + length] = bytes([1]) * length
    assert all(filled)
    return torch.frombuffer(memory, dtype=torch.uint8).view(torch_dtype(source)).view(torch_shape(source))


def reshape(draw, tensor):
    shape = draw(st.permutations(tensor.shape))
    if len(shape) > 1 and draw(st.booleans()):
        shape = [shape[0] * shape[1], *shape[2:]]
    return operator.methodcaller("reshape", tuple(shape))


def cut(draw, tensor):
    dimension = draw(st.integers(0, tensor.dim() - 1))
    start = draw(st.integers(0, tensor.shape[dimension]))
    end = draw(st.integers(start, tensor.shape[dimension]))
    step = draw(st.sampled_from([1, 1, 2]))
    index = (*[slice(None)] * dimension, slice(start, end, step))
    return operator.itemgetter(index)


def one_of(draw, tensor):
    dimension = draw(st.integers(0, tensor.dim() - 1))
    if not tensor.shape[dimension]:
        return operator.methodcaller("clone")
    at = draw(st.integers(-tensor.shape[dimension], tensor.shape[dimension] - 1))
    return draw(
        st.sampled_from(
            [
                operator.methodcaller("select", dimension, at),
                lambda t: t.unbind(dimension)[at],
                lambda t: t.chunk(2, dimension)[-1],
                operator.methodcaller("expand", *[-1 if extent != 1 else 2 for extent in tensor.shape]),
            ]
        )
    )


def turned(draw, tensor):
    order = draw(st.permutations(range(tensor.dim())))
    return draw(
        st.sampled_from(
            [
                operator.methodcaller("permute", *order) if order else operator.methodcaller("clone"),
                operator.methodcaller("transpose", order[0], order[-1]) if order else operator.methodcaller("t"),
                operator.methodcaller("squeeze"),
                operator.methodcaller("unsqueeze", draw(st.integers(-tensor.dim() - 1, tensor.dim()))),
            ]
        )
    )


def other(draw, tensor):
    del tensor
    return draw(
        st.sampled_from(
            [
                operator.methodcaller("contiguous"),
                operator.methodcaller("clone"),
                operator.methodcaller("detach"),
                operator.methodcaller("to", torch.float32),
                operator.methodcaller("to", torch.float32, copy=True),
                operator.methodcaller("to", torch.float64),
                lambda t: t * 2 + 1,
                lambda t: t.view(torch.int32 if t.dtype.itemsize == 4 else torch.int64),
                lambda t: t.flip(tuple(range(t.dim()))),
            ]
        )
    )


def several(draw, tensor, pool):
    alike = [each for each, real in enumerate(pool) if real.shape == tensor.shape and real.dtype == tensor.dtype]
    chosen = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3)) if alike else []
    if not chosen:
        return None
    dimension = draw(st.integers(-tensor.dim(), tensor.dim()))
    if dimension < tensor.dim() and tensor.dim() and draw(st.booleans()):
        return chosen, lambda tensors: torch.cat(tensors, dim=dimension)
    return chosen, lambda tensors: torch.stack(tensors, dim=dimension)


@settings(max_examples=300)
@given(st.data())
def test_parts_values_and_real_tensors_are_one(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "lazy.safetensors"
    if not path.exists():
        safetensors.torch.save_file(CONTENT, path)
    draw = data.draw
    with streamload.open(path) as checkpoint:
        lazies = list(lazy_state_dict(checkpoint).values())
        reals = [CONTENT[name].clone() for name in checkpoint]
        source = lazies[0]._source
        for _ in range(draw(st.integers(1, 8))):
            at = draw(st.integers(0, len(reals) - 1))
            if (joined := several(draw, reals[at], reals) if draw(st.booleans()) else None) is not None:
                chosen, work = joined
                lazy, real = work([lazies[each] for each in chosen]), work([reals[each] for each in chosen])
            else:
                kinds = [turned, other, reshape, *([cut, one_of] if reals[at].dim() else [])]
                work = draw(st.sampled_from(kinds))(draw, reals[at])
                lazy, real = work(lazies[at]), work(reals[at])
            assert isinstance(lazy, LazyTensor)
            assert (lazy.shape, lazy.dtype) == (real.shape, real.dtype)
            lazies.append(lazy)
            reals.append(real)
        found = [assemble(lazy) for lazy in lazies]
        assert not source.names_read
        for write in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(reals) - 1))
            if 0 not in reals[at].stride():  # torch refuses to write to what is expanded
                lazies[at].add_(write + 1)
                reals[at].add_(write + 1)
                found = [None if lazy.written else each for lazy, each in zip(lazies, found, strict=True)]
        raw = path.read_bytes()
        for lazy, real, each in zip(lazies, reals, found, strict=True):
            assert torch.equal(lazy.value(), real)
            if each is not None:
                assert torch.equal(put_together(raw, each), real)
