"""Start vLLM in processes of its own, wait for what comes of it, and leave none of them behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path(__file__).with_name("driver.py")


@dataclass(frozen=True)
class Ran:
    """What came of one run: None as the result of one that failed."""

    result: dict[str, object] | None
    output: str
    seconds: float
    ended: float  # seconds since midnight, local time
    left: tuple[int, ...]  # processes of the run that were still there after its end

    @property
    def seconds_of_load(self) -> float:
        """From the line of the log with which a rank begins to load, to the end of the last process.

        vLLM's start before that is nearly all imports, and takes as long as the machine makes it.
        """
        began = re.findall(r"INFO \d\d-\d\d (\d\d):(\d\d):(\d\d) .*Starting to load model", self.output)
        if not began:
            return 0.0  # it was refused before
        hours, minutes, seconds = map(int, began[-1])
        return (self.ended - 3600 * hours - 60 * minutes - seconds) % 86400

    @property
    def last_lines(self) -> str:
        """What a user sees at the end of the terminal: the last words of a rank, of the engine and of the main process.

        Each of the three writes a traceback of up to 40 lines, in that order, and vLLM passes no reason on.
        """
        return "\n".join(self.output.splitlines()[-120:])


def run_vllm(
    folder: Path,
    model: Path,
    *steps: str,
    processes: bool = False,
    load_format: str = "streamload",
    extra: dict[str, object] | None = None,
    reload: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 280,
    **more: object,
) -> Ran:
    """Load a model, do the steps that `driver.py` knows, and end; `more` goes to `vllm.LLM`."""
    folder.mkdir(parents=True, exist_ok=True)
    llm = {"model": str(model), "load_format": load_format, "dtype": "bfloat16", **more}
    if extra is not None:
        llm["model_loader_extra_config"] = extra
    spec, result, log = folder / "spec.json", folder / "result.json", folder / "output.txt"
    spec.write_text(json.dumps({"llm": llm, "steps": steps, "reload": reload or {}}), encoding="utf-8")
    result.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(spec), str(result)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(processes) | (environment or {}),
            start_new_session=True,
        )
        try:
            process.wait(timeout)
            left = _stayed(process.pid)
        finally:
            for number in _of_session(process.pid):
                os.kill(number, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - began
    text = log.read_text(encoding="utf-8", errors="replace")
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    clock = time.localtime()
    return Ran(found, text, seconds, 3600 * clock.tm_hour + 60 * clock.tm_min + clock.tm_sec, left)


def _environment(processes: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VLLM_"))}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # for the function that `driver.py` sends to the ranks
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if processes else "0",
    }


def _stayed(leader: int) -> tuple[int, ...]:
    """The processes of a session that outlive its leader by more than a moment, as a tracker of resources does."""
    for number in _of_session(leader):
        try:
            process = os.pidfd_open(number)
        except ProcessLookupError:
            continue
        try:
            select.select([process], [], [], 10)
        finally:
            os.close(process)
    return _of_session(leader)


def _of_session(leader: int) -> tuple[int, ...]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return tuple(found)
