"""The few classes of SGLang that the plugin meets, as small as they can be, to stand in for them in tests.

`test_source.py` holds what is here against the released package's source, where it is at hand.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class LoadFormat(str, enum.Enum):
    AUTO = "auto"
    GGUF = "gguf"


@dataclasses.dataclass
class LoadConfig:
    load_format: LoadFormat = LoadFormat.AUTO
    model_loader_extra_config: Any = dataclasses.field(default_factory=dict)
    draft_model_idx: int | None = None


@dataclasses.dataclass
class ModelConfig:
    model_path: str
    hf_config: object = None


class BaseModelLoader:
    def __init__(self, load_config):
        self.load_config = load_config


class DefaultModelLoader(BaseModelLoader):
    @dataclasses.dataclass
    class Source:
        model_or_path: str
        revision: str | None
        prefix: str = ""
        fall_back_to_pt: bool = True
        allow_patterns_overrides: list[str] | None = None
        model_config: ModelConfig | None = None

        @classmethod
        def init_new(cls, model_config, model) -> DefaultModelLoader.Source:
            return cls(model_config.model_path, None, model_config=model_config)

    def __init__(self, load_config):
        super().__init__(load_config)
        unexpected = set(load_config.model_loader_extra_config) - {"enable_multithread_load", "num_threads"}
        if unexpected:
            raise ValueError(f"Unexpected extra config keys: {unexpected}")
        self.downloaded = []
        self.processed = []

    def _prepare_weights(self, model_name_or_path, revision, fall_back_to_pt, allow_patterns_overrides=None):
        files = [str(path) for path in Path(model_name_or_path).iterdir() if path.suffix in (".safetensors", ".pt")]
        return model_name_or_path, files, True

    def _get_weights_iterator(
        self, source, *, resolved_source=None, startup_prefetch_started=False, startup_prefetch_active=False
    ):
        raise AssertionError("SGLang's own weights were asked for")

    def download_model(self, model_config):
        self.downloaded.append(model_config.model_path)

    def load_model(self, model, model_config, target_device):
        """As SGLang's, but for the making of the model."""
        weights = self._get_weights_iterator(DefaultModelLoader.Source.init_new(model_config, model))
        self.load_weights_and_postprocess(model, weights, target_device)

    def load_weights_and_postprocess(self, model, weights, target_device):
        DefaultModelLoader.load_weights_only(model, weights, target_device)

    @staticmethod
    def load_weights_only(model, weights, target_device) -> None:
        model.load_weights(weights)

    @staticmethod
    def postprocess_weights(model, target_device) -> None:
        model.processed = True

    @classmethod
    def _filter_mtp_weights(cls, weights_iterator, prefix, draft_model_idx) -> Iterator[tuple[str, object]]:
        for name, tensor in weights_iterator:
            if f"mtp.layers.{draft_model_idx}." in name or "mtp" not in name:
                yield prefix + name, tensor


class GGUFModelLoader(BaseModelLoader):
    pass


def get_model_loader(load_config, model_config=None):
    if load_config.load_format == LoadFormat.GGUF:
        return GGUFModelLoader(load_config)
    return DefaultModelLoader(load_config)


class HookType(enum.Enum):
    AROUND = "around"


class HookRegistry:
    hooks: list[tuple[str, object, HookType]]

    @classmethod
    def register(cls, target, hook, hook_type=HookType.AROUND, *, source=None) -> None:
        cls.hooks.append((target, hook, hook_type))


def install(monkeypatch) -> type[HookRegistry]:
    """Have `import sglang…` find what is here; returns a registry of one test's own."""
    registry = type("HookRegistry", (HookRegistry,), {"hooks": []})
    held = {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.plugins": {},
        "sglang.srt.plugins.hook_registry": {"HookRegistry": registry, "HookType": HookType},
        "sglang.srt.model_loader": {},
        "sglang.srt.model_loader.loader": {"DefaultModelLoader": DefaultModelLoader},
        "sglang.srt.model_loader.weight_utils": {"maybe_add_mtp_safetensors": lambda files, *_: files},
    }
    for name, names in held.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    return registry
