"""Many threads at once on a model that is arriving, loads that fail, and what is left when all is resident."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import streamload
from streamload._engine import CopyEngine, shared_engine
from streamload._native import HostDevice
from streamload.errors import ShortReadError, SourceError, StreamClosedError
from streamload.torch import stream_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

NAME = "llama-tied"


def generate(model, inputs):
    """Greedy tokens."""
    return model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0)


@torch.no_grad()
def forward(model, inputs):
    return model(**inputs).logits


USES = {
    "forward": forward,
    "generate": generate,
    "state_dict": lambda model, inputs: dict(model.state_dict()),
    "deepcopy": lambda model, inputs: forward(copy.deepcopy(model), inputs),
}


def together(jobs):
    """Run functions in threads that start at one moment; return what each gave, or raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job):
        barrier.wait(60)
        try:
            return job()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [done.result(60) for done in [pool.submit(run, job) for job in jobs]]


def test_threads_doing_everything_at_once_all_see_the_bytes(models, start_held, assert_same, leftovers):
    model, inputs, stock = models.empty(NAME), models.inputs(NAME), models.stock(NAME)
    loading = start_held(model, models.directory(NAME))
    names = [*USES, *USES]
    results = together([lambda name=name: USES[name](model, inputs) for name in names])
    loading.wait(60)
    for name, got in zip(names, results, strict=True):
        assert_same(got, USES[name](stock, inputs))
    assert not leftovers(model)


@pytest.mark.parametrize("use", USES)
def test_a_load_cancelled_by_another_thread_gives_right_values_or_its_error(use, models, start_held, assert_same):
    inputs, stock = models.inputs(NAME), models.stock(NAME)
    expected = USES[use](stock, inputs)
    for _ in range(3):
        model = models.empty(NAME)
        loading = start_held(model, models.directory(NAME))
        jobs = [lambda: USES[use](model, inputs), lambda: USES[use](model, inputs), loading.cancel]  # noqa: B023  # run before the next turn
        *results, _ = together(jobs)
        for got in results:
            if not isinstance(got, StreamClosedError):
                assert_same(got, expected)
        loading.close()


def test_a_copy_being_made_and_a_load_closed_leave_no_half_model(models, start_held, assert_same):
    model, inputs = models.empty(NAME), models.inputs(NAME)
    loading = start_held(model, models.directory(NAME))
    twin, _ = together([lambda: copy.deepcopy(model), loading.close])
    if isinstance(twin, StreamClosedError):
        return
    assert_same(forward(twin, inputs), forward(models.stock(NAME), inputs))


FAULTS = {
    "error": (lambda at: {"fail": {at: OSError(5, "broken")}}, SourceError),
    "short": (lambda at: {"short": dict.fromkeys(range(at, 9999), 0)}, ShortReadError),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("at", range(4))  # a read for each layer: the embedding's, two blocks', the norm's
def test_a_failure_reaches_generate_and_all_after_it_until_the_model_is_filled_again(
    at, fault, models, start_held, assert_same, leftovers
):
    make, kind = fault
    model, inputs = models.empty(NAME), models.inputs(NAME)
    loading = start_held(model, models.directory(NAME), **make(at))
    raised = together([lambda: generate(model, inputs) for _ in range(3)])
    assert [type(error) for error in raised] == [kind] * 3
    assert len({id(error) for error in raised}) == 3, "one object raised in three threads mixes their tracebacks"
    with pytest.raises(kind):
        loading.wait(60)
    for use in USES.values():
        with pytest.raises(kind):
            use(model, inputs)
    with pytest.raises(kind):
        model(**inputs).logits.sum().backward()
    loading = start_held(model, models.directory(NAME))
    assert_same(generate(model, inputs), generate(models.stock(NAME), inputs))
    loading.wait(60)
    assert not leftovers(model)


def test_the_model_takes_the_four_reads_that_fail_above(models, start_held):
    model = models.empty(NAME)
    loading = start_held(model, models.directory(NAME))
    forward(model, models.inputs(NAME))
    loading.wait(60)
    assert len(loading.ticket.trace()) == 4


def test_after_residency_it_is_an_ordinary_model(models, assert_same, leftovers, own_threads, open_descriptors):
    model, inputs = models.empty(NAME), models.inputs(NAME)
    forward(models.stock(NAME), inputs)
    descriptors = open_descriptors()
    kind, objects = type(model), {}
    engine = CopyEngine(HostDevice(poison=True))
    with engine, streamload.open(models.directory(NAME)) as checkpoint:
        loading = stream_module(model, checkpoint, "cpu", engine=engine)
        objects = dict(model.named_parameters())
        with torch._C.DisableTorchFunctionSubclass():  # asks for addresses without waiting
            addresses = {name: parameter.data_ptr() for name, parameter in objects.items()}
        forward(model, inputs)
        loading.wait(60)
        stats = loading.stats()
    assert type(model) is kind
    assert not leftovers(model)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == addresses
    assert all(model.get_parameter(name) is parameter for name, parameter in objects.items())
    assert not own_threads()
    assert open_descriptors() == descriptors
    assert stats.bytes_resident == stats.bytes_total == sum(p.nbytes for p in model.parameters())
    assert loading.stats().staging_bytes == 0, "the ring goes with its last load"
    assert_same(forward(model, inputs), forward(models.stock(NAME), inputs))


def test_the_shared_engine_goes_with_its_last_load_even_if_the_handle_stays(models):
    engine = weakref.ref(shared_engine("cpu", streamload.StreamOptions()))
    model = models.empty(NAME)
    with streamload.open(models.directory(NAME)) as checkpoint:
        loading = stream_module(model, checkpoint, "cpu")
    forward(model, models.inputs(NAME))
    loading.wait(60)
    gc.collect()
    assert engine() is None
    assert loading.progress() == 1.0


def operators(model, inputs):
    """The torch operators of one forward, in order."""
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(**inputs)
    return [event.name for event in profile.events() if event.name.startswith("aten::")]


def test_the_steady_state_runs_the_operators_that_stock_runs(models, start_held):
    model, inputs, stock = models.empty(NAME), models.inputs(NAME), models.stock(NAME)
    loading = start_held(model, models.directory(NAME))
    forward(model, inputs)
    loading.wait(60)
    forward(stock, inputs)
    assert operators(model, inputs) == operators(stock, inputs)
