"""The link benchmark on a GPU: every way to copy and to pin runs."""

from __future__ import annotations

import pytest

from streamload.bench import LinkSettings, run_link_bench

pytestmark = [pytest.mark.slow, pytest.mark.needs_cuda]


def test_every_way_to_copy_and_to_pin_runs():
    result = run_link_bench(LinkSettings(device="cuda:0", repeat=2, nbytes=64 << 20))
    assert not result.stand_in
    for figure in result.figures:
        if figure.score.name.startswith("torch pin_memory"):  # torch has to have a way to give the memory back
            assert bool(figure.score.seconds) != bool(figure.score.cannot_run)
        else:
            assert (figure.score.cannot_run, len(figure.score.seconds)) == ("", 2), figure
    assert {figure.target for figure in result.figures} == {"copies", "single", "pageable", "pinning"}
    assert set(result.ratios()) == {"copies_to_ceiling", "copies_to_best_peer"}
    assert "NO GPU" not in result.table()
