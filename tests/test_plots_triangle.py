"""The triangle of ranges of blocks: what lies where, in which colour, and what is said of it."""

from __future__ import annotations

import json

import holoviews as hv
import numpy as np
import pytest

from layerscope import plots, report, testing
from layerscope.errors import OptionError, ResultError

REASON = "block 3 returns <b>more</b> than it gets"


@pytest.fixture
def ds():
    """Of six blocks; ranges from block 3 on can't be skipped, and one was not computed."""
    ds = testing.ranges(blocks=6)
    refused = [str(name) for name in ds["layer"].values if "3-" in str(name)]
    ds["value"].loc[{"layer": [*refused, "blocks 0-1"]}] = np.nan
    return ds.assign_attrs(refused=json.dumps({f"{name} skip": REASON for name in refused}))


def cells(plot):
    return plot.dframe().set_index(["layer", "column"])


def drawn(plot):
    return hv.renderer("matplotlib").get_plot(plot).state


def shown(plot):
    return hv.render(plot, backend="bokeh")


def test_a_range_stands_at_its_first_block_and_its_length(ds):
    found, value = cells(plots.triangle(ds, "loss")), ds["value"].sel(metric="loss")
    at = float(value.sel(layer="blocks 1-4").item() - ds["baseline"].sel(metric="loss"))
    assert found.loc[("4", "1"), "value"] == pytest.approx(at, rel=1e-12)
    assert found.loc[("4", "1"), "hover range"] == "blocks 1-4"
    assert found.loc[("4", "1"), "hover blocks"] == "1 to 4 (4)"
    assert found.loc[("1", "5"), "hover blocks"] == "5"
    whole = value.sel(layer="blocks 0-5").item()
    assert found.loc[("6", "0"), "hover value"] == f"{whole:.4g}"
    assert int(found["value"].notna().sum()) == 6 * 7 // 2 - 3
    # The shortest lies at the bottom, of an axis that goes upwards.
    figure = shown(plots.triangle(ds, "loss"))
    assert list(figure.y_range.factors) == list("123456")
    assert list(figure.x_range.factors) == list("012345")


def test_what_can_not_be_or_is_not_there_looks_like_neither_value_nor_each_other(ds):
    plot = plots.triangle(ds, "loss")
    found = cells(plot)
    kinds = found["blank"].groupby(found["blank"]).size()
    assert dict(kinds) == {"": 18, "open": 1, "outside": 15, "refused": 2}
    assert found.loc[("2", "3"), "hover value"] == f"can't be computed: {REASON}"
    assert found.loc[("2", "0"), "hover value"] == "not computed"
    assert found.loc[("2", "5"), "hover value"] == "there are fewer blocks"
    sources = {r.glyph.fill_color: dict(r.data_source.data) for r in shown(plot).renderers
               if r.level == "underlay"}  # fmt: skip
    assert sources["#d8d8d8"] == {"column": ["3", "3"], "layer": ["2", "3"]}
    assert sources["white"] == {"column": ["0"], "layer": ["2"]}
    axes = drawn(plot).axes[0]
    hatched = [patch for patch in axes.patches if patch.get_hatch() == "...."]
    plain = [patch for patch in axes.patches if patch.get_facecolor() == (1, 1, 1, 1)]
    assert (len(hatched), len(plain)) == (2, 15)  # matplotlib's ground is hatched
    assert axes.get_xlabel() == (
        "first block\nhatched: not computed\ngrey with dots: can't be computed"
    )


def test_perplexity_is_told_as_a_factor_and_no_end_of_the_colours_is_hidden(ds):
    ds["value"].loc[{"layer": "blocks 0-5", "metric": "perplexity"}] = 3.2e9
    plot = plots.triangle(ds, "perplexity")
    base = float(ds["baseline"].sel(metric="perplexity"))
    found = cells(plot)
    single = float(ds["value"].sel(layer="block 4", metric="perplexity").item()) / base
    assert found.loc[("1", "4"), "value"] == pytest.approx(single, rel=1e-12)
    assert found.loc[("6", "0"), "value"] == pytest.approx(3.2e9 / base)
    assert found.loc[("6", "0"), "hover value"] == "3.2e+09"
    assert found.loc[("6", "0"), "hover trained network"] == f"{base:.4g}"
    bar = drawn(plot).axes[1]
    assert bar.get_ylabel() == (
        "test perplexity ÷ that of the trained network\n(all beyond 100 are as dark; largest: 97M)"
    )
    assert bar.get_ylim()[1] == pytest.approx(100)
    mapper = (
        shown(plot).select_one({"name": "color_mapper"})
        or hv.renderer("bokeh").get_plot(plot).handles["color_mapper"]
    )
    assert (type(mapper).__name__, mapper.high) == ("LogColorMapper", 100)
    wider = drawn(plots.triangle(ds, "perplexity", limits=(1, 1e9))).axes[1]
    assert "beyond" not in wider.get_ylabel()


def test_a_limit_of_ones_own_is_told(ds):
    bar = drawn(plots.triangle(ds, "loss", limits=(0, 0.5))).axes[1]
    assert "all beyond .5" in bar.get_ylabel()
    for limits in (0, (0, -1), "x", (0, "x"), (None, 0)):
        with pytest.raises(OptionError, match="limits"):
            plots.triangle(ds, "loss", limits=limits)
    with pytest.raises(OptionError, match="limits"):
        plots.triangle(ds, "perplexity", limits=(1, 1))


def test_what_outputs_nan_is_crossed_and_infinity_is_the_darkest(ds):
    broken = ds.assign(not_finite=ds["value"].isel(metric=0, drop=True) * 0.0)
    broken["not_finite"].loc[{"layer": ["block 1", "blocks 0-5"]}] = 2
    broken["value"].loc[{"layer": "block 1"}] = np.nan
    broken["value"].loc[{"layer": "blocks 0-5"}] = np.inf
    plot = plots.triangle(broken, "perplexity")
    found = cells(plot)
    assert (found.loc[("1", "1"), "blank"], found.loc[("1", "1"), "crossed"]) == (
        "broken",
        "crossed",
    )
    assert found.loc[("6", "0"), "ground"] == found.loc[("6", "0"), "ground"].lower() == "#081d58"
    assert "largest: inf" in drawn(plot).axes[1].get_ylabel()
    assert "crossed" in drawn(plot).axes[0].get_xlabel()


def test_higher_is_better_is_turned_round(ds):
    turned = ds.assign_coords(metric=["accuracy", "perplexity"])
    turned["value"].loc[{"metric": "accuracy"}] = 0.4
    turned["baseline"].loc[{"metric": "accuracy"}] = 0.9
    plot = plots.triangle(turned, "accuracy")
    assert cells(plot)["value"].dropna().unique() == pytest.approx([0.5])
    assert drawn(plot).axes[1].get_ylabel() == "fall of test accuracy (fraction)"


def test_only_some_lengths_leave_no_gap(ds):
    some = ds.sel(layer=[n for n in ds["layer"].values if ds["n_blocks"].sel(layer=n) in (1, 4)])
    plot = plots.triangle(some, "loss")
    assert list(plot.dimension_values("layer", expanded=False)) == ["1", "4"]
    assert list(plot.dimension_values("column", expanded=False)) == list("012345")


def test_what_has_no_ranges_is_refused(ds):
    with pytest.raises(ResultError, match=r"no row of this Dataset is a range"):
        plots.triangle(testing.dataset())
    none = ds.assign_coords(n_blocks=("layer", np.zeros(ds.sizes["layer"], int)))
    with pytest.raises(ResultError, match=r"layers\.ranges"):
        plots.triangle(none)
    with pytest.raises(OptionError, match=r"the column 'zero' was not computed. There is: skip"):
        plots.triangle(ds, column="zero")


def test_a_report_draws_ranges_as_a_triangle_and_escapes_them(ds):
    page = report.page({"llm": ds}, metric="loss", critical=1.0)
    assert page.count("Test loss with a range of blocks skipped") >= 1
    assert "<b>more</b>" not in page
    single = ds.sel(layer=[n for n in ds["layer"].values if ds["n_blocks"].sel(layer=n) == 1])
    assert "a range of blocks" not in report.page({"llm": single}, metric="loss", critical=1.0)
