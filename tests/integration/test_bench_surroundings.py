"""Runs over a checkpoint start alike: the page cache in its state, memory free for those that take some, and new."""

import gc
import resource
import sys
import weakref

import pytest
import torch

from streamload._machine import cached_fraction
from streamload.bench import _memory, _surroundings
from streamload.bench._course import open_course
from streamload.bench._memory import SpareMemory
from streamload.bench._rounds import Contestant, Outcome, run_rounds
from streamload.bench._surroundings import Surroundings
from streamload.testing import LlamaShape, make_checkpoint

pytestmark = pytest.mark.slow

SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=4, intermediate=128, vocab=256)
BLOCK = 8 << 20


@pytest.fixture
def course(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "converted").write_bytes(bytes(1 << 20))
    return open_course(make_checkpoint(tmp_path / "checkpoint", SHAPE), "cpu", scratch)


class Spare(SpareMemory):
    """Tells whether it is held."""

    def __init__(self, nbytes):
        super().__init__(nbytes)
        self.held = False

    def take(self):
        super().take()
        self.held = True

    def release(self):
        super().release()
        self.held = False


def runs(course, contestants, *, cold, repeat=2):
    cached = []
    with Surroundings("cpu", course.nbytes) as around:
        everyone = around.in_state(contestants, course, cold=cold, cached=cached)
        run_rounds(everyone, repeat, around.conditions(lambda: None))
    return cached


def contestant(run, target="new", role="ceiling", *, takes=True):
    return Contestant("a", role, target, lambda: run, takes_memory=takes)


@pytest.mark.parametrize(
    ("role", "target", "takes", "cold", "free"),
    [
        ("streamload", "new", True, False, True),
        ("streamload", "existing", True, False, False),
        ("ceiling", "existing", True, True, True),
        ("ceiling", "drive", False, True, False),  # around the page cache
        ("peer", "existing", True, False, True),  # it may stage
    ],
)
def test_memory_is_free_for_runs_that_take_some_and_held_between(course, monkeypatch, role, target, takes, cold, free):
    made, held = [], []
    monkeypatch.setattr(_surroundings, "SpareMemory", lambda nbytes: made.append(Spare(nbytes)) or made[0])

    def run():
        held.append(made[0].held)
        return Outcome()

    runs(course, [contestant(run, target, role, takes=takes)], cold=cold)
    assert held[1:] == [not free] * 2
    assert not made[0].held


def test_a_device_of_its_own_has_no_memory_held_for_it(course):
    assert Surroundings("meta", course.nbytes)._spare._nbytes == 0


def test_what_a_loader_made_for_itself_is_as_warm_or_cold_as_the_shards(course):
    converted = course.scratch / "converted"
    if cached_fraction(converted) is None:
        pytest.skip("the kernel does not say what its page cache holds")
    seen = []

    def run():
        seen.append(cached_fraction(converted))
        return Outcome()

    course.drop_from_cache()
    if cached_fraction(converted) != 0.0:
        pytest.skip("this file system keeps what it is asked to forget")
    # Not to the page: the system gives up some for what else goes on.
    assert min(runs(course, [contestant(run)], cold=False)) > 0.9
    assert min(seen) > 0.9
    seen.clear()
    assert max(runs(course, [contestant(run)], cold=True)) < 0.1
    assert max(seen) < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is asked")
def test_memory_is_new_in_every_run(course):
    """glibc keeps blocks of the size of one that was freed, once it has seen some, and their pages are then used."""
    faults = []

    def run():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(BLOCK, dtype=torch.uint8).fill_(1)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return Outcome()

    for _ in range(2):
        torch.empty(2 * BLOCK, dtype=torch.uint8)  # freed: from now on such blocks come from the heap
    runs(course, [contestant(run)], cold=False, repeat=4)
    assert min(faults) > BLOCK / resource.getpagesize() / 2


class Cycle:
    """What only the collector frees."""

    def __init__(self):
        self.itself = self


def test_nothing_stays_frozen_and_garbage_is_never(course):
    assert gc.get_freeze_count() == 0
    alive = []

    def run():
        alive.append(weakref.ref(Cycle()))
        assert [reference() for reference in alive[:-1]] == [None] * (len(alive) - 1)
        return Outcome()

    gc.disable()
    try:
        runs(course, [contestant(run)], cold=False)
    finally:
        gc.enable()
    assert len(alive) == 3
    assert gc.get_freeze_count() == 0


def test_what_others_froze_stays_so(course):
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        runs(course, [contestant(Outcome)], cold=False)
        assert gc.get_freeze_count() == pytest.approx(before, rel=0.01)
    finally:
        gc.unfreeze()


def test_memory_that_was_not_all_written_to_is_given_back(monkeypatch):
    def interrupt(address, nbytes):
        raise KeyboardInterrupt

    monkeypatch.setattr(_memory, "_write_zeros", interrupt)
    spare = SpareMemory(1 << 20)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        spare.take()
    spare.release()  # while the traceback is there
    assert interrupted.tb
