"""States that were given a name, kept in the Dataset of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core.session._estimate import Estimate
from layerscope.core.session._states import changes
from layerscope.errors import OptionError

__all__ = ["with_scenario"]

_NAMES = ("scenario_value", "scenario_standard_error", "scenario_difference", "scenario_state")


def with_scenario(
    ds: xr.Dataset | None,
    name: str,
    state: Mapping[str, Any],
    estimate: Estimate,
    view: str = "leaf",
) -> xr.Dataset:
    """Keep what was measured of a state, under a name; an earlier one of that name goes.

    Parameters
    ----------
    ds : Dataset or None
        Left as it is; with None the scenario stands alone.
    name : str
    state : mapping of str to change
    estimate : Estimate
    view : str

    Returns
    -------
    Dataset
        With ``scenario_value``, ``scenario_standard_error`` and ``scenario_difference`` (scenario,
        metric), and ``scenario_state`` (scenario): view, and state plainly and in words, as JSON.

    Raises
    ------
    OptionError
        If the name is empty.
    """
    if not name.strip():
        raise OptionError("the scenario has no name; give it one, such as 'all robust layers'.")
    metrics = [m for m in estimate.tallies if ds is None or m in ds["metric"].values]
    plain = {row: change.plain for row, change in changes(state).items()}
    said = {row: change.words for row, change in changes(state).items()}
    about = {"view": view, "state": plain, "words": said}
    rows = (("scenario", "metric"), [[estimate.mean(m) for m in metrics]])
    errors = [[estimate.tallies[m].standard_error for m in metrics]]
    fresh = results.build(
        {
            "scenario_value": rows,
            "scenario_standard_error": (("scenario", "metric"), errors),
            "scenario_difference": (rows[0], [[estimate.change(m) for m in metrics]]),
            "scenario_state": (("scenario",), [json.dumps(about)]),
        },
        {"scenario": [name.strip()], "metric": metrics},
        {},
    )
    if ds is None:
        return fresh
    if "scenario" in ds.dims:
        kept = ds[list(_NAMES)].sel(scenario=ds["scenario"] != name.strip())
        fresh = xr.concat([kept, fresh], "scenario", combine_attrs="drop_conflicts")
        ds = ds.drop_dims("scenario")
    joined: xr.Dataset = ds.merge(fresh, combine_attrs="override")
    return joined
