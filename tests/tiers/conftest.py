"""What tests of the tiers share: a store that counts, loads that may be killed, and folders to keep things in."""

from __future__ import annotations

import importlib.util
import sys
import weakref
from pathlib import Path

import pytest


@pytest.fixture
def kills(request):
    """How many loads a test kills; `--kills 100` for the whole exercise."""
    return request.config.getoption("--kills")


@pytest.fixture(scope="session")
def places():
    """The module `places`, which is a program, too."""
    spec = importlib.util.spec_from_file_location("places", Path(__file__).with_name("places.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(places):
    """A store of the test's own: one may still send to a load that the test before killed, and would count that."""
    server = places.RangeServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def nursery(places):
    nursery = places.Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def options(places, tmp_path):
    """Options with one tier, on the drive."""
    return places.choose(cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def open_url(places):
    """Return a function that opens an object of the store through tiers; what a test leaves open is closed after it."""
    opened = weakref.WeakSet()

    from streamload._sources._tiers import attach

    def open_url(url, options):
        source = attach(places.RangeSource(url), options)
        opened.add(source)
        return source

    yield open_url
    for source in opened:
        source.close()


@pytest.fixture
def stored(places, server, open_url):
    """An object in the store: its bytes and a function that opens it."""
    data = places.content(300_000)
    url = server.put("models/object", data)
    return data, lambda options: open_url(url, options)
