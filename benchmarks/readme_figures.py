"""Writes the README's table of figures from the results committed beside this file, or checks it with --check.

    python3 benchmarks/readme_figures.py [--check]

No figure in the README is typed by hand; a new result is one file here and one run of this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- figures: made by benchmarks/readme_figures.py -->\n", "<!-- end of figures -->\n"


def result(name: str) -> dict[str, Any]:
    """Read one committed result."""
    return json.loads((HERE / "results" / name).read_text(encoding="utf-8"))


def demo_row(name: str) -> tuple[str, str, str]:
    """Tell the demo's figures."""
    found = result(name)
    medians = found["median_seconds"]
    figure = (
        f"{medians['usual']:.2f} s → {medians['streamed']:.2f} s; streamed / max(X, C) = "
        f"{found['ratio_to_max_of_move_and_compute']:.2f}"
    )
    what = f"first token, usual → streamed; {found['nbytes'] / 1e9:.2f} GB over a simulated link, C = 0.7 X, no GPU"
    return what, figure, name


def engine_row(name: str, cache: str, memory: str) -> tuple[str, str, str]:
    """Tell what the engine benchmark found for "existing" or "new" memory."""
    ratios = result(name)["ratios"]
    what = f"{cache} → {memory} CPU memory: rate over the best plain read, and over the best peer"
    figure = f"{ratios[f'{memory}_to_ceiling']:.2f} and {ratios[f'{memory}_to_best_peer']:.2f}"
    return what, figure, name


def overlap_rows(name: str) -> list[tuple[str, str, str]]:
    """Tell what the overlap benchmark found: first tokens, and weights that exceed the device."""
    found = result(name)
    size = f"{found['nbytes'] / 1e9:.2f} GB over a simulated link, simulated computing, no GPU"
    cases = [case["figures"] for case in found["cold"]]
    ratios = ", ".join(f"{case['ratio']:.2f}" for case in cases)
    parts = ", ".join(f"{case['compute_to_move']:.1f}" for case in cases)
    oversized = found["oversized"]["figures"]
    return [
        (f"first token / max(X, C), at C / X = {parts}; {size}", ratios, name),
        (
            "half of the layers streamed in each pass: bytes over the link, and a computing-bound pass over resident",
            f"{oversized['link_fraction']:.2f} and {oversized['over_resident']:.2f}",
            name,
        ),
        ("first token after sleep, from wake(), over max(X, C)", f"{found['wake']['figures']['ratio']:.2f}", name),
    ]


def compare_row(name: str) -> tuple[str, str, str]:
    """Tell what the comparison of loaders found."""
    found = result(name)
    ratios = found["ratios"]
    what = (
        f"every loader over {found['nbytes'] / 1e9:.2f} GB into new CPU memory: rate over the best peer, warm and cold"
    )
    return what, f"{ratios['warm_to_best_peer']:.2f} and {ratios['cold_to_best_peer']:.2f}", name


def slow_link_row(name: str) -> tuple[str, str, str]:
    """Tell what computing while a checkpoint downloads gains."""
    found = result(name)
    cases = found["compute_to_link"]
    what = (
        f"first token / max(X, C) while {found['nbytes'] / 1e9:.2f} GB download, at C / X = {', '.join(cases)}; "
        "over that of downloading first"
    )
    ratios = ", ".join(f"{case['ratio']:.2f}" for case in cases.values())
    gains = ", ".join(f"{case['ratio_to_usual']:.2f}" for case in cases.values())
    return what, f"{ratios}; {gains}", name


def source_row(name: str) -> tuple[str, str, str]:
    """Tell what the source benchmark found beside raw sockets."""
    ratios = result(name)["ratios"]
    what = "object store on this machine → memory: rate and processor time over those of raw sockets"
    return what, f"{ratios['rate_to_raw_sockets']:.2f} and {ratios['cpu_to_raw_sockets']:.2f}", name


def store_peer_row(name: str) -> tuple[str, str, str]:
    """Tell what the source benchmark found beside other clients."""
    ratios = result(name)["ratios"]
    what = "the same: rate and processor time over those of the best client library"
    return what, f"{ratios['rate_to_best_peer']:.2f} and {ratios['cpu_to_best_peer']:.2f}", name


def server_row(name: str) -> tuple[str, str, str]:
    """Tell what the example server's first request takes."""
    found = result(name)
    prompts = found["prompts"].values()
    what = (
        f"example server, first token / max(X, C) over a link of {found['link_bytes_per_second'] / 1e6:.0f} MB/s, "
        "short and long prompt; over that of loading first"
    )
    ratios = ", ".join(f"{prompt['ratio']:.2f}" for prompt in prompts)
    gains = ", ".join(f"{prompt['ratio_to_blocking']:.2f}" for prompt in prompts)
    return what, f"{ratios}; {gains}", name


def vllm_row(name: str) -> tuple[str, str, str]:
    """Tell how long vLLM's `load_weights` takes beside its own loader's."""
    found = result(name)
    medians = {loader: runs["median_seconds"] for loader, runs in found["loaders"].items()}
    what = (
        f"vLLM on CPUs, `load_weights` of {found['file_bytes'] / 1e9:.1f} GB over that of its own loader, warm and cold"
    )
    figure = " and ".join(f"{medians['streamload'][cache] / medians['auto'][cache]:.2f}" for cache in ("warm", "cold"))
    return what, figure, name


def table() -> str:
    """Return the rows, with header."""
    rows = [
        demo_row("2026-11-20-host-demo.json"),
        *overlap_rows("2026-11-27-host-overlap.json"),
        *(engine_row("2026-11-28-host-engine-warm.json", "page cache", memory) for memory in ("existing", "new")),
        *(engine_row("2026-11-28-host-engine-cold.json", "cold file", memory) for memory in ("existing", "new")),
        compare_row("2026-11-28-host-compare.json"),
        slow_link_row("2026-11-28-host-slow-link.json"),
        source_row("2026-11-28-host-source-own.json"),
        store_peer_row("2026-11-28-host-source.json"),
        server_row("2026-11-28-host-server.json"),
        vllm_row("2026-11-27-host-vllm.json"),
    ]
    lines = [f"| {what} | {figure} | [{name}](benchmarks/results/{name}) |" for what, figure, name in rows]
    return "\n".join(["| what | figure | from |", "|---|---|---|", *lines]) + "\n"


def main() -> int:
    """Write the table into the README, or say that it is stale."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + table() + END + after
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
