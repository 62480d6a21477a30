"""Trainings of an experiment on the workers of a cluster, one by each at a time.

A notebook trains by `trained`, which finds the cluster's address in the environment. Which networks
it will train is only known once it runs, and then it asks for one after the other. So whoever runs
it on a cluster lets it run for this alone first: until something asks what a training gave, every
call notes what it would train, and all that was noted is trained at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope import errors
from layerscope.base import progress
from layerscope.base.extras import extra
from layerscope.base.writing import write_bytes
from layerscope.errors import ClusterError, LayerscopeError, OptionError
from layerscope.paper.experiments._saved import SavedTraining, saved_folder

if TYPE_CHECKING:
    from distributed import Client, Future

    from layerscope.core.checkpoints import Series

__all__ = [
    "CLUSTER_VARIABLE",
    "REHEARSAL_VARIABLE",
    "Packed",
    "Training",
    "Untrained",
    "cluster",
    "noted",
    "rehearsing",
    "spread",
    "train_all",
]

CLUSTER_VARIABLE = "LAYERSCOPE_CLUSTER"
"""Environment variable with the address of the scheduler whose workers train and sweep."""

REHEARSAL_VARIABLE = "LAYERSCOPE_REHEARSAL"
"""Environment variable with the folder to note trainings in, instead of doing them."""

_PURPOSE = "training on a cluster"
_LOOK_EVERY_S = 0.5
_CHILD = "from layerscope.paper.experiments._spreading import child; child()"


@dataclass(frozen=True)
class Training:
    """Arguments of `training.train`, but for where it is kept."""

    network: Any
    data: Any
    recipe: Any
    seed: int
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, place: Path) -> Series:
        """Train here."""
        from layerscope.zoo import training

        given = {"seed": self.seed, "device": self.device, "out": place, **self.options}
        with warnings.catch_warnings():
            # Several notebooks that run at once wait for each other; that is no part of what they
            # find.
            warnings.filterwarnings("ignore", "another process trains")
            return training.train(self.network, self.data, self.recipe, **given)

    def find(self, place: Path) -> Series | None:
        """Open what is trained already."""
        from layerscope.zoo.training import open_trained

        options = {key: each for key, each in self.options.items() if key != "show_progress"}
        given = {"seed": self.seed, "device": self.device, "out": place, **options}
        try:
            return open_trained(self.network, self.data, self.recipe, **given)
        except OptionError:  # such as a device that only workers have; they say what else is wrong
            return None


class Untrained:
    """Stands for what depends on a training, in a rehearsal; whoever asks it anything ends that."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the rehearsal is over: from here on, networks must have been trained.")


def rehearsing(*values: Any) -> bool:
    """Tell whether this is a rehearsal, or some of the values are of one."""
    return REHEARSAL_VARIABLE in os.environ or any(isinstance(v, Untrained) for v in values)


def train_all(asked: Sequence[Training], place: Path) -> list[Series]:
    """Train here, or by the workers of the cluster that the environment names.

    Where a finished run is judged again nothing is trained, and each stands for what it left.

    Parameters
    ----------
    asked : sequence of Training
    place : Path
        Folder of all series.
    """
    if REHEARSAL_VARIABLE in os.environ:
        _note(asked, Path(os.environ[REHEARSAL_VARIABLE]))
        return [Untrained() for _ in asked]  # type: ignore[misc]
    if saved_folder() is not None:
        return [SavedTraining.of(each) for each in asked]  # type: ignore[misc]
    if (client := cluster()) is None:
        return [each.run(place) for each in asked]
    from layerscope.core.checkpoints import open_series

    found = [each.find(place) for each in asked]
    missing = [Packed.of(each) for each, series in zip(asked, found, strict=True) if not series]
    folders = iter(spread(client, missing, place))
    return [open_series(next(folders)) if series is None else series for series in found]


def cluster() -> Client | None:
    """Connect to the cluster that the environment names, once in a process."""
    where = os.environ.get(CLUSTER_VARIABLE)
    return None if where is None or REHEARSAL_VARIABLE in os.environ else _connected(where)


_KEPT = contextlib.ExitStack()
"""Connections, for as long as the process lives, which is a notebook's."""


@cache
def _connected(where: str) -> Client:
    from layerscope.core import sweep as engine

    return _KEPT.enter_context(engine.connect(where))


@dataclass(frozen=True)
class Packed:
    """A training in bytes: its data, which others may have too, and all else."""

    data: bytes
    rest: bytes

    @classmethod
    def of(cls, asked: Training) -> Packed:
        """Turn a training into bytes.

        Raises
        ------
        OptionError
            If something of the user's own can't be sent.
        """
        with extra("dask", _PURPOSE):
            import cloudpickle

        try:
            rest = cloudpickle.dumps(replace(asked, data=None))
            return cls(cloudpickle.dumps(asked.data), rest)
        except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
            raise OptionError(f"the training can't be sent to the workers: {error}.") from error


def _note(asked: Sequence[Training], folder: Path) -> None:
    for each in map(Packed.of, asked):
        data = _digest(each.data)
        if not (folder / f"{data}.data").exists():
            write_bytes(folder / f"{data}.data", each.data)
        name = f"{time.time_ns():020d}-{data}-{_digest(each.rest)}.training"
        write_bytes(folder / name, each.rest)


def noted(folder: Path) -> list[Packed]:
    """Read what a rehearsal noted, in the order in which it was; what came twice once."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.training")):
        found.setdefault(path.stem.partition("-")[2], path)
    data = {path.stem: path.read_bytes() for path in folder.glob("*.data")}
    return [Packed(data[n.partition("-")[0]], p.read_bytes()) for n, p in found.items()]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spread(client: Client, asked: Sequence[Packed], place: Path) -> list[str]:
    """Have the workers of a cluster train, one network by each at a time.

    Parameters
    ----------
    client : distributed.Client
    asked : sequence of Packed
    place : Path
        Folder of all series, which every worker must see under the same path.

    Returns
    -------
    list of str
        Folder of each series.

    Raises
    ------
    ClusterError
        If a worker does not see the folder, or the cluster answers no more.
    LayerscopeError
        As the training does.
    """
    if not asked:
        return []
    from layerscope.core import sweep as engine

    place = place.absolute()
    what = f"train on {engine.count_workers(client)} workers"
    with (
        engine.explained(client, lambda: f"what was recorded is safe in {place}"),
        _mark(place) as mark,
        _submitted(client, asked, mark) as futures,
        progress.bar(len(asked), what, "network") as advance,
    ):
        return _gathered(futures, advance)


@contextlib.contextmanager
def _mark(place: Path) -> Iterator[Path]:
    """Leave a file that a worker sees if it sees the folder."""
    mark = place / f".seen-{uuid.uuid4().hex}.tmp"
    write_bytes(mark, b"")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _submitted(client: Client, asked: Sequence[Packed], mark: Path) -> Iterator[list[Future[Any]]]:
    from layerscope.core import sweep as engine

    blind = [
        address
        for address, sees in client.run(_sees, str(mark), on_error="ignore").items()
        if not sees
    ]
    if blind:
        raise _blindness(", ".join(sorted(blind)[:3]), mark.parent)
    content = dict.fromkeys(part for each in asked for part in (each.data, each.rest))
    held = {part: engine.hold(client, part) for part in content}
    key = f"layerscope-train-{uuid.uuid4().hex}"
    futures = [
        client.submit(
            _beside, held[each.data], held[each.rest], str(mark), key=f"{key}-{at}", pure=False
        )
        for at, each in enumerate(asked)
    ]
    try:
        yield futures
    finally:
        if client.status == "running":
            client.cancel([*futures, *held.values()], force=True)


def _gathered(futures: Sequence[Future[Any]], advance: progress.Advance) -> list[str]:
    """Wait for all, and raise the error of the first that failed once all others are through."""
    from distributed import KilledWorker

    waiting, found = list(futures), dict[Any, dict[str, str]]()
    while waiting:
        ended = [each for each in waiting if each.done()]
        for each in ended:
            try:
                found[each] = each.result()
            except KilledWorker as error:
                found[each] = {"error": "KilledWorker", "message": str(error)}
        waiting = [each for each in waiting if each not in found]
        advance(len(ended))
        time.sleep(_LOOK_EVERY_S if waiting else 0)
    answers = [found[each] for each in futures]
    for answer in answers:
        if "error" in answer:
            raise _error(answer)
    return [answer["folder"] for answer in answers]


def _error(answer: Mapping[str, str]) -> LayerscopeError:
    kind = getattr(errors, answer["error"], None)
    if isinstance(kind, type) and issubclass(kind, LayerscopeError):
        return kind(answer["message"])
    return ClusterError(f"a training failed at its worker: {answer['error']}: {answer['message']}")


# In the workers


def _sees(mark: str) -> bool:
    return Path(mark).is_file()


def _blindness(where: str, place: Path) -> ClusterError:
    return ClusterError(
        f"{where} does not see {place}, so that what it trains would be lost; give a folder with "
        "--out that all workers see under the same path."
    )


def _beside(data: bytes, rest: bytes, mark: str) -> dict[str, str]:
    """Train in a process beside the worker that this is called on, as long as anybody waits."""
    import torch
    from distributed import get_worker

    from layerscope.core import sweep as engine

    place = Path(mark).parent
    if not _sees(mark):
        about = _blindness(f"the worker {get_worker().address}", place)
        return {"error": "ClusterError", "message": str(about)}
    wanted = engine.still_wanted()
    how = {"OMP_NUM_THREADS": str(torch.get_num_threads()), progress.RELAY: "off"}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", _CHILD, str(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **how},
    )  # fmt: skip
    _feed(process, data + rest)
    try:
        while True:
            try:
                said, complaint = process.communicate(timeout=_LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                if not wanted():
                    process.terminate()
            else:
                return _answer(said, complaint, process.returncode)
    finally:
        process.kill()


def _feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    """Write to a process in a thread: `communicate` forgets what it could not write in time."""
    pipe, process.stdin = process.stdin, None
    assert pipe is not None

    def write() -> None:
        with contextlib.suppress(OSError), pipe:  # it may have ended
            pipe.write(content)

    threading.Thread(target=write, daemon=True).start()


def _answer(said: bytes, complaint: bytes, status: int) -> dict[str, str]:
    lines = said.decode(errors="replace").splitlines()
    with contextlib.suppress(ValueError, IndexError):
        return dict(json.loads(lines[-1]))
    last = complaint.decode(errors="replace").strip().splitlines()[-1:]
    return {"error": f"status {status}", "message": "".join(last) or "it was killed"}


def child() -> None:
    """Train what comes on the standard input, and say where it is."""
    _end_with_parent(os.getppid())
    # Nobody sends it but the driver that the worker works for.
    data, rest = (pickle.load(sys.stdin.buffer) for _ in range(2))  # noqa: S301
    asked: Training = replace(rest, data=data)
    try:
        answer = {"folder": str(asked.run(Path(sys.argv[1])).folder)}
    except LayerscopeError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)


def _end_with_parent(parent: int) -> None:
    """End when the worker does: one that is killed can't end what runs beside it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)  # as if killed, which loses nothing that was recorded

    threading.Thread(target=watch, daemon=True).start()
