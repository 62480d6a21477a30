"""Sweeps of a network alone: no checkpoints, only the weights that it holds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import layerscope
from layerscope import errors, models, plots, report, results, stats
from layerscope.core import layers, perturb, plain
from layerscope.core.checkpoints import Series
from layerscope.core.probe import Cell, CellTensors
from layerscope.report._again import again
from layerscope.results import NO_EPOCH

pytestmark = pytest.mark.usefixtures("without_pictures")

KINDS = ["zero", "rerandomize_matched", "noise(0.1)", "rerandomize"]


@pytest.fixture
def pair():
    made = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, 4, generator=made)
    return inputs, torch.randint(3, (24,), generator=made)


@pytest.fixture
def net():
    return models.build("fcn-2x8", inputs=(4,), classes=3)


def sweep(net, pair, **more):
    options = {"device": "cpu", "batch_size": 16, "show_progress": False, "perturbations": KINDS}
    return layerscope.sweep(net, pair, **options | more)


def test_every_value_is_that_of_a_deep_copy_of_the_network(net, pair):
    ds, held = sweep(net, pair), {n: t.clone() for n, t in net.state_dict().items()}
    series = Series.of(net)
    batches = [tuple(t[at : at + 16] for t in pair) for at in (0, 16)]
    rows = [*layers.find(net), layers.whole_network(net, results.FULL_MODEL)]
    for row in rows:
        for kind in perturb.parse(KINDS):
            for draw in range(3 if kind.stochastic else 1):
                found = plain.cell(net, series, batches, row, kind, NO_EPOCH, draw)
                at = {"layer": row.name, "perturbation": kind.name, "draw": draw}
                for metric, tally in found.items():
                    value = ds["value"].sel(**at, metric=metric, epoch=NO_EPOCH).item()
                    assert value == tally.mean, at
    assert all(torch.equal(held[name], tensor) for name, tensor in net.state_dict().items())


def test_the_dataset_says_that_there_were_no_checkpoints(net, pair, tmp_path):
    ds = sweep(net, pair)
    assert ds["epoch"].values.tolist() == [NO_EPOCH]
    assert "distance" not in ds
    assert "distance_from" not in ds.attrs
    assert "weights that the network holds" in ds["draw_distance"].attrs["long_name"]
    layerscope.save(ds, tmp_path / "sweep.nc")
    about = results.settings(layerscope.open_dataset(tmp_path / "sweep.nc"))
    assert about["checkpoints"] == {}
    assert about["weights"] == Series.of(net).digests()[NO_EPOCH]


def test_what_is_redrawn_is_so_far_from_the_weights(net, pair):
    ds = sweep(net, pair)
    row = next(row for row in layers.find(net) if row.name == "layer2")
    cell = Cell(row, perturb.rerandomize(), NO_EPOCH, 1)
    series = Series.of(net)
    drawn = CellTensors(net, series, perturb.Redraw(net, series), 0, torch.device("cpu")).of(cell)
    far = sum(float((drawn[n] - net.state_dict()[n]).double().square().sum()) for n in drawn)
    at = {"layer": "layer2", "perturbation": "rerandomize", "draw": 1, "norm": "l2"}
    assert ds["draw_distance"].sel(**at).item() == pytest.approx(far**0.5)


def test_where_nothing_is_redrawn_there_are_no_distances_at_all(net, pair):
    ds = sweep(net, pair, perturbations=["zero"])
    assert not {"distance", "draw_distance", "norm"} & {*ds, *ds.coords}


def test_by_default_it_does_what_can_be_done_to_any_layer(net, pair):
    ds = layerscope.sweep(net, pair, device="cpu", show_progress=False)
    assert ds["perturbation"].values.tolist() == ["zero", "rerandomize_matched"]
    assert ds["value"].sel(perturbation="zero", draw=0).notnull().all()
    with_series = layerscope.sweep(
        net, pair, checkpoints={0: copy.deepcopy(net)}, device="cpu", show_progress=False
    )
    assert with_series["perturbation"].values.tolist() == ["reinitialize", "rerandomize"]


@pytest.mark.parametrize("kind", ["reinitialize", "interpolate(0.5)", "zero + reinitialize"])
def test_going_back_is_refused_before_anything_is_read(net, kind):
    def never():
        raise AssertionError("the data were read")
        yield

    with pytest.raises(errors.OptionError, match=r"nothing to go back to.*checkpoints=\{0"):
        sweep(net, never(), perturbations=[kind])


def test_epochs_are_refused_where_none_were_recorded(net, pair):
    with pytest.raises(errors.CheckpointError, match="nothing to go back to"):
        sweep(net, pair, epochs=[0])


def test_the_same_call_goes_on_and_other_weights_are_another_sweep(net, pair, tmp_path):
    first = sweep(net, pair, out=tmp_path)
    again = sweep(net, pair, out=tmp_path)
    assert again.attrs["wall_time_s"] == first.attrs["wall_time_s"]
    with torch.no_grad():
        net.get_submodule("layer1").bias += 1
    with pytest.raises(errors.ResultError, match="another sweep"):
        sweep(net, pair, out=tmp_path)


def test_what_was_interrupted_goes_on(net, pair, tmp_path):
    seen = []

    def stop():
        seen.append(0)
        if len(seen) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(net, pair, out=tmp_path, between=stop)
    resumed = sweep(net, pair, out=tmp_path)
    assert resumed["value"].equals(sweep(net, pair)["value"])


def test_a_session_has_no_epochs_and_the_same_numbers(net, pair):
    ds = sweep(net, pair)
    with layerscope.Session(net, pair, device="cpu", batch_size=16) as session:
        assert session.epochs == ()
        found = session.measure({"layer1": "zero"}).mean("loss")
        with pytest.raises(errors.CheckpointError, match="nothing to go back to"):
            session.measure({"layer1": ("reinitialize", 0)})
    at = {"layer": "layer1", "perturbation": "zero", "metric": "loss", "epoch": -1, "draw": 0}
    assert found == ds["value"].sel(**at).item()


def test_a_verdict_can_be_decided_on_the_way(net, pair):
    ds = sweep(net, pair, decide={"robust": 0.4, "critical": 0.5, "confidence": 0.6})
    assert set(np.unique(ds["verdict"].values)) <= {"robust", "intermediate", "critical", ""}


def test_it_is_judged_drawn_and_reported(net, pair, tmp_path):
    ds = sweep(net, pair)
    assert len(stats.classify(ds)) == 3
    plots.save(plots.heatmap(ds), tmp_path / "heat.png")
    page = report.write({"net": ds}, tmp_path / "report.html").read_text()
    assert ds.attrs["weights"][:16] in page
    said = again(ds)
    assert "checkpoints" not in said
    assert f"weights SHA-256 {ds.attrs['weights'][:16]}" in said
    names = {"network": net, "data": pair, "layerscope": layerscope}
    exec(said.replace("device=", "show_progress=False, device="), names)
    assert names["ds"]["value"].equals(ds["value"])


def test_random_values_are_taken_on_trust_and_it_is_said(pair):
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    ds = sweep(net, pair, perturbations=["rerandomize"])
    (said,) = results.notices(ds)
    assert "which nothing confirms: there are no checkpoints" in said


def test_weights_on_the_device_meta_hold_nothing(net):
    with pytest.raises(errors.CheckpointError, match="the network has tensors on the device meta"):
        Series.of(net.to("meta"))


def test_an_explorer_offers_what_needs_no_checkpoint(net, pair):
    explorer = layerscope.LayerExplorer(net, pair, device="cpu", batch_size=16)
    try:
        assert explorer.wait(30)
        assert "reinitialize" not in [name for _, name in explorer.controls.kind.options]
        assert explorer.controls.epoch.disabled
        explorer.state = {"layer1": "zero"}
        assert explorer.wait(30)
        ds = sweep(net, pair)
        at = {"layer": "layer1", "perturbation": "zero", "metric": "loss", "epoch": -1, "draw": 0}
        assert explorer.estimate.mean("loss") == ds["value"].sel(**at).item()
        assert "checkpoints" not in explorer.code
        explorer.controls.preset.value = "reset all layers"
        assert explorer.wait(30)
        assert explorer.state
    finally:
        explorer.close()
    with pytest.raises(errors.OptionError, match="nothing to go back to"):
        layerscope.LayerExplorer(net, pair, device="cpu", perturbations=["reinitialize"])
