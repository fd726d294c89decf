"""Measures what planning a checkpoint of 18,867 tensors costs, beside transformers' own bookkeeping for it.

    python3 benchmarks/from_pretrained/planning.py [--directory DIR] [--pairs 5] [--profile] [--json FILE]

The checkpoint has the tensors of Qwen3-30B-A3B, by name and number, but tiny ones, so that bytes are nothing. In pairs,
each load in a process of its own, with what it needs imported: stock `from_pretrained`, and the same in
`streamload.transformers.patch()`, from the call to its return. Ends with 1 where the median of the ratios is over 1.5.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

LAYERS, EXPERTS, HIDDEN = 48, 128, 8
TENSORS = LAYERS * (3 * EXPERTS + 9) + 3
MOST = 1.5


def make_checkpoint(directory: Path) -> None:
    """Write the checkpoint, or keep the one that is there."""
    import torch
    from safetensors.torch import save_file

    if (directory / "config.json").is_file():
        return
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN // 2,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN,)
        shapes[f"{prefix}.mlp.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name in ("gate_proj", "up_proj", "down_proj"):
                shapes[f"{prefix}.mlp.experts.{expert}.{name}.weight"] = (HIDDEN, HIDDEN)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (64, HIDDEN)}
    assert len(shapes) == TENSORS, len(shapes)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.rand(shape).bfloat16() for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "head_dim": HIDDEN // 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": HIDDEN,
        "moe_intermediate_size": HIDDEN,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": 64,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def load_once(directory: Path, way: str, warm: int, profile: Path | None) -> dict[str, float]:
    """Load it in this process; return seconds from the call to its return, and until all is resident."""
    import transformers

    from streamload.transformers import patch

    transformers.utils.logging.disable_progress_bar()
    kind = transformers.Qwen3MoeForCausalLM
    profiler = cProfile.Profile() if profile else None
    for _ in range(warm + 1):
        began, began_cpu = time.perf_counter(), time.thread_time()
        with patch() if way == "streamed" else nullcontext():
            if profiler:
                profiler.enable()
            model = kind.from_pretrained(directory, dtype="auto", local_files_only=True)
            if profiler:
                profiler.disable()
        returned, computed = time.perf_counter() - began, time.thread_time() - began_cpu
        if way == "streamed":
            model.streamload.wait()
        resident = time.perf_counter() - began
    if profiler and profile:
        profiler.dump_stats(profile)
    return {"return": returned, "resident": resident, "cpu": computed}


def load_apart(directory: Path, way: str, *more: str) -> dict[str, float]:
    """Load it in a process of its own."""
    command = [sys.executable, __file__, "--directory", str(directory), "--way", way, *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(directory: Path, pairs: int) -> dict[str, object]:
    """Load in pairs, whoever comes first taking turns."""
    seconds: dict[str, list[float]] = {"stock": [], "streamed": []}
    resident, computed = [], {"stock": [], "streamed": []}
    for number in range(pairs):
        for way in ("stock", "streamed") if number % 2 else ("streamed", "stock"):
            found = load_apart(directory, way)
            seconds[way].append(found["return"])
            computed[way].append(found["cpu"])
            if way == "streamed":
                resident.append(found["resident"])
    ratios = [ours / stock for ours, stock in zip(seconds["streamed"], seconds["stock"], strict=True)]
    return {
        "kind": "bench from_pretrained planning",
        "tensors": TENSORS,
        "stock_seconds": seconds["stock"],
        "streamed_seconds": seconds["streamed"],
        "resident_seconds": resident,
        "thread_cpu_seconds": computed,
        "ratios": ratios,
        "ratio": median(ratios),
    }


def main() -> int:
    """Measure, print, and say whether it is cheap enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where the checkpoint goes, and is kept")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--profile", action="store_true", help="show where the streamed load spends its time instead")
    parser.add_argument("--way", choices=["stock", "streamed"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamload-planning-") as scratch:
        directory = given.directory or Path(scratch) / "moe"
        make_checkpoint(directory)
        if given.profile:
            file = Path(scratch) / "profile"
            load_once(directory, given.way or "streamed", 0, file)
            pstats.Stats(str(file)).sort_stats("cumulative").print_stats("streamload|modeling_utils|core_model", 60)
            return 0
        if given.way:
            print(json.dumps(load_once(directory, given.way, 0, None)))
            return 0
        result = compare(directory, given.pairs)
    from streamload import _native
    from streamload._machine import machine_facts
    from streamload.bench._result import write_result

    stock, streamed = (median(result[f"{way}_seconds"]) for way in ("stock", "streamed"))
    passed = result["ratio"] <= MOST
    spread = f"{min(result['ratios']):.2f} to {max(result['ratios']):.2f}"
    print(f"{TENSORS:,} tensors: stock {stock:.2f} s, streamed {streamed:.2f} s from call to return")
    print(f"ratio {result['ratio']:.2f} ({spread}), at most {MOST}: {'pass' if passed else 'FAIL'}")
    if given.json:
        facts = machine_facts(native_build=_native.build_type)
        import dataclasses

        content = {**result, "machine": dataclasses.asdict(facts)}
        write_result(given.json, content, native_build=_native.build_type)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
