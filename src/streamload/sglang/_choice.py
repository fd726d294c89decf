"""Decide which loads of SGLang are streamload's, and remember what was chosen.

Part of `sglang`. Its load formats are a closed list, so the format stays what it is, and a key in the loader's extra
config says that streamload is to take the default loader's place. `update_weights_from_disk` makes a config of its own
that has no extra config: what was chosen at the start holds for it too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .._handover import Choices, read_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig

__all__ = ["KEY", "LoaderChoice"]

KEY = "streamload"


class LoaderChoice:
    """Stands around SGLang's `get_model_loader`; one for each process."""

    def __init__(self) -> None:
        self._choices: Choices | None = None
        self._first_path: str | None = None  # of the model whose weights `uri` has

    def __call__(
        self,
        original: Callable[[LoadConfig, ModelConfig | None], object],
        load_config: LoadConfig,
        model_config: ModelConfig | None = None,
    ) -> object:
        """Return a loader: streamload's where it was asked for, else SGLang's own.

        Raises:
            ValueError: What was chosen is not known or out of range, or SGLang needs another loader for this model.
        """
        from sglang.srt.model_loader.loader import DefaultModelLoader

        from ._loader import StreamloadLoader

        extra = load_config.model_loader_extra_config or {}
        asked = KEY in extra
        if asked:
            self._choices = read_choices(extra[KEY], f"model_loader_extra_config[{KEY!r}]")
            if self._first_path is None and model_config is not None:
                self._first_path = model_config.model_path
        if self._choices is None or (extra and not asked):
            return original(load_config, model_config)
        rest = {key: value for key, value in extra.items() if key != KEY}
        cleaned = dataclasses.replace(load_config, model_loader_extra_config=rest)
        loader = original(cleaned, model_config)
        if type(loader) is not DefaultModelLoader:
            if asked:
                raise ValueError(
                    f"streamload takes the place of SGLang's DefaultModelLoader, and for this model and load format "
                    f"SGLang chose {type(loader).__name__}; leave {KEY!r} out of model_loader_extra_config"
                )
            return loader
        if rest:
            raise ValueError(
                f"model_loader_extra_config: {', '.join(map(repr, rest))} would not be heeded beside {KEY!r}"
            )
        made = type("StreamloadModelLoader", (StreamloadLoader, DefaultModelLoader), {})
        return made(cleaned, self._choices, self._first_path)
