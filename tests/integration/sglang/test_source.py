"""What the plugin builds upon is in the released SGLang: its source is parsed, and nothing of it is run.

`pip download sglang==0.5.23 --no-deps` puts the wheel there; STREAMLOAD_SGLANG_WHEEL says where.
"""

from __future__ import annotations

import ast
import os
import zipfile
from pathlib import Path

import pytest

LOADER = "sglang/srt/model_loader/loader.py"


@pytest.fixture(scope="module")
def source():
    """Return a function that parses a module of the wheel."""
    path = os.environ.get("STREAMLOAD_SGLANG_WHEEL", "")
    if not path or not Path(path).is_file():
        pytest.skip("no wheel of SGLang; pip download sglang==0.5.23 --no-deps, and STREAMLOAD_SGLANG_WHEEL=its path")
    wheel = zipfile.ZipFile(path)
    return lambda name: ast.parse(wheel.read(name))


def find(tree, *names: str):
    """A class or function by its qualified name."""
    found = tree
    for name in names:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        (found,) = (node for node in found.body if isinstance(node, kinds) and node.name == name)
    return found


def parameters(function) -> list[str]:
    return [each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def fields(node) -> set[str]:
    return {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}


def test_the_plugins_are_found_by_the_group_and_the_list_that_the_page_names(source):
    text = ast.unparse(source("sglang/srt/plugins/__init__.py"))
    assert "'sglang.srt.plugins'" in text
    assert "SGLANG_PLUGINS" in text


def test_hooks_are_registered_as_we_do(source):
    tree = source("sglang/srt/plugins/hook_registry.py")
    assert parameters(find(tree, "HookRegistry", "register"))[:4] == ["cls", "target", "hook", "hook_type"]
    assert "AROUND" in ast.unparse(find(tree, "HookType"))


def test_the_function_we_stand_around_takes_what_we_take(source):
    assert parameters(find(source(LOADER), "get_model_loader")) == ["load_config", "model_config"]


def test_the_config_has_the_fields_we_read(source):
    config = find(source("sglang/srt/configs/load_config.py"), "LoadConfig")
    assert {"model_loader_extra_config", "load_format", "draft_model_idx"} <= fields(config)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", ["self", "load_config"]),
        ("download_model", ["self", "model_config"]),
        (
            "_prepare_weights",
            ["self", "model_name_or_path", "revision", "fall_back_to_pt", "allow_patterns_overrides"],
        ),
        (
            "_get_weights_iterator",
            ["self", "source", "resolved_source", "startup_prefetch_started", "startup_prefetch_active"],
        ),
        ("_filter_mtp_weights", ["cls", "weights_iterator", "prefix", "draft_model_idx"]),
        ("load_weights_and_postprocess", ["model", "weights", "target_device"]),
        ("load_weights_only", ["model", "weights", "target_device"]),
        ("postprocess_weights", ["model", "target_device"]),
    ],
)
def test_the_default_loader_has_the_methods_we_override_and_call(source, method, expected):
    assert parameters(find(source(LOADER), "DefaultModelLoader", method)) == expected


def test_what_we_override_is_asked_of_the_loader_itself(source):
    text = ast.unparse(find(source(LOADER), "DefaultModelLoader", "load_model"))
    assert "self.load_weights_and_postprocess(" in text
    update = source("sglang/srt/model_executor/model_runner_components/weight_updater.py")
    text = ast.unparse(find(update, "WeightUpdater", "update_weights_from_disk"))
    assert "loader.load_weights_and_postprocess(" in text
    assert "loader._get_weights_iterator(" in text
    assert "isinstance(loader, DefaultModelLoader)" in text


def test_a_source_has_the_fields_we_read(source):
    tree = source(LOADER)
    wanted = {"model_or_path", "revision", "prefix", "fall_back_to_pt", "allow_patterns_overrides", "model_config"}
    assert wanted <= fields(find(tree, "DefaultModelLoader", "Source"))
    assert "weight_files" in fields(find(tree, "DefaultModelLoader", "ResolvedSource"))


def test_the_function_for_more_files_is_where_we_look(source):
    function = find(source("sglang/srt/model_loader/weight_utils.py"), "maybe_add_mtp_safetensors")
    assert len(parameters(function)) == 4
