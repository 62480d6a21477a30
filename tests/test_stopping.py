import itertools
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import binom, norm

from layerscope.core.stopping import Decision, Settler, Tolerance
from layerscope.core.stopping._bets import Bets, Outcomes
from layerscope.errors import OptionError


def orders(outcomes, runs, seed=0) -> np.ndarray:
    """The same outcomes in `runs` random orders."""
    tiled = np.tile(np.asarray(outcomes, float), (runs, 1))
    return np.random.default_rng(seed).permuted(tiled, axis=1)


def differences(worse: int, better: int, population: int) -> np.ndarray:
    """Differences of 0–1 errors: so many examples got worse and better, the rest are the same."""
    return np.repeat([1, -1, 0], [worse, better, population - worse - better])


def settle(rule, outcomes, batch) -> Settler:
    """Add everything, batch after batch."""
    settler = Settler(rule, *outcomes.shape)
    for start in range(0, outcomes.shape[1], batch):
        settler.add(outcomes[:, start : start + batch])
    return settler


def at_most(wrong, runs, rate) -> bool:
    """Whether so many wrong ones, or more, come up at this rate more than once in 10,000 times."""
    return binom.sf(wrong - 1, runs, rate) > 1e-4


def peeked(outcomes, limit, batch, confidence) -> np.ndarray:
    """What ordinary intervals say after every batch, when one stops at the first that is clear."""
    runs, population = outcomes.shape
    verdicts = np.full(runs, "", "<U12")
    for n in range(2 * batch, population, batch):
        seen = outcomes[:, :n]
        spread = seen.std(axis=1) * np.sqrt((1 - n / population) / n)
        half = norm.ppf((1 + confidence) / 2) * spread
        for name, clear in (
            ("robust", seen.mean(axis=1) + half <= limit),
            ("critical", seen.mean(axis=1) - half > limit),
        ):
            verdicts[(verdicts == "") & clear] = name
    return verdicts


# Confidence


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("batch", [20, 100])
def test_verdicts_at_the_limit_are_wrong_as_rarely_as_is_said_and_peeking_is_not(batch, confidence):
    # A mean of exactly 0.02 is robust; with one more example that is worse it is critical.
    population, runs = 1000, 1000
    peeks = 0
    for worse, wrong in ((40, "critical"), (41, "robust")):
        outcomes = orders(differences(worse, 20, population), runs)
        settler = settle(Decision(0.02, confidence=confidence), outcomes, batch)
        assert settler.settled.all()
        assert at_most((settler.verdicts == wrong).sum(), runs, 1 - confidence)
        peeks += (peeked(outcomes, 0.02, batch, confidence) == wrong).sum()
    assert not at_most(peeks, 2 * runs, 1 - confidence)


@pytest.mark.parametrize(
    ("worse", "right"), [(40, "robust"), (70, "intermediate"), (120, "critical")]
)
def test_verdicts_with_room_between_the_limits_are_wrong_as_rarely_as_is_said(worse, right):
    outcomes = orders(differences(worse, 20, 1000), 500)
    verdicts = settle(Decision(0.02, 0.1, confidence=0.9), outcomes, 25).verdicts
    assert at_most((verdicts != right).sum(), 500, 0.1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_intervals_enclose_the_mean_at_all_looks_at_once(share):
    runs, population = 300, 500
    outcomes = orders(np.arange(population) < share * population, runs)
    settler = Settler(Tolerance(0.04, confidence=0.9), runs, population)
    missed = np.zeros(runs, bool)
    for start in range(0, population, 20):
        settler.add(outcomes[:, start : start + 20])
        missed |= (settler.lower > share) | (settler.upper < share)
    assert settler.settled.all()
    assert at_most(missed.sum(), runs, 0.1)


@pytest.mark.parametrize("rule", [Decision(), Tolerance(0.1)], ids=["decision", "tolerance"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_claim_that_is_true_makes_capital_grow(rule, sign):
    # Over all orders of a small population, so exactly; the claim that is just true is fair.
    low, _ = rule.bounds
    values = np.array([low, low, 0, 0, 1, 0.5, 1])
    outcomes = np.array(list(itertools.permutations(values)))
    runs, population = outcomes.shape
    looser = [0.0, 0.05, 0.3]
    means = values.mean() + sign * np.array(looser)
    bets = Bets(
        rule,
        population,
        1.0,
        np.repeat(np.arange(runs), 3),
        np.full(3 * runs, sign),
        np.tile(means, runs),
        np.full(3 * runs, np.inf),
    )
    for t in range(population):
        sums = np.cumsum(np.column_stack([np.zeros(runs), outcomes]), axis=1)
        weighed = np.tile([t, t + 1.0], (runs, 1))
        left = np.full(runs, population - t)
        these = Outcomes(outcomes[:, [t]], np.ones((runs, 1)))
        bets.play(these, sums[:, t : t + 2], weighed, left, np.ones(runs, bool))
        capital = bets.capital.sum(axis=0).reshape(runs, 3)
        assert (capital >= 0).all()
        mean = capital.mean(axis=0)
        assert (mean <= 1 + 1e-12).all()
        assert (np.diff(capital, axis=1) <= 1e-12 * capital[:, :-1]).all()
        if t < 3:
            assert mean[0] == pytest.approx(1, abs=1e-12)


# Several values an example


def sequences(mean, population, longest, equal, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Sums of 0–1 values and their numbers, which go together: longer examples are worse."""
    rng = np.random.default_rng(seed)
    weights = np.full(population, longest) if equal else rng.integers(0, longest + 1, population)
    wanted = int(mean * weights.sum())
    sums = np.zeros(population, int)
    for place in np.argsort(-weights + rng.normal(0, longest / 4, population)):
        sums[place] = min(weights[place], max(wanted - sums.sum(), 0), rng.integers(longest + 1))
    for place in rng.permutation(population):  # what is still missing
        sums[place] += min(weights[place] - sums[place], wanted - sums.sum())
    return sums, weights


def shuffled(sums, weights, runs, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """The same examples in `runs` random orders."""
    tiled = np.tile(np.arange(len(sums)), (runs, 1))
    order = np.random.default_rng(seed).permuted(tiled, axis=1)
    return sums[order].astype(float), weights[order].astype(float)


@pytest.mark.parametrize("equal", [True, False])
def test_verdicts_on_sequences_are_about_the_mean_over_values(equal):
    population, runs, longest = 300, 400, 8
    for mean, wrong in ((0.02, "critical"), (0.0225, "robust")):
        worse, weights = sequences(mean, population, longest, equal)
        true = worse.sum() / weights.sum()
        assert (true <= 0.02) == (wrong == "critical")
        outcomes, each = shuffled(worse, weights, runs)
        settler = Settler(Decision(0.02, confidence=0.9), runs, population, longest)
        for start in range(0, population, 20):
            batch = slice(start, start + 20)
            settler.add(outcomes[:, batch], weights=each[:, batch])
        assert settler.settled.all()
        assert at_most((settler.verdicts == wrong).sum(), runs, 0.1)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_intervals_on_sequences_enclose_the_mean_over_values(equal, share):
    population, runs, longest = 400, 200, 6
    sums, weights = sequences(share, population, longest, equal)
    true = sums.sum() / weights.sum()
    outcomes, each = shuffled(sums, weights, runs)
    settler = Settler(Tolerance(0.05, confidence=0.9), runs, population, longest)
    missed = np.zeros(runs, bool)
    for start in range(0, population, 20):
        batch = slice(start, start + 20)
        settler.add(outcomes[:, batch], weights=each[:, batch])
        missed |= (settler.lower > true) | (settler.upper < true)
    assert settler.settled.all()
    assert settler.counts.mean() < 0.9 * population
    assert at_most(missed.sum(), runs, 0.1)


@pytest.mark.parametrize("rule", [Decision(), Tolerance(0.1)], ids=["decision", "tolerance"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_claim_about_a_ratio_that_is_true_makes_capital_grow(rule, sign):
    low, _ = rule.bounds
    weights = np.array([0, 3, 1, 2, 3, 1.0])
    sums = np.array([0, 3 * low, 0.5, 1, 2, 1])
    order = np.array(list(itertools.permutations(range(len(sums)))))
    runs, population = order.shape
    means = sums.sum() / weights.sum() + sign * np.array([0.0, 0.05, 0.2])
    cell = np.repeat(np.arange(runs), 3)
    claims = cell, np.full(3 * runs, sign), np.tile(means, runs), np.full(3 * runs, np.inf)
    bets = Bets(rule, population, 3.0, *claims)
    before = np.zeros((runs, 1))
    seen, weighed = (
        np.hstack([before, values[order].cumsum(axis=1)]) for values in (sums, weights)
    )
    for t in range(population):
        now, past = order[:, [t]], slice(t, t + 2)
        left = np.full(runs, population - t)
        these = Outcomes(sums[now], weights[now])
        bets.play(these, seen[:, past], weighed[:, past], left, np.ones(runs, bool))
        capital = bets.capital.sum(axis=0).reshape(runs, 3)
        assert (capital >= 0).all()
        mean = capital.mean(axis=0)
        assert (mean <= 1 + 1e-12).all()
        assert (np.diff(capital, axis=1) <= 1e-12).all()
        if t < 3:
            assert mean[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rule", [Decision(0.02), Tolerance(0.03)], ids=str)
def test_equal_weights_are_means_and_no_weight_is_no_example_of_a_difference(rule):
    outcomes = mixed(rule, cells=20)
    plain = settle(rule, outcomes, 100)
    weighed = Settler(rule, *outcomes.shape, heaviest=4)
    for start in range(0, 2000, 100):
        weighed.add(4 * outcomes[:, start : start + 100], weights=np.full(100, 4))
    np.testing.assert_array_equal(plain.verdicts, weighed.verdicts)
    np.testing.assert_array_equal(plain.counts, weighed.counts)
    # Half of the examples count; as zeros they would halve the mean.
    seen = np.zeros((1, 2000))
    seen[0, ::2] = np.arange(1000) % 25 == 0
    settler = Settler(Decision(0.03), 1, 2000)
    settler.add(seen, weights=np.arange(2000) % 2 == 0)
    assert settler.verdicts == ["critical"]


def test_weights_that_make_no_sense_are_refused():
    settler = Settler(Decision(), 2, 50, heaviest=3)
    for weights, said in (
        ([1, 2, 3], r"weights have the shape \(3,\); expected \(2,\) or \(2, 2\)"),
        ([1, 4], r"outcome 1 of cell 0 weighs 4; expected a weight in \[0, 3\]"),
        ([1, -1], "weighs -1"),
        ([np.nan, 1], "weighs nan"),
    ):
        with pytest.raises(OptionError, match=said):
            settler.add(np.zeros((2, 2)), weights=weights)
    with pytest.raises(OptionError, match=r"is 3\.0 for the sum of 2 values"):
        settler.add([[1, 3], [0, 0]], weights=[2, 2])
    with pytest.raises(OptionError, match="heaviest is 0; some example must"):
        Settler(Decision(), 1, 5, heaviest=0)
    with pytest.raises(OptionError, match="no example has a value that counts"):
        Settler(Decision(), 1, 5).add(np.zeros((1, 5)), weights=np.zeros(5))


# What is needed


def test_clear_cells_need_few_examples():
    population = 10_000
    cells = {"same": (0, 0), "robust": (60, 60), "bad": (700, 200), "destroyed": (5000, 10)}
    outcomes = np.concatenate(
        [orders(differences(*cell, population), 50) for cell in cells.values()]
    )
    settler = settle(Decision(0.02), outcomes, 10)
    same, robust, bad, destroyed = settler.counts.reshape(4, 50).mean(axis=1)
    assert same < 500
    assert robust < 800
    assert bad < 1500
    assert destroyed < 40
    assert set(settler.verdicts) == {"robust", "critical"}


# Exactness


finite = st.lists(st.sampled_from([-1, -0.5, 0, 0.25, 1]), min_size=1, max_size=30)


@given(finite, st.integers(-30, 30), st.integers(0, 10))
def test_what_is_seen_as_a_whole_follows_the_definition(values, limit, above):
    robust = np.clip(limit / len(values), -1, 1)
    critical = np.clip((limit + above) / len(values), -1, 1)
    settler = Settler(Decision(robust, critical), 1, len(values))
    settler.add([values])
    mean = sum(values) / len(values)
    expected = "robust" if mean <= robust else "critical" if mean >= critical else "intermediate"
    assert settler.verdicts == [expected]


@given(finite, st.floats(-1, 1))
def test_claims_that_fall_for_certain_fall_rightly(values, limit):
    # At this confidence nothing but what is impossible is rejected.
    rule = Decision(limit, confidence=1 - 1e-16)
    settler = Settler(rule, 1, len(values))
    exact = sum(map(Fraction, values)) / len(values)
    for seen, value in enumerate(values, 1):
        settler.add([[value]])
        reach = (len(values) - seen) / len(values)
        reached = sum(values[:seen]) / len(values)
        if reached + reach < limit - 1e-6 or reached - reach > limit + 1e-6:
            assert settler.settled
    if abs(exact - Fraction(limit)) > 1e-12:
        assert settler.verdicts == ["robust" if exact < limit else "critical"]


@given(st.lists(st.sampled_from([0, 0.125, 1]), min_size=1, max_size=20), st.integers(1, 7))
def test_intervals_collapse_at_the_end(values, batch):
    settler = settle(Tolerance(0.005), np.array([values], float), batch)
    assert settler.lower == settler.upper == [np.mean(values)]
    assert settler.verdicts == ["narrow"]


# The same whatever the batches


RULES = [Decision(0.02), Decision(0.02, 0.2), Tolerance(0.03)]


def mixed(rule, cells=150, population=2000) -> np.ndarray:
    """Cells of all kinds."""
    rng = np.random.default_rng(1)
    wrong = rng.random((cells, population)) < rng.random((cells, 1)) ** 4
    before = rng.random(population) < (0.01 if isinstance(rule, Decision) else 0)
    return wrong.astype(float) - before


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("batch", [1, 10, 70, 250])
def test_it_makes_no_difference_how_outcomes_are_cut_into_batches(rule, batch):
    outcomes = mixed(rule)[:, :500]
    small, large = Settler(rule, 150, 2000), Settler(rule, 150, 2000)
    for start in range(0, 500, 250):
        large.add(outcomes[:, start : start + 250])
        for first in range(start, start + 250, batch):
            small.add(outcomes[:, first : min(first + batch, start + 250)])
        np.testing.assert_array_equal(small.verdicts, large.verdicts)
        still = ~large.settled
        assert 0 < still.sum() < 150
        if isinstance(rule, Tolerance):
            np.testing.assert_array_equal(small.lower[still], large.lower[still])
            np.testing.assert_array_equal(small.upper[still], large.upper[still])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_cells_know_nothing_of_each_other(rule):
    outcomes = mixed(rule)
    together = settle(rule, outcomes, 100)
    for cell in (0, 63, 64, 149):
        alone = settle(rule, outcomes[[cell]], 100)
        assert alone.verdicts == together.verdicts[cell]
        assert alone.counts == together.counts[cell]
        if isinstance(rule, Tolerance):
            assert alone.lower == together.lower[cell]
            assert alone.upper == together.upper[cell]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_settled_stays_and_is_not_looked_at(rule):
    outcomes = mixed(rule)
    settler = Settler(rule, *outcomes.shape)
    for start in range(0, 1000, 100):
        before, counts, settled = settler.verdicts, settler.counts, settler.settled
        batch = outcomes[:, start : start + 100].copy()
        batch[settled] = np.nan
        settler.add(batch)
        np.testing.assert_array_equal(settler.verdicts[settled], before[settled])
        np.testing.assert_array_equal(settler.counts - counts, np.where(settled, 0, 100))
    assert settler.settled.sum() > 20


def test_bounds_only_draw_nearer():
    outcomes = mixed(Tolerance(0.03))
    settler = Settler(Tolerance(0.03), *outcomes.shape)
    lower, upper = settler.lower, settler.upper
    np.testing.assert_array_equal(lower, 0)
    np.testing.assert_array_equal(upper, 1)
    for start in range(0, 1900, 50):
        settler.add(outcomes[:, start : start + 50])
        assert (lower <= settler.lower).all()
        assert (settler.upper <= upper).all()
        lower, upper = settler.lower, settler.upper
        np.testing.assert_array_equal(settler.settled, upper - lower <= 0.06 + 1e-9)


def test_cells_that_are_left_out_see_nothing():
    rule, outcomes = Decision(0.02), mixed(Decision(0.02), cells=3)
    settler, alone = Settler(rule, 3, 2000), Settler(rule, 1, 2000)
    active = np.array([True, False, True])
    for start in range(0, 300, 50):
        batch = outcomes[:, start : start + 50].copy()
        batch[1] = np.nan
        settler.add(batch, active)
    assert settler.counts[1] == 0
    for start in range(300, 900, 50):
        batch = outcomes[:, start : start + 50]
        settler.add(batch, ~active)
        alone.add(batch[[1]])
    assert settler.verdicts[1] == alone.verdicts[0]
    assert settler.counts[1] == alone.counts[0]


def test_answers_are_copies():
    settler = Settler(Tolerance(0.1), 2, 50)
    settler.add(np.zeros((2, 10)))
    for name in ("lower", "upper", "counts"):
        before = getattr(settler, name).copy()
        getattr(settler, name)[:] = 7
        np.testing.assert_array_equal(getattr(settler, name), before)


# Rules


def test_rules_are_made_of_what_one_would_give():
    assert Decision.of(True) == Decision() == Decision(0.02, 0.02, 0.99)
    assert Decision.of(0.03) == Decision(0.03) == Decision(0.03, 0.03)
    assert Decision.of({"robust": 0.01, "critical": 0.2}) == Decision(0.01, 0.2)
    assert Decision.of(Decision(0.1, metric="error")) == Decision(0.1, metric="error")
    assert Tolerance.of(0.01) == Tolerance.of({"width": 0.01}) == Tolerance(0.01)
    assert Decision(0).bounds == (-1, 1)
    assert Tolerance(0.01).bounds == (0, 1)


@pytest.mark.parametrize("rule", [Decision(np.float32(0.5), 1), Tolerance(0.25, metric="error")])
def test_rules_are_made_again_of_their_plain_values(rule):
    plain = rule.describe()
    assert type(rule).of(plain) == rule
    assert {type(value) for value in plain.values()} <= {float, str, type(None)}


def test_rules_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Decision().robust = 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Decision(2), r"robust is 2; give a number in \[-1, 1\]"),
        (lambda: Decision(0.02, 0.01), "critical is 0.01, below robust, which is 0.02"),
        (lambda: Decision(float("nan")), "robust is nan"),
        (lambda: Decision("0.02"), "robust is '0.02'"),
        (lambda: Decision(True), "robust is True"),
        (lambda: Decision(0.02, [0.1]), r"critical is \[0.1\]"),
        (lambda: Decision(confidence=99), r"confidence is 99; give a number in \(0, 1\)"),
        (lambda: Decision(confidence=1), "confidence is 1"),
        (lambda: Decision(metric=3), "metric is 3"),
        (lambda: Decision.of(False), "False is no Decision; give True"),
        (lambda: Decision.of("robust"), "'robust' is no Decision"),
        (lambda: Decision.of({"robst": 0.1}), "no part of a Decision 'robst'.* 'robust'"),
        (lambda: Tolerance(0), r"width is 0; give a number in \(0, 0.5\)"),
        (lambda: Tolerance(0.5), "width is 0.5"),
        (lambda: Tolerance.of(True), "True is no Tolerance"),
        (lambda: Tolerance.of({"confidence": 0.9}), "has no width"),
        (lambda: Settler(0.02, 1, 1), "rule is 0.02"),
        (lambda: Settler(Decision(), 0, 5), "cells is 0"),
        (lambda: Settler(Decision(), 5, 0), "population is 0"),
        (lambda: Settler(Decision(), 1, 5).lower, "a Decision has no intervals"),
        (lambda: Settler(Decision(), 1, 5).upper, "a Decision has no intervals"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(OptionError, match=said):
        make()


@pytest.mark.parametrize(
    ("outcomes", "active", "said"),
    [
        (np.zeros((3, 2)), None, r"shape \(3, 2\).*2 cells"),
        (np.zeros(2), None, r"shape \(2,\)"),
        ([[0, 0], [0, 1.5]], None, r"outcome 1 of cell 1 is 1.5; expected numbers in \[0, 1\]"),
        ([[0, np.nan], [0, 0]], None, "outcome 1 of cell 0 is nan"),
        (np.zeros((2, 41)), None, "51 outcomes came for a cell, but there are 50"),
        (np.zeros((2, 1)), [True], r"active has the shape \(1,\)"),
        (np.zeros((2, 1)), [0, 1], "active .* holds int64"),
    ],
)
def test_batches_that_make_no_sense_are_refused_and_change_nothing(outcomes, active, said):
    first = np.array([[0.0, 1] * 5, [0.0, 0, 1, 0, 0] * 2])
    settler, untouched = (Settler(Tolerance(0.1), 2, 50) for _ in range(2))
    settler.add(first)
    untouched.add(first)
    with pytest.raises(OptionError, match=said):
        settler.add(outcomes, active)
    for one in (settler, untouched):
        one.add(np.zeros((2, 20)))
    np.testing.assert_array_equal(settler.counts, untouched.counts)
    np.testing.assert_array_equal(settler.lower, untouched.lower)
    np.testing.assert_array_equal(settler.upper, untouched.upper)


@pytest.mark.parametrize("rule", [Decision(), Tolerance(0.1)], ids=["decision", "tolerance"])
def test_an_empty_batch_is_nothing(rule):
    settler = Settler(rule, 2, 50)
    settler.add(np.zeros((2, 0)))
    assert not settler.settled.any()
    assert not settler.counts.any()
