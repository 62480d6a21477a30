"""Measures that may tell how well a network generalises, beside how well it does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from layerscope.paper.experiments._probing import sweep_series, trained
from layerscope.paper.experiments._saved import find_table, saved_folder
from layerscope.paper.experiments._spreading import Untrained, rehearsing

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.zoo.training import Recipe

__all__ = ["generalisation"]


def generalisation(
    network: str | Mapping[str, Any],
    data: Any,
    recipe: Recipe,
    seeds: Iterable[int],
    *,
    examples: int = 1000,
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    view: str = "leaf",
    record: Iterable[int] = (0,),
    random_labels: float = 0.0,
    kept_as: str = "generalisation",
    **grid: Any,
) -> pd.DataFrame:
    """Train, and set every measure beside the generalisation gap.

    Parameters
    ----------
    network, data, recipe, seeds, device, folder
        As for `probe`.
    examples : int
        Training examples, the first ones, that errors under noise are estimated on.
    view : str
        What makes a module.
    record : iterable of int
        Epochs to record besides the last.
    random_labels : float
        Share of the training labels that are random, as `analyses.gap` takes it.
    kept_as : str
        Name that `keep` gives the table of all networks and shares, its first columns ``network``
        and ``random labels``; there these rows are found where a run is judged again.
    **grid
        Options of `analyses.criticality_grid`.

    Returns
    -------
    DataFrame
        One row per seed: ``train``, ``test`` and ``gap`` (errors), ``critical`` (layers),
        ``criticality`` (of the network), ``at_edge`` (modules that reach theirs at the least or
        the greatest noise of the grid), and the measures of `analyses.weight_measures`.
    """
    import pandas as pd
    import torch

    from layerscope.paper import analyses
    from layerscope.zoo import models

    if (saved := saved_folder()) is not None:
        return find_table(saved, kept_as, network=network, random_labels=random_labels)
    wanted = list(seeds)
    rows = []
    part = data.train.take(torch.arange(min(examples, len(data.train))))
    runs = trained(
        network, data, recipe, wanted, device=device, folder=folder, record=tuple(record)
    )
    if rehearsing(*runs):
        return Untrained()  # type: ignore[return-value]
    for seed, series in zip(wanted, runs, strict=True):
        swept = sweep_series(
            [series], data, [seed], part="train", epochs=[0], view=view, device=device
        )
        points = analyses.criticality_grid(
            models.rebuild(series), part, checkpoints=series, device=device, view=view, **grid
        )
        found = analyses.criticality(points)
        rows.append(
            {"seed": seed}
            | analyses.gap(models.rebuild(series), data, device, random_labels)
            | {"critical": int(analyses.verdict_counts(swept)["critical"].iloc[0])}
            | {"criticality": float(found["network"])}
            | {"at_edge": int(found["at_edge"].sum())}
            | analyses.weight_measures(series)
        )
    return pd.DataFrame(rows)
