"""Setup and work of a sweep, counted: what is read, watched and made, and that nothing is twice."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope.base import devices
from layerscope.core import checkpoints, layers, perturb
from layerscope.core.checkpoints import Series
from layerscope.core.perturb import Redraw
from layerscope.core.probe import CellTensors, Probe, Subject, _cell
from layerscope.core.sweep._grid import Grid, rows
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._tile import Part, TileHooks, batches_together, compute_tile

PAIR = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 3),
    ).eval()  # fmt: skip


STATES = {0: network(1).state_dict(), 1: network(2).state_dict()}


def plan():
    net = network()
    subject = Subject.of(
        net, PAIR, checkpoints=STATES, metrics=["error", "loss"], batch_size=8, device="cpu",
        dtype=None, output=None,
    )  # fmt: skip
    kinds = perturb.parse(["reinitialize", "rerandomize"])
    grid = Grid(rows(net, None, "leaf", layers.Norms(), True), kinds, [0], 2)
    fresh = Redraw(net, subject.series)
    return Plan(subject, grid, CellTensors(net, subject.series, fresh, 0, subject.device))


def tiles(at_once, refused=()):
    """What two parts gave on every batch, and how often a cell's weights were made."""
    wanted, made, found = plan(), Counter(), {}
    computed = wanted.tensors.computed
    wanted.tensors.computed = lambda cell: made.update([cell.key]) or computed(cell)

    @contextmanager
    def claim(index, number):
        yield (index, number) not in refused

    def done(index, number, result):
        found[index, number] = {name: array.copy() for name, array in result.arrays().items()}

    groups = {}
    for cell in wanted.grid.cells():
        groups.setdefault(wanted.tensors.group([cell]), []).append(cell)
    held = list(groups.items())
    parts = {0: Part(held[:2]), 1: Part(held[2:])}
    with devices.NoGradients(), Probe(wanted.subject) as probe:
        probe.fit()
        batches = list(enumerate(wanted.subject.data))
        for at in range(0, len(batches), at_once):
            compute_tile(
                wanted, probe, batches[at : at + at_once], parts, done, TileHooks(claim=claim)
            )
    return found, max(made.values()), wanted


def test_weights_that_are_not_kept_are_made_once_for_several_batches(monkeypatch):
    kept, once, small = tiles(1)
    monkeypatch.setattr(_cell, "KEPT_BYTES", 0)
    anew, often, large = tiles(1)
    waves, rarely, _ = tiles(8)
    some, _, _ = tiles(3, refused={(1, 0), (4, 0), (2, 1), (6, 1)})
    assert (once, often, rarely) == (1, 7, 1)
    assert (batches_together(small), batches_together(large)) == (1, 7)
    assert kept.keys() == waves.keys() == some.keys() | {(1, 0), (4, 0), (2, 1), (6, 1)}
    for other in (anew, waves, some):
        for at, arrays in other.items():
            assert all(np.array_equal(kept[at][name], array) for name, array in arrays.items())


def test_batches_that_do_not_fit_together_wait_for_one_another(monkeypatch):
    monkeypatch.setattr(_cell, "KEPT_BYTES", 0)
    monkeypatch.setattr(devices, "spare_bytes", lambda _: 12_000)
    found, often, _ = tiles(8)
    monkeypatch.undo()
    kept, _, _ = tiles(1)
    assert 1 < often < 7
    for at, arrays in kept.items():
        assert all(np.array_equal(found[at][name], array) for name, array in arrays.items())


def counted(monkeypatch, owner, name):
    """Note the arguments of every call of a method."""
    calls, original = [], getattr(owner, name)

    def noting(self, *args, **kwargs):
        calls.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, noting)
    return calls


def test_of_rows_that_are_not_swept_only_the_trained_values_are_read(monkeypatch):
    reads = counted(monkeypatch, Series, "read")
    given = {"layers": ["3"], "whole": False, "draws": 1, "device": "cpu", "show_progress": False}
    ds = layerscope.sweep(network(), PAIR, checkpoints=STATES, **given)
    assert ds.distance.sel(epoch=[0, 1]).notnull().all()
    early = {name for epoch, names in reads if epoch == 0 for name in names}
    assert early == {"3.weight", "3.bias"}


def test_one_batch_takes_two_passes_before_its_cells():
    net = network()
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    given = {"layers": ["3"], "whole": False, "perturbations": ["zero"], "device": "cpu"}
    layerscope.sweep(net, PAIR, checkpoints=STATES, show_progress=False, **given)
    assert seen.count(50) == 3  # watched, recorded, and the cell


def test_files_are_hashed_once_unless_they_were_written_a_moment_ago(tmp_path, monkeypatch):
    from layerscope.core.checkpoints import _digests as digests

    path = tmp_path / "epoch-0.pt"
    torch.save(STATES[0], path)
    taken = []
    original = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *a: taken.append(1) or original(*a))
    first = checkpoints.open_series({0: path}).digests()
    assert checkpoints.open_series({0: path}).digests() == first
    assert len(taken) == 2
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    for _ in range(2):
        assert checkpoints.open_series({0: path}).digests() == first
    assert len(taken) == 3
    torch.save(STATES[1], path)
    assert checkpoints.open_series({0: path}).digests() != first


@pytest.mark.parametrize("frozen", ["0", "5"])
def test_a_frozen_row_alone_makes_no_checkpoint_a_copy(frozen):
    names = [name for name in STATES[0] if name.startswith(f"{frozen}.")]
    still = {name: STATES[0][name] for name in names}
    series = {
        epoch: {name: still.get(name, t + epoch).clone() for name, t in STATES[1].items()}
        for epoch in (0, 1, 2)
    }
    given = {"layers": [frozen], "whole": False, "draws": 1, "device": "cpu"}
    ds = layerscope.sweep(network(), PAIR, checkpoints=series, show_progress=False, **given)
    assert "audit" not in ds.attrs
