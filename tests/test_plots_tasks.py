"""Layers by task: how much each loses, how they rank, and what is said of the difference."""

from __future__ import annotations

import json

import holoviews as hv
import numpy as np
import pytest

from layerscope import plots, report, results, stats, testing
from layerscope.errors import OptionError, ResultError
from layerscope.report._across import differing

pytestmark = pytest.mark.usefixtures("without_pictures")

NAMES = ["model.layers.0", "model.layers.1", "model.layers.2"]
NEWS, CODE = [0.5, 0.3, 0.1], [0.1, 0.32, 0.3]


def task(damage, error=0.01):
    """Make one whose layers do this damage when they are reset to checkpoint 0."""
    ds = testing.dataset(layers=3, epochs=(0, 5)).copy(deep=True)
    ds = ds.assign_coords(layer=[*NAMES, "fullmodel"])
    at = {"epoch": 0, "perturbation": "reinitialize", "draw": 0, "metric": "error"}
    ds["difference"].loc[at] = [*damage, 0.8]
    ds["value"].loc[at] = np.array([*damage, 0.8]) + 0.02
    ds["difference_standard_error"].loc[at] = error
    return ds


def joined(**each):
    return results.join([({"task": name}, ds) for name, ds in each.items()])


@pytest.fixture
def ds():
    return joined(news=task(NEWS), code=task(CODE))


def drawn(plot):
    return hv.renderer("matplotlib").get_plot(plot).state


def cells(plot):
    return plot.dframe().set_index(["layer", "column"])


def test_damage_stands_by_layer_and_task(ds):
    found = cells(plots.tasks(ds))
    assert found["value"].unstack()["code"][NAMES].tolist() == pytest.approx(CODE)
    assert found.loc[(NAMES[0], "news"), "hover rank, 1 is worst"] == "1"
    assert found.loc[(NAMES[0], "code"), "hover rank, 1 is worst"] == "3"
    # The whole network would leave no colours for its layers.
    assert set(found.index.get_level_values("layer")) == set(NAMES)
    figure = drawn(plots.tasks(ds))
    assert figure.axes[0].get_ylabel() == "layer in model.layers"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["news", "code"]


def test_tasks_without_a_metric_in_common_are_coloured_by_rank():
    plot = plots.tasks(joined(news=task(NEWS).sel(metric=["error"]),
                              code=task(CODE).sel(metric=["loss"])))  # fmt: skip
    found = cells(plot)
    assert found["value"].unstack()["news"][NAMES].tolist() == [1, 2, 3]
    assert found.loc[(NAMES[1], "code"), "hover measured by"] == "loss"
    # The worst is the darkest.
    assert found.loc[(NAMES[0], "news"), "ink"] == "#ffffff"
    assert found.loc[(NAMES[2], "news"), "ink"] == "#000000"


def test_what_a_task_lacks_is_blank_and_says_why(ds):
    ds["value"].loc[{"task": "code", "layer": NAMES[1]}] = np.nan
    ds["value"].loc[{"task": "news", "layer": NAMES[2]}] = np.nan
    told = ds.assign_attrs(refused=json.dumps({f"{NAMES[1]} reinitialize": "no weights"}))
    found = cells(plots.tasks(told.assign_attrs(runs="[]")))
    assert found.loc[(NAMES[1], "code"), "blank"] == "refused"
    assert found.loc[(NAMES[1], "code"), "hover value"] == "can't be computed: no weights"
    assert found.loc[(NAMES[2], "news"), "blank"] == "open"


def test_what_has_no_tasks_or_too_much_is_refused(ds):
    with pytest.raises(ResultError, match="has no tasks"):
        plots.tasks(task(NEWS))
    each = [({"task": t, "model_epoch": e}, task(NEWS)) for t in ("a", "b") for e in (2, 5)]
    with pytest.raises(ResultError, match=r"choose one: \.sel\(model_epoch=5\)"):
        plots.tasks(results.join(each))
    with pytest.raises(OptionError, match=r"'skip'\. They share: rand, 0, 5"):
        plots.tasks(ds, column="skip")
    with pytest.raises(ResultError):
        plots.rankings(ds)


def test_crossings_that_are_more_than_chance_have_a_dot(ds):
    found = stats.ranking_difference(ds, repeats=100)
    plot = plots.rankings(found)
    # Lines, what is sure of them, ranks, crossings: 0 falls below both; 1 and 2 stay in doubt.
    ((_, lines), (_, ranks), (_, crosses)) = [
        (type(part), part) for part in plot if isinstance(part, (hv.Points, hv.Segments))
    ]
    assert sorted(crosses.dframe()["hover change places"]) == [
        f"{NAMES[0]} and {NAMES[1]}",
        f"{NAMES[0]} and {NAMES[2]}",
    ]
    assert len(lines) == 3
    assert ranks.dframe().groupby("hover task")["hover rank"].apply(list)["code"] == ["3", "1", "2"]
    # Where they cross lies on both lines: 0 goes from place 3 to 1, and 1 from 2 to 3.
    at = crosses.dframe().set_index("hover change places").loc[f"{NAMES[0]} and {NAMES[1]}"]
    assert at["x"] == pytest.approx(1 / 3)
    assert at["y"] == pytest.approx(3 - 2 / 3)
    figure = drawn(plot)
    left = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert left == ["2", "1", "0"]
    (right,) = figure.axes[0].child_axes
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["0", "2", "1"]
    assert len(hv.render(plot, backend="bokeh").right) == 1


def test_without_any_it_says_so():
    flat = stats.ranking_difference(joined(a=task(NEWS, 1.0), b=task(CODE, 1.0)), repeats=100)
    plot = plots.rankings(flat)
    assert not [part for part in plot if isinstance(part, hv.Segments)]
    assert "no two change places" in drawn(plot).axes[0].get_xlabel()


def test_the_difference_in_words(ds):
    (words,) = differing(stats.ranking_difference(ds, repeats=100))
    assert words.startswith("news and code rank the layers differently: Spearman -0.50 (95 % ")
    assert "2 pairs of layers change places" in words
    assert f"{NAMES[0]} and {NAMES[2]}" in words
    flat = stats.ranking_difference(joined(a=task(NEWS, 1.0), b=task(CODE, 1.0)), repeats=100)
    (words,) = differing(flat)
    assert "rank alike as far as can be told" in words


def test_a_report_sets_tasks_and_trained_networks_side_by_side():
    each = [
        ({"task": name, "model_epoch": epoch}, testing.dataset(2, range(epoch + 1)))
        for name in ("<news>", "code")
        for epoch in (1, 8)
    ]
    page = report.page({"net": results.join(each)})
    assert "<h2>net, model_epoch 8: by task</h2>" in page
    assert "By &lt;news&gt; and by code layers rank alike" in page
    assert "<h2>net, task code: over training</h2>" in page
    assert "Critical to the last: layer1 since epoch 1, layer2 since epoch 1." in page
    assert "<news>" not in page
