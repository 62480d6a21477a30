"""What the audit of a series finds is said by sweeps, marked in cells, and judged by nobody."""

from __future__ import annotations

import warnings

import holoviews as hv
import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import checkpoints, plots, report, results, stats
from layerscope.core.checkpoints import Series
from layerscope.errors import SweepWarning
from layerscope.results import AS_TRAINED, NO_EPOCH

pytestmark = pytest.mark.usefixtures("without_pictures")

PAIR = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 3),
    )  # fmt: skip


def walk(seed=0, steps=5):
    """States of a network whose parameters take small steps."""
    net, found = network(seed), {}
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(steps):
        found[epoch] = {name: t.clone() for name, t in net.state_dict().items()}
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.02 * torch.rand(tensor.shape, generator=generator)
            else:
                tensor += 1
    return found


def sweep(series, model=None, **options):
    options = {"draws": 1, "device": "cpu", "show_progress": False, "whole": True, **options}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ds = layerscope.sweep(model or network(9), PAIR, checkpoints=series, **options)
    assert {each.category for each in said} <= {SweepWarning}
    return ds, [str(each.message) for each in said]


def verdicts(ds, **options):
    table = stats.classify(ds, include_network=True, tolerance=0.9, critical=1.0, **options)
    return dict(zip(table["layer"], table["verdict"], strict=True))


def test_a_sound_series_is_in_doubt_only_where_it_is_the_trained_network():
    ds, said = sweep(walk())
    assert said == []
    doubt = ds.doubt.transpose("layer", "epoch")
    assert doubt.sel(epoch=4).isin([AS_TRAINED]).all()
    assert (doubt.sel(epoch=[NO_EPOCH, 0, 1, 2, 3]) == "").all()
    assert "audit" not in ds.attrs
    assert set(verdicts(ds, epoch=4).values()) == {"not moved"}
    assert set(verdicts(ds, epoch=0).values()) == {"robust"}


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_copy_of_the_last_is_said_marked_and_never_robust(epoch, tmp_path):
    series = walk()
    series[epoch] = {name: t.clone() for name, t in series[4].items()}
    for _ in range(2):  # also when the result is taken up
        ds, said = sweep(series, out=tmp_path)
        (one,) = said
        assert one.startswith(f"Epoch {epoch} holds the very weights of the last, epoch 4. Get")
        assert results.notices(ds) == said
    assert (ds.doubt.sel(epoch=epoch) == AS_TRAINED).all()
    assert set(verdicts(ds, epoch=epoch).values()) == {"not moved"}
    # What takes nothing from a checkpoint is judged as ever.
    assert set(verdicts(ds, perturbation="rerandomize").values()) == {"robust"}


def test_a_shard_of_another_run_puts_its_layers_in_doubt():
    series = walk()
    series[2] |= {n: t for n, t in walk(seed=1)[2].items() if n.startswith("3.")}
    ds, said = sweep(series)
    (one,) = said
    assert one.startswith("3.weight in epoch 2 is as unlike both neighbours")
    doubted = {str(n) for n in ds.layer.values[(ds.doubt.sel(epoch=2) != "").values]}
    assert doubted == {"3", "fullmodel"}
    assert verdicts(ds, epoch=2)["3"] == verdicts(ds, epoch=2)["fullmodel"] == "undecided"
    assert verdicts(ds, epoch=2)["0"] == "robust"
    assert set(verdicts(ds, epoch=0).values()) == {"robust"}


def test_a_start_of_another_run_leaves_no_verdict_and_no_correlation():
    series = walk()
    series[0] = walk(seed=1)[0]
    ds, said = sweep(series)
    assert [one.partition(",")[0] for one in said] == ["Nothing of epoch 0 is left in epoch 1"]
    assert set(verdicts(ds, epoch=0).values()) == {"undecided"}
    found = stats.rank_correlation(ds)
    assert int(found.n_layers) == 0
    assert np.isnan(float(found["mean"]))


def test_a_layer_that_rested_until_the_end_is_not_moved_from_there_on():
    series = walk()
    for epoch in (2, 3):
        series[epoch] |= {n: t.clone() for n, t in series[4].items() if n.startswith("5.")}
    ds, said = sweep(series)
    assert said == []
    rested = ds.doubt.sel(layer="5").values.tolist()
    assert rested == ["", "", "", AS_TRAINED, AS_TRAINED, AS_TRAINED]


def test_cells_that_are_decided_early_are_marked_too():
    series = walk()
    series[2] = {name: t.clone() for name, t in series[4].items()}
    series[1] |= {n: t for n, t in walk(seed=1)[1].items() if n.startswith("3.")}
    ds, _ = sweep(series, decide={"robust": 0.9, "critical": 0.95}, batch_size=8)
    cells = ds.verdict.sel(perturbation="reinitialize", draw=0)
    assert set(cells.sel(epoch=2).values.tolist()) == {"not moved"}
    assert str(cells.sel(epoch=1, layer="3").values) in ("undecided", "")


def test_every_tensor_is_read_once_for_distances_and_audit(monkeypatch):
    seen, read = [], Series.read
    monkeypatch.setattr(
        Series, "read", lambda s, e, n=None: seen.append((e, tuple(n))) or read(s, e, n)
    )
    sweep(walk(), perturbations=["zero"], epochs=[0, 1, 2, 3, 4])
    middle = [names for epoch, names in seen if epoch == 2]
    assert len(middle) == len(set(middle)) == 4


def test_joined_runs_are_in_doubt_where_any_is():
    sound, _ = sweep(walk(), seed=0)
    series = walk(seed=3)
    series[2] |= {n: t for n, t in walk(seed=1)[2].items() if n.startswith("3.")}
    other, _ = sweep(series)
    joined = results.concat([sound, other], [0, 1])
    assert str(joined.doubt.sel(layer="3", epoch=2).values).endswith(", in seed 1")
    assert verdicts(joined, epoch=2)["3"] == "undecided"
    assert len(results.notices(joined)) == 1
    old = sound.drop_vars("doubt")
    assert "doubt" not in results.concat([old, other], [0, 1]).coords


def test_a_result_is_saved_and_opened_with_its_doubts(tmp_path):
    series = walk()
    series[0] = {name: t.clone() for name, t in series[4].items()}
    ds, _ = sweep(series)
    results.save(ds, tmp_path / "sweep.nc")
    again = results.open_dataset(tmp_path / "sweep.nc")
    assert again.doubt.identical(ds.doubt)
    assert results.notices(again) == results.notices(ds)


def test_a_network_without_checkpoints_has_none_in_doubt():
    ds, _ = sweep(None, network(1), perturbations=["zero"])
    assert "doubt" not in ds.coords
    with pytest.raises(layerscope.errors.CheckpointError, match="no checkpoints to audit"):
        checkpoints.audit(Series.of(network(1)))


# Sessions


def test_a_session_says_at_once_which_checkpoints_are_the_trained_network(monkeypatch):
    series = walk()
    series[0] = {name: t.clone() for name, t in series[4].items()}
    seen, read = [], Series.read
    monkeypatch.setattr(Series, "read", lambda s, e, n=None: seen.append(e) or read(s, e, n))
    with pytest.warns(SweepWarning, match="^Epoch 0 holds the very weights of the last, epoch 4"):
        layerscope.Session(network(9), PAIR, checkpoints=series, device="cpu").close()
    # Of the others one small tensor told.
    assert {epoch: seen.count(epoch) for epoch in (1, 2, 3)} == {1: 1, 2: 1, 3: 1}


def test_a_session_on_a_sound_series_says_nothing():
    for series, model in ((walk(), network(9)), ({4: walk()[4]}, network(9)), (None, network(1))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layerscope.Session(model, PAIR, checkpoints=series, device="cpu").close()


# Figures and reports


def test_heat_maps_and_reports_say_what_is_in_doubt(tmp_path):
    series = walk()
    series[1] = {name: t.clone() for name, t in series[4].items()}
    series[2] |= {n: t for n, t in walk(seed=1)[2].items() if n.startswith("3.")}
    ds, _ = sweep(series)
    cells = plots.heatmap(ds).dframe().set_index(["layer", "column"])
    assert cells.loc[("0", "1"), "hover in doubt"] == AS_TRAINED
    assert cells.loc[("3", "2"), "settled"] == "in doubt"
    assert cells.loc[("3", "2"), "hover in doubt"] == "as of another run than its neighbours"
    # That the last checkpoint is the trained network is no doubt.
    assert set(cells["settled"].xs("4", level="column")) == {""}
    assert set(cells["settled"].xs("rand", level="column")) == {""}
    assert plots.save(plots.heatmap(ds), tmp_path / "map.png").stat().st_size > 1000
    label = hv.Store.lookup_options("matplotlib", plots.heatmap(ds), "plot").kwargs["xlabel"]
    assert label.endswith("△ in doubt, as notices say")
    spoilt, _ = sweep({**series, 0: {name: t.clone() for name, t in series[4].items()}})
    page = report.write({"spoilt": spoilt}, tmp_path / "report.html").read_text("utf-8")
    assert f"not moved: {AS_TRAINED}" in page
    # Also where the trained checkpoint is not among those of the sweep.
    spoilt, _ = sweep({**series, 0: {name: t.clone() for name, t in series[4].items()}}, epochs=[0])
    assert set(plots.heatmap(spoilt).dframe().set_index("column")["settled"]["0"]) == {"in doubt"}
    sound, _ = sweep(walk())
    assert "hover in doubt" not in plots.heatmap(sound).dframe()
