"""Orders of layers are tested against chance, and against a rival."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from scipy.stats import spearmanr

from layerscope import stats
from layerscope.errors import OptionError


def test_all_orders_are_counted_where_layers_are_few():
    found = [1.0, 3.0, 2.0, 5.0, 4.0]
    here = spearmanr(range(5), found).statistic
    others = [spearmanr(range(5), each).statistic for each in permutations(found)]
    test = stats.order_test(range(5), found)
    assert test.exact
    assert test.correlation == pytest.approx(here)
    assert test.p_value == pytest.approx(np.mean(np.array(others) >= here - 1e-9))


def test_runs_of_one_network_are_no_more_layers():
    once = stats.order_test(range(4), range(4))
    often = stats.order_test(range(4), np.tile(range(4), (20, 1)))
    assert once.p_value == often.p_value == often.smallest == 1 / factorial(4)
    assert often.step == pytest.approx(once.step / 20)


def test_the_mean_over_runs_is_tested_with_names_changed_in_all_alike():
    rng = np.random.default_rng(0)
    expected, found = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))

    def mean(order):
        return np.mean([spearmanr(a[list(order)], b).statistic for a, b in zip(expected, found)])  # noqa: B905

    every = np.array([mean(order) for order in permutations(range(5))])
    test = stats.order_test(expected, found, alternative="less")
    assert test.correlation == pytest.approx(every[0])
    assert test.p_value == pytest.approx(np.mean(every <= every[0] + 1e-9))


def test_what_depth_alone_explains_is_left_out():
    depth = np.arange(6)
    alone = stats.order_test(depth * 2.0, depth**2.0, depth)
    assert alone.p_value == alone.smallest
    assert np.isnan(alone.partial)
    assert alone.p_partial == 1
    # Beside depth, which explains little here, the printed order is the measured one.
    damage = np.array([3.0, 1.0, 5.0, 0.0, 4.0, 2.0])
    beside = stats.order_test(damage, damage, depth)
    assert beside.partial == pytest.approx(1)
    assert beside.p_partial < 0.01
    assert beside.rival == pytest.approx(spearmanr(depth, damage).statistic)


def test_the_partial_correlation_is_that_of_ranks():
    rng = np.random.default_rng(1)
    first, second, third = rng.normal(size=(3, 7))
    xy, xz, yz = (
        spearmanr(a, b).statistic for a, b in [(first, second), (first, third), (second, third)]
    )
    partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert stats.order_test(first, second, third).partial == pytest.approx(partial)


@pytest.mark.parametrize("rival", [False, True])
def test_unrelated_orders_pass_as_often_as_is_said(rival):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(300, 3, 6))
    tests = [stats.order_test(a, b, c if rival else None) for a, b, c in values]
    wrong = np.mean([(each.p_partial if rival else each.p_value) <= 0.05 for each in tests])
    # 5 % of 300, and three standard errors; none at all would tell nothing either.
    assert 0.01 < wrong < 0.09


def test_many_layers_are_drawn_and_never_certain():
    test = stats.order_test(range(20), range(20), permutations=199)
    assert not test.exact
    assert test.p_value == test.smallest == 1 / 200


def test_layers_that_were_not_measured_are_left_out_and_infinite_ones_are_last():
    test = stats.order_test([1, 2, 3, 4, 5], [[1, 2, np.nan, 4, np.inf], [1, 2, 3, 4, 5]])
    assert test.n_layers == 4
    assert test.correlation == 1
    few = stats.order_test([1, 2], [1, 2])
    assert (np.isnan(few.correlation), few.p_value) == (True, 1.0)
    assert stats.order_test([1, 1, 1], [1, 2, 3]).p_value == 1


def test_wrong_shapes_are_refused():
    with pytest.raises(OptionError, match="of the same layers and runs"):
        stats.order_test([1, 2, 3], [1, 2])
    with pytest.raises(OptionError, match="alternative"):
        stats.order_test([1, 2, 3], [1, 2, 3], alternative="more")


def test_words_tell_the_steps():
    told = stats.order_test(range(4), range(4), [1, 3, 2, 4]).words()
    assert "4 layers, 1 run, steps of 0.2" in told
    assert "at the least 0.042" in told
    assert "rival alone 0.80" in told
