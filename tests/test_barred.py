"""Places where a user may not write, tried as one who is really held back."""

from __future__ import annotations

import pytest
import torch

import layerscope
from layerscope import models, report, results, testing
from layerscope.errors import ResultError

NET, *NETS = [models.build("fcn-1x4", seed=seed, inputs=(4,), classes=3) for seed in (2, 0, 1)]
STATES = {epoch: net.state_dict() for epoch, net in enumerate(NETS)}
PAIR = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def sweep(out):
    return layerscope.sweep(
        NET, PAIR, checkpoints=STATES, out=out, draws=1, device="cpu", show_progress=False
    )


@pytest.fixture
def writers(monkeypatch):
    """What writes for the user, by what it writes."""
    ds = testing.dataset(layers=2)
    monkeypatch.setattr(report, "page", lambda *_, **__: "what takes long to draw")
    return {
        "sweep.nc": lambda path: results.save(ds, path),
        "report.html": lambda path: report.write({"net": ds}, path),
        "sweep": sweep,
    }


@pytest.mark.parametrize("name", ["sweep.nc", "report.html", "sweep"])
def test_a_folder_that_may_not_be_written_to_is_named(open_place, unprivileged, writers, name):
    folder, write = open_place / "theirs", writers[name]
    write(open_place / f"before-{name}")  # loads what would be out of reach
    folder.mkdir()
    folder.chmod(0o555)
    with unprivileged(), pytest.raises(ResultError, match=r"theirs.*: Permission denied.*[Aa]llow"):
        write(folder / name)
    assert not list(folder.iterdir())


def test_a_finished_sweep_opens_where_nothing_may_be_written(open_place, unprivileged):
    out = open_place / "done"
    done = sweep(out)
    for path in (out, *out.iterdir()):
        path.chmod(0o555)
    with unprivileged():
        assert sweep(out).identical(done)
