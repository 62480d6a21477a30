"""The comparison with the paper's numbers agrees where it should, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from layerscope import results, testing
from layerscope.errors import ResultError
from layerscope.paper import reference


def runs(shift: float = 0.0, spread: float = 0.001, count: int = 5):
    """Five runs that give the paper's own numbers, shifted."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        ds = testing.dataset(layers=4)
        base = reference.FINAL["fcn-3x256"]
        ds["baseline"].loc[{"metric": "error"}] = base
        for layer, cells in reference.ERROR["fcn-3x256"].items():
            for column, paper in cells.items():
                value = base if paper == "base" else float(str(paper).removeprefix("≥"))
                redrawn = column == "rand"
                where = {
                    "layer": layer,
                    "metric": "error",
                    "perturbation": "rerandomize" if redrawn else "reinitialize",
                    "epoch": results.NO_EPOCH if redrawn else int(column),
                }
                noise = rng.normal(0, spread, 3 if redrawn else 1)
                known = value + shift + noise
                ds["value"].loc[where] = known if redrawn else [known[0], np.nan, np.nan]
        made.append(ds)
    return results.concat(made, range(count))


def test_the_papers_own_numbers_agree_in_every_cell():
    table = reference.errors(runs(), "fcn-3x256")
    assert len(table) == 25
    assert table["agrees"].all()
    assert reference.verdict(table).startswith("25 of 25 cells agree")


def test_numbers_that_are_off_by_more_than_the_reading_error_do_not():
    table = reference.errors(runs(shift=0.03), "fcn-3x256")
    printed = ~table["paper"].str.startswith("≥")
    assert not table.loc[printed, "agrees"].any()
    assert table.loc[~printed, "agrees"].all()
    below = reference.errors(runs(shift=-0.03), "fcn-3x256")
    assert not below.loc[~printed, "agrees"].any()


def test_the_prediction_interval_is_students_for_one_more_run():
    values = np.array([0.1, 0.2, 0.3])
    seen = reference._comparing._predict(values)
    half = 4.302652729749462 * 0.1 * np.sqrt(4 / 3)
    assert seen.mean == pytest.approx(0.2)
    assert seen.upper - seen.mean == pytest.approx(half)


def test_one_run_is_compared_with_the_reading_error_alone():
    table = reference.errors(runs(count=1, spread=0.0).isel(seed=0), "fcn-3x256")
    fixed = table["column"] != "rand"
    assert (table["lower"] == table["measured"])[fixed].all()
    assert table["agrees"].all()


def test_the_unit_of_the_distance_is_fitted_to_random_values_alone():
    ds = testing.dataset(layers=4)
    for layer, cells in reference.DISTANCE["fcn-3x256"]["l2_fan_in"].items():
        ds["draw_distance"].loc[{"layer": layer, "norm": "l2_fan_in"}] = 2 * cells["rand"]
    table = reference.distances(ds, "fcn-3x256", "l2_fan_in")
    assert table.attrs["factor"] == pytest.approx(0.5)
    redrawn = table[table["column"] == "rand"]
    assert redrawn["difference"].abs().max() < 1e-12


def test_columns_that_were_not_recorded_are_left_out():
    ds = testing.dataset(layers=4, epochs=(0, 1, 5))
    assert set(reference.errors(ds, "fcn-3x256")["column"]) == {"rand", "0", "1"}


def test_layers_that_were_not_swept_are_left_out_and_other_names_refused():
    ds = testing.dataset(layers=4)
    some = ds.sel(layer=["layer2", "layer4"])
    assert set(reference.errors(some, "fcn-3x256")["layer"]) == {"layer2", "layer4"}
    assert set(reference.distances(some, "fcn-3x256", "linf")["layer"]) == {"layer2", "layer4"}
    with pytest.raises(ResultError, match=r"has the layers layer1, .*; the paper prints s1b1, "):
        reference.errors(ds, "vgg11")


def test_of_other_networks_the_paper_prints_nothing():
    table = reference.errors(testing.dataset(layers=4), "fcn-9x9")
    assert table.empty
    assert list(table.columns)[:3] == ["layer", "column", "paper"]
    assert reference.verdict(table) == "the paper prints no such numbers for this network"
    assert reference.norms("fcn-9x9") == []
    assert np.isnan(reference.closeness(testing.dataset(layers=4), "fcn-9x9")["errors"])


def test_the_pattern_ranks_base_below_and_the_end_of_the_colour_bar_above_all_numbers():
    found = reference.pattern(runs(spread=0.0), "fcn-3x256", column="2")
    np.testing.assert_allclose(found.values, 1.0)
    deep = runs().sel(layer=["layer1", "layer2", "layer3", "layer4"])
    # Printed of six layers: 0.57, 0.05, and base, base; ours fall all the way down.
    printed = [reference.ERROR["fcn-5x256"][f"layer{n}"]["0"] for n in range(1, 5)]
    assert printed == [0.57, 0.05, "base", "base"]
    where = {"metric": "error", "perturbation": "reinitialize", "epoch": 0, "draw": 0}
    for number in range(1, 5):
        deep["value"].loc[where | {"layer": f"layer{number}"}] = 0.6 - 0.1 * number
    found = reference.pattern(deep, "fcn-5x256")
    np.testing.assert_allclose(found.values, spearmanr([3, 2, 1, 1], [4, 3, 2, 1]).statistic)


def test_a_layer_that_was_not_computed_has_no_place_in_the_pattern():
    ds = runs(count=3)
    assert reference.same_layers_matter(ds, "fcn-3x256").runs == 3
    where = {"metric": "error", "perturbation": "reinitialize", "epoch": 0, "seed": 1}
    ds["value"].loc[where | {"layer": "layer2"}] = np.nan
    with pytest.raises(ResultError, match="layer2 was not computed at 0"):
        reference.pattern(ds, "fcn-3x256")


def test_every_comparison_that_has_numbers_is_among_the_tables():
    assert [len(t) for t in reference.tables({"fcn-3x256": runs()}).values()] == [25, 12, 8]
    assert reference.tables({"fcn-9x9": testing.dataset()}) == {}
