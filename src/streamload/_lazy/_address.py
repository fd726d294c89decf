"""The address of a tensor that is nowhere yet.

Part of `_lazy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._tensor import LazyTensor

_ALIGNMENT = 64  # bytes, of every allocation of torch's


class Address:
    """Where a lazy tensor lies: on a boundary, as all that torch allocates; anything else is known with its bytes.

    Not an `int`, so that whatever is written in C refuses it rather than take it for one. transformers 5.0 asks each
    expert's tensor whether it lies on 16 bytes.
    """

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor

    def __index__(self) -> int:
        return self._tensor.memory().data_ptr()

    def __mod__(self, other: int) -> int:
        return 0 if _ALIGNMENT % other == 0 else int(self) % other

    def __add__(self, other: int) -> int:
        return int(self) + other

    def __sub__(self, other: int) -> int:
        return int(self) - int(other)

    def __eq__(self, other: object) -> bool:
        return int(self) == other

    def __hash__(self) -> int:
        return hash(int(self))
