"""The C++ core knows neither Python nor CUDA's headers nor the environment; one file is the border."""

from __future__ import annotations

import re

import pytest

COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def code_of(path) -> str:
    """A file's text without comments and strings, its include lines kept."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line if line.lstrip().startswith("#include") else COMMENT_OR_STRING.sub("", line) for line in lines]
    return re.sub(r"/\*.*?\*/", "", "\n".join(kept), flags=re.DOTALL)


def places(files, pattern: str) -> list[str]:
    """Where a pattern stands, as path:line."""
    return [
        f"{path}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(code_of(path).splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_only_the_bindings_include_python(native_files):
    outside = [path for path in native_files if path.parent.name != "bindings"]
    assert not places(outside, r"#include\s*[<\"](Python\.h|nanobind|pybind11|torch)")


def test_the_core_includes_no_cuda_header(native_files):
    found = places(native_files, r"#include\s*[<\"](cuda|nv|cufile)\w*(\.h|/)")
    assert [place for place in found if "core/ranges.cpp" not in place] == []  # NVTX's, where they are found


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        (r"\b(secure_)?getenv\b", "no environment reads"),
        (r"std::c(out|err|log)\b|\bprintf\(", "no printing"),
        (r"(^|[=(,;\s])new\s+\w|\bdelete\s+\w|\bdelete\[\]", "no new and no delete"),
        (r"\bsleep_(for|until)\b|\busleep\b", "no sleeping"),
        (r"\bthread_local\b", "no thread-local state"),
        (r"^(static|inline)\s+(?!const|constexpr|constinit const)[^()]*;$", "no global variables"),
    ],
)
def test_the_core_keeps_the_rules_of_its_house(native_files, pattern, rule):
    assert not places(native_files, pattern), rule
