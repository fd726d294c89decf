"""Say what will make loads slow on this machine, or fail, and what helps.

Floor 2. Each check is a function that returns a `Finding`: `_memory`, `_limits`, `_storage`, `_io_uring`, `_gpu`,
`_remote`. What they read of `proc` and `sys` lies under a root that tests replace; nothing is changed, and nothing is
asked over a network. What each finding means for a user is docs/doctor.md; the table is `cli`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..options import StreamOptions
from . import _gpu, _limits, _memory, _remote, _storage
from ._environment import Environment
from ._finding import Finding, State
from ._io_uring import io_uring

__all__ = ["Environment", "Finding", "State", "examine"]


def examine(
    path: Path | None = None,
    *,
    environment: Environment,
    scheme: str = "",
    options: StreamOptions | None = None,
    root: Path = Path("/"),
) -> list[Finding]:
    """Run every check; takes up to a few seconds, most of them the driver's.

    Args:
        path: A checkpoint's file or directory, or where one will lie; None leaves out what depends on it.
        environment: What the environment says.
        scheme: Of the URL that will be loaded from, such as "s3"; "" where none is named.
        options: Sizes of staging memory; None: the defaults.
        root: Where `proc` and `sys` are.

    Raises:
        OSError: The path is not there, or cannot be listed.
    """
    chosen = options or StreamOptions()
    if path is not None:
        path.stat()  # raises, where resolving would do with what there is
        path = path.resolve()
    on_bus = _gpu.pci_gpus(root)
    facts = _gpu.gpu_facts(root)
    needed = 0 if path is None else _weight_bytes(path)
    return [
        native_core(),
        _memory.locked_memory(chosen.staging_bytes),
        _memory.huge_pages(root),
        _memory.numa_nodes(root, set(os.sched_getaffinity(0)), [gpu.numa_node for gpu in on_bus]),
        _limits.memory(root, chosen),
        _limits.cpus(root),
        io_uring(root),
        *_stored(root, path),
        _gpu.driver(facts, on_bus),
        *map(_gpu.pcie, on_bus),
        *(_gpu.device_memory(gpu, needed) for gpu in facts.gpus),
        _gpu.torch_fits(_gpu.torch_facts(), facts),
        _gpu.module_loading(environment),
        _remote.libcurl(),
        *_remote.stores(environment, scheme),
    ]


def native_core() -> Finding:
    """Say whether the compiled core is there, and optimised."""
    why = "it reads, copies and checks; a debug build is many times slower"
    fix = "pip install --force-reinstall streamload; in a clone: make build"
    try:
        from .. import _native
    except ImportError as error:
        return Finding("native core", "wrong", f"cannot be loaded: {error}", why, fix)
    build = _native.build_type
    slow = build != "release"
    return Finding("native core", "slow" if slow else "ok", f"{build} build", why, fix if slow else "")


def _stored(root: Path, path: Path | None) -> list[Finding]:
    """Run the checks of a path."""
    if path is None:
        why = "drive and file system bound every cold load"
        return [Finding("storage", "unknown", "no path was given", why, "streamload doctor PATH")]
    mount = _storage.mount_of(root, path)
    kind = "" if mount is None else mount.kind
    file = _storage.file_to_try(path)
    direct = _storage.direct_reads(kind, file)
    found = [_storage.storage(root, path), direct]
    return found if direct.state == "wrong" else [*found, _storage.page_cache(kind, file)]


def _weight_bytes(path: Path) -> int:
    """Return the size of the safetensors files at a path, in bytes."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
