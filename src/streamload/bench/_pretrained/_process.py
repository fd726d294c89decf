"""Load a model once, in a process of its own.

Part of `bench._pretrained`; needs torch and transformers. Before the clock starts, all is imported, and a small Llama
is loaded the stock way and computes: what transformers and torch do once in a process is in nobody's figures, what
streamload does once is in its own. The request comes as JSON, the result goes to a file as JSON.
"""

from __future__ import annotations

import gc
import json
import time
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from ..._checkpoint import open as open_checkpoint
from ..._machine import peak_bytes, restart_peak
from ..._models import Marks
from ..._trace import Lane, Span, Trace
from ...transformers import patch
from .._memory import MemoryWatch, touch_free_memory

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CHECK", "RESIDENT", "STOCK", "STREAMED", "TIMELINE", "TOKEN", "Load", "LoadRequest", "main"]

STOCK, STREAMED = "stock", "streamed"
TOKEN, RESIDENT, CHECK, TIMELINE = "token", "resident", "check", "timeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Say what to load, and how.

    Attributes:
        path: Directory of the checkpoint.
        way: STOCK or STREAMED.
        goal: TOKEN computes at once; RESIDENT waits for all, computing nothing; CHECK does both, while its memory is
            watched, which costs time, and sums all weights; TIMELINE computes at once, with marks, and times nothing
            else.
        device: "cpu" or "cuda:N".
        tokens: Length of the prompt.
        small: Directory of the small Llama.
        touched_bytes: How much free memory is touched just before the clock starts. Not earlier: a virtual machine's
            host may take it back within seconds, and a process needs more to import torch.
    """

    path: str
    way: str
    goal: str
    device: str
    tokens: int
    small: str
    touched_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Hold what one load did.

    Attributes:
        return_seconds: From the call until `from_pretrained` returned.
        first_token_seconds: Until the first token was on the host; None where none was computed.
        resident_seconds: Until all was resident.
        copied_seconds: Until the parameters, mapped files till then, were copied to memory; None where they are not.
        peak_memory_bytes: Most memory above that before the call, pages of mapped files counted; None where unknown.
        private_peak_bytes: The same without pages of mapped files; None where it was not watched.
        device_peak_bytes: Most that torch held on the GPU; None on the host.
        token: The first token, or None.
        weights: CRC-32 of all weights' names, dtypes, shapes and bytes; None where they were not summed.
        dtype: The weights', as torch says it.
        title: The model's class.
    """

    return_seconds: float
    first_token_seconds: float | None
    resident_seconds: float
    copied_seconds: float | None
    peak_memory_bytes: int | None
    private_peak_bytes: int | None
    device_peak_bytes: int | None
    token: int | None
    weights: int | None
    dtype: str
    title: str


def load_once(request: LoadRequest, logits_file: Path) -> Load:
    """Do what is asked for; with CHECK the logits are saved too.

    Raises:
        ValueError: The model is no causal language model, or was not streamed.
    """
    kind, on_gpu = _get_ready(request), request.device != "cpu"
    restart_peak()
    before = peak_bytes()
    watch = MemoryWatch() if request.goal == CHECK else None
    with watch or nullcontext():
        began = time.perf_counter()
        with patch() if request.way == STREAMED else nullcontext():
            model = _load(kind, request.path, request.device)
        returned = time.perf_counter()
        token, logits = (None, None) if request.goal == RESIDENT else _compute(model, request.tokens)
        computed = time.perf_counter()
        _wait_until_resident(model, request)
        resident = time.perf_counter()
    peak = peak_bytes()
    if logits is not None and request.goal == CHECK:
        torch.save(logits.cpu().clone(), logits_file)  # of a view all of the storage would be saved
    return Load(
        return_seconds=returned - began,
        first_token_seconds=None if token is None else computed - began,
        resident_seconds=resident - began,
        copied_seconds=_copied(model, began) if request.way == STOCK and not on_gpu else None,
        peak_memory_bytes=None if peak is None or before is None else peak - before,
        private_peak_bytes=None if watch is None else watch.peak_bytes,
        device_peak_bytes=torch.cuda.max_memory_allocated(request.device) if on_gpu else None,
        token=token,
        weights=_sum_weights(model) if request.goal == CHECK else None,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        title=type(model).__name__,
    )


def trace_once(request: LoadRequest) -> tuple[Trace, int]:
    """Load and compute the first token with marks on every part; return what was done when, and the token.

    Of a stock load the call is one span: what it reads when, nobody knows. On a GPU all bytes are there at its end; on
    the host they may still be mapped files, so that reading them is part of computing, and the span has no bytes.

    Raises:
        ValueError: As `load_once`.
    """
    kind, streamed = _get_ready(request), request.way == STREAMED
    with open_checkpoint(request.path) as checkpoint:
        began, monotonic = time.perf_counter(), time.monotonic()
        with patch() if streamed else nullcontext():
            model = _load(kind, request.path, request.device)
        returned = time.perf_counter() - began
        marks = Marks(model, request.device)
        token, _ = _compute(model, request.tokens)
        ended = time.perf_counter() - began
        _wait_until_resident(model, request)
        stream = model.streamload.module_stream if streamed else None
        chunks, submitted = (
            ([], 0.0) if stream is None else (stream.ticket.trace(), stream.ticket.submitted - monotonic)
        )
        spans = marks.spans(began, checkpoint, chunks, submitted)
        layers = tuple(layer.name for layer in checkpoint.layers)
        if not streamed:
            nbytes = 0 if request.device == "cpu" else checkpoint.nbytes
            spans = (Span(Lane.READ, "from_pretrained", 0.0, returned, nbytes), *spans)
            layers = ("from_pretrained", *layers)
    instants = (("from_pretrained returned", returned), ("first token", ended))
    return Trace(f"{request.way}, {request.tokens} tokens", spans, instants, layers), token


def _get_ready(request: LoadRequest) -> Any:  # noqa: ANN401
    """Pay what is paid once in a process, and return the model's class."""
    kind = _class_of(request.path)
    _compute(_load(transformers.LlamaForCausalLM, request.small, request.device), 2)
    gc.collect()
    if request.device != "cpu":
        torch.cuda.synchronize(request.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(request.device)
    if request.touched_bytes:
        touch_free_memory(request.touched_bytes)
    return kind


def _class_of(path: str) -> Any:  # noqa: ANN401 - a class of transformers, which has no types
    """Return the model's class, imported."""
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    names = config.architectures or []
    kind = getattr(transformers, names[0], None) if names else None
    if kind is None or not kind.can_generate() or config.is_encoder_decoder:
        raise ValueError(f"{path}: a causal language model is wanted, got {names[0] if names else 'no architecture'}")
    return kind


def _load(kind: Any, path: str, device: str) -> Any:  # noqa: ANN401
    where = {} if device == "cpu" else {"device_map": device}
    return kind.from_pretrained(path, dtype="auto", local_files_only=True, **where)


def _compute(model: Any, tokens: int) -> tuple[int, torch.Tensor]:  # noqa: ANN401
    """Return the token that follows a prompt, and its logits."""
    vocabulary = model.config.get_text_config().vocab_size
    prompt = (torch.arange(1, tokens + 1) % vocabulary).unsqueeze(0).to(model.device)
    with torch.no_grad():
        logits = model(input_ids=prompt, use_cache=False).logits[0, -1]
    return int(logits.argmax()), logits


def _wait_until_resident(model: Any, request: LoadRequest) -> None:  # noqa: ANN401
    if request.way == STREAMED:
        stream = getattr(model, "streamload", None)
        if stream is None:
            raise ValueError(f"{request.path}: this model was not streamed, but loaded the stock way")
        stream.wait()
    if request.device != "cpu":
        torch.cuda.synchronize(request.device)


def _copied(model: Any, began: float) -> float:  # noqa: ANN401
    copies = [parameter.detach().clone() for parameter in model.parameters()]
    seconds = time.perf_counter() - began
    del copies
    return seconds


def _sum_weights(model: Any) -> int:  # noqa: ANN401
    found = 0
    for name, tensor in model.state_dict().items():
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), found)
    return found


def main(text: str, file: Path) -> None:
    """Load once, and write what came of it.

    Args:
        text: A `LoadRequest` as JSON.
        file: Where the result goes, as JSON; logits go beside it.
    """
    request = LoadRequest(**json.loads(text))
    found: dict[str, object]
    try:
        if request.goal == TIMELINE:
            trace, token = trace_once(request)
            found = {"timeline": trace.as_dict(), "token": token}
        else:
            found = asdict(load_once(request, file.with_suffix(".logits")))
    except ValueError as error:
        found = {"refused": str(error)}
    file.write_text(json.dumps(found), encoding="utf-8")
