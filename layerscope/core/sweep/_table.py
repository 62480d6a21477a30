"""Everything that was state, as arrays with names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.core.checkpoints import Series
from layerscope.core.layers import NO_BLOCK
from layerscope.core.measures import with_measures
from layerscope.core.metrics import NOT_FINITE, Tally
from layerscope.core.probe import Cell
from layerscope.core.stopping import Decision, Tolerance
from layerscope.core.sweep._distances import NORMS
from layerscope.core.sweep._loop import SweepState
from layerscope.core.sweep._plan import Plan
from layerscope.results import AS_TRAINED, FULL_MODEL, NO_EPOCH, NOT_MOVED, UNDECIDED

__all__ = ["assemble"]

_DIMS = ("layer", "epoch", "perturbation", "draw", "metric")


def assemble(plan: Plan, state: SweepState, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Put what was measured into the Dataset that `layerscope.results` describes.

    Cells of which nothing is known yet are NaN.
    """
    coords = _coords(plan, state)
    series = plan.subject.series
    known = state.sums.baseline()
    baseline = [known.get(name, Tally()) for name in coords["metric"]]
    ds = results.build(
        _values(plan, state, coords)
        | {
            "baseline": (["metric"], [tally.mean for tally in baseline]),
            "baseline_standard_error": (["metric"], [t.standard_error for t in baseline]),
            "baseline_not_finite": ([], _total(known)),
            "chance": ([], plan.subject.data.chance),
            **_distances(plan, state, coords),
        },
        coords | _described(state) | _moved(state, coords) | _meant(plan) | _positions(plan),
        {**attrs, **_origin(series), **_audit(state)},
        _counted(plan),
    )
    return with_measures(ds, state.measured, plan.measures) if plan.measures else ds


def _origin(series: Series) -> dict[str, int]:
    return {"distance_from": series.first} if series.epochs else {}


def _audit(state: SweepState) -> dict[str, Any]:
    return {"audit": state.ground.doubts.faults} if state.ground.doubts.faults else {}


def _counted(plan: Plan) -> dict[str, tuple[str, str]]:
    """Say in what checkpoints are counted, and from which one distances are."""
    unit, first = plan.subject.series.unit, plan.subject.series.first
    start = f"{unit} {first}, the first checkpoint" + (" recorded" if first else "")
    if not plan.subject.series.epochs:
        start = "the weights that the network holds"
    return {
        "epoch": ("checkpoint the layer's weights come from", unit),
        "distance": (f"distance of the layer's parameters from {start}", "1"),
        "draw_distance": (f"distance of redrawn parameters from {start}", "1"),
    }


def _coords(plan: Plan, state: SweepState) -> dict[str, list[Any]]:
    from_none = any(not p.uses_checkpoint for p in plan.grid.perturbations)
    draws = plan.grid.draws if any(p.stochastic for p in plan.grid.perturbations) else 1
    from_start = bool(plan.subject.series.epochs) or _redraws(plan)
    coords: dict[str, list[Any]] = {
        "layer": [row.name for row in state.rows],
        "epoch": [NO_EPOCH] * from_none + plan.grid.epochs,
        "perturbation": [p.name for p in plan.grid.perturbations],
        "draw": list(range(draws)),
        "metric": [m.name for m in plan.subject.metrics],
    }
    return coords | ({"norm": list(NORMS)} if from_start else {})


def _values(
    plan: Plan, state: SweepState, coords: Mapping[str, list[Any]]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    full = {
        name: np.full([len(coords[dim]) for dim in _DIMS], np.nan)
        for name in ("value", "standard_error", "difference", "difference_standard_error")
    }
    count = np.full([len(coords[dim]) for dim in _DIMS[:-1]], np.nan)
    broken = np.full_like(count, np.nan)
    early, stopped = np.zeros(count.shape, bool), state.sums.early()
    verdict = np.full(count.shape, "", dtype="U12")
    bounds = np.full((2, *count.shape), np.nan)
    decides = isinstance(plan.rule, Decision)
    verdicts = state.sums.verdicts() if decides else {}
    intervals = state.sums.intervals() if isinstance(plan.rule, Tolerance) else {}
    for cell in state.cells:
        at = _place(cell, coords)
        tallies = state.sums.tallies.get(cell.key, {})
        moved = state.sums.differences.get(cell.key, {})
        for place, name in enumerate(coords["metric"]):
            for label, found in (("", tallies), ("difference", moved)):
                if name in found:
                    full[label or "value"][(*at, place)] = found[name].mean
                    error = found[name].standard_error
                    full[f"{label}_standard_error".lstrip("_")][(*at, place)] = error
        count[at] = next((tally.count for tally in tallies.values()), np.nan)
        broken[at], early[at] = _total(tallies), cell.key in stopped
        verdict[at] = _verdict(plan, state, cell, verdicts.get(cell.key, "")) if decides else ""
        bounds[0][at], bounds[1][at] = intervals.get(cell.key, (np.nan, np.nan))
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (_DIMS, array) for name, array in full.items()
    }
    variables["n_examples"] = (_DIMS[:-1], count)
    variables["not_finite"] = (_DIMS[:-1], broken)
    if plan.rule is not None:
        variables["stopped_early"] = (_DIMS[:-1], early)
    if decides:
        variables["verdict"] = (_DIMS[:-1], verdict)
    if intervals:
        variables["lower"], variables["upper"] = ((_DIMS[:-1], bound) for bound in bounds)
        least, most = state.sums.baseline_interval()
        variables["baseline_lower"] = (), np.array(least)
        variables["baseline_upper"] = (), np.array(most)
    return variables


def _verdict(plan: Plan, state: SweepState, cell: Cell, settled: str) -> str:
    """Return what was settled, unless the checkpoint can settle nothing."""
    series = plan.subject.series
    # The last checkpoint is the trained network: that it is the same again is no surprise.
    last = bool(series.epochs) and cell.epoch == series.last
    doubt = "" if last else state.ground.doubts.cells.get((cell.layer.name, cell.epoch), "")
    if not state.ground.moved.get(cell.layer.name, True) and cell.epoch != NO_EPOCH:
        doubt = AS_TRAINED
    return NOT_MOVED if doubt == AS_TRAINED else UNDECIDED if doubt and settled else settled


def _total(tallies: Mapping[str, Tally]) -> float:
    """How many predictions are not finite; NaN where nothing was computed."""
    found = tallies.get(NOT_FINITE.name)
    return np.nan if found is None else found.total


def _place(cell: Cell, coords: Mapping[str, list[Any]]) -> tuple[int, int, int, int]:
    return (
        coords["layer"].index(cell.layer.name),
        coords["epoch"].index(cell.epoch),
        coords["perturbation"].index(cell.perturbation.name),
        cell.draw,
    )


def _redraws(plan: Plan) -> bool:
    return any(perturbation.redraws for perturbation in plan.grid.perturbations)


def _distances(
    plan: Plan, state: SweepState, coords: Mapping[str, list[Any]]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Lay out how far layers moved; without checkpoints only how far redrawn ones are."""
    if "norm" not in coords:
        return {}
    distance, drawn = _measured_distances(state, coords)
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "draw_distance": (("layer", "perturbation", "draw", "norm"), drawn)
    }
    if plan.subject.series.epochs:
        found["distance"] = (("layer", "epoch", "norm"), distance)
    return found


def _measured_distances(
    state: SweepState, coords: Mapping[str, list[Any]]
) -> tuple[np.ndarray, np.ndarray]:
    names, norms = coords["layer"], coords["norm"]
    distance = np.full((len(names), len(coords["epoch"]), len(norms)), np.nan)
    for (name, epoch), found in state.ground.distances.items():
        at = names.index(name), coords["epoch"].index(epoch)
        distance[at] = [found[norm] for norm in norms]
    drawn = np.full([len(coords[d]) for d in ("layer", "perturbation", "draw", "norm")], np.nan)
    for cell in state.cells:
        if cell.key in state.ground.draw_distances:
            layer, _, perturbation, draw = _place(cell, coords)
            moved = state.ground.draw_distances[cell.key]
            drawn[layer, perturbation, draw] = [moved[norm] for norm in norms]
    return distance, drawn


def _moved(state: SweepState, coords: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Say which layers moved, and at which checkpoints they tell nothing."""
    found: dict[str, Any] = {}
    if state.ground.moved:
        found["moved"] = ("layer", [state.ground.moved[row.name] for row in state.rows])
    if state.ground.doubts.cells:
        doubt = np.full((len(state.rows), len(coords["epoch"])), "", dtype=object)
        for (name, epoch), why in state.ground.doubts.cells.items():
            if epoch in coords["epoch"]:
                doubt[coords["layer"].index(name), coords["epoch"].index(epoch)] = why
        found["doubt"] = (("layer", "epoch"), doubt.astype(str))
    return found


def _meant(plan: Plan) -> dict[str, Any]:
    return results.coordinates(
        [metric.info for metric in plan.subject.metrics],
        [perturbation.info for perturbation in plan.grid.perturbations],
    )


def _positions(plan: Plan) -> dict[str, Any]:
    """Say which targets of every example metrics are of, where any is not of all; −1 has no end."""
    found = [metric.positions or (0, -1) for metric in plan.subject.metrics]
    if not any(metric.positions for metric in plan.subject.metrics):
        return {}
    firsts, lasts = zip(*found, strict=True)
    return {"first_target": ("metric", [*firsts]), "last_target": ("metric", [*lasts])}


def _described(state: SweepState) -> dict[str, Any]:
    rows = state.rows
    spans = [state.spans.get(row.name, NO_BLOCK) for row in rows]
    return {
        "depth": ("layer", np.arange(len(rows))),
        "kind": ("layer", ["network" if row.name == FULL_MODEL else "layer" for row in rows]),
        "module_type": ("layer", [row.module_type for row in rows]),
        "parameters": ("layer", [row.size for row in rows]),
        "component": ("layer", [row.component for row in rows]),
        "block": ("layer", [row.block for row in rows]),
        "stage": ("layer", [row.stage for row in rows]),
        "first_block": ("layer", [first for first, _ in spans]),
        "n_blocks": ("layer", [count for _, count in spans]),
        "initializer": ("layer", [state.ground.origins[row.name] for row in rows]),
    }
