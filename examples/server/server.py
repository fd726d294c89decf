"""A server of completions that computes its first one while the weights still arrive: `python server.py --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import uvicorn
from language_model import LanguageModel, NotServingError
from metrics import StateCollector
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from pydantic import BaseModel, Field, StrictInt
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamload import ColdStartRecorder, StreamOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import FrameType

    from starlette.requests import Request


class CompletionRequest(BaseModel, extra="forbid"):
    """Hold what may be asked for: one greedy completion, whole. What would be ignored is refused."""

    prompt: str | list[StrictInt]
    max_tokens: int = Field(default=16, ge=1, le=4096)
    model: str | None = None
    temperature: float = Field(default=0, ge=0, le=0)
    n: Literal[1] = 1
    stream: Literal[False] = False


class Service:
    """Answer requests for one model, which is started and closed with the server.

    Args:
        model: What completes prompts.
        workers: Prompts that are computed at once; others wait for their turn.
        phases: What the start was spent on, for the metrics.
    """

    def __init__(self, model: LanguageModel, workers: int, phases: ColdStartRecorder) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(workers, "compute")
        self._registry = CollectorRegistry()
        self._registry.register(StateCollector(model))
        self._registry.register(phases.collector())
        ProcessCollector(registry=self._registry)
        self._answers = Counter(
            "completions", "Requests, by the status of the answer.", ["status"], registry=self._registry
        )
        self._open = Gauge("completions_open", "Requests that wait for their answer.", registry=self._registry)
        routes = [
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._model.start()
        yield
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._model.close()

    async def live(self, request: Request) -> Response:
        """Answer 200 unless only a new process could help."""
        return self._health({"started", "can serve", "all resident"})

    async def ready(self, request: Request) -> Response:
        """Answer 200 where a completion would be answered."""
        return self._health({"can serve", "all resident"})

    async def metrics(self, request: Request) -> Response:
        """Answer what Prometheus reads."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def completions(self, request: Request) -> Response:
        """Complete one prompt; 503 with the reason where the model cannot serve."""
        try:
            asked = CompletionRequest.model_validate_json(await request.body())
            loop = asyncio.get_running_loop()
            with self._open.track_inprogress():
                found = await loop.run_in_executor(self._pool, self._model.complete, asked.prompt, asked.max_tokens)
            status, answer = 200, _answer(asked, *found)
        except ValueError as error:
            status, answer = 400, {"error": {"type": "invalid_request_error", "message": str(error)}}
        except NotServingError as error:
            status, answer = 503, {"error": {"type": "not_serving", "message": str(error)}}
        self._answers.labels(status).inc()
        return JSONResponse(answer, status, headers={"Retry-After": "1"} if status == 503 else None)

    def _health(self, good: set[str]) -> Response:
        state, failure = self._model.state, self._model.failure
        reason = {} if failure is None else {"reason": str(failure)}
        return JSONResponse({"state": state, **reason}, 200 if state in good else 503)


def _answer(asked: CompletionRequest, ids: list[int], follows: list[int], text: str) -> dict[str, object]:
    finish = "length" if len(follows) == asked.max_tokens else "stop"
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "text": text, "token_ids": follows, "finish_reason": finish}],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": len(follows)},
    }


class Server(uvicorn.Server):
    """Tell those who wait for weights as soon as the process is asked to end; uvicorn waits for their answers."""

    def __init__(self, config: uvicorn.Config, model: LanguageModel) -> None:
        super().__init__(config)
        self._model = model

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; in a thread, for cancelling takes locks."""
        threading.Thread(target=self._model.cancel_load, daemon=True).start()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until a signal ends it."""
    phases = ColdStartRecorder()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="directory, hub id, or URL of a directory in a store")
    parser.add_argument("--tokenizer", help="directory or hub id (default: the model's directory)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ready-at", type=float, default=0.0, help="share of the weights that must be resident")
    parser.add_argument("--warm-up", type=int, default=0, help="tokens to compute before prompts are taken")
    parser.add_argument("--workers", type=int, default=2, help="prompts that are computed at once")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = StreamOptions.from_env(os.environ)
    model = LanguageModel(
        given.model,
        given.device,
        ready_at=given.ready_at,
        tokenizer=given.tokenizer,
        warm_up=given.warm_up,
        options=options,
        phases=phases,
    )
    app = Service(model, given.workers, phases).app
    Server(uvicorn.Config(app, given.host, given.port, access_log=False, timeout_graceful_shutdown=20), model).run()


if __name__ == "__main__":
    main()
