"""First tokens of a model that slept.

Part of `bench._overlap`; needs torch. What a wake saves against a cold start is all that comes before the bytes:
headers, a module, an engine; what it has to move is the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ...torch import stream_module
from .._result import BenchError
from ._cold import same_bits
from ._passes import first_token, resident_pass
from ._result import WakeCase
from ._steady import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._cold import ColdCourse

__all__ = ["run_wake"]


def run_wake(course: ColdCourse, repeat: int, progress: Callable[[], object] = lambda: None) -> WakeCase:
    """Put a streamed module to sleep and wake it, `repeat` times, a resident pass before or after by turns.

    Raises:
        BenchError: An output differed.
    """
    subject, place = course.subject, course.place
    link, storage, asleep, pairs = [], [], [], []
    module, ids = subject.build(), subject.prompt(place.torch_device)
    expected = resident_pass(subject, place, course.resident).output
    with (
        open_checkpoint(subject.path) as checkpoint,
        CopyEngine(place.device) as engine,
        stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine) as loading,
    ):
        loading.wait()
        resident_pass(subject, place, module)

        def woken() -> float:
            place.synchronize()
            began = time.perf_counter()
            loading.wake()
            output = first_token(subject, module, ids)
            seconds = time.perf_counter() - began
            loading.wait()
            if not same_bits(output.cpu(), expected):
                raise BenchError("a model that was woken gave another output than the one loaded plainly")
            return seconds

        for number in range(repeat):
            began = time.perf_counter()
            loading.sleep()
            asleep.append(time.perf_counter() - began)
            link.append(place.link_rate())
            storage.append(course.files.storage_rate())
            place.settle(subject.nbytes)
            pairs.append(in_turn(number, woken, lambda: resident_pass(subject, place, course.resident).seconds))
            progress()
    return WakeCase(
        tokens=subject.tokens,
        nbytes=subject.nbytes,
        link_bytes_per_second=tuple(link),
        storage_bytes_per_second=tuple(storage),
        compute_seconds=tuple(resident for _, resident in pairs),
        wake_seconds=tuple(woken for woken, _ in pairs),
        sleep_seconds=tuple(asleep),
    )
