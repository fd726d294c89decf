"""The source files that the house rules are checked over, parsed once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Module:
    """One parsed file of the package; `str` gives its path for messages."""

    path: Path
    name: str  # dotted, "streamload._sources._file"
    room: str  # first part below the package, "_sources"; "streamload" for the package's own __init__
    tree: ast.Module

    def __str__(self) -> str:
        return str(self.path.relative_to(self.path.parents[len(self.name.split("."))]))

    def at(self, node: ast.AST) -> str:
        """Where a node stands, for a failure's message."""
        return f"{self.path}:{getattr(node, 'lineno', 0)}"


@pytest.fixture(scope="session")
def modules(repository: Path) -> list[Module]:
    """Every Python module of the package."""
    source = repository / "src"
    found = []
    for path in sorted((source / "streamload").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        room = parts[1] if len(parts) > 1 else "streamload"
        found.append(Module(path, ".".join(parts), room, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return found


@pytest.fixture(scope="session")
def native_files(repository: Path) -> list[Path]:
    """Every C++ file of the core, its bindings included, its tests not."""
    return sorted(path for kind in ("*.cpp", "*.hpp") for path in (repository / "csrc").rglob(kind))
