"""Agreement within a margin, what runs can find, and verdicts on many layers at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from layerscope import results, stats, testing
from layerscope.errors import OptionError
from layerscope.stats._simultaneous import step_down


def test_bounds_are_those_of_student_and_of_welch():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 5), rng.normal(0.5, 3, 4)
    one = stats.equivalence(first, 1.0, 0.3)
    expected = scipy.stats.ttest_1samp(first, 0.3).confidence_interval(0.95)
    assert [one.lower + 0.3, one.upper + 0.3] == pytest.approx([*expected])
    two = stats.equivalence(
        first, 1.0, second.mean(), reference_spread=second.std(ddof=1), reference_n=4
    )
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert [two.lower, two.upper] == pytest.approx([*expected])


def test_few_scattered_runs_do_not_agree():
    same, scattered, other = [0.1, 0.11, 0.09], [0.0, 0.3, 0.0], [0.5, 0.52, 0.51]
    found = stats.equivalence([same, scattered, other], 0.05, 0.1)
    assert found.verdict.tolist() == ["agrees", "undecided", "differs"]
    assert found.detectable[0] < 0.05 < found.detectable[1]
    assert stats.equivalence([0.1], 0.05, 0.1).verdict == "undecided"
    # A hair within the smallest margin that holds the interval, and a hair beyond.
    kept = float(found.kept[1])
    for margin, verdict in [(kept * 1.001, "agrees"), (kept * 0.999, "undecided")]:
        assert stats.equivalence(scattered, margin, 0.1).verdict == verdict


def test_what_lies_at_the_margin_agrees_as_seldom_as_is_said():
    samples = np.random.default_rng(1).normal(0.05, 0.02, (4000, 3))
    agrees = (stats.equivalence(samples, 0.05).verdict == "agrees").mean()
    # A half of 5 %, and three standard errors of 4,000 cases.
    assert 0.017 < agrees < 0.033


def test_the_detectable_difference_is_found_as_often_as_is_said():
    for n in (3, 6):
        difference = float(stats.detectable_difference(2.0, n, power=0.8))
        samples = np.random.default_rng(n).normal(difference, 2.0, (4000, n))
        _, lower, upper = stats.student(samples)
        assert np.mean((lower > 0) | (upper < 0)) == pytest.approx(0.8, abs=0.02)


def test_runs_needed_are_the_fewest():
    n = stats.runs_needed(0.05, 0.04)
    at, before = stats.detectable_difference(0.04, [n, n - 1])
    assert at <= 0.05 < before
    assert stats.runs_needed(0.1, 0.0) == 2
    with pytest.raises(OptionError, match="more than 10,000 runs"):
        stats.runs_needed(1e-9, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin is 0"),
        ({"margin": 0.1, "reference_spread": -1.0}, "reference_spread"),
        ({"margin": 0.1, "reference_spread": 1.0, "reference_n": 1}, "reference_n below 2"),
        ({"margin": 0.1, "axis": 1}, "no such axis"),
        ({"margin": 0.1, "power": 1.0}, "power"),
    ],
)
def test_what_is_no_test_is_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        stats.equivalence([0.1, 0.2], **arguments)


def over_seeds(degradations):
    """A Dataset of runs whose layers lose as much as is said, shape (seeds, layers)."""
    runs = []
    for row in np.asarray(degradations):
        ds = testing.dataset(layers=len(row), epochs=(0, 1)).drop_vars(
            ["difference", "difference_standard_error"], errors="ignore"
        )
        lost = xr.DataArray([*row, 0.0], {"layer": [*map(str, stats.layer_order(ds))]})
        worse = ds["baseline"].sel(metric="error", drop=True) + lost
        known = ds["value"].notnull() & (ds["metric"] == "error")
        runs.append(ds.assign(value=ds["value"].where(~known, worse)))
    return results.concat(runs, [*range(len(runs))])


def test_layers_that_are_clear_leave_the_others_more_room():
    clear = np.array([[0.001] * 7, [0.0] * 7, [0.002] * 7])
    # The last one is robust by itself and in a family of one, not of eight.
    unclear = np.array([[0.0], [0.008], [0.016]])
    ds = over_seeds(np.hstack([clear, unclear]))
    last = {
        correction: stats.classify(ds, correction=correction).iloc[-1]
        for correction in ("none", "holm", "bonferroni")
    }
    assert [last[name]["verdict"] for name in last] == ["robust", "robust", "undecided"]
    assert last["none"]["upper"] == last["holm"]["upper"] == last["holm"]["verdict_upper"]
    expected = stats.student(unclear[:, 0], confidence=1 - 0.05 / 8)[2]
    assert last["bonferroni"]["verdict_upper"] == pytest.approx(float(expected))


@pytest.mark.parametrize(("correction", "least", "most"), [("none", 0.3, 0.5), ("holm", 0, 0.05)])
def test_all_verdicts_together_are_right_as_often_as_is_said(correction, least, most):
    rng = np.random.default_rng(3)
    # Half of the layers are clear; each "robust" of the others is wrong by a hair.
    means = np.repeat([0.0, 0.05001], [20, 20])
    wrong = 0
    for samples in rng.normal(means, 0.01, (200, 3, 40)):
        _, upper = step_down(
            lambda level, x=samples: stats.student(x, 0, level)[1:],
            lambda lower, upper: (upper <= 0.05) | (lower > 0.05),
            np.ones(40, bool),
            0.95,
            correction,
        )
        wrong += (upper[20:] <= 0.05).any()
    # 20 layers at 2.5 % each: 40 %; together at most 2.5 %, and about two standard errors.
    assert least <= wrong / 200 <= most


def test_the_whole_network_and_refused_layers_are_none_of_the_family():
    ds = over_seeds([[0.0] * 3, [0.001] * 3])
    table, whole = (stats.classify(ds, include_network=each) for each in (False, True))
    assert table["verdict"].tolist() == whole["verdict"].tolist()[:-1]
    assert table["verdict_upper"].tolist() == whole["verdict_upper"].tolist()[:-1]


def test_shares_are_of_the_way_to_chance():
    ds = testing.dataset(layers=2)
    table = stats.classify(ds)
    way = table.attrs["critical"] / 0.25
    for end in ("", "_lower", "_upper"):
        whole = table["degradation" if not end else end[1:]] / way
        assert table[f"share{end}"].tolist() == pytest.approx(whole.tolist())
    assert stats.classify(ds, "loss", critical=1.0)["share"].isna().all()
