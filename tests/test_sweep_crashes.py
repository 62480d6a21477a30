"""Killed at every system call that writes, the store loses nothing that it acknowledged.

A child process records parts, then the finished Dataset, and acknowledges each through a pipe.
``strace`` kills it at the n-th call of one kind. Whatever n: what was acknowledged is there, what
is there is whole, and the same work done again ends as it does undisturbed. The same harness is
then let loose on stores with a mistake planted in them, to show that it would be noticed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from layerscope import results, testing
from layerscope.base import writing
from layerscope.core.sweep._store import Store, digest

CALLS = ("write", "fsync", "link,linkat", "rename,renameat,renameat2", "unlink,unlinkat")
NAMES = ("a", "b")
IDENTITY = {"seed": 0}

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None or os.name != "posix", reason="needs strace"
)


def arrays(name: str) -> dict[str, np.ndarray]:
    return {"keys": np.array([name]), "tally/loss": np.full((1, 6), float(ord(name)))}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = testing.dataset(layers=2, epochs=(0, 1), draws=1).assign_attrs(identity=digest(IDENTITY))
    # As a sweep writes it: what its metrics and perturbations mean is filled in on opening.
    return results.open_dataset(results.save(made, tmp_path_factory.mktemp("made") / "sweep.nc"))


def work(folder: Path, dataset, acknowledge) -> None:
    """What a sweep does to its folder."""
    _pending.clear()
    store = Store(folder, IDENTITY)
    if store.is_finished():
        store.finished()
        acknowledge("finished")
        return
    parts = store.parts(1)
    for name in NAMES:
        with parts.claim(name) as mine:
            assert mine
            if not parts.has(name):
                parts.write(name, arrays(name))
            acknowledge(name)
    store.show(dataset)
    store.finish(dataset)
    acknowledge("finished")


def killed(folder: Path, dataset, call: str, when: int) -> tuple[list[str], bool]:
    """Do the work in a child that dies at its `when`-th `call`; return what it acknowledged."""
    told, tell = os.pipe()
    begin, start = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(begin, 1)
            work(folder, dataset, lambda name: _say(tell, name))
        finally:
            os._exit(0)
    os.close(tell)
    inject = f"inject={call}:signal=SIGKILL:when={when}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE)
    _wait_for_tracer(pid, tracer)
    os.write(start, b"1")
    os.close(start)
    os.close(begin)
    _, status = os.waitpid(pid, 0)
    tracer.wait()
    assert tracer.stderr is not None
    tracer.stderr.close()
    with os.fdopen(told) as lines:
        acknowledged = lines.read().split()
    return acknowledged, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _say(pipe: int, name: str) -> None:
    # Not write(), of which the kills are counted.
    os.writev(pipe, [f"{name}\n".encode()])


def _wait_for_tracer(pid: int, tracer: subprocess.Popen) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text()
        if "TracerPid:\t0\n" not in status:
            return
        if tracer.poll() is not None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.skip("strace may not attach to a process here")
        time.sleep(0.002)
    raise AssertionError("strace did not attach")


def problems(folder: Path, dataset, acknowledged: list[str]) -> list[str]:
    """What is wrong with a folder after a kill, and after the work was done again."""
    found = []
    try:
        store = Store(folder, IDENTITY)
        parts = store.parts(1)
        if store.is_finished():
            if not results.open_dataset(folder / "sweep.nc").identical(dataset):
                found.append("the Dataset differs")
        else:
            for name in NAMES:
                whole = parts.read(name)
                if whole is None and name in acknowledged:
                    found.append(f"{name} was acknowledged and is not there")
                if (
                    whole is not None
                    and not (whole["tally/loss"] == arrays(name)["tally/loss"]).all()
                ):
                    found.append(f"{name} is not what was written")
            if parts.damaged:
                found.append(f"{parts.damaged} are damaged")
            if "finished" in acknowledged:
                found.append("the Dataset was acknowledged and is not there")
        said: list[str] = []
        work(folder, dataset, said.append)
        if said[-1] != "finished" or not Store(folder, IDENTITY).finished().identical(dataset):
            found.append("going on gave another Dataset")
        left = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".tmp"))
        if left != ["sweep.json", "sweep.nc"]:
            found.append(f"{left} are left")
    except Exception as error:  # noqa: BLE001 - whatever it is, the store broke
        found.append(repr(error))
    return found


def points(tmp_path: Path, dataset, calls=CALLS, stride=1):
    """Kill at one of so many calls of a kind until the work gets through; say what is wrong."""
    for first, call in enumerate(calls):
        when, alive = 1 + first % stride, False
        while not alive:
            folder = tmp_path / f"{call.partition(',')[0]}-{when}"
            acknowledged, was_killed = killed(folder, dataset, call, when)
            alive = not was_killed
            yield call, when, was_killed, problems(folder, dataset, acknowledged)
            shutil.rmtree(folder)
            when += stride


@pytest.mark.parametrize(("stride", "least"), [(3, 7), pytest.param(1, 21, marks=pytest.mark.slow)])
def test_a_kill_at_any_call_costs_nothing_that_was_acknowledged(tmp_path, dataset, stride, least):
    kills = 0
    for call, when, was_killed, found in points(tmp_path, dataset, stride=stride):
        assert not found, (call, when, found)
        kills += was_killed
    assert kills >= least


def _torn(path, content, *, once=False):
    """Write in place: half a file is there for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (once and path.exists()):
        with open(path, "wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            file.write(content[len(content) // 2 :])
    return path


def _late(path, content, *, once=False):
    """Acknowledge before the file has its name."""
    if path.suffix != ".npz":
        return _write_bytes(path, content, once=once)
    _pending.append((path, content))
    if len(_pending) > 1:
        _write_bytes(*_pending.pop(0))
    return path


_write_bytes = writing.write_bytes
_pending: list = []


def _clears_first(self, ds):
    """Remove the parts before the Dataset is written."""
    self._clear()
    return results.save(ds, self.folder / "sweep.nc")


@pytest.mark.parametrize(
    ("target", "name", "mistake", "calls"),
    [
        (writing, "write_bytes", _torn, ("write",)),
        (writing, "write_bytes", _late, ("fsync",)),
        (Store, "finish", _clears_first, ("unlink,unlinkat", "fsync")),
    ],
    ids=["writes in place", "acknowledges first", "clears first"],
)
def test_planted_mistakes_are_noticed(tmp_path, dataset, monkeypatch, target, name, mistake, calls):
    monkeypatch.setattr(target, name, mistake)
    assert any(found for *_, found in points(tmp_path, dataset, calls))
