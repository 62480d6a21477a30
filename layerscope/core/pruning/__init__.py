"""Pruning: the path on which a network loses one block after the other, each time the cheapest.

>>> import layerscope
>>> path = layerscope.prune(net, tokens, blocks=8, metrics=["loss"], out="pruned")  # doctest: +SKIP
>>> layerscope.export(net, "smaller", path.sel(step=5), data=tokens)        # doctest: +SKIP

What blocks cost one by one does not say what they cost together, so after each removal all those
that are left are tried again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from layerscope import results
from layerscope.base import progress, validate
from layerscope.core import layers, perturb
from layerscope.core.networks import network_of
from layerscope.core.pruning._path import Step, path_of
from layerscope.core.sweep import sweep, tasks_of
from layerscope.errors import LayerError, OptionError, SweepWarning

__all__ = ["PATH", "prune"]

PATH = "path.nc"
"""The file below the folder in which the path is kept."""

_OWN = (
    "layers", "view", "perturbations", "whole", "decide", "tolerance", "model_epochs", "plan",
)  # fmt: skip
"""Arguments of a sweep that the steps give, or under which it gives no exact values."""


def prune(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    *,
    blocks: int | None = None,
    limit: float | None = None,
    metric: str | None = None,
    out: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Remove one block after the other, each time the one whose removal costs least.

    In each step every block that is left is skipped on top of those removed before, and the network
    is evaluated: a sweep over groups of blocks. The network itself comes back as it was;
    `layerscope.export` writes the smaller one.

    Parameters
    ----------
    model : nn.Module, str or path
        As for `layerscope.sweep`.
    data
        As for `layerscope.sweep`; one data set.
    blocks : int, optional
        Blocks to remove at most; by default all but one.
    limit : float, optional
        Degradation of `metric`, in its unit, that the network may reach: the step that would go
        beyond is not taken. By default any.
    metric : str, optional
        By which blocks are chosen; by default the error, or the first of `metrics`.
    out : path, optional
        Folder for the sweeps, ``step-01``, ``step-02``, …, each of which goes on where it was
        stopped, and for the path as far as it is known, ``path.nc``. The same call goes on there,
        with more `blocks` or another `limit`, too.
    show_progress : bool
    **options
        Further arguments of `layerscope.sweep`: `metrics`, `batch_size`, `device`, `checkpoints`
        (the last of them holds the weights), `norms` and so on.

    Returns
    -------
    xarray.Dataset
        Along ``step``, 0 for the whole network, then one for each block removed:

        ``removed`` (step)
            Name of the block that this step removes; empty at step 0.
        ``value`` (step, metric)
            Of the network without the blocks removed up to here: bit for bit that of a forward
            pass that leaves them out.
        ``degradation``, ``lower``, ``upper`` (step, metric)
            How much worse than the whole network that is (above 0 is worse for every metric), and
            the 95 % interval over examples, as `layerscope.stats.classify` has it.
        ``candidate`` (step, layer, metric)
            The same as ``value`` for every block that might have been removed; NaN for those gone.

        ``attrs["ended"]`` says why there is no further step.

    Raises
    ------
    LayerError
        If the network has fewer than two blocks, or none of those left can be skipped.
    OptionError
        If an argument is one that the steps themselves give, such as `layers`, or what was asked
        for can't be.

    Notes
    -----
    With L blocks, step s evaluates L − s + 1 networks. What lies before the first block that is
    missing is computed once per batch and step.

    Of several networks the best on these examples was taken each time, so that ``value`` is a
    little too good for others: evaluate the smaller network on data of its own. Greedy steps need
    not lead to the best set of blocks.

    References
    ----------
    Song, J., et al. (2024). SLEB: streamlining LLMs through redundancy verification and elimination
    of transformer blocks. ICML. arXiv 2402.09025.
    """
    if given := [name for name in _OWN if name in options]:
        raise OptionError(f"prune sets {given[0]} itself at every step; leave it out.")
    network = layers.require_network(network_of(model))
    if tasks := tasks_of(network, data, options.get("metrics")):
        raise OptionError(f"prune takes one data set, and {len(tasks)} came; prune for each.")
    names = [row.name for row in layers.blocks(network, norms=options.get("norms", "own"))]
    most = _most(blocks, len(names))
    if limit is not None:
        limit = validate.number(limit, "limit", "(-inf, inf)", 0.5)
    folder = None if out is None else validate.path(out, "out", "pruned")
    steps: list[Step] = []
    with _bars(len(names), most, show_progress) as bars:
        for step in range(1, most + 1):
            gone = [each.removed for each in steps]
            with bars.share(len(names) - len(gone)), _said_once(step):
                ds = _without_each(network, data, names, gone, folder, options)
            found = Step.of(ds, metric)
            over = limit is not None and not found.cost <= limit
            if not over:
                steps.append(found)
            ended = _ended(found, over, step == most, limit)
            if folder is not None:
                results.save(path_of(steps, names, ds, ended), folder / PATH)
            if over:
                break
    return path_of(steps, names, ds, ended)


def _most(blocks: int | None, there: int) -> int:
    """Check how many blocks are to go."""
    if there < 2:
        raise LayerError(f"the network has {there} block; one of at least two can be removed.")
    if blocks is None:
        return there - 1
    if (found := validate.integer(blocks, "blocks", 1, 4)) >= there:
        raise OptionError(f"blocks is {found}, but of {there} at least one must stay.")
    return found


@contextmanager
def _bars(there: int, steps: int, show: bool) -> Iterator[progress.Joint]:
    """Show one bar over all steps, in networks that are tried."""
    tried = sum(there - step for step in range(steps))
    with progress.bar(tried, "prune", "network", show=show) as advance:
        yield progress.Joint(advance, "example")


@contextmanager
def _said_once(step: int) -> Iterator[None]:
    """Let the first step's sweep alone say what it has to say of network and data."""
    with warnings.catch_warnings():
        if step > 1:
            warnings.simplefilter("ignore", SweepWarning)
        yield


def _without_each(
    network: nn.Module,
    data: Any,
    names: Sequence[str],
    gone: Sequence[str],
    folder: Path | None,
    options: dict[str, Any],
) -> xr.Dataset:
    """Skip each block that is left on top of those gone; rows are named by it alone."""
    return sweep(
        network,
        data,
        layers={name: [*gone, name] for name in names if name not in gone},
        view="block",
        perturbations=[perturb.skip()],
        whole=False,
        out=None if folder is None else folder / f"step-{len(gone) + 1:02d}",
        **options,
    )


def _ended(found: Step, over: bool, last: bool, limit: float | None) -> str:
    """Say why there is no further step."""
    if over:
        return (
            f"without {found.removed} as well, {found.metric} would be {found.cost:.4g} worse than "
            f"that of the whole network, beyond the limit of {limit:g}."
        )
    return "as many blocks as were asked for are removed." if last else "stopped before its end."
