"""Machine facts, the page cache, and numbers in words."""

from __future__ import annotations

import json
import mmap
import os

import pytest

from streamload._machine import (
    _group_headroom,
    _memory_groups,
    cached_fraction,
    drop_from_cache,
    machine_facts,
    memory_headroom_bytes,
    private_bytes,
    usable_cpus,
)
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
    assert cached_fraction(path, 5000) == 1.0
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


STAT = "anon 5\nfile 200\ninactive_file 100\nactive_file 50\n"
STAT_V1 = "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n"


@pytest.fixture
def headrooms(tmp_path):
    """Make up a tree of control groups; gives back what each group of a process leaves, by its path in the tree."""

    def make(membership: str | bytes, files: dict[str, str | bytes]) -> dict[str, int | None]:
        root = tmp_path / "cgroup"
        root.mkdir()
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / "self").write_bytes(membership if isinstance(membership, bytes) else membership.encode())
        found = _memory_groups(root, tmp_path / "self")
        return {str(directory.relative_to(root)): _group_headroom(directory) for directory in found}

    return make


def group(name: str, **files: str) -> dict[str, str]:
    return {f"{name}/memory.{file}": content for file, content in files.items()}


def test_a_group_of_version_2_leaves_its_limit_less_what_cannot_be_reclaimed(headrooms):
    files = group("a/b", max="1000\n", current="400\n", stat=STAT)
    assert headrooms("0::/a/b\n", files) == {"a/b": 750, "a": None, ".": None}


def test_a_group_of_version_1_counts_its_children_too(headrooms):
    files = group("memory/d", limit_in_bytes="1000\n", usage_in_bytes="400\n", stat=STAT_V1)
    assert headrooms("5:cpu,memory:/d\n1:name=systemd:/d\n", files) == {"memory/d": 750, "memory": None}


def test_groups_around_a_group_limit_it_too(headrooms):
    inner = group("a/b", max="1000", current="400", stat=STAT)
    files = {**inner, **group("a", max="900", current="700", stat=STAT), "memory.stat": STAT}
    assert headrooms("0::/a/b\n", files) == {"a/b": 750, "a": 350, ".": None}


@pytest.mark.parametrize(
    ("most", "high", "left"),
    [("max", "max", None), ("max", "800", 550), ("1000", "800", 550), ("800", "1000", 550), ("1000", "max", 750)],
)
def test_the_smaller_of_max_and_high_is_the_limit(headrooms, most, high, left):
    assert headrooms("0::/a\n", group("a", max=most, high=high, current="400", stat=STAT))["a"] == left


def test_a_group_over_its_limit_leaves_nothing(headrooms):
    assert headrooms("0::/a\n", group("a", max="10", current="400", stat=STAT))["a"] == 0


@pytest.mark.parametrize(
    "stat", [None, "", "nonsense\none two three\n", "inactive_file many\n", b"inactive_file \xff\n"]
)
def test_without_a_readable_stat_nothing_is_reclaimable(headrooms, stat):
    files = group("a", max="1000", current="400")
    assert headrooms("0::/a\n", files if stat is None else {**files, "a/memory.stat": stat})["a"] == 600


@pytest.mark.parametrize("content", ["", "lots", b"\xff"])
@pytest.mark.parametrize("file", ["max", "current"])
def test_a_limit_or_usage_that_is_no_number_is_none(headrooms, file, content):
    files = group("a", max="1000", current="400", stat=STAT)
    assert headrooms("0::/a\n", {**files, f"a/memory.{file}": content})["a"] is None


def test_a_container_may_show_its_own_group_as_the_root(headrooms):
    root = {"memory.max": "1000", "memory.current": "400", "memory.stat": STAT}
    assert headrooms("0::/kubepods/pod1\n", root) == {".": 750}


def test_the_root_of_a_namespace_is_one_group(headrooms):
    assert headrooms("0::/\n", {"memory.max": "1000", "memory.current": "400", "memory.stat": STAT}) == {".": 750}


def test_a_name_may_hold_a_colon(headrooms):
    files = group("a:b", max="1000", current="400", stat=STAT)
    assert headrooms("0::/a:b\n", files) == {"a:b": 750, ".": None}


def test_a_group_whose_name_is_no_text_is_found(tmp_path):
    (tmp_path / "self").write_bytes(b"0::/\xff\x85\n")
    directory = tmp_path / os.fsdecode(b"\xff\x85")
    directory.mkdir()
    assert _memory_groups(tmp_path, tmp_path / "self") == [directory, tmp_path]


@pytest.mark.parametrize(
    "membership", ["", "\n", "nonsense\n", "0:\n", "0:/a\n", "0::/../a\n", "0::/..\n", "0::/a/../../b\n", "3:cpu:/a\n"]
)
def test_odd_lines_of_a_membership_are_passed_over(headrooms, membership):
    assert headrooms(membership, group("a", max="1000", current="400", stat=STAT)) == {}


def test_an_odd_line_does_not_hide_the_next(headrooms):
    assert headrooms("nonsense\n0::/a\n", group("a", max="1000", current="400", stat=STAT))["a"] == 750


def test_a_name_with_nul_limits_nothing_of_its_own(headrooms):
    assert headrooms(b"0::/a\0b\n", {"memory.stat": STAT}) == {".": None}


def test_a_membership_that_cannot_be_read_is_none(tmp_path):
    assert _memory_groups(tmp_path, tmp_path / "missing") == []
    assert _memory_groups(tmp_path, tmp_path) == []


def test_headroom_is_known_here():
    assert memory_headroom_bytes() > 0


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
