"""Look for what a load left behind in a module.

Part of `_models`; needs torch.
"""

from __future__ import annotations

from torch import nn

__all__ = ["residue"]


def residue(module: nn.Module) -> tuple[str, ...]:
    """List what a load left behind: parameters of another class, hooks, replaced forwards."""
    left = [f"{name} is a {type(p).__name__}" for name, p in module.named_parameters() if type(p) is not nn.Parameter]
    for name, part in module.named_modules():
        hooks = [key for key, value in vars(part).items() if key.endswith("_hooks") and value]
        left += [f"{name or 'the module'} has {key}" for key in hooks]
        if "forward" in vars(part):
            left.append(f"{name or 'the module'} has a replaced forward")
    return tuple(left)
