"""Estimates after the first batch, cells that stop early, and outcomes kept example by example."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import layerscope
from layerscope import models, results, stats
from layerscope.core import plain
from layerscope.core.reuse import Recorder
from layerscope.core.sweep import _loop as loop
from layerscope.core.sweep._store import Parts
from layerscope.errors import LayerscopeError, OptionError


def network(seed: int = 0):
    return models.build("fcn-2x8", seed=seed, inputs=(6,), classes=3)


@pytest.fixture
def states():
    return {epoch: network(epoch).state_dict() for epoch in (0, 1, 2)}


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 6, generator=generator)
    trained = network(2).eval()
    with torch.no_grad():
        targets = trained(inputs).argmax(1)
    return inputs, torch.where(torch.arange(60) % 10 == 0, (targets + 1) % 3, targets)


def test_a_callback_sees_estimates_sharpen(pair, states, monkeypatch):
    monkeypatch.setattr(loop, "_SHOW_EVERY_S", 0.0)
    seen: list[xr.Dataset] = []
    ds = layerscope.sweep(
        network(), pair, checkpoints=states, batch_size=10, draws=2, callback=seen.append
    )
    assert [int(each.n_examples.max()) for each in seen] == [10, 20, 30, 40, 50, 60, 60]
    known = ds.value.notnull()
    for each in seen:
        assert bool((each.value.notnull() == known).all())
    first = layerscope.sweep(
        network(), (pair[0][:10], pair[1][:10]), checkpoints=states, batch_size=10, draws=2
    )
    xr.testing.assert_equal(seen[0].value, first.value)
    width = [float(np.subtract(*stats.interval(each).to_array()[::-1]).mean()) for each in seen]
    assert width == sorted(width, reverse=True)
    assert seen[-1].identical(ds)


def test_what_a_callback_raises_stops_the_sweep_and_the_rest_is_kept(pair, states, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        layerscope.sweep(
            network(), pair, checkpoints=states, batch_size=10, out=tmp_path, callback=stop
        )
    assert "finished parts are safe" in stopped.value.__notes__[0]
    partial = results.open_dataset(tmp_path / "partial.nc")
    assert int(partial.n_examples.max()) == 10
    whole = layerscope.sweep(network(), pair, checkpoints=states, batch_size=10)
    resumed = layerscope.sweep(network(), pair, checkpoints=states, batch_size=10, out=tmp_path)
    xr.testing.assert_equal(whole, resumed)


def plain_outcomes(state, pair, name, values):
    """Whether each example is named wrongly, the plainest way there is."""
    with torch.no_grad():
        logits = plain.copy_with(network(), {**state, **values})(pair[0])
    if name == "error":
        return (logits.argmax(1) != pair[1]).float().numpy()
    return torch.nn.functional.cross_entropy(logits, pair[1], reduction="none").numpy()


def test_outcomes_are_every_examples_and_differences_are_paired(pair, states, tmp_path):
    ds = layerscope.sweep(
        network(), pair, checkpoints=states, batch_size=60, out=tmp_path, outcomes=True
    )
    kept = xr.open_dataset(tmp_path / "outcomes.nc", engine="h5netcdf")
    assert kept.sizes == {"cell": 4 * (3 + 3), "metric": 2, "example": 60}
    base = {n: plain_outcomes(states[2], pair, n, {}) for n in ("error", "loss")}
    checked = 0
    for cell in range(kept.sizes["cell"]):
        one = kept.isel(cell=cell)
        if str(one.layer.values) != "layer1" or str(one.perturbation.values) != "reinitialize":
            continue
        epoch = int(one.epoch)
        values = {n: t for n, t in states[epoch].items() if n.startswith("layer1.")}
        at = {"layer": "layer1", "epoch": epoch, "perturbation": "reinitialize", "draw": 0}
        for name in ("error", "loss"):
            right = plain_outcomes(states[2], pair, name, values)
            assert (one.outcome.sel(metric=name).values == right).all()
            assert (one.baseline_outcome.sel(metric=name).values == base[name]).all()
            moved = right.astype(float) - base[name].astype(float)
            found = ds.sel(at | {"metric": name})
            assert float(found.difference) == pytest.approx(moved.mean(), abs=1e-15)
            error = moved.std(ddof=1) / np.sqrt(60)
            assert float(found.difference_standard_error) == pytest.approx(error, rel=1e-9)
        checked += 1
    kept.close()
    assert checked == 3
    with pytest.raises(OptionError, match=r"outcomes=True.*out="):
        layerscope.sweep(network(), pair, checkpoints=states, outcomes=True)


def many(count: int = 4000):
    """Examples enough that most need not be seen."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 6, generator=generator)
    with torch.no_grad():
        targets = network(2).eval()(inputs).argmax(1)
    return inputs, targets


def test_deciding_cells_stops_them_and_is_right(states):
    data = many()
    full = layerscope.sweep(network(), data, checkpoints=states, batch_size=100, draws=1)
    ds = layerscope.sweep(
        network(),
        data,
        checkpoints=states,
        batch_size=100,
        draws=1,
        decide={"robust": 0.1, "critical": 0.1, "confidence": 0.99},
    )
    known = full.value.sel(metric="error").notnull()
    worse = (full.value - full.baseline).sel(metric="error")
    expected = xr.where(worse > 0.1, "critical", "robust").where(known, "")
    assert bool((ds.verdict == expected).all())
    used = int(ds.n_examples.sum()) / (int(known.sum()) * 4000)
    assert used < 0.25
    assert json.loads(ds.attrs["stopping"])["confidence"] == 0.99


def test_a_tolerance_stops_a_cell_once_its_interval_is_narrow(states):
    data = many()
    full = layerscope.sweep(network(), data, checkpoints=states, batch_size=100, draws=1)
    ds = layerscope.sweep(
        network(), data, checkpoints=states, batch_size=100, draws=1, tolerance=0.05
    )
    known = full.value.sel(metric="error").notnull()
    assert bool(((ds.upper - ds.lower) <= 0.1 + 1e-9).where(known, True).all())
    value = full.value.sel(metric="error")
    inside = (ds.lower <= value) & (value <= ds.upper)
    assert float(inside.where(known).mean()) > 0.9
    assert int(ds.n_examples.max()) < 4000
    table = stats.summary(ds)
    assert set(table["interval_kind"]) == {"unseen examples"}
    for row in table.itertuples():
        cell = ds.sel(layer=row.layer, epoch=row.epoch, perturbation=row.perturbation, draw=0)
        assert (row.lower, row.upper) == (float(cell.lower), float(cell.upper))
    verdicts = stats.classify(ds)
    assert set(verdicts["interval_kind"]) == {"unseen examples"}
    # All stopped early, so that the baseline is no better known.
    below, above = float(ds.baseline_lower), float(ds.baseline_upper)
    assert below <= float(full.baseline.sel(metric="error")) <= above
    assert below < above
    for row in verdicts.itertuples():
        cell = ds.sel(layer=row.layer, epoch=0, perturbation="reinitialize", draw=0)
        assert (row.lower, row.upper) == (float(cell.lower) - above, float(cell.upper) - below)
    assert stats.classify(ds, confidence=0.985)["lower"].isna().all()


def test_a_baseline_that_saw_all_examples_is_known(states):
    data = many(300)
    ds = layerscope.sweep(
        network(), data, checkpoints=states, batch_size=100, draws=1, tolerance=0.01
    )
    assert not ds.stopped_early.all()
    exact = float(ds.baseline.sel(metric="error"))
    assert float(ds.baseline_lower) == float(ds.baseline_upper) == exact


def test_a_stopped_cell_goes_on_to_the_same_verdict(states, tmp_path):
    given = {"checkpoints": states, "batch_size": 100, "draws": 1, "decide": True}
    seen = []

    def stop(known):
        seen.append(known)
        raise KeyboardInterrupt

    whole = layerscope.sweep(network(), many(), **given)
    with pytest.raises(KeyboardInterrupt):
        layerscope.sweep(network(), many(), **given, out=tmp_path, callback=stop)
    resumed = layerscope.sweep(network(), many(), **given, out=tmp_path)
    xr.testing.assert_equal(whole, resumed)


# Memory


def test_batches_are_halved_where_memory_runs_out(pair, states, monkeypatch, tmp_path):
    record = Recorder.record

    def greedy(self, call, groups, **options):
        if call().shape[0] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return record(self, call, groups, **options)

    monkeypatch.setattr(Recorder, "record", greedy)
    given = {"checkpoints": states, "draws": 1}
    with (
        pytest.warns(UserWarning, match="out of memory with 60 examples.*30"),
        pytest.warns(UserWarning, match="out of memory with 30 examples.*15"),
    ):
        ds = layerscope.sweep(network(), pair, **given, batch_size=60, out=tmp_path)
    assert ds.attrs["batch_size"] == 15
    monkeypatch.undo()
    small = layerscope.sweep(network(), pair, **given, batch_size=15)
    xr.testing.assert_equal(ds, small)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.nc"]


def test_running_out_of_memory_for_good_says_what_to_do(pair, states, monkeypatch):
    def never(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(Recorder, "record", never)
    model = network()
    before = copy.deepcopy(model.state_dict())
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(LayerscopeError, match="not enough memory for a batch of one example"),
    ):
        layerscope.sweep(model, pair, checkpoints=states, batch_size=4)
    batches = [pair]
    with pytest.raises(LayerscopeError, match="batch"):
        layerscope.sweep(model, batches, checkpoints=states)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_autocast_is_off_unless_asked_for(pair, states):
    exact = layerscope.sweep(network(), pair, checkpoints=states, metrics=["loss"], device="cpu")
    short = layerscope.sweep(
        network(), pair, checkpoints=states, metrics=["loss"], device="cpu", dtype="bfloat16"
    )
    assert short.attrs["dtype"] == "bfloat16"
    assert exact.attrs["dtype"] == ""
    other = network(2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = other(pair[0])
    assert logits.dtype == torch.bfloat16
    loss = torch.nn.functional.cross_entropy(logits.float(), pair[1], reduction="none")
    assert short.baseline.item() == float(loss.double().sum()) / 60
    assert exact.baseline.item() != short.baseline.item()
    with pytest.raises(OptionError, match="dtype is 'half'; use 'bfloat16' or 'float16'"):
        layerscope.sweep(network(), pair, checkpoints=states, dtype="half")


# Several processes


SHARED = """
import os, signal, sys, time, torch, layerscope
from layerscope import metrics, models
from layerscope.core.sweep import _loop as loop

torch.set_num_threads(1)
outcomes = metrics.score

def sweep(folder, log, decide, stuck):
    file = open(log, "ab", buffering=0)

    def slow(wanted, outputs, targets, reference=None):
        time.sleep(600 if stuck and file.tell() >= 4 else 0.003)
        file.write(b"x" * (outputs is not reference))
        return outcomes(wanted, outputs, targets, reference)

    metrics.score = slow
    nets = [models.build("fcn-4x8", seed=s, inputs=(6,), classes=3) for s in (0, 1, 2)]
    inputs = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    states = {epoch: net.state_dict() for epoch, net in enumerate(nets)}
    layerscope.sweep(nets[-1], (inputs, torch.arange(60) % 3), checkpoints=states, batch_size=10,
                     out=folder, device="cpu", show_progress=False, decide=decide)

def started(*given):
    # Forked, so that what takes longest, importing torch, is done once.
    child = os.fork()
    if child == 0:
        sweep(*given)
        os._exit(0)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def wait_for(logs, size):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if sum(os.path.getsize(log) for log in logs if os.path.exists(log)) >= size:
            return
        time.sleep(0.002)

for decide in (False, True):
    print(ended(started(f"alone{decide}", f"alone{decide}.log", decide, False)))
    # One is stuck in the middle of a part that it has claimed, and is killed once others help.
    logs = [f"log{decide}{i}" for i in range(3)]
    three = [started(f"shared{decide}", logs[0], decide, True)]
    wait_for(logs[:1], 4)
    three += [started(f"shared{decide}", log, decide, False) for log in logs[1:]]
    wait_for(logs[1:], 1)
    os.kill(three[0], signal.SIGKILL)
    print(*map(ended, three))
"""


def test_processes_help_each_other_and_a_killed_one_is_replaced(tmp_path):
    command = [sys.executable, "-c", SHARED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["0", "-9 0 0"] * 2, done.stderr
    for decide in (False, True):
        alone, shared = (
            xr.load_dataset(tmp_path / f"{name}{decide}" / "sweep.nc")
            for name in ("alone", "shared")
        )
        xr.testing.assert_equal(alone, shared)
        # Each helped, and together they did hardly more than one does alone.
        once = (tmp_path / f"alone{decide}.log").stat().st_size
        counts = [(tmp_path / f"log{decide}{i}").stat().st_size for i in range(3)]
        assert counts[0] == 4
        assert sum(counts) < 1.6 * once
        left = sorted(path.name for path in (tmp_path / f"shared{decide}").iterdir())
        assert left == ["sweep.json", "sweep.nc"]


def test_a_sweep_that_another_process_finished_is_read(pair, states, tmp_path, monkeypatch):
    expected = layerscope.sweep(network(), pair, checkpoints=states, out=tmp_path / "other")
    claim = Parts.claim

    def late(self, name):
        # Between the look and the claim the other process finished.
        if not self.store.is_finished():
            os.link(tmp_path / "other" / "sweep.nc", self.store.folder / "sweep.nc")
        return claim(self, name)

    monkeypatch.setattr(Parts, "claim", late)
    monkeypatch.setattr(Recorder, "replay", lambda *_: pytest.fail("computed again"))
    found = layerscope.sweep(network(), pair, checkpoints=states, out=tmp_path / "run")
    xr.testing.assert_identical(found, expected)
