"""What cannot be loaded ends vLLM's start with the reason, soon, and leaves no process behind."""

from __future__ import annotations

import shutil

import pytest

from .running import run_vllm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_SECONDS = 60  # most of it is what vLLM waits for its own processes


def check_refused(ran, *words: str):
    assert ran.result is None
    assert not ran.left
    for word in words:
        assert word in ran.last_lines, ran.last_lines
    assert ran.seconds_of_load < PATIENCE_SECONDS


@pytest.fixture
def broken(tmp_path, model):
    """A copy of a model, for a test to break."""
    return shutil.copytree(model("llama"), tmp_path / "broken")


@pytest.fixture
def only_config(tmp_path, model):
    folder = tmp_path / "config"
    folder.mkdir()
    shutil.copy(model("llama") / "config.json", folder)
    return folder


@pytest.mark.parametrize("processes", [False, True])
def test_a_file_that_was_cut_off(tmp_path, broken, processes):
    path = broken / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    check_refused(run_vllm(tmp_path, broken, processes=processes), path.name, "FormatError")


def test_a_shard_that_is_missing(tmp_path, broken):
    (broken / "model-00002-of-00003.safetensors").unlink()
    check_refused(run_vllm(tmp_path, broken, processes=True), "model-00002-of-00003.safetensors")


def test_a_shard_that_is_missing_in_a_store(tmp_path, model, only_config, swift):
    extra = {"uri": swift.put_folder("vllm", model("llama"), "missing"), "storage_options": swift.options()}
    swift.remove("vllm", "missing/model-00002-of-00003.safetensors")
    ran = run_vllm(tmp_path, only_config, processes=True, extra=extra)
    check_refused(ran, "model-00002-of-00003.safetensors", "FileNotFoundError")


def test_credentials_that_the_store_refuses(tmp_path, model, only_config, swift):
    extra = {"uri": swift.put_folder("vllm", model("llama"), "llama"), "storage_options": swift.options(secret="wrong")}
    check_refused(run_vllm(tmp_path, only_config, processes=True, extra=extra), "PermissionError")


def test_a_key_that_is_not_known(tmp_path, model):
    ran = run_vllm(tmp_path, model("llama"), processes=True, extra={"chunk": 1})
    check_refused(ran, "model_loader_extra_config has no key 'chunk'", "chunk_bytes")


def test_a_list_of_plugins_without_ours(tmp_path, model):
    ran = run_vllm(tmp_path, model("llama"), processes=True, environment={"VLLM_PLUGINS": "other"})
    check_refused(ran, "Load format `streamload` is not supported")
