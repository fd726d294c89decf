"""Models for real vLLM, each made once and loaded by vLLM's own loader once; all of it skipped where vLLM is not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .models import LLAMA, MOE, make_model
from .running import run_vllm

KINDS = {
    "llama": {"config": LLAMA},
    "tied": {"config": LLAMA, "tied": True},
    "moe": {"config": MOE},
    "w8a8": {"config": LLAMA, "quantised": True},
}


@pytest.fixture(scope="session", autouse=True)
def _vllm():
    found = find_spec("vllm")
    if found is None or found.origin is None:  # this very folder may be found as a package of that name
        pytest.skip("vLLM has an environment of its own: make test-vllm")


@pytest.fixture(scope="session")
def model(_vllm, tmp_path_factory):
    """Return a function that gives the folder of a kind of model."""
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = make_model(tmp_path_factory.mktemp(kind) / "model", **KINDS[kind])
        return made[kind]

    return model


@pytest.fixture(scope="session")
def by_default(model, tmp_path_factory):
    """Return a function that gives what vLLM's default loader makes of a kind of model."""
    known = {}

    def by_default(kind, **how: object):
        key = (kind, *sorted(how.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("default")
            ran = run_vllm(folder, model(kind), "checksums", "tokens", load_format="auto", **how)
            assert ran.result is not None, ran.last_lines
            known[key] = ran.result
        return known[key]

    return by_default
