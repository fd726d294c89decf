"""Hand a checkpoint to an inference engine whose own code puts each weight where it belongs.

Floor 6; needs torch. Engines hold parameters that are there already, and a loader for each that slices what it is given
and copies it in. They are given lazy tensors: what is sliced away is never read, and what is copied is put off until
many copies can be done at once. The map:

    _choices   what an engine's free-form options say
    _watch     sees who looks at memory whose bytes were put off
    _weights   one load: what is yielded, what is read
"""

from ._choices import Choices, read_choices
from ._weights import HandedOver, HandOver

__all__ = ["Choices", "HandOver", "HandedOver", "read_choices"]
