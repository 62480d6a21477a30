"""Groups, searches, criticality and findings: what the experiments ask beyond single layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, strategies as st

from layerscope import analyses, checkpoints, models, testing
from layerscope.core import sweep as engine
from layerscope.errors import LayerError, OptionError, ResultError
from layerscope.paper.analyses import _criticality, _per_run

ROWS = st.lists(st.text("abc.1", min_size=1, max_size=4), min_size=1, max_size=7, unique=True)


@given(ROWS)
def test_groups_hold_rows_in_order_and_joint_ends_with_all(rows):
    groups = analyses.joint(rows)
    assert [groups[row] for row in rows] == [[row] for row in rows]
    for members in groups.values():
        assert members == [row for row in rows if row in members]
    if len(rows) > 1:
        assert groups[f"all {len(rows)}"] == rows == list(groups.values())[-1]
        assert len(groups) == len(rows) + 1 + 2 * (len(rows) - 2) + 2 * (len(rows) > 2)


def test_no_rows_are_refused():
    with pytest.raises(LayerError, match="rows is empty"):
        analyses.joint([])


@pytest.fixture(scope="module")
def net():
    """A trained network, its checkpoints, and examples; layer2 alone went nowhere."""
    start = models.build("fcn-2x8", seed=1, inputs=(4,), classes=3)
    end = models.build("fcn-2x8", seed=2, inputs=(4,), classes=3)
    end.layer2.load_state_dict(start.layer2.state_dict())
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=draw)
    with torch.no_grad():
        targets = end(inputs).argmax(1)
    series = {0: start.state_dict(), 5: end.state_dict()}
    return end, (inputs, targets), series


def _plain_error(end, changed, pair):
    model = models.build("fcn-2x8", inputs=(4,), classes=3)
    model.load_state_dict({**end.state_dict(), **changed})
    with torch.no_grad():
        return float((model.eval()(pair[0]).argmax(1) != pair[1]).double().mean())


def test_the_largest_set_is_what_plain_greedy_search_finds(net):
    end, pair, series = net
    rows = ["layer1", "layer2", "layer3"]
    found = analyses.largest_set(
        end, pair, checkpoints=series, rows=rows, tolerance=1.0, show_progress=False
    )
    chosen: list[str] = []
    for step in found.steps.itertuples():
        errors = {}
        for row in [row for row in rows if row not in chosen]:
            reset = (*chosen, row)
            changed = {k: v for k, v in series[0].items() if k.split(".")[0] in reset}
            errors[row] = _plain_error(end, changed, pair)
        best = min(errors, key=errors.get)
        assert (step.added, step.degradation) == (best, errors[best])
        assert step.cells == len(errors)
        chosen.append(best)
    assert found.rows == tuple(chosen)
    assert found.rows[0] == "layer2"
    assert found.cells == 6


def test_the_search_stops_at_the_tolerance_and_says_what_the_next_would_cost(net):
    end, pair, series = net
    found = analyses.largest_set(
        end,
        pair,
        checkpoints=series,
        rows=["layer1", "layer2", "layer3"],
        tolerance=0.0,
        show_progress=False,
    )
    assert found.rows == ("layer2",)
    assert list(found.steps.kept) == [True, False]
    assert found.steps.degradation[1] > 0
    with pytest.raises(OptionError, match="whole= is set by the search"):
        analyses.largest_set(end, pair, checkpoints=series, rows=["layer1"], whole=True)
    with pytest.raises(LayerError, match="rows is empty"):
        analyses.largest_set(end, pair, checkpoints=series, rows=[])


def test_criticality_is_the_least_over_the_allowed_points():
    rng = np.random.default_rng(0)
    alphas, sigmas = (0.0, 0.5, 1.0), (0.1, 1.0)
    error = rng.random((5, 3, 2))
    error[4] = 1.0
    distance = rng.random(5) + 1
    value, place = _criticality.module_criticality(error, distance, alphas, sigmas, 0.4)
    for row in range(5):
        points = [
            (alphas[a] ** 2 * distance[row] / sigmas[s] ** 2, (a, s))
            for a in range(3)
            for s in range(2)
            if error[row, a, s] <= 0.4
        ]
        least = min(points, default=(np.inf, (-1, -1)))
        assert value[row] == pytest.approx(least[0], rel=1e-15)
        assert tuple(place[row]) == least[1]


def test_the_grid_reaches_the_stated_error_or_says_that_it_does_not(net):
    end, pair, series = net
    given = {"checkpoints": series, "alphas": (0.5, 1.0), "sigmas": (1e-6, 0.5)}
    grid = analyses.criticality_grid(end, pair, within=0.02, most=32, show_progress=False, **given)
    enough = grid.error_standard_error <= 0.02
    assert bool((enough | (grid.n_draws >= 32)).all())
    assert grid.attrs["reached"] == float(grid.error_standard_error.max())
    assert set(np.unique(grid.n_draws)) > {4}, "some cells needed more than the first draws"
    # Noise that changes nothing leaves the trained network, which errs nowhere here.
    quiet = grid.sel(alpha=1.0, sigma=1e-6)
    assert bool((quiet.error == 0).all())
    assert bool((quiet.n_draws == 4).all())
    for layer in ("layer1", "layer2", "layer3"):
        moved = sum(
            float((series[5][k] - series[0][k]).double().square().sum())
            for k in series[0]
            if k.startswith(layer)
        )
        assert float(grid.squared_distance.sel(layer=layer)) == pytest.approx(moved, rel=1e-6)
    few = analyses.criticality_grid(end, pair, within=1e-9, most=6, show_progress=False, **given)
    assert int(few.n_draws.max()) == 6, "no more than were allowed, though the error is not reached"
    found = analyses.criticality(grid, epsilon=0.0)
    assert float(found.criticality.sel(layer="layer2")) == 0.0, "it never moved"
    assert float(found.network) == pytest.approx(float(found.criticality.sum()))


def test_the_expected_error_is_that_of_plain_copies(net):
    end, pair, series = net
    grid = analyses.criticality_grid(
        end,
        pair,
        checkpoints=series,
        alphas=(0.0,),
        sigmas=(1e-9,),
        draws=2,
        show_progress=False,
    )
    for layer in ("layer1", "layer3"):
        changed = {k: v for k, v in series[0].items() if k.startswith(layer)}
        assert float(grid.error.sel(layer=layer).squeeze()) == _plain_error(end, changed, pair)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": (1.5,)}, r"alphas is \(1.5,\)"),
        ({"sigmas": (0.0,)}, r"sigmas is \(0.0,\)"),
        ({"draws": 1}, "draws is 1"),
        ({"most": 2}, "draws is 4 and most 2"),
        ({"within": 0.0}, "within is 0.0"),
    ],
)
def test_grids_that_mean_nothing_are_refused(net, options, message):
    end, pair, series = net
    with pytest.raises(OptionError, match=message):
        analyses.criticality_grid(end, pair, checkpoints=series, **options)


def test_a_finding_is_judged_by_its_whole_interval():
    assert analyses.finding("a", "b", [1, 2, 1.5], above=0).verdict == "agrees"
    assert analyses.finding("a", "b", [1, 2, 1.5], below=0).verdict == "disagrees"
    assert analyses.finding("a", "b", [-1, 2, 0.5], above=0).verdict == "undecided"
    alone = analyses.finding("a", "b", [1, np.nan], above=0)
    assert (alone.verdict, alone.runs, alone.value) == ("undecided", 1, 1.0)
    assert alone.plain()["lower"] is None
    nothing = analyses.finding("a", "b", [], above=0)
    assert (nothing.runs, nothing.verdict) == (0, "undecided")
    for wrong in ({}, {"above": 0, "below": 1}):
        with pytest.raises(OptionError, match="exactly one"):
            analyses.finding("a", "b", [1], **wrong)
    table = analyses.findings_table(analyses.about("net", [alone]))
    assert table["the paper says"][0] == "net: a"
    assert len(table.columns) == 8


def test_findings_are_undecided_without_seeds_and_follow_the_runs_with_them():
    ds = testing.dataset(layers=6)
    assert analyses.upper_robust(ds).verdict == "undecided"
    runs = xr.concat([testing.dataset(layers=6, seed=s) for s in range(3)], "seed")
    runs = runs.assign_coords(seed=[0, 1, 2])
    assert analyses.upper_robust(runs).verdict == "agrees"
    assert analyses.bottom_critical(runs).verdict == "agrees"
    assert analyses.upper_robust(runs.isel(layer=[5, 4, 3, 2, 1, 0, 6])).verdict == "disagrees"
    with pytest.raises(ResultError, match=r"no row matches 'block\*'"):
        analyses.upper_robust(runs, rows="block*")
    with pytest.raises(ResultError, match="no blocks of a ResNet"):
        analyses.stage_starts_matter(runs)


def test_damage_is_a_share_of_what_was_learnt_and_unknown_where_nothing_was():
    ds = testing.dataset()
    shares = analyses.damage(ds)
    cell = ds.value.sel(metric="error", epoch=0, perturbation="reinitialize", draw=0)
    base = float(ds.baseline.sel(metric="error"))
    expected = (cell - base) / (float(ds.chance) - base)
    np.testing.assert_allclose(shares.values[0], expected.values[:-1], rtol=1e-14)
    loss = analyses.damage(ds, metric="loss")
    assert float(_per_run.untrained(ds, "loss")) == float(
        ds.value.sel(metric="loss", layer="fullmodel", epoch=0, perturbation="reinitialize", draw=0)
    )
    assert bool((loss <= 1).all())
    poor = ds.assign(baseline=ds.baseline * 0 + 0.85)
    assert bool(analyses.damage(poor).isnull().all())
    with pytest.raises(ResultError, match="whole=True"):
        _per_run.untrained(ds.drop_sel(layer="fullmodel"), "loss")


def test_counts_of_verdicts_add_up_run_by_run():
    table = analyses.tables_of({8: testing.dataset(), 16: testing.dataset(layers=6)}, "width")
    assert list(table.width) == [8, 16]
    assert list(table[list(_per_run.VERDICTS)].sum(axis=1)) == list(table.layers) == [4, 6]


def test_rank_correlations_need_variation():
    table = pd.DataFrame(
        {"seed": [0, 0, 0, 1, 1, 1], "gap": [1, 2, 3, 3, 2, 1], "a": [1, 5, 9] * 2, "b": 7}
    )
    ranks = analyses.rank_with(table, "gap").set_index("seed")
    assert list(ranks.a) == pytest.approx([1, -1])
    assert ranks.b.isnull().all()


def test_measures_of_weights_and_gap(few_digits, trained):
    found = analyses.weight_measures(trained)
    model = models.rebuild(trained)
    weights = [p.detach().double() for p in model.parameters()]
    assert found["parameters"] == sum(p.numel() for p in weights)
    flat = torch.cat([p.ravel() for p in weights])
    assert found["frobenius"] == pytest.approx(float(flat.norm()), rel=1e-12)
    largest = [np.linalg.svd(p.numpy(), compute_uv=False)[0] for p in weights if p.ndim > 1]
    assert found["log_spectral"] == pytest.approx(float(np.log2(largest).sum()), rel=1e-9)
    apart = analyses.gap(model, few_digits, "cpu")
    assert apart["gap"] == apart["test"] - apart["train"]
    inputs, targets = next(few_digits.test.batches(10_000))
    with torch.no_grad():
        wrong = model(inputs).argmax(1) != targets
    assert apart["test"] == float(wrong.double().mean())
    # Labels that are drawn anew are right once in ten, whatever the network answers.
    for share in (0.25, 1.0):
        noisy = analyses.gap(model, few_digits, "cpu", share)
        assert noisy["test"] == (1 - share) * apart["test"] + share * 0.9
        assert noisy["train"] == apart["train"]


def test_frozen_leaves_and_stages_of_a_resnet():
    net = models.build("resnet18-w0.125")
    rows = list(net.layer_views["block"])
    assert analyses.stages(net, rows, "block") == {
        f"s{stage}": [f"s{stage}.1", f"s{stage}.2"] for stage in range(1, 5)
    }
    assert analyses.leaves(net, ["s1.2"], "block") == [
        f"s1.2.{part}" for part in ("norm1", "conv1", "norm2", "conv2")
    ]


def test_groups_go_straight_into_a_sweep(net):
    end, pair, series = net
    ds = engine.sweep(
        end,
        pair,
        checkpoints=checkpoints.open_series(series),
        layers=analyses.joint(["layer1", "layer2", "layer3"]),
        whole=False,
        perturbations=["reinitialize"],
        metrics=["error"],
        epochs=[0],
        show_progress=False,
    )
    error = ds.value.sel(metric="error", epoch=0).squeeze()
    assert float(error.sel(layer="all 3")) == _plain_error(end, series[0], pair)
    assert float(error.sel(layer="layer2")) == 0.0
