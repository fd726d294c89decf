"""`hf://` against a stub of the Hub: one commit, one request a file, the token for the Hub alone."""

from __future__ import annotations

import hashlib
import json

import pytest

import streamload
from streamload._sources import open_source, open_store
from streamload._sources._hub import HubPlace, parse_hub_url

from ..servers.loop_server import LoopServer, answer, read_head

pytest.importorskip("huggingface_hub")

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_s3cr3t"
DATA = b"weights" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://org/name", HubPlace("model", "org/name", None, "")),
        ("hf://org/name/a/b.safetensors", HubPlace("model", "org/name", None, "a/b.safetensors")),
        ("hf://org/name@v1/x", HubPlace("model", "org/name", "v1", "x")),
        ("hf://org/name@refs/pr/7/x/y", HubPlace("model", "org/name", "refs/pr/7", "x/y")),
        ("hf://org/name@a%2Fb", HubPlace("model", "org/name", "a/b", "")),
        ("hf://datasets/org/name@main/x", HubPlace("dataset", "org/name", "main", "x")),
        ("hf://models/org/name", HubPlace("model", "org/name", None, "")),
        ("hf://gpt2", HubPlace("model", "gpt2", None, "")),
        ("hf://gpt2@main/x", HubPlace("model", "gpt2", "main", "x")),
        ("hf://org/name/a@b", HubPlace("model", "org/name", None, "a@b")),
    ],
)
def test_url_is_taken_apart(url, place):
    assert parse_hub_url(url) == place


@pytest.mark.parametrize("url", ["hf://", "hf:///x", "hf://@main/x"])
def test_url_without_a_repository_is_refused(url):
    with pytest.raises(ValueError, match="expected hf://owner/name"):
        parse_hub_url(url)


class Hub(LoopServer):
    """Tell of one repository, and redirect to where its files are."""

    def __init__(self, elsewhere: str) -> None:
        self.elsewhere = elsewhere
        self.heads = []
        super().__init__()

    async def handle(self, reader, writer) -> None:
        while head := await read_head(reader):
            self.heads.append(head)
            if head.get("authorization") != f"Bearer {TOKEN}":
                writer.write(answer(401, "Unauthorized", X_Error_Code="RepoNotFound"))
            elif head.path.startswith("/api/models/org/name"):
                lfs = {"sha256": SHA256, "size": len(DATA), "pointerSize": 134}
                names = [{"rfilename": "model.safetensors", "lfs": lfs, "size": len(DATA)}]
                names += [{"rfilename": "config.json"}, {"rfilename": "deep/x"}]
                told = {"id": "org/name", "modelId": "org/name", "sha": COMMIT, "siblings": names, "tags": []}
                body = json.dumps(told | {"downloads": 1, "likes": 1, "private": False}).encode()
                writer.write(answer(200, "OK", body, Content_Type="application/json"))
            elif head.path.startswith(f"/org/name/resolve/{COMMIT}/"):
                name = head.path.rpartition("/")[2]
                writer.write(answer(302, "Found", Location=f"{self.elsewhere}/cdn/{name}?sig={TOKEN}"))
            else:
                writer.write(answer(404, "Not Found", X_Error_Code="RepoNotFound"))
            await writer.drain()


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(online, fault_proxy):
    with Hub(fault_proxy.url.replace("127.0.0.1", "localhost")) as server:
        yield server


def options(server) -> dict[str, object]:
    return {"endpoint": server.url, "token": TOKEN}


def test_the_hub_tells_the_sha256_of_large_files(hub):
    store = open_store("hf://org/name", storage_options=options(hub))
    assert store.sha256_of("model.safetensors", "") == SHA256
    assert store.sha256_of("config.json", "") == store.sha256_of("not there", "") == ""


@pytest.mark.slow
def test_commit_is_asked_for_once_and_the_token_stays_at_the_hub(hub, origin, fault_proxy):
    origin.put("/cdn/model.safetensors", DATA)
    before = len(fault_proxy.requests)
    store = open_store("hf://org/name", storage_options=options(hub))
    assert store.names() == {"model.safetensors", "config.json"}
    assert store.names(deep=True) == {"model.safetensors", "config.json", "deep/x"}
    with store.open("model.safetensors") as source:
        buffer = bytearray(7)
        source.read_into(7, memoryview(buffer))
        assert bytes(buffer) == b"weights"
        assert source.url == "hf://org/name/model.safetensors"
        assert source.request()[1] == []
    assert [head.path.partition("/revision")[0] for head in hub.heads] == [
        "/api/models/org/name",
        f"/org/name/resolve/{COMMIT}/model.safetensors",
    ]
    assert not any(request.authorized for request in list(fault_proxy.requests)[before:])


@pytest.mark.slow
def test_checkpoint_opens(hub, origin, write, tmp_path):
    origin.put("/cdn/model.safetensors", write(tmp_path / "model.safetensors", "a").read_bytes())
    with streamload.open("hf://org/name", storage_options=options(hub)) as checkpoint:
        assert list(checkpoint) == ["a"]


@pytest.mark.slow
def test_unknown_repository_is_not_found(hub):
    with pytest.raises(FileNotFoundError, match="no such repository or revision") as caught:
        streamload.open("hf://org/other", storage_options=options(hub))
    assert TOKEN not in str(caught.value)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="has no nonsense"):
        open_store("hf://org/name", storage_options={"nonsense": TOKEN})


def test_offline_takes_what_was_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "deep").mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "x").write_bytes(DATA)
    (folder / "snapshots" / COMMIT / "deep" / "y").write_bytes(DATA)
    store = open_store("hf://org/name")
    assert store.names() == {"x"}
    assert store.names(deep=True) == {"x", "deep/y"}
    with open_source("hf://org/name/deep/y") as source:
        assert (source.nbytes, source.url) == (len(DATA), "hf://org/name/deep/y")
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        open_store("hf://org/other")


@pytest.mark.usefixtures("online")
def test_token_is_stripped_and_one_that_cannot_be_sent_is_refused_unseen():
    with Hub("http://127.0.0.1:1") as hub:
        given = {"endpoint": hub.url, "token": f"{TOKEN}\n"}
        open_store("hf://org/name", storage_options=given).names()
        assert hub.heads[-1].get("authorization") == f"Bearer {TOKEN}"
        with pytest.raises(ValueError, match="the token has characters") as caught:
            open_store("hf://org/name", storage_options={**given, "token": f"{TOKEN}\nx"})
    assert TOKEN not in str(caught.value)
