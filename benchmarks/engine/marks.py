"""Holds results of `streamload bench engine` against the marks the copy engine was built for.

    python3 benchmarks/engine/marks.py RESULT.json...

Prints one line a mark and ends with 1 if one is missed, with 2 if there was none to hold against.
Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from held import Mark, hold

# Loaders that hand out mappings put no bytes anywhere on the way; every other stages them.
MAPPED = ("safetensors,", "torch.load")


def warm_marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of a warm run on the host."""
    ratios, peers = result["ratios"], result["ratios_to_peers"]
    staging = [value for name, value in peers.items() if "existing" in name and not name.startswith(MAPPED)]
    fixed = result["fixed_cost_seconds"]
    return [
        ("existing memory, over the ceiling", ratios.get("existing_to_ceiling"), "at least", 0.95),
        ("existing memory, over the best loader that stages", min(staging, default=None), "at least", 2.5),
        ("new memory, over safetensors' load and clone", peers.get("safetensors, new memory"), "at least", 3.0),
        ("through the ring, over a pipeline by hand", ratios.get("ring_to_ceiling"), "at least", 0.8),
        ("fixed cost in seconds", median(fixed) if fixed else None, "at most", 0.05),
    ]


def cold_marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of a cold run on the host."""
    rates = {name: result["nbytes"] / seconds for name, seconds in result["median_seconds"].items()}
    drive = max((rates[name] for name in rates if name.startswith("O_DIRECT")), default=None)
    ours = [s for s in result["scores"] if s["role"] == "streamload" and s["target"] == "existing" and s["seconds"]]
    marks: list[Mark] = []
    for score in ours:
        name, gigabytes = score["name"], result["nbytes"] / 1e9
        reading = score["stats"]["read_cpu_seconds"] / gigabytes
        ratio = None if drive is None else rates[name] / drive
        marks += [
            (f"cold, {name}: over the drive's own rate", ratio, "at least", 0.9),
            (f"cold, {name}: CPU seconds per GB of all threads", result["cpu_seconds_per_gb"][name], "at most", 0.02),
            (f"cold, {name}: CPU seconds per GB of reading", reading, "at most", 0.02),
        ]
    return marks


def many_marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of many tensors."""
    rates = [(f"many tensors over few, {name}", value, "at least", 0.7) for name, value in result["ratios"].items()]
    return [*rates, ("µs to plan a tensor", result["plan_microseconds_per_tensor"], "at most", 10.0)]


def marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks that a result can be held against."""
    if result["kind"] == "bench many tensors":
        return many_marks(result)
    if result["kind"] != "bench engine" or "ratios_to_peers" not in result or result["device"] != "cpu":
        return []
    return cold_marks(result) if result["cache"].startswith("cold") else warm_marks(result)


def main(names: list[str]) -> int:
    """Print every mark of every file; return 1 if one was missed, 2 if there was none."""
    return hold(names, marks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
