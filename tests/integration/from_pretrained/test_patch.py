"""`patch`: which loads stream and which do not, and that nothing of it is left behind."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import inspect
import io
import pickle
import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import PretrainedStream, _patch, patch  # noqa: E402 - after the skips
from streamload.transformers._methods import LOAD_NAME, find_finalize  # noqa: E402 - after the skips
from streamload.transformers._scope import current_scope, scope  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

Llama, Stock = transformers.LlamaForCausalLM, transformers.PreTrainedModel
DEBUG = StreamOptions(debug=True)  # new memory is poisoned: who does not wait reads NaN


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(autouse=True)
def _as_before():
    """The methods are transformers' own again, and no scope is left."""
    before = methods()
    yield
    assert methods() == before
    assert current_scope() is None


def methods():
    return [vars(Stock).get(name) for name in (LOAD_NAME, find_finalize(Stock)) if name]


def streams(model):
    return getattr(model, "streamload", None) is not None and model.streamload.reason is None


def is_stock(model):
    return not hasattr(model, "streamload")


def test_a_load_in_the_context_streams_and_equals_a_stock_load(saved):
    stock = Llama.from_pretrained(saved, dtype="auto")
    with patch(options=DEBUG):
        model = Llama.from_pretrained(saved, dtype="auto")
    assert streams(model)
    assert model.streamload.read_early == ()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert not model(ids).logits.isnan().any()
    model.streamload.wait()
    assert model.streamload.done
    assert model.streamload.stats().bytes_total == sum(p.nbytes for p in model.parameters())
    tiny.assert_equal(model, stock)
    assert is_stock(Llama.from_pretrained(saved))


def test_contexts_nest(saved):
    with patch():
        with patch(options=DEBUG):
            assert streams(Llama.from_pretrained(saved))
        assert streams(Llama.from_pretrained(saved))
    assert is_stock(Llama.from_pretrained(saved))


def test_a_thread_outside_sees_stock(saved):
    loaded = []

    def load():
        loaded.append(Llama.from_pretrained(saved))

    with patch():
        thread = threading.Thread(target=contextvars.Context().run, args=(load,))
        thread.start()
        thread.join()
        assert streams(Llama.from_pretrained(saved))
    assert is_stock(loaded[0])


def test_threads_leave_in_any_order(saved):
    """The one that entered first leaves first; the other still streams, and the methods go with it."""
    both, one_left = threading.Barrier(2), threading.Event()
    before, seen = methods(), {}

    def first():
        with patch():
            both.wait()
            seen["first"] = streams(Llama.from_pretrained(saved))
        seen["left"] = is_stock(Llama.from_pretrained(saved))
        one_left.set()

    def second():
        with patch():
            both.wait()
            one_left.wait()
            seen["second"] = streams(Llama.from_pretrained(saved))
            assert methods() != before

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": True, "left": True, "second": True}


def test_many_threads_come_and_go():
    before = methods()
    start = threading.Barrier(8)

    def come_and_go():
        start.wait()
        for _ in range(50):
            with patch():
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert methods() == before


def test_generators_may_leave_in_any_order(saved):
    def loads():
        with patch():
            while True:
                yield streams(Llama.from_pretrained(saved))

    one, other = loads(), loads()
    assert next(one)
    assert next(other)
    one.close()
    assert next(other)
    other.close()
    assert is_stock(Llama.from_pretrained(saved))


def test_a_generator_may_be_closed_elsewhere():
    def entered():
        with patch():
            yield

    generator = entered()
    next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    assert current_scope() is None


def test_a_copied_context_streams_until_the_context_is_left(saved):
    with patch():
        context = contextvars.copy_context()
        assert streams(context.run(Llama.from_pretrained, saved))
    assert is_stock(context.run(Llama.from_pretrained, saved))


def test_a_model_loaded_inside_another_models_load_streams_too(saved):
    class Outer(Llama):
        def tie_weights(self, *args: object, **kwargs: object):
            if "found" not in vars(self) and self.device.type != "meta":
                vars(self)["found"] = Llama.from_pretrained(saved)
            return super().tie_weights(*args, **kwargs)

    stock = Llama.from_pretrained(saved)
    with patch(options=DEBUG):
        outer = Outer.from_pretrained(saved)
    assert streams(outer)
    assert outer.streamload is not outer.found.streamload
    tiny.assert_equal(outer.found, stock)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(outer.parameters(), stock.parameters(), strict=True))


@pytest.mark.parametrize("step", ["open_files", "lazy_state_dict"])
def test_a_failure_before_planning_leaves_the_load_to_stock(saved, step, monkeypatch, caplog, open_descriptors):
    def fail(*_: object):
        raise TypeError("no such dtype")

    monkeypatch.setattr(_patch, step, fail)
    before = open_descriptors()
    with patch():
        model = Llama.from_pretrained(saved)
        assert current_scope().loading == {}
    assert open_descriptors() == before
    assert model.streamload.done
    assert "no such dtype" in model.streamload.reason
    assert [record.levelname for record in caplog.records if record.name.startswith("streamload")] == ["WARNING"]
    tiny.assert_equal(model, Llama.from_pretrained(saved))


def replace_stock(monkeypatch, name, call):
    """Put something in place of a private method of transformers, of the same kind and signature."""
    method = vars(Stock)[name]

    def instead(*args: object, **kwargs: object):
        return call(method.__func__, *args, **kwargs)

    instead.__wrapped__ = method.__func__
    monkeypatch.setattr(Stock, name, type(method)(instead))


def test_what_transformers_cannot_do_with_lazy_tensors_it_does_without(saved, monkeypatch, caplog, open_descriptors):
    expected = Llama.from_pretrained(saved)

    def load(stock, *args: object, **kwargs: object):
        done = stock(*args, **kwargs)
        lazy = next((one for one in args if isinstance(one, dict)), None)
        if lazy is not None:
            raise RuntimeError("cannot be recorded")
        return done

    replace_stock(monkeypatch, LOAD_NAME, load)
    before = open_descriptors()
    with patch():
        model = Llama.from_pretrained(saved)
        assert current_scope().loading == {}
    assert open_descriptors() == before
    assert "cannot be recorded" in model.streamload.reason
    assert "cannot be recorded" in caplog.text
    tiny.assert_equal(model, expected)
    monkeypatch.undo()


@pytest.mark.parametrize("error", [RuntimeError("at the end"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["load", "finalize", "adopt"])
def test_a_failure_later_closes_what_was_opened(saved, step, error, monkeypatch, open_descriptors):
    def fail(*_: object, **__: object):
        raise error

    name = {"load": LOAD_NAME, "finalize": find_finalize(Stock)}.get(step)
    if step == "finalize" and name is None:
        pytest.skip("this transformers ends a load with the load")
    if step == "adopt":
        monkeypatch.setattr(_patch, "adopt", fail)
    else:
        replace_stock(monkeypatch, name, fail)
    before = open_descriptors()
    with patch():
        with pytest.raises(type(error)) as raised:
            Llama.from_pretrained(saved)
        assert raised.value is error
        assert current_scope().loading == {}
        assert open_descriptors() == before
    monkeypatch.undo()


def test_a_scope_that_is_left_closes_what_never_ended(saved):
    from streamload import open as open_checkpoint
    from streamload.transformers._scope import Loading

    checkpoint = open_checkpoint(saved)
    with scope(None) as entered:
        entered.loading[1] = Loading(torch.nn.Module(), checkpoint, None, wait=False)
    assert checkpoint.closed


def test_somebody_elses_replacement_of_ours_stays_and_loads_still_stream_once(saved):
    stock = vars(Stock)[LOAD_NAME]
    with patch():
        ours = vars(Stock)[LOAD_NAME]

        def call(*args: object, **kwargs: object):
            return ours.__func__(*args, **kwargs)

        call.__signature__ = inspect.signature(ours.__func__)
        theirs = type(ours)(call)
        Stock._load_pretrained_model = theirs
    try:
        assert is_stock(Llama.from_pretrained(saved))
        with patch():
            assert streams(Llama.from_pretrained(saved))
        assert vars(Stock)[LOAD_NAME] is theirs
    finally:
        Stock._load_pretrained_model = stock


def test_another_signature_of_the_private_method_means_stock_with_one_warning(saved, monkeypatch, caplog):
    method = vars(Stock)[LOAD_NAME]

    def other(*args: object, **kwargs: object):
        return method.__func__(*args, **kwargs)

    monkeypatch.setattr(Stock, LOAD_NAME, type(method)(other))
    with patch():
        assert is_stock(Llama.from_pretrained(saved))
        assert is_stock(Llama.from_pretrained(saved))
    records = [record for record in caplog.records if record.name.startswith("streamload")]
    assert [record.levelname for record in records] == ["WARNING"]
    assert "has no parameter model, state_dict, checkpoint_files" in records[0].getMessage()
    monkeypatch.undo()


def test_the_handle_of_a_model_is_in_nobodys_way(saved, tmp_path):
    stock = Llama.from_pretrained(saved)
    with patch(options=DEBUG):
        model = Llama.from_pretrained(saved)
    assert set(vars(model)) - set(vars(stock)) == {"streamload"}
    assert list(model.state_dict()) == list(stock.state_dict())
    assert "streamload" not in repr(model)
    copied = copy.deepcopy(model)
    assert copied.streamload.done
    copied.streamload.wait()
    assert pickle.loads(pickle.dumps(model)).streamload is None
    written = io.BytesIO()
    torch.save(model, written)
    written.seek(0)
    tiny.assert_equal(torch.load(written, weights_only=False), stock)
    tiny.assert_equal(copied, stock)
    model.save_pretrained(tmp_path)
    tiny.assert_equal(Llama.from_pretrained(tmp_path), stock)
    assert "streamload" not in (tmp_path / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # transformers 4 in torch 2.13
def test_a_streamed_model_compiles_and_keeps_its_handle(saved):
    ids = torch.arange(8)[None]
    with torch.no_grad():
        stock = copy.deepcopy(Llama.from_pretrained(saved))
        expected = torch.compile(stock.model, backend="eager")(ids, use_cache=False).last_hidden_state
        with patch(options=DEBUG):
            model = Llama.from_pretrained(saved)
        compiled = torch.compile(model.model, backend="eager")
        assert torch.equal(compiled(ids, use_cache=False).last_hidden_state, expected)
    assert torch.compile(model, backend="eager").streamload is model.streamload


def test_a_handle_of_what_was_not_streamed_has_nothing_to_do():
    handle = PretrainedStream(None, reason="it is a pickle")
    handle.wait(0)
    handle.wake()
    handle.cancel()
    handle.close()
    assert handle.done
    assert not handle.asleep
    assert handle.progress() == 1.0
    assert handle.stats().bytes_total == 0
    assert repr(handle) == "PretrainedStream(100% resident, not streamed: it is a pickle)"
    with pytest.raises(RuntimeError, match="it is a pickle"):
        handle.sleep()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_an_adapter_is_loaded_while_its_base_streams(saved, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(Llama.from_pretrained(saved), settings).save_pretrained(tmp_path)
    stock = Llama.from_pretrained(tmp_path)
    before = Llama.from_pretrained(saved)
    with patch(options=DEBUG):
        model = Llama.from_pretrained(tmp_path)
        assert streams(model)
        later = Llama.from_pretrained(saved)
        later.load_adapter(str(tmp_path))
        assert streams(later)
        before.load_adapter(str(tmp_path))
        assert is_stock(before)
    model.streamload.wait()
    for each in (model, later, before):
        tiny.assert_equal(each, stock)


def test_sleep_and_wake_bring_the_same_weights_back(saved):
    with patch():
        model = Llama.from_pretrained(saved)
    model.streamload.wait()
    model.streamload.sleep()
    assert model.streamload.asleep
    with contextlib.closing(model.streamload):
        model.streamload.wake()
        model.streamload.wait()
        tiny.assert_equal(model, Llama.from_pretrained(saved))
