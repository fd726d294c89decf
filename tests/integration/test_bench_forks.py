"""Runs in processes of their own, with `bench source`'s clients: each ends for itself, whatever happens in it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamload.bench import BenchError
from streamload.bench._forks import Forks

JOB = "streamload.bench._source._process"
REQUEST = {
    "client": "streamload, into place",
    "url": "",
    "storage_options": {},
    "keys": [],
    "signed": [],
    "nbytes": [],
    "weights_at": [],
    "sums": [],
    "range_bytes": 1 << 20,
    "connections": 1,
    "scratch": "",
    "busy": False,
    "check": False,
}


@pytest.fixture(scope="module")
def forks():
    """One parent of all the processes below."""
    pytest.importorskip("torch")
    with Forks(JOB) as found:
        yield found


@pytest.fixture
def silent_server():
    """The URL of one that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def asked(**changes: object) -> str:
    return json.dumps({**REQUEST, **changes})


def test_a_failure_is_told_by_its_last_line_and_leaves_no_result(forks, tmp_path):
    missing = str(tmp_path / "missing")
    said = forks.run(asked(url=missing), tmp_path / "result.json", 60)
    assert said.startswith("FileNotFoundError: ")
    assert missing in said
    assert not (tmp_path / "result.json").exists()


def test_a_peer_that_cannot_run_says_why_in_its_result(forks, tmp_path):
    forks.run(asked(client="nobody"), tmp_path / "result.json", 60)
    assert json.loads((tmp_path / "result.json").read_text())["cannot_run"].startswith("KeyError")


def test_one_that_does_not_end_is_killed_and_the_next_runs(forks, tmp_path, silent_server):
    said = forks.run(asked(url=f"{silent_server}/model.safetensors"), tmp_path / "result.json", 0.2)
    assert said == "it had not ended after 0 s"
    forks.run(asked(client="nobody"), tmp_path / "next.json", 60)
    assert (tmp_path / "next.json").exists()


def test_leaving_ends_one_that_still_runs(tmp_path, silent_server):
    with Forks(JOB) as forks, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(forks.run, asked(url=f"{silent_server}/m.safetensors"), tmp_path / "r.json", 3600)
        while not (tmp_path / "r.said").exists():
            assert not waiting.done()
        forks.close()
        assert "had not ended" in waiting.result(60)


def test_without_the_parent_it_is_said_that_nothing_can_be_started(tmp_path):
    with Forks(JOB) as forks:
        forks.close()
        with pytest.raises(BenchError, match="the process that starts the others has ended with 0"):
            forks.run(asked(), tmp_path / "result.json", 60)
