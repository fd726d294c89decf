"""The demo's figures: the ratio, the words, and what makes it fail."""

from __future__ import annotations

from dataclasses import replace

from streamload._demo._report import Figures, Samples
from streamload._demo._scales import SCALES
from streamload._machine import machine_facts

GOOD = Figures(
    subject="a model",
    nbytes=1000,
    tokens=8,
    device="cpu",
    simulated_link=500.0,
    link_bytes_per_second=500.0,
    compute=Samples((1.0, 1.5, 1.2)),
    usual=Samples((3.2, 3.3, 3.4)),
    streamed=Samples((2.1, 2.2, 2.0)),
    safetensors=None,
    bits_equal=True,
    first_layer_arrived=0.05,
    first_layer_most=0.1,
    residue=(),
)


def test_ratio_is_to_the_longer_of_moving_and_computing():
    assert GOOD.move_seconds == 2.0
    assert GOOD.ratio == 2.1 / 2.0
    assert replace(GOOD, compute=Samples((4.0,))).ratio == 2.1 / 4.0


def test_a_good_demo_has_no_failures():
    assert GOOD.failures == []
    assert "1.57 times as fast" in GOOD.heading


def test_each_promise_broken_is_named():
    assert "differ" in replace(GOOD, bits_equal=False).failures[0]
    assert "not faster" in replace(GOOD, streamed=Samples((3.3,))).failures[0]
    assert "not faster" in replace(GOOD, safetensors=Samples((2.0,))).failures[0]
    assert "12%" in replace(GOOD, first_layer_arrived=0.12).failures[0]
    assert replace(GOOD, first_layer_arrived=0.5, first_layer_most=None).failures == []
    assert "a hook" in replace(GOOD, residue=("a hook",)).failures[0]


def test_figures_are_written_with_the_machine_and_the_command():
    written = GOOD.as_dict(machine_facts(native_build="release"), "streamload demo")
    assert written["command"] == "streamload demo"
    assert written["machine"]["native_build"] == "release"
    assert written["median_seconds"]["streamed"] == 2.1
    assert written["failures"] == []


def test_simulated_link_is_called_simulated():
    assert "simulated" in GOOD.link_words
    assert "simulated" not in replace(GOOD, simulated_link=None, device="cuda:0").link_words


def test_the_first_layer_of_every_scale_is_less_than_a_tenth():
    for scale in SCALES.values():
        shape = scale.shape
        width = 2 if shape.dtype == "BF16" else 4
        before = [dims for name, dims in shape.tensors().items() if "embed" in name or ".layers.0." in name]
        elements = sum(dims[0] * (dims[1] if len(dims) > 1 else 1) for dims in before)
        assert elements * width < 0.1 * shape.nbytes, scale
