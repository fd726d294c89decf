"""Each of our sources keeps what a source promises: one suite, inherited by all, as by users' own."""

from __future__ import annotations

import pytest

from streamload._sources import FileSource, MemorySource
from streamload.testing import FaultySource, SourceTests


class TestMemorySource(SourceTests):
    def make_source(self, data):
        return MemorySource(data)


class TestFaultySourceWithoutFaults(SourceTests):
    def make_source(self, data):
        return FaultySource(MemorySource(data))


class TestFileSource(SourceTests):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.directory = tmp_path

    def make_source(self, data):
        path = self.directory / "bytes"
        path.write_bytes(data)
        return FileSource(path)
