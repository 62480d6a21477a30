"""Verdicts over a grid of thresholds are those of `classify` at each of them."""

from __future__ import annotations

import pytest

from layerscope import plots, stats, testing
from layerscope.errors import OptionError


@pytest.mark.parametrize("correction", ["holm", "none"])
@pytest.mark.parametrize("pair", [(0.05, 0.25), (0.15, 0.1), (0.01, 0.6)])
def test_each_pair_gives_what_classify_gives(pair, correction):
    ds = testing.dataset(layers=6)
    found = stats.sensitivity(ds, correction=correction)
    there = found["verdict"].sel(robust=pair[0], critical=pair[1])
    table = stats.classify(
        ds, tolerance=pair[0], critical_share=pair[1], correction=correction
    ).set_index("layer")["verdict"]
    assert there.to_series().to_dict() == table.to_dict()
    usual = stats.classify(ds, correction=correction)["verdict"].to_numpy()
    changed = (table.to_numpy() != usual).sum()
    assert found["n_changed"].sel(robust=pair[0], critical=pair[1]) == changed


def test_a_layer_far_from_all_thresholds_never_changes():
    found = stats.sensitivity(testing.dataset(layers=6))
    assert not found["changed"].sel(layer="layer1").any()
    assert found["changed"].any("layer").any()


def test_thresholds_in_the_metrics_unit_need_no_chance():
    ds = testing.dataset()
    with pytest.raises(OptionError, match="what chance gives is not known for 'loss'"):
        stats.sensitivity(ds, "loss")
    found = stats.sensitivity(ds, "loss", tolerances=[0.1, 0.2, 0.3], criticals=[1.0])
    assert (found.attrs["robust"], found.attrs["critical_unit"]) == (0.2, "metric")
    expected = stats.classify(ds, "loss", tolerance=0.3, critical=1.0)["verdict"]
    assert list(found["verdict"].sel(robust=0.3, critical=1.0).values) == list(expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"criticals": [0.1], "critical_shares": [0.2]}, "give one of them"),
        ({"tolerances": []}, "tolerances is"),
        ({"tolerances": [0.1, 0.1]}, "each once"),
        ({"critical_shares": [2.0]}, "critical_share"),
        ({"correction": "hol"}, "correction"),
    ],
)
def test_what_is_no_grid_is_refused(options, match):
    with pytest.raises(OptionError, match=match):
        stats.sensitivity(testing.dataset(), **options)


def test_the_figure_shows_each_layer_as_often_as_it_is_what():
    ds = testing.dataset(layers=3)
    grid, layers = plots.sensitivity(ds)
    table = layers.dframe()
    assert table.groupby("layer")["value"].sum().round(6).eq(1).all()
    found = table.pivot(index="layer", columns="column", values="value")
    assert found.loc["layer1", "critical"] == 1
    verdicts = stats.sensitivity(ds)["verdict"]
    for name in found.index:
        for said in found.columns:
            assert found.loc[name, said] == (verdicts.sel(layer=name) == said).mean(), name
    # The first layer is drawn at the top, and named there.
    picture = plots.drawn(layers, 6.75)
    axes = picture.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()][::-1] == list(verdicts.layer.values)
    assert grid.get(0).dframe()["n_changed"].max() == stats.sensitivity(ds)["n_changed"].max()
