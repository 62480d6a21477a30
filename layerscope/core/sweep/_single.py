"""One sweep of one network on one data set: planned, then run and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import xarray as xr
from torch import nn

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core import metrics
from layerscope.core.probe import Probe
from layerscope.core.sweep._agreeing import Agreement
from layerscope.core.sweep._call import batches_of
from layerscope.core.sweep._cluster import Cluster
from layerscope.core.sweep._ground import Ground
from layerscope.core.sweep._identity import identify
from layerscope.core.sweep._loop import SweepState, measure
from layerscope.core.sweep._outcomes import gather
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._recorded import Recorded
from layerscope.core.sweep._store import (
    DATASET,
    IDENTITY,
    FinishedElsewhere,
    Parts,
    Store,
    digest,
)
from layerscope.core.sweep._table import assemble

__all__ = ["SingleSweep"]

Show = Callable[[xr.Dataset], object]


class SingleSweep:
    """A sweep that is planned; all that may be wrong with what was given is found by then.

    Parameters
    ----------
    plan : Plan
    folder : Path, optional
        Where it is kept.
    batch_size : int
        What was asked for.
    call : mapping
        The call that it is, in plain values.
    fresh : callable, optional
        What makes a freshly initialised network.
    began : float, optional
        When it was asked for; by default when it is run.
    workers : Agreement, optional
        Those of a cluster that are to compute it.
    ground : Ground, optional
        Of the same cells, which other data sets may have had done.

    Attributes
    ----------
    plan : Plan
    """

    def __init__(
        self,
        plan: Plan,
        *,
        folder: Path | None,
        batch_size: int,
        call: Mapping[str, Any],
        fresh: Callable[[], nn.Module] | None,
        began: float | None = None,
        workers: Agreement | None = None,
        ground: Ground | None = None,
    ) -> None:
        self.plan, self._workers = plan, workers
        self._ground = ground or Ground()
        self._lender: Undo | None = None
        self._probe: Probe | None = None
        self._batch_size, self._fresh, self._call = batch_size, fresh, dict(call)
        self._folder = folder
        self._store: Store | None = None
        self._began = began or 0.0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that its values depend on, in plain values, as far as anybody compares it."""
        kept = self._folder is not None
        found = self._identified(compared=kept)
        if kept:
            self._settle()
        if self._probe is not None:
            self._probe.recorder.passes.clear()  # which are to be those of the sweep
        return found

    def stay_lent(self, until: Undo) -> None:
        """Leave the network lent, once it is, until a block ends, for what is to come in it."""
        self._lender = until
        until.add(self._forget_lender)

    def _forget_lender(self) -> None:
        self._lender = self._probe = None

    def _give_back(self) -> None:
        if self._lender is not None:
            self._lender.close()

    def _lend(self, undo: Undo) -> Probe:
        """Lend the network until a block ends, or as long as it is to stay lent."""
        until = self._lender or undo
        until.enter(devices.NoGradients())
        probe: Probe = until.enter(Probe(self.plan.subject))
        self._probe = None if self._lender is None else probe
        return probe

    @property
    def probe(self) -> Probe | None:
        """The network, while it stays lent."""
        return self._probe

    def look(self, *, sent: bool = False) -> Recorded:
        """Look into its folder for what is done, and write nothing there.

        Parameters
        ----------
        sent : bool
            Workers are to compare it with what they have.

        Raises
        ------
        ResultError
            If the folder is another sweep's.
        """
        if sent:
            self._compared  # noqa: B018 - for what it takes
        if self._folder is None:
            return Recorded()
        store = Store(self._folder, self.identity, look=True)
        return Recorded.of(store, self.plan.subject.data.size)

    @property
    def is_compared(self) -> bool:
        """True where there is a folder, whose sweep it is compared with."""
        return self._folder is not None

    @property
    def _compared(self) -> dict[str, Any]:
        """Everything that its values depend on, for workers to compare with what they have."""
        if self._folder is not None:
            return self.identity
        found = self._identified(compared=True)
        self._settle()
        return found

    def _identified(self, *, compared: bool) -> dict[str, Any]:
        own = identify(self.plan, self._fresh, compared=compared, lend=self._lend)
        told = own if self._workers is None else self._workers.identity(own)
        return told | {"batch_size": self._batch_size}

    @property
    def size(self) -> int:
        """Number of examples in all cells together."""
        return self.plan.subject.data.count * sum(1 for _ in self.plan.grid.cells())

    @property
    def not_described(self) -> list[str]:
        """List what can't be described, where that matters: it may change in a folder unnoticed."""
        return list(self.identity["not_described"]) if self._folder is not None else []

    def _settle(self) -> None:
        """Note that the network was found to answer each batch for itself."""
        self.plan = replace(self.plan, subject=replace(self.plan.subject, steady=True))

    @property
    def _mark(self) -> dict[str, Any]:
        return {IDENTITY: digest(self.identity), "call": self._call}

    def open(self) -> SingleSweep:
        """Open its folder.

        Raises
        ------
        ResultError
            If it is another sweep's, or can't be written to.
        """
        if self._folder is not None:
            self._store = Store(self._folder, self.identity)
        return self

    def rehearse(self) -> None:
        """Run the first batch once, for what is wrong with it to be found beforehand.

        Raises
        ------
        DataError, OptionError, LayerscopeError
            If the network can't take it, or a metric can't measure it.
        """
        if self._folder is not None and (self._folder / DATASET).is_file():
            return
        with Undo() as undo, undo:
            self.stay_lent(undo)
            if self._folder is not None:
                self.identity  # noqa: B018 - told now, while the network is lent anyhow
            probe = self._probe or self._lend(undo)
            outputs = probe.fit()
            metrics.measure(
                self.plan.subject.metrics, outputs, self.plan.subject.data.first[1], outputs
            )
        self._settle()

    def run(
        self,
        callback: Show | None = None,
        between: Callable[[], object] | None = None,
        *,
        show_progress: bool = True,
    ) -> xr.Dataset:
        """Compute what is not done yet; the arguments are those of `layerscope.sweep`."""
        self._began = self._began or time.monotonic()
        if self._store is not None and (done := self._store.finished()) is not None:
            return done
        try:
            state, parts = self._measure(callback, between, show_progress)
            self._give_back()
            ds = self._described(state)
            if callback:
                callback(ds.copy(deep=True))  # which may change what it is handed; this is kept
            if self._store is not None and parts is not None:
                self._keep(self._store, state, parts, ds)
        except FinishedElsewhere:
            assert self._store is not None
            return cast("xr.Dataset", self._store.finished())
        return ds

    def _measure(
        self,
        callback: Show | None,
        between: Callable[[], object] | None,
        show_progress: bool,
    ) -> tuple[SweepState, Parts | None]:
        store = self._store
        workers = self._workers
        cluster = None if workers is None else Cluster(workers, self._compared, self._fresh)
        while True:
            try:
                parts = store.parts(self.plan.subject.data.size) if store is not None else None
                state = measure(
                    self.plan,
                    parts,
                    show=(lambda known: callback(self._described(known))) if callback else None,
                    save=(lambda known: store.show(self._described(known))) if store else None,
                    show_progress=show_progress,
                    between=between,
                    cluster=cluster,
                    ground=self._ground,
                    probe=self._probe,
                )
                return state, parts
            except (RuntimeError, MemoryError) as error:
                if not devices.out_of_memory(error):
                    raise
                self.plan = self.plan.halved(error)
                self._give_back()
            # Out here, where the error no longer holds on to what it ran out of memory with.
            devices.release(self.plan.subject.device)

    def _keep(self, store: Store, state: SweepState, parts: Parts, ds: xr.Dataset) -> None:
        if self.plan.outcomes:
            store.keep_outcomes(gather(self.plan, state, parts, self.identity | self._mark))
        store.finish(ds)

    def _described(self, state: SweepState) -> xr.Dataset:
        spent = {"wall_time_s": round(time.monotonic() - self._began, 3)}
        data = self.plan.subject.data
        actual: dict[str, Any] = {"batch_size": batches_of(data.size, data.lengths)}
        if state.refused:
            actual["refused"] = {" ".join(at): why for at, why in state.refused.items()}
        return assemble(self.plan, state, self.identity | self._mark | state.about | spent | actual)
