"""Load models into vLLM: `vllm serve MODEL --load-format streamload`.

Floor 7. vLLM finds `register` through the entry point group `vllm.general_plugins` and calls it in each of its
processes; nobody else need. docs/vllm.md says what may be chosen. The map:

    _loader   what vLLM asks a loader for, and which bytes are read for it
"""

from __future__ import annotations

__all__ = ["register"]

LOAD_FORMAT = "streamload"


def register() -> None:
    """Make the load format `streamload` known to vLLM in this process; harmless when repeated.

    Raises:
        ImportError: vLLM is not installed, or too old or new to have what is built upon.
    """
    from vllm.model_executor import model_loader

    from ._loader import StreamloadLoader

    if LOAD_FORMAT in model_loader._LOAD_FORMAT_TO_MODEL_LOADER:
        return
    bases = (StreamloadLoader, model_loader.DefaultModelLoader)
    model_loader.register_model_loader(LOAD_FORMAT)(type("StreamloadModelLoader", bases, {}))
