"""Rankings of layers by several tasks: the difference, with an interval over examples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kendalltau, spearmanr

from layerscope import results, stats, testing
from layerscope.errors import OptionError, ResultError
from layerscope.stats._rankings import _correlations

LAYERS = ["a", "b", "c", "d"]


def outcomes(damage, count=100, noise=1.0, seed=0, sha256="", better="loss"):
    rng = np.random.default_rng(seed)
    each = np.array(damage)[:, None, None] + noise * rng.normal(size=(len(damage), 1, count))
    return xr.Dataset(
        {
            "outcome": (("cell", "metric", "example"), each),
            "baseline_outcome": (("metric", "example"), np.zeros((1, count))),
            "weight": (("metric", "example"), np.ones((1, count))),
        },
        {
            "layer": ("cell", LAYERS[: len(damage)]),
            "epoch": ("cell", [-1] * len(damage)),
            "perturbation": ("cell", ["zero"] * len(damage)),
            "draw": ("cell", [0] * len(damage)),
            "metric": [better],
        },
        attrs={"data": json.dumps({"sha256": sha256})},
    )


def compared(one, two, **options):
    found = stats.ranking_difference({"one": one, "two": two}, repeats=200, **options)
    return found.sel(task="one", other_task="two")


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_rankings_that_are_opposite_or_the_same(method):
    rising = outcomes([0.0, 1, 2, 3], noise=0.1)
    found = compared(rising, outcomes([3.0, 2, 1, 0], noise=0.1, seed=1), method=method)
    assert float(found.correlation) == float(found.lower) == float(found.upper) == -1
    assert float(found.reversal.sel(layer="a", other_layer="d")) == 1
    same = compared(rising, outcomes([0.0, 1, 2, 3], noise=0.1, seed=1), method=method)
    assert float(same.lower) == 1
    assert float(same.reversal.max()) == 0


def test_noise_is_no_difference():
    flat = [0.0, 0.01, 0.02, 0.03]
    found = compared(outcomes(flat), outcomes(flat, seed=1))
    assert float(found.upper - found.lower) > 1
    assert float(found.reversal.max()) < 0.95


def test_tasks_over_the_same_examples_are_drawn_together():
    one = outcomes([0.0, 0.1, 0.2], sha256="x")
    paired = compared(one, one.copy(deep=True))
    assert float(paired.lower) == 1
    apart = compared(one, one.assign_attrs(data=json.dumps({"sha256": "y"})))
    assert float(apart.lower) < 1


def test_higher_is_better_is_turned_round():
    low = outcomes([-0.1, -0.5, -0.9], noise=0.01, better="accuracy")
    high = outcomes([0.1, 0.5, 0.9], noise=0.01)
    found = stats.ranking_difference({"one": low, "two": high}, repeats=50)
    assert found["rank"].values.tolist() == [[3, 2, 1], [3, 2, 1]]


def test_what_is_no_comparison_is_refused():
    one = outcomes([0.0, 1])
    with pytest.raises(OptionError, match="two tasks or more"):
        stats.ranking_difference({"one": one})
    with pytest.raises(ResultError, match="other layers"):
        compared(one, outcomes([0.0, 1, 2]))
    with pytest.raises(ResultError, match="outcomes=True"):
        compared(one, one.drop_vars("outcome"))
    with pytest.raises(OptionError, match="metric of task 'one'"):
        compared(one, one, metric="margin")


def test_a_dataset_of_tasks_is_compared_by_its_standard_errors():
    def task(damage, error):
        ds = testing.dataset(layers=3, epochs=(0, 5)).copy(deep=True)
        at = {"epoch": 0, "perturbation": "reinitialize", "draw": 0, "metric": "error"}
        ds["difference"].loc[at] = [*damage, 0.9]
        ds["difference_standard_error"].loc[at] = error
        return ds

    def compare(error, **options):
        each = {"one": [0.1, 0.2, 0.3], "two": [0.3, 0.2, 0.1]}
        ds = results.join([({"task": name}, task(d, error)) for name, d in each.items()])
        found = stats.ranking_difference(ds, repeats=200, **options)
        return found.sel(task="one", other_task="two")

    sure, unsure = compare(0.001), compare(1.0)
    assert sure.layer.values.tolist() == ["layer1", "layer2", "layer3"]
    assert float(sure.correlation) == float(sure.upper) == -1
    assert float(sure.reversal.sel(layer="layer1", other_layer="layer3")) == 1
    assert 0.3 < float(unsure.reversal.sel(layer="layer1", other_layer="layer3")) < 0.7
    assert sure.attrs["drawn"] == "damages"
    with pytest.raises(OptionError, match="epoch '3'"):
        compare(0.1, epoch=3)
    with pytest.raises(OptionError, match="metric with a mean"):
        compare(0.1, metric="perplexity")
    one = results.join([({"task": "one"}, task([0, 0, 0], 1.0))])
    with pytest.raises(OptionError, match="two tasks or more"):
        stats.ranking_difference(one)


def test_ranks_are_correlated_as_scipy_does():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 4, (2, 20, 6)).astype(float)
    one[3] = 1.0  # of one value alone
    for method, compute in (("spearman", spearmanr), ("kendall", kendalltau)):
        found = _correlations(one, two, method)
        assert np.isnan(found[3])
        for at in set(range(20)) - {3}:
            assert found[at] == pytest.approx(compute(one[at], two[at]).statistic)
