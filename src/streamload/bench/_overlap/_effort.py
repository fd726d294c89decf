"""How much the overlap benchmark measures: by default what ends in about two minutes, or all of it.

Part of `bench._overlap`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._settings import OverlapSettings

__all__ = ["Effort", "effort_of", "left_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Say how much is measured beside the rounds.

    Attributes:
        compute_to_move: C / X of each prompt, where prompts are chosen on the host.
        move_seconds: X over a simulated link that is chosen.
        more_pairs: Of the longer half of the prompts, whose passes computing makes long: a processor's speed is in
            them.
        oversized_seconds: Of a pass over the oversized prompt, on the host.
        oversized_pairs: Of such passes on the host, and, second, on CUDA.
        models: How often the small model of the steady state is built on the host.
        pairs: Of passes of each.
        whole_pairs: Of passes of the model itself, where that is the one.
        peer_rounds: How often each peer runs, as far as their time allows.
    """

    compute_to_move: tuple[float, ...]
    move_seconds: float
    more_pairs: int
    oversized_seconds: float
    oversized_pairs: tuple[int, int]
    models: int
    pairs: int
    whole_pairs: int
    peer_rounds: int


# All weights over the simulated link, thoroughly: so slow that copying takes a small part of a processor, whose copies
# a GPU would not feel, and as long as the 140 GB of such a model take over 55 GB/s of PCIe 5, so that what is done once
# for its 723 tensors is the part of X that it is there; C / X is what counts, and the prompts give it any value.
# The layers of an oversized prompt take some ten milliseconds, as large ones do on a GPU. Six pairs are the fewest that
# say anything with a confidence of 0.95.
_THOROUGH: Final = Effort(
    compute_to_move=(0.1, 0.5, 1.0, 2.2),
    move_seconds=2.5,
    more_pairs=4,
    oversized_seconds=1.5,
    oversized_pairs=(12, 8),
    models=60,
    pairs=40,
    whole_pairs=100,
    peer_rounds=3,
)
_SHORT: Final = Effort(
    compute_to_move=(0.2, 1.0, 2.2),
    move_seconds=1.5,
    more_pairs=0,
    oversized_seconds=1.0,
    oversized_pairs=(6, 6),
    models=12,
    pairs=20,
    whole_pairs=30,
    peer_rounds=1,
)


def effort_of(settings: OverlapSettings) -> Effort:
    """Return how much is measured."""
    return _THOROUGH if settings.thorough else _SHORT


def left_out(settings: OverlapSettings) -> tuple[str, ...]:
    """Say what a thorough run measures beside this."""
    return () if settings.thorough else tuple(_left_out(settings))


def _left_out(settings: OverlapSettings) -> Iterator[str]:
    on_host = settings.device == "cpu"
    if on_host and not settings.tokens:
        yield f"{len(_SHORT.compute_to_move)} prompts, not {len(_THOROUGH.compute_to_move)}"
    if on_host and settings.link_bytes_per_second is None:
        yield f"X of {_SHORT.move_seconds:g} s, not {_THOROUGH.move_seconds:g}"
    yield f"{settings.repeat} pairs of the longer prompts, not {settings.repeat + _THOROUGH.more_pairs}"
    pairs = [effort.oversized_pairs[0 if on_host else 1] for effort in (_SHORT, _THOROUGH)]
    yield f"{pairs[0]} oversized pairs, not {pairs[1]}"
    if on_host and settings.path is None:
        yield f"{_SHORT.models} models once resident, not {_THOROUGH.models}"
    else:
        yield f"{_SHORT.whole_pairs} pairs once resident, not {_THOROUGH.whole_pairs}"
    yield f"peers once, not {_THOROUGH.peer_rounds} times"
