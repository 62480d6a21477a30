"""Agreement of cheap measures with exact effects: as SciPy has it, and covering what it says."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from scipy.stats import kendalltau, spearmanr

from layerscope import plots, results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.stats import _agreement as own


def dataset(cheap, exact, *, higher_matters=True, higher_is_better=False, logarithmic=False):
    """Layers with a measure and an effect each, and the whole network last."""
    n = len(exact)
    layers = [f"model.layers.{i}" for i in range(n)] + ["fullmodel"]
    sign = -1 if higher_is_better else 1
    value = 1.0 + sign * np.append(exact, 9.0)
    return xr.Dataset(
        {
            "value": (["layer", "epoch", "perturbation", "draw", "metric"],
                      value.reshape(-1, 1, 1, 1, 1)),
            "baseline": (["metric"], [1.0]),
            "measure_value": (["layer", "measure"], np.append(cheap, np.nan)[:, None]),
        },
        {
            "layer": layers, "epoch": [-1], "perturbation": ["skip"], "draw": [0],
            "metric": ["loss"], "measure": ["influence"],
            "kind": ("layer", ["layer"] * n + ["network"]),
            "higher_is_better": ("metric", [higher_is_better]),
            "higher_matters": ("measure", [higher_matters]),
            "measure_logarithmic": ("measure", [logarithmic]),
        },
    )  # fmt: skip


def drawn(n=12, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    exact = rng.gamma(1.0, size=n)
    cheap = exact + rng.gamma(1.0, size=n)
    return (np.round(cheap), np.round(exact)) if ties else (cheap, exact)


def values(table):
    return table.set_index("statistic")["value"]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_those_of_scipy(ties, seed):
    cheap, exact = drawn(seed=seed, ties=ties)
    found = values(stats.agreement(dataset(cheap, exact), repeats=10))
    assert found["spearman"] == pytest.approx(spearmanr(cheap, exact).statistic, rel=1e-12)
    assert found["kendall"] == pytest.approx(kendalltau(cheap, exact).statistic, rel=1e-12)


def test_resampled_correlations_are_those_of_scipy():
    cheap, exact = drawn(9)
    chosen = np.random.default_rng(1).integers(9, size=(20, 9))
    for i, at in enumerate(chosen):
        both = (
            own._spearman(cheap[chosen], exact[chosen])[i],
            own._kendall(cheap[chosen], exact[chosen])[i],
        )
        wanted = (
            spearmanr(cheap[at], exact[at]).statistic,
            kendalltau(cheap[at], exact[at]).statistic,
        )
        assert both == pytest.approx(wanted, rel=1e-12)


def test_the_overlap_counts_ties_in_part():
    cheap, exact = np.array([9.0, 8, 1, 1, 1, 0]), np.array([9.0, 8, 7, 1, 1, 1])
    table = stats.agreement(dataset(cheap, exact), top=3, repeats=10)
    # Both have the first two; of three that tie for the third place each is there for a third.
    assert values(table)["top 3 overlap"] == pytest.approx((2 + 1 / 3) / 3)
    assert values(stats.agreement(dataset(exact, exact), top=2, repeats=10))["top 2 overlap"] == 1
    assert values(stats.agreement(dataset(-exact, exact), top=3, repeats=10))["top 3 overlap"] == 0


@pytest.mark.parametrize("higher_is_better", [False, True])
@pytest.mark.parametrize("higher_matters", [False, True])
def test_one_is_agreement_whichever_way_measure_and_metric_go(higher_matters, higher_is_better):
    _, exact = drawn()
    cheap = exact if higher_matters else 1 / exact
    ds = dataset(cheap, exact, higher_matters=higher_matters, higher_is_better=higher_is_better)
    table = stats.agreement(ds, repeats=50)
    assert (table["value"] == 1).all()
    assert (table["n_layers"] == 12).all()  # without the whole network


def test_what_is_no_number_ranks_as_the_worst_and_what_is_missing_is_left_out():
    cheap, exact = drawn(8)
    broken, cheap = exact.copy(), cheap.copy()
    broken[3], cheap[5] = np.nan, np.nan
    ds = dataset(cheap, broken).assign(
        not_finite=(["layer", "epoch", "perturbation", "draw"], np.zeros((9, 1, 1, 1)))
    )
    ds["not_finite"][3] = 4  # computed, and no number
    table = stats.agreement(ds, repeats=10)
    known = [i for i in range(8) if i != 5]
    worst = np.where(np.arange(8) == 3, 99, exact)
    assert (table["n_layers"] == 7).all()
    assert values(table)["spearman"] == pytest.approx(
        spearmanr(cheap[known], worst[known]).statistic
    )


@pytest.mark.parametrize("n", [0, 2])
def test_few_layers_rank_nothing(n):
    exact = np.arange(1.0, n + 1)
    table = stats.agreement(dataset(exact, exact), repeats=10).set_index("statistic")
    assert table.loc[["spearman", "kendall"], ["value", "lower", "upper"]].isnull().values.all()


def outcomes_of(effects, n, seed=0, spread=2.0):
    """Examples whose effects scatter around a mean for each layer, with weights."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 9, size=n).astype(float)
    moved = (effects[:, None] + rng.normal(scale=spread, size=(len(effects), n))) * weight
    base = np.full(n, 2.0) * weight
    return xr.Dataset(
        {
            "outcome": (["cell", "metric", "example"], (base + moved)[:, None]),
            "baseline_outcome": (["metric", "example"], base[None]),
            "weight": (["metric", "example"], weight[None]),
        },
        {
            "layer": ("cell", [f"model.layers.{i}" for i in range(len(effects))]),
            "epoch": ("cell", [-1] * len(effects)), "draw": ("cell", [0] * len(effects)),
            "perturbation": ("cell", ["skip"] * len(effects)), "metric": ["loss"],
        },
    ), moved.sum(1) / weight.sum()  # fmt: skip


def test_intervals_over_examples_narrow_with_their_number():
    effects = np.linspace(0, 1, 10)
    wide = []
    for n in (40, 4000):
        outcomes, exact = outcomes_of(effects, n)
        ds = dataset(effects, exact)
        table = stats.agreement(ds, outcomes=outcomes, repeats=300).set_index("statistic")
        row = table.loc["spearman"]
        assert row["lower_examples"] <= row["upper_examples"]
        wide.append(row["upper_examples"] - row["lower_examples"])
    assert wide[1] < wide[0] / 2
    assert table.loc["top 5 overlap", ["lower_examples", "upper_examples"]].notnull().all()


def test_intervals_over_examples_hold_what_another_test_set_gives():
    # The measure and the layers stay; the examples of another test set are drawn.
    effects = np.linspace(0, 1, 8)
    cheap = np.random.default_rng(5).permutation(effects)
    truth = spearmanr(cheap, effects).statistic
    held = 0
    for seed in range(40):
        outcomes, exact = outcomes_of(effects, 300, seed)
        table = stats.agreement(dataset(cheap, exact), outcomes=outcomes, repeats=200)
        row = table.iloc[0]
        held += row["lower_examples"] - 1e-9 <= truth <= row["upper_examples"] + 1e-9
    assert held >= 34  # 38 of 40 expected at 95 %


def test_intervals_over_layers_hold_the_truth_about_as_often_as_they_say():
    # Of a normal copula with ρ, Spearman's correlation of all layers is 6 / π · arcsin(ρ / 2).
    rho, held = 0.6, 0
    rng = np.random.default_rng(0)
    for _ in range(60):
        pair = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=30)
        row = stats.agreement(dataset(*pair.T), repeats=300).iloc[0]
        held += row["lower"] <= 6 / np.pi * np.arcsin(rho / 2) <= row["upper"]
    assert held >= 51  # 57 expected; the percentile interval falls a little short


def test_another_sweeps_outcomes_are_refused():
    cheap, exact = drawn(10)
    outcomes, _ = outcomes_of(exact[:4], 30)
    with pytest.raises(ResultError, match=r"hold nothing of model\.layers\.4"):
        stats.agreement(dataset(cheap, exact), outcomes=outcomes)
    outcomes, _ = outcomes_of(exact, 30)
    outcomes["outcome"][0, 0, 0] = np.nan
    with pytest.raises(OptionError, match="did not see all examples"):
        stats.agreement(dataset(cheap, exact), outcomes=outcomes)


def test_what_is_not_there_is_said():
    cheap, exact = drawn()
    with pytest.raises(ResultError, match="no variable 'measure_value'"):
        stats.agreement(dataset(cheap, exact).drop_vars("measure_value"))
    with pytest.raises(OptionError, match="no measure 'influenze'"):
        stats.agreement(dataset(cheap, exact), "influenze")


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
@pytest.mark.parametrize("options", [{}, {"higher_matters": False}, {"logarithmic": True}])
def test_a_point_for_each_layer_with_its_name(backend, options):
    cheap, exact = drawn()
    plot = plots.agreement(dataset(cheap, exact, **options), "influence")
    dots, labels = plot.get(0), plot.get(1)
    np.testing.assert_allclose(np.sort(dots.dimension_values("height")), np.sort(exact), rtol=1e-12)
    names = list(labels.dimension_values("name"))
    assert all(name in ("", str(at)) for at, name in enumerate(names))
    assert sum(map(bool, names)) >= 8  # the others would lie on a neighbour
    hv.render(plot, backend=backend)
    said = f"{values(stats.agreement(dataset(cheap, exact, **options), repeats=5))['spearman']:.2f}"
    assert f"Spearman {said}" in hv.Store.lookup_options("bokeh", plot, "plot").kwargs["title"]


def test_hovering_tells_the_layer_its_measure_and_its_effect():
    cheap, exact = drawn()
    plot = plots.agreement(dataset(cheap, exact), "influence")
    texts = plot.get(0).dframe()
    row = texts.iloc[4]
    assert row["hover layer"] == "model.layers.4"
    assert row["hover influence"] == f"{cheap[4]:.4g}"
    assert row["hover effect"] == f"{exact[4]:+.4g}"


def test_nothing_to_draw_is_said():
    cheap, exact = drawn(4)
    with pytest.raises(ResultError, match="no layer has both 'influence' and an effect"):
        plots.agreement(dataset(cheap * np.nan, exact), "influence")
    assert results.measure(dataset(cheap, exact), "influence").label == "influence"


def named(plot):
    """What is written beside which point."""
    labels = plot.traverse(lambda x: x, [hv.Labels])[0].dframe()
    return labels[labels["name"] != ""]


def test_names_in_a_crowd_are_thinned_out_and_those_that_matter_stay():
    cheap = np.linspace(1.0, 1.02, 40)
    exact = np.linspace(1.0, 1.02, 40)
    cheap[7], exact[7] = 2.0, 2.0  # far from all others
    cheap[9], exact[9] = 1.0, 1.9  # ranked most unlike
    names = set(named(plots.agreement(dataset(cheap, exact), "influence"))["name"])
    assert {"7", "9"} <= names
    assert len(names) < 8
    apart = named(plots.agreement(dataset(*[np.linspace(1, 2, 8)] * 2), "influence"))
    assert len(apart) == 8
