"""How long vLLM's `load_weights` takes with each loader that runs here, on CPUs; one JSON.

    .venv-vllm/bin/python benchmarks/vllm/load_weights.py --folder DIR --json result.json

Every measurement is a process of its own, loaders taking turns. "warm": the page cache holds the files; "cold": they
were dropped from it before (`posix_fadvise`). A loader that cannot run is in the result with the reason it gave. Timed
is the call of `load_weights` inside vLLM, nothing before and after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FORMATS = ("auto", "streamload", "runai_streamer", "fastsafetensors")
SHAPE = {"layers": 8, "hidden": 2048, "heads": 16, "kv_heads": 8, "intermediate": 8192, "vocab": 32000, "dtype": "BF16"}


def one(model: str, load_format: str) -> dict[str, Any]:
    """Load the model in this process, and time each call of `load_weights` in it."""
    from vllm import LLM
    from vllm.model_executor import model_loader
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    kind: Any = model_loader._LOAD_FORMAT_TO_MODEL_LOADER[load_format]
    stock = kind.load_weights
    found: dict[str, Any] = {}

    def timed(self: object, module: object, config: object) -> object:
        began, cpu = time.perf_counter(), time.process_time()
        made = stock(self, module, config)
        found.update(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu)
        done = getattr(module, "streamload", None)
        found["bytes_read"] = None if done is None else done.bytes_read
        return made

    kind.load_weights = timed
    LLM(model=model, load_format=load_format, skip_tokenizer_init=True, enforce_eager=True, max_model_len=128)
    return found


def settle(folder: Path, cold: bool) -> None:
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


def measure(folder: Path, load_format: str) -> dict[str, Any]:
    """Run `one` in a process of its own; what it printed last where it failed."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    command = [sys.executable, __file__, "--one", load_format, "--folder", str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    except subprocess.TimeoutExpired:
        return {"error": "took over 280 s"}
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or ["no reason given"]
        return {"error": said[-1].strip()[:300]}
    return dict(json.loads(answers[-1]))


def report(folder: Path, rounds: int, command: list[str]) -> dict[str, Any]:
    """Measure all loaders in turns."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    result: dict[str, Any] = {
        "benchmark": "vllm-load-weights",
        "command": command,
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": sys.version.split()[0],
        },
        "shape": SHAPE,
        "file_bytes": sum(sizes),
        "shards": len(sizes),
        "rounds": rounds,
        "loaders": {},
    }
    broken: dict[str, str] = {}
    for cache in ("warm", "cold"):
        for _ in range(rounds):
            for load_format in FORMATS:
                if load_format in broken:
                    continue
                settle(folder, cold=cache == "cold")
                found = measure(folder, load_format)
                if "error" in found:
                    broken[load_format] = found["error"]
                else:
                    result["loaders"].setdefault(load_format, {}).setdefault(cache, []).append(found)
    for load_format, kept in result["loaders"].items():
        kept["median_seconds"] = {
            cache: statistics.median(run["seconds"] for run in kept[cache])
            for cache in ("warm", "cold")
            if cache in kept
        }
        print(load_format, kept["median_seconds"])
    result["cannot_run"] = broken
    print("cannot run:", broken)
    return result


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is, or is made (1.1 GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(str(asked.folder), asked.one)))
        return
    if not (asked.folder / "config.json").exists():
        from streamload.testing import LlamaShape, make_checkpoint

        make_checkpoint(asked.folder, LlamaShape(**SHAPE), shards=4)  # type: ignore[arg-type]  # numbers and a word
    result = report(asked.folder, asked.rounds, ["python", *sys.argv])
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
