"""Whatever call fails while a sweep writes, its numbers are right, or it says so."""

from __future__ import annotations

import errno
import functools
import json
import multiprocessing
import os
import resource
import signal
import tempfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from faults import a_few_and_all, ends_of, from_on, never, once, writing_calls
from memo import remembered_netcdf

import layerscope
from layerscope import models, plots, report, results, testing
from layerscope.base import writing
from layerscope.core.sweep import _loop as loop
from layerscope.errors import LayerscopeError, ResultError

NET, *NETS = [models.build("fcn-1x4", seed=seed, inputs=(4,), classes=3) for seed in (2, 0, 1)]
STATES = {epoch: net.state_dict() for epoch, net in enumerate(NETS)}
PAIR = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def sweep(out=None, **options):
    options = {
        "draws": 1, "batch_size": 6, "device": "cpu", "show_progress": False, "whole": False,
        "perturbations": ["reinitialize"], "epochs": [0], **options,
    }  # fmt: skip
    return layerscope.sweep(NET, PAIR, checkpoints=STATES, out=out, **options)


def kept_sweep(out):
    """A sweep that also writes what is known after every part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_SAVE_EVERY_S", 0.0)
        return sweep(out, outcomes=True)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """What a sweep gives that nothing happens to: values and outcomes."""
    out = tmp_path_factory.mktemp("right") / "out"
    ds = kept_sweep(out)
    return ds, results.open_dataset(out / "outcomes.nc")


def opened(path):
    """Open a Dataset, once for each content: opening takes longer than all else here."""
    return _opened(path, path.read_bytes())


@functools.lru_cache(maxsize=8)
def _opened(path, _):
    return results.open_dataset(path)


def wrong(out, right, failed=""):
    """Say what is wrong with a finished folder."""
    for name, expected in zip(("sweep.nc", "outcomes.nc"), right, strict=True):
        found = opened(out / name)
        if not found.equals(expected):
            yield f"{failed}: {name} has other numbers"
    left = {path.name for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    left -= {"sweep.nc", "outcomes.nc", "sweep.json"}
    # A draft that could not be removed is of this very process, and the next one sweeps it.
    left = {name for name in left if not name.endswith(".tmp")}
    if left:
        yield f"{failed}: {left} stay"


def torn(out):
    """Name files that can't be read as what their name says."""
    for path in out.rglob("[!.]*"):
        try:
            if path.suffix == ".nc":
                opened(path)
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    assert all(file[key] is not None for key in file.files)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not whole
            yield f"{path.name}: {error!r}"


def attempt(out, right, fails):
    """Sweep while something fails, then once more; return calls, how it ended, what was wrong."""
    found, ended = [], "finished"
    with writing_calls(out, fails) as calls:
        try:
            ds = kept_sweep(out)
        except LayerscopeError as error:
            ended = "told"
            if str(out) not in str(error):
                found.append(f"{calls.failed}: {error}")
        else:
            if not ds.equals(right[0]):
                found.append(f"{calls.failed}: other numbers")
            for name, expected in zip(("sweep.nc", "outcomes.nc"), right, strict=True):
                if not opened(out / name).equals(expected):
                    found.append(f"{calls.failed}: {name} has other numbers")
    found += [f"{calls.failed[:1]}: {each}" for each in torn(out)]
    found += [f"passed by: {path}" for path in calls.passed_by]
    found += [f"{each} before its content lasts" for each in calls.unsafe]
    if not kept_sweep(out).equals(right[0]):
        found.append(f"{calls.failed[:1]}: other numbers later")
    return calls, ended, [*found, *wrong(out, right, str(calls.failed[:1]))]


@pytest.fixture(scope="module")
def number_of_calls(right, tmp_path_factory):
    calls, ended, found = attempt(tmp_path_factory.mktemp("count") / "out", right, never)
    assert (ended, found) == ("finished", [])
    return len(calls.seen)


@pytest.mark.parametrize(
    ("number", "choice"), a_few_and_all(errno.EIO, errno.ENOSPC, few=31, shares=4)
)
def test_a_call_that_fails_once_costs_no_number(tmp_path, right, number_of_calls, number, choice):
    with nullcontext() if choice.few else remembered_netcdf():
        ends = ends_of(
            choice.of(number_of_calls),
            lambda at: attempt(tmp_path / str(at), right, once(at, number)),
        )
    print(number_of_calls, ends)
    assert choice.few or all(ends.values())


@pytest.mark.parametrize(
    ("number", "choice"), a_few_and_all(errno.EROFS, errno.EACCES, few=61, shares=4)
)
def test_a_folder_that_can_not_be_written_to_any_more_costs_no_number(
    tmp_path, right, number_of_calls, number, choice
):
    def without_strays(at):
        calls, ended, found = attempt(tmp_path / str(at), right, from_on(at, number))
        # What could not be removed then is of this very process, which still runs.
        return calls, ended, [each for each in found if "stay" not in each]

    with nullcontext() if choice.few else remembered_netcdf():
        ends = ends_of(choice.of(number_of_calls), without_strays)
    print(number_of_calls, ends)


@pytest.mark.parametrize(
    "number", [errno.ENOSYS, pytest.param(errno.EPERM, marks=pytest.mark.slow)]
)
def test_a_file_system_without_links_and_syncs_of_folders_gives_the_same(tmp_path, right, number):
    def fails(_, name):
        folder = name == "look at"
        return number if name in ("link", "symlink") else errno.EINVAL if folder else None

    calls, ended, found = attempt(tmp_path / "out", right, fails)
    assert (ended, found) == ("finished", [])
    assert any(call.startswith("link") for call in calls.failed)


def test_what_is_safe_is_said_where_the_dataset_can_not_be_written(tmp_path, monkeypatch):
    def full(path, content, **options):
        if path.name == "sweep.nc":
            raise writing.write_error(path, OSError(errno.ENOSPC, "No space left on device"))
        return write(path, content, **options)

    write = writing.write_bytes
    monkeypatch.setattr(results._files, "write_bytes", full)
    with pytest.raises(ResultError, match=r"sweep\.nc: No space left.*Make room") as stop:
        sweep(tmp_path)
    kept = len(list(tmp_path.glob("parts-6/*.npz")))
    assert any(f"{kept} finished parts are safe in {tmp_path}" in n for n in stop.value.__notes__)


# The temporary folder


@pytest.fixture
def no_temporary_folder(monkeypatch, tmp_path):
    def none(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    for name in ("mkdtemp", "mkstemp", "gettempdir", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, none)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))


@pytest.mark.usefixtures("no_temporary_folder")
def test_nothing_needs_a_temporary_folder(tmp_path, right):
    assert kept_sweep(tmp_path / "out").equals(right[0])
    assert not list(wrong(tmp_path / "out", right))
    ds = testing.dataset(layers=2)
    saved = results.open_dataset(results.save(ds, tmp_path / "ds.nc"))
    assert np.array_equal(saved.value, ds.value, equal_nan=True)
    report.write({"net": ds}, tmp_path / "report.html")
    for suffix in ("html", "svg"):
        plots.save(plots.heatmap(ds), tmp_path / f"figure.{suffix}")


def _save(ds, path, size):
    """Save where no file may be longer; the system says so as it says that a disk is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        results.save(ds, path)
    except ResultError as error:
        os._exit(3 if "File too large" in str(error) else 4)
    os._exit(0)


@pytest.mark.parametrize("steps", [7, pytest.param(57, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_byte_ends_in_an_error_of_ours(tmp_path, steps):
    ds = testing.dataset(layers=4)
    whole = results.save(ds, tmp_path / "whole.nc").stat().st_size
    codes = []
    for step in range(steps + 1):
        path, size = tmp_path / f"{step}.nc", whole * step // steps
        child = multiprocessing.get_context("fork").Process(target=_save, args=(ds, path, size))
        child.start()
        child.join()
        codes.append(child.exitcode)
        assert path.exists() == (child.exitcode == 0)
    assert codes == [3] * steps + [0]


# Several processes without links


def _sweep_with_seed(out, seed, start, told):
    torch.set_num_threads(1)

    def without(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    os.link = without
    start.wait()
    try:
        ds = sweep(out, seed=seed, perturbations=["rerandomize"], epochs=None)
    except ResultError as error:
        told.put((seed, "belongs to another sweep" in str(error) or str(error), None))
    else:
        told.put((seed, "finished", ds["value"].values.tobytes()))


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_two_sweeps_that_start_together_without_links_never_mix(tmp_path, rounds):
    options = {"perturbations": ["rerandomize"], "epochs": None}
    alone = {seed: sweep(seed=seed, **options)["value"].values.tobytes() for seed in (0, 1)}
    assert alone[0] != alone[1]
    context = multiprocessing.get_context("fork")
    for number in range(rounds):
        start, told = context.Barrier(2), context.Queue()
        given = [(tmp_path / str(number), seed, start, told) for seed in (0, 1)]
        children = [context.Process(target=_sweep_with_seed, args=each) for each in given]
        for child in children:
            child.start()
        ends = {seed: (how, value) for seed, how, value in (told.get(timeout=60) for _ in given)}
        for child in children:
            child.join()
        assert sorted(str(how) for how, _ in ends.values()) == ["True", "finished"], ends
        for seed, (how, value) in ends.items():
            assert how is True or value == alone[seed]
