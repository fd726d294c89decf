"""A causal language model that completes prompts while its weights still arrive. Read next: `metrics`, `server`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from streamload import ColdStartRecorder, StreamOptions
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
        warm_up: Tokens of a synthetic prompt to compute before others are taken, and again; 0 for none.
        options: How to read and stage.
        phases: Records what the start is spent on.
    """

    def __init__(
        self,
        place: str,
        device: str,
        *,
        ready_at: float,
        tokenizer: str | None,
        warm_up: int,
        options: StreamOptions,
        phases: ColdStartRecorder,
    ) -> None:
        self._phases, self._warm_up = phases, warm_up
        self._resident = False
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
        if self._resident:
            return "all resident"
        resident = 0.0 if self._model is None or self.stream is None else self.stream.progress()
        return "can serve" if resident > 0 and resident >= self._ready_at else "started"

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._loading.start()

    def cancel_load(self) -> None:
        """End a load under way, so that whoever waits for weights is told; no effect on a model that is resident."""
        if not self._resident:
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
            with self._phases.phase("imports", "torch, transformers"):
                import torch
                import transformers.modeling_utils  # what the auto classes would import only when they load

                from streamload import from_pretrained, warmup

            if self._device != "cpu":
                with self._phases.phase("cuda_context"):
                    torch.zeros(1, device=self._device)
            model = from_pretrained(
                self._place, auto_class="AutoModelForCausalLM", device=self._device, options=self._options
            )
            self.stream = model.streamload
            self._phases.watch(self.stream)
            if self._stopping.is_set():
                self.stream.cancel()
            if self._tokenizer_place is not None:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._tokenizer_place)
            if self._warm_up:
                warmup(model.eval(), sequence_lengths=(self._warm_up,), repeat=1, phases=self._phases)
            self._model = model.eval()
            self.stream.wait()
            self._resident = True
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
        self._phases.reached("first_token")
        return self._stopping.is_set()
