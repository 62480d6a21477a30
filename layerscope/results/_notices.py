"""Notices of what the numbers alone do not show, for the end of a sweep and for reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from layerscope.results._dataset import FULL_MODEL, NO_EPOCH, refusals_by_reason, settings
from layerscope.results._outer import OUTER, parts

_MOST_NAMED = _MOST_FAULTS = 4
_SLOWER = "computed anew in every cell, which is slower and gives the same values"
_CONTAINS = re.compile(r"contains '(.*)', which (.*)")
_METHODS = ("reset_parameters", "init_weights")


def notices(ds: xr.Dataset) -> list[str]:
    """Say what is missing, what was slow and what was taken on trust, a sentence or two each.

    Parameters
    ----------
    ds : Dataset
        As a sweep returns it, or several joined.

    Returns
    -------
    list of str
        Labels that were shifted; what the audit of the checkpoints found; cells that were asked for
        and can't be; layers that never moved; what could not be reused from cell to cell; layers
        whose random values come from where nothing says that the network's did; parts that were
        damaged. Empty where there is nothing to say.

    Examples
    --------
    >>> from layerscope import testing
    >>> notices(testing.dataset().assign_attrs(refused='{"layer1 skip": "returns another shape"}'))
    ["layer1 has no cells for 'skip': returns another shape."]
    """
    if any(dim in ds.dims for dim in OUTER):
        return _of_parts(ds)
    about = settings(ds)
    runs = [run for run in about.get("runs") or [] if isinstance(run, dict)]
    said = [*_targets(about), *_faults(ds, (about, *runs)), *_refused(ds), *_still(ds)]
    said += _origins(ds, about)
    for each in (about, *runs):
        reuse, damaged = each.get("reuse"), each.get("damaged_parts")
        said += _plain(reuse) if isinstance(reuse, dict) else []
        said += [f"Damaged parts were computed again: {_named(damaged)}."] if damaged else []
    return list(dict.fromkeys(said))


def _of_parts(ds: xr.Dataset) -> list[str]:
    """Say once what holds for all tasks and trained networks, and of the rest for which it does."""
    said: dict[str, list[str]] = {}
    each = parts(ds)
    for place, part in each.items():
        for notice in notices(part):
            said.setdefault(notice, []).append(place)
    return [
        notice if len(where) == len(each) else f"{'; '.join(where)}: {notice}"
        for notice, where in said.items()
    ]


def _targets(about: Mapping[str, Any]) -> Iterator[str]:
    """Say what was made of targets that equal the tokens, as `BatchReader` says it."""
    data = about.get("data")
    read = str(data.get("targets", "")) if isinstance(data, dict) else ""
    if read.startswith("targets equal the tokens"):
        yield read


def _faults(ds: xr.Dataset, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Faults of the series, where anything was taken from it."""
    if "epoch" not in ds.coords or not (ds["epoch"] != NO_EPOCH).any():
        return
    faults = [fault for run in runs for fault in run.get("audit") or [] if isinstance(fault, dict)]
    said = list(dict.fromkeys(f"{f.get('sentence')} {f.get('advice')}" for f in faults))
    yield from said[:_MOST_FAULTS]
    if len(said) > _MOST_FAULTS:
        yield (
            f"The checkpoints have {len(said) - _MOST_FAULTS} more faults: layerscope checkpoints "
            "FOLDER, or layerscope.checkpoints.audit, says all."
        )


def _refused(ds: xr.Dataset) -> Iterator[str]:
    """Layers by what can't be done to them and why."""
    for perturbation, why, names in refusals_by_reason(ds):
        have = "has" if len(names) == 1 else "have"
        yield f"{_named(names)} {have} no cells for {perturbation!r}: {why}."


def _still(ds: xr.Dataset) -> Iterator[str]:
    """Layers that hold the same values at the first checkpoint and at the last."""
    if "moved" not in ds.coords or not (ds["epoch"] != NO_EPOCH).any():
        return
    names = [str(name) for name in ds["layer"].values[~ds["moved"].values.astype(bool)]]
    if len(names) == ds.sizes["layer"]:
        # Of the network as a whole the audit says it, and which checkpoints these are.
        faults = settings(ds).get("audit") or []
        if any(fault.get("kind") == "copy" for fault in faults):
            return
        yield (
            "Nothing moved: the first checkpoint and the last hold the same values, so that "
            "setting a layer back changes nothing. Is one a copy of the other?"
        )
    elif names:
        yield (
            f"{_named(names)} never moved, as a frozen layer does not: the same values at the "
            "first checkpoint and at the last, so that setting back says nothing."
        )


def _plain(reuse: Mapping[str, Any]) -> Iterator[str]:
    if refusal := reuse.get("refusal"):
        yield f"Nothing could be reused, for the network: {refusal}. All is {_SLOWER}."
        return
    for key in ("plain_modules", "plain_groups"):
        reasons = dict(_innermost(*each) for each in (reuse.get(key) or {}).items())
        if reasons:
            name, why = next(iter(reasons.items()))
            said = f"{_named(list(reasons))} could not be reused ({name}: {why}): {_SLOWER}."
            yield said[0].upper() + said[1:] if said.startswith("the network itself") else said


def _innermost(name: str, why: str) -> tuple[str, str]:
    """Name the innermost module that is the reason; the root has no name."""
    inner = _CONTAINS.fullmatch(why)
    name, why = (inner[1], inner[2]) if inner else (name, why)
    return name or "the network itself", why


def _origins(ds: xr.Dataset, about: Mapping[str, Any]) -> Iterator[str]:
    """Layers whose random values may come from elsewhere than the network's own did."""
    if "initializer" not in ds.coords or ds["initializer"].dims != ("layer",):
        return
    rows = zip(ds["layer"].values, ds["initializer"].values, strict=True)
    origins = {str(name): str(origin) for name, origin in rows if str(name) != FULL_MODEL}
    # Without checkpoints nothing can confirm either.
    first = about.get("distance_from", None if about.get("weights") else 0)
    unchecked = [
        name
        for name, origin in origins.items()
        if "unchecked" in origin or (first != 0 and any(way in origin for way in _METHODS))
    ]
    if unchecked:
        there = f"the first checkpoint recorded is {first}, not 0"
        yield (
            f"Random values of {_named(unchecked)} are drawn by the modules' own methods, which "
            f"nothing confirms: {'there are no checkpoints' if first is None else there}. If the "
            "network was initialised otherwise, pass fresh=, a function that returns a new one."
        )
    if depending := [name for name, origin in origins.items() if "not independent" in origin]:
        yield (
            f"Random values of {_named(depending)} are drawn one by one from checkpoint 0, where "
            "they depend on each other: pass fresh=, a function that returns a new network."
        )


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
