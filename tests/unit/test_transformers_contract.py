"""Every private symbol of transformers that streamload touches is there, as it is used, in the version installed.

Runs on any version: `pip install transformers==<version>` and this file, without the rest of the tests.
"""

from __future__ import annotations

import inspect

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from transformers import PreTrainedModel, modeling_utils  # noqa: E402 - after the skips

from streamload.transformers import _methods  # noqa: E402 - after the skips

SETTINGS = ("device_map", "device_mesh", "hf_quantizer")


def test_the_load_method_takes_model_state_dict_and_files():
    method = vars(PreTrainedModel)[_methods.LOAD_NAME]
    assert isinstance(method, (staticmethod, classmethod))
    names = [name for name in inspect.signature(method.__func__).parameters if name != "cls"]
    assert tuple(names[:3]) == _methods.LOAD_PARAMETERS


def test_the_contract_that_patch_checks_holds():
    assert _methods.broken_contract(PreTrainedModel) is None


def test_what_decides_whether_a_load_streams_can_be_seen():
    """Either as arguments of the load method (4.57), or in its `load_config` (5)."""
    found = set(inspect.signature(vars(PreTrainedModel)[_methods.LOAD_NAME].__func__).parameters)
    if "load_config" in found:
        found |= set(inspect.signature(modeling_utils.LoadStateDictConfig).parameters)
    assert set(SETTINGS) <= found


def test_a_load_ends_with_a_method_of_its_own_since_5():
    found = _methods.find_finalize(PreTrainedModel)
    assert (found is not None) == (int(transformers.__version__.partition(".")[0]) >= 5)
    assert found is None or callable(getattr(PreTrainedModel, found))


def test_nobody_overrides_the_methods_without_calling_them():
    """What transformers' own code calls is the attribute of the class, which is looked up anew for each load."""
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    for name in (_methods.LOAD_NAME, _methods.find_finalize(PreTrainedModel)):
        assert name is None or f"cls.{name}(" in source or f"model.{name}(" in source


@pytest.mark.parametrize("name", ["is_deepspeed_zero3_enabled", "is_fsdp_enabled"])
def test_distributed_loads_can_be_told(name):
    assert getattr(modeling_utils, name)() is False


def test_a_quantiser_says_what_it_finds():
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationMethod

    assert "pre_quantized" in inspect.getsource(HfQuantizer.__init__)
    assert QuantizationMethod.FP8.value == "fp8"


def test_a_model_says_that_an_adapter_is_loaded_for_it():
    """Before its weights come by the method that loads models; transformers 4 has another way for them."""
    from transformers.integrations.peft import PeftAdapterMixin

    assert getattr(PreTrainedModel, _methods.HAS_ADAPTER) is False
    before, called, _ = inspect.getsource(PeftAdapterMixin.load_adapter).partition(f"self.{_methods.LOAD_NAME}(")
    assert not called or f"self.{_methods.HAS_ADAPTER} = True" in before


def test_what_could_not_be_converted_is_told_by_the_load():
    found = inspect.getsource(modeling_utils)
    assert ("conversion_errors" in found) == (_methods.find_finalize(PreTrainedModel) is not None)


def test_an_adapters_config_can_be_found(tmp_path):
    from transformers.utils.peft_utils import find_adapter_config_file

    assert find_adapter_config_file(str(tmp_path)) is None
    (tmp_path / "adapter_config.json").write_text("{}")
    assert find_adapter_config_file(str(tmp_path)) is not None
