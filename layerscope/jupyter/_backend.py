"""The network that answers: in a session for clicks, in a sweep for the heat map."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.core.layers import Layer, find
from layerscope.core.session import Session
from layerscope.core.sweep import called, metrics_by_task, perturbations_for, sweep, tasks_of
from layerscope.errors import choose
from layerscope.jupyter._source import Source
from layerscope.results import FULL_MODEL

__all__ = ["Backend", "sweep_only"]

_USUAL = {name: each.default for name, each in inspect.signature(sweep).parameters.items()}
_OF_SESSION = set(inspect.signature(Session).parameters)
_TELLS_ONLY = {"plan"}  # with which nothing is swept that could be shown


def sweep_only(given: Mapping[str, Any]) -> dict[str, Any]:
    """Take arguments that only a sweep has, not a session.

    Raises
    ------
    OptionError
        If there is no such argument.
    """
    known = [name for name in _USUAL if name not in _OF_SESSION | _TELLS_ONLY]
    return {choose(name, known, "argument of sweep"): value for name, value in given.items()}


class Backend:
    """A network that answers.

    Parameters
    ----------
    source : Source
        With a network.
    options : mapping
        Arguments that `Session` and `sweep` share.
    more : mapping
        Those that only `sweep` has.

    Attributes
    ----------
    session : Session
        The present one: another after `move`.
    options : dict
        ``"device"`` in it may be set; the session moves there with the next `move`.
    """

    def __init__(self, source: Source, options: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        assert source.model is not None
        assert source.series is not None
        self.options, self._more = dict(options), more
        self._model, self._data, self._series = source.model, source.data, source.series
        self._layers: dict[str, list[Layer]] = {}
        self.session = self._open(None)

    def _open(self, task: str | None) -> Session:
        given = {"task": task, "checkpoints": self._series, **self.options}
        return Session(self._model, self._data, **given)

    def close(self) -> None:
        """Give the network back."""
        self.session.close()

    def move(self) -> Exception | None:
        """Open the session where it is wanted, or where it was; return what spoke against it."""
        before, wanted = str(self.session.device), str(self.options["device"])
        if not self.session.closed and wanted in ("auto", before):
            return None
        self.session.close()
        task = self.session.task
        try:
            self.session = self._open(task)
        except Exception as error:  # noqa: BLE001 - told with the answer
            # What is pressed next must still be answered.
            self.options["device"] = before
            self.session = self._open(task)
            return error.with_traceback(None)  # which holds on to what was opened halfway
        return None

    def layers(self, view: str) -> list[Layer]:
        """List the rows of a view but the whole network."""
        # Kept, since the session may just be moving to another device.
        if view not in self._layers:
            found = self.session.rows(view)
            self._layers[view] = [row for row in found if row.name != FULL_MODEL]
        return self._layers[view]

    def script(self, task: str | None) -> dict[str, Any]:
        """Give the arguments of the session that are not at their defaults, in plain values."""
        return called(Session, {"task": task, **self.options, "budget": None})

    def steps(self, view: str) -> int:
        """Count the batches that a sweep of a view goes through, over all its cells."""
        given = {**_USUAL, **self._more}
        epochs = len(self.session.epochs if given["epochs"] is None else given["epochs"])
        cells = sum(
            (epochs if kind.uses_checkpoint else 1) * (given["draws"] if kind.stochastic else 1)
            for kind in perturbations_for(self._series, given["perturbations"])
        )
        return self._count(view, given) * cells * len(self.session.data.lengths)

    def _count(self, view: str, given: Mapping[str, Any]) -> int:
        rows: Sequence[Layer] = self.layers(view)
        if given["layers"] is not None:  # which may be groups
            rows = find(self._model, view, self.options["norms"], given["layers"])
        return len(rows) + bool(given["whole"])

    def sweep(
        self,
        task: str | None,
        view: str,
        show: Callable[[xr.Dataset], object],
        between: Callable[[], object],
    ) -> str:
        """Sweep all rows of a view over one data set.

        Parameters
        ----------
        task : str or None
            Name of the data set, where there are several.
        view : str
        show : callable
            Takes the Dataset as far as it is known.
        between : callable
            Called before every cell; what it raises stops the sweep.

        Returns
        -------
        str
            What the numbers alone do not show; empty where there is nothing to say.
        """
        given = {"show_progress": False, **self._more, **self.options}
        data, measured = self._data, given["metrics"]
        if task is not None:
            tasks = tasks_of(self._model, data, measured) or {}
            data, measured = tasks[task], metrics_by_task(tasks, measured)[task]
        ds = sweep(
            # The session's is asked by others before every cell.
            copy.deepcopy(self._model),
            data,
            checkpoints=self._series,
            **given
            | {
                "view": view,
                "metrics": measured,
                "device": self.session.device,
                "callback": _both(show, given.get("callback"), "callback", "callback(ds)"),
                "between": _both(between, given.get("between"), "between", "between()"),
            },
        )
        return " ".join(results.notices(ds))


def _both(ours: Callable[..., object], yours: Any, name: str, takes: str) -> Callable[..., object]:
    """Call what the explorer needs, then what the user gave."""
    if yours is None:
        return ours
    validate.function(yours, name, takes)

    def both(*given: Any) -> None:
        ours(*given)
        yours(*given)

    return both
