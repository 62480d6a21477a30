"""Datasets and scenarios by task and view, so that the numbers of two are never mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core import metrics as metrics_
from layerscope.core.metrics import Metric
from layerscope.core.sweep import metrics_by_task
from layerscope.errors import OptionError, choose
from layerscope.jupyter._kept import KeptStates

__all__ = ["Known"]


class Known:
    """Datasets and scenarios, by task and view.

    Parameters
    ----------
    ds : Dataset or None
        What was swept before; of several tasks, each has its own part.
    data : mapping of str to data set
        The tasks; empty where there is one data set, or none.
    metric : str, optional
        What is shown; by default the first of each task.
    measured : sequence of str or Metric, optional
        What is measured.
    kept : callable, optional
        Gives the states of a task that were kept apart from the Dataset, if any.

    Attributes
    ----------
    tasks : list of str
        Empty where there is one data set without a name.
    task : str or None
        The present one.

    Raises
    ------
    OptionError
        If no task has such a metric, or the Dataset is not of these tasks.
    """

    def __init__(
        self,
        ds: xr.Dataset | None,
        data: Mapping[str, Any],
        metric: str | None,
        measured: Sequence[str | Metric] | None,
        kept: Callable[[str | None], xr.Dataset | None] = lambda _: None,
    ) -> None:
        parts = _by_task(ds, list(data))
        self.tasks = list(data) or [task for task in parts if task is not None]
        self.task = self.tasks[0] if self.tasks else None
        each = metrics_by_task(data, measured) if data else {}
        places: list[str | None] = [*self.tasks] if self.tasks else [None]
        self._metrics = {
            task: _metric_of(metric, _names(data.get(str(task)), each.get(str(task), measured)),
                             parts.get(task), several=len(self.tasks) > 1)
            for task in places
        }  # fmt: skip
        if metric is not None and metric not in self._metrics.values():
            choose(metric, list(dict.fromkeys(self._metrics.values())), "metric")
        self._datasets = {
            (task, str(part.attrs.get("view", "leaf"))): part for task, part in parts.items()
        }
        self._kept = {task: KeptStates(_with_kept(parts.get(task), kept(task))) for task in places}

    @property
    def metric(self) -> str:
        """The metric that is shown of the present task."""
        return self._metrics[self.task]

    @property
    def first_view(self) -> str | None:
        """The view that was swept before; None if none was."""
        return next((view for _, view in self._datasets), None)

    def swept(self, view: str) -> xr.Dataset | None:
        """Look up what was swept of the present task in a view."""
        return self._datasets.get((self.task, view))

    def show(self, ds: xr.Dataset) -> str:
        """Show another sweep in place of that of its view; return the view.

        Raises
        ------
        OptionError
            If it is not of these tasks.
        """
        view = str(ds.attrs.get("view", "leaf"))
        for task, part in _by_task(ds, self.tasks).items():
            there = _measured_in(part)
            wanted = self._metrics[task] if self._metrics[task] in there else None
            self._metrics[task] = results.metric_name(part, wanted)
            self._datasets[task, view] = part
        return view

    def put(self, task: str | None, view: str, ds: xr.Dataset) -> None:
        """Put what was swept of a task in a view where it belongs."""
        self._datasets[task, view] = ds

    def dataset(self, view: str) -> xr.Dataset | None:
        """Give what was swept of the present task, with the scenarios that were kept of it."""
        return results.with_kept(self.swept(view), self.kept.dataset)

    @property
    def kept(self) -> KeptStates:
        """The states of the present task that were kept."""
        return self._kept[self.task]


def _with_kept(ds: xr.Dataset | None, kept: xr.Dataset | None) -> xr.Dataset | None:
    return ds if results.scenarios_of(ds) is not None else kept


def _by_task(ds: xr.Dataset | None, tasks: Sequence[str]) -> dict[str | None, xr.Dataset]:
    """Cut a Dataset into its tasks, which must be those of the data, if there are several."""
    if ds is None:
        return {}
    named = [str(task) for task in ds["task"].values] if "task" in ds.dims else []
    if "model_epoch" in ds.dims:
        last = ds["model_epoch"].values.tolist()[-1]
        raise OptionError(
            f"the Dataset has several trained networks; choose one: .sel(model_epoch={last})."
        )
    if not named and not tasks:
        return {None: ds}
    if not set(named) & set(tasks or named):
        raise OptionError(
            f"the Dataset is of {', '.join(named) or 'one data set without a name'}, and the data "
            f"are {', '.join(tasks)}; give a sweep over the same data sets."
        )
    parts = dict(zip(named, results.parts(ds).values(), strict=True))
    return {task: part for task, part in parts.items() if task in (tasks or named)}


def _names(data: Any, measured: Sequence[str | Metric] | None) -> list[Metric]:
    """List what a data set is measured by: its own metrics where it brings some."""
    own = [] if data is None else metrics_.own(data)
    if measured is None:
        return list(own) or metrics_.parse(metrics_.default_names())
    brought = {metric.name: metric for metric in own}
    names = [measured] if isinstance(measured, (str, Metric)) else measured
    return metrics_.parse([brought.get(n, n) if isinstance(n, str) else n for n in names])


def _measured_in(ds: xr.Dataset) -> list[str]:
    """List the metrics of a Dataset; none where it is no sweep's, which is said elsewhere."""
    return [str(name) for name in ds["metric"].values] if "metric" in ds.coords else []


def _metric_of(
    wanted: Any, measured: Sequence[Metric], ds: xr.Dataset | None, several: bool
) -> str:
    """Name the metric that is shown: of those in the Dataset, else of those to be measured."""
    names = [m.name for m in measured] if ds is None else _measured_in(ds)
    # Of several tasks some may have others alone.
    wanted = None if several and str(wanted) not in names else wanted
    if ds is not None:
        return results.metric_name(ds, wanted)
    if wanted is None:
        return results.default_metric(metric.info for metric in measured)
    return choose(wanted if isinstance(wanted, str) else str(wanted), names, "metric")
