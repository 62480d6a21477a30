"""States that were given a name: found in the Dataset, kept in it, compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.core.session import Change, Estimate, with_scenario
from layerscope.errors import choose
from layerscope.jupyter import _tools as tools, _words as words
from layerscope.jupyter._history import Scene

__all__ = ["KeptStates", "joined", "scenarios_of"]


class KeptStates:
    """States of one task by name, with what was measured of them.

    Parameters
    ----------
    ds : Dataset, optional
        With those that were kept before, as `core.session.with_scenario` gives.
    """

    def __init__(self, ds: xr.Dataset | None = None) -> None:
        self.dataset = scenarios_of(ds)

    @property
    def names(self) -> list[str]:
        """Names in the order in which they were kept."""
        return [] if self.dataset is None else [str(n) for n in self.dataset["scenario"].values]

    def keep(self, name: str, scene: Scene, estimate: Estimate) -> None:
        """Keep a state; an earlier one of that name goes."""
        self.dataset = with_scenario(self.dataset, name, scene.state, estimate, scene.view)

    def delete(self, name: str) -> None:
        """Forget a state."""
        choose(name, self.names, "kept state")
        ds = self.dataset
        assert ds is not None
        left = ds.sel(scenario=ds["scenario"] != name)
        self.dataset = left if left.sizes["scenario"] else None

    def scene(self, name: str, known: Sequence[Change]) -> Scene:
        """Give a state as it was set.

        Raises
        ------
        OptionError
            If a perturbation in it is the user's own, and is not among those known.
        """
        about = json.loads(str(self._at(name)["scenario_state"].item()))
        return Scene(about["view"], tools.parse(about["state"], tools.objects(known)))

    def rows(self, metric: str, now: Scene) -> list[dict[str, Any]]:
        """Write the states as the table's lines."""
        values = [self._value(name, metric)[0] for name in self.names]
        top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        return [
            {
                "name": name,
                "value": words.number(value, self._fraction(metric)),
                "change": self._change(name, metric),
                "share": abs(value) / top if top and np.isfinite(value) else 0.0,
                "state": self._words(name),
                "now": self._is(name, now),
            }
            for name, value in zip(self.names, values, strict=True)
        ]

    def comparison(self, names: Sequence[str]) -> dict[str, Any]:
        """Set two states side by side: each metric, and the layers in which they differ."""
        if len(names) != 2:
            return {}
        ds = self._at(names[0])
        rows = [self._compared(str(metric), *names) for metric in ds["metric"].values]
        one, other = (self._about(name)["state"] for name in names)
        for row in dict.fromkeys([*one, *other]):
            said = [_words(each.get(row)) for each in (one, other)]
            rows += [[row, *said, ""]] if said[0] != said[1] else []
        return {"names": list(names), "rows": rows}

    def _compared(self, metric: str, one: str, other: str) -> list[str]:
        fraction = self._fraction(metric)
        first, second = (self._value(name, metric)[0] for name in (one, other))
        moved = words.signed(second - first, fraction) + (" points" if fraction else "")
        return [metric, words.number(first, fraction), words.number(second, fraction), moved]

    def _change(self, name: str, metric: str) -> str:
        if not self._about(name)["state"]:
            return "0"
        fraction = self._fraction(metric)
        return words.signed(self._value(name, metric)[1], fraction) + (
            " points" if fraction else ""
        )

    def _value(self, name: str, metric: str) -> tuple[float, float]:
        ds = self._at(name)
        if metric not in ds["metric"].values:
            return np.nan, np.nan
        cell = ds.sel(metric=metric)
        return float(cell["scenario_value"]), float(cell["scenario_difference"])

    def _fraction(self, metric: str) -> bool:
        return bool(results.metric(self.dataset, metric).fraction_of)

    def _at(self, name: str) -> xr.Dataset:
        choose(name, self.names, "kept state")
        assert self.dataset is not None
        return self.dataset.sel(scenario=name)

    def _about(self, name: str) -> Mapping[str, Any]:
        about: Mapping[str, Any] = json.loads(str(self._at(name)["scenario_state"].item()))
        return about

    def _words(self, name: str) -> str:
        state = self._about(name)["state"]
        return ", ".join(f"{row} {_words(change)}" for row, change in state.items()) or "as trained"

    def _is(self, name: str, now: Scene) -> bool:
        about = self._about(name)
        plain = {row: _plain(change.plain) for row, change in now.state.items()}
        return {row: _plain(c) for row, c in about["state"].items()} == plain and (
            about["view"] == now.view or not plain
        )


def _plain(change: Any) -> Any:
    return list(change) if isinstance(change, (tuple, list)) else change


def _words(change: Any) -> str:
    """Write a change as JSON has it."""
    if change is None:
        return "trained"
    given = tuple(change) if isinstance(change, list) else change
    try:
        read = Change.of(given)
    except ValueError:  # one of the user's own
        return " ".join(map(str, given)) if isinstance(given, tuple) else str(given)
    return "trained" if read is None else read.words


def scenarios_of(ds: xr.Dataset | None) -> xr.Dataset | None:
    """Take the kept states of a Dataset alone; None where there are none."""
    if ds is None or "scenario" not in ds.dims or not ds.sizes["scenario"]:
        return None
    names = [str(name) for name, each in ds.variables.items() if "scenario" in each.dims]
    kept = ds[[name for name in names if name not in ds.coords]]
    return kept.drop_vars([name for name in kept.coords if name not in ("scenario", "metric")])


def joined(ds: xr.Dataset | None, kept: xr.Dataset | None) -> xr.Dataset | None:
    """Put kept states into a Dataset, in place of those it has."""
    if ds is None or (kept is None and "scenario" not in ds.dims):
        return kept if ds is None else ds
    bare = ds.drop_dims("scenario") if "scenario" in ds.dims else ds
    if kept is None:
        return bare
    merged: xr.Dataset = bare.merge(kept, join="left", combine_attrs="override")
    return merged
