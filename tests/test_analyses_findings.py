"""Findings are judged soundly: by runs, without luck, and by nothing that was not computed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import assume, given, strategies as st
from scipy.stats import ttest_1samp

from layerscope import analyses, testing
from layerscope.errors import OptionError, ResultError
from layerscope.paper.analyses import _per_run

SAMPLES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=0, max_size=8)


def verdict(samples, **limits):
    return analyses.finding("claim", "number", samples, **limits).verdict


# The interval


@given(SAMPLES, st.integers(-20, 20), st.sampled_from([0.0, 0.5]))
def test_above_and_below_are_mirror_images(samples, limit, step):
    mirrored = [-each for each in samples]
    assert verdict(samples, above=limit, step=step) == verdict(mirrored, below=-limit, step=step)


@given(SAMPLES, st.integers(-20, 20))
def test_it_is_students_one_sided_test_at_half_of_what_the_interval_leaves_out(samples, limit):
    assume(len(set(samples)) > 1)
    greater, less = (
        ttest_1samp(samples, limit, alternative=side).pvalue for side in ("greater", "less")
    )
    assume(min(abs(greater - 0.025), abs(less - 0.025)) > 1e-9)
    expected = "agrees" if greater < 0.025 else "disagrees" if less < 0.025 else "undecided"
    assert verdict(samples, above=limit) == expected


@given(SAMPLES, st.integers(-20, 20), st.floats(0, 4))
def test_a_step_only_widens_and_runs_without_a_number_do_not_count(samples, limit, step):
    plain = analyses.finding("c", "m", samples, above=limit)
    wide = analyses.finding("c", "m", [*samples, np.nan], above=limit, step=step)
    assert (wide.runs, wide.value) == pytest.approx((plain.runs, plain.value), nan_ok=True, abs=0)
    if len(samples) < 2:
        assert (plain.verdict, wide.verdict) == ("undecided", "undecided")
    else:
        assert wide.lower <= plain.lower
        assert wide.upper >= plain.upper
        assert wide.verdict in (plain.verdict, "undecided")


@pytest.mark.parametrize("runs", [2, 3, 4, 5])
def test_runs_that_happen_to_give_the_same_share_seldom_settle_what_is_not_so(runs):
    # Differences of shares of 4 layers, each as likely up as down: the claim of more is wrong.
    outcomes = list(itertools.product([-0.25, 0.0, 0.25], repeat=runs))
    wrong = {
        step: np.mean([verdict(each, above=0, step=step) == "agrees" for each in outcomes])
        for step in (0.0, 0.25)
    }
    assert wrong[0.25] <= 0.05
    assert runs > 2 or wrong[0.0] > 0.1, "without a step, two equal runs would do"


def test_the_step_of_a_rank_correlation_is_what_the_next_order_changes():
    from scipy.stats import spearmanr

    for count in (3, 4, 5, 6):
        orders = itertools.permutations(range(count))
        values = np.unique(
            np.round([spearmanr(range(count), each).statistic for each in orders], 12)
        )
        assert np.diff(values).min() == pytest.approx(analyses.rank_step(count))
    assert analyses.rank_step(1) == 0


def test_what_is_not_finite_is_undecided_and_no_json_number():
    found = analyses.finding("c", "m", [1.0, np.inf], above=0)
    assert (found.verdict, found.runs) == ("undecided", 2)
    assert json.loads(json.dumps(found.plain(), allow_nan=False))["value"] is None
    with pytest.raises(OptionError, match="step is -1"):
        analyses.finding("c", "m", [1.0], above=0, step=-1)
    with pytest.raises(OptionError, match="confidence is 95"):
        analyses.finding("c", "m", [1.0], above=0, confidence=95)


# Damage


def runs_of(count=3, layers=6, **changes):
    """Runs that differ in seed alone, to be changed; without differences, so values tell."""
    ds = testing.dataset(layers=layers).drop_vars(["difference", "difference_standard_error"])
    ds = ds.expand_dims(seed=range(count)).copy(deep=True)
    for name, value in changes.items():
        ds[name] = value
    return ds


def cell(ds, epoch=0, metric="error"):
    """A view on what re-initialisation gives, (seed, layer), the whole network left out."""
    at = {"epoch": epoch, "perturbation": "reinitialize", "draw": 0, "metric": metric}
    return {**at, "layer": [str(n) for n in ds["layer"].values if n != "fullmodel"]}


@given(st.integers(0, 88))
def test_damage_is_the_same_by_error_and_by_accuracy(percent):
    ds = testing.dataset().drop_vars("difference")
    ds["baseline"].loc[{"metric": "error"}] = percent / 100
    other = ds.sel(metric=["error"]).assign_coords(metric=["accuracy"])
    other = other.assign(value=1 - other["value"], baseline=1 - other["baseline"])
    one, two = analyses.damage(ds), analyses.damage(other, metric="accuracy")
    np.testing.assert_allclose(one.values, two.values, rtol=1e-9, atol=1e-12)


def test_a_network_that_is_worse_than_untrained_has_no_damage():
    ds = runs_of()
    ds["baseline"].loc[{"metric": "loss", "seed": 1}] = 9.0
    found = analyses.damage(ds, metric="loss")
    assert list(found.isnull().all("layer").values) == [False, True, False]
    assert analyses.bottom_critical(ds, metric="loss").runs == 2


@pytest.mark.parametrize(
    "judge",
    [
        analyses.bottom_critical,
        analyses.upper_robust,
        analyses.distance_tells_little,
        analyses.damage,
        lambda ds: analyses.norms_matter(ds, ds),
        lambda ds: analyses.tables_of({1: ds}),
    ],
)
def test_a_layer_that_was_not_computed_in_one_run_is_named_and_refused(judge):
    ds = runs_of()
    ds["value"].loc[cell(ds) | {"seed": 1, "layer": "layer3"}] = np.nan
    with pytest.raises(ResultError, match="epoch 0 was not computed for layer3 in every run"):
        judge(ds)


@pytest.mark.parametrize(
    ("least", "expected"),
    [(0.98, "agrees"), (1.05, "agrees"), (0.9, "undecided"), (0.7, "disagrees")],
)
def test_a_network_is_at_chance_only_if_no_layer_leaves_it_well_short_of_chance(least, expected):
    ds = runs_of()
    cells = {"perturbation": "rerandomize", "metric": "error"}
    base, chance = ds["baseline"].sel(metric="error", drop=True), _per_run.untrained(ds, "error")
    spread = xr.DataArray([-0.01, 0.0, 0.01], dims="seed", coords={"seed": ds["seed"]})
    ds["value"].loc[cells] = 1.0
    reached = (base + (least + spread) * (chance - base)).broadcast_like(
        ds["value"].sel(cells).sel(layer="layer2", drop=True)
    )
    ds["value"].loc[cells | {"layer": "layer2"}] = reached
    found = analyses.random_fails(ds)
    assert (found.condition, found.verdict) == ("above 0.9", expected)


def test_what_was_not_swept_is_refused_in_words():
    ds = runs_of()
    ds["value"].loc[{"perturbation": "rerandomize", "layer": "layer2"}] = np.nan
    with pytest.raises(ResultError, match="'rerandomize' at epoch 0 was not computed for layer2"):
        analyses.random_fails(ds)
    with pytest.raises(ResultError, match=r"was not computed at epoch 7; sweep it. There is 0, 1"):
        analyses.damage(ds, epoch=7)
    with pytest.raises(ResultError, match="what loss is without training is not known"):
        _per_run.untrained(ds.sel(perturbation=["rerandomize"]), "loss")
    ds["value"].loc[{"layer": "fullmodel", "seed": 2}] = np.nan
    with pytest.raises(ResultError, match="what loss is without training is not known"):
        analyses.damage(ds, metric="loss")


def test_limits_are_above_0_for_metrics_that_fall_too():
    ds = testing.dataset()
    falling = ds.sel(metric=["loss"]).assign_coords(metric=["cosine"])
    # From 1, as trained, down to 0 for the untrained network.
    least, most = falling["baseline"].item(), float(_per_run.untrained(ds, "loss"))
    falling = falling.assign(
        value=(most - falling["value"]) / (most - least), baseline=falling["baseline"] * 0 + 1
    )
    assert analyses.limits(falling, "cosine") == pytest.approx(
        {"metric": "cosine", "tolerance": 0.05, "critical": 0.25}
    )


# Claims


def test_luck_of_the_worst_layer_is_no_finding():
    draw = np.random.default_rng(0)
    ds = runs_of(40, layers=12)
    for epoch in (0, 1):
        ds["value"].loc[cell(ds, epoch)] = 0.1 + 0.02 * draw.standard_normal((40, 12))
    worst = (analyses.damage(ds, epoch=1) - analyses.damage(ds, epoch=0)).max("layer")
    assert analyses.finding("c", "m", worst, above=0).verdict == "agrees", "by luck alone"
    assert analyses.first_epoch_worse(ds).verdict != "agrees"
    ds["value"].loc[cell(ds, 1) | {"layer": "layer5"}] += 0.1
    found = analyses.first_epoch_worse(ds.isel(seed=slice(5)))
    assert (found.verdict, found.runs) == ("agrees", 5)
    assert found.value == pytest.approx(0.1 / 0.8665, abs=0.03)


def test_distance_that_tells_the_other_way_round_tells_as_well():
    ds = runs_of()
    last = int(ds["epoch"].max())
    names = [f"layer{n + 1}" for n in range(6)]
    for sign in (1, -1):
        order = np.arange(6)[::-sign] + 1.0  # layer1 hurts most
        ds["distance"].loc[{"epoch": last, "norm": "l2_fan_in", "layer": names}] = order
        found = analyses.distance_tells_little(ds)
        assert (found.value, found.verdict) == (pytest.approx(sign), "disagrees")


def test_normalisation_matters_where_keeping_it_helps():
    ds, kept = runs_of(), runs_of()
    for seed in range(3):
        kept["value"].loc[cell(kept) | {"seed": seed}] -= 0.019 + 0.001 * seed
    found = analyses.norms_matter(ds, kept, rows="layer[1-5]")
    assert (found.verdict, found.value) == ("agrees", pytest.approx(0.02 / 0.8665))
    assert analyses.norms_matter(kept, ds).verdict == "disagrees"
    with pytest.raises(ResultError, match=r"sweeps are of layer1, .* sweep the same"):
        analyses.norms_matter(ds, kept.drop_sel(layer="layer2"))
    with pytest.raises(ResultError, match="or of other runs"):
        analyses.norms_matter(ds, kept.isel(seed=[0, 1]))


def _joint(together, half):
    """Rows a and b are robust; what resetting them together and by halves gives."""
    ds = runs_of(3, layers=5)
    names = ["a", "b", "odd rows", "even rows", "all 2"]
    ds = ds.assign_coords(layer=[*names, "fullmodel"])
    noise = np.array([-0.001, 0.0, 0.001])
    for name, error in zip(names, (0.03, 0.02, half, half, together), strict=True):
        ds["value"].loc[cell(ds) | {"layer": name}] = error + noise
    return ds


def test_together_counts_only_beyond_what_is_robust():
    judged = analyses.not_jointly_robust(_joint(0.5, 0.1), ["a", "b"], "all 2")
    assert judged.verdict == "agrees"
    # A little worse than one alone, and still robust.
    assert analyses.not_jointly_robust(_joint(0.04, 0.1), ["a", "b"], "all 2").verdict == (
        "disagrees"
    )
    for single in ([], ["a"]):
        assert analyses.not_jointly_robust(_joint(0.5, 0.1), single, "all 2").runs == 0
    four = ["a", "b", "c", "d"]
    assert analyses.some_survive(_joint(0.5, 0.1), four).verdict == "agrees"
    assert analyses.some_survive(_joint(0.5, 0.4), four).verdict == "disagrees"
    # Half of three is a single row: robust, or it would not be one of them.
    assert analyses.some_survive(_joint(0.5, 0.1), four[:3]).runs == 0


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([0.9, 0.2, 0.8, 0.2, 0.7, 0.2], "agrees"),
        # Critical at the bottom alone, however the stages are cut.
        ([0.9, 0.4, 0.3, 0.2, 0.15, 0.12], "disagrees"),
        # The last stage has no critical block at its beginning.
        ([0.9, 0.2, 0.8, 0.2, 0.2, 0.2], "disagrees"),
        ([0.9, 0.2, 0.8, 0.2, 0.2, 0.7], "disagrees"),
    ],
)
def test_critical_blocks_are_at_the_beginnings_of_all_stages_above_the_first(errors, verdict):
    ds = runs_of(3, layers=6)
    names = ["s1.1", "s1.2", "s2.1", "s2.2", "s3.1", "s3.2"]
    ds = ds.assign_coords(layer=[*names, "fullmodel"])
    noise = np.array([-0.001, 0.0, 0.001])
    for name, error in zip(names, errors, strict=True):
        ds["value"].loc[cell(ds) | {"layer": name}] = error + noise
    assert analyses.stage_starts_matter(ds).verdict == verdict
    with pytest.raises(ResultError, match="no blocks of a ResNet with several stages"):
        analyses.stage_starts_matter(ds.sel(layer=["s1.1", "s1.2", "fullmodel"]))


def test_damage_of_a_cell_that_was_stopped_early_is_over_its_own_examples():
    ds = testing.dataset()
    at = {"layer": "layer2", "epoch": 0, "metric": "error", "perturbation": "reinitialize"}
    # Its examples were harder ones: the trained network is as bad on them.
    ds["value"].loc[at] = 0.3
    ds["difference"].loc[at] = 0.0
    assert analyses.damage(ds).sel(layer="layer2").item() == 0.0


SHARES = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=3, max_size=3)


@given(SHARES, SHARES, st.randoms(use_true_random=False))
def test_extremes_are_paired_by_seed_whatever_the_order(low, high, chance):
    rows = [
        {"width": width, "seed": seed, "robust_share": share, "layers": 4}
        for width, shares in ((8, low), (16, [0.5] * 3), (64, high))
        for seed, share in enumerate(shares)
    ]
    chance.shuffle(rows)
    found = analyses.extremes_differ(
        pd.DataFrame(rows), "width", "robust_share", "width-robust_share"
    )
    moved = np.subtract(high, low)
    plain = analyses.finding("wider", "", moved, above=0, step=0.25, span=(-1, 1))
    assert (found.verdict, found.value, found.lower) == (plain.verdict, plain.value, plain.lower)
    assert found.measured.startswith("share of robust layers, largest width less smallest")


def test_one_setting_settles_nothing_and_a_missing_run_is_left_out():
    table = analyses.tables_of({8: runs_of(), 16: runs_of(2)}, "width")
    assert analyses.extremes_differ(table, "width", "damage", "width-damage").runs == 2
    alone = table[table["width"] == 8]
    assert analyses.extremes_differ(alone, "width", "damage", "width-damage").runs == 0


def test_the_upper_half_leaves_the_middle_layer_out():
    table = analyses.tables_of({5: runs_of(1, layers=5)})
    shares = analyses.damage(testing.dataset(layers=5)).values[0]
    assert table["upper_damage"].tolist() == [pytest.approx(shares[3:].mean())]
    assert table["damage"].tolist() == [pytest.approx(shares.mean())]


def test_a_claim_about_one_run_is_told_but_not_settled():
    ds = testing.dataset()
    for judge in (analyses.random_fails, analyses.bottom_critical, analyses.upper_robust):
        found = judge(ds)
        assert (found.verdict, found.runs) == ("undecided", 1)
        assert np.isfinite(found.value)


@pytest.mark.parametrize("samples", [[-1.0, -1.0, -1.0], [-1.0, -0.6, -0.8]])
def test_an_interval_ends_where_the_number_does(samples):
    plain = analyses.finding("c", "m", samples, below=0, step=0.2)
    ended = analyses.finding("c", "m", samples, below=0, step=0.2, span=(-1, 1))
    assert plain.lower < -1
    assert ended.lower == -1
    assert (ended.upper, ended.verdict) == (plain.upper, plain.verdict)
