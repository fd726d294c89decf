"""diffusers' `from_pretrained`, of models and of pipelines, streamed.

Floor 7; needs torch and diffusers. diffusers does what it always does, with tensors that read nothing; what comes out
is streamed to where it belongs, every component of a pipeline at once. Components of transformers go the way of
`streamload.transformers`. The map:

    _patch      what of diffusers is replaced, for one context
    _contract   what diffusers has to look like for that
"""

from ._patch import patch

__all__ = ["patch"]
