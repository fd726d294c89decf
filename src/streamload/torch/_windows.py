"""What stands in a module in place of its forward while some of its weights are streamed.

Floor 4, part of `torch`. Set on the instance, so that class, type checks and others' hooks stay what they were; a copy
or a pickle of the module gets its own method back. torch.compile runs these outside its graphs and still compiles what
they call. Read next: `_streamed_units`, which says what happens around a forward.
"""

from __future__ import annotations

import copy
import functools
import types
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from ._gate import without_gates

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._streamed_units import StreamedUnits

T = TypeVar("T")


class StandIn:
    """Stand in a module's instance in place of one of its methods.

    Args:
        module: Gets this as an attribute.
        name: The method.
    """

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        method = getattr(module, name)
        functools.update_wrapper(cast("Callable[..., object]", self), method)  # signature and words
        self._module = module
        self._name = name
        self._before = module.__dict__.get(name)  # what another had set there
        self._method = method
        module.__dict__[name] = self

    def remove(self) -> None:
        """Give the module its method back; where another has wrapped this one since, that stays, and raises."""
        if self._module.__dict__.get(self._name) is self:
            if self._before is None:
                del self._module.__dict__[self._name]
            else:
                self._module.__dict__[self._name] = self._before

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        if self._before is not None:
            return copy.deepcopy(self._before, memo)
        twin = memo.get(id(self._module), self._module)
        return types.MethodType(getattr(type(self._module), self._name), twin)

    def __reduce__(self) -> tuple[object, ...]:
        if self._before is not None:
            return _same, (self._before,)
        return getattr, (self._module, self._name)


class Window(StandIn):
    """Stand in place of the forward of a unit's module, which holds the unit while it runs."""

    def __init__(self, streamed: StreamedUnits, unit: int, module: torch.nn.Module) -> None:
        super().__init__(module, "forward")
        self._streamed = streamed
        self._unit = unit

    def __call__(self, *args: object, **kwargs: object) -> object:
        streamed = self._streamed
        if torch.is_grad_enabled():
            _refuse_gradients(self._module, (*args, *kwargs.values()))
        outer = streamed.enter(self._unit)
        try:
            streamed.hold(self._unit)
            if hasattr(self._method, "_torchdynamo_orig_callable") or _is_compiling():
                streamed.settle()
                with without_gates():  # torch.compile traces what a plain parameter does
                    return self._method(*args, **kwargs)
            return self._method(*args, **kwargs)
        finally:
            streamed.leave(self._unit, outer)


class Pass(StandIn):
    """Stand in place of the whole module's forward, which is one pass through its units."""

    def __init__(self, streamed: StreamedUnits, module: torch.nn.Module) -> None:
        super().__init__(module, "forward")
        self._streamed = streamed

    def __call__(self, *args: object, **kwargs: object) -> object:
        outermost = self._streamed.begin_pass()
        complete = False
        try:
            result = self._method(*args, **kwargs)
            complete = True
            return result
        finally:
            if outermost:
                self._streamed.end_pass(complete=complete)


class Conversion(StandIn):
    """Stand in place of `_apply`, by which `to`, `half`, `cuda` and others convert all of a module's tensors."""

    def __init__(self, streamed: StreamedUnits, module: torch.nn.Module) -> None:
        super().__init__(module, "_apply")
        self._streamed = streamed

    def __call__(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> object:
        for probe in self._streamed.probes():
            if fn(probe) is not probe:  # before anything is converted
                raise RuntimeError(
                    "the module's weights are streamed: they stay on their device, in their dtype; build the module "
                    "with the dtype it should have, or load it whole"
                )
        return self._method(fn, recurse)


def run_outside_graphs() -> None:
    """Tell torch.compile to run the frames above as they are, and to go on compiling in what they call.

    What `torch.compiler.disable(recursive=False)` does, without importing the compiler. Said again, it changes nothing.
    """
    eval_frame = getattr(torch._C._dynamo, "eval_frame", None)
    for kind in (Window, Pass, Conversion):
        call: Any = kind.__call__  # a function, which takes attributes
        call._torchdynamo_disable = True  # dynamo's own mark
        if eval_frame is not None:
            skip = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT)
            eval_frame.set_code_exec_strategy(call.__code__, skip)


def _is_compiling() -> bool:
    """Whether torch.compile looks at the frames that this thread enters."""
    return callable(torch._C._dynamo.eval_frame.get_eval_frame_callback())


def _refuse_gradients(module: torch.nn.Module, values: tuple[object, ...]) -> None:
    """Refuse to save weights for a backward pass that would find another unit's bytes in their place."""
    inputs = [value for value in _flat(values) if isinstance(value, torch.Tensor)]
    if any([tensor.requires_grad for tensor in (*inputs, *module.parameters())]):
        raise RuntimeError(
            "streamed weights are for inference: run the module under torch.no_grad() or torch.inference_mode(), or "
            "set requires_grad to False on its parameters and inputs"
        )


def _flat(values: object) -> list[object]:
    if isinstance(values, (list, tuple)):
        return [item for value in values for item in _flat(value)]
    if isinstance(values, dict):
        return [item for value in values.values() for item in _flat(value)]
    return [values]


def _same(value: T) -> T:
    return value
