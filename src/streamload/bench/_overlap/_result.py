"""What the overlap benchmark found, and what follows from it: ratios, and JSON for the record.

Part of `bench._overlap`; pure. X is the time to move all weights at the ceiling measured now, C the pass with
everything resident. `_table` makes text of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from .._result import BenchResult
from ._interval import interval_of_median, paired_ratios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._machine import MachineFacts
    from ..._trace import Trace
    from ._interval import Interval

__all__ = ["STEADY_MARGIN", "ColdCase", "OverlapBench", "OversizedCase", "PeerScore", "SteadyState", "WakeCase"]

STEADY_MARGIN = 0.02
"""How far the pass of a model that was streamed may lie from that of one loaded plainly, as a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdCase:
    """Hold the first tokens of one prompt, round by round.

    Attributes:
        tokens: Length of the prompt.
        nbytes: Bytes of all weights.
        link_bytes_per_second: Measured before each round.
        storage_bytes_per_second: The same, of reading the files into small buffers; or of the load itself, if faster.
        compute_seconds: C: the resident pass beside the streamed one, before or after it by turns.
        streamed_seconds: From opening the checkpoint to the first token on the host.
        since_call_seconds: The same from the call of `stream_module`.
        load_seconds: From opening the checkpoint to the first read.
        usual_seconds: The same as `streamed_seconds` where every weight is waited for first; of the first round.
        waited_seconds: Time the streamed pass waited on the host, by the engine's own count.
        layer_compute_seconds: Of each layer, with everything resident; from passes with marks.
        layer_streamed_seconds: Of each layer in a streamed pass with marks.
        predicted_seconds: Of each streamed pass, by the simulation, from what was measured beside it; may be empty.
    """

    tokens: int
    nbytes: int
    link_bytes_per_second: tuple[float, ...]
    storage_bytes_per_second: tuple[float, ...]
    compute_seconds: tuple[float, ...]
    streamed_seconds: tuple[float, ...]
    since_call_seconds: tuple[float, ...]
    load_seconds: tuple[float, ...]
    usual_seconds: tuple[float, ...]
    waited_seconds: tuple[float, ...]
    layer_compute_seconds: Mapping[str, float]
    layer_streamed_seconds: Mapping[str, float]
    predicted_seconds: tuple[float, ...]

    @property
    def move_seconds(self) -> list[float]:
        """X of each round: all weights at the link's rate, or the storage's where that is lower."""
        return _move_seconds(self.nbytes, self.link_bytes_per_second, self.storage_bytes_per_second)

    @property
    def ratios(self) -> list[float]:
        """TTFT / max(X, C) of each round."""
        return self._over_ideal(self.streamed_seconds)

    @property
    def usual_ratios(self) -> list[float]:
        """The same of the usual way."""
        return self._over_ideal(self.usual_seconds)

    @property
    def layer_stall_seconds(self) -> dict[str, float]:
        """How much longer each layer took streamed than resident; the first layer's begins with the call."""
        resident = self.layer_compute_seconds
        return {name: max(0.0, took - resident.get(name, 0.0)) for name, took in self.layer_streamed_seconds.items()}

    def figures(self) -> dict[str, float | None]:
        """Return the medians."""
        move, compute, streamed = (median(x) for x in (self.move_seconds, self.compute_seconds, self.streamed_seconds))
        return {
            "move_seconds": move,
            "compute_seconds": compute,
            "compute_to_move": compute / move,
            "streamed_seconds": streamed,
            "load_seconds": median(self.load_seconds),
            "usual_seconds": median(self.usual_seconds),
            "ratio": median(self.ratios),
            "usual_ratio": median(self.usual_ratios),
            "stall_seconds": sum(self.layer_stall_seconds.values()),
            "longest_stall_seconds": max(self.layer_stall_seconds.values(), default=0.0),
            "ratio_least": min(self.ratios),
            "ratio_greatest": max(self.ratios),
            "predicted_seconds": _median(self.predicted_seconds),
            "measured_to_predicted": _over(self.streamed_seconds, self.predicted_seconds),
        }

    def _over_ideal(self, seconds: tuple[float, ...]) -> list[float]:
        ideal = [max(pair) for pair in zip(self.move_seconds, self.compute_seconds, strict=True)]
        return paired_ratios(seconds, ideal[: len(seconds)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """Hold how the passes of a model that was streamed and is there compare with those of one loaded plainly.

    Attributes:
        model: What computes, in a few words.
        tokens: Length of the prompt.
        models: How often it was built anew; several give one sample each, one gives a sample a pair.
        pairs: Pairs of passes of each.
        plain_seconds: Of a pass of one loaded plainly.
        ratios: Streamed over plain, pass by pass right after each other: the samples.
        controls: The same of two models loaded plainly: what difference there is without any.
        margin: How close to 1 the ratio has to be.
    """

    model: str
    tokens: int
    models: int
    pairs: int
    plain_seconds: float
    ratios: tuple[float, ...]
    controls: tuple[float, ...]
    margin: float = STEADY_MARGIN

    def ratio(self) -> Interval:
        """Return streamed over plain."""
        return interval_of_median(self.ratios)

    def control(self) -> Interval:
        """Return plain over plain."""
        return interval_of_median(self.controls)

    def figures(self) -> dict[str, object]:
        """Return the intervals, and whether the two are the same to within the margin."""
        return {
            "ratio": asdict(self.ratio()),
            "control": asdict(self.control()),
            "equivalent": self.ratio().within(self.margin),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OversizedCase:
    """Hold the passes of a model that exceeds its device, round by round.

    Attributes:
        device_memory: What the weights may take.
        streamed_bytes: Of the weights that pass through slots in every pass.
        units: How many such units there are.
        slots: How many slots they share.
        demanded_fills: Fills that nobody had predicted; none is right.
        wasted_fills: Fills that nobody used; none is right.
        link_bytes_per_second: Measured before and after.
        decode_passes: Passes of one token in each round.
        decode_seconds: Of all of a round's.
        decode_bytes: Put into slots meanwhile.
        tokens: Length of the prompt.
        prompt_link_bytes_per_second: Of the link for it, measured before and after.
        prompt_seconds: Of passes over it.
        resident_seconds: The same with everything resident, right before or after each by turns.
        predicted_decode_seconds: Of one pass of one token in each round, by the simulation; may be empty.
        predicted_prompt_seconds: Of each pass over the prompt, from the resident one beside it; may be empty.
    """

    device_memory: int
    streamed_bytes: int
    units: int
    slots: int
    demanded_fills: int
    wasted_fills: int
    link_bytes_per_second: tuple[float, ...]
    decode_passes: int
    decode_seconds: tuple[float, ...]
    decode_bytes: tuple[int, ...]
    tokens: int
    prompt_link_bytes_per_second: tuple[float, ...]
    prompt_seconds: tuple[float, ...]
    resident_seconds: tuple[float, ...]
    predicted_decode_seconds: tuple[float, ...]
    predicted_prompt_seconds: tuple[float, ...]

    def over_resident(self) -> Interval:
        """Return the passes over the prompt over the resident ones beside them."""
        return interval_of_median(paired_ratios(self.prompt_seconds, self.resident_seconds))

    def figures(self) -> dict[str, object]:
        """Return the medians."""
        link = fmean(self.prompt_link_bytes_per_second)
        rates = paired_ratios(self.decode_bytes, self.decode_seconds)
        decode = [seconds / self.decode_passes for seconds in self.decode_seconds]
        return {
            "streamed_bytes_per_second": median(rates),
            "link_fraction": median(rates) / fmean(self.link_bytes_per_second),
            "decode_seconds": median(decode),
            "prompt_seconds": median(self.prompt_seconds),
            "resident_seconds": median(self.resident_seconds),
            "compute_to_move": median(self.resident_seconds) * link / self.streamed_bytes,
            "over_resident": self.over_resident().median,
            "over_resident_interval": asdict(self.over_resident()),
            "decode_to_predicted": _over(decode, self.predicted_decode_seconds),
            "prompt_to_predicted": _over(self.prompt_seconds, self.predicted_prompt_seconds),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeCase:
    """Hold first tokens of a model that slept, round by round.

    Attributes:
        tokens: Length of the prompt.
        nbytes: Bytes of all weights.
        link_bytes_per_second: Measured while it slept.
        storage_bytes_per_second: The same, of reading the files into small buffers.
        compute_seconds: The pass of the model loaded plainly, right before or after by turns.
        wake_seconds: From the call of `wake` to the first token on the host.
        sleep_seconds: Of the call of `sleep`.
    """

    tokens: int
    nbytes: int
    link_bytes_per_second: tuple[float, ...]
    storage_bytes_per_second: tuple[float, ...]
    compute_seconds: tuple[float, ...]
    wake_seconds: tuple[float, ...]
    sleep_seconds: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """First token / max(X, C) of each round."""
        move = _move_seconds(self.nbytes, self.link_bytes_per_second, self.storage_bytes_per_second)
        return paired_ratios(self.wake_seconds, [max(pair) for pair in zip(move, self.compute_seconds, strict=True)])

    def figures(self) -> dict[str, float]:
        """Return the medians, and the least and greatest ratio."""
        return {
            "wake_seconds": median(self.wake_seconds),
            "sleep_seconds": median(self.sleep_seconds),
            "ratio": median(self.ratios),
            "ratio_least": min(self.ratios),
            "ratio_greatest": max(self.ratios),
        }


def _move_seconds(nbytes: int, link: Sequence[float], storage: Sequence[float]) -> list[float]:
    return [nbytes / min(pair) for pair in zip(link, storage, strict=True)]


def _median(samples: Sequence[float]) -> float | None:
    return median(samples) if samples else None


def _over(measured: Sequence[float], predicted: Sequence[float]) -> float | None:
    return _median(paired_ratios(measured, predicted)) if predicted else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScore:
    """Hold what one way to compute without all weights on the device did, with one token a pass.

    Attributes:
        name: What it is.
        role: "streamload" or "peer".
        moves: What it moves in each pass: "all", "half" (of the layers' bytes) or "nothing".
        nbytes: Bytes of all weights.
        first_token_seconds: Of each round, from closed files to the first token on the host.
        pass_seconds: Of each round, a pass later on, the median of some.
        output: "equal" bit for bit to that of the model loaded plainly, or "equal to rounding".
        cannot_run: Why it did not run; empty when it did.
    """

    name: str
    role: str
    moves: str
    nbytes: int
    first_token_seconds: tuple[float, ...] = ()
    pass_seconds: tuple[float, ...] = ()
    output: str = ""
    cannot_run: str = ""

    def figures(self) -> dict[str, float | None]:
        """Return the medians; bytes a second are those moved in a pass, over its time."""
        ran = bool(self.first_token_seconds)
        each = median(self.pass_seconds) if ran else None
        share = {"all": 1.0, "half": 0.5}.get(self.moves)
        return {
            "first_token_seconds": median(self.first_token_seconds) if ran else None,
            "pass_seconds": each,
            "bytes_per_second": None if each is None or share is None else share * self.nbytes / each,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapBench(BenchResult):
    """Hold one run of `streamload bench overlap`.

    Attributes:
        model: What was loaded, in a few words.
        layers: How many layers its checkpoint has.
        nbytes: Bytes of its weights.
        device: Where they went: "cpu" or "cuda:N".
        simulated_link: Bytes a second the link was paced to; None where it is real.
        simulated_compute: Operations a second of the accelerator whose time layers take; None where they compute.
        threads: Threads torch computed in on the host.
        cache: State of the page cache: "warm" or "mixed".
        rounds: How often each pass was run at least.
        cold: First tokens, by prompt.
        steady: The model once it is there.
        oversized: The same model where its device holds only half of its layers.
        wake: First tokens of the model after it slept.
        peers: Other ways to compute without all weights on the device, and streamload without a pace.
        left_out: What a thorough run measures beside this, in words; empty after one.
        command: What was typed.
        machine: Where it ran.
        timelines: Of one more first token of each way: every weight first, then computing; and streamed. Of the prompt
            that computes about as long as its weights travel, with marks.
    """

    model: str
    layers: int
    nbytes: int
    device: str
    simulated_link: float | None
    simulated_compute: float | None
    threads: int
    cache: str
    rounds: int
    cold: tuple[ColdCase, ...]
    steady: SteadyState
    oversized: OversizedCase
    wake: WakeCase
    peers: tuple[PeerScore, ...]
    left_out: tuple[str, ...]
    command: str
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    def ratio_to_peer(self, peer: PeerScore) -> float | None:
        """Return a peer's first token over streamload's with as much to move; None where it did not run."""
        half = peer.moves == "half"
        ours = [each for each in self.peers if each.role == "streamload" and (each.moves == "half") == half]
        if peer.role != "peer" or not peer.first_token_seconds or not ours or not ours[0].first_token_seconds:
            return None
        return median(peer.first_token_seconds) / median(ours[0].first_token_seconds)

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it; every output was equal bit for bit, or there were no result."""
        return {
            "kind": "bench overlap",
            **asdict(self),
            "timelines": [trace.as_dict() for trace in self.timelines],
            "cold": [
                {
                    **asdict(case),
                    "layer_stall_seconds": case.layer_stall_seconds,
                    "ratios": case.ratios,
                    "figures": case.figures(),
                }
                for case in self.cold
            ],
            "steady": {**asdict(self.steady), "figures": self.steady.figures()},
            "peers": [{**asdict(peer), "figures": peer.figures()} for peer in self.peers],
            "oversized": {**asdict(self.oversized), "figures": self.oversized.figures()},
            "wake": {**asdict(self.wake), "ratios": self.wake.ratios, "figures": self.wake.figures()},
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import overlap_table

        return overlap_table(self)
