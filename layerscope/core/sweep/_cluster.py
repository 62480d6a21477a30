"""Computing a sweep on the workers of a Dask cluster.

Workers return what their tiles gave, and nothing counts before this process has recorded it: there
are no claims, and no folder that workers share. A tile that was computed twice, since a worker died
after it, is added once; whatever order tiles arrive in, sums are those of one process.
"""

from __future__ import annotations

import asyncio
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layerscope.base.extras import extra
from layerscope.base.validate import describe
from layerscope.core.probe import Cell
from layerscope.core.running import OutputFinder
from layerscope.core.sweep import _worker as worker
from layerscope.core.sweep._fragments import Fragment, Fragments, runs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._shipping import Layout, Shipment, pack
from layerscope.core.sweep._sums import PartResult
from layerscope.core.sweep._tiles import Costs, Tiling, tiling
from layerscope.core.sweep._worker import Computed, Task, Wanted
from layerscope.errors import ClusterError, LayerscopeError, OptionError
from layerscope.results import NO_EPOCH

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Cluster", "Workers", "require_client", "same_threads"]

_WAIT_S = 0.1
_MOST_OUT = 1000
"""Tiles that are handed out at a time; all of them can be cancelled within a moment."""

_TILES_A_WORKER = 2


def require_client(client: Any) -> Client:
    """Check what came as ``client=``.

    Raises
    ------
    ExtraError
        If distributed is not installed.
    OptionError
        If it is no client, or one for coroutines.
    """
    with extra("dask", "a sweep on a cluster"):
        from distributed import Client
    if not isinstance(client, Client):
        raise OptionError(
            f"client is {describe(client)}; give a dask.distributed.Client, such as "
            "Client('tcp://…'), or Client(LocalCluster(n_workers=4, threads_per_worker=1))."
        )
    if client.asynchronous:
        raise OptionError("client is asynchronous; give Client(..., asynchronous=False).")
    if client.status in ("closing", "closed"):
        raise OptionError(
            "client is closed, or its scheduler was gone; connect again, such as by "
            "Client('tcp://…'), and make the call inside of its with block."
        )
    return client


@contextmanager
def same_threads(client: Client | None) -> Iterator[None]:
    """Compute here with as many threads as workers do: sums differ by them in the last bits."""
    if client is None:
        yield
        return
    before = torch.get_num_threads()
    with explained(client, None):
        found = client.submit(worker.threads, pure=False).result()
    import dask

    torch.set_num_threads(found)
    try:
        # Else xarray asks the cluster for a lock to write a file, also one that is gone.
        with dask.config.set(scheduler="threads"):
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Cluster:
    """Workers to hand a sweep to, and what they must know of it.

    Attributes
    ----------
    client : distributed.Client
    identity : dict
        Of the sweep, in plain values.
    fresh : callable, optional
        What makes a freshly initialised network.
    """

    client: Client
    identity: Mapping[str, Any]
    fresh: Callable[[], nn.Module] | None

    def pack(self, plan: Plan) -> bytes:
        """Pack a sweep, before its network is lent.

        Raises
        ------
        OptionError
            If something of the user's own can't be sent.
        """
        threads = torch.get_num_threads()
        return pack(Shipment(plan, self.fresh, dict(self.identity), threads))


class Workers:
    """Engine that has tiles computed by the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    plan : Plan
    content : bytes
        The sweep as `_shipping.pack` made it.
    output : OutputFinder
        Fitted to the first batch.
    between : callable, optional
        Called ten times a second.
    pass_s : float
        Seconds that a pass takes, about.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        content: bytes,
        output: OutputFinder,
        between: Callable[[], object] | None,
        pass_s: float = 0.1,
    ) -> None:
        self._client, self._plan, self._content = client, plan, content
        self._output, self._between = output, between or (lambda: None)
        self._run, self._pass_s = uuid.uuid4().hex, pass_s
        self._arrived: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._out: dict[Future[Any], Task] = {}
        self._sent: list[Future[Any]] = []
        self._suspects: list[Task] = []
        self._lethal: list[Wanted] = []
        self._shares: dict[Fragment, dict[str, PartResult]] = {}
        self._reuse: dict[str, dict[str, Any]] = {}
        self._counted = 0, -math.inf
        self._alone: Task | None = None
        self._handed = 0

    def steps(self, fragments: Fragments) -> Iterator[None]:
        """Hand out what is missing, and record what comes back."""
        self._fragments = fragments
        fragments.look()
        with explained(self._client, fragments), self._ending():
            handed = -1
            while not fragments.finished():
                if self._handed == handed:
                    raise LayerscopeError("tiles are missing, and none is left to be computed.")
                handed = self._handed
                self._sent = self._sent or [self._hold(self._content), self._hold(self._layout())]
                yield from self._once()
                self._refuse_lethal()
                # Another time only for what turned out to be damaged.
                fragments.look()

    def reuse(self) -> dict[str, Any]:
        """Say how much was reused by all workers together."""
        return join_reuse(self._reuse.values())

    def _once(self) -> Iterator[None]:
        tasks = self._tasks()
        self._hand_out(tasks)
        while self._out or self._suspects:
            if not self._out:
                # Alone, since whatever waits for a worker that is killed looks as if it did that.
                self._alone = self._suspects.pop()
                self._submit(self._alone)
            if self._take_in():
                yield
            self._between()
            if not self._suspects:
                self._hand_out(tasks)

    # What is handed out

    def _tasks(self) -> Iterator[Task]:
        """Cut what is missing into tiles, the first batches first, as it is wanted."""
        count = self._fragments.batches
        cut = self._tiling(count)
        step = len(next(iter(cut.tiles(count))).batches)
        for start in range(0, count, step):
            for columns in cut.columns:
                batches = range(start, min(start + step, count))
                wanted = [each for b in batches for each in self._wanted(b, range(*columns))]
                if wanted:
                    yield Task(self._run, tuple(wanted))

    def _tiling(self, batches: int) -> Tiling:
        if self._plan.rule is None:
            return tiling(self._costs(), batches, self._workers())
        # One batch after the other, by as many rows as keep all at work.
        return tiling(self._costs(), 1, _TILES_A_WORKER * self._workers(), most_batches=1)

    def _costs(self) -> Costs:
        """Guess what parts take: the later a row runs, the less is left to compute."""
        parts, count = self._fragments.parts, len(self._fragments.parts)
        left = [1 - place / count for place in range(count)]
        sizes = [len(part.keys) for part in parts]
        seconds = [self._pass_s * size * part for size, part in zip(sizes, left, strict=True)]
        return Costs(parts=seconds, recording=self._pass_s)

    def _workers(self) -> int:
        """Count the workers, once a second."""
        count, when = self._counted
        if time.monotonic() - when > 1:
            # Of a scheduler that is gone nothing is known; tasks that are lost say so themselves.
            count = len(self._client.scheduler_info(n_workers=-1).get("workers", ()))
            self._counted = count, time.monotonic()
        return max(1, count)

    def _wanted(self, batch: int, parts: range) -> Iterator[Wanted]:
        missing = self._fragments.missing(batch, ahead=True)
        missing = [part for part in missing if part in parts and not self._kills(part)]
        for run in runs(missing, self._fragments.settled()):
            keys = self._fragments.of(*run).keys
            every = sum(len(self._fragments.parts[part].keys) for part in range(*run))
            yield Wanted(Fragment(batch, *run), None if len(keys) == every else frozenset(keys))

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        while len(self._out) < _MOST_OUT and self._may_go_on():
            task = next(tasks, None)
            if task is None:
                return
            self._submit(task)

    def _may_go_on(self) -> bool:
        """Where cells may be settled meanwhile, hand out no more than keeps workers busy."""
        return self._plan.rule is None or len(self._out) < _TILES_A_WORKER * self._workers()

    def _submit(self, task: Task) -> None:
        key = f"layerscope-{uuid.uuid4().hex}"
        future = self._client.submit(worker.run, *self._sent, task, key=key, pure=False)
        self._out[future] = task
        self._handed += 1
        future.add_done_callback(self._arrived.put)

    def _hold(self, content: bytes) -> Future[Any]:
        import dask

        # As the result of a task, it is there again when the worker that has it dies.
        key = f"layerscope-sweep-{uuid.uuid4().hex}"
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PB"}):
            return self._client.submit(worker.hold, content, key=key, pure=False)

    def _layout(self) -> bytes:
        return pack(Layout.of(self._fragments.parts, self._output))

    # What comes back

    def _take_in(self) -> bool:
        """Record what has come back; False where nothing has for a while."""
        try:
            arrived = [self._arrived.get(timeout=_WAIT_S)]
        except queue.Empty:
            return False
        with suppress(queue.Empty):
            while True:
                arrived.append(self._arrived.get_nowait())
        for future in arrived:
            task = self._out.pop(future)
            if future.status == "finished":
                computed: Computed = future.result()
                self._reuse[computed.where] = computed.reuse
                self._record(task, computed.found)
            else:
                self._failed(task, future)
            future.release()
        return True

    def _record(self, task: Task, found: Sequence[tuple[Fragment, Any]]) -> None:
        wanted = {each.fragment: each for each in task.wanted}
        for fragment, arrays in found:
            result = PartResult.of(arrays, self._plan.subject.metrics)
            whole = self._joined(wanted[fragment], result)
            if whole is not None:
                self._fragments.record(fragment, whole)

    def _joined(self, wanted: Wanted, result: PartResult) -> PartResult | None:
        """Put cells together that were handed out one by one; None while one is to come."""
        shares = self._shares.get(wanted.fragment)
        if shares is None:
            return result
        shares[result.keys[0]] = result
        needed = self._fragments.of(wanted.fragment.first, wanted.fragment.stop).keys
        if not set(needed) <= set(shares):
            return None
        return PartResult.joined([shares[key] for key in needed])

    def _failed(self, task: Task, future: Future[Any]) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, worker.StoppedTile):  # its worker opened other sweeps meanwhile
            self._submit(task)
        elif isinstance(error, KilledWorker):
            for smaller in self._smaller(task):
                self._submit(smaller)
        else:
            raise error or CancelledError

    def _smaller(self, task: Task) -> Iterator[Task]:
        """Cut a tile that killed its workers, so that only what is to blame is lost."""
        first = task.wanted[0]
        keys = self._fragments.of(first.fragment.first, first.fragment.stop).keys
        if len(task.wanted) > 1 or first.fragment.stop - first.fragment.first > 1:
            for each in task.wanted:
                for part in each.fragment.parts:
                    one = Fragment(each.fragment.batch, part, part + 1)
                    if self._fragments.of(part, part + 1).keys and not self._kills(part):
                        yield replace(task, wanted=(Wanted(one, each.keys),))
        elif first.keys is None or len(first.keys) > 1:
            self._shares[first.fragment] = {}
            wanted = keys if first.keys is None else [key for key in keys if key in first.keys]
            for key in wanted:
                yield replace(task, wanted=(Wanted(first.fragment, frozenset([key])),))
        elif task is self._alone:
            self._lethal.append(first)
        elif not self._kills(first.fragment.first):
            self._suspects.append(task)

    def _kills(self, part: int) -> bool:
        """Tell whether a cell of a part kills its workers, on whatever batch."""
        return any(part in each.fragment.parts for each in self._lethal)

    def _refuse_lethal(self) -> None:
        if not self._lethal:
            return
        groups = [each for part in self._fragments.parts for each in part.groups]
        cells = {cell.key: cell for _, found in groups for cell in found}
        keys = [*dict.fromkeys(key for each in self._lethal for key in each.keys or ())]
        told = "; ".join(_called(cells[key]) for key in keys[:3]) + "; …" * (len(keys) > 3)
        batch = self._lethal[0].fragment.batch
        raise ClusterError(
            f"whatever worker computed it was killed: {told}, on batch {batch}. Memory ran out, or "
            f"a library crashed. All else was computed; {_kept(self._fragments)}. Give workers "
            "more memory, take a smaller batch_size, or leave the row out with layers=."
        )

    # The end

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Leave the cluster as it was, whatever happens."""
        try:
            yield
        finally:
            if self._client.status == "running":
                with suppress(Exception):
                    self._client.cancel([*self._out, *self._sent], force=True)
                with suppress(Exception):
                    self._client.run(worker.close, self._run, wait=False, on_error="ignore")
            self._out.clear()


def _called(cell: Cell) -> str:
    at = "" if cell.epoch == NO_EPOCH else f" to {cell.epoch}"
    return f"{cell.layer.name} under {cell.perturbation.name}{at}, draw {cell.draw}"


def _kept(fragments: Fragments | None) -> str:
    if fragments is None or fragments.store is None:
        return "nothing was recorded, since there was no out="
    return f"{len(fragments.store)} finished parts are safe in {fragments.store.store.folder}"


def join_reuse(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put together what several processes say of how much they reused."""
    joined: dict[str, Any] = {"passes": {}, "plain_modules": {}, "plain_groups": {}, "refusal": ""}
    for one in each:
        for name, count in one["passes"].items():
            joined["passes"][name] = joined["passes"].get(name, 0) + count
        joined["plain_modules"] |= one["plain_modules"]
        joined["plain_groups"] |= one["plain_groups"]
        joined["refusal"] = joined["refusal"] or one["refusal"]
        for name in one.keys() - {"passes", "plain_modules", "plain_groups", "refusal"}:
            joined[name] = max(joined.get(name, 0), one[name])  # bytes, of each process its own
    return joined


@contextmanager
def explained(client: Client, fragments: Fragments | None) -> Iterator[None]:
    """Say what it means that a cluster does not answer."""
    from distributed.comm.core import CommClosedError

    # Now: a client whose scheduler is gone does not know any more where that was.
    where = getattr(getattr(client, "scheduler", None), "address", "its address")
    try:
        yield
    except (CancelledError, asyncio.CancelledError, CommClosedError, TimeoutError) as error:
        raise ClusterError(
            f"the cluster at {where} answers no more, or the sweep's tasks were cancelled there "
            f"({type(error).__name__}); {_kept(fragments)}. Start it again, connect to it, and "
            "make the same call."
        ) from error
