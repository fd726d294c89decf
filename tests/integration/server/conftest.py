"""A model behind a link, and the example's server over it."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from streamload.testing import LlamaShape, make_checkpoint

from ...servers.example import example_server, missing_package
from ...servers.stores import slow_link

SHAPE = LlamaShape(layers=6, hidden=256, heads=4, kv_heads=2, intermediate=704, vocab=1024, dtype="F32")
SMALL_READS = {"chunk_bytes": 256 << 10, "connections": 4, "retry_seconds": 5, "stall_seconds": 5}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    if missing := missing_package():
        pytest.skip(f"the example's server needs {missing}, which is not installed")
    return make_checkpoint(tmp_path_factory.mktemp("served") / "model", SHAPE, shards=3)


@pytest.fixture
def published(folder, origin, request):
    """Publish the model's files, this test's own; return the path they are under."""
    place = f"/{request.node.name}"
    for file in folder.iterdir():
        origin.put(f"{place}/{file.name}", file.read_bytes())
    yield place
    for file in folder.iterdir():
        origin.remove(f"{place}/{file.name}")


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts servers, which are gone at the end of the test."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def serve(place, *words: str):
            log = tmp_path / f"server-{next(numbers)}.log"
            return stack.enter_context(example_server(place, log, *words, options=SMALL_READS))

        yield serve


@pytest.fixture
def behind_link(published, fault_proxy):
    """Return a function from a rate to the model's URL behind a link, with `fault_proxy` at its far end."""
    with contextlib.ExitStack() as stack:

        def behind_link(bytes_per_second):
            link = slow_link(fault_proxy.url, bytes_per_second=bytes_per_second, latency_seconds=0.01)
            return stack.enter_context(link) + published

        yield behind_link
