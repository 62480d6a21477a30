"""Killed before, halfway through or after any call that writes, nothing is lost or left behind.

A child process does the work and kills itself at its n-th point: before and after every call that
makes, fills, names or removes a file, and in the middle of every write. Whatever n: what was
finished is there, the same call done again ends as it does undisturbed, records nothing twice, and
leaves neither in the folder nor in the temporary folder a file that does not belong there. The same
is then tried on code with mistakes planted in it, to show that they would be noticed.
"""

from __future__ import annotations

import builtins
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import xarray as xr
from memo import remembered_netcdf

import layerscope
from layerscope import data, models, results, testing
from layerscope.base import owners
from layerscope.core.sweep import _fragments as fragments
from layerscope.core.sweep._store import Parts
from layerscope.errors import LayerscopeError
from layerscope.paper import experiments, reproduce
from layerscope.paper.reproduce import _folder
from layerscope.results import _files
from layerscope.zoo import training

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NET, *NETS = [models.build("fcn-1x4", seed=seed, inputs=(4,), classes=3) for seed in (2, 0, 1)]
STATES = {epoch: net.state_dict() for epoch, net in enumerate(NETS)}
CHANCE = torch.Generator().manual_seed(0)
PAIR = torch.randn(12, 4, generator=CHANCE), torch.arange(12) % 3


@pytest.fixture(autouse=True)
def _collecting_garbage_again():
    yield
    gc.unfreeze()


# Dying in a child process


class Points:
    """Counts the points at which a process may be killed, and dies at one of them."""

    NAMES = ("replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "fsync")

    def __init__(self, fatal: int, how: int = signal.SIGKILL) -> None:
        self.fatal, self.how, self.count = fatal, how, 0

    def at(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), self.how)

    def install(self) -> None:
        for name in self.NAMES:
            setattr(os, name, self.around(getattr(os, name)))
        os.write = self.halved(os.write)
        os.open = self.opening(os.open)
        builtins.open = io.open = self.opening(builtins.open)

    def around(self, call: Callable) -> Callable:
        def counted(*given, **options):
            self.at()
            result = call(*given, **options)
            self.at()
            return result

        return counted

    def halved(self, write: Callable) -> Callable:
        def counted(to, content):
            self.at()
            half = len(content) // 2
            done = write(to, content[:half]) if half else 0
            self.at()
            done += write(to, content[half:]) if done == half else 0
            self.at()
            return done

        return counted

    def opening(self, call: Callable) -> Callable:
        def counted(path, how=None, *given, **options):
            how = options.pop("mode", how)
            how = "r" if how is None else how
            plain = isinstance(how, int)
            changes = how & (os.O_WRONLY | os.O_RDWR) if plain else set(how) & set("wxa+")
            if not changes:
                return call(path, how, *given, **options)
            self.at()
            if plain or "b" not in how:
                file = call(path, how, *given, **options)
            else:
                # So that what was written is there, as far as it was, when the process dies.
                file = Written(call(path, how, 0), self)
            self.at()
            return file

        return counted


class Written:
    """A file whose writes are counted."""

    def __init__(self, file, points: Points) -> None:
        self._file = file
        self.write = lambda content: points.halved(lambda to, some: to.write(some))(
            file, memoryview(content).cast("B")
        )

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@dataclass
class Child:
    """A process of its own that does some work and says a few lines."""

    work: Callable[[Callable[[str], None]], object]
    fatal: int = 0
    said: list[str] = field(default_factory=list)
    points: int = 0

    def start(self) -> Child:
        told, tell = os.pipe()
        # Else one that comes at once ends in what the child would do as its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.pid = os.fork()
        if self.pid == 0:
            self._live(tell)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.close(tell)
        self._told = told
        return self

    def join(self) -> bool:
        """Wait for its end; False where it was killed. An error in it is one here."""
        with os.fdopen(self._told) as lines:
            said = lines.read().splitlines()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            self.said = said
            return os.WTERMSIG(status) != signal.SIGKILL
        *self.said, last = said
        assert os.waitstatus_to_exitcode(status) == 0, "\n".join(said)
        self.points = int(last)
        return True

    def _live(self, tell: int) -> None:
        write = os.write
        points = Points(self.fatal)
        failed = 0
        try:
            points.install()
            with suppress(KeyboardInterrupt):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                self.work(lambda line: write(tell, f"{line}\n".encode()))
            write(tell, f"{points.count}\n".encode())
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            write(tell, traceback.format_exc().encode())
            failed = 1
        finally:
            os._exit(failed)


# Work that may be killed


class Work:
    """Something that writes into a folder, and what has to be there afterwards."""

    def before(self, folder: Path) -> None:
        """What is there before."""

    def do(self, folder: Path, say: Callable[[str], None]) -> None:
        raise NotImplementedError

    def at_once(self, folder: Path) -> None:
        """Check what has to be there right after the kill."""

    def done(self, folder: Path) -> object:
        """What came out, to be compared bit for bit."""
        raise NotImplementedError


def bits(ds: xr.Dataset) -> dict[str, object]:
    return {
        str(name): (
            each.dims,
            each.values.tolist() if each.dtype == object else each.data.tobytes(),
        )
        for name, each in ds.variables.items()
    }


class Sweep(Work):
    """With what every example gave."""

    batch_size = 6

    def do(self, folder, say):
        write = Parts.write

        def saying(parts, name, arrays):
            write(parts, name, arrays)
            say(name)

        Parts.write = saying
        layerscope.sweep(
            NET, PAIR, checkpoints=STATES, layers=["layer1"], out=folder / "out",
            device="cpu", show_progress=False, draws=1, batch_size=self.batch_size, epochs=[0],
            outcomes=True,
        )  # fmt: skip

    def done(self, folder):
        found = results.open_dataset(folder / "out" / "sweep.nc")
        kept = results.open_dataset(folder / "out" / "outcomes.nc")
        return bits(found), bits(kept)


class Train(Work):
    """Recording two epochs, and where it stands after every step."""

    def do(self, folder, _):
        training._loop._SAVE_EVERY_S = 0.0
        images = torch.arange(6 * 9).reshape(6, 1, 3, 3).to(torch.uint8)
        part = data.Examples(images, torch.arange(6) % 3, (0.5,), (0.5,))
        given = data.ImageData("six", part, part, 3, "here")
        training.train(
            "fcn-1x4", given, training.Recipe(epochs=2, batch_size=3), out=folder / "out",
            device="cpu", show_progress=False,
        )  # fmt: skip

    def done(self, folder):
        (run,) = (folder / "out").iterdir()
        about = layerscope.open_series(run).manifest
        return {**about, "seconds": None}


class Save(Work):
    """In place of an older Dataset."""

    old, new = (testing.dataset(layers=2, epochs=(0, 1), draws=draws) for draws in (1, 2))

    def before(self, folder):
        results.save(self.old, folder / "kept.nc")

    def do(self, folder, _):
        results.save(self.new, folder / "kept.nc")

    def at_once(self, folder):
        found = results.open_dataset(folder / "kept.nc").sizes["draw"]
        assert found in (1, 2), "the file that was there is gone"

    def done(self, folder):
        return bits(results.open_dataset(folder / "kept.nc"))


class Reproduce(Work):
    """Once more, where it is finished already, with a file of the user's beside it."""

    def before(self, folder):
        (folder / "tiny.ipynb").write_text(NOTEBOOK)
        self.do(folder, print)
        (folder / "runs" / "tiny" / "smoke" / "notes.txt").write_text("mine")

    def do(self, folder, _):
        reproduce.execute = self.execute
        reproduce.run(
            folder / "tiny.ipynb", "smoke", out=folder / "runs", resume=False, device="cpu",
            show_progress=False,
        )  # fmt: skip

    @staticmethod
    def execute(source, place, *_):
        shutil.copy(source, place / source.name)
        experiments.keep(place, title="tiny", datasets={"sweep": Save.old})

    def at_once(self, folder):
        assert (folder / "runs" / "tiny" / "smoke" / "manifest.json").is_file(), "the run is gone"

    def done(self, folder):
        run = folder / "runs" / "tiny" / "smoke"
        about = json.loads((run / "manifest.json").read_text())
        kept = run / "notes.txt", run / "sweep.nc"
        return about["files"], [path.read_bytes() for path in kept]


class ReproduceByTwoRenames(Reproduce):
    """Where the system can't swap two folders: what is missing for a moment comes back."""

    def do(self, folder, say):
        _folder._exchange = lambda *_: False
        super().do(folder, say)

    def at_once(self, folder):
        Child(lambda _: _folder.recover(folder / "runs" / "tiny" / "smoke")).start().join()
        super().at_once(folder)


NOTEBOOK = """{"cells": [
 {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [],
  "execution_count": null, "source": "out = None\\ndevice = 'auto'\\nseeds = 1"},
 {"cell_type": "code", "metadata": {"tags": ["scales"]}, "outputs": [],
  "execution_count": null, "source": "title = 'Tiny'\\nscales = {'smoke': {}}"}],
 "metadata": {}, "nbformat": 4, "nbformat_minor": 5}"""

WORKS = [Sweep(), Train(), Save(), Reproduce(), ReproduceByTwoRenames()]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def recorded(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.npz") if not path.name.startswith(".")}


class Killing:
    """Kills a kind of work at any of its points, and looks at what came of it."""

    def __init__(self, work: Work, place: Path) -> None:
        self.work, self.place = work, place
        (place / "before" / "tmp").mkdir(parents=True)
        self.warm()
        assert Child(lambda _: work.before(place / "before")).start().join()
        shutil.copytree(place / "before", place / "whole")
        undisturbed = self.child(place / "whole").start()
        assert undisturbed.join()
        self.points, self.all = undisturbed.points, set(undisturbed.said)
        self.names, self.done = names(place / "whole"), work.done(place / "whole")

    def warm(self) -> None:
        """Load here what children would each load again."""
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            # It is put back with the context.
            patch.setattr(training._loop, "_SAVE_EVERY_S", 0.0)
            patch.setattr(reproduce, "execute", None)
            patch.setattr(_folder, "_exchange", _folder._exchange)
            patch.setattr(Parts, "write", Parts.write)
            self.work.before(Path(folder))
            self.work.do(Path(folder), print)
            self.work.done(Path(folder))
        gc.collect()
        gc.freeze()  # else every child copies what it looks through

    def child(self, folder: Path, fatal: int = 0) -> Child:
        def work(say):
            tempfile.tempdir = str(folder / "tmp")
            self.work.do(folder, say)

        return Child(work, fatal)

    def problems(self, fatal: int) -> list[str]:
        """Kill it at a point, do it again, and say what is wrong."""
        folder = self.place / str(fatal)
        shutil.copytree(self.place / "before", folder)
        try:
            return self._problems(folder, fatal)
        except (AssertionError, LayerscopeError, OSError, ValueError) as error:
            return [f"{type(error).__name__}: {error}"]
        finally:
            shutil.rmtree(folder)

    def _problems(self, folder: Path, fatal: int) -> list[str]:
        first = self.child(folder, fatal).start()
        assert not first.join(), "it was not killed"
        self.work.at_once(folder)
        known, found = recorded(folder), []
        if lost := set(first.said) - known and not (folder / "out" / "sweep.nc").is_file():
            found.append(f"{lost} were recorded and are not there")
        again = self.child(folder).start()
        assert again.join()
        if twice := known & set(again.said):
            found.append(f"{twice} are recorded twice")
        if self.work.done(folder) != self.done:
            found.append("it ends otherwise")
        if (left := names(folder)) != self.names:
            found.append(f"{sorted(set(left) ^ set(self.names))} is too much or too little")
        return found


FRESH = "LAYERSCOPE_TEST_IN_A_FRESH_PROCESS"


def in_a_fresh_process(request, work) -> bool:
    """Run a test of a training in a process of its own, unless this is it.

    Autograd does not run in forks of a process that it ran in, as in tests before this one.
    """
    if not isinstance(work, Train) or FRESH in os.environ:
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", request.node.nodeid]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        command, cwd=request.config.rootpath, env=env | {FRESH: "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    return True


@pytest.mark.parametrize("work", WORKS[:-1], ids=lambda work: type(work).__name__)
def test_a_kill_at_some_points_loses_nothing_and_leaves_nothing(request, tmp_path, work):
    if in_a_fresh_process(request, work):
        return
    killing = Killing(work, tmp_path)
    points = range(3, killing.points + 1, killing.points // 3)
    wrong = {point: found for point in points if (found := killing.problems(point))}
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("work", WORKS, ids=lambda work: type(work).__name__)
def test_a_kill_at_any_point_loses_nothing_and_leaves_nothing(request, tmp_path, work, first):
    if in_a_fresh_process(request, work):
        return
    with remembered_netcdf():
        killing = Killing(work, tmp_path)
        points = range(first, killing.points + 1, 3)
        print(f"{type(work).__name__}: {len(points)} of {killing.points} points")
        wrong = {point: found for point in points if (found := killing.problems(point))}
    assert wrong == {}


# Several processes


class LongSweep(Sweep):
    """With more parts than processes."""

    batch_size = 2


class Crowd:
    """Processes at one sweep, of which some are stopped, paused or killed at any moment."""

    def __init__(self, folder: Path, chance: random.Random, size: int = 3) -> None:
        self.folder, self.chance = folder, chance
        (folder / "tmp").mkdir(parents=True)
        self.sent: Counter[str] = Counter()
        self.running = [self.begin() for _ in range(size)]

    def begin(self) -> Child:
        def work(say):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tempfile.tempdir = str(self.folder / "tmp")
            LongSweep().do(self.folder, say)

        return Child(work).start()

    def disturb(self) -> None:
        """Do something to one of them; who is gone is replaced."""
        # Mostly while they compute, now and then while they put the Dataset together.
        time.sleep(self.chance.random() * self.chance.choice((0.05, 0.05, 0.8)))
        at = self.chance.randrange(len(self.running))
        how = self.chance.choice((signal.SIGKILL, signal.SIGINT, signal.SIGSTOP))
        child = self.running[at]
        self.sent[f"{how.name} after {len(recorded(self.folder))} parts"] += 1
        os.kill(child.pid, how)
        if how is signal.SIGSTOP:
            time.sleep(self.chance.random() * 0.04)
            os.kill(child.pid, signal.SIGCONT)
            return
        child.join()
        self.running[at] = self.begin()

    def finish(self) -> None:
        for child in self.running:
            assert child.join()


def crowd_problems(killing: Killing, seed: int, sent: Counter[str]) -> list[str]:
    folder = killing.place / f"crowd-{seed}"
    try:
        chance = random.Random(seed)
        crowd = Crowd(folder, chance)
        for _ in range(chance.randrange(1, 6)):
            crowd.disturb()
        crowd.finish()
        sent += crowd.sent
        # The next run sweeps what those that were killed left.
        assert killing.child(folder).start().join()
        found = [] if killing.work.done(folder) == killing.done else ["it ends otherwise"]
        left = set(names(folder)) ^ set(killing.names)
        return found + [f"{sorted(left)} is too much or too little"] * bool(left)
    except (AssertionError, LayerscopeError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_processes_that_are_stopped_and_killed_at_random_end_with_the_right_numbers(
    tmp_path, first
):
    sent = Counter()
    seeds = range(first, first + 25)
    with remembered_netcdf():
        killing = Killing(LongSweep(), tmp_path)
        wrong = {seed: found for seed in seeds if (found := crowd_problems(killing, seed, sent))}
    print(sorted(sent.items()), *wrong.items(), sep="\n")  # an assertion cuts them
    assert wrong == {}


# Mistakes, planted


def _names_first(path, content, *, once=False):
    """Give a file its name before it has its content."""
    if not (once and path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return path


def _claimed_is_not_needed(self, part):
    """Pass over what somebody claimed and did not record, as if nobody needed it."""
    batch = self.sums.next[part]
    claimed = any(
        part in fragments.Fragment.of(path.stem).parts
        for path in self.store._folder.glob(f"batch-{batch:06d}-*.claim")
    )
    if claimed and not self.knows(batch, part):
        self.sums.skip(part)
        return True
    return _add_next(self, part)


_add_next = fragments.Fragments._add_next


@pytest.mark.parametrize(
    ("work", "target", "name", "mistake"),
    [
        pytest.param(Save(), _files, "write_bytes", _names_first, id="name before data"),
        pytest.param(
            *(Sweep(), fragments.Fragments, "_add_next", _claimed_is_not_needed),
            id="missing is not needed", marks=pytest.mark.slow,
        ),
        pytest.param(
            *(Sweep(), owners, "sweep_drafts", lambda *_: None),
            id="drafts stay", marks=pytest.mark.slow,
        ),
        pytest.param(
            *(Reproduce(), owners, "left_beside", lambda *_, **__: []), id="a run aside stays"
        ),
    ],
)  # fmt: skip
def test_planted_mistakes_are_noticed(tmp_path, monkeypatch, work, target, name, mistake):
    killing = Killing(work, tmp_path)
    monkeypatch.setattr(target, name, mistake)
    points = list(range(1, killing.points + 1))
    random.Random(0).shuffle(points)
    assert any(killing.problems(point) for point in points)
