"""Time the first token of a model whose weights are behind a slow link: streamed, and downloaded first.

The accelerator is simulated (`streamload._models`): what it computes it does not take from whoever receives.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import torch

from streamload._checkpoint import open as open_checkpoint
from streamload._models import load_plainly, own_subject
from streamload.bench._memory import give_back_memory
from streamload.torch import stream_module

if TYPE_CHECKING:
    from torch import nn

    from streamload._models import Subject
    from streamload.testing import LlamaShape

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Prompt:
    """Choose what is computed.

    Attributes:
        shape: The model's.
        tokens: Length of the prompt.
        compute_seconds: How long the simulated accelerator takes for it.
    """

    shape: LlamaShape
    tokens: int
    compute_seconds: float

    def subject(self, folder: Path) -> Subject:
        """Describe the checkpoint in a folder, computed at the pace that was chosen."""
        hidden, intermediate = self.shape.hidden, self.shape.intermediate
        kv_width = self.shape.kv_heads * self.shape.head_width
        layer = 2 * hidden + 2 * hidden * hidden + 2 * hidden * kv_width + 3 * hidden * intermediate
        operations = 2 * layer * self.shape.layers * self.tokens
        return own_subject(folder, self.shape, self.tokens, operations / self.compute_seconds)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Hold what one prompt took, in seconds.

    Attributes:
        nbytes: Bytes of the weights.
        compute: With every weight resident.
        download: To files, over the same link, as fast as it carries.
        usual: Download, load and compute, one after the other.
        streamed: From the call that opens the checkpoint until the token.
        first_layer_part: Part of the bytes that were in when the first layer had computed its attention.
        whole_load: Until every weight was resident.
        requests: Sent while streaming.
    """

    nbytes: int
    compute: float
    download: float
    usual: float
    streamed: float
    first_layer_part: float
    whole_load: float
    requests: int

    def ratio(self, link_seconds: float | None = None) -> float:
        """Return the streamed time as a multiple of the longer of link and computing.

        Args:
            link_seconds: What the bytes take on the link; None: what the download took.
        """
        return self.streamed / max(self.download if link_seconds is None else link_seconds, self.compute)


def measure_first_token(url: str, folder: Path, prompt: Prompt) -> FirstToken:
    """Compute the first token of a checkpoint at `url`, whose files are in `folder` too, in three ways.

    Raises:
        AssertionError: Outputs differ.
        SourceError: The server did not serve the files.
    """
    subject = prompt.subject(folder)
    resident = load_plainly(subject, "cpu")
    _first_token(subject, resident)
    compute, expected = _first_token(subject, resident)
    del resident
    give_back_memory()
    download, usual, output = _usually(url, folder, subject)
    assert torch.equal(output, expected)
    give_back_memory()
    streamed = _streamed(url, subject, expected)
    return replace(streamed, compute=compute, download=download, usual=usual)


def _streamed(url: str, subject: Subject, expected: torch.Tensor) -> FirstToken:
    module = subject.build()
    reached: list[float] = []
    began = time.perf_counter()
    with open_checkpoint(url) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", strict=False)

        def note(*_: object) -> None:
            stats = loading.stats()
            reached.append(stats.bytes_read / stats.bytes_total)

        handle = cast("nn.Module", module.get_submodule("model.layers.0.self_attn")).register_forward_hook(note)
        _, output = _first_token(subject, module)
        seconds = time.perf_counter() - began
        handle.remove()
        loading.wait()
        stats = loading.stats()
    assert torch.equal(output, expected)
    return FirstToken(
        nbytes=subject.nbytes,
        compute=0.0,
        download=0.0,
        usual=0.0,
        streamed=seconds,
        first_layer_part=reached[0],
        whole_load=stats.seconds,
        requests=stats.requests,
    )


def _usually(url: str, folder: Path, subject: Subject) -> tuple[float, float, torch.Tensor]:
    """Download into memory, load with safetensors, compute; return the first's seconds, all of them, the output."""
    names = sorted(path.name for path in folder.iterdir())
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as target:
        copy = replace(subject, path=Path(target))
        module = copy.build()
        began = time.perf_counter()
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: _download(f"{url}/{name}", Path(target) / name), names))
        downloaded = time.perf_counter()
        module = load_plainly(copy, "cpu", module)
        _, output = _first_token(copy, module)
        return downloaded - began, time.perf_counter() - began, output


def _download(url: str, path: Path) -> None:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        assert answer.status == 200, url
        with path.open("wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
    finally:
        connection.close()


def _first_token(subject: Subject, module: nn.Module) -> tuple[float, torch.Tensor]:
    ids = subject.prompt("cpu")
    began = time.perf_counter()
    with torch.no_grad():
        output = subject.compute(module, ids)
        int(output.argmax())
    return time.perf_counter() - began, output
