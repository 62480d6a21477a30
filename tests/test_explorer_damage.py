"""Checkpoints that can't be read do not keep the explorer from opening."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import layerscope
from layerscope import LayerExplorer, checkpoints, models
from layerscope.errors import CheckpointError
from layerscope.jupyter import prepare


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run with epochs 0, 1 and 2."""
    return Path(shutil.copytree(trained.folder, tmp_path / "run"))


def file_of(run, epoch):
    return run / f"epoch-{epoch:04}.safetensors"


def cut_short(run, epoch):
    file = file_of(run, epoch)
    os.truncate(file, file.stat().st_size // 2)
    return file


def status(explorer):
    return explorer.controls.status.kind, explorer.controls.status.text


@pytest.fixture
def opened():
    made = []

    def open_(*source, **given):
        made.append(LayerExplorer(*source, **{"device": "cpu", "batch_size": 50, **given}))
        assert made[-1].wait(120)
        return made[-1]

    yield open_
    for explorer in made:
        explorer.close()


def test_a_truncated_checkpoint_is_left_out_and_marked(run, few_digits, opened):
    torn = cut_short(run, 1)
    explorer = opened(run, few_digits.test)
    title = explorer.controls.title.value
    assert "1 of 3 checkpoints can&#39;t be read, and is left out: epoch 1 (" in title
    assert str(torn) in title
    labels = [label for label, _ in explorer.controls.epoch.options]
    assert labels == ["0", "1 (can't be read)", "2"]
    explorer.sweep()
    assert explorer.wait(120)
    grid = explorer.controls.grid
    assert grid.columns == ["rand", "0", "1", "2"]
    assert list(grid.notes) == ["1"]
    assert str(torn) in grid.notes["1"]
    assert all("text" in row[1] and "text" in row[3] for row in grid.cells)
    for name, row in zip(grid.rows, grid.cells, strict=True):
        assert row[2]["refused"]
        assert row[2]["tip"].startswith(f"{name}, 1: checkpoint 1 can't be read: {torn}")
    assert 1 not in explorer.dataset.epoch.values
    # What is sound is as in a run whose every checkpoint is.
    explorer._on_cell({"kind": "cell", "row": "layer1", "column": "0", "seq": 1})
    assert explorer.wait(60)
    swept = explorer.dataset.value.sel(layer="layer1", epoch=0, perturbation="reinitialize", draw=0)
    assert explorer.estimate.mean("error") == float(swept.sel(metric="error"))
    assert 'damaged="leave out"' in explorer.code


@pytest.mark.parametrize("how", ["cell", "slider", "state"])
def test_a_cell_of_it_refuses_with_the_reason(run, few_digits, opened, how):
    torn = cut_short(run, 1)
    explorer = opened(run, few_digits.test)
    explorer.sweep()
    assert explorer.wait(120)
    if how == "cell":
        explorer._on_cell({"kind": "cell", "row": "layer2", "column": "1", "seq": 1})
    elif how == "slider":
        explorer.controls.strip.selected = ["layer2"]
        explorer.controls.epoch.value = 1
    else:
        explorer.state = {"layer2": ("reinitialize", 1)}
    assert explorer.wait(60)
    assert explorer.state == {"layer2": ("reinitialize", 1)}
    kind, said = status(explorer)
    assert kind == "error"
    assert said.startswith(f"the checkpoint of epoch 1 can't be read: {torn}")
    assert said.endswith("or choose another checkpoint; Undo goes back.")
    assert explorer.estimate is None
    assert "could not be measured" in explorer.controls.cards.value
    explorer.controls.undo.click()
    assert explorer.wait(60)
    assert explorer.estimate.final


def test_a_checkpoint_of_another_network_is_left_out(trained, few_digits, opened):
    other = models.build("fcn-2x8").state_dict()
    net = models.rebuild(trained)
    states = {epoch: trained.read(epoch) for epoch in (0, 2)}
    explorer = opened(net, few_digits.test, {**states, 1: other})
    assert "does not fit the network: of another shape" in explorer.controls.title.value
    explorer.state = {"layer1": ("reinitialize", 1)}
    assert explorer.wait(60)
    assert "epoch 1 can't be read: the checkpoint of epoch 1 does not fit" in status(explorer)[1]
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(60)
    assert explorer.estimate.final


def test_presets_and_clicks_go_back_to_the_first_that_can_be_read(run, few_digits, opened):
    cut_short(run, 0)
    explorer = opened(run, few_digits.test)
    explorer._on_strip({"kind": "toggle", "name": "layer1", "seq": 1})
    assert explorer.state == {"layer1": ("reinitialize", 1)}
    explorer.controls.preset.value = "reset all layers"
    assert set(explorer.state.values()) == {("reinitialize", 1)}
    assert explorer.wait(60)
    assert explorer.estimate.final


def test_a_file_that_is_not_the_recorded_one_is_marked_once_it_was_read(run, few_digits, opened):
    sweep = layerscope.sweep(
        models.rebuild(checkpoints.open_series(run)), few_digits.test, checkpoints=run,
        device="cpu", show_progress=False,
    )  # fmt: skip
    content = bytearray(file_of(run, 1).read_bytes())
    content[-1] ^= 1
    file_of(run, 1).write_bytes(content)
    explorer = opened(run, few_digits.test, dataset=sweep)
    assert "is not the file that was recorded" in explorer.controls.title.value
    grid = explorer.controls.grid
    assert list(grid.notes) == ["1"]
    # What was measured before stays, and says that it can't be again.
    cell = grid.cells[0][grid.columns.index("1")]
    assert "text" in cell
    assert "can't be measured again: checkpoint 1 can't be read" in cell["tip"]
    assert [label for label, _ in explorer.controls.epoch.options][1] == "1 (can't be read)"
    explorer._on_cell({"kind": "cell", "row": "layer1", "column": "1", "seq": 1})
    assert explorer.wait(60)
    assert status(explorer)[0] == "error"


def test_without_the_trained_network_nothing_can_be_explored(run, few_digits):
    torn = cut_short(run, 2)
    with pytest.raises(CheckpointError) as caught:
        LayerExplorer(run, few_digits.test, device="cpu")
    assert str(caught.value).startswith("the last checkpoint, 2, is the trained network, and can't")
    assert str(torn) in str(caught.value)
    for epoch in (0, 1):
        cut_short(run, epoch)
    with pytest.raises(CheckpointError, match="can't be read"):
        LayerExplorer(run, few_digits.test, device="cpu")


def test_the_command_prepares_a_run_with_a_damaged_checkpoint(run, tmp_path):
    cut_short(run, 1)
    assert prepare(run, tmp_path / "books").is_file()


@pytest.mark.parametrize("damage", ["cut", "gone", "shape"])
def test_a_sweep_refuses_before_it_starts(run, few_digits, damage):
    network = models.rebuild(checkpoints.open_series(run))
    states = {epoch: file_of(run, epoch) for epoch in range(3)}
    if damage == "cut":
        cut_short(run, 1)
    elif damage == "gone":
        states[1].unlink()
    else:
        states[1] = {"layer1.weight": torch.zeros(3, 3)}
    ran = []
    network.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(CheckpointError) as caught:
        layerscope.sweep(network, few_digits.test, checkpoints=states, show_progress=False)
    assert not ran
    assert "epoch 1" in str(caught.value) or str(file_of(run, 1)) in str(caught.value)
    with pytest.raises(CheckpointError):
        checkpoints.audit(states, network, show_progress=False)
    # Who wants the others all the same says so.
    series = checkpoints.open_series(states, damaged="leave out").fit(network)
    assert (series.epochs, list(series.damaged)) == ((0, 2), [1])
    ds = layerscope.sweep(
        network, few_digits.test, checkpoints=series, device="cpu", show_progress=False
    )
    assert [epoch for epoch in ds.epoch.values if epoch >= 0] == [0, 2]
    with pytest.raises(CheckpointError, match=r"of epoch 1 can't be read: "):
        layerscope.sweep(
            network, few_digits.test, checkpoints=series, epochs=[0, 1], show_progress=False
        )
