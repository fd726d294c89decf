"""What `doctor` finds in made-up trees of proc and sys; what can be faked for real is in tests/integration."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from streamload._doctor import _limits, _memory, _storage
from streamload._doctor._io_uring import Ring, io_uring
from streamload.options import StreamOptions

PLAIN_READS = 1 << 3


THP = "sys/kernel/mm/transparent_hugepage/enabled"


@pytest.mark.parametrize(
    ("files", "state", "says"),
    [
        ({THP: "always madvise [never]\n"}, "slow", "never"),
        ({THP: "always [madvise] never\n"}, "ok", "madvise"),
        ({THP: "[always] madvise never\n", "proc/self/status": "Name:\tx\nTHP_enabled:\t1\n"}, "ok", "always"),
        ({THP: "[always] madvise never\n", "proc/self/status": "THP_enabled:\t0\n"}, "slow", "for this process"),
        ({}, "unknown", "no transparent huge pages"),
    ],
)
def test_huge_pages_are_read_from_the_setting_and_the_process(tree, files, state, says):
    found = _memory.huge_pages(tree(files))
    assert (found.state, says in found.found) == (state, True), found
    assert bool(found.fix) == (state != "ok")


NODES = {"sys/devices/system/node/node0/cpulist": "0-3,8\n", "sys/devices/system/node/node1/cpulist": "4-7\n"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "state"),
    [
        ({0, 8}, [0], "ok"),
        ({0, 4}, [0], "slow"),
        ({4, 5}, [0], "slow"),
        ({0, 4}, [0, 1], "ok"),
        ({0, 4}, [-1], "unknown"),
        ({0, 4}, [], "ok"),
    ],
)
def test_a_process_beside_its_gpus_node_is_slow(tree, cpus, gpus, state):
    found = _memory.numa_nodes(tree(NODES), cpus, gpus)
    assert found.state == state, found
    assert state != "slow" or found.fix.startswith("numactl --cpunodebind=0 ")


def test_one_node_is_near_everything_and_none_is_unknown(tree):
    assert _memory.numa_nodes(tree({}), {0}, [0]).state == "unknown"
    assert _memory.numa_nodes(tree({"sys/devices/system/node/node0/cpulist": "0"}), {0}, [0]).state == "ok"


@pytest.mark.parametrize(
    ("most", "state", "says"),
    [(4 << 20, "wrong", "needs 8.39 MB"), (256 << 20, "slow", "held to 67.1 MB of 268 MB"), (2 << 30, "ok", "left")],
)
def test_a_memory_limit_is_compared_with_staging(tree, most, state, says):
    root = tree(
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/meminfo": "MemAvailable: 99999999 kB\n",
            "sys/fs/cgroup/a/memory.max": str(most),
            "sys/fs/cgroup/a/memory.current": "0",
        }
    )
    found = _limits.memory(root, StreamOptions())
    assert (found.state, says in found.found) == (state, True), found


def test_memory_that_nobody_tells_of_is_unknown(tree):
    assert _limits.memory(tree({}), StreamOptions()).state == "unknown"


@pytest.mark.parametrize(
    ("files", "usable", "state"),
    [
        ({"sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 4, "slow"),
        ({"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 4, "ok"),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 4, "slow"),
        ({"sys/fs/cgroup/a/cpu.max": "1600000 100000\n"}, 64, "ok"),
        ({"sys/fs/cgroup/a/cpu.max": "nonsense\n"}, 4, "ok"),
        ({}, 1, "slow"),
    ],
)
def test_a_quota_below_what_threads_would_use_is_slow(tree, files, usable, state):
    found = _limits.cpus(tree({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/x": "", **files}), usable)
    assert found.state == state, found


def test_a_quota_of_version_1_counts_and_minus_one_is_none(tree):
    files = {"proc/self/cgroup": "3:cpu,cpuacct:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}
    root = tree({**files, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n"})
    found = _limits.cpus(root, 8)
    assert (found.state, "quota of 2.5" in found.found, "read_threads=2" in found.fix) == ("slow", True, True)
    assert _limits.cpus(tree({"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n"}), 8).state == "ok"


@pytest.mark.parametrize(
    ("ring", "files", "state", "says"),
    [
        (Ring(0, PLAIN_READS), {}, "ok", "works"),
        (Ring(0, 0), {}, "slow", "no plain reads"),
        (Ring(errno.EPERM, 0), {"proc/sys/kernel/io_uring_disabled": "2\n"}, "slow", "kernel.io_uring_disabled=2"),
        (Ring(errno.EPERM, 0), {"proc/sys/kernel/io_uring_disabled": "0\n", "proc/self/status": "Seccomp:\t2\n"},
         "slow", "a seccomp filter refuses it (EPERM)"),
        (Ring(errno.ENOSYS, 0), {"proc/self/status": "Seccomp:\t2\n"}, "slow", "a seccomp filter refuses it (ENOSYS)"),
        (Ring(errno.ENOSYS, 0), {"proc/sys/kernel/osrelease": "4.18.0-1\n", "proc/self/status": "Seccomp:\t0\n"},
         "slow", "the kernel has none (4.18.0-1)"),
        (Ring(errno.ENOMEM, 0), {}, "slow", "ENOMEM"),
        (Ring(errno.EMFILE, 0), {}, "slow", "EMFILE"),
        (Ring(errno.EACCES, 0), {}, "slow", "the kernel refuses it (EACCES)"),
    ],
)  # fmt: skip
def test_who_refuses_io_uring_is_told_apart(tree, ring, files, state, says):
    found = io_uring(tree(files), lambda: ring)
    assert (found.state, says in found.found, bool(found.fix)) == (state, True, state != "ok"), found


def mounts(*lines: str) -> dict[str, str]:
    return {"proc/self/mountinfo": "".join(f"{line}\n" for line in lines)}


ROOT = "27 1 254:0 / / rw - ext4 /dev/vda rw"


@pytest.mark.parametrize(
    ("kind", "state", "says"),
    [
        ("tmpfs", "ok", "in memory"),
        ("overlay", "slow", "layers"),
        ("nfs4", "slow", "network"),
        ("9p", "slow", "network"),
        ("fuse.mountpoint-s3", "slow", "user-space"),
        ("lustre", "unknown", "servers"),
        ("fuse.juicefs", "unknown", "servers"),
    ],
)
def test_file_systems_are_told_apart(tree, tmp_path, kind, state, says):
    root = tree(mounts(ROOT, f"30 27 0:30 / {tmp_path} rw,relatime shared:1 master:2 - {kind} source rw"))
    found = _storage.storage(root, tmp_path / "model")
    assert (found.state, says in found.why, found.found) == (state, True, f"{kind} (source)"), found
    assert bool(found.fix) == (state != "ok")


def test_the_innermost_and_last_mount_counts(tree, tmp_path):
    inner = tmp_path / "with blank"
    escaped = str(inner).replace(" ", "\\040")
    root = tree(
        mounts(
            f"31 30 0:31 / {escaped} rw - nfs first rw",
            f"32 31 0:32 / {escaped} rw - tmpfs second rw",
            ROOT,
            f"30 27 0:30 / {tmp_path} rw - overlay overlay rw",
            "nonsense",
            "",
        )
    )
    assert _storage.mount_of(root, inner / "x") == ("tmpfs", "0:32", "second")
    assert _storage.mount_of(root, tmp_path / "with blanks") == ("overlay", "0:30", "overlay")
    assert _storage.mount_of(root, tmp_path.parent) == ("ext4", "254:0", "/dev/vda")


def test_without_a_list_of_mounts_the_storage_is_unknown(tree, tmp_path):
    assert _storage.storage(tree({}), tmp_path).state == "unknown"


@pytest.mark.parametrize(
    ("name", "turns", "state"),
    [
        ("sda", "1\n", "slow"),
        ("sda", "0\n", "ok"),
        ("sda", None, "unknown"),
        ("vda", "1\n", "unknown"),
        ("vda", "0\n", "ok"),
    ],
)
def test_a_partitions_drive_says_whether_it_turns(tree, name, turns, state):
    disk = f"sys/devices/pci0/block/{name}"
    files = {**mounts("27 1 8:2 / / rw - xfs /dev/sda2 rw"), f"{disk}/{name}2/partition": "2\n"}
    if turns is not None:
        files[f"{disk}/queue/rotational"] = turns
    root = tree(files)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/8:2").symlink_to(root / disk / f"{name}2")
    found = _storage.storage(root, root)
    assert (found.state, found.found.startswith("xfs (/dev/sda2)")) == (state, True), found


def test_a_drive_that_is_not_shown_is_unknown(tree):
    assert _storage.storage(tree(mounts("27 1 0:40 / / rw - btrfs /dev/sda2 rw")), tree({})).state == "unknown"


def test_weights_are_tried_before_other_files(tmp_path):
    for name, content in (("a.json", "{}"), ("z.safetensors", "x"), ("b.safetensors", ""), ("y.safetensors", "x")):
        (tmp_path / name).write_text(content)
    assert _storage.file_to_try(tmp_path) == tmp_path / "y.safetensors"
    assert _storage.file_to_try(tmp_path / "a.json") == tmp_path / "a.json"
    (tmp_path / "empty").mkdir()
    assert _storage.file_to_try(tmp_path / "empty") is None


def test_with_nothing_to_try_direct_reads_and_the_page_cache_are_unknown():
    assert _storage.direct_reads("ext4", None).state == "unknown"
    assert _storage.page_cache("ext4", None).state == "unknown"


def test_a_file_that_cannot_be_read_is_wrong(tmp_path):
    found = _storage.direct_reads("ext4", tmp_path / "missing")
    assert (found.state, "missing cannot be read" in found.found) == ("wrong", True)


def test_a_file_system_that_refuses_o_direct_is_slow():
    # Files of proc have no direct reads.
    found = _storage.direct_reads("ext4", Path("/proc/self/status"))
    assert (found.state, "does not take it" in found.found) == ("slow", True), found
