"""Tools for testing with streamload: shipped, so that your own tests can use them.

Floor 5. `make_checkpoint` writes a real sharded checkpoint without torch; `FaultySource` is a `Source` that
fails at the read you name; `SourceTests` holds the promises every `Source` must keep, to be inherited by
the tests of a new one. Needs numpy for `make_checkpoint`, nothing else.
"""

from ._checkpoints import LlamaShape, make_checkpoint
from ._sources import FaultySource, SourceTests

__all__ = ["FaultySource", "LlamaShape", "SourceTests", "make_checkpoint"]
