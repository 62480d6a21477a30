"""Numbers of one state at a time, and states that are kept and found again."""

from __future__ import annotations

import shutil
import threading

import pytest

from layerscope import LayerExplorer, data, results
from layerscope.core.session import Session
from layerscope.errors import OptionError


def stale(explorer):
    parts = explorer._display._numbers()
    return ["ls-stale" in part._dom_classes for part in parts]


def test_numbers_of_another_state_are_marked_until_the_answer_is_there(explorer, monkeypatch):
    evaluate, held, seen = Session.evaluate, threading.Event(), []

    def slowly(self, *asked):
        for number, estimate in enumerate(evaluate(self, *asked)):
            yield estimate
            seen.append((stale(explorer), explorer.controls.status.text))
            assert number or held.wait(60)

    assert stale(explorer) == [False] * 4
    trained = explorer.controls.cards.value
    monkeypatch.setattr(Session, "evaluate", slowly)
    explorer.state = {"layer1": ("reinitialize", 0)}
    held.set()
    assert explorer.wait(60)
    # The numbers stream in with the first batch; what needs all of them is of the state before.
    assert seen[0] == ([False, True, True, True], "measuring layer1 initial, 40\u00a0%")
    assert stale(explorer) == [False] * 4
    estimate, status = explorer.estimate, explorer.controls.status
    assert status.kind == "info"
    value, change = 100 * estimate.mean("error"), 100 * estimate.change("error")
    assert status.text.startswith(f"layer1 initial: error {value:.2f} %, {change:+.2f} points (125")
    assert explorer.controls.cards.value != trained


def test_what_is_shown_before_the_first_batch_is_of_another_state(explorer, monkeypatch):
    begun, held, evaluate = threading.Event(), threading.Event(), Session.evaluate

    def waits(self, *asked):
        begun.set()
        assert held.wait(60)
        yield from evaluate(self, *asked)

    monkeypatch.setattr(Session, "evaluate", waits)
    explorer.state = {"layer2": "zero"}
    assert begun.wait(60)
    assert stale(explorer) == [True] * 4
    assert explorer.estimate is None
    assert explorer.controls.status.text == "measuring layer2 set to zero, 0\u00a0%"
    held.set()
    assert explorer.wait(60)


def test_as_trained_the_change_is_exactly_nothing(explorer):
    cards = explorer.controls.cards.value
    assert "<span>0 points against trained</span>" in cards
    explorer.state = {"layer1": "zero"}
    explorer.wait(60)
    assert "points against trained (" in explorer.controls.cards.value


def test_kept_states_are_found_again_returned_to_compared_and_deleted(explorer, trained):
    explorer.state = {"layer1": ("reinitialize", 0)}
    explorer.wait(60)
    explorer.keep("first")
    error = explorer.estimate.mean("error")
    explorer.state = {}
    explorer.wait(60)
    explorer.keep("none")
    data, net = explorer._source.data, trained
    explorer.close()
    again = LayerExplorer(net, data, device="cpu")
    again.wait(60)
    table = again.controls.kept
    assert [(row["name"], row["value"], row["now"]) for row in table.rows] == [
        ("first", f"{100 * error:.2f} %", False),
        ("none", f"{100 * again.estimate.mean('error'):.2f} %", True),
    ]
    assert table.rows[1]["change"] == "0"
    again._on_kept({"kind": "return", "name": "first"})
    again.wait(60)
    assert again.state == {"layer1": ("reinitialize", 0)}
    for name in ("first", "none"):
        again._on_kept({"kind": "choose", "name": name})
    assert table.comparison["names"] == ["first", "none"]
    assert ["layer1", "initial", "trained", ""] in table.comparison["rows"]
    again._on_kept({"kind": "delete", "name": "first"})
    assert ([row["name"] for row in table.rows], table.comparison) == (["none"], {})
    assert list(again.dataset.scenario.values) == ["none"]
    kept = results.open_dataset(trained.folder / "kept.nc")
    assert list(kept.scenario.values) == ["none"]
    again.close()


def test_a_dataset_brings_the_states_that_were_kept_in_it(explorer):
    explorer.sweep()
    explorer.wait(120)
    explorer.keep("all trained")
    alone = LayerExplorer(explorer.dataset)
    assert [row["name"] for row in alone.controls.kept.rows] == ["all trained"]
    alone.close()


def test_a_state_that_is_not_measured_is_not_kept(explorer):
    explorer._measurement._latest = None
    with pytest.raises(OptionError, match="not measured yet"):
        explorer.keep("early")


def test_states_of_several_tasks_are_kept_apart_beside_a_run(explorer, trained, few_digits):
    explorer.keep("of the run's own data")
    explorer.close()
    test = few_digits.test
    whole = data.Examples(test.inputs, test.targets % 2, test.mean, test.std)
    tasks = {"even/odd": whole, "digits": test}

    def opened():
        made = LayerExplorer(trained, tasks, device="cpu")
        assert made.wait(60)
        return made, made.controls

    first, parts = opened()
    try:
        assert parts.kept.rows == []
        first.keep("halves")
        where = trained.folder / "kept" / "even%2Fodd.nc"
        assert f"Saved in {where}." in parts.status.text
    finally:
        first.close()
    again, parts = opened()
    try:
        assert [row["name"] for row in parts.kept.rows] == ["halves"]
        again.task = "digits"
        assert again.wait(60)
        assert parts.kept.rows == []
        again.task = "even/odd"
        again._on_kept({"kind": "delete", "name": "halves"})
        assert not where.exists()
    finally:
        again.close()
        shutil.rmtree(where.parent, ignore_errors=True)


def test_buttons_slider_and_selection_follow_a_state_that_python_set(explorer):
    parts = explorer.controls
    explorer._on_strip({"kind": "toggle", "name": "layer3"})
    explorer.state = {"layer2": ("reinitialize", 1)}
    assert (parts.kind.value, parts.epoch.value) == ("reinitialize", 1)
    assert parts.strip.selected == ["layer2"]
    parts.epoch.value = 2  # as one drags it on
    assert explorer.state == {"layer2": ("reinitialize", 2)}
    explorer.state = {"layer1": "zero", "layer2": "zero"}
    assert (parts.kind.value, parts.epoch.value) == ("zero", 2)
    assert parts.strip.selected == ["layer1", "layer2"]
    explorer.state = {"layer1": "zero", "layer3": ("reinitialize", 0)}
    assert (parts.kind.value, parts.epoch.value) == ("zero", 2)  # of two things neither
    for _ in range(3):
        explorer._back(explorer._history.undo)
    assert (parts.kind.value, parts.epoch.value) == ("zero", 2)
    parts.strip.selected = ["layer2"]
    explorer._back(explorer._history.undo)
    assert explorer.state == {"layer3": ("reinitialize", 0)}
    explorer._back(explorer._history.redo)
    assert (parts.kind.value, parts.epoch.value) == ("reinitialize", 1)
    assert explorer.wait(60)
