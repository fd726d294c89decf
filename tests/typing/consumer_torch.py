"""How a user's code sees the torch face: checked with mypy --strict, never run."""

from __future__ import annotations

import torch
from typing_extensions import assert_type

import streamload
from streamload import LoadStats, StreamOptions
from streamload.torch import Destination, fill, iter_tensors, load_file, load_model, safe_open, stream, stream_module


def serve(path: str, model: torch.nn.Module, ids: torch.Tensor) -> LoadStats:
    with streamload.open(path) as checkpoint:
        loading = stream_module(model, checkpoint, "cuda:0", options=StreamOptions(read_threads=8))
        model(ids)
        loading.wait(timeout=60.0)
        return loading.stats()


def measure(path: str, model: torch.nn.Module) -> str:
    phases = streamload.ColdStartRecorder()
    with phases.phase("headers"), streamload.open(path) as checkpoint:
        loading = stream_module(model, checkpoint, "cuda:0")
    phases.watch(loading)
    assert_type(streamload.warmup(model, batch_sizes=(1, 8), phases=phases), streamload.WarmupReport)
    phases.reached("first_token")
    assert_type(phases.seconds_to("first_token"), float | None)
    loading.write_trace("trace.json")
    report = phases.report()
    assert_type(report.phases, tuple[streamload.Phase, ...])
    assert_type(report.as_dict(), dict[str, object])
    return report.table()


def by_layer(path: str) -> int:
    count = 0
    with streamload.open(path) as checkpoint, stream(checkpoint, "cuda:0") as layers:
        for layer in layers:
            assert_type(layer.name, str)
            count += len(layer.tensors)
    return count


def as_before(path: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = load_file(path, device="cuda:0")
    assert_type(state, dict[str, torch.Tensor])
    missing, unexpected = load_model(model, path)
    assert not missing
    assert not unexpected
    for name, tensor in iter_tensors(path, "cpu"):
        assert_type(name, str)
        assert_type(tensor, torch.Tensor)
    with safe_open(path, framework="pt", device="cpu") as file:
        assert_type(file.get_tensor("a"), torch.Tensor)
        assert_type(file.keys(), list[str])
        assert_type(file.get_slice("a")[:2], torch.Tensor)
    return state


def into_parameters(path: str, qkv: torch.nn.Parameter, experts: torch.Tensor, norm: torch.Tensor) -> float:
    assert_type(fill(path, {"norm": norm}, options=StreamOptions(read_threads=2)), LoadStats)
    places = [Destination("q", qkv[:64]), Destination("k", qkv[64:], (slice(None), slice(0, 8)))]
    places += [Destination(f"experts.{number}", expert) for number, expert in enumerate(experts)]
    with streamload.open(path) as checkpoint:
        return fill(checkpoint, iter(places)).seconds
