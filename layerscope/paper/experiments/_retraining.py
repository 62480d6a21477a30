"""Train again without training some layers, or without having them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import LayerError
from layerscope.paper.experiments._probing import series_folder
from layerscope.paper.experiments._saved import find_table, saved_folder
from layerscope.paper.experiments._spreading import Training, Untrained, rehearsing, train_all

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from layerscope.zoo.training import Recipe

__all__ = ["largest_set", "removable", "retrain"]


def removable(model: nn.Module, rows: Sequence[str]) -> list[str]:
    """Those of `rows` whose output has the shape of their input, so that they can be left out.

    Examples
    --------
    >>> from layerscope import models
    >>> removable(models.build("fcn-3x16"), ["layer1", "layer2", "layer4"])
    ['layer2']
    """
    from layerscope.zoo import models

    found = []
    for row in rows:
        try:
            models.remove(model, row)
        except LayerError:
            continue
        found.append(row)
    return found


def retrain(
    network: str | Mapping[str, Any],
    data: Any,
    recipe: Recipe,
    seeds: Iterable[int],
    rows: Sequence[str],
    *,
    view: str = "leaf",
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    kept_as: str = "freeze_remove",
    **options: Any,
) -> pd.DataFrame:
    """Train in full, with rows frozen at their initial values, and with rows removed.

    All three begin from the same initialisation and see the same data in the same order. A
    variant for which there is no row (or which would leave nothing to train) is left out.

    Parameters
    ----------
    network, data, recipe, seeds, device, folder
        As for `probe`.
    rows : sequence of str
        Such as those that a sweep found robust; only those that can be are removed, see
        `removable`.
    view : str
        What makes a row.
    kept_as : str
        Name that `keep` gives the table, by which it is found where a run is judged again.
    **options
        Further ones of `training.train`.

    Returns
    -------
    DataFrame
        ``variant`` ("full", "frozen" or "removed"), ``layers``, ``seed``, ``parameters`` that are
        trained, ``error`` on test data, ``seconds``.
    """
    import pandas as pd

    from layerscope.core import metrics
    from layerscope.paper import analyses
    from layerscope.zoo import models

    if (saved := saved_folder()) is not None:
        return find_table(saved, kept_as)
    config = models.configure(network, inputs=data.shape, classes=data.classes)
    model = models.build(config)
    sizes = dict(model.named_parameters())
    still = tuple(analyses.leaves(model, rows, view)) if rows else ()
    gone = tuple(removable(model, rows))
    variants: dict[str, tuple[models.Config, Recipe, tuple[str, ...]]] = {}
    variants["full"] = config, recipe, ()
    if still and len(still) < len(analyses.leaves(model, ["*"])):
        variants["frozen"] = config, replace(recipe, frozen=still), tuple(rows)
    if gone:
        variants["removed"] = models.configure(config, removed=gone), recipe, gone
    table, wanted = [], list(seeds)
    asked = [
        Training(net, data, how, seed, device, options)
        for net, how, _ in variants.values()
        for seed in wanted
    ]
    found = iter(train_all(asked, series_folder(folder)))  # of all variants at once
    if rehearsing():
        return Untrained()  # type: ignore[return-value]
    for variant, (net, how, chosen) in variants.items():
        runs = [next(found) for _ in wanted]
        left = _trained_parameters(sizes, models.build(net), how.frozen)
        for seed, series in zip(wanted, runs, strict=True):
            error = metrics.evaluate(models.rebuild(series), data.test, ["error"], device="cpu")[
                "error"
            ]
            table.append(
                {"variant": variant, "layers": ", ".join(chosen), "seed": seed}
                | {"parameters": left, "error": error.mean}
                | {"seconds": series.manifest["seconds"]}
            )
    return pd.DataFrame(table)


def largest_set(
    series: Any,
    data: Any,
    rows: Sequence[str],
    *,
    kept_as: str = "largest_set",
    **options: Any,
) -> pd.DataFrame:
    """Search greedily for the largest set of rows that can be reset together.

    Parameters
    ----------
    series : Series
    data : data set
        The test part is swept over.
    rows : sequence of str
        To choose among.
    kept_as : str
        Name that `keep` gives the table, by which it is found where a run is judged again.
    **options
        Of `analyses.largest_set`.

    Returns
    -------
    DataFrame
        Its steps.
    """
    from layerscope.paper import analyses
    from layerscope.zoo import models

    if (saved := saved_folder()) is not None:
        return find_table(saved, kept_as)
    if rehearsing(series):
        return Untrained()  # type: ignore[return-value]
    model = models.rebuild(series)
    return analyses.largest_set(model, data.test, checkpoints=series, rows=rows, **options).steps


def _trained_parameters(sizes: Mapping[str, Any], model: nn.Module, frozen: Sequence[str]) -> int:
    from layerscope.base.tensors import owner_name

    return sum(
        sizes[name].numel()
        for name, _ in model.named_parameters()
        if owner_name(name) not in frozen
    )
