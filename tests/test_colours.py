"""Colours of heat maps: chosen by the user, from good to bad, with ink that can be read on them."""

from __future__ import annotations

import itertools

import holoviews as hv
import matplotlib as mpl
import numpy as np
import pytest
from bokeh.models import ColorBar, LogColorMapper
from bokeh.plotting import figure as figure_model
from matplotlib.colors import to_hex, to_rgb

from layerscope import plots, testing
from layerscope.errors import OptionError
from layerscope.plots import _colours as colours
from layerscope.plots._scales import Scale

# matplotlib's, light, dark, diverging, of one lightness and with few colours; Bokeh's; colorcet's.
MAPS = ["viridis", "gray", "coolwarm", "hsv", "tab10", "Magma", "Category20", "fire", "CET_I1_r",
        ["white", "crimson"], ["#777777", "#757575"], mpl.colormaps["cividis"]]  # fmt: skip


@pytest.fixture(scope="module")
def ds():
    """With values all over the range of colours."""
    found = testing.dataset(layers=12, epochs=(0, 1, 2, 3, 5, 8, 9))
    for name, most in (("error", 1.0), ("loss", 1e4)):
        known = found["value"].loc[{"metric": name}].values
        there = np.isfinite(known)
        known[there] = np.linspace(1e-3, most, there.sum())
    return found


def luminance(colour):
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(first, second):
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def grounds_on_paper(axes):
    """The colour that matplotlib gives each cell (column, row)."""
    mesh = axes.collections[0]
    values = mesh.get_array()
    return {
        (x, y): to_hex(mesh.cmap(mesh.norm(values[y, x])))
        for y, x in itertools.product(*map(range, values.shape))
        if not values.mask[y, x]
    }


def grounds_on_screen(figure):
    """The ink that Bokeh is given for each cell, and the colour that its mapper chooses."""
    source = next(r.data_source for r in figure.renderers if "shown" in r.data_source.data)
    (bar,) = figure.select({"type": ColorBar})
    mapper, count = bar.color_mapper, len(bar.color_mapper.palette)
    scale = np.log if isinstance(mapper, LogColorMapper) else np.asarray
    low, high = scale(mapper.low), scale(mapper.high)
    values = np.asarray(source.data["value"], dtype=float)
    at = np.floor((scale(values) - low) / (high - low) * count)
    inks = source.data["ink"]
    return [
        (inks[cell], mapper.palette[int(np.clip(at[cell], 0, count - 1))])
        for cell in np.flatnonzero(np.isfinite(values))
    ]


@pytest.mark.parametrize("metric", ["error", "loss"])
# No addresses: both test processes must give a case the same name.
@pytest.mark.parametrize("cmap", [None, *MAPS], ids=lambda cmap: getattr(cmap, "name", str(cmap)))
def test_what_is_written_in_every_cell_can_be_read(ds, cmap, metric):
    plot = plots.heatmap(ds, metric, cmap=cmap)
    axes = hv.renderer("matplotlib").get_plot(plot).state.axes[0]
    grounds = grounds_on_paper(axes)
    written = [(text.get_color(), grounds[text.get_position()]) for text in axes.texts]
    live = grounds_on_screen(hv.render(plot, backend="bokeh"))
    assert len(written) == len(live) == 13 * 8
    # WCAG 2.2, level AA.
    assert min(itertools.starmap(contrast, written + live)) >= 4.5


def test_ink_is_legible_on_every_colour_there_is():
    steps = [f"{each:02x}" for each in range(0, 256, 15)]
    every = ["#" + "".join(each) for each in itertools.product(steps, repeat=3)]
    assert min(contrast(colour, colours.ink(colour)) for colour in every) >= 4.5


def test_the_usual_colours_keep_their_order_in_grey():
    grey = [luminance(colour) for colour in colours.shades()]
    assert (np.diff(grey) <= 0).all()


def best_and_worst(plot):
    """The colours on paper of the lowest and of the highest value."""
    axes = hv.renderer("matplotlib").get_plot(plot).state.axes[0]
    values = axes.collections[0].get_array()
    grounds = grounds_on_paper(axes)
    ends = (values.argmin(), values.argmax())
    places = [np.unravel_index(at, values.shape) for at in ends]
    return [grounds[x, y] for y, x in places]


@pytest.mark.parametrize("cmap", ["viridis", ["white", "crimson"]], ids=str)
def test_colours_go_from_good_to_bad_whichever_way_the_metric_does(ds, cmap):
    ends = [colours.shades(cmap)[at] for at in (0, -1)]
    assert best_and_worst(plots.heatmap(ds, "loss", cmap=cmap)) == ends
    mine = ds.assign_coords(higher_is_better=("metric", [True, True]))
    assert best_and_worst(plots.heatmap(mine, "loss", cmap=cmap)) == ends[::-1]


def test_every_map_of_colours_goes_everywhere(ds):
    ends = [to_hex(mpl.colormaps["plasma"](share)) for share in (0.0, 1.0)]
    runs = {"a": ds, "b": testing.dataset()}
    for layout in (plots.overview(ds, cmap="plasma"), plots.compare(runs, cmap="plasma")):
        for figure in hv.render(layout, backend="bokeh").select({"type": figure_model}):
            for bar in figure.select({"type": ColorBar}):
                assert [bar.color_mapper.palette[at] for at in (0, -1)] == ends
        drawn = hv.renderer("matplotlib").get_plot(layout).state
        maps = [each.cmap for axes in drawn.axes for each in axes.collections
                if each.get_array() is not None and axes.get_label() != "<colorbar>"]  # fmt: skip
        assert maps
        assert all([to_hex(each(0.0)), to_hex(each(1.0))] == ends for each in maps)
    assert best_and_worst(plots.distances(ds, cmap="plasma"))[0] == ends[0]


def test_any_map_can_be_reversed_and_a_list_is_gone_through():
    for name in ("viridis", "Magma", "fire"):
        assert colours.shades(f"{name}_r") == colours.shades(name)[::-1]
    found = colours.shades(["white", "#808080", "black"])
    assert (len(found), found[0], found[-1]) == (256, "#ffffff", "#000000")
    assert contrast(found[127], "#808080") < 1.05


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("virids", "no colour map 'virids'. Did you mean 'viridis'"),
        ("VIRIDIS", "Did you mean 'viridis'"),
        ("no such thing at all", "Give a name that matplotlib, Bokeh or colorcet knows"),
        ("", "no colour map ''"),
        ([], "at least two colours"),
        (["white"], "at least two colours"),
        (3, "cmap is 3"),
        (["white", "crimsn"], "'crimsn', which is no colour"),
    ],
)
def test_other_maps_are_refused(ds, wrong, message):
    for draw in (plots.heatmap, plots.distances, plots.overview):
        with pytest.raises(OptionError, match=message):
            draw(ds, cmap=wrong)
    with pytest.raises(OptionError, match=message):
        plots.compare({"a": ds, "b": ds}, cmap=wrong)


def test_what_is_rounded_to_nothing_has_no_sign():
    scale = Scale(-1.0, 1.0, False, 2, ["#ffffff"])
    assert [scale.text(value) for value in (-0.001, 0.001, -0.02, 0.0)] == [
        ".00",
        ".00",
        "-.02",
        "0",
    ]
