"""Sharded checkpoints from a real S3 server that checks every signature: OpenStack Swift, started for these tests."""

from __future__ import annotations

import logging
import os
import ssl
import traceback

import pytest

import streamload
from streamload import StreamOptions
from streamload.errors import ChangedError, SourceError
from streamload.testing import LlamaShape, SourceTests, make_checkpoint

from ..servers.fault_proxy import Fault

torch = pytest.importorskip("torch")
pytest.importorskip("s3fs")
st = pytest.importorskip("streamload.torch")

pytestmark = pytest.mark.slow
SHAPE = LlamaShape(layers=6, hidden=256, heads=4, kv_heads=2, intermediate=704, vocab=1000, dtype="BF16")
IMPATIENT = StreamOptions(stall_seconds=5, retry_seconds=2)
SECRET = "testsecret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE, shards=4)


@pytest.fixture(scope="module")
def expected(folder):
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def url(swift, folder):
    return swift.put_folder("models", folder, "org/m odel+1")


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    """Whatever credentials this machine has, botocore finds none."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


class TestSwiftSource(SourceTests):
    """Objects of an S3 store keep what a source promises."""

    @pytest.fixture(autouse=True)
    def _store(self, swift):
        self.store = swift

    def make_source(self, data):
        from streamload._sources import open_source

        return open_source(self.store.put("acceptance", "bytes", data), storage_options=self.store.options())


def test_load_file_is_equal_to_the_last_bit(swift, url, expected):
    assert same(st.load_file(url, storage_options=swift.options()), expected)


def test_one_shard_is_loaded_by_its_own_url(swift, url, folder):
    from safetensors.torch import load_file

    name = "model-00002-of-00004.safetensors"
    assert same(st.load_file(f"{url}/{name}", storage_options=swift.options()), load_file(folder / name))


def test_iter_tensors_is_equal_to_the_last_bit(swift, url, expected):
    with streamload.open(url, storage_options=swift.options()) as checkpoint:
        assert same(dict(st.iter_tensors(checkpoint, device="cpu")), expected)


def test_a_module_streams_from_the_store(swift, url, expected):
    from streamload._models import build_llama

    module = build_llama(SHAPE)
    with streamload.open(url, storage_options=swift.options()) as checkpoint:
        assert len(checkpoint.shards) == 4
        loading = st.stream_module(module, checkpoint, "cpu")
        logits = module(torch.arange(7)[None])
        loading.wait()
        stats = loading.stats()
    assert same(dict(module.named_parameters()), expected)
    plain = build_llama(SHAPE, "cpu")
    plain.load_state_dict(expected)
    assert torch.equal(logits, plain(torch.arange(7)[None]))
    assert stats.remote_bytes + stats.callback_bytes == stats.bytes_read
    assert stats.retries == stats.renewals == 0


def test_headers_cost_one_request_each(swift_faults, url):
    proxy, store = swift_faults
    with streamload.open(url, storage_options=store.options()) as checkpoint:
        assert checkpoint.nbytes == SHAPE.nbytes
    shards = [request.path for request in proxy.ranged if request.path.endswith(".safetensors")]
    assert len(shards) == len(set(shards)) == 4


def test_only_what_is_asked_for_is_read(swift_faults, url, expected):
    proxy, store = swift_faults
    with streamload.open(url, storage_options=store.options()) as checkpoint:
        proxy.set()
        wanted = [name for name in expected if ".layers.3." in name]
        found = dict(st.iter_tensors(checkpoint, names=wanted))
    assert same(found, {name: expected[name] for name in wanted})
    asked = 0
    for request in proxy.ranged:
        first, _, last = request.range.removeprefix("bytes=").partition("-")
        asked += int(last) - int(first) + 1
    assert asked <= sum(tensor.nbytes for tensor in found.values()) * 1.1


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_keys_are_refused(swift, url, wrong):
    with pytest.raises(PermissionError) as caught:
        streamload.open(url, storage_options=swift.options(**{wrong: "not-the-one"}), options=IMPATIENT)
    assert SECRET not in said(caught.value)


@pytest.mark.usefixtures("no_credentials")
def test_no_keys_at_all_are_refused(swift, url):
    options = {"endpoint_url": swift.endpoint}
    with pytest.raises(PermissionError):
        streamload.open(url, storage_options=options, options=IMPATIENT)


@pytest.mark.parametrize(
    "missing",
    ["s3://models/nothing.safetensors", "s3://models/no/such/prefix", "s3://no-such-bucket/model.safetensors"],
)
def test_what_is_missing_is_not_found(swift, url, missing):
    assert url
    with pytest.raises(FileNotFoundError):
        streamload.open(missing, storage_options=swift.options())


def test_an_object_removed_after_opening_is_not_found(swift, folder):
    store = swift
    url = store.put_folder("removed", folder)
    with streamload.open(url, storage_options=store.options()) as checkpoint:
        store.remove("removed", "model/model-00004-of-00004.safetensors")
        with pytest.raises(FileNotFoundError, match="model-00004"):
            dict(st.iter_tensors(checkpoint, device="cpu"))


def test_an_object_overwritten_between_layers_is_told(swift, folder):
    url = swift.put_folder("overwritten", folder)
    name = "model-00003-of-00004.safetensors"
    with streamload.open(url, storage_options=swift.options()) as checkpoint:
        # Whatever is in flight then, the third shard's tensors are asked for after this.
        swift.put("overwritten", f"model/{name}", (folder / name).read_bytes()[::-1])
        with pytest.raises(ChangedError, match=name):
            dict(st.iter_tensors(checkpoint, device="cpu"))


def test_a_private_authority_is_trusted_when_named(swift_tls, url, expected):
    assert swift_tls.endpoint.startswith("https://")
    assert same(st.load_file(url, storage_options=swift_tls.options()), expected)


def test_an_unknown_authority_is_refused_at_once(swift_tls, url):
    with pytest.raises(SourceError, match=r"(?i)certificate") as caught:
        streamload.open(f"{url}/model-00001-of-00004.safetensors", storage_options=swift_tls.options(client_kwargs={}))
    assert SECRET not in said(caught.value)


def test_an_authority_named_by_the_environment_is_trusted(swift_tls, url, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", swift_tls.ca_file)
    with streamload.open(url, storage_options=swift_tls.options(client_kwargs={})) as checkpoint:
        assert checkpoint.nbytes == SHAPE.nbytes


def test_a_profile_holds_endpoint_and_keys(swift, url, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text(
        f"[here]\naws_access_key_id = {swift.key}\naws_secret_access_key = {swift.secret}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile here]\nregion = us-east-1\nendpoint_url = {swift.endpoint}\ns3 =\n  addressing_style = path\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with streamload.open(url, storage_options={"profile": "here"}) as checkpoint:
        assert checkpoint.nbytes == SHAPE.nbytes


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=404, times=0),
        Fault("status", status=403, times=0),
        Fault("status", times=0),
        Fault("etag", times=0),
        Fault("whole", times=0),
        Fault("close", times=0, at=0.0),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_no_secret_is_ever_told(swift_faults, url, fault, caplog):
    proxy, store = swift_faults
    caplog.set_level(logging.DEBUG, logger="streamload")
    told = []
    with streamload.open(url, storage_options=store.options(), options=IMPATIENT) as checkpoint:
        told += [repr(checkpoint), str(checkpoint.url), *(repr(shard) for shard in checkpoint.shards)]
        proxy.set(fault)
        with pytest.raises((OSError, SourceError)) as caught:
            dict(st.iter_tensors(checkpoint, device="cpu", options=IMPATIENT))
    told += [said(caught.value), caplog.text]
    for text in told:
        assert SECRET not in text
        assert "Signature" not in text.replace("SignatureDoesNotMatch", "")
        assert "X-Amz" not in text


def test_renewed_once_when_a_signature_is_refused(swift_faults, url, expected):
    proxy, store = swift_faults
    with streamload.open(url, storage_options=store.options()) as checkpoint:
        proxy.set(Fault("status", status=403))
        with st.stream(checkpoint, "cpu") as layers:
            assert same({name: tensor for layer in layers for name, tensor in layer.tensors.items()}, expected)
            stats = layers.stats()
    assert proxy.ranged[0].fault
    assert stats.renewals == 1


def test_faults_on_the_way_to_signed_objects_are_overcome(swift_faults, url, expected):
    proxy, store = swift_faults
    options = StreamOptions(stall_seconds=1, retry_seconds=20, chunk_bytes=1 << 20, staging_bytes=16 << 20)
    kinds = (Fault("reset"), Fault("status", times=2), Fault("stall", at=0.3), Fault("close", at=0.9), Fault("half"))
    with streamload.open(url, storage_options=store.options(), options=options) as checkpoint:
        proxy.set(*kinds)
        arrivals = st.iter_tensors(checkpoint, device="cpu", options=options)
        assert same(dict(arrivals), expected)
    met = [request.fault for request in proxy.ranged if request.fault]
    assert len(met) == 6


def said(error):
    """Everything that an error tells, with those it came from."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(getattr(error, "url", ""))


def test_the_machine_has_a_tls_that_these_tests_can_use():
    assert ssl.HAS_TLSv1_3
