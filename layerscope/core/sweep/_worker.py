"""Tiles in a worker of a cluster.

A worker opens a sweep once, at the latest with the first of its tiles, and keeps it with its
network lent until whoever drives it is done. One tile at a time has the network, however many
threads a worker has. A worker that would compute something else than the driver does not begin.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from layerscope.base import devices
from layerscope.base.tensors import named_tensors
from layerscope.base.undoing import Undo
from layerscope.core.probe import Probe
from layerscope.core.sweep._connecting import still_wanted
from layerscope.core.sweep._differences import differences
from layerscope.core.sweep._fragments import Fragment
from layerscope.core.sweep._identity import identify
from layerscope.core.sweep._shipping import Layout, Shipment, unpack
from layerscope.core.sweep._sums import PartResult
from layerscope.core.sweep._tile import Part, TileHooks, compute_tile
from layerscope.errors import CheckpointError, ClusterError, LayerscopeError, OptionError

__all__ = ["About", "Computed", "StoppedTile", "Task", "Wanted", "about", "close", "prepare", "run"]

_MOST_OPEN = 2
"""Sweeps that a worker keeps open; a driver that was killed can't close its own."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Wanted:
    """Some parts on a batch; of their cells only those in `keys`, all where that is None."""

    fragment: Fragment
    keys: frozenset[str] | None = None


@dataclass(frozen=True)
class Task:
    """A tile: what is wanted of consecutive batches, in their order.

    Attributes
    ----------
    run : str
        Names the run of the driver, which a worker keeps open.
    wanted : tuple of Wanted
    """

    run: str
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Computed:
    """Results of a tile.

    Attributes
    ----------
    found : list of (Fragment, dict of str to ndarray)
    where : str
        Names the sweep as the worker has it open.
    reuse : dict
        How much was reused there so far.
    """

    found: list[tuple[Fragment, Arrays]]
    where: str
    reuse: dict[str, Any]

    def __sizeof__(self) -> int:
        # Of plain containers Dask draws samples with Python's own generator, meanwhile in another
        # thread, and then a network that is watched seems to draw from it.
        return sum(array.nbytes for _, arrays in self.found for array in arrays.values())


@dataclass(frozen=True)
class About:
    """Threads and devices that a worker computes with.

    Attributes
    ----------
    threads : int
        Processor threads that a pass takes.
    device : str
        Kind of the device.
    told : dict
        Parts of a sweep's identity, in plain values.
    """

    threads: int
    device: str
    told: dict[str, Any]


class StoppedTile(Exception):  # noqa: N818 - nobody waits for the tile any more
    """The driver wants the tile no more."""


class _Opened:
    """A sweep that this worker has open.

    Parameters
    ----------
    content : bytes
        As `_shipping.pack` made it.
    """

    def __init__(self, content: bytes) -> None:
        self.lock = threading.Lock()
        self.ended = False
        self.name = uuid.uuid4().hex
        self._undo = Undo()
        shipment: Shipment = unpack(content)
        self._plan, self._threads = shipment.plan, shipment.threads
        self._parts: list[Part] = []
        with _calm(self._threads):
            _read_weights(shipment)
            self._probe = Probe(self._plan.subject, "a worker")
            self._undo.enter(self._probe)
            try:
                _require_same(shipment, self._probe)
                self._probe.fit()
            except BaseException:
                self._undo.close()
                raise

    def compute(
        self, layout: bytes, wanted: Sequence[Wanted], before: Callable[[], object]
    ) -> list[tuple[Fragment, Arrays]]:
        """Compute a tile; batches of which the same is wanted are computed together."""
        if not self._parts:
            told: Layout = unpack(layout)
            self._parts = told.read(self._plan)
        found: list[tuple[Fragment, Arrays]] = []
        with _calm(self._threads):
            for run in _alike(wanted):
                self._together(run, found, before)
        return found

    def reuse(self) -> dict[str, Any]:
        """Say how much was reused so far."""
        return self._probe.reuse()

    def _together(
        self,
        wanted: Sequence[Sequence[Wanted]],
        found: list[tuple[Fragment, Arrays]],
        before: Callable[[], object],
    ) -> None:
        first = wanted[0]
        parts = {at: self._part(each) for at, each in enumerate(first)}
        indices = range(first[0].fragment.batch, first[0].fragment.batch + len(wanted))

        def done(index: int, at: int, result: PartResult) -> None:
            of = first[at].fragment
            found.append((Fragment(index, of.first, of.stop), result.arrays()))

        hooks = TileHooks(before_cell=before)
        batches = self._plan.subject.data.at(indices)
        compute_tile(self._plan, self._probe, batches, parts, done, hooks)

    def _part(self, wanted: Wanted) -> Part:
        groups = [each for part in wanted.fragment.parts for each in self._parts[part].groups]
        every = Part(groups)
        return every if wanted.keys is None else every.only(wanted.keys)

    def give_back(self) -> None:
        """Give the network back."""
        self._undo.close()

    def end(self) -> None:
        """Give the network back, unless a tile has it, which does so then."""
        self.ended = True
        if self.lock.acquire(blocking=False):
            try:
                self.give_back()
            finally:
                self.lock.release()


_OPENED: OrderedDict[str, _Opened] = OrderedDict()
_OPENING = threading.Lock()


def about(device: str) -> About | OptionError:
    """Say what this worker computes with; an error where it has no such device."""
    try:
        found = devices.resolve(device)
    except OptionError as refusal:
        return OptionError(f"{_here()}: {refusal}")
    told = {
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": found.type,
        "arithmetic": devices.arithmetic(found),
    }
    return About(torch.get_num_threads(), found.type, told)


def prepare(run: str, content: bytes) -> None:
    """Open a sweep before its first tile, which says what is wrong with it.

    Parameters
    ----------
    run : str
    content : bytes
        As `_shipping.pack` made it.
    """
    with contextlib.suppress(Exception):
        _open(run, content)


def run(content: bytes, layout: bytes, task: Task) -> Computed | LayerscopeError | StoppedTile:
    """Compute a tile.

    Parameters
    ----------
    content, layout : bytes
        As `_shipping.pack` made them.
    task : Task

    Returns
    -------
    Computed, LayerscopeError or StoppedTile
        An error where this worker would compute something else than the driver, for example.
        Raised here, Dask would log it with its traceback, once for each tile.
    """
    try:
        return _computed(content, layout, task)
    except (LayerscopeError, StoppedTile) as refusal:
        # Its frames hold the network.
        refusal.__cause__ = refusal.__context__ = None
        return refusal.with_traceback(None)


def _computed(content: bytes, layout: bytes, task: Task) -> Computed:
    before = _require_wanted()
    while True:
        opened = _open(task.run, content)
        with opened.lock:
            before()
            if opened.ended:  # for another sweep, a moment ago
                continue
            try:
                found = opened.compute(layout, task.wanted, before)
                return Computed(found, opened.name, opened.reuse())
            finally:
                if opened.ended:
                    opened.give_back()


async def close(run: str) -> None:
    """Give back what a run has open in this worker; nobody waits for it."""
    opened = _OPENED.pop(run, None)
    if opened is not None:
        opened.end()


def _open(name: str, content: bytes) -> _Opened:
    with _OPENING:
        if name not in _OPENED:
            while len(_OPENED) >= _MOST_OPEN:
                _OPENED.popitem(last=False)[1].end()
            _OPENED[name] = _Opened(content)
        _OPENED.move_to_end(name)
        return _OPENED[name]


def _require_wanted() -> Callable[[], None]:
    """Make what stops a tile that was cancelled, before its next cell."""
    wanted = still_wanted()

    def require() -> None:
        if not wanted():
            raise StoppedTile

    return require


@contextlib.contextmanager
def _calm(count: int) -> Iterator[None]:
    """Compute with so many threads, and without gradients: torch keeps both for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with Undo() as undo, undo:
            undo.enter(devices.NoGradients())
            yield
    finally:
        torch.set_num_threads(before)


def _read_weights(shipment: Shipment) -> None:
    """Fill the skeleton, so that lending it takes no second copy."""
    subject = shipment.plan.subject
    held = named_tensors(subject.model)
    try:
        with torch.no_grad():
            for names in subject.pieces():
                for name, value in subject.trained(names).items():
                    held[name].copy_(value)
    except CheckpointError as error:
        raise ClusterError(
            f"{_here()} sees other checkpoints than the process that called sweep: {error} "
            "Workers read them from the same paths; put them where all can."
        ) from None


def _require_same(shipment: Shipment, probe: Probe) -> None:
    """Refuse to compute where something that the values depend on differs.

    Parameters
    ----------
    shipment : Shipment
    probe : Probe
        The network, lent.
    """
    series = shipment.plan.subject.series
    known = shipment.identity
    # Files are those that the driver read, by size and time, or can't be read at all.
    recorded = {int(epoch): sha for epoch, sha in known.get("checkpoints", {}).items()}
    vars(series)["digests"] = lambda: recorded
    mine = identify(shipment.plan, shipment.fresh, lend=lambda _: probe)
    apart = {"checkpoints", "weights", "batch_size", "not_described"}
    told = {key: value for key, value in known.items() if key in mine and key not in apart}
    if differing := differences({key: mine[key] for key in told}, told):
        raise ClusterError(
            f"{_here()} would compute something else than the process that called sweep: "
            f"{', '.join(differing)} differ. Give workers the same packages, code and kind of "
            "processor or card, or leave them out of the cluster."
        )


def _here() -> str:
    from distributed import get_worker

    try:
        return f"the worker {get_worker().address}"
    except ValueError:
        return "this process"


def _alike(wanted: Sequence[Wanted]) -> Iterator[list[list[Wanted]]]:
    """Yield consecutive batches of which the same is wanted, each with what that is."""
    by_batch: dict[int, list[Wanted]] = {}
    for each in wanted:
        by_batch.setdefault(each.fragment.batch, []).append(each)
    run: list[list[Wanted]] = []
    for batch, what in sorted(by_batch.items()):
        if run and (batch != run[-1][0].fragment.batch + 1 or _spans(what) != _spans(run[0])):
            yield run
            run = []
        run.append(what)
    if run:
        yield run


def _spans(wanted: Sequence[Wanted]) -> list[tuple[int, int, frozenset[str] | None]]:
    return [(each.fragment.first, each.fragment.stop, each.keys) for each in wanted]
