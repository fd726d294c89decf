"""Every hostile checkpoint is refused with its typed error, quickly, and nothing stays open."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import safetensors

import streamload._checkpoint as checkpoints
from streamload.errors import FormatError

SCRIPT = Path(__file__).with_name("hostile.py")


def load():
    # Dataclasses look their module up, and runpy removes it: keep a name for it.
    sys.modules.setdefault("hostile", type(sys)("hostile"))
    return runpy.run_path(str(SCRIPT), run_name="hostile")


HOSTILE = load()
ATTACKS = HOSTILE["attacks"]()

# What safetensors 0.8.0 lets through; the other files are refused by both.
ONLY_WE_REFUSE = {
    "NUL ends a C string early",
    "dtype as an object",
    "same tensor twice",
    "same tensor twice, once escaped",
    "tensor as a list",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_ends_in_its_typed_error(attack, tmp_path, open_descriptors):
    path = attack.write(tmp_path)
    before = open_descriptors()
    if attack.error is None:
        with checkpoints.open(path) as checkpoint:
            assert len(checkpoint.layers) <= len(checkpoint)
    else:
        with pytest.raises(attack.error) as caught:
            checkpoints.open(path)
        assert attack.says in str(caught.value)
        assert str(tmp_path) in str(caught.value), "the error says which file"
        assert len(str(caught.value)) < 12_000
    assert open_descriptors() == before


@pytest.mark.parametrize("attack", HOSTILE["file_attacks"](), ids=lambda attack: attack.name)
def test_safetensors_agrees_but_for_the_rules_we_add(attack, tmp_path):
    path = attack.write(tmp_path)
    try:
        safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError:
        assert attack.error is FormatError
    else:
        assert attack.error is None or attack.name in ONLY_WE_REFUSE


def test_script_writes_every_attack(tmp_path, capsys):
    HOSTILE["main"](tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == len(ATTACKS)


def test_names_are_distinct():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
