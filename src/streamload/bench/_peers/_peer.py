"""What every peer looks like: one way to load, in two contests.

Floor 6; needs torch. Peers write nothing into memory that is there already, so "existing" is a load and a copy into it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol

from ..._units import say_bytes
from .._rounds import CannotRun, Contestant, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from .._course import Course

__all__ = ["GetReady", "check_room", "cuda_only", "peer"]


class GetReady(Protocol):
    """Does what a peer needs outside the clock, and returns what loads everything once."""

    def __call__(self, course: Course, *, keep: bool) -> Callable[[], Iterable[tuple[str, torch.Tensor]]]:
        """Get ready.

        Args:
            course: What to load, and where to.
            keep: Whether the tensors must own memory of their own; else each is used before the next is taken.

        Raises:
            ModuleNotFoundError: The peer is not installed.
            CannotRun: It cannot take part here.
        """


def peer(name: str, course: Course, get_ready: GetReady) -> list[Contestant]:
    """Enter a peer in both contests."""

    def existing() -> Callable[[], Outcome]:
        load = get_ready(course, keep=False)

        def run() -> Outcome:
            for key, tensor in load():
                course.existing[key].copy_(tensor)
            return Outcome(course.existing)

        return run

    def new() -> Callable[[], Outcome]:
        load = get_ready(course, keep=True)
        return lambda: Outcome(dict(load()))

    return [
        Contestant(f"{name}, existing memory", "peer", "existing", existing),
        Contestant(f"{name}, new memory", "peer", "new", new),
    ]


def cuda_only(course: Course) -> None:
    """Refuse to run on the host.

    Raises:
        CannotRun: As said.
    """
    if course.on_host:
        raise CannotRun("it loads to CUDA devices only")


def check_room(course: Course) -> None:
    """Refuse to write another copy of the weights where there is no room for it.

    Raises:
        CannotRun: As said.
    """
    needed, free = course.nbytes, shutil.disk_usage(course.scratch).free
    if free < 1.2 * needed:
        raise CannotRun(
            f"its copy of the weights needs {say_bytes(needed)} in {course.scratch}, {say_bytes(free)} are free"
        )
