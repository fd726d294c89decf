"""Holds results of `streamload bench overlap` against the overlap contract.

    python3 benchmarks/overlap/marks.py RESULT.json...

Prints one line a mark and ends with 1 if one is missed or was not measured, with 2 if there was none to hold against.
Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from held import Mark, hold

FIRST_TOKEN, LINK, OVERHEAD, SIMULATION = 1.05, 0.95, 1.02, 0.05
WAKE = 1.2
# Without a GPU the prompts are chosen: they have to reach both ends.
TRANSFER_BOUND, COMPUTE_BOUND = 0.25, 1.75
OVERSIZED_COMPUTE_BOUND = 2.0  # the pass, over the time its bytes take


def cold_marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of first tokens."""
    cases = [(case["tokens"], case["figures"]) for case in result["cold"]]
    marks: list[Mark] = []
    for tokens, figures in cases:
        marks += [
            (f"first token over max(X, C), {tokens} tokens", figures["ratio"], "at most", FIRST_TOKEN),
            simulated(f"first token, {tokens} tokens", figures["measured_to_predicted"]),
        ]
    if result["simulated_link"] is not None or not cases:
        parts = [figures["compute_to_move"] for _, figures in cases]
        marks += [
            ("C / X of the shortest prompt", min(parts, default=None), "at most", TRANSFER_BOUND),
            ("C / X of the longest prompt", max(parts, default=None), "at least", COMPUTE_BOUND),
        ]
    return marks


def steady_marks(result: dict[str, Any]) -> list[Mark]:
    """List the mark of the model once it is there: how far from plain it could be, by the interval of the median."""
    steady = result["steady"]
    what = "once resident, streamed over plain, off 1 at most"
    if steady is None:
        return [(what, None, "at most", 0.0)]
    ratio = steady["figures"]["ratio"]
    sure = ratio["confidence"] >= 0.95
    return [(what, max(ratio["high"] - 1, 1 - ratio["low"]) if sure else None, "at most", steady["margin"])]


def oversized_marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks of a model that exceeds its device."""
    figures = (result.get("oversized") or {}).get("figures", {})
    compute_bound = figures.get("compute_to_move", 0.0) >= OVERSIZED_COMPUTE_BOUND
    over_resident = figures.get("over_resident") if compute_bound else None
    return [
        ("oversized, link-bound: bytes streamed over the link", figures.get("link_fraction"), "at least", LINK),
        ("oversized, compute-bound: over resident", over_resident, "at most", OVERHEAD),
        simulated("oversized, link-bound", figures.get("decode_to_predicted")),
        simulated("oversized, compute-bound", figures.get("prompt_to_predicted")),
    ]


def wake_marks(result: dict[str, Any]) -> list[Mark]:
    """List the mark of first tokens after sleep."""
    figures = (result.get("wake") or {}).get("figures", {})
    return [("first token after wake over max(X, C)", figures.get("ratio"), "at most", WAKE)]


def simulated(what: str, ratio: float | None) -> Mark:
    """Return the mark of a prediction: how far from 1 measured over predicted is."""
    return (f"{what}: off the simulation", None if ratio is None else abs(ratio - 1), "at most", SIMULATION)


def marks(result: dict[str, Any]) -> list[Mark]:
    """List the marks that a result can be held against."""
    if result["kind"] != "bench overlap":
        return []
    return [*cold_marks(result), *wake_marks(result), *oversized_marks(result), *steady_marks(result)]


def main(names: list[str]) -> int:
    """Print every mark of every file; return 1 if one was missed, 2 if there was none."""
    return hold(names, marks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
