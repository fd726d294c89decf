"""Time the first token of the example's server from a model behind a slow link: streaming, and loading first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from .example import example_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .example import ExampleServer

_REPEATS = 3


@dataclass(frozen=True, slots=True)
class ServedToken:
    """Hold what one server took, in seconds; its load begins when torch and transformers are imported.

    Attributes:
        ready: From the beginning of the load until a request was taken.
        first_token: Until its first token.
        all_resident: Until every weight was there.
        imports: From the start of the process to the beginning of the load.
        compute: Of the same request once all is resident.
        token: The token.
    """

    ready: float
    first_token: float
    all_resident: float
    imports: float
    compute: float
    token: int


@dataclass(frozen=True, slots=True)
class ServedPair:
    """Hold a server that streams beside one that loads first.

    Attributes:
        link: What the weights take on the link, X; in seconds.
        compute: What the request takes with all weights resident, C.
        streaming: The one.
        blocking: The other.
    """

    link: float
    compute: float
    streaming: ServedToken
    blocking: ServedToken

    @property
    def ratio(self) -> float:
        """The streaming server's first token over max(X, C)."""
        return self.streaming.first_token / max(self.link, self.compute)

    @property
    def ratio_to_load(self) -> float:
        """The same with X as the blocking server's load had it: model built, headers read, on processors as busy."""
        return self.streaming.first_token / max(self.blocking.all_resident, self.compute)

    @property
    def ratio_to_blocking(self) -> float:
        """The streaming server's first token over the blocking one's."""
        return self.streaming.first_token / self.blocking.first_token

    def as_dict(self) -> dict[str, object]:
        """Everything, for a file of JSON."""
        ratios = {"ratio": self.ratio, "ratio_to_load": self.ratio_to_load, "ratio_to_blocking": self.ratio_to_blocking}
        return {**asdict(self), **ratios}


def measure_pair(place: str, logs: Path, prompt: Sequence[int], link_seconds: float) -> ServedPair:
    """Serve a model both ways, one after the other, and ask for one token as soon as each is ready.

    Raises:
        AssertionError: They computed different tokens.
    """
    found = []
    for share in ("0", "1"):
        with example_server(place, logs / f"ready-at-{share}.log", "--ready-at", share) as server:
            found.append(_measure(server, prompt))
    streaming, blocking = found
    assert streaming.token == blocking.token
    return ServedPair(link_seconds, median([streaming.compute, blocking.compute]), streaming, blocking)


def _measure(server: ExampleServer, prompt: Sequence[int]) -> ServedToken:
    said = server.wait_for("can serve", "all resident", "failed")
    ready = perf_counter()
    answer = server.complete(prompt)
    answered = perf_counter()
    assert answer[0] == 200, (said, answer)
    server.wait_for("all resident")
    began = server.phase("imports")
    first_token = server.phase("first_token") - began
    return ServedToken(
        ready=first_token - (answered - ready),
        first_token=first_token,
        all_resident=server.phase("all_resident") - began,
        imports=began,
        compute=median(_seconds(server, prompt) for _ in range(_REPEATS)),
        token=answer[1]["choices"][0]["token_ids"][0],
    )


def _seconds(server: ExampleServer, prompt: Sequence[int]) -> float:
    began = perf_counter()
    assert server.complete(prompt)[0] == 200
    return perf_counter() - began
