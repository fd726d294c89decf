"""Classes of transformers whose `from_pretrained` streams, and which are else as they are.

Part of `transformers`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Literal, cast, overload

from ._patch import patch_for
from ._remote import open_remote, settle

if TYPE_CHECKING:
    from typing import Any

    from transformers import PreTrainedModel

    from ..options import StreamOptions

__all__ = ["StreamedClass", "find_auto_class", "streamed"]

_NAME: Final = "pretrained_model_name_or_path"


class StreamedClass:
    """A class of transformers whose `from_pretrained` streams. Everything else of it is the stock class's.

    Models are instances of the stock class, as if it had loaded them.

    Attributes:
        stock: The class itself, for `isinstance` and for classes of one's own.
        options: How to read and stage.
    """

    def __init__(self, stock: type, options: StreamOptions | None = None) -> None:
        self.stock = stock
        self.options = options
        self.__doc__ = stock.__doc__

    @overload
    def from_pretrained(
        self, *args: object, output_loading_info: Literal[True], **kwargs: object
    ) -> tuple[PreTrainedModel, dict[str, object]]: ...
    @overload
    def from_pretrained(
        self, *args: object, output_loading_info: Literal[False] = False, **kwargs: object
    ) -> PreTrainedModel: ...
    def from_pretrained(
        self, *args: object, output_loading_info: bool = False, **kwargs: object
    ) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, object]]:
        """Load as the stock class does with the same arguments, and return while weights still arrive.

        As there, the model goes to the CPU unless `device_map` says otherwise. `model.streamload` watches the load.
        The name may also be a URL, as for `streamload.from_pretrained`, with `storage_options` beside it.
        """
        given = cast("dict[str, Any]", kwargs)
        storage_options = given.pop("storage_options", None)
        name = cast("Any", args[0] if args else given.get(_NAME))
        with contextlib.ExitStack() as stack:
            remote = None
            if name is not None:
                remote = open_remote(name, stack, given, storage_options, self.options)
            if remote is not None and args:
                args = (remote.directory, *args[1:])
            elif remote is not None:
                given[_NAME] = remote.directory
            with patch_for(self.options, remote):
                made = cast("Any", self.stock).from_pretrained(*args, output_loading_info=output_loading_info, **given)
            if remote is not None:
                settle(made[0] if isinstance(made, tuple) else made, remote)
        return cast("PreTrainedModel | tuple[PreTrainedModel, dict[str, object]]", made)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.stock(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        if name == "stock":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.stock, name)

    def __repr__(self) -> str:
        return f"streamed({self.stock.__module__}.{self.stock.__qualname__})"


def streamed(stock: type, *, options: StreamOptions | None = None) -> StreamedClass:
    """Return a class of transformers as one whose `from_pretrained` streams.

    Args:
        stock: A model class, `LlamaForCausalLM` say, or an auto class; also one of one's own.
        options: How to read and stage.

    Raises:
        TypeError: It has no `from_pretrained`.

    Example:
        >>> model = streamed(LlamaForCausalLM).from_pretrained("path/to/model", device_map="cuda")
    """
    if not hasattr(stock, "from_pretrained"):
        raise TypeError(f"{stock!r} has no from_pretrained")
    return StreamedClass(stock, options)


def find_auto_class(name: str) -> StreamedClass | None:
    """Return transformers' auto class of that name, streamed; None if it has none."""
    import transformers

    stock = getattr(transformers, name, None) if name.startswith("AutoModel") else None
    return None if stock is None else StreamedClass(stock)
