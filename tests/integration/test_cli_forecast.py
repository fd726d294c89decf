"""`streamload plan MODEL --device NAME` over checkpoints of real shapes that hold no bytes: headers in sparse files."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod

import pytest
from click.testing import CliRunner

from streamload.cli import main
from streamload.testing import LlamaShape

SHAPES = {
    "8b": LlamaShape(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14336, vocab=128256, dtype="BF16"),
    "70b": LlamaShape(layers=80, hidden=8192, heads=64, kv_heads=8, intermediate=28672, vocab=128256, dtype="BF16"),
}


def write_hollow(directory, tensors, config=None):
    """Write a checkpoint of BF16 tensors that is only a header and a hole."""
    directory.mkdir(exist_ok=True)
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(directory)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of the shapes, by name."""
    folder = tmp_path_factory.mktemp("hollow")
    return {name: write_hollow(folder / name, shape.tensors(), shape.config()) for name, shape in SHAPES.items()}


def run(*arguments: str):
    return CliRunner().invoke(main, ["plan", *arguments], catch_exceptions=False)


def forecast(*arguments: str):
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_without_a_device_plan_says_what_it_always_did(models):
    assert set(forecast(models["8b"])) == {"chunk_bytes", "layers"}


def test_8b_on_an_h100_takes_as_long_as_its_link_and_hides_ten_thousand_tokens(models):
    """X, T* and the times of the first token are those of the tables of section 1 of the research on overlap."""
    found = forecast(models["8b"], "--device", "h100", "--link", "55GB/s")
    assert found["transfer_seconds"] == pytest.approx(0.292, rel=0.01)
    assert found["free_tokens"] == pytest.approx(10_700, rel=0.05)
    assert [prompt["tokens"] for prompt in found["prompts"]] == [128, 2048, 8192]
    assert [prompt["compute_seconds"] for prompt in found["prompts"]] == pytest.approx([0.006, 0.051, 0.225], abs=0.002)
    assert [prompt["first_token_seconds"] for prompt in found["prompts"]] == pytest.approx([0.292] * 3, rel=0.01)
    assert found["oversized"] is None
    assert all(layer["resident"] for layer in found["layers"])
    assert found["notes"] == []


def test_8b_on_an_a100_pays_for_the_embedding_that_comes_first(models):
    found = forecast(models["8b"], "--device", "a100", "--tokens", "8192")
    (prompt,) = found["prompts"]
    assert prompt["first_token_seconds"] == pytest.approx(0.72, rel=0.01)
    assert prompt["over_best"] == pytest.approx(1.09, rel=0.01)
    assert found["free_tokens"] == pytest.approx(8000, rel=0.05)


def test_from_a_drive_the_drive_counts(models):
    found = forecast(models["8b"], "--device", "h100", "--storage", "14GB/s")
    assert found["transfer_seconds"] == pytest.approx(1.15, rel=0.01)
    assert found["prompts"][0]["first_token_seconds"] == pytest.approx(1.148, rel=0.01)
    assert forecast(models["8b"], "--device", "h100", "--storage", "nvme")["transfer_seconds"] == pytest.approx(
        2.3, rel=0.01
    )


# Of the research's table: 60 GB stay, and three slots of 1.71 GB beside them.
@pytest.mark.parametrize(
    ("device", "more", "passes_per_second"),
    [("h100", (), 0.68), ("a100-80g", (), 0.31), ("h100", ("--storage", "14GB/s"), 0.17)],
)
def test_70b_with_60_gb_resident_runs_at_the_rate_of_its_link(models, device, more, passes_per_second):
    found = forecast(models["70b"], "--device", device, "--device-memory", "65.2GB", *more)
    oversized = found["oversized"]
    assert oversized["passes_per_second"] == pytest.approx(passes_per_second, rel=0.03)
    assert oversized["resident_bytes"] == pytest.approx(60e9, rel=0.02)
    assert oversized["slots"]["slots"] == 3
    rate = found["pipeline"]["link_bytes_per_second"]
    assert oversized["link_fraction"] == pytest.approx(
        oversized["bytes_streamed"] * oversized["passes_per_second"] / rate
    )
    streamed = [layer for layer in found["layers"] if not layer["resident"]]
    assert len(streamed) == len(oversized["slots"]["streamed"])
    assert sum(layer["device_bytes"] for layer in streamed) == pytest.approx(oversized["bytes_streamed"])
    assert {layer["slot"] for layer in streamed} == {0, 1, 2}
    assert oversized["slots"]["device_bytes"] <= 65.2e9
    assert found["layers"][0]["resident"]
    assert found["layers"][-1]["resident"]


def test_weights_that_exceed_the_device_pass_through_slots_unasked(models):
    found = forecast(models["70b"], "--device", "l4")
    assert found["budget_bytes"] == 21_600_000_000
    assert found["oversized"]["passes_per_second"] == pytest.approx(0.2, rel=0.03)
    assert forecast(models["70b"], "--device", "b200")["oversized"] is None


def test_text_fits_80_columns_and_names_what_stays(models):
    output = run(models["70b"], "--device", "h100", "--device-memory", "65.2GB").output
    lines = output.splitlines()[1:]  # the first is the path
    assert max(map(len, lines)) <= 80
    for words in (
        "X = 2.57 s",
        "T* = ",
        "over max(X, C)",
        "through 3 slots of 1.71 GB",
        "passes/s",
        "model.layers.2, 4",
    ):
        assert words in output
    assert "nothing was measured" in " ".join(output.split())
    assert "oversized" not in run(models["8b"], "--device", "h100").output


def test_sizes_and_lists_are_taken_in_every_spelling(models):
    spellings = ("64424509440", "60GiB", "60 gib", "64.42450944GB")
    found = [forecast(models["70b"], "--device", "h100", "--device-memory", text) for text in spellings]
    assert all(other["budget_bytes"] == 60 << 30 for other in found)
    for tokens in (("--tokens", "1,7"), ("--tokens", "1", "--tokens", "7")):
        prompts = forecast(models["8b"], "--device", "H100", *tokens)["prompts"]
        assert [prompt["tokens"] for prompt in prompts] == [1, 7]


def test_the_options_of_the_environment_count(models, monkeypatch):
    monkeypatch.setenv("STREAMLOAD_OPTION_DEVICE_MEMORY", "10000000000")
    assert forecast(models["8b"], "--device", "h100")["budget_bytes"] == 10_000_000_000
    assert forecast(models["8b"], "--device", "h100", "--device-memory", "9GB")["budget_bytes"] == 9_000_000_000


def test_a_budget_that_works_with_one_slot_says_that_nothing_overlaps(models):
    least = forecast(models["8b"], "--device", "h100")["least_bytes"]
    output = run(models["8b"], "--device", "h100", "--device-memory", str(least)).output
    assert "1 slot of 1.05 GB (nothing overlaps)" in output
    refused = run(models["8b"], "--device", "h100", "--device-memory", str(least - 1))
    assert refused.exit_code == 2
    assert str(least) in refused.stderr
    assert "model.embed_tokens" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "cpu"), "to a CPU there is none"),
        (("--device", "cuda:0"), "known are a100"),
        (("--device", "h100", "--device-memory", "lots"), "24GiB"),
        (("--device", "h100", "--device-memory", "5i"), "24GiB"),
        (("--device", "h100", "--storage", "tape"), "page-cache, nvme"),
        (("--device", "h100", "--link", "0"), "above 0"),
        (("--device", "h100", "--tokens", "0"), "from 1 to"),
        (("--device", "h100", "--tokens", "1,,2"), "from 1 to"),
        (("--device", "h100", "--tokens", "\N{SUPERSCRIPT TWO}"), "from 1 to"),
        (("--tokens", "5"), "give --device too"),
        (("--device-memory", "5GB"), "give --device too"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(models, arguments, says):
    result = run(models["8b"], *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr


EXPERTS = {
    "model.embed_tokens.weight": (64, 64),
    **{f"model.layers.{n}.mlp.experts.{e}.up_proj.weight": (512, 512) for n in range(4) for e in range(8)},
    "lm_head.weight": (64, 64),
}


def test_experts_need_a_config_and_its_absence_is_said(tmp_path):
    config = {"num_experts": 8, "num_experts_per_tok": 2}
    known = forecast(write_hollow(tmp_path / "known", EXPERTS, config), "--device", "h100")
    unknown = forecast(write_hollow(tmp_path / "unknown", EXPERTS), "--device", "h100")
    assert not any("mixture" in note for note in known["notes"])
    assert "mixture of experts" in unknown["notes"][0]
    assert known["free_tokens"] == pytest.approx(4 * unknown["free_tokens"], rel=0.02)
    for text in ("[1, 2]", "{", "\ud800"):
        broken = tmp_path / "unknown" / "config.json"
        broken.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert "mixture of experts" in " ".join(forecast(str(tmp_path / "unknown"), "--device", "h100")["notes"])


def test_no_tensors_and_no_bytes_are_no_trouble(tmp_path):
    empty = forecast(write_hollow(tmp_path / "empty", {}), "--device", "h100")
    assert (empty["weights_bytes"], empty["least_bytes"], empty["oversized"]) == (0, 0, None)
    assert run(write_hollow(tmp_path / "hollow", {"a": (0,)}), "--device", "l4").exit_code == 0


def test_a_forecast_needs_no_extra(models):
    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'safetensors', 'matplotlib'): sys.modules[name] = None\n"
        "from streamload.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "plan", models["8b"], "--device", "h100"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "T* =" in done.stdout
