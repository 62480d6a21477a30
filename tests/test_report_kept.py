"""States that were kept stand in the report: those of the Dataset, or beside it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from layerscope import report, results, testing
from layerscope.errors import ResultError

pytestmark = pytest.mark.usefixtures("without_pictures")


def keeping(**states):
    """A Dataset that keeps states: for each name what is done, its error, and the change."""
    ds = testing.dataset(layers=3)
    names = list(states)
    about = [
        json.dumps({"view": "leaf", "state": done, "words": dict.fromkeys(done, "initial")})
        for done, *_ in states.values()
    ]
    of = ("scenario", "metric")
    metrics = len(ds["metric"])
    return ds.merge(
        results.build(
            {
                "scenario_value": (of, [[value] * metrics for _, value, _ in states.values()]),
                "scenario_standard_error": (of, [[0.01] * metrics for _ in names]),
                "scenario_difference": (of, [[moved] * metrics for *_, moved in states.values()]),
                "scenario_state": (("scenario",), about),
            },
            {"scenario": names, "metric": list(ds["metric"].values)},
            {},
        ),
        combine_attrs="override",
    )


TWO = {
    "as <b>trained</b>": ({}, 0.1, 0.0),
    "first two": ({"layer1": ["reinitialize", 0], "layer2": ["reinitialize", 0]}, 0.4, 0.3),
}


def rows(page):
    section = page[page.index("<h3>Kept states</h3>") :]
    body = re.search(r"<tbody>(.*?)</tbody>", section, re.S)[1]
    lines = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line, re.S) for line in lines]
    return [[cell.replace("<wbr>", "") for cell in line] for line in cells]


def test_kept_states_are_a_table_with_bars():
    page = report.page({"net": keeping(**TWO)}, metric="error")
    none, two = rows(page)
    assert none[:4] == ["as &lt;b&gt;trained&lt;/b&gt;", "as trained", "0.1", "0"]
    assert two[:4] == ["first two", "layer1 initial, layer2 initial", "0.4", "+30.0 points"]
    assert ["width: 25px" in none[4], "width: 100px" in two[4]] == [True, True]
    assert "Kept states" not in report.page({"net": testing.dataset()})


def test_states_that_lie_beside_the_sweep_or_the_run_are_found(tmp_path):
    ds = keeping(**TWO)
    run = tmp_path / "run"
    (run / "sweep").mkdir(parents=True)
    results.save(ds.drop_dims("scenario"), run / "sweep" / "sweep.nc")
    kept = results.save(results.scenarios_of(ds), run / results.KEPT)
    (opened,) = report.read([run / "sweep"]).values()
    assert "scenario" not in opened.dims  # no run: nothing says that the two belong together
    (run / "manifest.json").write_text('{"command": "layerscope train"}')
    (opened,) = report.read([run / "sweep"]).values()
    assert list(opened["scenario"].values) == list(TWO)
    (run / "manifest.json").unlink()
    shutil.move(kept, run / "sweep" / results.KEPT)
    (opened,) = report.read([run / "sweep"]).values()  # a folder with one sweep, still
    assert [state.name for state in results.kept_states(opened)] == list(TWO)
    assert len(rows(report.page({"run": opened}, metric="error"))) == 2


def test_what_is_not_finite_says_so_and_has_no_bar():
    page = report.page({"net": keeping(broken=({"layer1": "zero"}, float("nan"), float("nan")))})
    ((_, _, value, moved, bar),) = rows(page)
    assert (value, moved) == ("not finite", "not finite")
    assert "width: 0px" in bar


@pytest.mark.parametrize("said", ["", "[]", '{"state": 3, "view": ""}', "[" * 100_000])
def test_a_state_that_says_nothing_of_itself_is_refused(said):
    ds = keeping(**TWO)
    ds["scenario_state"] = ("scenario", [said, said])
    with pytest.raises(ResultError, match="keep the state again"):
        report.page({"net": ds})
