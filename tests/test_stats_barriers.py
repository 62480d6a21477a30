"""Barriers on the way to another network, and what layers get of a total."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import layerscope
from layerscope import layers, metrics, models, perturb, stats, testing
from layerscope.errors import OptionError, ResultError

ALPHAS = (0.25, 0.5, 0.75, 1.0)


def trained(seed: int) -> nn.Module:
    net = models.build("fcn-3x8", seed=seed, inputs=(4,), classes=2)
    inputs, labels = data()
    optimiser = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()
    return net


def data():
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


@pytest.fixture(scope="module")
def pair():
    return trained(0), trained(1)


@pytest.fixture(scope="module")
def swept(pair, tmp_path_factory):
    here, there = pair
    out = tmp_path_factory.mktemp("blend")
    ds = layerscope.sweep(
        here,
        data(),
        checkpoints={0: here.state_dict()},
        layers=layers.ranges(here, 1) | layers.cumulative(here) | layers.cumulative(here, "above"),
        view="block",
        perturbations=[perturb.blend(there, alpha) for alpha in ALPHAS],
        outcomes=True,
        out=out,
        show_progress=False,
    )
    return ds, layerscope.open_dataset(out / "outcomes.nc")


def loss_of(net: nn.Module) -> float:
    return metrics.evaluate(net, data(), ("loss",), device="cpu")["loss"].mean


def blended(pair, names, alpha: float) -> float:
    """Loss of a copy whose layers are at (1 − α) A + α B, by hand."""
    here, there = (net.state_dict() for net in pair)
    parts = {name: alpha if name.split(".")[0] in names else 0 for name in here}
    held = {name: t + parts[name] * (there[name] - t) for name, t in here.items()}
    copy = models.build("fcn-3x8", inputs=(4,), classes=2)
    copy.load_state_dict(held)
    return loss_of(copy)


def test_a_blend_is_the_trained_network_at_0_and_the_other_at_1(pair):
    here, there = pair
    ds = layerscope.sweep(
        here, data(), checkpoints={0: here.state_dict()}, show_progress=False,
        perturbations=[perturb.blend(there, 0.0), perturb.blend(there, 1), perturb.exchange(there)],
    )  # fmt: skip
    at = ds.value.isel(epoch=0, draw=0).sel(metric="loss")
    start, end, whole = (at.isel(perturbation=place).values for place in range(3))
    assert (start == ds.baseline.sel(metric="loss").values).all()
    assert (end == whole).all()
    assert float(at.sel(layer="fullmodel").isel(perturbation=1)) == loss_of(there)


def test_a_blend_in_one_layer_is_that_of_its_values(swept, pair):
    ds, _ = swept
    value = ds.value.isel(epoch=0, draw=0, perturbation=1).sel(metric="loss")
    for row, members in {"layer2": ["layer2"], "layer3-4": ["layer3", "layer4"]}.items():
        by_hand = blended(pair, members, 0.5)
        assert float(value.sel(layer=row)) == pytest.approx(by_hand, rel=1e-6)


def test_a_blend_refuses_what_is_no_number_and_other_shapes(pair):
    for wrong in ("half", float("nan"), True):
        with pytest.raises(OptionError, match="alpha"):
            perturb.blend(pair[1], wrong)
    other = models.build("fcn-3x9", inputs=(4,), classes=2)
    with pytest.raises(layerscope.errors.LayerError, match="same shape"):
        layerscope.sweep(
            pair[0], data(), checkpoints={0: pair[0].state_dict()}, show_progress=False,
            perturbations=[perturb.blend(other, 0.5)],
        )  # fmt: skip


def test_a_barrier_is_the_largest_excess_over_the_line_between_the_losses(swept, pair):
    ds, _ = swept
    found = stats.barrier(ds, "loss").set_index("layer")
    first, last = map(loss_of, pair)
    for row, members in {"layer1": ["layer1"], "layer3-4": ["layer3", "layer4"]}.items():
        losses = {alpha: blended(pair, members, alpha) for alpha in ALPHAS}
        over = {a: loss - ((1 - a) * first + a * last) for a, loss in losses.items()} | {0.0: 0.0}
        assert found.barrier[row] == pytest.approx(max(over.values()), rel=1e-4)
        assert found["at"][row] == max(over, key=over.get)
    own = stats.barrier(ds, "loss", ends="path").set_index("layer")
    losses = {a: blended(pair, ["layer1"], a) for a in ALPHAS}
    over = [loss - ((1 - a) * first + a * losses[1.0]) for a, loss in losses.items() if a < 1]
    assert own.barrier["layer1"] == pytest.approx(max(0.0, *over), rel=1e-4, abs=1e-7)
    assert (found.barrier >= 0).all()
    # What grows from either end comes to the whole network.
    assert found.barrier["layer1-4"] == found.barrier["fullmodel"]
    assert found.n_blocks["layer1-4"] == 4


def test_intervals_of_barriers_say_over_what_they_are(swept):
    ds, outcomes = swept
    wide = stats.barrier(ds, "loss").set_index("layer")
    close = stats.barrier(ds, "loss", outcomes=outcomes, repeats=200).set_index("layer")
    for found in (wide, close):
        high = found[found.barrier > 0.05]
        assert (high.interval_kind == "examples").all()
        assert ((high.lower <= high.barrier) & (high.barrier <= high.upper)).all()
    assert (close.barrier == wide.barrier).all()
    shrunk = (close.upper - close.lower) < (wide.upper - wide.lower) * 1.1
    assert shrunk[wide.barrier > 0.05].mean() > 0.5
    again = stats.barrier(ds, "loss", outcomes=outcomes, repeats=200).set_index("layer")
    pd.testing.assert_frame_equal(close, again)


def test_barriers_over_training_runs_have_a_t_interval_of_each_runs_own(swept):
    ds, _ = swept
    other = ds.assign(value=ds.value * 1.1, difference=ds.difference * 1.1)
    both = layerscope.concat([ds, other], seeds=[0, 1])
    found = stats.barrier(both, "loss").set_index("layer")
    one, two = (stats.barrier(each, "loss").set_index("layer").barrier for each in (ds, other))
    assert (found.interval_kind == "seeds").all()
    assert np.allclose(found.barrier, (one + two) / 2)
    _, low, _ = stats.student([one["layer1"], two["layer1"]])
    assert found.lower["layer1"] == pytest.approx(float(low))


def test_interpolation_to_a_checkpoint_is_on_a_line_too(pair):
    """So that a base and what was tuned from it have barriers at every layer in one series."""
    here, there = pair
    ds = layerscope.sweep(
        here, data(), checkpoints={0: there.state_dict(), 1: here.state_dict()},
        perturbations=["interpolate(0.5)", "reinitialize"], epochs=[0], show_progress=False,
    )  # fmt: skip
    blends = layerscope.sweep(
        here, data(), checkpoints={1: here.state_dict()}, show_progress=False,
        perturbations=[perturb.blend(there, 0.5), perturb.exchange(there)],
    )  # fmt: skip
    names = ["layer", "barrier", "at", "lower", "upper"]
    pd.testing.assert_frame_equal(
        stats.barrier(ds, "loss")[names], stats.barrier(blends, "loss")[names]
    )


def test_barriers_ask_for_what_they_need(swept):
    ds, _ = swept
    with pytest.raises(ResultError, match=r"perturb\.blend"):
        stats.barrier(ds.assign_coords(towards=("perturbation", [""] * 4)))
    with pytest.raises(ResultError, match="alpha = 1"):
        stats.barrier(ds.isel(perturbation=slice(3)))
    with pytest.raises(ResultError, match="whole=True"):
        stats.barrier(ds.sel(layer=ds.kind == "layer"))
    with pytest.raises(OptionError, match="ends"):
        stats.barrier(ds, ends="both")


def test_the_dataset_says_that_no_units_were_permuted(swept):
    ds, _ = swept
    assert "units as they stand" in str(ds.perturbation_label.values[0])


# What layers get of a total


@pytest.mark.parametrize("total", [0.0, 0.05, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("rising", [False, True])
def test_the_weighted_mean_is_the_total_and_no_layer_is_out_of_bounds(total, spread, rising):
    chance = np.random.default_rng(3)
    scores = dict(zip("abcdefg", chance.gamma(1.0, size=7), strict=True))
    sizes = dict(zip("abcdefg", chance.integers(1, 10**6, 7).tolist(), strict=True))
    table = stats.allocation(scores, total, parameters=sizes, spread=spread, rising=rising)
    assert np.average(table.value, weights=table.parameters) == pytest.approx(total, abs=1e-15)
    assert table.value.between(0, 1).all()
    order = table.sort_values("score").value.diff().dropna()
    assert ((order >= 0) if rising else (order <= 0)).all()


def test_bounds_hold_and_the_others_make_up_for_them():
    table = stats.allocation({"a": 0.0, "b": 0.5, "c": 1.0}, 0.7, spread=0.4, bounds=(0.5, 0.8))
    assert table.value.tolist()[0] == 0.8
    assert table.value.mean() == pytest.approx(0.7, abs=1e-15)
    with pytest.raises(OptionError, match="bounds"):
        stats.allocation({"a": 0.0}, 0.7, bounds=(0.0, 0.5))
    with pytest.raises(OptionError, match="b has no finite score"):
        stats.allocation({"a": 0.0, "b": np.nan}, 0.7)


def test_scores_come_from_a_sweep_or_from_a_table():
    ds = testing.dataset(layers=3)
    table = stats.allocation(ds, 0.5)
    assert table.layer.tolist() == ["layer1", "layer2", "layer3"]
    assert table.parameters.tolist() == ds.parameters.values[:3].tolist()
    worst = table.set_index("layer").score.idxmax()
    assert table.set_index("layer").value.idxmin() == worst
    series = pd.Series({"x": 2.0, "y": 1.0})
    assert stats.allocation(series, 0.5).value.tolist() == pytest.approx([0.4, 0.6])
    factors = stats.allocation(series, 1.0, rising=True, bounds=(0, 9)).value
    assert factors.tolist() == pytest.approx([1.1, 0.9])


# From a base to what was tuned from it


@pytest.mark.parametrize("direction", [1, -1])
def test_ranges_go_from_base_to_tuned_and_back(pair, direction):
    """Exchanged for those of the other network, as for those of the first of two checkpoints."""
    there, here = pair[::direction]
    asked = {"layers": layers.ranges(here), "view": "block", "show_progress": False}
    series = {0: there.state_dict(), 1: copy.deepcopy(here.state_dict())}
    reset = layerscope.sweep(
        here, data(), checkpoints=series, perturbations=["reinitialize"], epochs=[0], **asked
    )
    exchanged = layerscope.sweep(here, data(), perturbations=[perturb.exchange(there)], **asked)
    values = [
        ds.value.isel(perturbation=0, draw=0).sel(epoch=epoch).values
        for ds, epoch in ((reset, 0), (exchanged, -1))
    ]
    assert np.array_equal(*values)
    assert not np.isnan(values[0]).any()
