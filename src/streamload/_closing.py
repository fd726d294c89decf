"""The one way in which things with a lifetime become context managers.

Floor 0; imports nothing of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Closing:
    """Close at the end of a `with` block. What derives from it has an idempotent `close`."""

    __slots__ = ()

    def close(self) -> None:
        """Let go of what is held. Harmless when repeated."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
