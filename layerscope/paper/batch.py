"""Run many experiments, one after the other or several at once.

>>> from layerscope.paper import batch
>>> [task.name for task in batch.plan("smoke")][:3]
['fcn-mnist', 'fcn-mnist-recipe', 'fcn-cifar10']
>>> batch.run_all("smoke", out="runs")                                      # doctest: +SKIP

Each experiment runs in a process of its own, so that one which fails, or is killed for its memory,
takes no other with it. What is finished already is not done again, and a series that several
experiments need is trained once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.base import validate
from layerscope.base.extras import extra
from layerscope.errors import OptionError, choose
from layerscope.paper import experiments, reproduce

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Outcome", "Task", "plan", "run_all", "workers_of"]

_COMMAND = (sys.executable, "-m", "layerscope.cli", "reproduce")
_LOOK_EVERY_S = 1.0

_Ended = tuple[int, str, str]
"""Status, output and complaints of a process that has ended."""


@dataclass(frozen=True)
class Task:
    """An experiment that is to be run.

    Attributes
    ----------
    name : str
    minutes : float
        Expected, see `experiments.Scale`.
    expected : str
        The same in words, with what it is expected on.
    there : bool
        Whether a run is there; whether it is of the same notebook, parameters and data is seen
        when its turn comes.
    """

    name: str
    minutes: float
    expected: str
    there: bool


@dataclass(frozen=True)
class Outcome:
    """Result of running an experiment.

    Attributes
    ----------
    name : str
    error : str
        Empty, or what went wrong in which cell of the notebook.
    seconds : float
    reused : bool
        Whether it was finished before.
    """

    name: str
    error: str
    seconds: float
    reused: bool


def plan(
    scale: str = "small",
    *,
    names: Sequence[str] | None = None,
    out: str | os.PathLike[str] = "papermill_runs",
) -> list[Task]:
    """Say what is to be run, in the order of the catalogue.

    Parameters
    ----------
    scale : str
    names : sequence of str, optional
        As `experiments.find` takes them; by default every experiment that has the scale.
    out : path
        As for `reproduce.run`.

    Raises
    ------
    OptionError
        If there is no such experiment or scale.
    """
    choose(scale, experiments.SCALES, "scale")
    if names is None:
        names = [each.name for each in experiments.EXPERIMENTS.values() if scale in each.scales]
    found = []
    for name in names:
        known = experiments.find(name)
        size = known.scales[choose(scale, known.scales, f"scale of {name} called")]
        there = (Path(out) / known.name / scale / reproduce.MANIFEST).is_file()
        found.append(Task(name, size.minutes, size.expected, there))
    return found


def run_all(
    scale: str = "small",
    *,
    names: Sequence[str] | None = None,
    jobs: int = 1,
    out: str | os.PathLike[str] = "papermill_runs",
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = True,
    started: Callable[[str], object] | None = None,
    ended: Callable[[Outcome], object] | None = None,
    client: Client | None = None,
) -> list[Outcome]:
    """Run experiments; those that fail don't keep the others from running.

    Parameters
    ----------
    scale, names, out
        As for `plan`.
    jobs : int
        How many at once; they share the machine's cores evenly.
    data_root, device, resume
        As for `reproduce.run`.
    started, ended : callable
        Called with the name when an experiment starts, and with its outcome when it ends; one
        call at a time.
    client : distributed.Client, optional
        Have the experiments run by the workers of a Dask cluster, one by each at a time, whatever
        `jobs` says. All of them must see `out` and `data_root` under the same paths.

    Returns
    -------
    list of Outcome
        In the order of the plan.

    Raises
    ------
    OptionError
        If there is no such experiment or scale, or `jobs` is below 1.
    KeyboardInterrupt
        After the experiments that were running have been stopped; the same call goes on there.
    """
    if jobs < 1:
        raise OptionError(f"jobs is {jobs}; at least one experiment must run at a time.")
    # Workers may stand in other folders than this process.
    place = (lambda path: os.fspath(validate.resolve(path))) if client is not None else os.fspath
    options = ["--scale", scale, "--out", place(out), "--device", device]
    options += [] if data_root is None else ["--data-root", place(data_root)]
    options += [] if resume else ["--no-resume"]
    runs: _Runs
    if client is None:
        runs = _Processes(options, _environment(jobs), started, ended)
    else:
        runs, jobs = _Cluster(client, options, started, ended), workers_of(client)
    names = [task.name for task in plan(scale, names=names, out=out)]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(runs.run, name) for name in names]
        try:
            return [future.result() for future in futures]
        except BaseException:
            runs.stop()
            pool.shutdown(cancel_futures=True)
            raise


def workers_of(client: Client) -> int:
    """Count the workers of a cluster: so many experiments run at a time."""
    return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


class _Runs:
    """Experiments that are running, wherever they do."""

    def __init__(
        self,
        started: Callable[[str], object] | None,
        ended: Callable[[Outcome], object] | None,
    ) -> None:
        self.started, self.ended = started, ended
        self.lock = threading.Lock()
        self.stopped = False

    def run(self, name: str) -> Outcome:
        """Run one experiment to its end."""
        began = time.monotonic()
        with self.lock:
            if self.stopped:
                return Outcome(name, "not started", 0.0, False)
            wait = self.start(name)
            if self.started:
                self.started(name)
        code, said, complaint = wait()
        error = _complaint(code, complaint)
        spent = round(time.monotonic() - began, 1)
        outcome = Outcome(name, error, spent, not error and said.startswith("finished before"))
        with self.lock:
            if self.ended and not self.stopped:
                self.ended(outcome)
        return outcome

    def start(self, name: str) -> Callable[[], _Ended]:
        """Start one; return what waits until it has ended."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs; what is recorded of it stays."""
        with self.lock:
            self.stopped = True
            self.end()

    def end(self) -> None:
        """End what runs."""
        raise NotImplementedError


class _Processes(_Runs):
    """Experiments as processes of this machine."""

    def __init__(
        self,
        options: Sequence[str],
        environment: dict[str, str],
        started: Callable[[str], object] | None,
        ended: Callable[[Outcome], object] | None,
    ) -> None:
        super().__init__(started, ended)
        self.options, self.environment = options, environment
        self.processes: set[subprocess.Popen[str]] = set()

    def start(self, name: str) -> Callable[[], _Ended]:
        process = _opened([*_COMMAND, name, *self.options], self.environment)
        self.processes.add(process)

        def wait() -> _Ended:
            said, complaint = process.communicate()
            with self.lock:
                self.processes.discard(process)
            return process.returncode, said, complaint

        return wait

    def end(self) -> None:
        for process in self.processes:
            process.terminate()


class _Cluster(_Runs):
    """Experiments as tasks of a Dask cluster, each in a process of its own beside the worker."""

    def __init__(
        self,
        client: Client,
        options: Sequence[str],
        started: Callable[[str], object] | None,
        ended: Callable[[Outcome], object] | None,
    ) -> None:
        super().__init__(started, ended)
        with extra("dask", "running experiments on a cluster"):
            from distributed import Event
        self.client, self.options = client, options
        name = f"layerscope-{uuid.uuid4().hex}"
        self.over = Event(name, client=client)

    def start(self, name: str) -> Callable[[], _Ended]:
        words = [*_COMMAND[1:], name, *self.options]
        key = f"layerscope-{name}-{uuid.uuid4().hex}"
        future = self.client.submit(_beside, words, self.over.name, key=key, pure=False)

        def wait() -> _Ended:
            try:
                found: _Ended = future.result()
            except Exception as error:  # noqa: BLE001 - such as a worker that was killed
                return 1, "", f"its worker gave nothing back: {error!r}"
            return found

        return wait

    def end(self) -> None:
        self.over.set()


def _beside(words: Sequence[str], over: str) -> _Ended:
    """Run the command beside the worker that this is called on, until it ends or all is over."""
    from distributed import Event

    stop = Event(over)
    process = _opened([sys.executable, *words], dict(os.environ))
    try:
        while True:
            try:
                said, complaint = process.communicate(timeout=_LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    process.terminate()
            else:
                return process.returncode, said, complaint
    finally:
        process.kill()


def _opened(words: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command, its parts checked
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )


def _complaint(code: int, text: str) -> str:
    if code == 0:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    # From where the error starts: progress comes before it, and messages may be of several lines.
    marks = [at for at, line in enumerate(lines) if line.startswith(("layerscope:", "Traceback"))]
    about = "\n".join(lines[marks[-1] :] if marks else lines[-1:])
    return about.removeprefix("layerscope: ") or f"its process ended with status {code}"


def _environment(jobs: int) -> dict[str, str]:
    """Divide the cores among the jobs, unless the user has done so."""
    found = dict(os.environ)
    if jobs > 1:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return found
