"""Computing a sweep on the workers of a Dask cluster.

Workers return what their tiles gave, and nothing counts before this process has recorded it: there
is no folder that workers share. A tile that was computed twice, since a worker died after it, is
added once; whatever order tiles arrive in, sums are those of one process. Of other processes that
fill the same folder this one takes up what they record, and claims for its workers what these are
at.
"""

from __future__ import annotations

import math
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layerscope.core.probe import Cell
from layerscope.core.running import OutputFinder
from layerscope.core.sweep import _worker as worker
from layerscope.core.sweep._agreeing import Agreement, Patience
from layerscope.core.sweep._connecting import HELD, count_workers, explained, hold
from layerscope.core.sweep._fragments import Fragment, Fragments, runs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._sent import Sent
from layerscope.core.sweep._shipping import Layout, Shipment, pack
from layerscope.core.sweep._sums import PartResult
from layerscope.core.sweep._tiles import Costs, Tiling, tiling
from layerscope.core.sweep._worker import Computed, StoppedTile, Task, Wanted
from layerscope.errors import ClusterError, LayerscopeError
from layerscope.results import NO_EPOCH

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["Cluster", "Workers"]

_WAIT_S = 0.1
_LOOK_EVERY_S = 1.0
_LOOK_SHARE = 20
"""What others record is looked for in no more than that part of the time."""

_TILES_A_WORKER = 4
"""Tiles that are handed out at a time. What others record meanwhile is handed out to nobody."""

_TILES_UNDER_A_RULE = 2
"""Fewer where cells may be settled by what is out."""


@dataclass(frozen=True)
class Cluster:
    """Workers to hand a sweep to, and what they must know of it.

    Attributes
    ----------
    workers : Agreement
    identity : dict
        Of the sweep, in plain values.
    fresh : callable, optional
        What makes a freshly initialised network.
    """

    workers: Agreement
    identity: Mapping[str, Any]
    fresh: Callable[[], nn.Module] | None

    def send(self, plan: Plan) -> Sent:
        """Send a sweep to the workers, before its network is lent.

        Raises
        ------
        OptionError
            If something of the user's own can't be sent.
        """
        how = dict(self.identity), torch.get_num_threads(), self.workers.asked
        content, client = pack(Shipment(plan, self.fresh, *how)), self.workers.client
        with explained(client, lambda: "no tile was handed out yet"):
            return Sent(client, content)


class Workers:
    """Engine that has tiles computed by the workers of a cluster.

    Parameters
    ----------
    sent : Sent
        The sweep as the cluster has it.
    plan : Plan
    output : OutputFinder
        Fitted to the first batch.
    between : callable, optional
        Called ten times a second.
    price : callable
        Measures what the parts of the sweep take; called once, if at all.
    """

    def __init__(
        self,
        sent: Sent,
        plan: Plan,
        output: OutputFinder,
        between: Callable[[], object] | None,
        price: Callable[[], Costs],
    ) -> None:
        self._client, self._plan, self._sent = sent.client, plan, sent
        self._output, self._between = output, between or (lambda: None)
        self._price = cache(price)
        self._arrived: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._out: dict[Future[Any], Task] = {}
        self._claims: dict[Fragment, ExitStack] = {}
        self._told: Future[Any] | None = None
        self._suspects: list[Task] = []
        self._lethal: list[Wanted] = []
        self._shares: dict[Fragment, dict[str, PartResult]] = {}
        self._reuse: dict[str, dict[str, Any]] = {}
        self._counted, self._looked = (0, -math.inf), -math.inf
        self._patience, self._met = Patience(sent.client), False
        self._alone: Task | None = None
        self._handed, self._passed_over = 0, False

    def steps(self, fragments: Fragments) -> Iterator[None]:
        """Hand out what is missing, and record what comes back."""
        self._fragments = fragments
        fragments.look()
        with explained(self._client, lambda: _kept(fragments)), self._ending():
            while not fragments.finished():
                handed, self._passed_over = self._handed, False
                yield from self._once()
                self._refuse_lethal()
                # Another time only for what turned out to be damaged, or what others were at.
                fragments.look()
                if self._handed == handed and not fragments.finished():
                    if not self._passed_over:
                        raise LayerscopeError("tiles are missing, and none is left to compute.")
                    self._between()
                    time.sleep(_WAIT_S)

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
            self._wait_for_workers()
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
                    yield Task(self._sent.run, tuple(wanted))

    def _tiling(self, batches: int) -> Tiling:
        if self._plan.rule is None:
            return tiling(self._price(), batches, self._workers())
        # One batch after the other, by as many rows as keep all at work.
        return tiling(self._price(), 1, _TILES_UNDER_A_RULE * self._workers(), most_batches=1)

    def _workers(self) -> int:
        """Count the workers, once a second; one where there is none, which will come."""
        count, when = self._counted
        if time.monotonic() - when > 1:
            # Of a scheduler that is gone nothing is known; tasks that are lost say so themselves.
            count = count_workers(self._client)
            self._counted = count, time.monotonic()
        self._met |= count > 0
        return max(1, count)

    def _wait_for_workers(self) -> None:
        """Say that nobody is there, while that is so."""
        self._workers()
        if self._counted[0]:
            self._patience.renew()
        else:
            told = self._patience.look(0, met=self._met)
            self._fragments.folded(0, cluster=told)

    def _wanted(self, batch: int, parts: range) -> Iterator[Wanted]:
        missing = self._fragments.missing(batch, ahead=True)
        missing = [part for part in missing if part in parts and not self._kills(part)]
        free = [part for part in missing if (batch, part) not in self._fragments.elsewhere]
        self._passed_over |= len(free) < len(missing)
        for run in runs(free, self._fragments.settled()):
            keys = self._fragments.of(*run).keys
            every = sum(len(self._fragments.parts[part].keys) for part in range(*run))
            yield Wanted(Fragment(batch, *run), None if len(keys) == every else frozenset(keys))

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        """Hand out no more than keeps workers busy."""
        most = _TILES_A_WORKER if self._plan.rule is None else _TILES_UNDER_A_RULE
        while len(self._out) < most * self._workers():
            self._look_again()
            task = next(tasks, None)
            if task is None:
                return
            self._submit(task)

    def _look_again(self) -> None:
        """Take up what other processes have recorded, and see what they are at."""
        began = time.monotonic()
        if self._fragments.store is None or began < self._looked:
            return
        self._fragments.look()
        took = time.monotonic() - began
        self._looked = began + took + max(_LOOK_EVERY_S, _LOOK_SHARE * took)

    def _submit(self, task: Task) -> None:
        mine = tuple(each for each in task.wanted if self._claim(each.fragment))
        if not mine:
            return
        # The same where nothing was taken from it: whether it runs alone is told by that.
        task = task if mine == task.wanted else replace(task, wanted=mine)
        key = f"layerscope-{uuid.uuid4().hex}"
        held = self._sent.content(), self._layout()
        future = self._client.submit(worker.run, *held, task, key=key, pure=False)
        self._out[future] = task
        self._handed += 1
        future.add_done_callback(self._arrived.put)

    def _claim(self, fragment: Fragment) -> bool:
        """Claim a fragment for a worker; False where another process was at it a moment ago."""
        store = self._fragments.store
        if store is None or fragment in self._claims:
            return True
        with ExitStack() as claim:
            if not claim.enter_context(store.claim(fragment.name)) or store.has(fragment.name):
                self._passed_over = True
                return False
            self._claims[fragment] = claim.pop_all()
        return True

    def _let_go(self, fragment: Fragment) -> None:
        if (claim := self._claims.pop(fragment, None)) is not None:
            claim.close()

    def _layout(self) -> Future[Any]:
        """Layout as the cluster holds it; anew where workers died holding it."""
        if self._told is None or self._told.status == "error":
            content = pack(Layout.of(self._fragments.parts, self._output))
            self._told = hold(self._client, content)
        return self._told

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
            if future.status in ("pending", "lost"):
                # Its worker died with the result, and another computes it again.
                future.add_done_callback(self._arrived.put)
                continue
            task = self._out.pop(future)
            if future.status == "finished":
                self._take(task, future.result())
            else:
                self._failed(task, future)
            future.release()
        return True

    def _take(self, task: Task, found: Computed | LayerscopeError | StoppedTile) -> None:
        if isinstance(found, StoppedTile):  # its worker opened other sweeps meanwhile
            self._submit(task)
        elif isinstance(found, LayerscopeError):
            raise found
        else:
            self._reuse[found.where] = found.reuse
            self._record(task, found.found)

    def _record(self, task: Task, found: Sequence[tuple[Fragment, Any]]) -> None:
        wanted = {each.fragment: each for each in task.wanted}
        for fragment, arrays in found:
            result = PartResult.of(arrays, self._plan.subject.metrics)
            whole = self._joined(wanted[fragment], result)
            if whole is not None:
                self._fragments.record(fragment, whole)
                self._let_go(fragment)

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
        if not isinstance(error, KilledWorker):
            raise error or CancelledError
        if str(error.task).startswith(HELD):  # of all who held the sweep itself
            self._submit(task)
            return
        for each in task.wanted:
            self._let_go(each.fragment)
        for smaller in self._smaller(task):
            self._submit(smaller)

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
                told = [] if self._told is None else [self._told]
                with suppress(Exception):
                    self._client.cancel([*self._out, *told], force=True)
            for fragment in list(self._claims):
                self._let_go(fragment)
            self._out.clear()


def _called(cell: Cell) -> str:
    at = "" if cell.epoch == NO_EPOCH else f" to {cell.epoch}"
    return f"{cell.layer.name} under {cell.perturbation.name}{at}, draw {cell.draw}"


def _kept(fragments: Fragments) -> str:
    if fragments.store is None:
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
