import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, strategies as st

from layerscope import results, stats, testing
from layerscope.errors import OptionError, ResultError


@pytest.fixture
def ds() -> xr.Dataset:
    return testing.dataset()


@pytest.fixture
def seeds() -> xr.Dataset:
    return results.concat([testing.dataset(seed=seed) for seed in (3, 5, 7)], [3, 5, 7])


def one_cell(error, baseline=0.02, n=10_000, chance=0.9) -> xr.Dataset:
    """A Dataset by hand: errors (layer, draw) at re-initialisation, and nothing optional."""
    error = np.asarray(error, float)
    return xr.Dataset(
        {
            "value": (
                ("layer", "epoch", "perturbation", "draw", "metric"),
                error[:, None, None, :, None],
            ),
            "baseline": ("metric", [baseline]),
            "n_examples": n,
            "chance": chance,
        },
        {
            "layer": [f"layer{index}" for index in range(len(error))],
            "epoch": [0],
            "perturbation": ["reinitialize"],
            "draw": np.arange(error.shape[1]),
            "metric": ["error"],
        },
    )


# Arrays


@pytest.mark.parametrize(
    ("errors", "n", "expected"),
    # Newcombe (1998), Statistics in Medicine 17, 857–872, table I, method 3.
    [
        (81 / 263, 263, (0.2553, 0.3662)),
        (15 / 148, 148, (0.0624, 0.1605)),
        (0 / 20, 20, (0.0, 0.1611)),
        (1 / 29, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(errors, n, expected):
    np.testing.assert_allclose(stats.wilson(errors, n), expected, atol=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # Newcombe (1998), Statistics in Medicine 17, 873–890, table II, method 10.
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ],
)
def test_newcombe_gives_the_published_intervals(first, second, expected):
    bounds = stats.newcombe(first[0] / first[1], first[1], second[0] / second[1], second[1])
    np.testing.assert_allclose(bounds, expected, atol=5e-5)


counts = st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 0.999))
def test_wilson_encloses_the_estimate_and_narrows(count, confidence):
    errors, n = count
    lower, upper = stats.wilson(errors / n, n, confidence)
    assert 0 <= lower <= errors / n <= upper <= 1
    more = stats.wilson(errors / n, 4 * n, confidence)
    assert more[1] - more[0] < upper - lower


@given(counts, counts)
def test_newcombe_encloses_the_difference_and_turns_with_it(first, second):
    p1, p0 = first[0] / first[1], second[0] / second[1]
    lower, upper = stats.newcombe(p1, first[1], p0, second[1])
    assert -1 <= lower <= p1 - p0 <= upper <= 1
    np.testing.assert_array_equal(stats.newcombe(p0, second[1], p1, first[1]), (-upper, -lower))


def test_wilson_covers_as_often_as_it_says():
    # Exactly, by the binomial distribution: no random numbers.
    from scipy.stats import binom

    n, p = 200, np.linspace(0.02, 0.98, 97)
    hits = np.arange(n + 1)
    lower, upper = stats.wilson(hits / n, n)
    inside = (lower <= p[:, None]) & (p[:, None] <= upper)
    coverage = (binom.pmf(hits, n, p[:, None]) * inside).sum(axis=1)
    assert abs(coverage.mean() - 0.95) < 0.003


@pytest.mark.parametrize(
    ("errors", "n", "said"), [(1.2, 10, "1.2"), (-0.1, 10, "-0.1"), (0.5, 0, "n = 0")]
)
def test_wilson_refuses_what_is_no_proportion(errors, n, said):
    with pytest.raises(OptionError, match=said):
        stats.wilson(errors, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
@pytest.mark.parametrize(
    "call", [stats.student, lambda p, confidence: stats.wilson(p, 9, confidence)]
)
def test_confidence_is_checked(call, confidence):
    with pytest.raises(OptionError, match=r"0\.95"):
        call([0.1, 0.2], confidence=confidence)


def test_student_ignores_nan_and_does_not_invent_certainty():
    nan = np.nan
    samples = [[1.0, 2.0, 3.0, nan], [4.0, nan, nan, nan], [nan] * 4]
    mean, lower, upper = stats.student(samples, axis=1)
    np.testing.assert_allclose(mean, [2, 4, nan])
    # t(0.975; 2) / √3 = 4.302653 / 1.732051
    np.testing.assert_allclose(lower, [2 - 2.484138, nan, nan], atol=1e-6)
    np.testing.assert_allclose(upper, [2 + 2.484138, nan, nan], atol=1e-6)
    np.testing.assert_array_equal(
        stats.student(np.transpose(samples), axis=0), (mean, lower, upper)
    )


def test_student_of_infinite_samples_has_no_bounds():
    mean, lower, upper = stats.student([1.0, np.inf])
    assert np.isinf(mean)
    assert np.isnan([lower, upper]).all()


# Labelled


def test_degradation_keeps_dimensions_and_gaps(ds, seeds):
    for each in (ds, seeds):
        moved = stats.degradation(each)
        assert moved.dims == each["value"].dims
        xr.testing.assert_equal(moved.isnull(), each["value"].isnull())
        cell = moved.sel(
            layer="layer1", epoch=0, perturbation="reinitialize", draw=0, metric="error"
        )
        np.testing.assert_allclose(cell, 0.88, atol=1e-12)


def test_interval_is_wilson_for_fractions_and_normal_for_others(ds, seeds):
    for each in (ds, seeds):
        bounds = stats.interval(each, confidence=0.9)
        assert bounds["lower"].dims == each["value"].dims
        error, loss = (each["value"].sel(metric=name) for name in ("error", "loss"))
        for name, bound in zip(("lower", "upper"), stats.wilson(error, 10_000, 0.9), strict=True):
            np.testing.assert_array_equal(bounds[name].sel(metric="error"), bound)
        half = 1.6448536269514722 * each["standard_error"].sel(metric="loss")
        np.testing.assert_allclose(bounds["upper"].sel(metric="loss"), loss + half)
        np.testing.assert_allclose(bounds["lower"].sel(metric="loss"), loss - half)


def test_interval_is_unknown_without_anything_to_tell_it_from(ds):
    bounds = stats.interval(ds.drop_vars(["n_examples", "standard_error"]))
    assert bounds["lower"].isnull().all()


def test_summary_is_in_the_papers_order_and_leaves_gaps_out(ds):
    ds["value"].loc[{"layer": "layer2", "epoch": 2}] = np.nan
    # The network's row comes last, and rand first, however the Dataset is laid out.
    mixed = ds.isel(layer=[4, 0, 1, 2, 3], epoch=slice(None, None, -1))
    table = stats.summary(mixed)
    assert list(table["layer"].unique()) == ["layer1", "layer2", "layer3", "layer4", "fullmodel"]
    columns = ["rand", "0", "1", "2", "3", "8", "40", "90", "100"]
    assert list(table.query("layer == 'layer1'")["column"]) == columns
    columns.remove("2")
    assert list(table.query("layer == 'layer2'")["column"]) == columns
    assert not table["value"].isna().any()
    assert stats.column_order(table) == ["rand", "0", "1", "2", "3", "8", "40", "90", "100"]


def test_summary_names_other_perturbations(ds):
    extra = ds.sel(perturbation=["rerandomize"]).assign_coords(perturbation=["zero"])
    half = ds.sel(perturbation=["reinitialize"]).assign_coords(perturbation=["halve"])
    joined = xr.concat([extra, half, ds], "perturbation", data_vars="minimal")
    columns = stats.column_order(stats.summary(joined))
    assert columns[:3] == ["rand", "zero", "0"]
    assert columns[9:12] == ["100", "halve 0", "halve 1"]


def test_summary_of_one_seed(ds):
    table = stats.summary(ds).set_index(["layer", "column"])
    rand, zero = table.loc[("layer1", "rand")], table.loc[("layer1", "0")]
    draws = ds["value"].sel(layer="layer1", epoch=-1, perturbation="rerandomize", metric="error")
    assert (rand.interval_kind, rand.n_draws, rand.n_seeds) == ("draws", 3, 1)
    np.testing.assert_allclose(rand.value, draws.mean())
    np.testing.assert_allclose(rand.spread, draws.std(ddof=1))
    np.testing.assert_allclose(rand.lower, stats.student(draws)[1])
    assert stats.student(draws)[2] > 1  # Errors don't exceed 1.
    assert rand.upper == 1
    assert (zero.interval_kind, zero.n_draws, zero.n_examples) == ("examples", 1, 10_000)
    np.testing.assert_allclose((zero.lower, zero.upper), stats.wilson(0.9, 10_000))
    assert np.isnan(zero.spread)
    np.testing.assert_allclose((zero.value, zero.degradation), (0.9, 0.88))


def test_summary_over_seeds_weighs_seeds_alike(seeds):
    # One seed has a single draw left: its mean still counts as much as the others'.
    at = {"layer": "layer1", "epoch": -1, "perturbation": "rerandomize", "metric": "error"}
    seeds["value"].loc[at | {"seed": 5, "draw": [1, 2]}] = np.nan
    per_seed = seeds["value"].sel(at).mean("draw").values
    rand = stats.summary(seeds).set_index(["layer", "column"]).loc[("layer1", "rand")]
    mean, lower, upper = stats.student(per_seed)
    np.testing.assert_allclose((rand.value, rand.lower, rand.upper), (mean, lower, min(upper, 1)))
    np.testing.assert_allclose(rand.spread, per_seed.std(ddof=1))
    assert (rand.interval_kind, rand.n_draws, rand.n_seeds) == ("seeds", 3, 3)


def test_summary_chooses_the_kind_cell_by_cell(seeds):
    seeds["value"].loc[{"layer": "layer1", "seed": [5, 7]}] = np.nan
    table = stats.summary(seeds).set_index(["layer", "column"])
    alone = stats.summary(seeds.sel(seed=3)).set_index(["layer", "column"])
    for column, kind in {"rand": "draws", "0": "examples"}.items():
        assert table.loc[("layer1", column), "interval_kind"] == kind
        assert table.loc[("layer2", column), "interval_kind"] == "seeds"
    pd.testing.assert_frame_equal(table.loc[["layer1"]], alone.loc[["layer1"]])


def test_summary_does_without_what_it_can(ds):
    table = stats.summary(ds[["value"]]).set_index(["layer", "column"])
    assert table.loc[("layer1", "0"), "value"] == 0.9
    assert table.loc["layer1"][["degradation", "n_examples"]].isna().all().all()
    assert np.isnan(table.loc[("layer1", "0"), "lower"])


# Sweeps that stop cells


@pytest.fixture
def stopped(ds):
    """As from a sweep with a tolerance of the error: layer1 saw all examples, no other did."""
    error = ds["value"].sel(metric="error", drop=True)
    apart = xr.where(ds["layer"] == "layer1", 0.0, 0.03)
    ds = ds.assign(lower=error - apart, upper=error + apart / 2)
    rule = {"width": 0.03, "confidence": 0.99, "metric": None}
    return ds.assign_attrs(stopping=json.dumps(rule), metrics=json.dumps(["error", "loss"]))


def test_a_cell_that_was_stopped_has_the_interval_that_allows_for_it(stopped, ds):
    table, plain = (stats.summary(each).set_index(["layer", "column"]) for each in (stopped, ds))
    for at, row in table.iterrows():
        if at[0] == "layer1" or at[1] == "rand":
            pd.testing.assert_series_equal(row, plain.loc[at])
            continue
        low, high = max(row["value"] - 0.03, 0), min(row["value"] + 0.015, 1)
        np.testing.assert_allclose((row["lower"], row["upper"]), (low, high), rtol=1e-12)
        assert row["interval_kind"] == "unseen examples"
    same = ["value", "spread", "n_examples", "degradation"]
    pd.testing.assert_frame_equal(table[same], plain[same])


def test_the_bounds_of_a_sweep_hold_for_its_metric_and_up_to_its_confidence(stopped, ds):
    pd.testing.assert_frame_equal(stats.summary(stopped, "loss"), stats.summary(ds, "loss"))
    alone = stopped.sel(metric=["loss"])  # now the first metric, but not the first of the sweep
    pd.testing.assert_frame_equal(stats.summary(alone, "loss"), stats.summary(ds, "loss"))
    named = stopped.assign_attrs(stopping='{"confidence": 0.99, "metric": "loss"}')
    assert "unseen examples" not in set(stats.summary(named)["interval_kind"])
    cell = ("layer2", "0")
    known, unknown = (
        stats.summary(stopped, confidence=level).set_index(["layer", "column"]).loc[cell]
        for level in (0.99, 0.995)
    )
    np.testing.assert_allclose(known["lower"], known["value"] - 0.03)
    assert np.isnan([unknown["lower"], unknown["upper"]]).all()


def test_bounds_of_single_runs_are_kept_among_several(stopped):
    runs = results.concat([stopped, stopped], [0, 1])
    assert "unseen examples" not in set(stats.summary(runs)["interval_kind"])
    runs["value"].loc[{"seed": 1, "layer": "layer3"}] = np.nan
    table, alone = (
        each[each["layer"] == "layer3"].reset_index(drop=True)
        for each in (stats.summary(runs), stats.summary(stopped))
    )
    pd.testing.assert_frame_equal(table, alone)


@pytest.mark.parametrize("dim", ["layer", "epoch", "perturbation", "draw", "metric"])
def test_a_missing_dimension_is_named(ds, dim):
    with pytest.raises(ResultError, match=dim):
        stats.summary(ds.isel({dim: 0}))


def test_a_surplus_dimension_is_named(ds):
    with pytest.raises(ResultError, match=r"alpha.*\.sel\(alpha=0\.5\)"):
        stats.summary(ds.expand_dims(alpha=[0.5, 1.0]))


def test_an_unknown_name_is_told_with_what_there_is(ds):
    for call in (stats.summary, stats.classify, lambda ds, name: stats.distances(ds, name)):
        with pytest.raises(OptionError, match="'eror'"):
            call(ds, "eror")


# Verdicts


def test_the_four_verdicts():
    # chance − baseline = 0.88; from 0.22 on, a layer is critical. ±0.01 at n = 10 000, or less.
    ds = one_cell([[0.025], [0.2], [0.9], [0.07], [0.24]])
    table = stats.classify(ds)
    assert list(table["verdict"]) == [
        "robust",
        "intermediate",
        "critical",
        "undecided",
        "undecided",
    ]
    np.testing.assert_allclose(table["degradation"], [0.005, 0.18, 0.88, 0.05, 0.22])
    np.testing.assert_allclose(
        np.stack([table["lower"], table["upper"]]),
        stats.newcombe([0.025, 0.2, 0.9, 0.07, 0.24], 10_000, 0.02, 10_000),
    )
    assert table.attrs["critical"] == pytest.approx(0.22)
    assert set(table["interval_kind"]) == {"examples"}


def test_verdicts_at_the_very_edges():
    ds = one_cell([[0.1]])
    found = stats.classify(ds).iloc[0]
    at, below = found["upper"], np.nextafter(found["upper"], 0)
    verdicts = [stats.classify(ds, tolerance=t)["verdict"].item() for t in (at, below)]
    assert verdicts == ["robust", "undecided"]
    at, above = found["lower"], np.nextafter(found["lower"], 1)
    verdicts = [stats.classify(ds, critical=c)["verdict"].item() for c in (at, above)]
    assert verdicts == ["critical", "undecided"]


def test_no_verdict_where_robust_and_critical_meet():
    hopeless = one_cell([[0.88]], baseline=0.88, chance=0.9)
    assert stats.classify(hopeless)["verdict"].item() == "undecided"
    assert (
        stats.classify(hopeless, tolerance=0.0095, critical_share=0.5)["verdict"].item() == "robust"
    )


def test_verdict_over_draws_and_over_seeds():
    draws = one_cell([[0.30, 0.31, 0.32]])
    found = stats.classify(draws).iloc[0]
    np.testing.assert_allclose(
        found[["degradation", "lower", "upper"]].astype(float), stats.student([0.28, 0.29, 0.30])
    )
    assert found["interval_kind"] == "draws"
    # Over seeds, each seed's own baseline counts, and its draws are averaged first.
    runs = results.concat(
        [one_cell([[0.3, 0.4]], baseline=0.02), one_cell([[0.5, 0.6]], baseline=0.1)], [0, 1]
    )
    found = stats.classify(runs).iloc[0]
    np.testing.assert_allclose(
        found[["degradation", "lower", "upper"]].astype(float), stats.student([0.33, 0.45])
    )
    assert found["interval_kind"] == "seeds"


def test_accuracy_gives_the_verdicts_of_error():
    ds = one_cell([[0.025], [0.2], [0.9], [0.04]])
    right = ds.assign(value=1 - ds["value"], baseline=1 - ds["baseline"])
    right = right.assign_coords(metric=["accuracy"])
    mine, other = stats.classify(right, "accuracy"), stats.classify(ds)
    pd.testing.assert_frame_equal(mine, other, rtol=1e-9)


def test_loss_needs_a_limit_and_takes_standard_errors(ds):
    with pytest.raises(OptionError, match="critical="):
        stats.classify(ds, "loss")
    cell = ds.sel(layer="layer4", epoch=0, perturbation="reinitialize", draw=0, metric="loss")
    apart = np.hypot(cell["standard_error"], cell["baseline_standard_error"])
    unpaired = ds.drop_vars(["difference", "difference_standard_error"])
    for each, error in ((ds, cell["difference_standard_error"]), (unpaired, apart)):
        found = stats.classify(each, "loss", critical=1.0).set_index("layer").loc["layer4"]
        half = 1.959963984540054 * error
        np.testing.assert_allclose(found["upper"] - found["degradation"], half)
        np.testing.assert_allclose(found["degradation"] - found["lower"], half)
        np.testing.assert_allclose(found["degradation"], cell["value"] - cell["baseline"])


@pytest.mark.parametrize("metric", ["agreement", "top5_error"])
def test_only_error_and_accuracy_have_a_limit_by_chance(ds, metric):
    other = ds.sel(metric=["error"]).assign_coords(metric=[metric])
    with pytest.raises(OptionError, match=f"not known for '{metric}'.*critical="):
        stats.classify(other, metric)
    assert set(stats.classify(other, metric, critical=0.2)["interval_kind"]) == {"examples"}


# Paired


def paired_cell(worse, better, n=1000, wrong=100, metric="error") -> xr.Dataset:
    """A Dataset by hand with what examples tell: (layer,) counts of a 0–1 metric."""
    worse, better, n = np.broadcast_arrays(*np.atleast_1d(worse, better, n))
    rows = [
        np.repeat([1.0, -1.0, 0.0], [w, b, size - w - b])
        for w, b, size in zip(worse, better, n, strict=True)
    ]
    sign = results.metric(None, metric).worse
    differences = sign * np.array([row.mean() for row in rows])
    start = wrong / 1000 if sign > 0 else 1 - wrong / 1000
    ds = one_cell((start + differences)[:, None], start).assign_coords(metric=[metric])
    errors = np.array([row.std(ddof=1) / np.sqrt(len(row)) for row in rows])
    dims = ds["value"].dims
    at = (slice(None), *[None] * 4)
    return ds.assign(
        difference=(dims, differences[at]),
        difference_standard_error=(dims, errors[at]),
        n_examples=(dims[:-1], n[at[:-1]]),
    )


@given(
    st.lists(st.integers(0, 10**7), min_size=3, max_size=3).filter(lambda parts: sum(parts) >= 2)
)
def test_discordant_counts_come_back_from_mean_and_standard_error(parts):
    worse, better, _ = parts
    n = sum(parts)
    mean = (worse - better) / n
    error = np.sqrt(max((worse + better) / n - mean**2, 0) / (n - 1))
    np.testing.assert_array_equal(stats.discordant(mean, error, n), (worse, better))


def test_what_is_no_count_of_examples_has_no_discordant_counts():
    for mean, error, n in ((0.25, 0.1, 10), (np.nan, 0.1, 10), (0.5, np.nan, 10), (0.3, 0, 10)):
        assert np.isnan(stats.discordant(mean, error, n)).all()
    # Differences beyond ±1.
    assert np.isnan(stats.discordant(2.0, 0.0, 10)).all()


def test_mcnemar_is_the_exact_binomial_test():
    from scipy.stats import binomtest

    worse, better = (each.ravel() for each in np.mgrid[0:12, 0:12])
    expected = [
        binomtest(int(w), int(w + b)).pvalue if w + b else 1.0
        for w, b in zip(worse, better, strict=True)
    ]
    np.testing.assert_allclose(stats.mcnemar(worse, better), expected, rtol=1e-12)
    assert np.isnan(stats.mcnemar(np.nan, 3.0))
    with pytest.raises(OptionError, match="negative"):
        stats.mcnemar(-1, 3)


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3).filter(any), st.floats(0.1, 0.999))
def test_the_paired_interval_encloses_the_difference_and_turns_with_it(parts, confidence):
    worse, better, n = parts[0], parts[1], sum(parts)
    lower, upper = stats.paired_proportions(worse, better, n, confidence)
    assert -1 <= lower <= (worse - better) / n <= upper <= 1
    turned = stats.paired_proportions(better, worse, n, confidence)
    np.testing.assert_allclose(turned, (-upper, -lower), rtol=1e-12, atol=1e-15)


def test_the_paired_interval_is_bonetts_and_prices():
    z = 1.959963984540054
    worse, better, n = np.array([9, 0, 40]), np.array([2, 0, 3]), 60
    p, q = (worse + 1) / (n + 2), (better + 1) / (n + 2)
    half = z * np.sqrt((p + q - (p - q) ** 2) / (n + 2))
    np.testing.assert_allclose(
        stats.paired_proportions(worse, better, n), (p - q - half, p - q + half)
    )
    assert np.isnan(stats.paired_proportions(np.nan, 0, 10)).all()
    for counts in ((-1, 0, 9), (5, 5, 9), (0, 0, 0)):
        with pytest.raises(OptionError, match=r"negative|exceeds n"):
            stats.paired_proportions(*counts)


def test_the_paired_interval_covers_as_often_as_it_says():
    # Many draws at each of several truths; the bound is that of the binomial distribution for a
    # coverage of 0.945 in 4000, one in a million.
    from scipy.stats import binom

    rng = np.random.default_rng(0)
    for n, worse, better in ((50, 0.1, 0.05), (200, 0.02, 0.01), (2000, 0.3, 0.0), (500, 0.2, 0.2)):
        drawn = rng.multinomial(n, [worse, better, 1 - worse - better], 4000)
        lower, upper = stats.paired_proportions(drawn[:, 0], drawn[:, 1], n)
        inside = (lower <= worse - better) & (worse - better <= upper)
        assert inside.sum() >= binom.ppf(1e-6, 4000, 0.945)


@pytest.mark.parametrize("metric", ["error", "accuracy", "agreement", "top5_error"])
def test_verdicts_take_the_paired_interval_of_every_cell(metric):
    n = np.array([1000, 1000, 200])
    worse, better = np.array([60, 3, 110]), np.array([20, 3, 0])
    ds = paired_cell(worse, better, n, metric=metric)
    table = stats.classify(ds, metric, critical=0.3)
    np.testing.assert_allclose(table["degradation"], (worse - better) / n, rtol=1e-12)
    np.testing.assert_allclose(
        (table["lower"], table["upper"]), stats.paired_proportions(worse, better, n), rtol=1e-9
    )
    assert list(table["verdict"]) == ["undecided", "robust", "critical"]
    # What both agree on is no reason for doubt.
    apart = stats.classify(
        ds.drop_vars(["difference", "difference_standard_error"]), metric, critical=0.3
    )
    assert (apart["upper"] - apart["lower"] > table["upper"] - table["lower"]).all()
    pd.testing.assert_series_equal(apart["degradation"], table["degradation"])


def test_fewer_examples_than_the_baseline_are_compared_with_the_same_ones():
    ds = paired_cell([30], [10], 200)
    ds["value"] += 0.07  # the first 200 examples are harder than the rest
    assert stats.classify(ds)["degradation"].item() == pytest.approx(0.1)
    assert stats.degradation(ds).item() == pytest.approx(0.1)
    row = stats.summary(ds).iloc[0]
    assert (row["degradation"], row["n_examples"]) == (pytest.approx(0.1), 200)
    np.testing.assert_allclose((row["lower"], row["upper"]), stats.wilson(0.27, 200), rtol=1e-12)


def test_fractions_of_positions_of_sequences_take_their_standard_error():
    ds = paired_cell([30], [10], 200)
    # 200 sequences of several positions each: neither counts nor differences are whole.
    ds["value"][:], ds["difference"][:] = 0.2711, 0.0934
    ds["standard_error"] = xr.full_like(ds["value"], 0.01)
    ds["difference_standard_error"][:] = 0.004
    z = 1.959963984540054
    bounds = stats.interval(ds)
    np.testing.assert_allclose(bounds["upper"] - ds["value"], z * 0.01)
    found = stats.classify(ds).iloc[0]
    np.testing.assert_allclose(found["upper"] - found["degradation"], z * 0.004)


def test_without_a_paired_difference_of_a_metric_the_rest_still_has_one(ds):
    ds["difference"].loc[{"metric": "loss"}] = np.nan
    ds["difference_standard_error"].loc[{"metric": "loss"}] = np.nan
    plain = ds.drop_vars(["difference", "difference_standard_error"])
    pd.testing.assert_frame_equal(
        stats.classify(ds, "loss", critical=1), stats.classify(plain, "loss", critical=1)
    )
    xr.testing.assert_identical(
        stats.degradation(ds).sel(metric="loss"), stats.degradation(plain).sel(metric="loss")
    )


@pytest.mark.parametrize("joined", [False, True])
def test_examples_of_every_cell_say_the_same_as_one_number(ds, seeds, joined):
    each = seeds if joined else ds
    spread = each.assign(
        n_examples=xr.full_like(each["value"].isel(metric=0, drop=True), 10_000)
        .where(each["value"].isel(metric=0, drop=True).notnull(), 0)
        .astype(int)
    )
    assert (spread["n_examples"] == 0).any()
    for call in (stats.summary, stats.classify):
        pd.testing.assert_frame_equal(call(spread), call(each))
    xr.testing.assert_identical(stats.interval(spread), stats.interval(each))
    if joined:
        one = [every.sel(seed=5) for every in (spread, each)]
        pd.testing.assert_frame_equal(stats.summary(one[0]), stats.summary(one[1]))
        pd.testing.assert_frame_equal(stats.classify(one[0]), stats.classify(one[1]))


def test_summary_names_the_fewest_examples(ds):
    cells = xr.full_like(ds["value"].isel(metric=0, drop=True), 10_000).astype(int)
    cells.loc[{"layer": "layer2", "epoch": -1, "draw": 1}] = 300
    cells.loc[{"layer": "layer3", "epoch": 0, "draw": 0}] = 500
    at = {"layer": "layer3", "epoch": 0, "draw": 0, "perturbation": "reinitialize"}
    ds["value"].loc[at | {"metric": "error"}] = 0.2
    # Nothing was computed there: it is not counted.
    cells.loc[{"layer": "layer3", "epoch": 0, "draw": 1}] = 7
    table = stats.summary(ds.assign(n_examples=cells)).set_index(["layer", "column"])
    assert table.loc[("layer2", "rand"), "n_examples"] == 300
    assert table.loc[("layer3", "0"), "n_examples"] == 500
    assert table["n_examples"].drop([("layer2", "rand"), ("layer3", "0")]).eq(10_000).all()
    np.testing.assert_allclose(
        table.loc[("layer3", "0"), ["lower", "upper"]].astype(float),
        stats.wilson(0.2, 500),
    )


def test_bounds_belong_to_their_layers_however_these_are_laid_out(ds):
    mixed = ds.isel(layer=[4, 0, 1, 2, 3])
    pd.testing.assert_frame_equal(stats.summary(mixed), stats.summary(ds))
    for metric, options in (("error", {}), ("loss", {"critical": 1.0})):
        pd.testing.assert_frame_equal(
            stats.classify(mixed, metric, include_network=True, **options),
            stats.classify(ds, metric, include_network=True, **options),
        )


# Bootstrap


def test_the_bootstrap_of_a_mean_is_near_students_interval():
    rng = np.random.default_rng(1)
    base = rng.exponential(size=400)
    values = base + rng.normal(0.1, 0.5, 400)
    found, lower, upper = stats.bootstrap(values, base, repeats=4000)
    mean, low, high = stats.student(values - base)
    assert found == pytest.approx(mean, rel=1e-12)
    np.testing.assert_allclose((lower, upper), (low, high), atol=0.05 * (high - low))


def test_the_bootstrap_is_scipys():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(2)
    weights = rng.integers(1, 9, 120).astype(float)
    base = weights * rng.exponential(1.0, 120)
    values = base + weights * rng.exponential(0.4, 120)

    def perplexities(y, y0, w, axis=-1):
        w = w.sum(axis)
        return np.exp(y.sum(axis) / w) - np.exp(y0.sum(axis) / w)

    expected = bootstrap(
        (values, base, weights),
        perplexities,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = stats.bootstrap(values, base, weights, "perplexity", repeats=2000, seed=0)
    assert found[0] == pytest.approx(perplexities(values, base, weights), rel=1e-12)
    # The same draws, too.
    np.testing.assert_allclose(found[1:], expected, rtol=1e-9)


def test_the_bootstrap_of_calibration_errors():
    rng = np.random.default_rng(4)
    values, base = rng.normal(0.2, 0.5, (2, 200, 3))
    found, lower, upper = stats.bootstrap(values, base, statistic="calibration_error")
    expected = [np.abs(each.sum(0)).sum() / 200 for each in (values, base)]
    assert found == pytest.approx(expected[0] - expected[1], rel=1e-12)
    assert lower < found < upper


def test_the_bootstrap_repeats_itself_and_knows_nothing_of_chance_elsewhere():
    values, base = np.sqrt(np.arange(60.0)), np.ones(60)
    assert stats.bootstrap(values, base, seed=3) == stats.bootstrap(values, base, seed=3)
    assert stats.bootstrap(values, base, seed=3) != stats.bootstrap(values, base, seed=4)


def test_the_bootstrap_of_what_never_differs_is_a_point():
    base = np.arange(5.0)
    assert stats.bootstrap(base, base) == (0.0, 0.0, 0.0)
    assert stats.bootstrap([2.0], [1.0]) == (1.0, 1.0, 1.0)
    assert np.isnan(stats.bootstrap(base, base, np.zeros(5))).all()
    found, *bounds = stats.bootstrap(np.full(5, 1e4), base, statistic="perplexity")
    assert found == np.inf
    assert np.isnan(bounds).all()


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (([1.0], [1.0, 2.0]), r"\(1,\), \(2,\) and \(1,\)"),
        (([], []), "at least 1"),
        ((1.0, 1.0), r"expected \(n,\)"),
        (([1.0], [1.0], [1.0, 1.0]), r"\(2,\) came"),
        (([[1.0]], [[1.0]]), r"expected \(n,\)"),
        (([1.0], [1.0], None, "calibration_error"), r"expected \(n, bins\)"),
        (([1.0], [1.0], None, "median"), "no statistic 'median'"),
        (([1.0], [1.0], None, "mean", 95), "confidence"),
        (([1.0], [1.0], None, "mean", 0.9, 0), "repeats is 0"),
    ],
)
def test_the_bootstrap_refuses_what_does_not_go_together(given_, said):
    with pytest.raises(OptionError, match=said):
        stats.bootstrap(*given_)


def test_the_network_and_perturbations_without_epoch(ds):
    assert "fullmodel" not in set(stats.classify(ds)["layer"])
    assert stats.classify(ds, include_network=True)["layer"].iloc[-1] == "fullmodel"
    rand = stats.classify(ds, perturbation="rerandomize")
    assert set(rand["interval_kind"]) == {"draws"}
    assert set(rand["verdict"]) == {"critical"}


def test_a_layer_not_computed_is_undecided_and_a_missing_epoch_an_error(ds):
    ds["value"].loc[{"layer": "layer3", "epoch": 0}] = np.nan
    assert stats.classify(ds).set_index("layer").loc["layer3", "verdict"] == "undecided"
    with pytest.raises(ResultError, match="epoch 7; it was at 0, 1, 2"):
        stats.classify(ds, epoch=7)


# Distances


def test_distances_hold_every_checkpoint_and_the_mean_of_draws(ds, seeds):
    table = stats.distances(ds, "linf").set_index(["layer", "column"])
    assert stats.column_order(stats.distances(ds))[0] == "rand"
    drawn = ds["draw_distance"].sel(layer="layer2", norm="linf")
    np.testing.assert_allclose(table.loc[("layer2", "rand"), "value"], drawn.mean())
    np.testing.assert_allclose(table.loc[("layer2", "rand"), "spread"], drawn.std(ddof=1))
    kept = ds["distance"].sel(layer="layer2", norm="linf", epoch=[0, 1, 2, 3, 8, 40, 90, 100])
    np.testing.assert_array_equal(table.loc["layer2"].iloc[1:]["value"], kept)
    last = stats.distances(seeds).set_index(["layer", "column"]).loc[("layer1", "100")]
    per_seed = seeds["distance"].sel(layer="layer1", epoch=100, norm="l2_fan_in")
    np.testing.assert_allclose(last["value"], per_seed.mean())
    assert last["n_seeds"] == 3


def test_rank_correlation_is_spearmans_without_the_network(seeds):
    from scipy.stats import spearmanr

    found = stats.rank_correlation(seeds, "linf")
    layers = [f"layer{index}" for index in range(1, 5)]
    for seed in (3, 5, 7):
        run = seeds.sel(seed=seed, layer=layers)
        cell = run["value"].sel(epoch=0, perturbation="reinitialize", draw=0, metric="error")
        expected = spearmanr(cell, run["distance"].sel(epoch=100, norm="linf")).statistic
        np.testing.assert_allclose(found["correlation"].sel(seed=seed), expected)
    np.testing.assert_allclose(found["mean"], found["correlation"].mean())
    assert found["n_layers"] == 4
    single = stats.rank_correlation(seeds.sel(seed=3), "linf")
    assert single["correlation"].dims == ()
    np.testing.assert_allclose(single["correlation"], found["correlation"].sel(seed=3))
    # The network's row is left out wherever it stands.
    xr.testing.assert_equal(
        stats.rank_correlation(seeds.isel(layer=[4, 0, 1, 2, 3]), "linf"), found
    )


def test_rank_correlation_of_equal_values_is_unknown(ds):
    ds["distance"].loc[{"epoch": 100}] = 1.0
    assert np.isnan(stats.rank_correlation(ds)["correlation"])
    assert np.isnan(stats.rank_correlation(testing.dataset(layers=2))["correlation"])


def test_importing_stats_needs_no_torch():
    import subprocess
    import sys

    heavy = {"torch", "holoviews", "bokeh", "matplotlib", "scipy.stats"}
    code = f"import sys, layerscope.stats; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
