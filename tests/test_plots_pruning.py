"""The figure of a network that loses block after block."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
import xarray as xr

from layerscope import plots, testing
from layerscope.errors import OptionError, ResultError
from layerscope.plots._layout import lay_out

BLOCKS = [f"model.layers.{index}" for index in range(4)]


@pytest.fixture
def path():
    """Two steps of four blocks; the loss rises, and the accuracy falls."""
    value = np.array([[1.0, 0.9], [1.25, 0.8], [2.0, 0.5]])
    worse = np.abs(value - value[0])
    candidate = np.full((3, 4, 2), np.nan)
    candidate[1] = [[3.0, 0.3], [1.5, 0.7], [1.25, 0.8], [np.nan, np.nan]]
    candidate[2] = [[4.0, 0.2], [2.0, 0.5], [np.nan, np.nan], [2.5, 0.4]]
    sides = (("step", "metric"), worse - 0.125), (("step", "metric"), worse + 0.25)
    return xr.Dataset(
        {
            "value": (("step", "metric"), value),
            "degradation": (("step", "metric"), worse),
            "lower": sides[0],
            "upper": sides[1],
            "candidate": (("step", "layer", "metric"), candidate),
        },
        {
            "step": [0, 1, 2],
            "metric": ["loss", "accuracy"],
            "layer": BLOCKS,
            "removed": ("step", ["", BLOCKS[2], BLOCKS[1]]),
            "higher_is_better": ("metric", [False, True]),
        },
    )


def test_the_legend_stands_below_the_names_of_the_blocks(path):
    figure = hv.renderer("matplotlib").get_plot(plots.pruning(path, "loss")).state
    lay_out(figure, 3.25)
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().y1 <= axes.xaxis.get_tightbbox().y0


def test_it_is_the_path_with_what_might_have_been_removed_instead(path):
    plot = plots.pruning(path, "loss")
    line = plot.Curve.Path
    assert line.dimension_values("value").tolist() == path.value.sel(metric="loss").values.tolist()
    others = plot.Scatter.Without_another_block
    assert sorted(others.dimension_values("value").tolist()) == [1.5, 2.5, 3.0, 4.0]
    assert {*others.dimension_values("hover without")} == {"0 instead", "1 instead", "3 instead"}
    ticks = hv.Store.lookup_options("matplotlib", plot, "plot").kwargs["xticks"]
    assert ticks == [(0, "0: none"), (1, "1: 2"), (2, "2: 1")]


@pytest.mark.parametrize(
    ("metric", "ends"), [("loss", (-0.125, 0.25)), ("accuracy", (-0.25, 0.125))]
)
def test_intervals_lie_on_the_side_that_is_worse(path, metric, ends):
    (band,) = [part for part in plots.pruning(path, metric) if isinstance(part, hv.Spread)]
    assert band.dimension_values("below")[1:].tolist() == pytest.approx([-ends[0]] * 2)
    assert band.dimension_values("above")[1:].tolist() == pytest.approx([ends[1]] * 2)


def test_it_is_saved_as_page_and_picture(path, tmp_path):
    for suffix in ("html", "png"):
        assert plots.save(plots.pruning(path), tmp_path / f"path.{suffix}").stat().st_size > 1000
    page = (tmp_path / "path.html").read_text(encoding="utf-8")
    assert "Test loss without blocks, the cheapest first" in page


def test_a_path_of_no_steps_is_drawn(path, tmp_path):
    none = path.isel(step=[0])
    assert plots.save(plots.pruning(none, "loss"), tmp_path / "none.png").stat().st_size > 1000


def test_what_is_no_path_is_named(path):
    with pytest.raises(ResultError, match="step"):
        plots.pruning(testing.dataset())
    with pytest.raises(OptionError, match="perplexity"):
        plots.pruning(path, "perplexity")
