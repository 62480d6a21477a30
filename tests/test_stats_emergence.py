"""When in the training layers became critical, as a table and as a figure."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import plots, results, stats, testing
from layerscope.errors import OptionError, ResultError

NETWORKS = (0, 1, 4, 16, 64)
# Error that putting back to epoch 0 adds, of each layer in each network.
DAMAGE = {
    "layer1": (0, 0.3, 0.4, 0.5, 0.6),
    "layer2": (0, 0.0, 0.3, 0.4, 0.5),
    "layer3": (0, 0.4, 0.0, 0.3, 0.3),  # not for good at first
    "layer4": (0, 0.0, 0.0, 0.0, 0.0),
}


def part(at, examples=10_000):
    """A sweep of one network, whose error without a change is 2 %."""
    epochs = [epoch for epoch in NETWORKS if epoch <= NETWORKS[at]]
    ds = testing.dataset(epochs=epochs, n_examples=examples)
    value, difference, spread = (
        ds[name].copy() for name in ("value", "difference", "difference_standard_error")
    )
    for layer, damage in DAMAGE.items():
        cell = {"layer": layer, "epoch": 0, "perturbation": "reinitialize", "draw": 0,
                "metric": "error"}  # fmt: skip
        value.loc[cell], difference.loc[cell] = 0.02 + damage[at], damage[at]
        spread.loc[cell] = np.sqrt(damage[at] * (1 - damage[at]) / (examples - 1))
    named = {"value": value, "difference": difference, "difference_standard_error": spread}
    return ds.assign(named)


def joined(**options):
    return results.join([({"model_epoch": e}, part(i, **options)) for i, e in enumerate(NETWORKS)])


def test_a_layer_is_critical_since_it_stays_so():
    found = stats.emergence(joined())
    assert found.since.sel(layer=list(DAMAGE)).values.tolist()[:3] == [1, 4, 16]
    assert np.isnan(found.since.sel(layer="layer4"))
    assert found.verdict.sel(layer="layer3").values.tolist() == [
        "robust", "critical", "robust", "critical", "critical",
    ]  # fmt: skip
    assert "fullmodel" not in found.layer.values
    assert found.degradation.sel(layer="layer2").values == pytest.approx(DAMAGE["layer2"])
    # With many examples one knows when.
    for end in ("since_lower", "since_upper"):
        assert found[end].equals(found.since)


def test_every_network_is_judged_as_classify_does():
    ds = joined()
    found = stats.emergence(ds, critical=0.35, include_network=True)
    for words, each in results.parts(ds).items():
        table = stats.classify(each, critical=0.35, include_network=True).set_index("layer")
        here = found.sel(model_epoch=int(words.split()[-1]))
        for name in ("degradation", "lower", "upper"):
            assert here[name].values == pytest.approx(table[name].values)
        assert here.verdict.values.tolist() == table["verdict"].tolist()
        assert float(here.limit) == 0.35
    assert found.since.sel(layer="layer1") == 4


def test_with_few_examples_it_is_an_interval():
    found = stats.emergence(joined(examples=60), critical=0.35)
    since = [float(found[f"since{end}"].sel(layer="layer1")) for end in ("_lower", "", "_upper")]
    assert since == [1, 4, 16]
    # The last network's damage of 0.3 may be as much.
    layer = found.sel(layer="layer3")
    assert np.isnan(layer.since)
    assert np.isnan(layer.since_upper)
    assert layer.since_lower == 16


def test_networks_before_the_checkpoint_have_no_cells():
    found = stats.emergence(joined(), epoch=4)
    assert found.verdict.sel(model_epoch=[0, 1]).values.tolist() == [["", ""]] * 4
    assert found.degradation.sel(model_epoch=1).isnull().all()
    drawn = stats.emergence(joined(), perturbation="rerandomize")
    assert (drawn.since == 0).all()


def test_what_can_not_be_told_is_said():
    with pytest.raises(ResultError, match="but not model_epoch"):
        stats.emergence(testing.dataset())
    tasks = results.join([({"task": "a"}, joined()), ({"task": "b"}, joined())])
    with pytest.raises(ResultError, match=r"choose one: ds.sel\(task='a'\)"):
        stats.emergence(tasks)
    assert stats.emergence(tasks.sel(task="b")).since.equals(stats.emergence(joined()).since)
    with pytest.raises(OptionError, match="critical="):
        stats.emergence(joined(), "loss")


def test_the_figure_shows_damage_verdicts_and_since_when(tmp_path):
    plot = plots.emergence(joined(examples=60), critical=0.35, include_network=False)
    table = plot.dframe().set_index(["layer", "column"])
    assert list(plot.dimension_values("column", expanded=False)) == [str(e) for e in NETWORKS]
    assert list(plot.dimension_values("layer", expanded=False)) == list(DAMAGE)[::-1]
    assert table.loc[("layer2", "16"), "value"] == pytest.approx(0.4)
    assert table.loc[("layer1", "64"), "settled"] == "critical"
    assert table.loc[("layer1", "0"), "hover critical since"] == "4 (1 to 16)"
    assert table.loc[("layer3", "0"), "hover critical since"] == "– (perhaps 16)"
    for suffix in ("html", "png"):
        path = plots.save(plot, tmp_path / f"emergence.{suffix}")
        assert path.stat().st_size > 1000
    page = (tmp_path / "emergence.html").read_text(encoding="utf-8")
    assert "When layers became critical: reset to epoch 0" in page
    late = plots.emergence(joined(), epoch=4).dframe()
    assert set(late["blank"][late["column"].isin(["0", "1"])]) == {"open"}


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_lines_go_through_each_layers_degradation(backend):
    plot = plots.emergence(joined(examples=200), critical=0.35, lines=True)
    found = {curve.label: curve.dframe()["value"].to_list() for curve in plot.Curve}
    for layer, damage in DAMAGE.items():
        assert found[layer] == pytest.approx(damage)
    assert found["critical from here on"] == [0.35] * len(NETWORKS)
    hv.render(plot, backend=backend)
    # A layer's interval has the layer's colour.
    colours = [
        hv.Store.lookup_options("matplotlib", part, "style").kwargs["facecolor"]
        for part in plot.traverse(lambda each: each, [hv.Spread])
    ]
    assert len(set(colours)) == len(DAMAGE) + 1
    table = plot.Spread.I.dframe()
    assert table["below"].iloc[-1] > 0


def test_a_sweep_over_networks_of_a_series():
    states, net = {}, nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    torch.manual_seed(0)
    inputs = torch.randn(100, 4)
    labels = (inputs[:, 0] > 0).long()
    optimiser = torch.optim.Adam(net.parameters(), 0.1)
    for epoch in range(3):
        states[epoch] = {name: t.clone() for name, t in net.state_dict().items()}
        for _ in range(10):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimiser.step()
    ds = layerscope.sweep(
        net, (inputs, labels), checkpoints=states, model_epochs=[0, 1, 2], device="cpu", draws=1,
        perturbations=["reinitialize"], show_progress=False,
    )  # fmt: skip
    found = stats.emergence(ds)
    # Put back to itself nothing is robust.
    assert set(found.verdict.sel(model_epoch=0).values.tolist()) == {"not moved"}
    for epoch in (1, 2):
        cell = ds.value.sel(model_epoch=epoch, epoch=0, layer="2", metric="error").item()
        baseline = ds.baseline.sel(model_epoch=epoch, metric="error").item()
        worse = float(found.degradation.sel(model_epoch=epoch, layer="2"))
        assert worse == pytest.approx(cell - baseline, abs=1e-12)
    assert plots.emergence(ds).dframe()["value"].notna().all()
