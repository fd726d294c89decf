"""transformers' `from_pretrained`, streamed.

Floor 6; needs torch and transformers. transformers does what it always does, with tensors that read nothing: names,
fused experts, dtypes, ties, buffers, what is missing. What comes out says where every byte goes, and is streamed there.
The map:

    _adopt   lazy tensors of a module become real ones that arrive
    _patch   transformers' two methods between which a model is loaded, for one context

"""

from ._patch import patch

__all__ = ["patch"]
