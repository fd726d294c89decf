"""Times the example server's first token over a link of 5 MB/s, streaming and loading first, held against marks.

    python3 benchmarks/server/first_token.py [--rounds 3] [--json FILE]

Run in the tests' environment (`make test` sets it up): servers, link and stopwatch are those of
`tests/integration/server/test_first_token.py`, over the same model. Ends with 1 where a mark is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.held import Mark, hold
from tests.servers.example_first_token import ServedPair, measure_pair
from tests.servers.origin import Origin
from tests.servers.stores import slow_link

from streamload import _native
from streamload._machine import machine_facts
from streamload.testing import LlamaShape, make_checkpoint

BYTES_PER_SECOND, LATENCY_SECONDS = 5e6, 0.02
SHAPE = LlamaShape(layers=24, hidden=256, heads=4, kv_heads=2, intermediate=704, vocab=1024, dtype="F32")
PROMPTS = {"short": 8, "long": 6000}  # tokens: computing takes next to nothing, and about a third of the link's time
MOST_RATIO, MOST_TO_BLOCKING = 1.1, {"short": 1.05, "long": 0.85}


def measure(rounds: int) -> dict[str, object]:
    """Measure every prompt in every round."""
    found: dict[str, list[ServedPair]] = {name: [] for name in PROMPTS}
    with tempfile.TemporaryDirectory() as scratch, Origin() as origin:
        for file in make_checkpoint(Path(scratch) / "model", SHAPE, shards=4).iterdir():
            origin.put(f"/model/{file.name}", file.read_bytes())
        with slow_link(origin.url, bytes_per_second=BYTES_PER_SECOND, latency_seconds=LATENCY_SECONDS) as near:
            for _ in range(rounds):
                for name, tokens in PROMPTS.items():
                    prompt = [37 * at % SHAPE.vocab for at in range(tokens)]
                    link_seconds = SHAPE.nbytes / BYTES_PER_SECOND
                    found[name].append(measure_pair(f"{near}/model", Path(scratch), prompt, link_seconds))
    return {
        "kind": "example server",
        "link_bytes_per_second": BYTES_PER_SECOND,
        "latency_seconds": LATENCY_SECONDS,
        "nbytes": SHAPE.nbytes,
        "prompts": {
            name: {
                "tokens": PROMPTS[name],
                "compute_to_link": median(pair.compute / pair.link for pair in pairs),
                "ratio": median(pair.ratio for pair in pairs),
                "ratio_to_load": median(pair.ratio_to_load for pair in pairs),
                "ratio_to_blocking": median(pair.ratio_to_blocking for pair in pairs),
                "runs": [pair.as_dict() for pair in pairs],
            }
            for name, pairs in found.items()
        },
        "machine": machine_facts(native_build=_native.build_type).as_dict(),
        "command": f"python3 benchmarks/server/first_token.py --rounds {rounds}",
    }


def marks(result: dict[str, object]) -> list[Mark]:
    """Return what the result is held to."""
    found: list[Mark] = []
    for name, prompt in result["prompts"].items():  # type: ignore[attr-defined]
        found.append((f"{name} prompt: first token / max(X, C)", prompt["ratio"], "at most", MOST_RATIO))
        to_blocking = prompt["ratio_to_blocking"]
        found.append((f"{name} prompt: first token / loading first", to_blocking, "at most", MOST_TO_BLOCKING[name]))
    return found


def main() -> int:
    """Measure, write, print; return 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        target = given.json or Path(scratch) / "result.json"
        target.write_text(json.dumps(measure(given.rounds), indent=2) + "\n", encoding="utf-8")
        return hold([str(target)], marks)


if __name__ == "__main__":
    sys.exit(main())
