"""A room imports only rooms on lower floors (the table of rooms is in CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOORS = {
    "_closing": 0,
    "_collector": 0,
    "errors": 0,
    "options": 0,
    "_native": 0,
    "_format": 1,
    "_machine": 1,
    "_sources": 1,
    "_units": 1,
    "_whole_file": 1,
    "_checkpoint": 2,
    "_checksums": 2,
    "_doctor": 2,  # reads the system and loads the native core; knows no checkpoint
    "_plan": 2,
    "_trace": 2,
    "_engine": 3,
    "_report": 3,
    "_schedule": 3,
    "_pull": 4,
    "_verify": 4,
    "torch": 4,
    "_coldstart": 5,
    "_lazy": 5,
    "_models": 5,
    "testing": 5,
    "_demo": 6,
    "_handover": 6,
    "bench": 7,
    "transformers": 6,
    "_load_with": 7,
    "diffusers": 7,
    "sglang": 7,
    "vllm": 7,
    "streamload": 7,  # the package's own face: re-exports, no logic
    "cli": 8,
    "__main__": 9,
}


def rooms_imported(module) -> Iterator[tuple[str, ast.AST]]:
    """Every room that a module imports, at whatever level, with the statement that does."""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            # `from streamload import _engine` names a room in its last part.
            targets = [f"{base}.{alias.name}" if base == "streamload" else base for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            first = node.args[0]
            targets = [first.value] if isinstance(first, ast.Constant) else []
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "streamload":
                yield (parts[1] if len(parts) > 1 and parts[1] in FLOORS else "streamload"), node


def only_for_types(module) -> set[ast.AST]:
    """Every node under `if TYPE_CHECKING`."""
    return {
        inner
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def test_every_room_has_a_floor(modules):
    assert {module.room for module in modules} <= set(FLOORS), "a new room needs a floor and a decision page"


def test_rooms_import_only_lower_floors(modules):
    wrong = []
    for module in modules:
        own = FLOORS[module.room]
        types = only_for_types(module)
        for room, node in rooms_imported(module):
            # A name needed only for types may come from the same floor: nothing is imported at run time.
            limit = own if node in types else own - 1
            if room != module.room and FLOORS[room] > limit:
                wrong.append(f"{module.at(node)}: {module.room} (floor {own}) imports {room} (floor {FLOORS[room]})")
    assert not wrong, "\n".join(wrong)


def test_floors_below_the_torch_room_know_no_framework(modules):
    frameworks = {"torch", "numpy", "safetensors", "transformers"}
    wrong = [
        f"{module.at(node)}: {ast.unparse(node)}"
        for module in modules
        if FLOORS[module.room] < FLOORS["torch"]
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] in frameworks for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in frameworks)
    ]
    assert not wrong, "\n".join(wrong)
