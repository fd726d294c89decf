"""The server of `examples/server` in a process of its own, and what a client asks it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .processes import accepts, free_port, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "server" / "server.py"
_NEEDS = ("starlette", "uvicorn", "pydantic", "prometheus_client", "transformers", "accelerate")
_ANSWER_SECONDS = 60.0  # nothing here may take that long: it would be a hang
_Found = TypeVar("_Found")


def missing_package() -> str | None:
    """A package that the example needs and that is not installed."""
    return next((name for name in _NEEDS if importlib.util.find_spec(name) is None), None)


class ExampleServer:
    """Ask a running server.

    Attributes:
        process: It.
        url: Where it listens, without a slash at the end.
    """

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, dict]:
        """Ask a page of health; return the status and what it says."""
        status, body = self._request(path)
        return status, json.loads(body)

    def complete(self, prompt: str | Sequence[int], max_tokens: int = 1, **more: object) -> tuple[int, dict]:
        """Ask for a completion; return the status and what came."""
        asked = {"prompt": prompt, "max_tokens": max_tokens, **more}
        status, body = self._request("/v1/completions", json.dumps(asked).encode())
        return status, json.loads(body)

    def metrics(self) -> dict[str, float]:
        """What Prometheus reads: by the name, or the name and the values of its labels."""
        from prometheus_client.parser import text_string_to_metric_families

        _, body = self._request("/metrics")
        samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
        return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}

    def phase(self, name: str) -> float:
        """Seconds from the start of the process until a phase ended, or a moment was reached."""
        metrics = self.metrics()
        return (
            metrics[f"streamload_phase_timestamp_seconds {name}"]
            - metrics["streamload_process_start_timestamp_seconds"]
        )

    def wait_for(self, *states: str) -> tuple[int, dict]:
        """Poll until the load is in one of these states; return what readiness says.

        Raises:
            TimeoutError: It is in none of them for a minute.
        """
        return self._poll(lambda: self.get("/health/ready"), lambda found: found[1]["state"] in states)

    def wait_until(self, good: Callable[[], bool]) -> None:
        """Poll until something is so.

        Raises:
            TimeoutError: It is not within a minute.
        """
        self._poll(good, bool)

    def wait_for_open(self, count: int) -> None:
        """Poll until so many requests for completions wait for their answer.

        Raises:
            TimeoutError: They do not within a minute.
        """
        self._poll(lambda: self.metrics()["completions_open"], lambda found: found >= count)

    @staticmethod
    def _poll(ask: Callable[[], _Found], good: Callable[[_Found], bool]) -> _Found:
        pause, ends = threading.Event(), time.monotonic() + _ANSWER_SECONDS
        while not good(found := ask()):
            if time.monotonic() > ends:
                raise TimeoutError(f"still {found}")
            pause.wait(0.02)
        return found

    def _request(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=_ANSWER_SECONDS) as got:
                return got.status, got.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextlib.contextmanager
def example_server(
    place: str | Path, log: Path, *words: str, options: Mapping[str, object] | None = None
) -> Iterator[ExampleServer]:
    """Run the server on the CPU over a model; `options` are fields of `StreamOptions`. It is there, and loads."""
    port = free_port()
    environment = [f"STREAMLOAD_OPTION_{name.upper()}={value}" for name, value in (options or {}).items()]
    command = ["env", *environment, sys.executable, str(PROGRAM), str(place), "--device", "cpu"]
    with running([*command, "--port", str(port), *words], log, lambda: accepts(port)) as process:
        yield ExampleServer(process, port)
