"""A state that is refused, fails or is not finite shows as that, wherever it is shown."""

from __future__ import annotations

import pytest
import torch

from layerscope import LayerExplorer, models, testing
from layerscope.core.session import Session


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    net, start = (models.build("fcn-2x8", seed=n, inputs=(4,), classes=2) for n in (0, 1))
    states = {0: start.state_dict(), 1: net.state_dict()}
    pair = torch.randn(60, 4), torch.arange(60) % 2
    made = LayerExplorer(net, pair, states, device="cpu", batch_size=20)
    assert made.wait(300)
    yield made
    made.close()


def status(explorer):
    return explorer.controls.status.kind, explorer.controls.status.text


def block(explorer, name="layer1"):
    return next(each for each in explorer.controls.strip.blocks if each["name"] == name)


def does(explorer, state):
    explorer.state = state
    assert explorer.wait(300)


def signs(explorer):
    return [each["text"] for each in explorer.controls.strip.legend if each["kind"] == "sign"]


def test_what_is_refused_is_marked_with_the_reason_until_something_else_is_asked(explorer):
    does(explorer, {"layer1": "skip"})
    kind, said = status(explorer)
    assert (kind, said.startswith("layer1 can't be skipped: ")) == ("error", True)
    shown = block(explorer)
    assert shown["badge"] == "⊘"
    assert shown["trouble"] == f"can't be computed: {said}"
    assert shown["tip"].endswith(shown["trouble"])
    assert "trouble" not in block(explorer, "layer2")
    assert signs(explorer) == ["⊘ now: can't be computed"]
    cell = explorer.controls.grid.trouble
    assert (cell["row"], cell["column"], cell["kind"]) == ("layer1", "skip", "refused")
    assert said in cell["why"]
    does(explorer, {"layer1": "zero"})
    assert "trouble" not in block(explorer)
    assert explorer.controls.grid.trouble == {}
    assert signs(explorer) == []


def test_what_fails_is_marked_as_failed_and_asked_again_it_is_not(explorer, monkeypatch):
    def fails(*_):
        raise RuntimeError("the device is <lost>")

    monkeypatch.setattr(Session, "evaluate", fails)
    does(explorer, {"layer1": ("reinitialize", 0)})
    assert status(explorer) == ("error", "RuntimeError: the device is <lost>")
    assert block(explorer)["badge"] == "!"
    cell = explorer.controls.grid.trouble
    assert (cell["column"], cell["kind"]) == ("0", "failed")
    assert cell["why"] == "failed: RuntimeError: the device is <lost>"
    assert explorer.estimate is None
    # Of several layers no cell of the heat map is the state.
    does(explorer, {"layer1": "zero", "layer2": "zero"})
    assert [block(explorer, name)["badge"] for name in ("layer1", "layer2")] == ["!", "!"]
    assert explorer.controls.grid.trouble == {}
    monkeypatch.undo()
    explorer._ask()
    assert explorer.wait(300)
    assert "trouble" not in block(explorer)
    assert explorer.estimate.final


def test_an_answer_that_is_not_finite_says_so(explorer):
    network = explorer._backend.session.subject.model
    handle = dict(network.named_modules())["layer1"].register_forward_hook(
        lambda _, __, out: out * float("nan")
    )
    try:
        does(explorer, {"layer2": "zero"})
    finally:
        handle.remove()
    kind, said = status(explorer)
    assert kind == "warning"
    assert "; not finite: outputs are NaN for 60 of 60 examples; " in said
    assert "not finite points" not in said
    assert block(explorer, "layer2")["badge"] == "✕"
    assert explorer.controls.grid.trouble["kind"] == "crossed"


def test_a_sweep_that_fails_says_so_until_the_next_begins(explorer):
    backend, sweep = explorer._backend, explorer._backend.sweep

    def fails(*_):
        raise RuntimeError("no memory <left>")

    backend.sweep = fails
    explorer.controls.start.click()
    assert explorer.wait(300)
    does(explorer, {"layer1": "zero"})  # whose answer takes the status line
    assert (
        "The sweep stopped: RuntimeError: no memory &lt;left&gt;" in explorer.controls.title.value
    )
    assert explorer.controls.left.value == "stopped"
    backend.sweep = sweep
    explorer.controls.start.click()
    assert explorer.wait(300)
    assert "The sweep stopped" not in explorer.controls.title.value


def test_another_view_hides_the_heat_map_and_says_so(explorer):
    explorer.sweep()
    assert explorer.wait(300)
    assert explorer.controls.grid.rows
    explorer.controls.view.value = "block"
    assert explorer.wait(300)
    assert explorer.controls.grid.rows == []
    assert status(explorer)[1].endswith(
        "The heat map is of the view leaf, and is hidden: the view block is not swept; Sweep fills "
        "it."
    )
    explorer.controls.view.value = "leaf"
    assert explorer.wait(300)
    assert explorer.controls.grid.rows
    assert "hidden" not in status(explorer)[1]


def test_a_dataset_alone_stays_in_its_view():
    explorer = LayerExplorer(testing.dataset())
    explorer.controls.view.value = "block"
    assert explorer.controls.view.value == "leaf"
    assert "one view" in status(explorer)[1]
    explorer.close()
