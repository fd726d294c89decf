"""`__all__` equals reality, public objects say what they do, and every public noun is in the glossary."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from importlib.metadata import version

import pytest

FORBIDDEN_WORDS = re.compile(r"manager|helper|handler|utils?(?![a-z])", re.IGNORECASE)


def public_modules(modules):
    """The modules a user imports: no part of the name is private."""
    return [module for module in modules if not any(part.startswith("_") for part in module.name.split("."))]


def load(module):
    """Import a module of the package, or skip where an extra it needs is not installed."""
    try:
        return importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("streamload"):
            raise
        pytest.skip(f"{module.name} needs {error.name}")


def test_every_public_module_declares_its_names(modules):
    missing = [module.name for module in public_modules(modules) if not hasattr(load(module), "__all__")]
    assert not missing


def test_all_equals_reality(modules):
    wrong = []
    for module in modules:
        loaded = load(module)
        if not hasattr(loaded, "__all__"):
            continue
        declared = list(loaded.__all__)
        wrong += [f"{module.name}: {name} is declared twice" for name in declared if declared.count(name) > 1]
        wrong += [f"{module.name}: {name} does not exist" for name in declared if not hasattr(loaded, name)]
        if module not in public_modules(modules):
            continue  # a private module may share more with its neighbours than it declares
        real = {
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.name
        }
        wrong += [f"{module.name}: {name} is public but not declared" for name in sorted(real - set(declared))]
    assert not wrong, "\n".join(wrong)


def test_the_face_exports_nothing_by_accident(modules):
    import streamload

    names = {
        name
        for name, value in vars(streamload).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }
    assert names <= set(streamload.__all__)


def test_version_has_one_place():
    import streamload

    assert version("streamload") == streamload.__version__


def test_public_objects_have_docstrings(modules):
    missing = []
    for module in public_modules(modules):
        for name, value in vars(load(module)).items():
            if name.startswith("_") or getattr(value, "__module__", "") != module.name or not callable(value):
                continue
            text = inspect.getdoc(value) or ""
            first = text.split("\n\n")[0].strip()
            if not first.endswith("."):
                missing.append(f"{module.name}.{name}: the docstring must open with one sentence")
    assert not missing, "\n".join(missing)


def test_every_module_opens_with_its_one_job(modules):
    assert not [module.name for module in modules if not ast.get_docstring(module.tree)]


def test_public_signatures_name_their_types(modules):
    wrong = []
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
                continue
            arguments = [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]
            annotations = [argument.annotation for argument in arguments if argument] + [node.returns]
            if any(re.search(r"\bAny\b", ast.unparse(annotation)) for annotation in annotations if annotation):
                wrong.append(f"{module.at(node)}: {node.name} has Any in its signature")
    assert not wrong, "\n".join(wrong)


def test_names_say_what_things_are(modules, native_files):
    wrong = [f"{path}: {path.stem}" for path in native_files if FORBIDDEN_WORDS.search(path.stem)]
    for module in modules:
        named = [node for node in ast.walk(module.tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        names = [(module.room, module.tree), *((node.name, node) for node in named)]
        wrong += [f"{module.at(node)}: {name}" for name, node in names if FORBIDDEN_WORDS.search(name)]
    assert not wrong, "\n".join(wrong)


def test_glossary_holds_every_public_noun(modules, repository):
    glossary = (repository / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"\*\*([\w-]+)\*\*", glossary))
    nouns = {
        name
        for module in public_modules(modules)
        for name in getattr(load(module), "__all__", [])
        if inspect.isclass(getattr(load(module), name))
    }
    assert not sorted(nouns - entries), "public nouns that docs/glossary.md does not define"
