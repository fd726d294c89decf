"""What vLLM asks a loader for: everything as its default loader does it, but for the weights themselves.

Part of `vllm`. `StreamloadLoader` is to stand before vLLM's `DefaultModelLoader` in a class of both, which `register`
makes, so that this module can be read and imported without vLLM. What loads weights is imported where it is first
needed: every process of vLLM imports this one, and few load.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import DefaultModelLoader as Base

    from .._checkpoint import Checkpoint
    from .._handover import HandedOver
else:
    Base = object

__all__ = ["StreamloadLoader"]

# Below vLLM's own, so that its handler writes the one line that says what was read.
_log = logging.getLogger("vllm.streamload")

_WHERE = "model_loader_extra_config"


class StreamloadLoader(Base):  # type: ignore[misc]  # the engine has no types that mypy could use
    """Load a model's weights through streamload; the half of the loader that is ours.

    Args:
        load_config: vLLM's. `model_loader_extra_config` holds fields of `StreamOptions`, `uri` and `storage_options`.

    Raises:
        ValueError: A key is not known, a value is out of range, or another option of vLLM would not be heeded.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        from .._handover import HandOver, read_choices

        self._choices = read_choices(load_config.model_loader_extra_config, _WHERE)
        if load_config.safetensors_load_strategy is not None:
            raise ValueError(
                f"safetensors_load_strategy={load_config.safetensors_load_strategy!r} is for vLLM's own loader; "
                "streamload reads as its options say"
            )
        self._handover = HandOver(self._choices.options)
        self._uri_for: str | None = None  # whose weights `uri` has: the model's name or path
        super().__init__(dataclasses.replace(load_config, load_format="safetensors", model_loader_extra_config={}))

    def download_model(self, model_config: ModelConfig) -> None:
        """Download weights of the hub that are not here yet; what `uri` names is not downloaded."""
        if self._choices.uri is None:
            super().download_model(model_config)

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Fill a model that is there; on return every byte is in place.

        Raises:
            ValueError: The checkpoint is one of torchao, or vLLM finds that weights are missing.
            FileNotFoundError, PermissionError, FormatError, SourceError, DeviceError: As `streamload.open` and `fill`.
        """
        if model_config.quantization == "torchao":
            raise ValueError(
                "streamload cannot load torchao checkpoints: their tensors are put together from several by code of "
                "torchao's own; use --load-format auto"
            )
        with self._handover.load(model, model_config.model):
            super().load_weights(model, model_config)
        done: HandedOver = model.streamload  # type: ignore[assignment]  # set by `load`
        _log.info(
            "streamload read %d of %d bytes in %.2f s, of them %d tensors early",
            done.bytes_read,
            done.bytes_total,
            done.seconds,
            len(done.read_early),
        )

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight of a model by its name in the checkpoint; tensors may be kept."""
        from .._handover import HandedOver

        before = getattr(model, "streamload", None)
        moved = isinstance(before, HandedOver) and before.place != model_config.model  # reload_weights(weights_path=…)
        self._uri_for = None if moved or _is_other_draft(model_config) else model_config.model
        yield from super().get_all_weights(model_config, model)

    def _get_weights_iterator(self, source: Base.Source) -> Iterator[tuple[str, torch.Tensor]]:
        from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

        checkpoint = self._open(source)
        if not self.counter_before_loading_weights:  # type: ignore[has-type]  # vLLM's
            self.counter_before_loading_weights = time.perf_counter()
        wanted = self._handover.weights(checkpoint, lambda name: should_skip_weight(name, self.local_expert_ids))
        for name, tensor in wanted:
            yield source.prefix + name, tensor

    def _open(self, source: Base.Source) -> Checkpoint:
        from .._checkpoint import open as open_checkpoint
        from .._checkpoint import open_files
        from .._checkpoint._layers import natural_key
        from .._sources import is_remote

        choices = self._choices
        if choices.uri is not None and source.model_or_path == self._uri_for:
            return open_checkpoint(choices.uri, storage_options=choices.storage_options, options=choices.options)
        if is_remote(source.model_or_path):
            return open_checkpoint(source.model_or_path, options=choices.options)
        _, files, _, _ = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        others = [file for file in files if Path(file).suffix != ".safetensors"]
        if others:
            raise ValueError(f"{others[0]}: streamload loads safetensors only; use --load-format auto")
        paths = sorted([str(file) for file in files], key=natural_key)
        return open_files(paths)


def _is_other_draft(model_config: ModelConfig) -> bool:
    """Whether this is a draft model with weights of its own, which are not where those of the model are."""
    from vllm.config import get_current_vllm_config_or_none

    config = get_current_vllm_config_or_none()
    speculative = None if config is None else config.speculative_config
    if speculative is None or speculative.draft_model_config is None:
        return False
    draft = speculative.draft_model_config.model
    return bool(model_config.model == draft != speculative.target_model_config.model)
