import base64
import html
import io
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import holoviews as hv
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.models import GlyphRenderer, HoverTool
from bokeh.plotting import figure as figure_model
from bokeh.settings import settings as bokeh_settings
from hypothesis import given, strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from PIL import Image

from layerscope import plots, results, stats, testing
from layerscope.errors import OptionError, ResultError
from layerscope.plots import _embedding as embedding, _lines as lines, _scales as scales
from layerscope.plots._epochs import epochs_along
from layerscope.plots._names import shorten, shorten_layers, within

ODD = ["<script>alert(1)</script>", r"$\frac{1$ and $x$", "{x} & 'y'", 'a"b', "fullmodel"]
MAKERS = [plots.heatmap, plots.distances, plots.overview, plots.curves]


@pytest.fixture
def ds() -> xr.Dataset:
    return testing.dataset()


def cells(plot: hv.HeatMap) -> dict[tuple[str, str], float]:
    frame = plot.dframe()
    return dict(zip(zip(frame["layer"], frame["column"], strict=True), frame["value"], strict=True))


def drawn(plot):
    return hv.renderer("matplotlib").get_plot(plot).state


class Page(HTMLParser):
    """What a page loads, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        library = (Path(bokeh_settings.bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
        assert f"<script>{library}</script>" in text
        assert "</script" not in library
        self.feed(text.replace(library, ""))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "data")]


# Heat maps


def test_heatmap_holds_the_values_where_they_belong(ds):
    ds["value"].loc[{"layer": "layer3", "epoch": 2}] = np.nan
    plot = plots.heatmap(ds)
    found = cells(plot)
    assert len(found) == 5 * 9
    value = ds["value"].sel(metric="error")
    for layer in ds["layer"].values:
        kept = value.sel(layer=layer, perturbation="reinitialize", draw=0)
        for epoch in (0, 1, 3, 100):
            assert found[layer, str(epoch)] == kept.sel(epoch=epoch)
        rand = value.sel(layer=layer, perturbation="rerandomize", epoch=results.NO_EPOCH)
        np.testing.assert_allclose(found[layer, "rand"], rand.mean("draw"))
    assert np.isnan(found["layer3", "2"])
    # Rows from the first layer at the top (the axis goes upwards) to the network at the bottom.
    rows = ["fullmodel", "layer4", "layer3", "layer2", "layer1"]
    assert list(plot.dimension_values("layer", expanded=False)) == rows
    columns = ["rand", "0", "1", "2", "3", "8", "40", "90", "100"]
    assert list(plot.dimension_values("column", expanded=False)) == columns
    figure = hv.render(plot, backend="bokeh")
    assert (list(figure.x_range.factors), list(figure.y_range.factors)) == (columns, rows)


def test_matplotlib_draws_each_value_in_its_cell(ds):
    ds["value"].loc[{"layer": "layer3", "epoch": 2}] = np.nan
    axes, bar = drawn(plots.heatmap(ds)).axes
    columns, rows = (
        [text.get_text() for text in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    places = [(text.get_position(), text.get_text()) for text in axes.texts]
    printed = {(rows[y], columns[x]): text for (x, y), text in places}
    table = stats.summary(ds)
    expected = {
        (row.layer, row.column): f"{row.value:.2f}".removeprefix("0") for row in table.itertuples()
    }
    assert {cell: text for cell, text in printed.items() if text} == expected
    assert expected["layer1", "0"] == ".90"
    colours = axes.collections[0].get_array()
    assert colours.shape == (5, 9)
    assert colours.mask.sum() == 1
    assert colours.mask[2, 3]
    assert colours[-1, 1] == 0.9
    assert axes.collections[0].get_clim() == (0, 1)
    assert bar.get_ylabel() == "test error (fraction)"


def test_blank_cells_are_hatched_and_say_so(ds):
    ds["value"].loc[{"layer": "layer3", "epoch": 2}] = np.nan
    plot = plots.heatmap(ds)
    blank = plot.dframe().query("layer == 'layer3' and column == '2'").iloc[0]
    assert blank["hover value"] == "not computed"
    assert blank["shown"] == ""
    assert drawn(plot).axes[0].patch.get_hatch()
    figure = hv.render(plot, backend="bokeh")
    hatched = [
        each for each in figure.renderers if getattr(each.glyph, "hatch_pattern", None) == "/"
    ]
    assert [dict(each.data_source.data) for each in hatched] == [
        {"column": ["2"], "layer": ["layer3"]}
    ]


def test_hovering_tells_what_there_is_to_tell(ds):
    cell = plots.heatmap(ds).dframe().set_index(["layer", "column"]).loc[("layer1", "rand")]
    row = stats.summary(ds).iloc[0]
    assert cell["hover 95 % interval"] == f"{row.lower:.4g} to 1, over draws"
    assert cell["hover draws, seeds"] == "3, 1"
    assert cell["hover examples"] == "10,000"
    assert cell["hover module"] == "Linear"
    assert cell["hover parameters"] == "1,000"
    bare = plots.heatmap(ds[["value"]].drop_vars(["module_type", "parameters"])).dframe()
    assert "hover module" not in bare
    assert set(bare["hover change"]) == {"–"}
    figure = hv.render(plots.heatmap(ds), backend="bokeh")
    hover = [tool for tool in figure.tools if isinstance(tool, HoverTool)]
    assert len(hover) == 1
    source = hover[0].renderers[0].data_source
    fields = [re.fullmatch(r"@\{(.*)\}", field)[1] for _, field in hover[0].tooltips]
    assert set(fields) <= set(source.data)
    assert len(hover[0].renderers) == 1


def test_a_name_with_nan_in_it_is_kept():
    names, types = ["nano", "nan", "fullmodel"], ["Finance", "nan", ""]
    ds = testing.dataset(layers=2).assign_coords(layer=names, module_type=("layer", types))
    hover = plots.heatmap(ds).dframe()
    assert set(hover["hover layer"]) == set(names)
    assert set(hover["hover module"]) == set(types)


def test_columns_choose_and_order(ds):
    plot = plots.heatmap(ds, columns=[100, "rand", 0])
    assert list(plot.dimension_values("column", expanded=False)) == ["100", "rand", "0"]
    for make in (plots.heatmap, plots.distances):
        with pytest.raises(OptionError, match=r"7 was not recorded.* rand, 0, 1, 2, 3, 8, 40, 90"):
            make(ds, columns=[0, 7])
    with pytest.raises(OptionError, match="none came"):
        plots.heatmap(ds, columns=[])


def test_loss_has_a_range_of_its_own_logarithmic_if_wide(ds):
    from matplotlib.colors import LogNorm

    mesh = drawn(plots.heatmap(ds, "loss")).axes[0].collections[0]
    table = stats.summary(ds, "loss")["value"]
    np.testing.assert_allclose(mesh.get_clim(), (table.min(), table.max()))
    assert not isinstance(mesh.norm, LogNorm)
    at = {
        "layer": "layer1",
        "epoch": 0,
        "perturbation": "reinitialize",
        "draw": 0,
        "metric": "loss",
    }
    ds["value"].loc[at] = 1e6
    ds["value"].loc[at | {"layer": "layer2"}] = np.inf
    figure = drawn(plots.heatmap(ds, "loss"))
    mesh = figure.axes[0].collections[0]
    assert isinstance(mesh.norm, LogNorm)
    np.testing.assert_allclose(mesh.get_clim()[1], 1e6)
    assert not mesh.get_array().mask.any()  # infinite is not "not computed"
    assert "inf" in {text.get_text() for text in figure.axes[0].texts}
    embedding.page(plots.curves(ds, "loss"), "t")


def test_accuracy_is_dark_where_it_is_bad(ds):
    right = ds.sel(metric=["error"]).assign_coords(metric=["accuracy"])
    first, second = (
        hv.Store.lookup_options("matplotlib", plot, "style").kwargs["cmap"]
        for plot in (plots.heatmap(ds), plots.heatmap(right, "accuracy"))
    )
    assert first == second[::-1]


def printed(figure):
    return [text for text in figure.axes[0].texts if text.get_text() and text.get_visible()]


def test_many_cells_are_drawn_without_numbers():
    assert printed(drawn(plots.heatmap(testing.dataset(layers=30, epochs=(0, 5)))))
    assert not printed(drawn(plots.heatmap(testing.dataset(layers=100, epochs=range(5)))))


@pytest.mark.parametrize(
    ("names", "turned"),
    [
        (["full", "frozen", "removed"], False),
        (["plain", "weight decay", "dropout", "augmentation", "BatchNorm", "Adam"], True),
        (["w" * 14, "m" * 14, "W" * 14], False),
    ],
)
def test_names_below_points_keep_their_order_and_do_not_run_into_each_other(names, turned):
    rows = [(name, at + seed / 10) for at, name in enumerate(names) for seed in range(3)]
    table = pd.DataFrame([*rows, (names[0], np.nan)], columns=["variant", "error"])
    figure = drawn(plots.points(table, "variant", "error"))
    figure.canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == names
    assert [bool(label.get_rotation()) for label in labels] == [turned] * len(names)
    if not turned:
        boxes = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("norm", ["l2", "l2_rms", "l2_relative", "l2_fan_in", "linf"])
def test_distances_hold_every_norm_under_its_formula(ds, norm):
    plot = plots.distances(ds, norm)
    found = cells(plot)
    for layer in ds["layer"].values:
        assert found[layer, "40"] == ds["distance"].sel(layer=layer, epoch=40, norm=norm)
        rand = ds["draw_distance"].sel(layer=layer, norm=norm).mean()
        np.testing.assert_allclose(found[layer, "rand"], rand)
    assert plots.FORMULAS[norm] in repr(plots.show(plot))


def test_distances_are_coloured_for_single_layers(ds):
    ds["distance"].loc[{"layer": "fullmodel", "epoch": 100}] = 1e3
    axes, bar = drawn(plots.distances(ds)).axes
    assert axes.collections[0].get_clim()[1] < 20
    assert bar._colorbar.extend == "max"


def test_distances_without_draws_have_no_rand_column(ds):
    plot = plots.distances(ds.drop_vars("draw_distance"))
    assert plot.dimension_values("column", expanded=False)[0] == "0"


def test_overview_has_three_maps_of_the_same_rows(ds):
    parts = list(plots.overview(ds))
    expected = [plots.heatmap(ds), plots.distances(ds, "l2_fan_in"), plots.distances(ds, "linf")]
    assert [cells(part) for part in parts] == [cells(part) for part in expected]


# What sweeps mark


@pytest.fixture
def settled(ds):
    """As from a sweep that stops cells once they are settled, and can't do all of them."""
    shape = ds["n_examples"].shape or ds["value"].isel(metric=0).shape
    dims = [dim for dim in ds["value"].dims if dim != "metric"]
    verdict = xr.DataArray(np.full(shape, "", dtype="U12"), dims=dims)
    ds = ds.assign(verdict=verdict)
    ds["verdict"].loc[{"layer": "layer1", "epoch": 0}] = "critical"
    ds["verdict"].loc[{"layer": "layer2", "epoch": 0}] = "robust"
    ds["verdict"].loc[{"layer": "layer1", "epoch": -1, "draw": 0}] = "critical"
    for name in ("value", "difference"):
        ds[name].loc[{"layer": ["layer3", "layer4"], "perturbation": "rerandomize"}] = np.nan
    return ds.assign_attrs(refused='{"layer3 rerandomize": "<b>no weights</b>"}')


def test_settled_cells_are_marked_once_every_draw_is(settled):
    cells = plots.heatmap(settled).dframe().set_index(["layer", "column"])
    assert cells.loc[("layer1", "0"), "settled"] == "critical"
    assert cells.loc[("layer2", "0"), "settled"] == "robust"
    assert cells.loc[("layer1", "rand"), "settled"] == ""  # one of three draws
    assert cells.loc[("layer1", "0"), "hover settled"] == "critical"
    assert cells.loc[("layer1", "1"), "hover settled"] == "not yet"
    figure = hv.render(plots.heatmap(settled), backend="bokeh")
    marks = [each for each in figure.renderers if type(each.glyph).__name__ == "Scatter"]
    # Critical, intermediate, robust, in doubt.
    layers = [dict(each.data_source.data)["layer"] for each in marks]
    assert layers == [["layer1"], [], ["layer2"], []]
    axes = drawn(plots.heatmap(settled)).axes[0]
    # In the upper right corner of the cell: columns are rand, 0, …; rows go upwards.
    places = [tuple(line.get_xydata()[0]) for line in axes.lines]
    assert sorted(places) == [(1.37, 3.3), (1.37, 4.3)]
    label = axes.get_xlabel()
    assert "● critical, ○ robust" in label
    assert "intermediate" not in label


def test_settled_cells_are_marked_beside_other_maps_and_other_runs(settled):
    first, *others = drawn(plots.overview(settled)).axes[:3]
    assert sorted(tuple(line.get_xydata()[0]) for line in first.lines) == [(1.37, 3.3), (1.37, 4.3)]
    assert [len(axes.lines) for axes in others] == [0, 0]
    layout = plots.compare({"settled": settled, "plain": testing.dataset()})
    _, panel, plain = drawn(layout).axes[:3]
    # The columns are rand, 0, …; the first of four layers has the uppermost quarter.
    marks = {tuple(line.get_xydata()[0]): line.get_markerfacecolor() for line in panel.lines}
    assert list(marks) == [(1.5, 0.875), (1.5, 0.625)]
    assert (marks[1.5, 0.875] == "none", marks[1.5, 0.625] == "none") == (False, True)
    words = (
        "settled: ● critical, ○ robust\nhatched: not computed\ngrey with dots: can't be computed"
    )
    assert (panel.get_xlabel(), plain.get_xlabel()) == (words, "")
    assert not plain.lines
    figures = hv.render(layout, backend="bokeh").select({"type": figure_model})
    (figure,) = [each for each in figures if each.title.text == "settled"]
    shown = [each for each in figure.renderers if type(each.glyph).__name__ == "Scatter"]
    places = [(str(each.glyph.marker), [*each.data_source.data["y"]]) for each in shown]
    assert places == [("circle", [0.875]), ("x", []), ("circle", [0.625]), ("triangle", [])]
    assert [each.glyph.fill_color is None for each in shown] == [False, False, True, True]


def test_what_cannot_be_computed_is_told_in_a_comparison_too(ds):
    """Its place and its reason; a layer of which nothing can be computed has a place as well."""
    why = {"layer2 rerandomize": "<b>x</b>", "layer3 rerandomize": "narrower"}
    alone = ds.sel(perturbation=["rerandomize"]).assign_attrs(refused=json.dumps(why))
    alone["value"].loc[{"layer": ["layer2", "layer3"]}] = np.nan
    layout = plots.compare({"plain": testing.dataset(), "refused": alone}, column="rand")
    panel = drawn(layout).axes[2]
    assert "grey with dots: can't be computed" in panel.get_xlabel()
    figures = hv.render(layout, backend="bokeh").select({"type": figure_model})
    (figure,) = [each for each in figures if each.title.text == "refused"]
    sources = [dict(each.data_source.data) for each in figure.renderers]
    (boxes,) = [each for each in sources if "why" in each]
    assert boxes["why"] == ["<b>x</b>", "narrower"]
    assert boxes["bottom"] == [0.5, 0.25]


def test_what_cannot_be_computed_is_grey_and_says_why(settled):
    plot = plots.heatmap(settled)
    cells = plot.dframe().set_index(["layer", "column"])
    said = cells["hover value"]
    assert said["layer3", "rand"] == "can't be computed: <b>no weights</b>"
    assert said["layer4", "rand"] == "not computed"
    axes = drawn(plot).axes[0]
    ground, dots = axes.patches
    assert (ground.get_xy(), dots.get_hatch()) == ((-0.5, 1.5), "....")
    label = axes.get_xlabel()
    assert "hatched: not computed" in label
    assert "grey with dots: can't be computed" in label
    figure = hv.render(plot, backend="bokeh")
    boxes = [dict(each.data_source.data) for each in figure.renderers if each.level == "underlay"]
    assert [each["layer"] for each in boxes] == [["layer4"], ["layer3"], []]
    assert drawn(plots.heatmap(testing.dataset())).axes[0].get_xlabel().count("\n") == 0


def test_columns_of_other_kinds_have_names_in_order_of_their_numbers(ds):
    drawn_once = ds["value"].sel(perturbation=["rerandomize"])
    kinds = ["noise(10)", "noise(2)", "interpolate(0.5)", "zero"]
    parts = [drawn_once.assign_coords(perturbation=[name]) for name in kinds]
    parts[2] = parts[2].copy(deep=True)
    parts[2].loc[{"epoch": [0, 100]}] = 0.5
    parts[2].loc[{"epoch": -1}] = np.nan
    more = xr.concat([ds["value"], *parts], "perturbation", join="outer")
    table = stats.summary(xr.Dataset({"value": more, "baseline": ds["baseline"]}))
    assert stats.column_order(table)[:5] == ["rand", "noise(2)", "noise(10)", "zero", "0"]
    assert stats.column_order(table)[-2:] == ["interpolate(0.5) 0", "interpolate(0.5) 100"]
    plot = plots.heatmap(xr.Dataset({"value": more, "baseline": ds["baseline"]}))
    assert drawn(plot).axes[0].get_xlabel().startswith("what is done to the layer")


def test_long_names_are_cut_on_axes_alone_and_never_alike(ds):
    front = "vision_model.encoder.layers."
    names = [f"{front}{at}.self_attention.out_projection.weight" for at in range(4)]
    plot = plots.heatmap(ds.assign_coords(layer=[*names, "fullmodel"]))
    assert set(plot.dframe()["hover layer"]) == {*names, "fullmodel"}
    short = [tick.get_text() for tick in drawn(plot).axes[0].get_yticklabels()][::-1]
    assert short[0] == "0.self_attention.out_projection.weight"
    assert short[-1] == "fullmodel"
    assert drawn(plot).axes[0].get_ylabel() == "layer in vision_model.encoder.layers"
    figure = hv.render(plot, backend="bokeh")
    assert figure.y_range.factors == short[::-1]
    cells = figure.select({"type": GlyphRenderer})
    placed = [each for each in cells if len(each.data_source.data.get("layer", ()))]
    assert placed
    assert all(set(each.data_source.data["layer"]) <= set(short) for each in placed)


@given(st.lists(st.text("ab.", min_size=1, max_size=60), min_size=1, max_size=8, unique=True))
def test_no_two_names_are_cut_to_the_same(names):
    for cut in (shorten(names, 12), shorten_layers(names, 12)):
        assert list(cut) == names
        assert len(set(cut.values())) == len(names)


@pytest.mark.parametrize(
    ("names", "front"),
    [
        (["model.embed", "model.layers.0.mlp", "model.layers.1", "lm_head"], "model.layers."),
        (["model.layers.0-1", "model.layers.1-2", "fullmodel"], "model.layers."),
        (["net.conv1", "net.conv2", "fullmodel"], "net."),
        (["features.0", "features.3", "classifier.0"], ""),
        (["encoder.block.0", "encoder.block.1", "decoder.block.0"], ""),
        (["layer1.0.conv1", "layer2.0.conv1"], ""),
        # Nothing would be left of the first; and two would become one.
        (["a.b", "a.b.c"], "a."),
        (["0.a", "blocks.1.a", "blocks.0.a"], ""),
        (["a.0.b", "a.1.b", "1.b"], ""),
        (["0", "2"], ""),
        (["model.layers.0"], ""),
        ([], ""),
    ],
)
def test_what_layers_begin_with_is_left_out_where_it_tells_nothing(names, front):
    short = shorten_layers(names)
    assert short == {name: name.removeprefix(front) for name in names}
    assert within(names) == (f"layer in {front[:-1]}" if front else "")


def test_every_figure_says_what_names_begin_with(ds):
    names = [f"model.layers.{at}" for at in range(ds.sizes["layer"] - 1)]
    ds = ds.assign_coords(layer=[*names, "fullmodel"])
    where = "layer in model.layers"
    for plot in (plots.heatmap(ds), plots.compare({"a": ds, "b": ds}), plots.overview(ds)):
        figure = drawn(plot)
        assert where in [axes.get_ylabel() for axes in figure.axes]
        said = {text.get_text() for axes in figure.axes for text in axes.get_yticklabels()}
        assert "0" in said
        assert not any(name.startswith("model.") for name in said)
    curves = plots.curves(ds)
    legend = drawn(curves).axes[0].get_legend()
    assert legend.get_title().get_text() == where
    assert "0" in [text.get_text() for text in legend.get_texts()]
    (legend,) = hv.render(curves, backend="bokeh").legend
    assert legend.title == where
    cheap = ("layer", "measure"), ds.depth.values[:, None] * 1.0
    measured = ds.assign(measure_value=cheap).assign_coords(measure=["depth"])
    assert f"({where})" in drawn(plots.agreement(measured, "depth")).axes[0].get_xlabel()


def test_hundreds_of_layers_fit_a_page():
    figure = drawn(plots.heatmap(testing.dataset(layers=200, epochs=(0, 5))))
    assert figure.get_size_inches()[1] <= 9.5
    axes = figure.axes[0]
    names = axes.get_yticklabels()
    high = 9.5 / 201
    places = [tick.get_position()[1] for tick in names]
    assert min(np.diff(places)) * high * 72 >= names[0].get_fontsize()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((27_123, "27k"), (2_512, "2.5k"), (246.4, "246"), (48.2, "48"), (0.0127, ".013")),
        *((999.9, "1.0k"), (3e7, "30M"), (4e13, "4e13"), (2e-5, "2e-5"), (np.inf, "inf")),
    ],
)
def test_values_of_any_size_are_written_in_four_signs(value, text):
    wide = scales.scale_of(pd.Series([1e-5, 1e13]), results.metric(None, "perplexity"))
    assert wide.log
    assert wide.text(value) == text


@pytest.mark.parametrize(
    ("highest", "texts"),
    [(12, ["0", "6.0", "12.0"]), (9999, ["0", "5000", "9999"]), (6e29, ["0", "3e29", "6e29"]),
     (54_321, ["0", "27k", "54k"]), (4e-6, ["0", "2e-6", "4e-6"])],
)  # fmt: skip
def test_distances_of_any_size_fit_their_cells(highest, texts):
    wide = scales.scale_of(pd.Series([0, highest / 2, highest], dtype=float), None)
    assert [wide.text(value) for value in (0, highest / 2, highest)] == texts


# Side by side


@pytest.fixture
def two():
    return {"deep": testing.dataset(layers=6), "shallow $x$": testing.dataset(layers=3)}


def test_runs_side_by_side_share_depth_and_colours(two):
    layout = plots.compare(two)
    profile, *panels = list(layout)
    assert [curve.label for curve in profile.Curve if curve.label] == list(two)
    for panel, ds in zip(panels, two.values(), strict=True):
        cells = panel.dframe()
        count = len(ds["layer"]) - 1
        assert set(cells["hover layer"]) == set(stats.layer_order(ds, network=False))
        first = cells[cells["hover layer"] == "layer1"]
        assert set(first["top"]) == {1.0}
        np.testing.assert_allclose(first["depth"], 1 - 1 / count)  # the lower edge
        for layer in ("layer1", "layer3"):
            at = {"layer": layer, "epoch": 3, "perturbation": "reinitialize", "draw": 0}
            value = ds["value"].sel(metric="error", **at)
            found = cells[(cells["hover layer"] == layer) & (cells["hover reset to"] == "3")]
            assert found["value"].item() == value
    figures = drawn(layout).axes
    assert figures[2].get_title() == r"shallow \$x\$"
    assert len({axes.get_ylim() for axes in figures[:3]}) == 1
    document = hv.render(layout, backend="bokeh")
    ranges = {id(figure.y_range) for figure in document.select({"type": figure_model})}
    assert len(ranges) == 1  # to zoom in one is to zoom in all
    across = [figure.x_range for figure in document.select({"type": figure_model})]
    assert len({id(each) for each in across}) == 3
    assert Page(embedding.page(layout, "t")).loads == []


def test_a_run_of_fewer_columns_fills_its_panel(two):
    name, ds = next(iter(two.items()))
    runs = {"all": ds, "few": testing.dataset(epochs=(0, 5)), f"{name} again": ds}
    shown = hv.render(plots.compare(runs), backend="bokeh").select({"type": figure_model})
    ends = sorted(figure.x_range.end for figure in shown if figure.x_range.start == 0)
    assert ends == [3, 9, 9]


def test_labels_are_no_wider_than_a_narrow_figure():
    narrow = testing.dataset(layers=2, epochs=(0, 5))
    narrow["value"].loc[{"layer": "layer1", "epoch": 0}] = np.nan
    long = "a-name-of-a-run-that-is-longer-than-its-figure-is-wide"
    layouts = plots.overview(narrow), plots.compare({long: narrow, "other": narrow})
    for layout in layouts:
        for figure in hv.render(layout, backend="bokeh").select({"type": figure_model}):
            (label,) = {axis.axis_label for axis in figure.xaxis}
            longest = max(map(len, label.split("\n")))
            assert 6 * longest <= figure.frame_width, label
            assert 6 * len(figure.title.text) <= figure.frame_width


def test_the_curves_show_the_column_asked_for(two):
    deep = plots.compare(two, column="rand").Overlay.I.Curve.Deep
    table = stats.summary(two["deep"])
    expected = table[(table["column"] == "rand") & (table["layer"] != "fullmodel")]["value"]
    np.testing.assert_allclose(deep.dimension_values("value"), expected)
    two["short"] = testing.dataset(epochs=(1, 7))
    assert "reset to 1" in repr(plots.show(plots.compare(two)))
    with pytest.raises(OptionError, match=r"column '0'. They share: rand, 1"):
        plots.compare(two, column=0)


def test_what_can_not_be_compared_is_refused(ds, two):
    for wrong in ({"one": ds}, {}, ds, [ds, ds]):
        with pytest.raises(OptionError, match="at least two Datasets"):
            plots.compare(wrong)
    with pytest.raises(OptionError, match="Did you mean 'error'"):
        plots.compare(two, "eror")


# Curves


def test_curves_hold_the_values_in_order_of_epochs(ds):
    plot = plots.curves(ds)
    lines = {curve.label: curve for curve in plot.Curve}
    assert list(lines) == ["unperturbed", "layer1", "layer2", "layer3", "layer4", "fullmodel"]
    kept = ds["value"].sel(layer="layer2", perturbation="reinitialize", draw=0, metric="error")
    expected = kept.sel(epoch=[0, 1, 2, 3, 8, 40, 90, 100])
    np.testing.assert_array_equal(lines["layer2"].dimension_values("value"), expected)
    # From 1 on as far apart as their logarithms.
    places = lines["layer2"].dimension_values("place")
    np.testing.assert_allclose(np.diff(places[1:]) / np.diff(np.log([1, 2, 3, 8, 40, 90, 100])),
                               (places[-1] - places[1]) / np.log(100))  # fmt: skip
    assert 0 == places[0] < places[1]
    np.testing.assert_array_equal(lines["unperturbed"].dimension_values("value"), [0.02, 0.02])
    axes = drawn(plot).axes[0]
    named = [tick.get_text() for tick in axes.get_xticklabels()]
    assert named == ["0", "1", "2", "3", "8", "40", "100"]  # 90 would run into 100
    np.testing.assert_allclose(sorted({*axes.get_xticks(), *axes.get_xticks(minor=True)}), places)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)


def test_curves_are_shaded_with_the_interval(ds):
    band = next(iter(plots.curves(ds).Spread))
    row = stats.summary(ds).query("layer == 'layer1' and epoch >= 0")
    value, below, above = (band.dimension_values(name) for name in ("value", "below", "above"))
    np.testing.assert_allclose(value - below, row["lower"])
    np.testing.assert_allclose(value + above, row["upper"])


def test_curves_differ_without_colour():
    looks = lines._looks([f"layer{index}" for index in range(12)])
    assert len({(look.dash, look.marker) for look in looks.values()}) == 12
    assert "#000000" not in {look.colour for look in looks.values()}


def test_curves_of_many_layers_keep_them_all():
    ds = testing.dataset(layers=13)
    ds["value"].loc[{"layer": "layer3", "epoch": 2}] = np.nan
    plot = plots.curves(ds)
    named = ["unperturbed", "layer1", "layer13", "fullmodel"]
    assert [curve.label for curve in plot.Curve] == named
    table = stats.summary(ds)
    epochs = [0, 1, 2, 3, 8, 40, 90, 100]
    places = list(epochs_along(epochs).places.values())
    expected = []
    for depth in range(1, 12):
        of_layer = table[(table["layer"] == f"layer{depth + 1}") & (table["column"] != "rand")]
        values = dict(of_layer[["epoch", "value"]].values)
        points = [(at, values.get(each)) for at, each in zip(places, epochs, strict=True)]
        expected += [
            (*a, *b, depth) for a, b in itertools.pairwise(points) if None not in (a[1], b[1])
        ]
    assert len(expected) == 11 * 7 - 2  # nothing is drawn over what was not computed
    steps = plot.Segments.I.dframe()[["place", "value", "next", "then", "depth"]]
    np.testing.assert_array_equal(steps.values, expected)
    # Both draw each layer in the colour of its depth.
    colours = [look.colour for look in lines._looks(stats.layer_order(ds, network=False)).values()]
    drawn_lines = drawn(plot).axes[0].collections
    (bundle,) = [each for each in drawn_lines if isinstance(each, LineCollection)]
    bundle.update_scalarmappable()
    shown = [to_hex(colour) for colour in bundle.get_colors()]
    assert shown == [colours[int(depth)] for depth in steps["depth"]]
    figure = hv.render(plot, backend="bokeh")
    (glyph,) = [each.glyph for each in figure.renderers if type(each.glyph).__name__ == "Segment"]
    mapper = glyph.line_color.transform
    assert (list(mapper.palette), mapper.low, mapper.high) == (colours[1:-1], 1, 11)


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_many_layers_at_one_checkpoint_are_dots(backend):
    hv.renderer(backend).get_plot(plots.curves(testing.dataset(layers=13, epochs=(5,))))


# What every figure must do


@pytest.mark.parametrize("make", [plots.overview, plots.curves])
@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_figures_of_several_seeds_draw_with_both_backends(make, backend):
    runs = [testing.dataset(layers=1, epochs=(0, 5), seed=seed) for seed in (0, 1)]
    hv.renderer(backend).get_plot(make(results.concat(runs, [0, 1])))
    assert not plt.get_fignums()


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_figure_lacks_is_named(ds, make):
    dim = "norm" if make is plots.distances else "draw"
    with pytest.raises(ResultError, match=dim):
        make(ds.isel({dim: 0}))
    with pytest.raises(ResultError, match="no variable"):
        make(ds.drop_vars(["value", "distance"]))


def test_a_dataset_without_any_value_is_refused(ds):
    ds["value"][:] = np.nan
    for make in (plots.heatmap, plots.curves):
        with pytest.raises(ResultError, match="nothing was computed"):
            make(ds)


def test_curves_need_a_checkpoint(ds):
    with pytest.raises(ResultError, match="reinitialize"):
        plots.curves(ds.sel(perturbation=["rerandomize"]))


def test_loading_and_drawing_leave_the_users_backend_and_say_nothing():
    code = """
import warnings; warnings.simplefilter("error")
import holoviews as hv, holoviews.plotting.mpl
from layerscope import plots, testing
plots.heatmap(testing.dataset(layers=1))
assert hv.Store.current_backend == "matplotlib", hv.Store.current_backend
assert "bokeh" in hv.Store.registry
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Files

MAGIC = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".pdf": b"%PDF-",
    ".svg": b"<?xml",
    ".html": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("suffix", MAGIC)
def test_saved_files_are_what_their_suffix_says_and_always_the_same(tmp_path, suffix):
    plot = plots.heatmap(testing.dataset(layers=1, epochs=(0, 5)))
    content = plots.save(plot, tmp_path / f"one{suffix}").read_bytes()
    assert content.startswith(MAGIC[suffix])
    if suffix != ".html":
        assert plots.save(plot, tmp_path / f"two{suffix}").read_bytes() == content
        assert not re.search(rb"/CreationDate|<dc:date>", content)  # the same in a later second
    if suffix == ".png":
        with Image.open(io.BytesIO(content)) as image:
            assert min(image.info["dpi"]) > 200
    if suffix == ".pdf":
        assert b"/FontFile2" in content
        assert b"/Type3" not in content


def test_html_asks_nothing_of_the_network_and_runs_no_name(ds, tmp_path):
    ds = ds.assign_coords(layer=ODD)
    for make in (plots.overview, plots.curves):
        path = plots.save(make(ds), tmp_path / "page.html", title="<i>a & b</i>")
        text = path.read_text("utf-8")
        page = Page(text)
        assert page.loads == []
        assert page.tags == ["html", "head", "meta", "title", "script", "body", "div", "script"]
        assert "<script>alert" not in text
        assert "alert(1)" in text
        assert "<title>&lt;i&gt;a &amp; b&lt;/i&gt;</title>" in text


def test_matplotlib_takes_names_as_they_are(ds, tmp_path):
    ds = ds.assign_coords(layer=ODD)
    svg = plots.save(plots.curves(ds), tmp_path / "curves.svg").read_text("utf-8")
    # The legend's words stand as comments beside their outlines; mathematics would not.
    assert r"<!-- $\frac{1$ and $x$ -->" in svg
    # Beside its curve, too, where that lies apart; as mathematics it could not be drawn.
    apart = ds.copy(deep=True)
    apart["value"].loc[{"layer": ODD[1]}] = 1.0
    figure = hv.render(plots.curves(apart), backend="matplotlib")
    assert r"\$\frac{1\$ and \$x\$" in [text.get_text() for text in figure.axes[0].texts]
    figure.draw_without_rendering()
    svg = plots.save(plots.heatmap(ds, title="{a}"), tmp_path / "heat.svg").read_text("utf-8")
    assert r"<!-- $\frac{1$ and $x$ -->" in svg
    assert "<!-- {a} -->" in svg
    assert "<script" not in svg.replace("<!-- <script>alert(1)</script> -->", "")


@pytest.mark.parametrize("make", [plots.heatmap, plots.overview, plots.curves])
@pytest.mark.parametrize(("width", "inches"), [("page", 6.75), (5.5, 5.5)])
def test_figures_are_as_wide_as_paper(ds, tmp_path, make, width, inches):
    path = plots.save(make(ds), tmp_path / "figure.png", width=width)
    with Image.open(path) as image:
        assert abs(image.width / 300 - inches) < 0.1


def test_a_width_without_room_is_refused(ds, tmp_path):
    with pytest.raises(OptionError, match="leaves no room for this figure"):
        plots.save(plots.overview(ds), tmp_path / "figure.pdf", width=1)
    for wrong in (0.2, "colunm"):
        with pytest.raises(OptionError, match="column"):
            plots.save(plots.heatmap(ds), tmp_path / "figure.pdf", width=wrong)
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_lists_the_known(tmp_path):
    with pytest.raises(OptionError, match=r"'\.jpg'.*\.html, \.pdf, \.png, \.svg"):
        plots.save(hv.Curve([0, 1]), tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_not_writable_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="can't write"):
        plots.save(hv.Curve([0, 1]), tmp_path / "file" / "figure.svg")


# Notebooks


@pytest.mark.parametrize("make", [plots.overview, plots.curves])
def test_a_still_picture_is_small_and_described(ds, make):
    shown = plots.show(make(ds), live=False)
    data, metadata = shown._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png"}
    assert len(data["image/png"]) < 150_000
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
        assert abs(image.width * 96 / 144 - metadata["image/png"]["width"]) <= 1
    assert data["text/plain"] == repr(shown) == metadata["image/png"]["alt"]


def test_the_description_says_where_the_ends_are(ds):
    expected = (
        "Test error with one layer reset: 5 rows × 9 columns, from .02 (layer1, 100) to .95 "
        "(fullmodel, 0)."
    )
    assert repr(plots.show(plots.heatmap(ds))) == expected
    assert "unperturbed, layer1, layer2" in repr(plots.show(plots.curves(ds)))
    assert repr(plots.show(plots.overview(ds))).count("rows ×") == 3


def test_a_live_figure_is_a_page_in_a_frame(ds):
    data, _ = plots.show(plots.heatmap(ds.assign_coords(layer=ODD)), live=True)._repr_mimebundle_()
    start, page, rest = re.fullmatch(
        r'(<iframe title="[^"]*" )srcdoc="([^"]*)"([^<>]*></iframe>)', data["text/html"]
    ).groups()
    assert "<script" not in start + rest
    assert Page(html.unescape(page)).loads == []
    assert "image/png" in data


class Shell:
    def __init__(self, hist_file):
        self.kernel = object()
        self.history_manager = type("History", (), {"hist_file": hist_file})()


@pytest.mark.parametrize(
    ("shell", "still", "live"),
    [
        (Shell("/home/me/history.sqlite"), None, True),
        (Shell("/home/me/history.sqlite"), "0", True),
        (Shell("/home/me/history.sqlite"), "1", False),
        (Shell(":memory:"), None, False),
        (None, None, False),
    ],
)
def test_live_only_where_someone_sits(monkeypatch, shell, still, live):
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    if still is None:
        monkeypatch.delenv("LAYERSCOPE_STILL", raising=False)
    else:
        monkeypatch.setenv("LAYERSCOPE_STILL", still)
    assert plots.show(hv.Curve([0, 1])).live is live


def test_papermills_client_still_keeps_history_in_memory():
    # What `show` knows a batch run by; nbclient offers no other mark.
    from nbclient import NotebookClient

    assert NotebookClient.ipython_hist_file.default_value == ":memory:"
