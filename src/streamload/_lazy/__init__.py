"""Tensors of a checkpoint that are not read: what is done to them is written down, and done later or never.

Floor 5; needs torch. Given to code that loads, renames, fuses and casts weights, lazy tensors come out of it with a
record of where each element is to come from. Most records say no more than which bytes go where, so that the copy
engine can put them in place; the others are replayed. The map:

    _node     what was written down: tensors of the file, and steps
    _forms    what comes of joining tensors, foretold
    _tensor   LazyTensor: records, or computes where it has to
    _address  of one whose bytes are nowhere yet
    _pieces   a record turned around: which part of which tensor goes into which part of the result
"""

from ._node import LazySource
from ._pieces import assemble
from ._tensor import LazyTensor, lazy_state_dict

__all__ = ["LazySource", "LazyTensor", "assemble", "lazy_state_dict"]
