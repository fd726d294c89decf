"""Counts lines per room and names every file over 400 lines and every function over 60.

`make size` runs it; so does a test. Standard library only. C++ functions are found by their braces: comments and
strings are blanked, and a block whose head holds a parameter list counts, up to its closing brace.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

FILE_LIMIT = 400
FUNCTION_LIMIT = 60
ROOT = Path(__file__).resolve().parents[2]
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
# Blocks that hold functions rather than being one.
SCOPE = re.compile(r"^\s*(template\s*<.*>\s*)?(inline\s+)?(namespace|class|struct|union|enum|extern)\b", re.DOTALL)


def python_functions(text: str) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of each function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


def native_functions(text: str) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of each outermost function of a C++ file."""
    code = NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found, head_start, depth, opened = [], 0, 0, None
    for match in re.finditer(r"[{};]|^#[^\n]*", code, re.MULTILINE):
        place, mark = match.start(), match[0]
        if opened is None:
            head = code[head_start:place].strip()
            if mark == "{" and "(" in head and not SCOPE.match(head):
                name = re.search(r"([~\w]+|operator\S+)\s*\(", head)
                opened, depth = (name[1] if name else head, code.count("\n", 0, place) + 1 - head.count("\n")), 1
            else:
                head_start = match.end()
        elif mark in "{}":
            depth += 1 if mark == "{" else -1
            if depth == 0:
                found.append((*opened, code.count("\n", 0, place) + 2 - opened[1]))
                opened, head_start = None, match.end()
    return found


def rooms() -> dict[str, list[Path]]:
    """The code of the repository by room."""
    found: dict[str, list[Path]] = {}
    for top, kinds in (
        ("src/streamload", ["py", "pyi"]),
        ("csrc", ["cpp", "hpp", "cu"]),
        ("benchmarks", ["py"]),
        ("tests", ["py", "cpp", "hpp"]),
    ):
        for path in sorted(path for kind in kinds for path in (ROOT / top).rglob(f"*.{kind}")):
            room = path.relative_to(ROOT / top).parts[0]
            found.setdefault(f"{top}/{room}", []).append(path)
    return found


def main() -> int:
    """Print the table, then what breaks a limit; return how the process ends."""
    broken, total = [], 0
    for room, files in rooms().items():
        lines = 0
        for path in files:
            text = path.read_text(encoding="utf-8")
            count = len(text.splitlines())
            lines += count
            functions = python_functions(text) if path.suffix in (".py", ".pyi") else native_functions(text)
            if count > FILE_LIMIT:
                broken.append(f"{path}: {count} lines, at most {FILE_LIMIT}")
            broken += [
                f"{path}:{line}: {name} has {n} lines, at most {FUNCTION_LIMIT}"
                for name, line, n in functions
                if n > FUNCTION_LIMIT
            ]
        total += lines
        print(f"{lines:7}  {room}")
    print(f"{total:7}  in all")
    print("\n".join(broken) or "every file and function is within its limit")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
