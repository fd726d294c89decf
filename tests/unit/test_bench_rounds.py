"""How contestants are run: in turns, right first, and with reasons where they do not run."""

from __future__ import annotations

import threading

import pytest

from streamload._machine import private_bytes
from streamload.bench._memory import MemoryWatch, SpareMemory, give_back_memory, touch_free_memory
from streamload.bench._result import BenchError
from streamload.bench._rounds import CannotRun, Conditions, Contestant, Outcome, run_rounds


def entry(name, run, *, role="peer", judge=None):
    return Contestant(name, role, "new", lambda: run, judge)


class Judge:
    """Finds fault with what the contestant said, and keeps what was done to it."""

    def __init__(self):
        self.scrambled = 0

    def scramble(self):
        self.scrambled += 1

    def find_wrong(self, outcome):
        return "the bytes came out wrong" if outcome.seconds == 666 else ""


def test_everyone_runs_once_untimed_then_takes_turns_in_who_goes_first():
    order = []

    def run(name):
        order.append(name)
        return Outcome()

    scores = run_rounds([entry(name, lambda name=name: run(name)) for name in "abc"], 3, Conditions())
    assert order == list("abc") + list("abc") + list("bca") + list("cab")
    assert [len(score.seconds) for score in scores] == [3, 3, 3]


def test_a_contestant_that_cannot_run_says_why():
    def refuse():
        raise CannotRun("no such format")

    first, second = run_rounds([entry("a", refuse, role="ceiling"), entry("b", Outcome)], 2, Conditions())
    assert (first.cannot_run, first.seconds) == ("no such format", ())
    assert len(second.seconds) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'x'", name="x"), "x is not installed"),
        (RuntimeError("no CUDA\nat all"), "RuntimeError: no CUDA"),
        (KeyError(), "KeyError: "),
    ],
)
@pytest.mark.parametrize("when", ["getting ready", "first run", "second round"])
def test_a_peer_that_raises_is_listed_with_its_reason(error, reason, when):
    runs = []

    def fail():
        runs.append(1)
        if when == "first run" or len(runs) == 3:
            raise error
        return Outcome()

    def get_ready():
        if when == "getting ready":
            raise error
        return fail

    (score,) = run_rounds([Contestant("a", "peer", "new", get_ready)], 4, Conditions())
    assert score.cannot_run == reason
    assert score.seconds == score.cpu_seconds == ()
    assert len(runs) == {"getting ready": 0, "first run": 1, "second round": 3}[when]


def test_what_streamload_raises_ends_the_benchmark():
    def fail():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_rounds([entry("a", fail, role="streamload")], 1, Conditions())


def test_a_peer_with_wrong_bytes_is_listed_as_wrong_and_has_no_rate():
    judge = Judge()
    runs = []

    def lie():
        runs.append(1)
        return Outcome(seconds=666)

    wrong, right = run_rounds([entry("a", lie, judge=judge), entry("b", Outcome, judge=judge)], 3, Conditions())
    assert (wrong.wrong, wrong.seconds, wrong.cannot_run) == ("the bytes came out wrong", (), "")
    assert len(runs) == 1
    assert (right.wrong, len(right.seconds)) == ("", 3)
    assert judge.scrambled == 2


@pytest.mark.parametrize("role", ["streamload", "ceiling"])
def test_wrong_bytes_of_anyone_else_end_the_benchmark(role):
    with pytest.raises(BenchError, match="wrong"):
        run_rounds([entry("a", lambda: Outcome(seconds=666), role=role, judge=Judge())], 1, Conditions())


def test_a_time_of_its_own_takes_the_clocks_place():
    (score,) = run_rounds([entry("a", lambda: Outcome(seconds=12.5))], 2, Conditions())
    assert score.seconds == (12.5, 12.5)


def test_two_contestants_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        run_rounds([entry("a", Outcome), entry("a", Outcome)], 1, Conditions())


def test_what_surrounds_runs_comes_in_its_order():
    seen = []
    conditions = Conditions(
        **{
            name: lambda name=name: seen.append(name)
            for name in ("begin", "prepare", "synchronize", "clear", "progress")
        }
    )

    def run():
        seen.append("run")
        return Outcome()

    run_rounds([entry("a", run)], 2, conditions)
    once = ["prepare", "synchronize", "run", "synchronize"]
    assert seen == [*once, "progress", "begin", *[*once, "clear", "progress"] * 2]


def test_everything_is_prepared_and_counted():
    prepared, progress = [], []
    conditions = Conditions(prepare=lambda: prepared.append(1), progress=lambda: progress.append(1))
    run_rounds([entry("a", Outcome), entry("b", Outcome)], 2, conditions)
    assert len(prepared) == len(progress) == 6


def test_memory_is_watched_between_entry_and_exit():
    with MemoryWatch() as watch:
        block = bytearray(b"x") * (64 << 20)
        assert threading.active_count() > 1
    del block
    assert watch.peak_bytes is None or 60 << 20 < watch.peak_bytes < 1 << 30


def test_memory_that_was_touched_is_given_back():
    with MemoryWatch() as watch:
        touch_free_memory(64 << 20)
    give_back_memory()
    with MemoryWatch() as after:
        pass
    assert watch.peak_bytes is None or watch.peak_bytes < 1 << 30
    assert after.peak_bytes is None or after.peak_bytes < 32 << 20


def test_spare_memory_is_held_until_it_is_let_go_of_and_taken_again():
    def held():
        return private_bytes() - before

    with SpareMemory(64 << 20) as spare:
        spare.release()
        before = private_bytes()
        if before is None:
            pytest.skip("the system does not say how much memory a process has")
        spare.take()
        spare.take()  # is held
        assert 60 << 20 < held() < 100 << 20
        spare.release()
        spare.release()  # is not
        assert held() < 32 << 20
        spare.take()
    assert held() < 32 << 20
