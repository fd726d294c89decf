"""The tiny models of `zoo`, each saved once for all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A function that gives a model's class and the directory it is saved in, by its name in `zoo`."""
    from . import tiny, zoo

    root, classes = tmp_path_factory.mktemp("zoo"), {}

    def saved(name):
        if name in zoo.BROKEN:
            pytest.skip(f"transformers {tiny.VERSION} {zoo.BROKEN[name]} of {name}")
        if name not in classes:
            classes[name] = zoo.save(name, root / name)
        return classes[name], root / name

    return saved
