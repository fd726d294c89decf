"""Times first tokens over a link of 100 MB/s and 20 ms, streamed and downloaded first, and holds them against marks.

    python3 benchmarks/source/slow_link.py [--rounds 3] [--json FILE]

Run in the tests' environment (`make test` sets it up; nginx is wanted): servers, link and stopwatch are those of
`tests/sources/test_slow_link.py`, over the same model. Ends with 1 where a mark is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tests.servers.first_token import FirstToken, Prompt, measure_first_token
from tests.servers.stores import running_nginx, slow_link

from streamload import _native
from streamload._machine import machine_facts
from streamload.testing import LlamaShape, make_checkpoint

BYTES_PER_SECOND, LATENCY_SECONDS = 100e6, 0.02
SHAPE = LlamaShape(layers=32, hidden=512, heads=8, kv_heads=4, intermediate=1408, vocab=1024, dtype="F32")
COMPUTE_PARTS = (0.6, 1.5)  # of what the bytes take on the link
MOST_RATIO, MOST_FIRST_LAYER = 1.1, 0.15


def measure(rounds: int) -> dict[str, object]:
    """Measure every prompt in every round."""
    torch.set_num_threads(1)  # the accelerator is simulated; processors are for those who receive
    found: dict[float, list[FirstToken]] = {part: [] for part in COMPUTE_PARTS}
    with tempfile.TemporaryDirectory() as scratch, running_nginx(Path(scratch)) as nginx:
        folder = make_checkpoint(nginx.root / "model", SHAPE, shards=4)
        link = slow_link(nginx.url, bytes_per_second=BYTES_PER_SECOND, latency_seconds=LATENCY_SECONDS)
        with link as near:
            for _ in range(rounds):
                for part, times in found.items():
                    prompt = Prompt(SHAPE, tokens=512, compute_seconds=part * SHAPE.nbytes / BYTES_PER_SECOND)
                    times.append(measure_first_token(f"{near}/{folder.name}", folder, prompt))
    prompts = {
        str(part): {
            "ratio": median(one.ratio(one.nbytes / BYTES_PER_SECOND) for one in times),
            "ratio_to_usual": median(one.streamed / one.usual for one in times),
            "first_layer_part": max(one.first_layer_part for one in times),
            "runs": [asdict(one) for one in times],
        }
        for part, times in found.items()
    }
    return {
        "kind": "slow link",
        "link_bytes_per_second": BYTES_PER_SECOND,
        "latency_seconds": LATENCY_SECONDS,
        "nbytes": SHAPE.nbytes,
        "compute_to_link": prompts,
        "machine": machine_facts(native_build=_native.build_type).as_dict(),
        "command": f"python3 benchmarks/source/slow_link.py --rounds {rounds}",
    }


def main() -> int:
    """Measure, print, write; return 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measure(given.rounds)
    missed = 0
    for part, found in result["compute_to_link"].items():  # type: ignore[attr-defined]
        met = found["ratio"] <= MOST_RATIO and found["first_layer_part"] <= MOST_FIRST_LAYER
        missed += not met
        print(
            f"{'ok    ' if met else 'MISSED'} computing takes {part} of the link's time: first token at "
            f"{found['ratio']:.3f} of the longer (at most {MOST_RATIO}), {found['ratio_to_usual']:.3f} of downloading "
            f"first; first layer with {found['first_layer_part']:.3f} of the bytes in (at most {MOST_FIRST_LAYER})"
        )
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
