"""Where the GPU tests run: on a GPU, and, as far as they can, on the host device too, which proves the tests right.

A test that takes `place` runs on both; one marked `needs_cuda` on a GPU only. Without a GPU those are skipped and say
why; with STREAMLOAD_REQUIRE_CUDA=1 they fail instead. A driver that is there and broken is a failure, never a skip.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch

from streamload import _native
from streamload._checkpoint import Checkpoint
from streamload._checkpoint import open as open_checkpoint
from streamload._engine import CopyEngine, open_device
from streamload.options import StreamOptions
from streamload.testing import LlamaShape, make_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHAPE = LlamaShape(layers=6, hidden=128, heads=4, kv_heads=2, intermediate=512, vocab=512, dtype="F32")
SMALL_CHUNKS = StreamOptions(chunk_bytes=64 << 10, staging_bytes=256 << 10)


def pytest_runtest_setup(item) -> None:
    """Skip or fail what needs a GPU where there is none."""
    if item.get_closest_marker("needs_cuda") is None or torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no CUDA device"
    if os.environ.get("STREAMLOAD_REQUIRE_CUDA") == "1":
        pytest.fail(f"{reason}, and STREAMLOAD_REQUIRE_CUDA=1 asks for one")
    pytest.skip(reason)


@dataclass(frozen=True)
class Place:
    """A device to load to, in torch's words and in the engine's."""

    torch_device: str

    @property
    def on_gpu(self) -> bool:
        return self.torch_device != "cpu"

    def engine(self, options: StreamOptions = SMALL_CHUNKS) -> CopyEngine:
        """An engine of its own; on the host it poisons what it frees and delays at random."""
        device = open_device(self.torch_device) if self.on_gpu else _native.HostDevice(poison=True, seed=7)
        return CopyEngine(device, options)

    def poison(self, nbytes: int) -> None:
        """Fill the memory that torch gives out next with NaN."""
        if self.on_gpu:
            blocks = [torch.full((nbytes // 8,), float("nan"), device=self.torch_device) for _ in range(4)]
            torch.cuda.synchronize()
            del blocks

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.torch_device)


@pytest.fixture(params=[pytest.param("cpu", id="host"), pytest.param("cuda:0", id="gpu", marks=pytest.mark.needs_cuda)])
def place(request) -> Iterator[Place]:
    """Each device in turn; on a GPU nothing of one test's memory reaches the next."""
    yield Place(request.param)
    if request.param != "cpu":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory) -> Path:
    """A small Llama-shaped checkpoint of three shards, 7 MB."""
    return make_checkpoint(tmp_path_factory.mktemp("gpu"), SHAPE, shards=3)


@pytest.fixture
def open_through(checkpoint_path) -> Iterator[Callable[..., Checkpoint]]:
    """Open the checkpoint with every source wrapped, to make its reads fail or wait."""
    opened: list[Checkpoint] = []

    def wrapped(wrap) -> Checkpoint:
        plain = open_checkpoint(checkpoint_path)
        opened.append(plain)
        shards = [replace(shard, source=wrap(number, shard.source)) for number, shard in enumerate(plain.shards)]
        return Checkpoint(plain.url, shards, dict(plain))

    yield wrapped
    for checkpoint in opened:
        checkpoint.close()


@pytest.fixture(scope="session")
def expected(checkpoint_path) -> dict[str, torch.Tensor]:
    """Every tensor as safetensors reads it, on the host."""
    from safetensors.torch import load_file

    return {
        name: tensor.clone()
        for file in checkpoint_path.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@pytest.fixture
def make_module() -> Callable[[], torch.nn.Module]:
    """Build the checkpoint's module on meta."""
    from streamload._models import build_llama

    return lambda: build_llama(SHAPE)


@pytest.fixture
def same_bits() -> Callable[[torch.Tensor, torch.Tensor], bool]:
    """Compare two tensors, NaN and signed zero included."""

    def compare(left, right) -> bool:
        left, right = left.detach().cpu().contiguous(), right.detach().cpu().contiguous()
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))

    return compare


@pytest.fixture
def ids() -> torch.Tensor:
    """A prompt, shape (1, 20)."""
    return torch.randint(0, SHAPE.vocab, (1, 20), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def answer(place, make_module, expected, ids) -> torch.Tensor:
    """The logits of a module that safetensors' tensors were put into, on the place's device."""
    module = make_module()
    module.load_state_dict({name: tensor.to(place.torch_device) for name, tensor in expected.items()}, assign=True)
    with torch.no_grad():
        return module(ids.to(place.torch_device)).cpu()
