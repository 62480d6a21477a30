"""States of several layers that were given a name, as a Dataset keeps them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import xarray as xr

from layerscope.errors import ResultError

__all__ = ["KEPT", "KeptState", "kept_states", "scenarios_of", "with_kept"]

KEPT = "kept.nc"
"""File beside the checkpoints of a run that holds the states that were kept of it."""


class KeptState(NamedTuple):
    """A state with what was measured of it.

    Attributes
    ----------
    name : str
    view : str
    changes : dict
        From rows to what is done to them, as JSON has it.
    said : dict of str to str
        The same in words.
    values, differences : dict of str to float
        By metric: its value, and its value minus the trained network's.
    """

    name: str
    view: str
    changes: dict[str, Any]
    said: dict[str, str]
    values: dict[str, float]
    differences: dict[str, float]

    @property
    def words(self) -> str:
        """The changes in words, row by row."""
        return ", ".join(f"{row} {what}" for row, what in self.said.items()) or "as trained"


def kept_states(ds: xr.Dataset | None) -> list[KeptState]:
    """List the states that a Dataset keeps, in the order in which they were kept.

    Raises
    ------
    ResultError
        If it does not say what was done.
    """
    kept = scenarios_of(ds)
    if kept is None:
        return []
    metrics = [str(name) for name in kept["metric"].values]
    value, change = (
        kept[name].transpose("scenario", "metric").values
        for name in ("scenario_value", "scenario_difference")
    )
    told = [_about(str(each)) for each in kept["scenario_state"].values]
    return [
        KeptState(
            str(name),
            about["view"],
            about["state"],
            {row: _words(about, row) for row in about["state"]},
            dict(zip(metrics, map(float, value[at]), strict=True)),
            dict(zip(metrics, map(float, change[at]), strict=True)),
        )
        for at, (name, about) in enumerate(zip(kept["scenario"].values, told, strict=True))
    ]


def _about(text: str) -> dict[str, Any]:
    """Read a state that may have been written by somebody else."""
    try:
        about = json.loads(text)
        sound = isinstance(about["state"], dict) and isinstance(about["view"], str)
        sound = sound and isinstance(about.get("words", {}), dict)
    except (ValueError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound:
        raise ResultError(
            f"the Dataset has a kept state of which it says {text[:60]!r}, expected JSON with view "
            "and state; keep the state again, or drop it: ds.drop_dims('scenario')."
        )
    found: dict[str, Any] = about
    return found


def _words(about: dict[str, Any], row: str) -> str:
    change = about["state"][row]
    # Those that an earlier version kept have no words.
    plain = " ".join(map(str, change)) if isinstance(change, list) else str(change)
    return str(about.get("words", {}).get(row, plain))


def scenarios_of(ds: xr.Dataset | None) -> xr.Dataset | None:
    """Take the kept states of a Dataset alone; None where there are none."""
    if ds is None or "scenario" not in ds.dims or not ds.sizes["scenario"]:
        return None
    names = [str(name) for name, each in ds.variables.items() if "scenario" in each.dims]
    kept = ds[[name for name in names if name not in ds.coords]]
    return kept.drop_vars([name for name in kept.coords if name not in ("scenario", "metric")])


def with_kept(ds: xr.Dataset | None, kept: xr.Dataset | None) -> xr.Dataset | None:
    """Put kept states into a Dataset, in place of those it has."""
    if ds is None or (kept is None and "scenario" not in ds.dims):
        return kept if ds is None else ds
    bare = ds.drop_dims("scenario") if "scenario" in ds.dims else ds
    if kept is None:
        return bare
    merged: xr.Dataset = bare.merge(kept, join="left", combine_attrs="override")
    return merged
