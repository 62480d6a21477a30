"""Not finite is a state of its own wherever results are shown: no value, nor "not computed"."""

from __future__ import annotations

import re
from types import SimpleNamespace

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import torch
from bokeh.models import GlyphRenderer
from torch import nn

from layerscope import plots, report, results, stats, testing
from layerscope.cli import main
from layerscope.core.session import Session
from layerscope.jupyter import _drawing as drawing, _heat as heat, _words as words
from layerscope.plots._finishing import BLANK, CROSSED

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def ds():
    """layer1 at 0 and layer2 at 2 are NaN, layer3 at 3 infinite, layer4 at 8 not computed."""
    ds = testing.dataset()
    count = ds["value"].isel(metric=0, drop=True) * 0
    for layer, epoch, loss, outputs in (
        ("layer1", 0, np.nan, 10_000),
        ("layer2", 2, np.nan, 10_000),
        ("layer3", 3, np.inf, 0),
        ("layer4", 8, np.nan, np.nan),
    ):
        at = {"layer": layer, "epoch": epoch, "perturbation": "reinitialize", "draw": 0}
        count.loc[at] = outputs
        ds["value"].loc[at | {"metric": "loss"}] = loss
        # NaN names nothing, so that every example counts as an error.
        if outputs:
            ds["value"].loc[at | {"metric": "error"}] = 1.0 if outputs > 0 else np.nan
    return ds.assign(not_finite=count)


def drawn(plot, backend):
    return hv.renderer(backend).get_plot(plot)


def cells(plot):
    return plot.dframe().set_index(["layer", "column"])


def test_a_heat_map_crosses_out_what_is_not_finite(ds):
    loss = cells(plots.heatmap(ds, "loss"))
    crossed = [("layer3", "3"), ("layer2", "2"), ("layer1", "0")]
    assert list(loss.index[loss["crossed"] != ""]) == crossed
    first = loss.loc[("layer1", "0"), ["blank", "shown", "hover value"]]
    assert first.tolist() == ["broken", "NaN", "NaN"]
    assert loss.loc[("layer3", "3"), ["blank", "shown"]].tolist() == ["", "inf"]
    assert loss.loc[("layer4", "8"), ["blank", "hover value"]].tolist() == ["open", "not computed"]
    assert loss.loc[("layer1", "0"), "hover outputs"] == "not finite"
    error = cells(plots.heatmap(ds, "error"))
    assert error.loc[("layer1", "0"), ["shown", "crossed"]].tolist() == ["1.00", "crossed"]
    # A plain result says nothing of it.
    plain = drawn(plots.heatmap(testing.dataset()), "matplotlib").handles["axis"]
    assert "crossed:" not in plain.get_xlabel()


def test_it_is_crossed_out_on_paper_and_on_the_screen(ds):
    axes = drawn(plots.heatmap(ds, "loss"), "matplotlib").handles["axis"]
    crossed = [box for box in axes.patches if box.get_hatch() == "xxx"]
    assert len(crossed) == 3
    assert {text.get_text() for text in axes.texts} >= {"NaN", "inf"}
    assert "crossed: outputs or value not finite" in axes.get_xlabel()
    assert "hatched: not computed" in axes.get_xlabel()
    live = drawn(plots.heatmap(ds, "loss"), "bokeh")
    assert sorted(live.handles["crossed"].data["shown"]) == ["NaN", "NaN", "inf"]
    assert live.handles["no_number"].data["layer"] == ["layer2", "layer1"]
    assert live.handles["blank"].data["layer"] == ["layer4"]


def test_curves_break_with_a_cross_instead_of_joining_over_it(ds):
    overlay = plots.curves(ds, "loss")
    axes = drawn(overlay, "matplotlib").handles["axis"]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert [int(place) for place in np.flatnonzero(np.isnan(lines["layer2"]))] == [2]
    assert [int(place) for place in np.flatnonzero(np.isnan(lines["layer3"]))] == [3]
    # What was not computed is a gap as well, without a cross.
    assert [int(place) for place in np.flatnonzero(np.isnan(lines["layer4"]))] == [4]
    crosses = next(s for s in overlay.Scatter if s.label.startswith("not finite"))
    assert [round(place, 1) for place in crosses["place"]] == [0.0, 1.8, 2.4]
    highest = np.nanmax([np.nanmax(y) for name, y in lines.items() if name != "unperturbed"])
    assert (crosses["value"] > highest).all()
    # So do the bands of layers 1 to 3, and of 4.
    bands = [band.dimension_values("value") for band in overlay.Spread]
    assert sum(bool(np.isnan(values).any()) for values in bands) == 4
    # An error has a value there, on which the cross stands.
    error = next(s for s in plots.curves(ds, "error").Scatter if s.label.startswith("not finite"))
    assert error["value"].tolist() == [1.0, 1.0]


def test_runs_side_by_side_show_it(ds):
    layout = plots.compare({"a": ds, "b": testing.dataset()}, "loss", column=0)
    figure = drawn(layout, "matplotlib").state
    hatched = [b for axes in figure.axes for b in axes.patches if b.get_hatch() == "xxx"]
    assert len(hatched) == 3
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[0].endswith("(thin line: unperturbed; ✕: not finite)")
    assert labels[1:3] == [f"{CROSSED}\n{BLANK['open']}", ""]
    # BokehJS takes colours as lists only, empty ones too: with an array it draws nothing at all.
    sources = [
        each.data_source.data["ground"]
        for each in drawn(layout, "bokeh").state.select({"type": GlyphRenderer})
        if "ground" in each.data_source.data
    ]
    assert sorted((type(each).__name__, len(each)) for each in sources) == [
        ("list", 0),
        ("list", 3),
    ]


def test_an_infinite_run_breaks_the_line_of_means_and_keeps_its_place():
    table = pd.DataFrame({"width": [8, 16, 16, 32], "perplexity": [10.0, 11.0, np.inf, 9.0]})
    overlay = plots.points(table, "width", "perplexity")
    mean = next(iter(overlay.Curve))
    assert mean.dimension_values("width").tolist() == ["8", "16", "32"]
    np.testing.assert_array_equal(mean.dimension_values("perplexity"), [10.0, np.nan, 9.0])
    crosses = next(s for s in overlay.Scatter if s.label == "infinite")
    assert crosses.dimension_values("width").tolist() == ["16"]


def test_a_report_says_it_in_sentence_table_and_comparison(ds):
    assert "1 is not finite" in report.finding(ds, "loss", critical=1.0)
    page = report.page({"a": ds, "b": testing.dataset()}, metric="loss", critical=1.0)
    assert '<span class="verdict not-finite">not finite</span>' in page
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    assert "not computed" not in text
    assert "undecided not finite" in " ".join(text.split())
    broken = ds.assign(baseline=ds["baseline"] * np.nan)
    assert "the test loss is not finite" in report.finding(broken, "loss", critical=1.0)


def test_the_terminal_shows_it(ds, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    results.save(ds, tmp_path / "ds.nc")
    assert main(["show", str(tmp_path / "ds.nc"), "--metric", "loss"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│ layer" in line}
    assert (rows["layer1"].count("NaN"), rows["layer3"].count("inf")) == (1, 1)
    assert ("–" in rows["layer4"], "NaN" in rows["layer4"]) == (True, False)
    assert "red: outputs or value not finite; –: not computed" in " ".join(shown.split())


def test_the_explorers_strip_and_grid_show_it(ds):
    table, info = stats.summary(ds, "loss"), results.metric(ds, "loss")
    _, columns, lines = heat.cells(ds, table, "loss", ["layer1", "layer4"])
    first, unknown = lines[0][columns.index("0")], lines[1][columns.index("8")]
    assert (first["text"], first["crossed"]) == ("NaN", "crossed")
    assert "loss NaN, not finite" in first["tip"]
    assert unknown == {}
    layer = SimpleNamespace(name="layer1", module_type="Linear", size=9, stage="", block="")
    (block,) = drawing.blocks([layer], {}, table, {}, info)
    assert (block["badge"], "not finite" in block["tip"]) == ("✕", True)
    assert {"kind": "sign", "text": "✕ not finite"} in drawing.legend([block], table, info)


def test_the_explorers_numbers_say_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    broken = {name: t * 1e38 for name, t in net.state_dict().items()}
    pair = torch.ones(6, 4), torch.zeros(6, dtype=torch.long)
    series = {0: broken, 1: {name: t.clone() for name, t in net.state_dict().items()}}
    with Session(net, pair, checkpoints=series, device="cpu") as session:
        readings = words.readings(session.measure({"fullmodel": ("reinitialize", 0)}))
    rows = {row.metric: row for row in readings}
    assert (rows["loss"].value, rows["loss"].interval) == ("not finite", "")
    assert rows["loss"].change == "not finite"
