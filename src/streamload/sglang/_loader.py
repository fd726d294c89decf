"""What SGLang asks a loader for: everything as its default loader does it, but for the weights themselves.

Part of `sglang`. `StreamloadLoader` is to stand before SGLang's `DefaultModelLoader` in a class of both, which
`_choice` makes, so that this module can be read and imported without SGLang.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .._checkpoint import open as open_checkpoint
from .._checkpoint import open_files
from .._checkpoint._layers import natural_key
from .._handover import HandedOver, HandOver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.loader import DefaultModelLoader as Base

    from .._checkpoint import Checkpoint
    from .._handover import Choices
else:
    Base = object

__all__ = ["StreamloadLoader"]

# Below SGLang's own, so that what it does with its log it does with the one line that says what was read.
_log = logging.getLogger("sglang.streamload")


class StreamloadLoader(Base):  # type: ignore[misc]  # the engine has no types that mypy could use
    """Load a model's weights through streamload; the half of the loader that is ours.

    Args:
        load_config: SGLang's, without what is ours.
        choices: What is ours.
        uri_for: Path or id of the model whose weights `choices.uri` has.
    """

    def __init__(self, load_config: LoadConfig, choices: Choices, uri_for: str | None) -> None:
        super().__init__(load_config)
        self._choices = choices
        self._uri_for = uri_for
        self._handover = HandOver(choices.options)

    def download_model(self, model_config: ModelConfig) -> None:
        """Download weights of the hub that are not here yet; what `uri` names is not downloaded."""
        if self._choices.uri is None or model_config.model_path != self._uri_for:
            super().download_model(model_config)

    def load_weights_and_postprocess(
        self, model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]], target_device: torch.device
    ) -> None:
        """Fill a model that is there, then have SGLang process what arrived.

        Raises:
            ValueError: The checkpoint is not of safetensors.
            FileNotFoundError, PermissionError, FormatError, SourceError, DeviceError: As `streamload.open` and `fill`.
        """
        with self._handover.load(model, self._uri_for or ""):
            self.load_weights_only(model, weights, target_device)
        done: HandedOver = model.streamload  # type: ignore[assignment]  # set by `load`
        _log.info("streamload read %d of %d bytes in %.2f s", done.bytes_read, done.bytes_total, done.seconds)
        self.postprocess_weights(model, target_device)

    def _get_weights_iterator(
        self,
        source: Base.Source,
        *,
        resolved_source: Base.ResolvedSource | None = None,
        startup_prefetch_started: bool = False,
        startup_prefetch_active: bool = False,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        weights = self._weights(source, resolved_source)
        if self.load_config.draft_model_idx is not None:
            filtered: Iterator[tuple[str, torch.Tensor]] = self._filter_mtp_weights(
                weights, source.prefix, self.load_config.draft_model_idx
            )
            return filtered
        return ((source.prefix + name, tensor) for name, tensor in weights)

    def _weights(self, source: Base.Source, resolved: Base.ResolvedSource | None) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self._handover.weights(self._open(source, resolved), lambda name: False)

    def _open(self, source: Base.Source, resolved: Base.ResolvedSource | None) -> Checkpoint:
        from sglang.srt.model_loader.weight_utils import maybe_add_mtp_safetensors

        choices = self._choices
        if choices.uri is not None and source.model_or_path == self._uri_for:
            return open_checkpoint(choices.uri, storage_options=choices.storage_options, options=choices.options)
        if resolved is not None:
            files = list(resolved.weight_files)
        else:
            folder, files, _ = self._prepare_weights(
                source.model_or_path, source.revision, source.fall_back_to_pt, source.allow_patterns_overrides
            )
            if source.model_config is not None:
                files = maybe_add_mtp_safetensors(
                    files, folder, "model.safetensors.index.json", source.model_config.hf_config
                )
        others = [file for file in files if Path(file).suffix != ".safetensors"]
        if others:
            raise ValueError(f"{others[0]}: streamload loads safetensors only; leave it out of the extra config")
        paths = sorted([str(file) for file in files], key=natural_key)
        return open_files(paths)
