"""The private methods of transformers between which a model is loaded: found, checked, replaced, put back.

Part of `transformers`. Every private symbol of transformers that streamload touches is named here and in `_obstacles`;
tests/unit/test_transformers_contract.py holds them against the version that is installed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from ._scope import current_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._scope import Scope

    Stock = Callable[..., object]
    StandIn = Callable[[Scope, Stock, inspect.BoundArguments], object]

__all__ = [
    "FINALIZE_NAMES",
    "HAS_ADAPTER",
    "LOAD_NAME",
    "LOAD_PARAMETERS",
    "broken_contract",
    "find_finalize",
    "replaced",
]

_log = logging.getLogger(__name__)

LOAD_NAME: Final = "_load_pretrained_model"
LOAD_PARAMETERS: Final = ("model", "state_dict", "checkpoint_files")
FINALIZE_NAMES: Final = ("_finalize_model_loading", "_finalize_load_state_dict")
"""What ends a load: in transformers ≥ 5.1 or so, and in 5.0. Before, the load ends with `LOAD_NAME` itself."""

HAS_ADAPTER: Final = "_hf_peft_config_loaded"
"""The flag of a model that an adapter is loaded for; set before, as the same method loads that in transformers 5."""

_MARK: Final = "_streamload_replaced"
_LOCK: Final = threading.Lock()  # guards the methods of the class and the counts of those who want them replaced


@dataclass(slots=True)
class _Replaced:
    """A class's methods, what stands in for them, and how many contexts want that."""

    stock: dict[str, object] = field(default_factory=dict)
    stand_ins: dict[str, object] = field(default_factory=dict)
    users: int = 0


def find_finalize(kind: type) -> str | None:
    """Return the name of the method that ends a load, or None where the load does so itself."""
    return next((name for name in FINALIZE_NAMES if name in vars(kind)), None)


def broken_contract(kind: type) -> str | None:
    """Say what about the methods of `PreTrainedModel` is not as streaming needs it; None if all is.

    Static methods (from transformers 5.4 or so) and class methods (before) will do.
    """
    names: dict[str, tuple[str, ...]] = {LOAD_NAME: LOAD_PARAMETERS}
    if (finalize := find_finalize(kind)) is not None:
        names[finalize] = ("model",)
    for name, wanted in names.items():
        method = vars(kind).get(name)
        if method is None:
            return f"{kind.__name__}.{name} is gone"
        if not isinstance(method, (staticmethod, classmethod)):
            return f"{kind.__name__}.{name} is neither a static nor a class method"
        found = inspect.signature(method.__func__).parameters
        if missing := [one for one in wanted if one not in found]:
            return f"{kind.__name__}.{name} has no parameter {', '.join(missing)}"
    return None


@contextlib.contextmanager
def replaced(kind: type, load: StandIn, finalize: StandIn) -> Iterator[None]:
    """Have calls of the two methods come to stand-ins, those from within a scope; all others go to the stock methods.

    Several contexts share one replacement, which ends with the last of them. Without the contract nothing is replaced,
    with one warning.
    """
    taken = _replace(kind, load, finalize)
    try:
        yield
    finally:
        if taken is not None:
            _put_back(kind, taken)


def _replace(kind: type, load: StandIn, finalize: StandIn) -> _Replaced | None:
    with _LOCK:
        found = cast("_Replaced | None", getattr(_function(vars(kind).get(LOAD_NAME)), _MARK, None))
        if found is None:
            if (problem := broken_contract(kind)) is not None:
                from transformers import __version__

                _log.warning("transformers %s is not one that can be streamed, so it loads: %s", __version__, problem)
                return None
            found = _Replaced()
            for name, stand_in in ((LOAD_NAME, load), (find_finalize(kind), finalize)):
                if name is not None:
                    found.stock[name] = vars(kind)[name]
                    found.stand_ins[name] = _standing_in(found.stock[name], stand_in, found)
                    setattr(kind, name, found.stand_ins[name])
        found.users += 1
        return found


def _put_back(kind: type, taken: _Replaced) -> None:
    with _LOCK:
        taken.users -= 1
        if taken.users:
            return
        for name, method in taken.stock.items():
            # What somebody else has put over ours stays: outside of scopes ours does nothing.
            if vars(kind).get(name) is taken.stand_ins[name]:
                setattr(kind, name, method)


def _function(method: object) -> object:
    return getattr(method, "__func__", method)


def _standing_in(method: object, stand_in: StandIn, taken: _Replaced) -> object:
    """Return a method of the same kind and signature."""
    stock = cast("Stock", _function(method))
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def call(*args: object, **kwargs: object) -> object:
        scope = current_scope()
        return stock(*args, **kwargs) if scope is None else stand_in(scope, stock, signature.bind(*args, **kwargs))

    vars(call)[_MARK] = taken
    return cast("type[staticmethod[..., object]]", type(method))(call)
