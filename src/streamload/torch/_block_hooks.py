"""Wait for a whole block before its forward: for code in it that takes tensors where the gate cannot see it.

Floor 4, part of `torch`. A forward pre-hook on each module that a layer of the checkpoint is loaded into orders all of
the block's groups on the current stream. It takes itself off once the block is resident, or the load ends well; before
torch.compile looks at a module all of its tensors settle (see `_gate`), and so its hooks are gone by then. After a
load that failed the hooks stay and raise, as the gates do. Read next: `_module_load`, which calls this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch

from ._gate import arriving_group, open_gate
from ._seats import tensors_of, walk
from ._untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.utils.hooks import RemovableHandle

    from ._module_load import ModuleLoad


class _BlockHook:
    """Order one block's groups before its forward."""

    def __init__(self, load: ModuleLoad, groups: frozenset[int]) -> None:
        self.groups = groups
        self._load = load

    @untraced
    def __call__(self, module: torch.nn.Module, args: object) -> None:
        if not all([self._load.order(group) for group in sorted(self.groups)]):
            return  # only the current stream may use them; the gates stay closed for the others
        for tensor in (*module.parameters(), *module.buffers()):
            if arriving_group(tensor, self._load) in self.groups:
                open_gate(tensor)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse("copied")

    def __reduce__(self) -> NoReturn:
        self._refuse("pickled")

    def _refuse(self, what: str) -> NoReturn:
        raise RuntimeError(
            f"a block with block_hooks=True cannot be {what} while its weights are arriving, since the hooks would go "
            "along; wait for the load, or stream without block_hooks"
        )


class BlockHooks:
    """The hooks of one load; thread-safe.

    Args:
        handles: Each hook with what takes it off. Keeps no module alive.
    """

    def __init__(self, handles: Iterable[tuple[_BlockHook, RemovableHandle]]) -> None:
        self._handles = {id(hook): (hook, handle) for hook, handle in handles}
        self._resident: set[int] = set()  # groups

    def group_is_resident(self, group: int) -> None:
        """Take the hooks off that need not wait any more, once this group has come too."""
        if group in self._resident:
            return
        self._resident.add(group)
        for hook, _ in list(self._handles.values()):
            if group in hook.groups and hook.groups <= self._resident:
                self._take_off(hook)

    def remove(self) -> None:
        """Take all hooks off."""
        for hook, _ in list(self._handles.values()):
            self._take_off(hook)

    def _take_off(self, hook: _BlockHook) -> None:
        found = self._handles.pop(id(hook), None)
        if found is not None:
            found[1].remove()


def hook_blocks(module: torch.nn.Module, layers: Iterable[str], load: ModuleLoad) -> None:
    """Put hooks on the blocks of a module that a load is filling.

    A block is the module named as a layer of the checkpoint; what is loaded outside of one makes its own module a
    block. Embeddings are none: the gate sees their only use, and may look up rows before the table has come.

    Args:
        module: What is filled, its tensors behind the load's gates already.
        layers: Names of the layers that it is filled from.
        load: The load.
    """
    names = set(layers)
    groups: dict[torch.nn.Module, set[int]] = {}
    modules = dict(walk(module))
    for prefix, owner in modules.items():
        arriving = {arriving_group(tensor, load) for _, tensor in tensors_of(owner)} - {None}
        if not arriving or isinstance(owner, torch.nn.Embedding):
            continue
        parts = prefix.split(".")[:-1]
        above = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        block = next((modules[f"{name}."] for name in above if name in names), owner)
        groups.setdefault(block, set()).update(group for group in arriving if group is not None)
    hooks = [(_BlockHook(load, frozenset(needed)), block) for block, needed in groups.items()]
    load.go_with(BlockHooks([(hook, block.register_forward_pre_hook(hook, prepend=True)) for hook, block in hooks]))


def unhook_blocks(owners: Iterable[torch.nn.Module]) -> None:
    """Take off what a load that failed has left on modules."""
    for owner in owners:
        if not owner._forward_pre_hooks:
            continue
        for number, hook in list(owner._forward_pre_hooks.items()):
            if isinstance(hook, _BlockHook):
                del owner._forward_pre_hooks[number]
