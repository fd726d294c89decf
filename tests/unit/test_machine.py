"""Machine facts, the page cache, and numbers in words."""

from __future__ import annotations

import json
import mmap

import pytest

from streamload._machine import cached_fraction, drop_from_cache, machine_facts, private_bytes, usable_cpus
from streamload._units import say_bytes, say_count, say_rate, say_seconds


def test_facts_are_known_and_fit_json():
    facts = machine_facts(native_build="release")
    assert facts.cpus == usable_cpus() >= 1
    assert facts.native_build == "release"
    assert json.loads(json.dumps(facts.as_dict()))["system"].startswith("Linux")


def test_page_cache_is_asked_and_dropped(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    before = cached_fraction(path)
    if before is None:
        pytest.skip("cachestat(2) is not permitted here")
    assert before == 1.0
    drop_from_cache(path)
    assert cached_fraction(path) <= before  # tmpfs keeps its pages


def test_empty_file_is_cached(tmp_path):
    (tmp_path / "empty").touch()
    assert cached_fraction(tmp_path / "empty") in (1.0, None)


def test_private_memory_counts_what_is_touched_but_no_mapped_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (64 << 20))
    before = private_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped.find(b"y") == -1
        assert private_bytes() - before < 32 << 20
    with mmap.mmap(-1, 64 << 20) as memory:
        memory.write(b"x" * (64 << 20))
        assert private_bytes() - before > 32 << 20


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (33_554_432, "33.6 MB"), (279e6, "279 MB"), (999.6e6, "1.00 GB")],
)
def test_sizes_have_three_digits_and_a_unit(nbytes, text):
    assert say_bytes(nbytes) == text


def test_other_quantities_have_units_too():
    assert say_rate(55e9) == "55.0 GB/s"
    assert say_seconds(2.308) == "2.31 s"
    assert say_seconds(0.0521) == "52.1 ms"
    assert say_seconds(123.4) == "123 s"
    assert say_count(7500) == "7,500"
    assert say_count(1, "shard") == "1 shard"
    assert say_count(0, "shard") == "0 shards"
