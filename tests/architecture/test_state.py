"""No module state, no environment reads, no printing, no swallowed errors in the library."""

from __future__ import annotations

import ast

# Module state that stays, and the page that says why.
ALLOWED_STATE = {
    "streamload._engine._pool._SHARED": "2026-11-20-shared-engine.md",
    "streamload._sources._tiers._tier._SAID": "2026-11-27-tiers.md",
    "streamload.transformers._methods._LOCK": "2026-11-27-patch-scope.md",
    "streamload.transformers._scope._SCOPE": "2026-11-27-patch-scope.md",
}
# Handlers of `Exception` that stay: the tops of threads and of the command line. Room → how many.
ALLOWED_CATCH_ALL = {"cli": 1}
STATEFUL_CALLS = {
    "Lock",
    "RLock",
    "Condition",
    "Event",
    "local",
    "ContextVar",
    "WeakValueDictionary",
    "WeakKeyDictionary",
}
STATEFUL_CALLS |= {
    "WeakSet",
    "dict",
    "list",
    "set",
    "defaultdict",
    "OrderedDict",
    "deque",
    "Counter",
    "count",
    "bytearray",
}


def called_name(node: ast.AST) -> str:
    """The last part of a called name: `weakref.WeakSet()` gives "WeakSet"."""
    return ast.unparse(node.func).rpartition(".")[2].partition("[")[0] if isinstance(node, ast.Call) else ""


def is_state(name: str, value: ast.AST | None) -> bool:
    """A value that is there to be changed: a lock, a registry, an empty container, or a container in lower case."""
    if isinstance(value, ast.Call):
        return called_name(value) in STATEFUL_CALLS
    containers = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
    if isinstance(value, containers) and name != "__all__":
        empty = not getattr(value, "keys", None) and not getattr(value, "elts", None)
        return (empty and not hasattr(value, "generators")) or name != name.upper()
    return False


def module_state(module):
    """Every module-level name of a module that holds state."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and is_state(target.id, node.value):
                yield target.id, node
        for decorator in getattr(node, "decorator_list", []):
            if (called_name(decorator) or ast.unparse(decorator).rpartition(".")[2]) in ("cache", "lru_cache"):
                yield node.name, node


def test_no_module_holds_state(modules, repository):
    found = {f"{module.name}.{name}": module.at(node) for module in modules for name, node in module_state(module)}
    assert set(found) == set(ALLOWED_STATE), found
    assert not [page for page in ALLOWED_STATE.values() if not (repository / "docs" / "decisions" / page).is_file()]


def test_no_function_rebinds_a_global(modules):
    assert not [module.at(n) for module in modules for n in ast.walk(module.tree) if isinstance(n, ast.Global)]


def test_only_the_command_line_hands_over_the_environment(modules):
    wrong = []
    for module in modules:
        handed_over = {
            node.args[0]
            for node in ast.walk(module.tree)
            if module.room == "cli" and called_name(node) == "from_env" and node.args
        }
        for node in ast.walk(module.tree):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb")
            reads |= isinstance(node, ast.ImportFrom) and any(
                "env" in alias.name for alias in node.names if node.module == "os"
            )
            if reads and node not in handed_over:
                wrong.append(module.at(node))
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints(modules):
    wrong = [
        module.at(node)
        for module in modules
        if module.room != "cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write", "click.echo")
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_are_not_swallowed(modules):
    """A handler of everything must raise again, or be on the list."""
    found: dict[str, list[str]] = {}
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in ("Exception", "BaseException") and not raises:
                found.setdefault(module.room, []).append(module.at(node))
    wrong = [place for room, places in found.items() for place in places[ALLOWED_CATCH_ALL.get(room, 0) :]]
    assert not wrong, "\n".join(wrong)
