"""Which layer a read belongs to, where a load opens fewer files than the checkpoint has."""

from __future__ import annotations

import pytest

from streamload import open as open_checkpoint

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("empty_first", [False, True])
def test_a_file_of_nothing_but_empty_tensors_is_counted_by_nobody(tmp_path, empty_first):
    from safetensors.torch import save_file

    from streamload._engine import shared_engine
    from streamload._models import Marks
    from streamload.bench._traced import start_load
    from streamload.options import StreamOptions

    for number in range(3):
        rows = 0 if empty_first and number == 0 else 64
        tensors = {f"model.layers.{number}.weight": torch.ones(rows, 64)}
        save_file(tensors, tmp_path / f"model-{number + 1:05d}-of-00003.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        tensors = {name: torch.empty(info.shape) for name, info in checkpoint.items()}
        engine = shared_engine("cpu", StreamOptions())
        with start_load(checkpoint, tensors, torch.device("cpu"), engine) as ticket:
            ticket.wait()
            spans = Marks(torch.nn.Module(), "cpu").spans(0.0, checkpoint, ticket.trace(), 0.0)
    expected = [f"model.layers.{number}" for number in range(int(empty_first), 3)]
    assert sorted({span.layer for span in spans}) == expected
