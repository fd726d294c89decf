"""Run one model in vLLM, in a process of its own, and write what came of it as JSON; tests and benchmarks start it.

Usage: driver.py SPEC RESULT, both paths of JSON files. `Spec` in `running.py` says what may be asked for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

PROMPTS = ([1, 5, 9, 33, 7], [2, 4, 8, 16, 32, 64, 128])


def read_of(worker) -> dict[str, object] | None:
    """What streamload read for one rank; None where it did not load."""
    done = getattr(worker.get_model(), "streamload", None)
    if done is None:
        return None
    return {
        "bytes_read": done.bytes_read,
        "bytes_total": done.bytes_total,
        "early": list(done.read_early),
        "seconds": done.seconds,
    }


def generate(llm) -> list[list[int]]:
    """The greedy continuations of the prompts."""
    from vllm import SamplingParams

    chosen = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    return [list(answer.outputs[0].token_ids) for answer in llm.generate(prompts, chosen, use_tqdm=False)]


def main(spec: dict[str, object]) -> dict[str, object]:
    """Load the model, and do the steps that are asked for."""
    from vllm import LLM

    began = time.perf_counter()
    common = {"skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 4}
    llm = LLM(**common, **spec["llm"])
    result: dict[str, object] = {"start_seconds": time.perf_counter() - began}
    for step in spec["steps"]:
        if step == "checksums":
            result["checksums"] = llm.collective_rpc("compute_weight_checksums")
        elif step == "tokens":
            result["tokens"] = generate(llm)
        elif step == "read":
            result["read"] = llm.collective_rpc(read_of)
        elif step == "reload":
            llm.collective_rpc("reset_weights")
            result["reset_checksums"] = llm.collective_rpc("compute_weight_checksums")
            llm.collective_rpc("reload_weights", kwargs=spec.get("reload", {}))
            result["reloaded_checksums"] = llm.collective_rpc("compute_weight_checksums")
            result["reloaded_tokens"] = generate(llm)
        else:
            raise ValueError(f"no step {step!r}")
    return result


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(asked)), encoding="utf-8")
