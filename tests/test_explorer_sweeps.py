"""The explorer of a run begins with what was swept of it, and any of its sweeps can be shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import layerscope
from layerscope import LayerExplorer, checkpoints, models, results
from layerscope.errors import OptionError
from layerscope.jupyter import _explorer, _progress


@pytest.fixture(scope="module")
def swept(trained, few_digits, tmp_path_factory):
    """A run with sweeps as the command and as experiments leave them; one is damaged."""
    run = Path(shutil.copytree(trained.folder, tmp_path_factory.mktemp("runs") / "run"))
    given = models.rebuild(checkpoints.open_series(run)), few_digits.test
    (run / results.KEPT).unlink(missing_ok=True)  # of other tests
    quiet = {"checkpoints": run, "device": "cpu", "show_progress": False}
    layerscope.sweep(*given, **quiet, out=run / "sweep", epochs=[0, 2])
    layerscope.sweep(
        *given, **quiet, out=run / "sweeps" / "3fa9", view="block", perturbations=["zero"],
        metrics=["loss"],
    )  # fmt: skip
    (run / "sweeps" / "0000").mkdir()
    (run / "sweeps" / "0000" / "sweep.nc").write_bytes(b"\x89HDF\r\n\x1a\n cut short")
    (run / "sweeps" / "begun").mkdir()
    return run


@pytest.fixture
def explorer(swept, few_digits):
    made = LayerExplorer(swept, few_digits.test, device="cpu", batch_size=50)
    assert made.wait(120)
    yield made
    made.close()


def chosen(explorer, label):
    explorer.controls.swept.value = label
    assert explorer.wait(120)


def test_every_sweep_of_a_run_can_be_shown(explorer, swept):
    parts = explorer.controls
    leaf, block = parts.swept.options
    assert leaf == "leaf: reinitialize, rerandomize; 2 checkpoints; error, loss"
    assert block == "block: zero; loss (sweeps/3fa9)"
    assert (parts.swept.value, parts.swept.layout.display) == (leaf, None)
    assert explorer.dataset.identical(results.open_dataset(swept / "sweep"))
    assert parts.grid.columns == ["rand", "0", "2"]
    assert "Sweeps that can&#39;t be shown: sweeps/0000 (" in parts.title.value
    explorer.state = {"layer1": ("reinitialize", 0)}
    chosen(explorer, block)
    assert (parts.view.value, parts.grid.columns) == ("block", ["zero"])
    assert parts.grid.title.startswith("Test loss with one layer")
    assert explorer.dataset.identical(results.open_dataset(swept / "sweeps" / "3fa9"))
    assert parts.status.text.startswith("layer1 initial: loss ")
    chosen(explorer, leaf)
    assert (parts.view.value, parts.grid.columns) == ("leaf", ["rand", "0", "2"])
    assert explorer.state == {"layer1": ("reinitialize", 0)}
    assert explorer.dataset.identical(results.open_dataset(swept / "sweep"))


def test_what_is_swept_in_the_page_stands_beside_the_others(explorer):
    leaf, block = explorer.controls.swept.options
    explorer.sweep(again=True)
    assert explorer.wait(120)
    assert explorer.controls.swept.options == (leaf, block, "swept here")
    assert explorer.controls.swept.value == "swept here"
    assert explorer.controls.grid.columns == ["rand", "0", "1", "2"]
    chosen(explorer, leaf)
    assert explorer.controls.grid.columns == ["rand", "0", "2"]
    chosen(explorer, "swept here")
    assert explorer.controls.grid.columns == ["rand", "0", "1", "2"]


def test_it_begins_with_a_sweep_of_the_view_that_is_asked_for(swept, few_digits):
    with_blocks = LayerExplorer(swept, few_digits.test, device="cpu", view="block")
    assert with_blocks.controls.swept.value.startswith("block: zero")
    assert with_blocks.controls.grid.columns == ["zero"]
    with_blocks.close()
    one = results.open_dataset(swept / "sweep")
    given = LayerExplorer(swept, few_digits.test, device="cpu", dataset=one)
    assert given.controls.swept.options[0] == "as it was given"
    assert given.dataset is one
    given.close()


def test_it_begins_with_a_sweep_that_has_the_metric_or_with_none(swept, few_digits):
    asked = {"device": "cpu", "metrics": ["loss", "accuracy"]}
    with_loss = LayerExplorer(swept, few_digits.test, view="block", metric="loss", **asked)
    assert with_loss.controls.swept.value.startswith("block: zero")
    with_loss.close()
    live = LayerExplorer(swept, few_digits.test, metric="accuracy", **asked)
    try:
        none, leaf, block = live.controls.swept.options
        assert (live.dataset, live.controls.swept.value) == (None, none)
        assert none == "none is shown; choose one"
        chosen(live, leaf)
        assert live.controls.grid.columns == ["rand", "0", "2"]
        assert (live.controls.swept.value, live.controls.swept.options) == (leaf, (leaf, block))
    finally:
        live.close()
    with pytest.raises(OptionError, match=r"no metric 'acuracy'.*accuracy"):
        LayerExplorer(swept, few_digits.test, metric="acuracy", **asked)


def test_of_a_single_sweep_there_is_no_choice(swept, few_digits, tmp_path):
    run = shutil.copytree(swept, tmp_path / "run")
    shutil.rmtree(run / "sweeps")
    alone = LayerExplorer(run, few_digits.test, device="cpu")
    assert alone.controls.swept.layout.display == "none"
    assert alone.controls.grid.columns == ["rand", "0", "2"]
    alone.close()


def test_the_bar_counts_the_rows_that_are_swept(trained, few_digits, monkeypatch):
    totals, given = [], {"layers": {"both": ["layer1", "layer2"]}, "whole": False, "epochs": [0]}
    real = _progress.progress

    def progress(parts, total, *more):
        totals.append(total())
        return real(parts, total, *more)

    monkeypatch.setattr(_explorer, "progress", progress)
    seen = []
    made = LayerExplorer(
        trained, few_digits.test, device="cpu", batch_size=50, perturbations=["reinitialize"],
        between=lambda: seen.append(None), **given,
    )  # fmt: skip
    made.sweep(again=True)
    assert made.wait(60)
    made.close()
    assert totals == [len(seen)]
