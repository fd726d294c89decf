"""Load models into SGLang: `--model-loader-extra-config '{"streamload": {}}'`.

Floor 7. SGLang finds `register` through the entry point group `sglang.srt.plugins` and calls it in each of its
processes; nobody else need. docs/sglang.md says what may be chosen. The map:

    _choice   which loads are ours
    _loader   what SGLang asks a loader for, and which bytes are read for it
"""

from __future__ import annotations

__all__ = ["register"]

TARGET = "sglang.srt.model_loader.loader.get_model_loader"


def register() -> None:
    """Have SGLang ask streamload which loader to take, in this process.

    Raises:
        ImportError: SGLang is not installed, or has no such hooks.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from ._choice import LoaderChoice

    HookRegistry.register(TARGET, LoaderChoice(), HookType.AROUND)
