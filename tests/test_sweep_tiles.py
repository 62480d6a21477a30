"""Cutting a sweep into tiles, and how long workers take for them."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, strategies as st

from layerscope.core.sweep._tiles import Costs, Tiling, even_columns, makespan, tiling

SECONDS = st.lists(st.integers(1, 60), min_size=1, max_size=7)


def network(rows=50, seconds=10.0, cells=6, **more):
    """Rows that take equally long: of the first a cell takes the whole pass."""
    parts = [cells * seconds * (1 - row / rows) for row in range(rows)]
    return Costs(parts, recording=seconds, setup=15.0, **more)


def efficiency(costs, batches, workers):
    cut = tiling(costs, batches, workers)
    return costs.ideal(batches) / workers / makespan(costs, cut, batches, workers)


@given(SECONDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_tiles_hold_every_part_of_every_batch_once(parts, batches, workers, most):
    cut = tiling(Costs(parts, recording=2.0), batches, workers, most_batches=most)
    tiles = list(cut.tiles(batches))
    held = [(batch, part) for tile in tiles for batch in tile.batches for part in tile.parts]
    assert sorted(held) == [(b, p) for b in range(batches) for p in range(len(parts))]
    assert max(len(tile.batches) for tile in tiles) <= most
    # Sums are added in the order of batches, so those of the first ones are handed out first.
    assert [tile.batches.start for tile in tiles] == sorted(tile.batches.start for tile in tiles)


@given(SECONDS, st.integers(1, 7))
def test_groups_of_rows_are_as_even_as_they_can_be(parts, groups):
    found = even_columns(Costs(parts, recording=0.0), groups)
    possible = [
        max(sum(parts[a:b]) for a, b in pairwise((0, *cuts, len(parts))))
        for count in range(min(groups, len(parts)))
        for cuts in combinations(range(1, len(parts)), count)
    ]
    assert len(found) <= groups
    assert max(sum(parts[a:b]) for a, b in found) == min(possible)


@given(SECONDS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 6))
def test_workers_are_simulated_second_by_second(parts, batches, workers, size):
    costs = Costs(parts, recording=3, weights=[1] * len(parts), together=2, setup=4, task=1)
    cut = Tiling(size, even_columns(costs, 3))
    waiting = [
        [costs.tile(min(size, batches - start), column) for column in cut.columns]
        for start in range(0, batches, size)
    ]
    queue = [seconds for row in waiting for seconds in sorted(row, reverse=True)]
    busy, clock = [4] * workers, 0
    while queue or any(busy):
        for worker, left in enumerate(busy):
            if not left and queue:
                busy[worker] = queue.pop(0)
        busy = [max(left - 1, 0) for left in busy]
        clock += 1
    assert makespan(costs, cut, batches, workers) == pytest.approx(clock)


def test_a_tile_records_each_batch_and_makes_weights_once_for_some_batches():
    costs = Costs([4.0, 2.0], recording=1.0, weights=[0.5, 0.25], together=2, setup=9.0, task=0.1)
    assert costs.tile(3, (0, 1)) == pytest.approx(0.1 + 2 * 0.5 + 3 * (1.0 + 4.0))
    assert costs.serial(3) == pytest.approx(9.0 + 2 * 0.75 + 3 * 7.0)


def test_batches_are_cut_first_and_rows_once_there_are_too_few():
    long = network()
    assert len(tiling(long, 10, 2).columns) == 1
    assert len(tiling(long, 200, 8).columns) == 1
    assert len(tiling(long, 10, 8).columns) > 1
    assert tiling(long, 1, 1) == Tiling(1, ((0, 50),))


@pytest.mark.parametrize(("workers", "least"), [(2, 0.97), (8, 0.9), (64, 0.58)])
def test_workers_are_used_as_well_as_a_simulation_promised(workers, least):
    assert efficiency(network(), 10, workers) >= least


def test_weights_that_are_dear_to_make_ask_for_tiles_of_more_batches():
    cheap, dear = (network(seconds=0.5, weights=[made] * 50, together=99) for made in (0.0, 30.0))
    assert tiling(cheap, 64, 4).batches < tiling(dear, 64, 4).batches


def test_a_cut_says_what_a_task_is():
    assert str(Tiling(1, ((0, 9),))) == "1 batch × all rows"
    assert str(Tiling(6, ((0, 4), (4, 9)))) == "6 batches × one of 2 groups of rows"
