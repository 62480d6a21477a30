"""Runs and draws that share one test set: intervals over both kinds of chance."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from layerscope import results, stats, testing
from layerscope.errors import OptionError
from layerscope.stats._crossed import resampled_half_width, shared_variance

SPREAD, NOISE = 0.01, 0.3


def runs(rng, seeds=4, examples=400, together=1.0):
    common = rng.normal(0, NOISE, examples) * together
    own = rng.normal(0, NOISE, (seeds, examples))
    return rng.normal(0, SPREAD, (seeds, 1)) + common + own


def test_the_interval_holds_the_mean_over_all_runs_and_examples():
    rng = np.random.default_rng(0)
    held = {"crossed": 0, "seeds": 0}
    for _ in range(400):
        values = runs(rng)
        for name, (_, low, high) in {
            "crossed": stats.crossed(values),
            "seeds": stats.student(values.mean(1)),
        }.items():
            held[name] += low <= 0 <= high
    # Two standard errors of 400 below 95 %; runs alone know nothing of the test set.
    assert held["crossed"] / 400 > 0.925
    assert held["seeds"] / 400 < 0.85


def test_the_variance_is_unbiased():
    rng = np.random.default_rng(1)
    seeds, examples = 3, 50
    parts = []
    for _ in range(600):
        values = runs(rng, seeds, examples)
        parts.append(values.mean(1).var(ddof=1) / seeds + shared_variance(values)[0])
    true = SPREAD**2 / seeds + NOISE**2 / examples + NOISE**2 / seeds / examples
    assert np.mean(parts) == pytest.approx(true, rel=0.1)


def test_without_outcomes_the_interval_is_at_most_wider():
    values = runs(np.random.default_rng(2))
    mean, low, high = stats.crossed(values)
    errors = values.std(1, ddof=1)[None, :, None] / np.sqrt(values.shape[1])
    cells = values.mean(1)[None, :, None]
    for dims in (("seed", "example"), ("draw", "example")):
        at = np.moveaxis(cells, 1, 1 if dims[0] == "seed" else 2)
        half = resampled_half_width(at, errors, None, dims, 0.95)[0]
        assert half > 0
        if dims[0] == "seed":
            assert 2 * half > high - low
    # Where nothing is resampled but runs, Student's t remains.
    half = resampled_half_width(cells, errors, None, ("seed",), 0.95)[0]
    expected = stats.student(values.mean(1))
    assert mean == pytest.approx(float(expected[0]))
    assert half == pytest.approx(float(expected[2] - expected[0]))


@pytest.fixture(scope="module")
def seeds():
    runs = [testing.dataset(layers=2, seed=s) for s in (3, 5, 7)]
    for run, more in zip(runs, (0.0, 0.01, 0.02), strict=True):
        for name in ("value", "difference"):
            run[name] = run[name] + more
    return results.concat(runs, [3, 5, 7])


def test_verdicts_cover_what_is_resampled(seeds):
    tables = {
        name: stats.classify(seeds, resample_dim=dims, correction="none")
        for name, dims in {
            "as ever": None,
            "seeds": "seed",
            "both": ("example", "seed"),
            "examples": "example",
        }.items()
    }
    widths = {name: (table["upper"] - table["lower"]).to_numpy() for name, table in tables.items()}
    np.testing.assert_allclose(widths["as ever"], widths["seeds"])
    assert (widths["both"] >= widths["seeds"]).all()
    assert (widths["both"] > widths["examples"]).all()
    assert set(tables["both"]["interval_kind"]) == {"seeds and examples"}
    assert tables["both"]["degradation"].equals(tables["as ever"]["degradation"])


def test_a_single_run_says_nothing_of_other_runs(seeds):
    one = stats.classify(seeds.isel(seed=[0]), resample_dim=("seed", "example"))
    assert set(one["verdict"]) == {"undecided"}
    with pytest.raises(OptionError, match="resample_dim"):
        stats.classify(seeds, resample_dim="epoch")


def outcomes_for(ds, values):
    """What examples gave, shape (layers, examples), at checkpoint 0 of one run."""
    layers = stats.layer_order(ds, network=False)
    shape = ("cell", "metric", "example")
    return xr.Dataset(
        {
            "outcome": (shape, values[:, None]),
            "baseline_outcome": (shape[1:], np.zeros((1, values.shape[1]))),
            "weight": (shape[1:], np.ones((1, values.shape[1]))),
        },
        {
            "layer": ("cell", layers),
            "epoch": ("cell", [0] * len(layers)),
            "perturbation": ("cell", ["reinitialize"] * len(layers)),
            "draw": ("cell", [0] * len(layers)),
            "metric": ["error"],
        },
    )


def test_outcomes_tell_what_runs_share(seeds):
    rng = np.random.default_rng(4)
    common = rng.random((2, 100)) < 0.5
    alike = {seed: outcomes_for(seeds, common.astype(float)) for seed in (3, 5, 7)}
    apart = {
        seed: outcomes_for(seeds, (rng.random((2, 100)) < 0.5).astype(float)) for seed in (3, 5, 7)
    }
    options = {"resample_dim": ("seed", "example"), "correction": "none"}
    widths = [
        stats.classify(seeds, outcomes=each, **options).eval("upper - lower")
        for each in (alike, apart)
    ]
    assert (widths[0] > widths[1]).all()
    with pytest.raises(OptionError, match="outcomes of seed 5 are missing"):
        stats.classify(seeds, outcomes={3: alike[3]}, **options)
