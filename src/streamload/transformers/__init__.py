"""transformers' `from_pretrained`, streamed.

Floor 6; needs torch and transformers. transformers does what it always does, with tensors that read nothing: names,
fused experts, dtypes, ties, buffers, what is missing. What comes out says where every byte goes, and is streamed there.

    from streamload.transformers import AutoModelForCausalLM  # any AutoModel… that transformers has

    model = AutoModelForCausalLM.from_pretrained("path/to/model", device_map="cuda")  # returns at once
    model.generate(**tokens)  # each layer waits only for its own bytes
    model.streamload.wait()

The map:

    _adopt            lazy tensors of a module become real ones that arrive
    _stream           what a model's load is watched by
    _scope            which context streams
    _methods          transformers' two methods between which a model is loaded, replaced and put back
    _obstacles        where streaming cannot be right
    _patch            patch: what stands in for the two methods, for one context
    _auto             streamed, and the auto classes
    _from_pretrained  from_pretrained

"""

from importlib.util import find_spec as _find_spec

if _find_spec("transformers") is None:
    raise ModuleNotFoundError(
        "streamload.transformers needs transformers, which is not installed: pip install transformers accelerate",
        name="transformers",
    )

from ._auto import StreamedClass, find_auto_class, streamed
from ._from_pretrained import from_pretrained
from ._patch import patch
from ._stream import PretrainedStream

__all__ = ["PretrainedStream", "StreamedClass", "from_pretrained", "patch", "streamed"]


def __getattr__(name: str) -> StreamedClass:
    """Give an auto class of transformers whose `from_pretrained` streams (PEP 562)."""
    if (found := find_auto_class(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    import transformers

    return sorted([*__all__, *(name for name in dir(transformers) if name.startswith("AutoModel"))])
