"""How long vLLM's `load_weights` takes with each loader that runs here, on CPUs; one JSON.

    .venv-vllm/bin/python benchmarks/vllm/load_weights.py --folder DIR --json result.json

All in one process, loaders taking turns. "warm": the page cache holds the files; "cold": they were dropped from it
before (`posix_fadvise`). A loader that cannot run is in the result with the reason it gave. Timed is the call of
`load_weights` inside vLLM, nothing before and after it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

FORMATS = ("auto", "streamload", "runai_streamer", "fastsafetensors")
SHAPE = {"layers": 8, "hidden": 2048, "heads": 16, "kv_heads": 8, "intermediate": 8192, "vocab": 32000, "dtype": "BF16"}
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def time_load(folder: Path, load_format: str) -> dict[str, Any]:
    """Make an engine, and time the call of `load_weights` in it."""
    from vllm import LLM
    from vllm.model_executor import model_loader

    kind: Any = model_loader._LOAD_FORMAT_TO_MODEL_LOADER[load_format]
    stock = kind.load_weights
    found: dict[str, Any] = {}

    def timed(self: object, module: object, config: object) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        stock(self, module, config)
        found.update(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu)
        done = getattr(module, "streamload", None)
        if done is not None:
            found["bytes_read"] = done.bytes_read

    kind.load_weights = timed
    try:
        LLM(
            model=str(folder),
            load_format=load_format,
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=4,
        )
    finally:
        kind.load_weights = stock
        gc.collect()
    return found


def settle(folder: Path, *, cold: bool) -> None:
    """Put the files into the page cache, or out of it."""
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if cold:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while os.read(descriptor, 8 << 20):
                    pass
        finally:
            os.close(descriptor)


def report(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure all loaders in turns."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    result: dict[str, Any] = {
        "benchmark": "vllm-load-weights",
        "command": ["python", *sys.argv],
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": sys.version.split()[0],
        },
        "load_average_before": os.getloadavg()[0],
        "shape": SHAPE,
        "file_bytes": sum(sizes),
        "shards": len(sizes),
        "rounds": rounds,
        "loaders": {},
        "cannot_run": {},
    }
    for cache in ("warm", "cold"):
        for _ in range(rounds):
            for load_format in FORMATS:
                if load_format in result["cannot_run"]:
                    continue
                settle(folder, cold=cache == "cold")
                try:
                    found = time_load(folder, load_format)
                except Exception as error:  # whatever a peer raises is its reason
                    result["cannot_run"][load_format] = f"{type(error).__name__}: {error}"[:400]
                else:
                    result["loaders"].setdefault(load_format, {}).setdefault(cache, []).append(found)
    result["load_average_after"] = os.getloadavg()[0]
    for kept in result["loaders"].values():
        kept["median_seconds"] = {
            cache: statistics.median([run["seconds"] for run in kept[cache]])
            for cache in ("warm", "cold")
            if cache in kept
        }
    return result


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is, or is made (1.3 GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the result goes")
    asked = parser.parse_args()
    if not (asked.folder / "config.json").exists():
        from streamload.testing import LlamaShape, make_checkpoint

        make_checkpoint(asked.folder, LlamaShape(**SHAPE), shards=4)  # type: ignore[arg-type]  # numbers and a word
    os.environ.update(SETTINGS)
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    result = report(asked.folder, asked.rounds)
    for load_format, kept in result["loaders"].items():
        print(load_format, kept["median_seconds"])
    print("cannot run:", result["cannot_run"])
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
