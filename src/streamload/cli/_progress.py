"""Show on stderr how far a pull or a benchmark is: a bar on a terminal, now and then a line elsewhere.

Part of `cli`. No colours, and no control codes where stderr is no terminal.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Final, TextIO

import click

from .._closing import Closing
from .._units import say_bytes, say_rate
from ._describe import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

    from .._pull import PullProgress

__all__ = ["BenchScreen", "PullScreen"]

_LINE_SECONDS: Final = 10.0  # between two lines: a log of half an hour has 180
_SMOOTHING_SECONDS: Final = 5.0  # over which the rate is a mean


class PullScreen(Closing):
    """Show progress as it is reported; a context manager.

    Attributes:
        resumable: Whether another pull can go on from what has arrived, as it was reported last.

    Args:
        stream: Where to: stderr.
        quiet: Show nothing.
    """

    def __init__(self, stream: TextIO, *, quiet: bool) -> None:
        self.resumable = True
        self._stream = stream
        self._quiet = quiet
        self._terminal = stream.isatty()
        self._bar: tqdm[None] | None = None
        self._noted = 0
        self._next_line = _LINE_SECONDS
        self._rate = 0.0
        self._last = (0.0, 0)

    def show(self, progress: PullProgress) -> None:
        """Show how far the pull is."""
        self.resumable = progress.resumable
        if self._quiet:
            return
        for text in progress.notes[self._noted :]:
            self._write(printable(text))
        self._noted = len(progress.notes)
        self._measure(progress)
        if not progress.nbytes:
            return
        if self._terminal:
            self._draw(progress)
        elif progress.seconds >= self._next_line:
            self._next_line = progress.seconds + _LINE_SECONDS
            self._write(self._line(progress))

    def _measure(self, progress: PullProgress) -> None:
        seconds = progress.seconds - self._last[0]
        if seconds <= 0:
            return
        rate = max(0, progress.fetched - self._last[1]) / seconds
        share = min(1.0, seconds / min(_SMOOTHING_SECONDS, max(progress.seconds, seconds)))
        self._rate += share * (rate - self._rate)
        self._last = progress.seconds, progress.fetched

    def _line(self, progress: PullProgress) -> str:
        left = progress.nbytes - progress.present
        share = progress.present * 100 // progress.nbytes
        text = f"{say_bytes(progress.present)} of {say_bytes(progress.nbytes)} ({share} %)"
        text += f", {progress.files_done} of {progress.files} files, {say_rate(self._rate)}"
        return text + (f", {_clock(left / self._rate)} left" if self._rate > 0 and left else "")

    def _draw(self, progress: PullProgress) -> None:
        if self._bar is None:
            shape = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = _new_bar(self._stream, progress.nbytes, "pulling", "B", shape)
        self._bar.total = progress.nbytes
        self._bar.n = progress.present
        left = progress.nbytes - progress.present
        self._bar.set_postfix_str(
            say_rate(self._rate) + (f", {_clock(left / self._rate)} left" if self._rate > 0 and left else ""),
            refresh=True,
        )

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        click.echo(f"streamload: {text}", file=self._stream)

    def close(self) -> None:
        """Take the bar away. Harmless when repeated."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class BenchScreen(Closing):
    """Show how far a benchmark is, stage by stage, with the time that its stage will take yet; a context manager.

    Args:
        stream: Where to: stderr.
        clock: Tells the time in seconds, from whatever moment on.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._bar: tqdm[None] | None = None

    @contextmanager
    def stage(self, name: str, total: float, unit: str = "") -> Iterator[Callable[..., object]]:
        """Begin a stage that ends with the block; gives a function that counts what is done."""
        if self._terminal:
            shape = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
            self._bar = _new_bar(self._stream, total, name, unit, shape)
            try:
                yield self._bar.update
            finally:
                self.close()
        else:
            yield self._lines(name, total, unit)

    def _lines(self, name: str, total: float, unit: str) -> Callable[..., object]:
        """Write a line now, and return what counts and writes one now and then."""
        say = say_bytes if unit == "B" else lambda count: f"{count:.0f}"
        began = last = self._clock()
        done = 0.0
        click.echo(f"streamload: {name}: {say(total)}{f' {unit}s' if unit not in ('', 'B') else ''}", file=self._stream)

        def count(more: float = 1) -> None:
            nonlocal done, last
            done += more
            now = self._clock()
            if now - last >= _LINE_SECONDS:
                last = now
                left = f", {_clock((now - began) * (total - done) / done)} left" if 0 < done < total else ""
                click.echo(f"streamload: {name}: {say(done)} of {say(total)}{left}", file=self._stream)

        return count

    def close(self) -> None:
        """Take the bar away. Harmless when repeated."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _new_bar(stream: TextIO, total: float, name: str, unit: str, shape: str) -> tqdm[None]:
    from tqdm import tqdm

    size = get_terminal_size()  # 80 by 24 where it is not known; tqdm then shows nothing
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        desc=name,
        leave=False,
        bar_format=shape,
        ncols=size.columns,
        nrows=size.lines,
        file=stream,
    )


def _clock(seconds: float) -> str:
    """Return a time to wait for: "0:09", "12:30", "1:02:03"."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
