"""Checkpoints that can't be read: marked in the selector and the heat map, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.core.checkpoints import Series
from layerscope.core.session import Change

if TYPE_CHECKING:
    from layerscope.jupyter._controls import Controls
    from layerscope.jupyter._display import Display

__all__ = ["change_at", "columns_of", "extended", "mark", "note", "options", "show"]

_TOLD = 3
"""Checkpoints whose reason is told, of those that can't be read."""

Damaged = Mapping[int, str]
"""Epochs that can't be read, and why."""


def note(series: Series | None) -> str:
    """Say which checkpoints can't be read, and why; empty where all can.

    Examples
    --------
    >>> import torch
    >>> sound = {"weight": torch.ones(2)}
    >>> note(Series({0: "gone.pt", 1: sound}, damaged="leave out"))[:62]
    "1 of 2 checkpoints can't be read, and is left out: epoch 0 (ca"
    """
    if series is None or not series.damaged:
        return ""
    told = [f"{series.unit} {epoch} ({why.rstrip('.')})" for epoch, why in series.damaged.items()]
    more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    of = len(series.epochs) + len(told)
    verb = "is" if len(told) == 1 else "are"
    return (
        f"{len(told)} of {of} checkpoints can't be read, and {verb} left out: "
        f"{'; '.join(told[:_TOLD])}{more}."
    )


def options(epochs: Sequence[int], damaged: Damaged) -> list[tuple[str, int]]:
    """List all checkpoints for the selector, those that can't be read marked as such."""
    return [
        (f"{epoch} (can't be read)" if epoch in damaged else str(epoch), epoch)
        for epoch in sorted({*epochs, *damaged})
    ]


def change_at(ds: xr.Dataset, column: str, damaged: Damaged) -> Change | None:
    """Say what the cells of a column would do, if it is one of a damaged checkpoint."""
    epoch, info = columns_of(ds, damaged).get(column, (0, None))
    return None if info is None else Change(info.name, epoch, info=info)


def columns_of(ds: xr.Dataset, damaged: Damaged) -> dict[str, tuple[int, results.PerturbationInfo]]:
    """Name the columns of a heat map that need a damaged checkpoint."""
    found = (results.perturbation(ds, str(name)) for name in ds["perturbation"].values)
    kinds = [info for info in found if info.uses_checkpoint]
    return {info.column_at(epoch): (epoch, info) for info in kinds for epoch in damaged}


def extended(table: pd.DataFrame, ds: xr.Dataset, damaged: Damaged) -> list[str]:
    """List the columns of the heat map in their order, with those of damaged checkpoints."""
    there = set(table["column"])
    extra = [
        {"column": column, "epoch": epoch, "perturbation": info.name}
        for column, (epoch, info) in columns_of(ds, damaged).items()
        if column not in there
    ]
    known = table[["column", "epoch", "perturbation"]]
    return stats.column_order(
        pd.concat([known, pd.DataFrame(extra)], ignore_index=True) if extra else known
    )


def mark(
    known: dict[tuple[str, str], dict[str, str]],
    rows: Sequence[str],
    ds: xr.Dataset,
    damaged: Damaged,
) -> None:
    """Mark the cells of damaged checkpoints; what was measured before stays, and says so."""
    for column, (epoch, _) in columns_of(ds, damaged).items():
        for row in rows:
            cell: dict[str, Any] = known.get((row, column), {})
            why = f"checkpoint {epoch} can't be read: {damaged[epoch]}"
            if "text" in cell:
                cell["tip"] += f"\ncan't be measured again: {why}"
            else:
                known[row, column] = {"refused": "refused", "tip": f"{row}, {column}: {why}"}


def show(series: Series | None, display: Display, controls: Controls) -> None:
    """Say which checkpoints can't be read, and mark them wherever they can be chosen."""
    damaged = {} if series is None else series.damaged
    display.damaged = damaged
    display.doubt("warning", note(series))
    if series is None or not damaged:
        return
    controls.offer(options(series.epochs, damaged))
