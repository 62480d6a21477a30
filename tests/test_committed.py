"""Every Dataset under papermill_runs opens, is judged and drawn: files outlive the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerscope import plots, report, results, stats

RUNS = Path(__file__).resolve().parents[1] / "papermill_runs"
# Runs that somebody made here may lie beside the committed ones, and are as good.
FILES = sorted(path for path in RUNS.rglob("*.nc") if "series" not in path.parts)
SAMPLE = FILES[:: max(1, len(FILES) // 3)]


@pytest.mark.parametrize(
    "path",
    [each if each in SAMPLE else pytest.param(each, marks=pytest.mark.slow) for each in FILES],
    ids=[str(each.relative_to(RUNS)) for each in FILES],
)
def test_a_committed_dataset_opens_and_is_judged_and_drawn(path, request):
    if path in SAMPLE:
        request.getfixturevalue("without_pictures")
    whole = results.open_dataset(path)
    page = report.page({path.stem: whole})
    for ds in results.parts(whole).values():
        layers = stats.layer_order(ds)
        for metric in map(str, ds["metric"].values):
            known = results.metric(ds, metric).by_chance(0.0) is not None
            table = stats.classify(ds, metric, critical=None if known else 1.0)
            assert set(table["layer"]) <= set(layers)
            assert table["verdict"].isin(["robust", "intermediate", "critical", "undecided",
                                          "not moved", "not finite"]).all()  # fmt: skip
            cells = plots.heatmap(ds, metric).dframe()
            assert set(cells["layer"]) == set(layers)
            values = stats.summary(ds, metric).set_index(["layer", "column"])["value"]
            drawn = cells.dropna(subset="value").set_index(["layer", "column"])["value"]
            assert drawn.to_dict() == values.dropna().to_dict()
        assert report.finding(ds).split(" ")[0] in page
        assert all(layer in page for layer in layers)
