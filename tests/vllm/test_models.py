"""vLLM has the same weights and says the same as with its own loader, bit for bit."""

from __future__ import annotations

import pytest

from .running import run_vllm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def check_same(ran, expected):
    assert ran.result is not None, ran.last_lines
    assert ran.result["checksums"] == expected["checksums"]
    assert ran.result["tokens"] == expected["tokens"]


@pytest.mark.parametrize("kind", ["llama", "tied", "moe", "w8a8"])
def test_weights_and_tokens_are_those_of_the_default_loader(tmp_path, model, by_default, kind):
    ran = run_vllm(tmp_path, model(kind), "checksums", "tokens", "read")
    check_same(ran, by_default(kind))
    (read,) = ran.result["read"]
    assert read["early"] == []
    assert read["bytes_read"] <= 1.01 * read["bytes_total"]


@pytest.mark.parametrize("kind", ["llama", "tied"])
def test_weights_that_were_reset_come_back(tmp_path, model, by_default, kind):
    ran = run_vllm(tmp_path, model(kind), "checksums", "tokens", "reload")
    check_same(ran, by_default(kind))
    assert ran.result["reset_checksums"] != ran.result["checksums"]
    assert ran.result["reloaded_checksums"] == ran.result["checksums"]
    assert ran.result["reloaded_tokens"] == ran.result["tokens"]


def test_the_engine_in_a_process_of_its_own(tmp_path, model, by_default):
    check_same(run_vllm(tmp_path, model("llama"), "checksums", "tokens", processes=True), by_default("llama"))


def test_models_as_transformers_writes_them(tmp_path, model, by_default):
    ran = run_vllm(tmp_path, model("llama"), "checksums", "tokens", "read", model_impl="transformers")
    check_same(ran, by_default("llama", model_impl="transformers"))


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_each_of_two_ranks_reads_half(tmp_path, model, by_default, kind):
    how = {"tensor_parallel_size": 2, "processes": True, "timeout": 400}
    ran = run_vllm(tmp_path, model(kind), "checksums", "tokens", "read", **how)
    check_same(ran, by_default(kind, **how))
    assert len(ran.result["read"]) == 2
    for read in ran.result["read"]:
        assert read["early"] == []
        assert read["bytes_read"] <= 0.55 * read["bytes_total"]


def test_weights_from_a_store_with_the_config_here(tmp_path, model, by_default, swift):
    here = tmp_path / "model"
    here.mkdir()
    (here / "config.json").write_bytes((model("llama") / "config.json").read_bytes())
    extra = {"uri": swift.put_folder("vllm", model("llama"), "llama"), "storage_options": swift.options()}
    ran = run_vllm(tmp_path / "run", here, "checksums", "tokens", "reload", processes=True, extra=extra)
    check_same(ran, by_default("llama"))
    assert ran.result["reloaded_checksums"] == ran.result["checksums"]
    # vLLM itself writes its arguments; docs/vllm.md warns of it.
    assert not [line for line in ran.output.splitlines() if swift.secret in line and "non-default args" not in line]


def test_other_weights_at_a_path_that_reload_weights_gets(tmp_path, model, by_default):
    from .models import LLAMA, make_model

    other = make_model(tmp_path / "other", LLAMA, shards=1, seed=8)
    ran = run_vllm(tmp_path, model("llama"), "checksums", "tokens", "reload", reload={"weights_path": str(other)})
    check_same(ran, by_default("llama"))
    assert ran.result["reloaded_checksums"] != ran.result["checksums"]
