"""Values by groups of examples, and their mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import layerscope
from layerscope import metrics, models, stats
from layerscope.errors import OptionError, ResultError

NETS = [models.build("fcn-2x8", seed=seed, inputs=(4,), classes=3) for seed in (0, 1)]
INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("groups")
    layerscope.sweep(
        NETS[1], (INPUTS, LABELS), checkpoints={0: NETS[0], 1: NETS[1]}, out=out, outcomes=True,
        metrics=["error", "loss", "perplexity"], batch_size=7, device="cpu", show_progress=False,
    )  # fmt: skip
    return layerscope.open_dataset(out / "outcomes.nc")


def given(outcome, weight=None, name="error"):
    outcome = np.array(outcome, float)
    weight = np.ones(outcome.shape[-1]) if weight is None else np.array(weight, float)
    return xr.Dataset(
        {
            "outcome": (("cell", "metric", "example"), outcome[:, None]),
            "baseline_outcome": (("metric", "example"), 0 * outcome[:1]),
            "weight": (("metric", "example"), weight[None]),
        },
        {"metric": [name], "layer": ("cell", [f"layer{n}" for n in range(len(outcome))])},
    )


@pytest.mark.parametrize("metric", ["error", "loss"])
def test_each_class_is_what_the_network_gives_on_its_examples(swept, metric):
    found = stats.by_group(swept, LABELS.numpy(), metric=metric)
    assert found["group"].values.tolist() == ["0", "1", "2"]
    assert found["n"].values.tolist() == [40, 15, 5]
    for label in range(3):
        own = label == LABELS
        plain = metrics.evaluate(NETS[1], (INPUTS[own], LABELS[own]), metric, device="cpu")
        assert float(found["baseline"][label]) == pytest.approx(plain[metric].mean, rel=1e-5)
    rows = found["value"].values
    whole = rows @ np.array([40, 15, 5]) / 60
    at = swept.sel(metric=metric)
    assert whole == pytest.approx((at["outcome"].sum("example") / at["weight"].sum()).values)
    assert found["balanced"].values == pytest.approx(rows.mean(1))
    assert set(found["layer"].values) == set(swept["layer"].values)


def test_a_rare_group_counts_as_much_as_a_frequent_one():
    found = stats.by_group(given([[0.0] * 98 + [1.0] * 2]), ["many"] * 98 + ["few"] * 2)
    assert found["group"].values.tolist() == ["few", "many"]
    assert float(found["balanced"][0]) == 0.5
    lower, upper = stats.wilson(1.0, 2)
    assert (float(found["lower"][0, 0]), float(found["upper"][0, 0])) == (lower, upper)


def test_the_interval_of_the_mean_over_groups_covers_it():
    """Of 400 test sets of two classes that are drawn, about 95 % hold the true mean over both."""
    rng, hit = np.random.default_rng(0), 0
    groups = [0] * 180 + [1] * 20
    for _ in range(400):
        each = np.r_[rng.normal(1, 1, 180), rng.normal(4, 2, 20)]
        found = stats.by_group(given([each], name="loss"), groups)
        hit += bool(found["balanced_lower"][0] < 2.5 < found["balanced_upper"][0])
    assert 0.91 < hit / 400 < 0.98


def test_examples_of_several_targets_count_by_their_number():
    found = stats.by_group(given([[2.0, 6.0, 1.0]], [1, 3, 0], "loss"), [0, 0, 1])
    assert float(found["value"][0, 0]) == 2.0
    # Group 1 has no target at all, so that there is no mean over both.
    assert found["n"].values.tolist() == [2, 0]
    assert np.isnan(found["balanced"][0])


def test_cells_that_stopped_early_have_none():
    found = stats.by_group(given([[0.0, 1.0, np.nan], [0.0, 1.0, 1.0]]), [0, 0, 1])
    assert np.isnan(found["value"][0, 1])
    assert np.isnan(found["balanced"][0])
    assert float(found["balanced"][1]) == 0.75


def test_bad_groups_are_refused(swept):
    with pytest.raises(OptionError, match="for each of the 60 examples"):
        stats.by_group(swept, [0, 1])
    with pytest.raises(OptionError, match="whole number or name"):
        stats.by_group(swept, np.linspace(0, 1, 60))
    with pytest.raises(OptionError, match="perplexity is no mean"):
        stats.by_group(swept, LABELS.numpy(), metric="perplexity")
    with pytest.raises(ResultError, match="no variable 'outcome'"):
        stats.by_group(swept.drop_vars("outcome"), LABELS.numpy())
