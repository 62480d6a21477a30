"""The rows of a view, from a session or a Dataset, and scenes carried from one view to another."""

from __future__ import annotations

from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core.layers import Layer
from layerscope.core.session import Change, Session
from layerscope.jupyter._history import Scene
from layerscope.results import FULL_MODEL

__all__ = ["carry", "epochs_of", "layers_of", "name", "require", "uncarried", "unswept"]

_NAMED = 4


def carry(session: Session, now: Scene, view: str) -> tuple[Scene, list[str]]:
    """Carry a scene to another view: rows all of whose leaves are changed alike.

    Returns
    -------
    Scene, list of str
        And the rows, with what was done to them, that are as trained there.
    """
    leaves: dict[str, Change] = {}
    before = {row.name: row for row in session.rows(now.view)}
    for changed, change in now.state.items():
        leaves |= dict.fromkeys(before[changed].members, change)
    state, carried = dict[str, Change](), set[str]()
    for row in session.rows(view):
        alike = {leaves.get(leaf) for leaf in row.members}
        if row.name != FULL_MODEL and len(alike) == 1 and (same := alike.pop()):
            state[row.name] = same
            carried |= set(row.members)
    lost = [
        f"{changed} {change.words}"
        for changed, change in now.state.items()
        if not carried.issuperset(before[changed].members)
    ]
    return Scene(view, state), lost


def uncarried(lost: list[str], view: str) -> str:
    """Say what a view can't show of the one before; empty where it shows all."""
    if not lost:
        return ""
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return (
        f"Not carried over: {', '.join(lost[:_NAMED])}{more}; rows of the view {view} hold other "
        "layers, too."
    )


def unswept(before: str, view: str) -> str:
    """Say why there is no heat map any more."""
    return (
        f"The heat map is of the view {before}, and is hidden: the view {view} is not swept; Sweep "
        "fills it."
    )


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
