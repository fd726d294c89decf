"""`make gpu-check`: on a machine with a GPU and no network, build, test on the GPU, measure, write it down.

Runs on the interpreter that has torch, needs nothing but the standard library itself, and installs nothing into that
interpreter: packages it lacks come from wheels in a folder (`--wheels`) and go to build/gpu-check. Every phase has a
time budget and the whole is over within `--minutes`. One JSON a run goes to `--out`, and a summary.

    python3 benchmarks/gpu_check.py --wheels wheels --out benchmarks/results

The wheels, fetched on a machine with a network for the Python of the one without:

    pip download -d wheels --only-binary=:all: --python-version 3.12 \\
        nanobind pytest safetensors numpy click tqdm matplotlib
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu-check" / "site"
NEEDED = ("nanobind", "pytest", "safetensors", "numpy", "click", "tqdm")
WELCOME = ("matplotlib",)  # the demo's picture; everything else goes on without
PYTEST_INI = """[pytest]
addopts = --import-mode=importlib --strict-markers
markers =
    slow: takes more than a quarter of a second
    needs_cuda: needs a CUDA device
filterwarnings = error
"""
NO_GPU, FAILED = 3, 1


@dataclass
class Phase:
    """One step: what it ran, whether it went well, how long it took, what it found."""

    name: str
    passed: bool = False
    seconds: float = 0.0
    note: str = ""
    figures: dict[str, object] = field(default_factory=dict)


class Check:
    """Run commands one after the other within a total of seconds."""

    def __init__(self, seconds: float) -> None:
        self.phases: list[Phase] = []
        self._ends = time.monotonic() + seconds
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(SITE)]),
            "PYTHONUNBUFFERED": "1",
            "STREAMLOAD_REQUIRE_CUDA": "1",
        }
        self._environment.pop("PYTHONHOME", None)

    @property
    def passed(self) -> bool:
        """Whether every phase went well."""
        return all(phase.passed for phase in self.phases)

    def run(self, name: str, command: list[str], *, budget: float, settings: dict[str, str] | None = None) -> Phase:
        """Run a command as a phase; a command that outlives its budget is ended with all it started."""
        phase = Phase(name)
        self.phases.append(phase)
        left = min(budget, self._ends - time.monotonic())
        if left < 5:
            phase.note = "not run: no time was left"
            print(f"== {name}: {phase.note}")
            return phase
        print(f"== {name} (at most {left:.0f} s): {shlex.join(command)}", flush=True)
        began = time.monotonic()
        environment = {**self._environment, **(settings or {})}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            status = process.wait(timeout=left)
            phase.passed, phase.note = status == 0, "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            phase.note = f"ended after {left:.0f} s, its budget"
        phase.seconds = round(time.monotonic() - began, 2)
        print(f"== {name}: {'passed' if phase.passed else phase.note} in {phase.seconds} s", flush=True)
        return phase

    def ask(self, program: str) -> str | None:
        """Run a short Python program and return what it prints, or None where it fails."""
        command = [sys.executable, "-c", program]
        try:
            done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout.strip() if done.returncode == 0 else None


class Results:
    """Write results side by side: DAY-GPU-NAME.json, without this machine's own paths."""

    def __init__(self, folder: Path, gpu: str, commit: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        self._stem = folder.resolve() / f"{day}-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}"
        self._commit = commit

    def path(self, name: str) -> Path:
        """Return where a result of that name goes."""
        return self._stem.with_name(f"{self._stem.name}-{name}")

    def write(self, name: str, content: dict[str, object]) -> None:
        """Write one result; the commit is added where the program that measured could not know it."""
        machine = content.get("machine")
        if isinstance(machine, dict) and machine.get("commit") is None:
            machine["commit"] = self._commit
        text = json.dumps(content, indent=2)
        for place, word in ((str(ROOT), "."), (sys.executable, "python3"), (tempfile.gettempdir(), "$TMP")):
            text = text.replace(place, word)
        self.path(f"{name}.json").write_text(text + "\n", encoding="utf-8")


def find_gpu(check: Check) -> str:
    """Return the name of the GPU, or end the program where there is none."""
    found = check.ask("import torch\nprint(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')")
    if found is None:
        print(
            f"gpu-check: {sys.executable} cannot import torch; run it with the Python that has torch", file=sys.stderr
        )
        sys.exit(NO_GPU)
    if not found:
        print("gpu-check: torch finds no CUDA device on this machine; nothing was run", file=sys.stderr)
        sys.exit(NO_GPU)
    return found


def install_missing(check: Check, wheels: Path | None) -> None:
    """Put the packages this interpreter lacks into build/gpu-check, from wheels alone."""
    names = [*NEEDED, *WELCOME]
    program = f"import importlib.util as u\nprint(*[n for n in {names} if u.find_spec(n) is None])"
    missing = (check.ask(program) or "").split()
    required = [name for name in missing if name in NEEDED]
    if wheels is None and required:
        print(f"gpu-check: {', '.join(required)} missing; give a folder of wheels with --wheels", file=sys.stderr)
        sys.exit(FAILED)
    if wheels is None or not missing:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    for name in missing:
        phase = check.run(f"install {name}", [*pip, "--target", str(SITE), name], budget=60)
        if name in WELCOME and not phase.passed:
            check.phases.remove(phase)
            print(f"   going on without {name}")


def build(check: Check) -> bool:
    """Build the native core with the CMake that is there, into the source tree; setuptools may be too old to ask."""
    tree = ROOT / "build" / "gpu-check" / "cmake"
    configure = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tree), "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", *(["-G", "Ninja"] if shutil.which("ninja") else [])]
    install = ["cmake", "--install", str(tree), "--prefix", str(ROOT / "src" / "streamload"), "--component", "python"]
    return (
        check.run("configure", configure, budget=60).passed
        and check.run("build", ["cmake", "--build", str(tree), "--parallel"], budget=180).passed
        and check.run("install", install, budget=30).passed
    )


def run_tests(check: Check, results: Results) -> None:
    """Run tests/gpu; a skipped test counts as a failure here."""
    folder = ROOT / "build" / "gpu-check"
    (folder / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini")]
    command += ["--rootdir", str(ROOT), "--confcutdir", "tests/gpu", f"--junit-xml={report}", "tests/gpu"]
    phase = check.run("tests", command, budget=150)
    if not report.is_file():
        return
    suite = next(ElementTree.parse(report).iter("testsuite"))
    counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    wrong = [
        f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        for case in suite.iter("testcase")
        if any(child.tag in ("failure", "error", "skipped") for child in case)
    ]
    phase.figures = {**counts, "not_passed": wrong}
    phase.passed = phase.passed and not wrong
    results.write("tests", {"kind": "gpu tests", **asdict(phase)})


def run_copies(check: Check, results: Results, budget: float, extra: list[str]) -> None:
    """Measure what single copies cost, without an engine, and keep the JSON."""
    result = ROOT / "build" / "gpu-check" / "copies.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_copies.py"), "--json", str(result), *extra]
    phase = check.run("copies", command, budget=budget)
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        phase.figures = {key: found[key] for key in ("nbytes", "ceiling_bytes_per_second", "figures")}
        results.write("copies", found)


def run_demo(check: Check, results: Results, folder: Path, scale: str, budget: float) -> None:
    """Run the demo on the GPU and keep its JSON and its picture."""
    command = [*streamload(), "demo", "--scale", scale, "--device", "cuda:0", "--directory", str(folder / scale)]
    phase = check.run(f"demo {scale}", command, budget=budget)
    result, picture = folder / scale / "result.json", folder / scale / "timeline.png"
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        kept = ("nbytes", "tokens", "link_bytes_per_second", "move_seconds", "ratio_to_max_of_move_and_compute")
        phase.figures = {key: found[key] for key in (*kept, "median_seconds", "first_layer_arrived", "failures")}
        results.write(f"demo-{scale}", found)
    if picture.is_file():
        shutil.copyfile(picture, results.path(f"demo-{scale}.png"))


def run_bench(check: Check, results: Results, checkpoint: Path, name: str, budget: float, extra: list[str]) -> None:
    """Run the engine benchmark on the GPU and keep its JSON."""
    result = ROOT / "build" / "gpu-check" / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [*streamload(), "bench", "engine", str(checkpoint), "--device", "cuda:0", "--json", str(result), *extra]
    phase = check.run(name, command, budget=budget)
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        phase.figures = {key: found[key] for key in ("nbytes", "cache", "median_seconds", "ratios")}
        results.write(name, found)


def run_overlap(check: Check, results: Results, budget: float) -> None:
    """Run the overlap benchmark on the GPU and keep its JSON; as much of Llama-3-8B as there is room for."""
    result = ROOT / "build" / "gpu-check" / "bench-overlap.json"
    result.unlink(missing_ok=True)
    command = [*streamload(), "bench", "overlap", "--thorough", "--device", "cuda:0", "--json", str(result)]
    phase = check.run("bench-overlap", command, budget=budget)
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        phase.figures = {key: found[key] for key in ("model", "nbytes", "cache")}
        phase.figures |= {"cold": {str(case["tokens"]): case["figures"] for case in found["cold"]}}
        phase.figures |= {key: found[key]["figures"] for key in ("oversized", "steady")}
        results.write("bench-overlap", found)


def streamload() -> list[str]:
    """Return how the command line is called without being installed."""
    return [sys.executable, "-m", "streamload"]


def main() -> int:
    """Run all phases and return the exit status: 0 when every one passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="folder of wheels for packages this interpreter lacks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where results go")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything together")
    parser.add_argument("--commit", help="of the code, where this copy is no git repository")
    parser.add_argument("--scale", default="large", choices=("tiny", "small", "large"), help="of the main demo")
    arguments = parser.parse_args()

    check = Check(arguments.minutes * 60)
    gpu = find_gpu(check)
    print(f"gpu-check: {gpu}, {sys.executable}", flush=True)
    SITE.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out, gpu, arguments.commit)
    install_missing(check, arguments.wheels)
    if build(check):
        run_tests(check, results)
        run_copies(check, results, 90, ["--device", "cuda:0"])
        with tempfile.TemporaryDirectory(prefix="streamload-gpu-check-") as temporary:
            folder = Path(temporary)
            run_demo(check, results, folder, arguments.scale, budget=150)
            checkpoint = folder / arguments.scale / f"checkpoint-{arguments.scale}-bf16"
            run_overlap(check, results, 200)
            run_bench(check, results, checkpoint, "bench-engine-warm", 150, ["--repeat", "5"])
            run_bench(check, results, checkpoint, "bench-engine-cold", 90, ["--repeat", "2", "--cold"])
    summary = {"kind": "gpu-check", "gpu": gpu, "passed": check.passed, "phases": [asdict(p) for p in check.phases]}
    results.write("summary", summary)
    print(f"gpu-check: {'passed' if check.passed else 'FAILED'}; results in {arguments.out}")
    return 0 if check.passed else FAILED


if __name__ == "__main__":
    sys.exit(main())
