"""The native look at destinations, by tables and records that are not torch's and ours."""

from __future__ import annotations

import ctypes

import pytest

from streamload._format import TensorInfo
from streamload._native import match_destinations

NAME = b"dlpack_exchange_api"
FLOAT = (2, 32)
KEPT = []


class Tensor:
    """Stands for a framework's."""


class DLTensor(ctypes.Structure):
    """As dlpack.h has it."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Describe = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))


class Table(ctypes.Structure):
    """As dlpack.h has it: `DLPackExchangeAPI`."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("object_from_managed", ctypes.c_void_p),
        ("describe", Describe),
        ("current_stream", ctypes.c_void_p),
    ]


def capsule(table, name=NAME):
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    KEPT.append(table)  # a capsule keeps nothing alive
    return make(ctypes.addressof(table), name, None)


def table(describe, major=1, previous=None):
    return Table(major=major, minor=7, previous=previous, describe=describe)


def describing(shape=(2, 3), strides=None, *, address=4096, device=(1, 0), dtype=(*FLOAT, 1), offset=0, status=0):
    """Return what describes every tensor so, and what keeps its arrays alive."""
    extents = (ctypes.c_int64 * len(shape))(*shape)
    steps = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)

    def describe(_, out):
        out[0].data, out[0].byte_offset = address, offset
        out[0].device_type, out[0].device_id = device
        out[0].ndim = len(shape)
        out[0].code, out[0].bits, out[0].lanes = dtype
        out[0].shape = extents
        out[0].strides = ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64)) if steps is not None else None
        return status

    return Describe(describe)


def match(*, exchange=None, describe=None, info=None, infos=None, names=("a",), kinds=(Tensor,), is_neg=None):
    made = table(describe or describing())
    info = info or TensorInfo("a", "F32", (2, 3), 100, 124, 5)
    destinations = [(name, Tensor()) for name in names]
    found, rest = match_destinations(
        exchange or capsule(made),
        destinations,
        {"a": info} if infos is None else infos,
        TensorInfo,
        {"F32": FLOAT},
        kinds,
        is_neg or (lambda _: False),
    )
    return found, [destinations.index(pair) for pair in rest]


def numbers(flat):
    return memoryview(flat).cast("Q").tolist()


def test_what_is_plain_is_found_with_its_copy():
    ((kind, ordinal, copies, names, tensors),), rest = match()
    assert (kind, ordinal, names, len(tensors), rest) == (1, 0, ["a"], 1, [])
    assert numbers(copies) == [5, 100, 124, 4096, 1, 0, 0]


def test_each_device_has_its_own_lists():
    seen = iter([(2, 1), (1, 0), (2, 1)])
    given = [describing(device=device) for device in seen]
    turn = iter(given)
    describe = Describe(lambda tensor, out: next(turn)(tensor, out))
    found, rest = match(describe=describe, names=("a", "a", "a"))
    assert [(kind, ordinal, len(names)) for kind, ordinal, _, names, _ in found] == [(2, 1, 2), (1, 0, 1)]
    assert rest == []


@pytest.mark.parametrize(
    "given",
    [
        {"strides": (3, 1)},
        {"strides": (3, 1), "offset": 8},
        {"shape": (1, 6), "strides": (99, 1)},  # a step that is never made
        {"device": (2, 3)},
    ],
)
def test_what_lies_in_order_is_plain(given):
    shape = given.get("shape", (2, 3))
    found, rest = match(describe=describing(**given), info=TensorInfo("a", "F32", shape, 100, 124))
    assert rest == []
    assert numbers(found[0][2])[3] == 4096 + given.get("offset", 0)


@pytest.mark.parametrize(
    "given",
    [
        {"strides": (1, 2)},
        {"strides": (4, 1)},
        {"shape": (3, 2)},
        {"shape": (2, 3, 1)},
        {"shape": ()},
        {"address": None},
        {"device": (10, 0)},  # ROCm
        {"device": (3, 0)},  # pinned by CUDA
        {"dtype": (2, 16, 1)},
        {"dtype": (1, 32, 1)},
        {"dtype": (2, 32, 2)},
    ],
)
def test_what_is_not_is_left(given):
    assert match(describe=describing(**given)) == ([], [0])


@pytest.mark.parametrize(
    "info",
    [
        TensorInfo("a", "F64", (2, 3), 100, 148),  # no dtype that is known
        TensorInfo("a", "F32", (2, 3), 100, 100),  # of no bytes
        TensorInfo("a", "F32", (2, (1 << 64) + 3), 100, 124),
        TensorInfo("a", "F32", [2, 3], 100, 124),
        "no record",
    ],
)
def test_records_that_do_not_agree_are_left(info):
    assert match(info=info) == ([], [0])


def test_names_that_are_not_there_and_other_kinds_are_left():
    assert match(names=("b", "a", "b"))[1] == [0, 2]
    assert match(kinds=()) == ([], [0])
    assert match(kinds=(int, str)) == ([], [0])
    assert match(is_neg=lambda _: True) == ([], [0])


def test_a_tensor_that_cannot_be_described_is_left_without_an_error():
    assert match(describe=describing(status=-1)) == ([], [0])


def test_a_list_may_become_shorter_meanwhile():
    destinations = [("a", Tensor()), ("a", Tensor())]
    info = {"a": TensorInfo("a", "F32", (2, 3), 100, 124)}
    found, rest = match_destinations(
        capsule(table(describing())),
        destinations,
        info,
        TensorInfo,
        {"F32": FLOAT},
        (Tensor,),
        lambda _: bool(destinations.clear()),
    )
    assert (len(found[0][3]), rest, destinations) == (1, [], [])


def test_an_older_table_is_taken_where_the_newest_is_of_another_version():
    older = table(describing())
    newest = table(describing(address=1 << 20), major=2, previous=ctypes.addressof(older))
    ((_, _, copies, _, _),), _ = match(exchange=capsule(newest))
    assert numbers(copies)[3] == 4096
    assert match(exchange=capsule(table(describing(), major=2))) == ([], [0])
    assert match(exchange=capsule(table(Describe()))) == ([], [0])


def test_what_is_no_table_is_refused():
    made = table(describing())
    with pytest.raises(ValueError, match="PyCapsule"):
        match(exchange=capsule(made, b"something else"))
    with pytest.raises(ValueError, match="PyCapsule"):
        match(exchange=object())


def test_errors_of_the_given_calls_are_raised():
    def is_neg(_):
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        match(is_neg=is_neg)
    with pytest.raises(TypeError, match="unhashable"):
        match(names=([],))
    with pytest.raises(OverflowError):
        match(info=TensorInfo("a", "F32", (2, 3), 100, 1 << 64))
    with pytest.raises(TypeError, match="pairs"):
        match_destinations(capsule(table(describing())), ["a"], {}, TensorInfo, {}, (), bool)
