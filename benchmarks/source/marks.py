"""Holds results of `streamload bench source` against the marks that reading object stores was built for.

    python3 benchmarks/source/marks.py RESULT.json...

Prints one line a mark and ends with 1 if one is missed, with 2 if there was none to hold against.
Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from held import Mark, hold


def marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of a run against a server on the same machine."""
    if result["kind"] != "bench source" or not result["served_here"]:
        return []
    found = result["ratios"].get
    return [
        ("rate, over raw sockets", found("rate_to_raw_sockets"), "at least", 0.85),
        ("CPU per GB, over raw sockets'", found("cpu_to_raw_sockets"), "at most", 2.0),
        ("CPU per GB, over the best library's", found("cpu_to_best_peer"), "at most", 1.0),
        ("beside busy Python, over idle", found("busy_to_idle"), "at least", 0.7),
        ("page faults per GB", found("page_faults_per_gb"), "at most", 1000.0),
        ("peak memory through the ring, over its cap", found("ring_peak_memory_to_staging_cap"), "at most", 1.0),
    ]


def main(names: list[str]) -> int:
    """Print every mark of every file; return 1 if one was missed, 2 if there was none."""
    return hold(names, marks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
