"""Perturbations that a click can apply, in the words that they have themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core import perturb
from layerscope.core.checkpoints import Series
from layerscope.core.session import Change, changes
from layerscope.core.sweep import called, perturbations_for
from layerscope.results import YOURS, PerturbationInfo

__all__ = ["at", "button", "objects", "of_dataset", "of_network", "parse", "plain", "resetting"]

Tools = Mapping[str, Change]
"""From the name of a perturbation to what it does to a layer, with no epoch or draw chosen."""


def of_network(
    series: Series | None, given: Sequence[perturb.PerturbationLike] | None
) -> dict[str, Change]:
    """List the perturbations that were given, and the others that need no arguments.

    Those that go back to a checkpoint only where there are any.

    Examples
    --------
    >>> import torch
    >>> series = Series({0: {"weight": torch.ones(2)}})
    >>> tools = of_network(series, ["zero", "noise(0.1)"])
    >>> list(tools)[:2], "reinitialize" in tools
    (['zero', 'noise(0.1)'], True)
    """
    kinds = {kind.name: kind for kind in perturbations_for(series, given)}
    past = series is not None and bool(series.epochs)
    for name, make in perturb.PERTURBATIONS.items():
        if name not in kinds and not inspect.signature(make).parameters:
            kind = make()
            if past or not kind.uses_checkpoint:
                kinds[name] = kind
    return {name: Change(name, kind=kind) for name, kind in kinds.items()}


def of_dataset(ds: xr.Dataset) -> dict[str, Change]:
    """List the perturbations that a Dataset holds."""
    names = map(str, ds["perturbation"].values)
    return {name: Change(name, info=results.perturbation(ds, name)) for name in names}


def button(info: PerturbationInfo) -> str:
    """Say in a few words what a layer is after a perturbation; the epoch is said beside it.

    Examples
    --------
    >>> button(PerturbationInfo("a", "reset to checkpoint {epoch}")), button(PerturbationInfo("b"))
    ('reset to checkpoint', 'b')
    """
    unsaid = info.label == PerturbationInfo(info.name).label
    return info.name if unsaid else info.label.replace("{epoch}", "").strip()


def resetting(tools: Tools) -> Change:
    """Choose what a preset does: what puts a checkpoint back, else the first there is."""
    every = list(tools.values())
    return next((tool for tool in every if tool.about.resets), every[0])


def at(tool: Change, epoch: int) -> Change:
    """Choose the checkpoint that a perturbation takes values from, if it takes any."""
    return replace(tool, epoch=epoch) if tool.about.uses_checkpoint else tool


# States, as users write them.


def objects(known: Iterable[Change]) -> dict[str, perturb.Perturbation]:
    """Pick the perturbations of the user's own, which can't be looked up by name."""
    kinds = {change.perturbation: change.kind for change in known if change.kind is not None}
    return {name: kind for name, kind in kinds.items() if isinstance(_written(kind), dict)}


def _written(kind: perturb.Perturbation) -> Any:
    return called(_one, {"perturbation": kind})["perturbation"]


def _one(perturbation: object) -> None:
    """Stand for a function with one argument."""


def parse(state: Mapping[str, Any], own: Mapping[str, perturb.Perturbation]) -> dict[str, Change]:
    """Read what is done to each row, in which the user's own may stand by name."""
    if not isinstance(state, Mapping):
        return changes(state)  # which refuses it

    def known(given: Any) -> Any:
        name, *numbers = given if isinstance(given, (tuple, list)) and given else (given,)
        if not isinstance(name, str) or name not in own:
            return given
        return (own[name], *numbers)

    return changes({row: known(given) for row, given in state.items()})


def plain(state: Mapping[str, Change]) -> dict[str, Any]:
    """Write a state in plain values, the user's own as `results.YOURS` marks them."""
    own = objects(state.values())

    def written(change: Change) -> Any:
        if change.perturbation not in own:
            return change.plain
        mark = {YOURS: change.perturbation}
        return mark if isinstance(change.plain, str) else (mark, *change.plain[1:])

    return {row: written(change) for row, change in state.items()}
