"""Every test that docs/known-pains.md names exists."""

from __future__ import annotations

import ast
import re

NAMED = re.compile(r"`(tests/[\w/]+\.(?:py|cpp))::(\w+)`")
PAGE = "docs/known-pains.md"


def functions_in(path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".cpp":
        return set(re.findall(r"^TEST\((\w+)\)", text, re.MULTILINE))
    return {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_named_on_the_page_of_known_pains_exists(repository):
    named = NAMED.findall((repository / PAGE).read_text(encoding="utf-8"))
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (repository / file).is_file() or name not in functions_in(repository / file)
    ]
    assert not missing


def test_every_thread_on_the_page_says_what_covers_it(repository):
    rows = [
        line for line in (repository / PAGE).read_text(encoding="utf-8").splitlines() if "#" in line and "|" in line
    ]
    assert len(rows) == 38
    for row in rows:
        _, thread, _, covered, _ = re.split(r"(?<!\\)\|", row)
        assert re.fullmatch(r" [\w./-]+#\d+ ", thread), row
        assert re.search(r"`|cannot apply|the same test|benchmark", covered), row
