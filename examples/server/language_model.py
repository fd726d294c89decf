"""A causal language model that completes prompts while its weights still arrive. Read next: `metrics`, `server`."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from streamload import StreamOptions
    from streamload.transformers import PretrainedStream

State = Literal["started", "can serve", "all resident", "failed"]

_LOG = logging.getLogger(__name__)
_JOIN_SECONDS = 3.0  # for a load that was cancelled; one that still waits for a store's first answer is left behind


class NotServingError(Exception):
    """Report that no prompt can be completed: not yet, or not any more."""


class LanguageModel:
    """Load a model in a thread of its own, and complete prompts greedily from its first weights on; thread-safe.

    Args:
        place: A directory, a hub id, or the URL of a directory in a store.
        device: Where to compute.
        ready_at: Share of the weights, from 0 to 1, that must be resident before prompts are taken. At 0 the first
            bytes are enough; at 1 this is a server that loads first.
        tokenizer: Directory or hub id; None takes the one in `place`, if that is a directory with one.
        options: How to read and stage.
    """

    def __init__(
        self, place: str, device: str, *, ready_at: float, tokenizer: str | None, options: StreamOptions
    ) -> None:
        self.phases: dict[str, float] = {}  # name -> Unix time at which it was reached
        self.stream: PretrainedStream | None = None  # what watches the load, once weights are on their way
        self.failure: Exception | None = None
        self._place, self._device, self._ready_at, self._options = place, device, ready_at, options
        self._tokenizer_place = tokenizer or (place if Path(place, "tokenizer_config.json").is_file() else None)
        self._model: Any = None
        self._tokenizer: Any = None
        self._stopping = threading.Event()
        self._loading = threading.Thread(target=self._load, name="load", daemon=True)

    @property
    def state(self) -> State:
        """How far the load is. Prompts are taken where it can serve, and once all is resident."""
        if self.failure is not None:
            return "failed"
        if "all_resident" in self.phases:
            return "all resident"
        resident = 0.0 if self._model is None or self.stream is None else self.stream.progress()
        return "can serve" if resident > 0 and resident >= self._ready_at else "started"

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._loading.start()

    def cancel_load(self) -> None:
        """End a load under way, so that whoever waits for weights is told; no effect on a model that is resident."""
        if "all_resident" not in self.phases:
            self._stopping.set()
            if self.stream is not None:
                self.stream.cancel()

    def close(self) -> None:
        """End the load, and every completion after its next token; blocks for seconds at most."""
        self._stopping.set()
        if self.stream is not None:
            self.stream.close()
        self._loading.join(_JOIN_SECONDS)

    def complete(self, prompt: str | list[int], max_tokens: int) -> tuple[list[int], list[int], str]:
        """Return the prompt's tokens, those that follow, and their text; blocks for weights that have not arrived.

        Raises:
            NotServingError: Nothing can be computed yet, or the load failed, or was ended.
            ValueError: The prompt is none for this model.
        """
        if self.state not in ("can serve", "all resident"):
            raise NotServingError(f"the model cannot serve: {self.failure or 'it is loading'}")
        import torch

        from streamload import StreamloadError

        ids = self._encode(prompt)
        given = torch.tensor([ids], device=self._model.device)
        options = {"max_new_tokens": max_tokens, "do_sample": False, "stopping_criteria": [self._after_token]}
        try:
            with torch.inference_mode():
                made = self._model.generate(given, attention_mask=torch.ones_like(given), pad_token_id=0, **options)
        except (StreamloadError, OSError) as error:  # of the load, raised where what did not arrive was needed
            raise NotServingError(f"the model cannot serve: {error}") from error
        if self._stopping.is_set():
            raise NotServingError("the server is stopping")
        follows = made[0, len(ids) :].tolist()
        return ids, follows, self._tokenizer.decode(follows, skip_special_tokens=True) if self._tokenizer else ""

    def _load(self) -> None:
        try:
            import transformers.modeling_utils  # what the auto classes would import only when they load

            from streamload import from_pretrained

            self._reach("imports")
            model = from_pretrained(
                self._place, auto_class="AutoModelForCausalLM", device=self._device, options=self._options
            )
            self.stream = model.streamload
            self.phases["submitted"] = time.time() - self.stream.stats().seconds
            if self._stopping.is_set():
                self.stream.cancel()
            if self._tokenizer_place is not None:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._tokenizer_place)
            self._model = model.eval()
            self.stream.wait()
            self._reach("all_resident")
        except Exception as error:  # the top of a thread: whatever it is, readiness tells it
            self.failure = error
            _LOG.error("the model cannot be loaded: %s", error)

    def _encode(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise ValueError("this server has no tokenizer: give the prompt as token ids")
            prompt = self._tokenizer.encode(prompt)
        vocabulary = self._model.config.get_text_config().vocab_size
        if not prompt or not all(0 <= token < vocabulary for token in prompt):  # on a GPU they would end the process
            raise ValueError(f"a prompt is at least one token, each from 0 to {vocabulary - 1}")
        return prompt

    def _after_token(self, *_: object) -> bool:
        """Say whether to stop, as transformers asks after every token."""
        self._reach("first_token")
        return self._stopping.is_set()

    def _reach(self, phase: str) -> None:
        self.phases.setdefault(phase, time.time())
