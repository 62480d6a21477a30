"""A sweep's folder beside other people's files: none of theirs is taken, replaced or removed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import xarray as xr
from memo import remembered_netcdf

import layerscope
from layerscope import models, plots, report, results, testing
from layerscope.core.sweep import _single as single
from layerscope.core.sweep._store import Store
from layerscope.errors import ResultError
from layerscope.paper import gallery

SLOW = pytest.mark.slow
NET, *NETS = [models.build("fcn-1x4", seed=seed, inputs=(4,), classes=3) for seed in (2, 0, 1)]
STATES = {epoch: net.state_dict() for epoch, net in enumerate(NETS)}
PAIR = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def sweep(out=None, **options):
    options = {"draws": 1, "batch_size": 4, "device": "cpu", "show_progress": False, **options}
    return layerscope.sweep(NET, PAIR, checkpoints=STATES, out=out, **options)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The folder of a sweep that recorded everything and was stopped before it was finished."""
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", lambda *_: None)
        sweep(folder)
    assert len(list(folder.glob("parts-4/*.npz"))) == 9
    return folder


# Nothing of others is removed


def test_what_the_user_keeps_in_the_folder_stays(tmp_path):
    mine = ["parts-of-speech/nouns.txt", "parts-2019/a.npz", "parts-4/notes.txt", "parts-/b.npz"]
    mine += ["parts-4/mine.npz", "parts-4/x.claim", "parts-4/.x.tmp", "outcomes.nc", "parts-9"]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    np.savez(tmp_path / "parts-4" / "saved.npz", identity="mine", keys=np.arange(3))
    swept = sweep(tmp_path)
    sweep(tmp_path)
    kept = [*mine, "parts-4/saved.npz", "sweep.json", "sweep.nc"]
    assert names(tmp_path) == sorted({*kept, "parts-of-speech", "parts-2019", "parts-4", "parts-"})
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert swept.identical(results.open_dataset(tmp_path / "sweep.nc"))


def test_parts_go_where_a_link_leads_and_are_removed_there_alone(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (out / "parts-4").symlink_to(elsewhere)
    sweep(out)
    assert (out / "parts-4").is_symlink()
    assert names(elsewhere) == ["mine"]


@pytest.mark.parametrize("name", ["partial.nc", "sweep.nc", "outcomes.nc"])
@pytest.mark.parametrize("content", ["text", "Dataset", "folder"])
def test_a_file_of_the_users_own_is_neither_taken_nor_replaced(tmp_path, name, content):
    path = tmp_path / name
    if content == "Dataset":
        results.save(testing.dataset(layers=2), path)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_text("mine")
    before = None if content == "folder" else path.read_bytes()
    with pytest.raises(ResultError, match=rf"{path}.*Nothing was removed.*--out") as stop:
        sweep(tmp_path, outcomes=True)
    assert ("does not say of which sweep" in str(stop.value)) is (content == "Dataset")
    assert names(tmp_path) == [name]
    assert content == "folder" or path.read_bytes() == before


# Whose they are is read from the files themselves


def test_a_dataset_is_taken_without_its_json_if_it_is_of_this_sweep(tmp_path):
    first = sweep(tmp_path, outcomes=True)
    (tmp_path / "sweep.json").unlink()
    for other, said in (
        ({"seed": 1}, "seed .1 here, 0 there. differ"),
        ({"draws": 2, "seed": 1}, "draws .*seed"),
    ):
        with pytest.raises(ResultError, match=rf"sweep\.nc is of another sweep: .*{said}"):
            sweep(tmp_path, outcomes=True, **other)
        assert names(tmp_path) == ["outcomes.nc", "sweep.nc"]
    assert sweep(tmp_path, outcomes=True).identical(first)
    assert names(tmp_path) == ["outcomes.nc", "sweep.json", "sweep.nc"]


def test_the_outcomes_of_another_sweep_are_not_taken(tmp_path):
    for seed in (0, 1):
        sweep(tmp_path / str(seed), outcomes=True, seed=seed)
    shutil.copy(tmp_path / "1" / "outcomes.nc", tmp_path / "0")
    with pytest.raises(ResultError, match=r"outcomes\.nc is of another sweep: seed \("):
        sweep(tmp_path / "0", outcomes=True)
    (tmp_path / "0" / "outcomes.nc").unlink()
    with pytest.raises(ResultError, match=r"outcomes\.nc is gone.*remove .*sweep\.nc to compute"):
        sweep(tmp_path / "0", outcomes=True)


@pytest.mark.parametrize("partial", [True, False])
def test_old_parts_are_not_mixed_in_under_another_seed(stopped, partial):
    (stopped / "sweep.json").unlink()
    if not partial:
        (stopped / "partial.nc").unlink(missing_ok=True)
    before = names(stopped)
    for other in ({"seed": 1}, {"seed": 1, "batch_size": 6}):
        with pytest.raises(ResultError, match=r"(is no part of this|of another) sweep"):
            sweep(stopped, **other)
        assert names(stopped) == before  # the right sweep is not locked out
    xr.testing.assert_equal(sweep(stopped), sweep())
    assert names(stopped) == ["sweep.json", "sweep.nc"]


def test_a_part_that_came_later_from_elsewhere_is_not_added(stopped, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", lambda *_: None)
        sweep(tmp_path / "other", seed=1)
    parts = Store(stopped, json.loads((stopped / "sweep.json").read_text())).parts(4)
    name = "batch-000001-rows-00000-00001"
    shutil.copy(tmp_path / "other" / "parts-4" / f"{name}.npz", stopped / "parts-4")
    with pytest.raises(ResultError, match=f"{name}.npz is no part of this sweep"):
        parts.read(name)
    np.savez(stopped / "parts-4" / f"{name}.npz", keys=np.array(["k"]))
    with pytest.raises(ResultError, match=f"{name}.npz is no part of this sweep"):
        parts.read(name)


# What a Dataset was made of is there until it was opened


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_parts_outlive_a_damaged_dataset(stopped, damage):
    whole = sweep()
    shutil.copytree(stopped, finished := stopped.with_name("finished"))
    sweep(finished)
    content = (finished / "sweep.nc").read_bytes()
    broken = {"cut": content[:3000], "empty": b"", "text": b"lost"}[damage]
    (stopped / "sweep.nc").write_bytes(broken)
    before = names(stopped)
    with pytest.raises(ResultError, match=r"sweep\.nc .* is no Dataset.*goes on from the parts"):
        sweep(stopped)
    assert names(stopped) == before
    (stopped / "sweep.nc").rename(stopped.with_name("aside"))
    xr.testing.assert_equal(sweep(stopped), whole)


def test_parts_outlive_a_dataset_that_was_written_badly(stopped, monkeypatch):
    save = results.save

    def cut(ds, path, *given, **options):
        save(ds, path, *given, **options)
        path.write_bytes(path.read_bytes()[:3000])
        return path

    with monkeypatch.context() as patch:
        patch.setattr(results, "save", cut)
        with pytest.raises(ResultError, match=r"sweep\.nc .* is no Dataset"):
            sweep(stopped)
    assert len(list(stopped.glob("parts-4/*.npz"))) == 9


# Several processes


def test_outcomes_stay_when_another_process_finishes_first(tmp_path, monkeypatch):
    """One has measured everything; before it gathers, the other finishes and clears the parts."""
    gather, theirs = single.gather, []

    def late(*given):
        monkeypatch.setattr(single, "gather", gather)
        theirs.append(sweep(tmp_path, outcomes=True))
        return gather(*given)

    monkeypatch.setattr(single, "gather", late)
    mine = sweep(tmp_path, outcomes=True)
    assert mine.identical(theirs[0])
    assert not xr.load_dataset(tmp_path / "outcomes.nc")["outcome"].isnull().any()
    assert names(tmp_path) == ["outcomes.nc", "sweep.json", "sweep.nc"]


def test_a_part_that_is_missing_is_an_error_and_no_nan(tmp_path, monkeypatch):
    gather = single.gather

    def robbed(*given):
        (tmp_path / "parts-4" / "batch-000001-rows-00002-00003.npz").unlink()
        return gather(*given)

    monkeypatch.setattr(single, "gather", robbed)
    with pytest.raises(ResultError, match=r"batch-000001-rows-00002-00003 was recorded .* is gone"):
        sweep(tmp_path, outcomes=True)
    assert not (tmp_path / "outcomes.nc").exists()
    monkeypatch.undo()
    xr.testing.assert_equal(sweep(tmp_path, outcomes=True), sweep())
    assert not xr.load_dataset(tmp_path / "outcomes.nc")["outcome"].isnull().any()


def test_a_finished_dataset_is_not_replaced(tmp_path):
    first = sweep(tmp_path, outcomes=True)
    store = Store(tmp_path, json.loads((tmp_path / "sweep.json").read_text()))
    outcomes = (tmp_path / "outcomes.nc").read_bytes()
    poorer = first.copy(deep=True)
    poorer["value"][:] = np.nan
    store.finish(poorer)
    kept = results.open_dataset(tmp_path / "outcomes.nc")
    store.keep_outcomes(kept.assign(outcome=kept["outcome"] * np.nan))
    assert store.finished().identical(first)
    assert (tmp_path / "outcomes.nc").read_bytes() == outcomes


def test_cells_that_stopped_early_have_no_outcomes_where_none_was_needed(tmp_path):
    options = {"decide": {"robust": 0.4, "critical": 0.6}, "batch_size": 2, "outcomes": True}
    ds = sweep(tmp_path, metrics=["error"], **options)
    kept = results.open_dataset(tmp_path / "outcomes.nc")["outcome"].isel(metric=0)
    for cell in kept.transpose("cell", "example"):
        at = {name: cell[name].item() for name in ("layer", "epoch", "perturbation", "draw")}
        assert int(cell.notnull().sum()) == int(ds["n_examples"].sel(at))


def _together(folder, gate):
    gate.wait()
    sweep(folder, outcomes=True)


def run_together(folder, processes):
    """Sweep into one folder from several processes at once; their exit codes."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(processes)
    started = [context.Process(target=_together, args=(folder, gate)) for _ in range(processes)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    return [each.exitcode for each in started]


@pytest.mark.parametrize(
    "trials", [range(2), *(pytest.param(range(n, n + 25), marks=SLOW) for n in range(0, 200, 25))]
)
def test_processes_that_share_a_folder_lose_no_outcome(tmp_path, trials):
    with nullcontext() if len(trials) == 2 else remembered_netcdf():
        share_a_folder(tmp_path, trials)


def share_a_folder(place, trials):
    """Sweep into a folder from three processes at once, again and again."""
    whole = sweep(place / "alone", outcomes=True)
    outcomes = results.open_dataset(place / "alone" / "outcomes.nc")
    for trial in trials:
        folder = place / str(trial)
        assert run_together(folder, 3) == [0, 0, 0]
        assert names(folder) == ["outcomes.nc", "sweep.json", "sweep.nc"]
        assert results.open_dataset(folder / "outcomes.nc").identical(outcomes)
        xr.testing.assert_equal(results.open_dataset(folder / "sweep.nc"), whole)


# Single files


@pytest.fixture
def written(monkeypatch, repository):
    """Every function that writes a file for the user, by the name of what it writes."""
    ds = testing.dataset(layers=1, epochs=(0, 1))
    monkeypatch.setattr(report, "page", lambda *_, **__: "what takes long to draw")
    return {
        "results.nc": lambda path: results.save(ds, path),
        "report.html": lambda path: report.write({"net": ds}, path),
        "figure.svg": lambda path: plots.save(plots.heatmap(ds), path),
        "gallery.md": lambda path: gallery.write(repository / "papermill_runs", path),
    }


WRITTEN = ["results.nc", "report.html", "figure.svg", "gallery.md"]


@pytest.mark.parametrize("name", WRITTEN)
def test_links_modes_and_the_umask_are_kept(tmp_path, written, name):
    target, link = tmp_path / "sub" / f"target-{name}", tmp_path / name
    target.parent.mkdir()
    link.symlink_to(f"sub/target-{name}")
    before = os.umask(0o027)
    try:
        assert written[name](link) == link  # leads nowhere yet
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    first = target.read_bytes()
    target.write_bytes(b"old")
    target.chmod(0o604)
    written[name](link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert len(target.read_bytes()) == len(first)
    # The gallery's small pictures stand beside it.
    found = [each for each in names(tmp_path) if not each.startswith("thumbnails")]
    assert found == sorted([name, "sub", f"sub/target-{name}"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "named pipe") for name in WRITTEN),
        *(("results.nc", kind) for kind in ("folder", "device", "link that leads to itself")),
    ],
)
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, written, name, kind):
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(name if kind.startswith("link") else "/dev/null")
    before = path.lstat()
    with pytest.raises(ResultError, match=rf"can't write .*{name}: it is a {kind}, not a regular"):
        written[name](path)
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert names(tmp_path) == [name]
