"""Figures laid out for a width: type keeps its size, what matters keeps its name."""

from __future__ import annotations

import io
import itertools

import holoviews as hv
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from layerscope import plots, results, testing
from layerscope.errors import OptionError
from layerscope.plots import _layout as layout
from layerscope.plots._backends import put_legend_below
from layerscope.plots._clearing import CURVE_NAME, keep_clear
from layerscope.plots._colours import LINES, legible
from layerscope.plots._epochs import epochs_along
from layerscope.plots._names import shorten
from layerscope.plots._printing import name_columns, name_rows
from layerscope.plots._thinning import rows_named


def laid_out(plot, width):
    figure = hv.renderer("matplotlib").get_plot(plot).state
    layout.lay_out(figure, width)
    return figure


def rows(count, epochs=(0, 1, 90)):
    """A deep network, of which two layers side by side in the middle are critical."""
    ds = testing.dataset(count - 1, epochs=epochs)
    at = {"epoch": 0, "perturbation": "reinitialize", "draw": 0, "metric": "error"}
    ds["value"].loc[at] = 0.03
    for name in (f"layer{count // 2}", f"layer{count // 2 + 1}"):
        ds["value"].loc[at | {"layer": name}] = 0.8
    return ds


def names_of(axes, which="y"):
    return [tick.get_text() for tick in getattr(axes, f"get_{which}ticklabels")()]


@pytest.mark.parametrize(
    ("count", "width"),
    [(4, 3.25), (311, 6.75), *(pytest.param(60, w, marks=pytest.mark.slow) for w in (3.25, 6.75))],
)
def test_type_keeps_its_size_and_the_figure_its_page(count, width):
    figure = laid_out(plots.heatmap(rows(count)), width)
    sizes = {
        text.get_fontsize()
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible()
    }
    assert min(sizes) >= 7
    assert max(sizes) <= 8
    box = figure.get_tightbbox()
    assert abs(box.width - width) < 0.06
    assert box.height <= layout.HIGHEST + 0.05


def test_of_many_rows_the_critical_ones_keep_their_names():
    ds = rows(311)
    axes = laid_out(plots.heatmap(ds), 3.25).axes[0]
    named = names_of(axes)
    assert {"layer155", "layer156", "layer1", "fullmodel"} <= set(named)
    # Each has its line, and most rows have no name.
    places = np.array([tick.get_position()[1] for tick in axes.get_yticklabels()])
    high = 72 * axes.get_window_extent().height / axes.figure.dpi / 311
    assert np.diff(places).min() * high >= 7
    assert len(named) < 100
    # Where two lie side by side, lines lead to their names.
    assert any(text.get_gid() and not text.get_text() for text in axes.texts)
    factors = hv.render(plots.heatmap(ds), backend="bokeh").y_range.factors
    assert len(set(factors)) == len(factors) == 311
    kept = {name for name in factors if name.isprintable()}  # others take no room
    assert {"layer1", "fullmodel"} <= kept
    assert kept & {"layer155", "layer156"}
    assert len(kept) < 200


def test_a_curve_that_lies_apart_is_named_where_it_does_among_few_as_well():
    plot = plots.curves(testing.dataset(4))
    (labels,) = (part for part in plot if isinstance(part, hv.Labels))
    told = labels.dframe().set_index("name")
    assert {"layer1"} <= set(told.index) < {"layer1", "layer2", "layer3", "layer4"}
    assert told["value"].idxmax() == "layer1"
    # In the colour of its curve, as text can have it.
    axes = laid_out(plot, 3.25).axes[0]
    inks = {text.get_text(): text.get_color() for text in axes.texts if text.get_text()}
    curve = next(line for line in axes.lines if line.get_label() == "layer1")
    assert inks["layer1"] == legible(curve.get_color())


@pytest.mark.parametrize("colour", [*LINES, "#ffff00", "#000000"])
def test_colours_of_names_can_be_read_on_white(colour):
    dark = np.array(to_rgb(legible(colour)))
    linear = np.where(dark <= 0.04045, dark / 12.92, ((dark + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5
    # No darker than is needed, of the same hue.
    assert legible(legible(colour)) == legible(colour)


def test_the_name_of_a_curve_stands_where_no_curve_runs():
    axes = Figure().subplots()
    axes.plot([0, 1, 2], [0, 1, 0.9])
    axes.plot([1, 2], [1, 2])
    text = axes.text(1, 1, "layer7", gid=CURVE_NAME)
    other = axes.text(1, 1, "layer8", gid=CURVE_NAME)
    axes.set(xlim=(0, 2), ylim=(0, 2))
    keep_clear(axes)
    box = text.get_window_extent()
    for line in axes.lines:
        (x, y), (then, beyond) = axes.transData.transform(line.get_xydata())[[0, 1]]
        along = np.linspace(0, 1, 500)[:, None]
        on = np.array([x, y]) + along * np.array([then - x, beyond - y])
        assert not ((on > box.min) & (on < box.max)).all(axis=1).any()
    assert not box.overlaps(other.get_window_extent())


def test_legends_of_many_runs_are_there():
    profile = plots.compare({f"run {at}": testing.dataset(2) for at in range(8)}).values()[0]
    legend = hv.renderer("matplotlib").get_plot(profile).state.axes[0].get_legend()
    assert len(legend.get_texts()) == 8


def test_names_broken_for_one_width_are_whole_in_another():
    axes = Figure().subplots()
    axes.plot([0, 1], label="BatchNorm_and_weight_decay")
    axes.legend()
    for longest in (8, 11, None):
        put_legend_below(axes, 1, longest)
    assert axes.get_legend().get_texts()[0].get_text() == "BatchNorm_and_weight_decay"


def test_thresholds_have_type_of_seven_points_in_a_column():
    plot = plots.sensitivity(testing.dataset(), tolerances=(0.01, 0.02), criticals=(0.1, 0.2))
    figure = laid_out(plot, 3.25)
    sizes = [each.get_fontsize() for each in figure.findobj(Text) if each.get_text()]
    assert min(sizes) >= 7
    assert figure.get_tightbbox().width <= 3.3


def test_a_figure_can_be_laid_out_again():
    plot = plots.curves(testing.dataset())
    again, fresh = laid_out(plot, 6.75), laid_out(plot, 3.25)
    layout.lay_out(again, 3.25)
    assert again.get_size_inches().tolist() == fresh.get_size_inches().tolist()
    for one, other in zip(again.findobj(Text), fresh.findobj(Text), strict=True):
        assert one.get_text() == other.get_text()
        assert one.get_window_extent().bounds == pytest.approx(other.get_window_extent().bounds)


def test_no_line_leads_to_names_that_are_not_there():
    axes = Figure().subplots()
    order, room = [60, 61, 62], layout.Room(2, 2, 6.75, False)
    for visible in (True, False):
        axes.yaxis.set_visible(visible)
        name_rows(axes, [f"layer{at}" for at in range(100)], order, room, lambda row: row)
        assert bool(axes.texts) == visible


def test_names_of_columns_stand_upright_only_where_they_have_to():
    axes = Figure().subplots()
    for wide, turned in ((3.0, 0), (1.0, 90)):
        room = layout.Room(wide, 2, 6.75, True)
        name_columns(axes, ["news", "dialogue", "code", "mathematics"], room, lambda at: at)
        assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {turned}


def test_long_names_that_differ_in_the_middle_keep_to_their_length():
    names = [f"{at}.blocks.{at}.attention.{end}" for at in range(10) for end in ("query", "value")]
    assert all(len(short) <= 20 for short in shorten(names, 20).values())


def test_words_break_into_lines_of_about_the_same_length():
    assert layout._filled("Test error, one layer reset to 0", 31).split("\n") == [
        "Test error, one", "layer reset to 0",
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [range(100), (0, 1, 2, 3, 8, 40, 90, 100)])
def test_random_values_and_the_first_checkpoint_always_have_their_name(epochs):
    for plot, width in ((plots.heatmap, 3.25), (plots.overview, 6.75)):
        figure = laid_out(plot(testing.dataset(2, epochs=epochs)), width)
        named = names_of(figure.axes[0], "x")
        assert {"rand", "0", str(max(epochs))} <= set(named)
        if len(epochs) == 100:
            assert all(int(name) % 10 == 0 for name in named if name not in ("rand", "99"))


def test_names_that_lie_close_are_told_apart_by_a_line():
    named = rows_named(100, 200.0, [50, 51, 52, 0, 99])
    assert [each.row for each in named if each.row in (50, 51, 52)] == [50, 51, 52]
    apart = np.diff([each.place for each in named]) * 2
    assert (apart >= 7).all()
    assert {0, 99} <= {each.row for each in named}
    assert rows_named(5, 100.0, []) == [(row, float(row)) for row in range(5)]


def test_panels_without_room_beside_stand_below_each_other_with_names_of_their_own():
    figure = laid_out(plots.overview(testing.dataset()), 3.25)
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.yaxis.get_visible() for axes in maps] == [True] * 3
    assert len({round(axes.get_position().y0, 2) for axes in maps}) == 3
    wide = laid_out(plots.overview(testing.dataset()), 6.75)
    beside = [axes for axes in wide.axes if axes.get_title()]
    assert [axes.yaxis.get_visible() for axes in beside] == [True, False, False]
    with pytest.raises(OptionError, match="leaves no room"):
        laid_out(plots.overview(testing.dataset()), 0.9)


def test_titles_of_runs_side_by_side_are_not_clipped(tmp_path):
    long = "fully connected, 3 hidden layers of 256 units on MNIST, without weight decay"
    runs = {f"{long} ({at})": testing.dataset() for at in range(3)}
    figure = laid_out(plots.compare(runs), 6.75)
    whole = figure.get_tightbbox()
    assert whole.width <= 6.8
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    assert [text.get_text().replace("\n", " ") for text in titles][1:] == list(runs)
    boxes = [text.get_window_extent() for text in titles]
    for one, other in itertools.pairwise(boxes):
        assert one.x1 <= other.x0 or one.y0 >= other.y1
    path = plots.save(plots.compare(runs), tmp_path / "compare.png", width="column")
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert abs(image.width / 300 - 3.25) < 0.1


# Colours


def test_relative_values_are_held_against_the_trained_network():
    ds = testing.dataset()
    base, chance = 0.02, float(ds["chance"])
    value = ds["value"].sel(layer="layer2", epoch=0, perturbation="reinitialize", draw=0)
    error = float(value.sel(metric="error"))
    for relative, expected in (
        ("difference", error - base),
        ("damage", (error - base) / (chance - base)),
    ):
        plot = plots.heatmap(ds, relative=relative)
        cell = plot.dframe().set_index(["layer", "column"]).loc[("layer2", "0")]
        assert cell["value"] == pytest.approx(expected)
    # Fitted to single layers that are put back: the whole network and random values are beyond.
    mesh = hv.renderer("matplotlib").get_plot(plot).state.axes[0].collections[0]
    single = plot.dframe().query("layer != 'fullmodel' and column != 'rand'")["value"]
    assert mesh.get_clim() == pytest.approx((0, single.max()))
    right = ds.sel(metric=["error"]).assign_coords(metric=["accuracy"])
    right = right.assign(value=1 - right["value"], baseline=1 - right["baseline"])
    accuracy = plots.heatmap(right.drop_vars("difference"), relative="damage").dframe()
    np.testing.assert_allclose(accuracy["value"], plot.dframe()["value"], atol=1e-12)


def test_bounds_go_with_relative_values():
    ds = results.concat([testing.dataset(seed=seed) for seed in (0, 1, 2)], [0, 1, 2])
    plain, apart = (next(iter(plots.curves(ds, relative=r).Spread)) for r in (None, "difference"))
    for name in ("below", "above"):
        np.testing.assert_allclose(
            plain.dimension_values(name), apart.dimension_values(name), atol=1e-12
        )
    level = next(c for c in plots.curves(ds, relative="damage").Curve if c.label == "unperturbed")
    assert set(level.dimension_values("value")) == {0.0}


def test_limits_are_those_of_the_colours_in_every_plot():
    ds, limits = testing.dataset(), (0.1, 0.5)
    for plot in (
        plots.heatmap(ds, limits=limits),
        plots.distances(ds, limits=limits),
        plots.compare({"a": ds, "b": ds}, limits=limits),
        plots.overview(ds, limits=limits),
    ):
        figure = hv.renderer("matplotlib").get_plot(plot).state
        ranges = {m.get_clim() for axes in figure.axes[:3] for m in axes.collections}
        assert limits in ranges
    bar = hv.renderer("matplotlib").get_plot(plots.heatmap(ds, limits=(0.1, None))).state.axes[1]
    assert (bar._colorbar.extend, bar.get_ylim()) == ("min", (0.1, 1.0))
    axes = hv.renderer("matplotlib").get_plot(plots.curves(ds, limits=limits)).state.axes[0]
    assert axes.get_ylim() == limits
    for wrong in ((0.5, 0.1), (0, 1, 2), "ab", 3, (0, "x"), (0, np.nan)):
        with pytest.raises(OptionError, match="limits"):
            plots.heatmap(ds, limits=wrong)


def test_what_values_are_held_against_must_be_known():
    ds = testing.dataset()
    with pytest.raises(OptionError, match=r"what chance gives.*'difference'"):
        plots.heatmap(ds, "loss", relative="damage")
    with pytest.raises(OptionError, match="Did you mean 'damage'"):
        plots.heatmap(ds, relative="damages")
    bare = ds[["value"]]
    with pytest.raises(OptionError, match="what the trained network gives"):
        plots.heatmap(bare, relative="difference")


# Curves


def test_checkpoints_stand_at_their_epochs():
    even = epochs_along([0, 5, 10, 15])
    np.testing.assert_allclose(np.diff(list(even.places.values())), 7 / 3)
    assert even.broken is None
    far = epochs_along([0, 10, 100, 1000])
    steps = np.diff(list(far.places.values()))
    assert steps[1] == pytest.approx(steps[2])
    assert 0 < far.broken < far.places[10]
    assert epochs_along([3]).places == {3: 0.0}
    assert epochs_along([1, 10, 100]).broken is None


def test_a_hundred_checkpoints_are_named_as_far_as_there_is_room():
    axes = laid_out(plots.curves(testing.dataset(epochs=range(101))), 3.25).axes[0]
    figure = axes.figure
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels() if tick.get_text()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert {"0", "1", "100"} <= set(names_of(axes, "x"))
    assert abs(figure.get_tightbbox().width - 3.25) < 0.06


def test_the_caption_says_what_a_curve_and_its_band_are():
    several = results.concat([testing.dataset(seed=s) for s in range(5)], list(range(5)))
    for ds, said in (
        (several, "mean of 5 runs, band: 95 % interval over seeds"),
        (testing.dataset(), "band: 95 % interval over examples"),
    ):
        figure = hv.renderer("matplotlib").get_plot(plots.curves(ds)).state
        assert figure.axes[0].get_xlabel().split("\n")[1] == said


def test_curves_that_lie_apart_are_named_where_they_do():
    axes = laid_out(plots.curves(rows(60)), 6.75).axes[0]
    told = {text.get_text() for text in axes.texts}
    assert told & {"layer30", "layer31"}
    assert len(told) <= 2
    figure = hv.render(plots.curves(rows(60)), backend="bokeh")
    texts = [each.glyph for each in figure.renderers if type(each.glyph).__name__ == "Text"]
    assert len(texts) == 1


def test_signs_that_no_font_has_are_told_once(tmp_path):
    """Here there may be a font for Chinese or none: a sign of a private area is in none."""
    ds = testing.dataset(layers=2, epochs=(0, 5))
    odd = ds.assign_coords(layer=["στρώμα", "слой \U000f0001", "fullmodel"])
    with pytest.warns(UserWarning, match="no font here has \U000f0001 .*drawn as boxes") as told:
        plots.save(plots.heatmap(odd), tmp_path / "figure.png")
    assert len(told) == 1
    plots.save(plots.heatmap(ds.assign_coords(layer=["στρώμα", "слой", "fullmodel"])),
               tmp_path / "figure.png")  # fmt: skip
