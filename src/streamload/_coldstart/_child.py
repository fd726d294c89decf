"""Run a Python program in this process and report its start through a pipe: `python -m streamload._coldstart._child`.

Part of `_coldstart`; started by `streamload coldstart`. Each line of the pipe is a whole report as JSON, with the new
traces. A program that has no recorder is measured, too: imports, its loads, and the first forward of a module that one
fills. What a program records by itself comes as events of `sys.audit`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StreamloadError
from ._imports import measure_imports
from ._partition import Phase
from ._recorder import LOAD_EVENT, MOMENT_EVENT, PHASE_EVENT, RECORDER_EVENT, Record

if TYPE_CHECKING:
    from torch import nn

    from ._recorder import WatchedLoad

__all__ = ["main"]

_EVENTS = "streamload.coldstart."


class _Observer:
    """Keep this process's record, and send it whenever something is reached."""

    def __init__(self, pipe: int, *, traces: bool) -> None:
        self._pipe: int | None = pipe
        self._traces = traces
        self._traced: set[str] = set()  # loads whose traces were sent
        self._sending = threading.Lock()
        self._recorded = False  # whether the program has a recorder, and says by itself when its first token is there
        self.record = Record()
        os.register_at_fork(after_in_child=self._end)  # the program's children are not measured

    def _end(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)

    def send(self) -> None:
        """Write the report as it is now; nothing once nobody reads."""
        with self._sending:
            if self._pipe is None:
                return
            report = self.record.report(traces=self._traces)
            new = {name: trace.as_dict() for name, trace in report.traces.items() if name not in self._traced}
            self._traced |= new.keys()
            line = memoryview(json.dumps({**report.as_dict(), "traces": new}).encode() + b"\n")
            try:
                while line:
                    line = line[os.write(self._pipe, line) :]
            except BrokenPipeError:
                self._pipe = None

    def hear(self, event: str, given: tuple[object, ...]) -> None:
        """Take an event of `sys.audit`."""
        if not event.startswith(_EVENTS) or self._pipe is None:
            return
        if event == PHASE_EVENT:
            name, detail, began, ended = given
            self.record.note_phase(Phase(name, began, ended, detail))  # type: ignore[arg-type]  # as the event says
            return
        if event == RECORDER_EVENT:
            self._recorded = True
            return
        if event == MOMENT_EVENT:
            self.record.note_moment(*given)  # type: ignore[arg-type]
        elif event == LOAD_EVENT:
            self._watch(*given)  # type: ignore[arg-type]
        self.send()

    def _watch(self, load: WatchedLoad, name: str, module: nn.Module | None) -> None:
        if self.record.note_load(load, name):
            threading.Thread(target=self._wait, args=(load,), name="coldstart-wait", daemon=True).start()
        if module is not None and not self._recorded:
            self._await_forward(module)

    def _wait(self, load: WatchedLoad) -> None:
        try:
            load.wait()
        except (StreamloadError, OSError):
            return  # the program is told, and this was never resident
        self.send()

    def _await_forward(self, module: nn.Module) -> None:
        """Keep when a module's first forward was computed, which a GPU does behind the call.

        Not of a compiled one: what torch.compile traces must not find anything to do here.
        """
        import torch

        def reached(*_: object) -> None:
            if torch.compiler.is_compiling():
                return
            handle.remove()
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types for it
                torch.cuda.synchronize()
            self.record.note_moment("first_forward", time.monotonic())
            self.send()

        handle = module.register_forward_hook(reached)


def main(arguments: list[str]) -> None:
    """Run a program.

    Args:
        arguments: The pipe's descriptor; "traces" where they are wanted, or "no-traces"; "script", "module" or "code";
            what is to be run; its own arguments.
    """
    pipe, traces, kind, what, *own = arguments
    os.set_inheritable(int(pipe), False)
    observer = _Observer(int(pipe), traces=traces == "traces")
    measure_imports(observer.record)
    sys.addaudithook(observer.hear)
    in_front = not (
        sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    )  # whether sys.path[0] is for the program
    try:
        if kind == "module":
            sys.argv = [what, *own]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "code":
            sys.argv = ["-c", *own]
            if in_front:
                sys.path[0] = ""
            exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
        else:
            sys.argv = [what, *own]
            if in_front:
                sys.path[0] = str(Path(what).resolve().parent)
            runpy.run_path(what, run_name="__main__")
    finally:
        observer.record.note_moment("exit", time.monotonic())
        observer.send()


if __name__ == "__main__":
    main(sys.argv[1:])
