"""The rows of a view, from a session or a Dataset, and scenes carried from one view to another."""

from __future__ import annotations

from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core.layers import Layer
from layerscope.core.session import Change, Estimate, Session
from layerscope.jupyter._history import Scene
from layerscope.results import FULL_MODEL

__all__ = ["carry", "describe", "epochs_of", "layers_of", "name", "require"]

_NAMED = 4


def carry(session: Session, now: Scene, view: str) -> Scene:
    """Carry a scene to another view: rows all of whose leaves are changed alike."""
    leaves: dict[str, Change] = {}
    for row in session.rows(now.view):
        if row.name in now.state:
            leaves |= dict.fromkeys(row.members, now.state[row.name])
    state = {}
    for row in session.rows(view):
        alike = {leaves.get(leaf) for leaf in row.members}
        if row.name != FULL_MODEL and len(alike) == 1 and (change := alike.pop()):
            state[row.name] = change
    return Scene(view, state)


def describe(scene: Scene, estimate: Estimate, seconds: float) -> str:
    """Say in a sentence what was measured."""
    return f"{name(scene)}: {estimate.total:,} examples in {seconds:.2f} s."


def name(scene: Scene) -> str:
    """Say what is done to which rows, or to how many."""
    what = [f"{row} {change.words}" for row, change in scene.state.items()]
    more = f" and {len(what) - _NAMED} more" if len(what) > _NAMED else ""
    return (", ".join(what[:_NAMED]) or "as trained") + more


def require(ds: xr.Dataset | None) -> xr.Dataset:
    """Give the Dataset of an explorer that has no network."""
    assert ds is not None
    return ds


def epochs_of(ds: xr.Dataset | None) -> list[int]:
    """List the checkpoints that a Dataset knows."""
    ds = require(ds)
    return [int(epoch) for epoch in ds["epoch"].values if epoch != results.NO_EPOCH]


def layers_of(ds: xr.Dataset | None) -> list[Layer]:
    """Say what a Dataset knows of its layers."""
    ds = require(ds)

    def read(name: str, at: int, otherwise: Any) -> Any:
        return ds[name].values[at] if name in ds.coords else otherwise

    return [
        Layer(
            name=str(name),
            parameters=(),
            buffers=(),
            module_type=str(read("module_type", at, "")),
            size=int(read("parameters", at, 0)),
            members=(str(name),),
            block=str(read("block", at, "")),
            stage=str(read("stage", at, "")),
        )
        for at, name in enumerate(ds["layer"].values)
        if name != FULL_MODEL
    ]
