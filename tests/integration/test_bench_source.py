"""`streamload bench source` on a small checkpoint behind nginx."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from streamload.bench import BenchError, SourceSettings, run_source_bench
from streamload.cli import main
from streamload.cli._bench_options import without_values
from streamload.testing import LlamaShape, make_checkpoint

from ..timelines import check_timeline

pytestmark = pytest.mark.slow

SHAPE = LlamaShape(layers=2, hidden=64, heads=2, kv_heads=2, intermediate=128, vocab=128, dtype="F32")


@pytest.fixture(scope="module")
def endpoint(nginx):
    folder = nginx.root / "measured"
    make_checkpoint(folder / "model", SHAPE, shards=2)
    yield {"key": "reader", "secret": "hush-hush", "endpoint_url": nginx.url}
    shutil.rmtree(folder)


def test_a_checkpoint_behind_a_url_is_measured_and_its_bytes_compared(endpoint):
    url = "s3://measured/model/model.safetensors.index.json"
    settings = SourceSettings(url=url, storage_options=endpoint, repeat=1, busy=False, peers=False)
    bench = run_source_bench(settings)
    ran = {score.name for score in bench.scores if score.idle}
    assert ran == {
        "raw sockets",
        "streamload, into place",
        "streamload, through the ring",
        "streamload without libcurl",
    }
    assert bench.objects == 2
    stats = bench.score("streamload, into place").idle[0].stats
    assert stats["remote_bytes"] == stats["bytes_read"] > 0
    assert bench.score("streamload without libcurl").idle[0].stats["remote_bytes"] == 0
    (timeline,) = bench.as_dict()["timelines"]
    assert timeline["title"] == "streamload, into place"
    check_timeline(timeline, SHAPE.nbytes, "read", "copy")


def test_a_plain_url_has_a_ceiling_too(endpoint):
    url = f"{endpoint['endpoint_url']}/measured/model"
    bench = run_source_bench(SourceSettings(url=url, repeat=1, busy=False, peers=False))
    assert bench.score("raw sockets") is not None, bench.table()
    assert bench.ratios()["rate_to_raw_sockets"] > 0


def test_the_command_prints_a_table_and_writes_json(endpoint, tmp_path):
    given = [f"--storage-option={key}={value}" for key, value in endpoint.items()]
    command = ["bench", "source", "s3://measured/model/model.safetensors.index.json", *given, "--repeat", "1"]
    done = CliRunner().invoke(main, [*command, "--no-busy", "--no-peers", "--json", str(tmp_path / "result.json")])
    assert done.exit_code == 0, done.output
    assert "raw sockets" in done.output
    written = (tmp_path / "result.json").read_text()
    assert json.loads(written)["rounds"] == 1
    assert "hush-hush" not in done.output + written


def test_wrong_bytes_end_the_benchmark(endpoint, monkeypatch):
    from streamload.bench._source import _run

    monkeypatch.setattr(_run, "zlib", SimpleNamespace(crc32=lambda data: 1))
    url = "s3://measured/model/model.safetensors.index.json"
    with pytest.raises(BenchError, match="came out wrong"):
        run_source_bench(SourceSettings(url=url, storage_options=endpoint, repeat=1, busy=False, peers=False))


def test_the_command_is_recorded_without_secrets():
    words = ["bench", "source", "s3://b/m", "--storage-option", "secret=a b", "--storage-option=key=k", "--repeat", "2"]
    said = without_values(words)
    assert said == "streamload bench source s3://b/m --storage-option 'secret=…' '--storage-option=key=…' --repeat 2"
