"""What the loader builds upon is in this vLLM, and registering it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOOK = """
import inspect, json, sys
from importlib.metadata import entry_points
from vllm.model_executor import model_loader
before = set(sys.modules)
(point,) = [each for each in entry_points(group="vllm.general_plugins") if each.name == "streamload"]
register = point.load()
register()
made = model_loader._LOAD_FORMAT_TO_MODEL_LOADER["streamload"]
register()
import torch
default = model_loader.DefaultModelLoader
names = ["__init__", "download_model", "load_weights", "get_all_weights", "_get_weights_iterator", "_prepare_weights"]
print(json.dumps({
    "new": sorted(set(sys.modules) - before),
    "same": made is model_loader._LOAD_FORMAT_TO_MODEL_LOADER["streamload"],
    "cuda": torch.cuda.is_initialized(),
    "bases": [each.__name__ for each in made.__mro__[1:3]],
    "parameters": {name: list(inspect.signature(getattr(default, name)).parameters) for name in names},
    "source": list(inspect.signature(default.Source).parameters),
}))
"""


@pytest.fixture(scope="module")
def seen():
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=240, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_registering_imports_nothing_heavy_and_may_be_repeated(seen):
    assert [name for name in seen["new"] if name != "streamload"] == ["streamload.vllm", "streamload.vllm._loader"]
    assert seen["same"]
    assert not seen["cuda"]
    assert seen["bases"] == ["StreamloadLoader", "DefaultModelLoader"]


def test_the_default_loader_has_the_methods_we_override_and_call(seen):
    assert seen["parameters"] == {
        "__init__": ["self", "load_config"],
        "download_model": ["self", "model_config"],
        "load_weights": ["self", "model", "model_config"],
        "get_all_weights": ["self", "model_config", "model"],
        "_get_weights_iterator": ["self", "source"],
        "_prepare_weights": [
            "self",
            "model_name_or_path",
            "subfolder",
            "revision",
            "fall_back_to_pt",
            "allow_patterns_overrides",
        ],
    }
    wanted = {"model_or_path", "revision", "subfolder", "prefix", "fall_back_to_pt", "allow_patterns_overrides"}
    assert wanted <= set(seen["source"])
