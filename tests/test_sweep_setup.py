"""Work before the first cell: done once for all that need it, and kept for the cells."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import layerscope
from layerscope import models
from layerscope.core import lending
from layerscope.core.probe import CellTensors
from layerscope.core.sweep import _ground as ground

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")

PAIR = torch.randn(21, 4), torch.randint(0, 2, (21,))
TASKS = {"news": PAIR, "code": (PAIR[0][:9], PAIR[1][:9])}


def network(seed=0):
    return models.build("fcn-2x8", seed=seed, inputs=(4,), classes=2)


STATES = {epoch: network(epoch + 1).state_dict() for epoch in (0, 3, 5)}


def sweep(data=PAIR, model=None, **options):
    given = {"checkpoints": STATES, "draws": 2, "device": "cpu", "show_progress": False}
    return layerscope.sweep(model or network(), data, **(given | {"batch_size": 8} | options))


def calls(monkeypatch, owner, name):
    """Counts calls."""
    found, own = [], getattr(owner, name)

    def counting(*given, **named):
        found.append(given)
        return own(*given, **named)

    monkeypatch.setattr(owner, name, counting)
    return found


def test_a_network_is_lent_once_for_its_identity_and_its_sweep(tmp_path, monkeypatch):
    lent = calls(monkeypatch, lending.borrowed, "begin")
    without = sweep()
    assert len(lent) == 1
    kept = sweep(out=tmp_path / "out")
    assert len(lent) == 2
    assert kept["value"].equals(without["value"])
    sweep(out=tmp_path / "out", plan=True)
    assert len(lent) == 3


def test_of_several_tasks_each_has_it_once_more_beforehand(tmp_path, monkeypatch):
    lent = calls(monkeypatch, lending.borrowed, "begin")
    sweep(TASKS)
    assert len(lent) == 4
    sweep(TASKS, out=tmp_path / "out")
    assert len(lent) == 8


def test_it_is_given_back_before_the_last_look_and_where_a_sweep_is_stopped(tmp_path):
    model, seen = network(), []
    before = {name: t.clone() for name, t in model.state_dict().items()}

    def look(_):
        same = all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        seen.append(same and model.training)

    sweep(model=model, out=tmp_path / "out", callback=look)
    assert seen[-1]

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(model=model, out=tmp_path / "other", between=stop)
    look(None)
    assert seen[-1]
    with lending.borrowed(model, torch.device("cpu"), "somebody else"):
        pass


def test_checkpoints_are_measured_once_for_all_tasks_of_a_trained_network(monkeypatch):
    measured = calls(monkeypatch, ground, "row_distances")
    ds = sweep(TASKS)
    assert len(measured) == 1
    sweep(TASKS, model_epochs=[3, 5])
    assert len(measured) == 3
    for task, data in TASKS.items():
        alone = sweep(data)
        for name in ("value", "draw_distance"):
            part = ds[name] if "task" not in ds[name].dims else ds[name].sel(task=task, drop=True)
            assert part.equals(alone[name])


@pytest.mark.parametrize("options", [{}, {"fresh": lambda: network(int(torch.randint(99, ())))}])
def test_weights_that_are_kept_are_made_once(monkeypatch, options):
    made, own = Counter(), CellTensors._perturbed

    def counting(self, cell, trained):
        made[cell.key] += 1
        return own(self, cell, trained)

    monkeypatch.setattr(CellTensors, "_perturbed", counting)
    ds = sweep(**options)
    assert set(made.values()) == {1}
    assert len(made) == int(ds["value"].isel(metric=0).notnull().sum())


def test_a_fresh_network_is_built_once_for_each_draw():
    built = []

    def fresh():
        built.append(None)
        model = network()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        return model

    sweep(perturbations=["rerandomize"], fresh=fresh)
    # Two to see that they differ, and one for each of four rows and two draws.
    assert len(built) == 2 + 4 * 2
