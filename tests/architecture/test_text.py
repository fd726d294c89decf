"""Pages and tests keep their own rules: short decisions, no sleeping tests, no word of anyone's machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

# Written in parts, so that this file does not contain what it forbids.
MACHINE_PATHS = re.compile("/" + "(work|root|home)" + r"/\w")
DECISION_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-[a-z0-9-]+\.md")
BINARY = {".png", ".safetensors", ".bin", ".so"}


@pytest.fixture(scope="module")
def texts(repository):
    """Every text file that belongs to the repository, with its lines."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [repository / line for line in listed.stdout.splitlines()]
    kept = [path for path in paths if path.is_file() and path.suffix not in BINARY and "corpus" not in path.parts]
    return {path: path.read_text(encoding="utf-8", errors="replace").splitlines() for path in kept}


def test_no_file_names_a_path_of_someones_machine(texts):
    wrong = [
        f"{path}:{n}" for path, lines in texts.items() for n, line in enumerate(lines, 1) if MACHINE_PATHS.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_file_ends_in_a_newline_and_has_no_trailing_blanks(texts):
    skipped = ("LICENSE", "results", "attacks")
    wrong = [
        f"{path}:{n}"
        for path, lines in texts.items()
        if not set(skipped) & set(path.parts)
        for n, line in enumerate(lines, 1)
        if line != line.rstrip()
    ]
    wrong += [
        str(path)
        for path in texts
        if path.stat().st_size and not path.read_bytes().endswith(b"\n") and "attacks" not in path.parts
    ]
    assert not wrong, "\n".join(wrong)


def test_decisions_are_dated_and_short(repository):
    pages = sorted((repository / "docs" / "decisions").glob("*.md"))
    assert pages
    wrong = [page.name for page in pages if not DECISION_NAME.fullmatch(page.name)]
    wrong += [page.name for page in pages if len(page.read_text(encoding="utf-8").splitlines()) > 60]
    assert not wrong


def test_no_test_sleeps(repository):
    wrong = []
    for path in sorted((repository / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep"):
                wrong.append(f"{path}:{node.lineno}")
    for path in sorted((repository / "tests" / "native").rglob("*.[ch]pp")):
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        wrong += [f"{path}:{number}" for number, line in lines if re.search(r"\bsleep_(for|until)\b|\busleep\b", line)]
    assert not wrong, "order events with barriers, events or the host device, never with time:\n" + "\n".join(wrong)


def test_the_makefile_explains_every_recipe(repository):
    lines = (repository / "Makefile").read_text(encoding="utf-8").splitlines()
    (phony,) = (line for line in lines if line.startswith(".PHONY:"))
    explained = {line.partition(":")[0] for line in lines if re.match(r"[a-z-]+:.*## ", line)}
    assert set(phony.split()[1:]) == explained


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/glossary.md"])
def test_pages_point_at_what_exists(repository, page):
    text = (repository / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert not [target for target in targets if not ((repository / page).parent / target).exists()]
    recipes = set(re.findall(r"^([a-z-]+):.*##", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= recipes


def test_python_in_the_readme_is_python(repository):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_the_readmes_figures_are_those_of_the_committed_results(repository):
    command = [sys.executable, repository / "benchmarks" / "readme_figures.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python3 benchmarks/readme_figures.py"
