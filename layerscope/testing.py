"""Small synthetic networks, series and Datasets for tests and examples.

>>> from layerscope import testing
>>> ds = testing.dataset()
>>> list(ds.value.dims)
['layer', 'epoch', 'perturbation', 'draw', 'metric']
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results

__all__ = ["dataset", "ranges"]

Array = npt.NDArray[np.float64]


def dataset(
    layers: int = 4,
    epochs: Sequence[int] = (0, 1, 2, 3, 8, 40, 90, 100),
    draws: int = 3,
    seed: int = 0,
    n_examples: int = 10_000,
) -> xr.Dataset:
    """Make a Dataset of the form that a sweep returns, with made-up but plausible values.

    The lowest layers are the critical ones, and every layer settles with the epochs.

    Parameters
    ----------
    layers : int
        Named ``layer1``, ``layer2``, …, before the row ``fullmodel``.
    epochs : sequence of int
        Checkpoints, the first before training and the last the trained network.
    draws : int
        Of the perturbation ``rerandomize``.
    seed : int
        Of the made-up values.
    n_examples : int
        That each value averages over.
    """
    rng = np.random.default_rng(seed)
    names = [f"layer{index + 1}" for index in range(layers)] + [results.FULL_MODEL]
    metrics = ["error", "loss"]
    shape = (layers + 1, len(epochs) + 1, 2, draws, len(metrics))
    value = np.full(shape, np.nan)
    base = np.array([0.02, 0.08])
    height = np.array([0.9 / (index + 1) ** 1.5 for index in range(layers)] + [0.95])
    for column, epoch in enumerate(epochs, start=1):
        # Nothing is left to lose at the last checkpoint: it is the trained network.
        settled = 0.0 if epoch == max(epochs) else np.exp(-1.2 * epoch)
        error = base[0] + (height - base[0]) * settled
        value[:, column, 0, 0] = np.stack([error, 4 * error], -1)
    random = np.minimum(0.9, 0.7 + 0.3 * rng.random((layers + 1, draws)))
    value[:, 0, 1] = np.stack([random, 4 * random], -1)
    value[..., 0] = np.round(value[..., 0] * n_examples) / n_examples
    spread = np.sqrt(np.clip(value * (1 - value), 0, None) / n_examples)
    difference, difference_spread = _paired(value, base, n_examples)
    norms = ["l2", "l2_rms", "l2_relative", "l2_fan_in", "linf"]
    distance = np.full((layers + 1, len(epochs) + 1, len(norms)), np.nan)
    distance[:, 1:] = np.sqrt(np.asarray(epochs, float))[None, :, None] * rng.uniform(
        0.5, 1.5, (layers + 1, 1, len(norms))
    )
    drawn = np.full((layers + 1, 2, draws, len(norms)), np.nan)
    drawn[:, 1] = 12 + rng.random((layers + 1, draws, len(norms)))
    dims = ("layer", "epoch", "perturbation", "draw", "metric")
    return results.build(
        {
            "value": (dims, value),
            "standard_error": (dims, spread),
            "difference": (dims, difference),
            "difference_standard_error": (dims, difference_spread),
            "baseline": (["metric"], base),
            "baseline_standard_error": (["metric"], [0.0014, 0.004]),
            "n_examples": ([], n_examples),
            "chance": ([], 0.8865),
            "distance": (["layer", "epoch", "norm"], distance),
            "draw_distance": (["layer", "perturbation", "draw", "norm"], drawn),
        },
        {
            "layer": names,
            "epoch": [results.NO_EPOCH, *epochs],
            "perturbation": ["reinitialize", "rerandomize"],
            "draw": np.arange(draws),
            "metric": metrics,
            "norm": norms,
            "depth": ("layer", np.arange(layers + 1)),
            "kind": ("layer", ["layer"] * layers + ["network"]),
            "module_type": ("layer", ["Linear"] * layers + ["FCN"]),
            "parameters": (
                "layer",
                [*range(1_000, 1_000 * (layers + 1), 1_000), 500 * layers * (layers + 1)],
            ),
            "initializer": ("layer", ["declared"] * (layers + 1)),
        },
        {"network": {"family": "fcn", "depth": layers - 1}, "data": {"name": "synthetic"}},
    )


def ranges(blocks: int = 12, seed: int = 0, n_examples: int = 400) -> xr.Dataset:
    """Make a Dataset of a language model that was run without ranges of its blocks.

    The first blocks and the last matter most, and perplexity rises exponentially with how many
    are left out, as in real ones.

    Parameters
    ----------
    blocks : int
        Every contiguous range of them is a row, so that there are ``blocks * (blocks + 1) / 2``.
    seed : int
        Of the made-up values.
    n_examples : int
        That each value averages over.
    """
    rng = np.random.default_rng(seed)
    spans = [(i, n) for n in range(1, blocks + 1) for i in range(blocks + 1 - n)]
    depth = np.linspace(-1, 1, blocks)
    cost = 0.02 + 0.5 * depth**6 + 0.03 * rng.random(blocks)
    cost[:2] += [3.0, 0.4]
    loss = np.array([3.5 + sum(cost[i : i + n]) + 0.02 * n**1.6 for i, n in spans])
    value = np.stack([loss, np.exp(loss)], -1)[:, None, None, None, :]
    dims = ("layer", "epoch", "perturbation", "draw", "metric")
    base = np.array([3.5, np.exp(3.5)])
    return results.build(
        {
            "value": (dims, value),
            "standard_error": (dims, 0.01 * value),
            "baseline": (["metric"], base),
            "baseline_standard_error": (["metric"], 0.01 * base),
            "n_examples": ([], n_examples),
        },
        {
            "layer": [f"blocks {i}-{i + n - 1}" if n > 1 else f"block {i}" for i, n in spans],
            "epoch": [results.NO_EPOCH],
            "perturbation": ["skip"],
            "draw": [0],
            "metric": ["loss", "perplexity"],
            "depth": ("layer", np.arange(len(spans))),
            "kind": ("layer", ["layer"] * len(spans)),
            "module_type": ("layer", ["Block" if n == 1 else "" for _, n in spans]),
            "parameters": ("layer", [1_000 * n for _, n in spans]),
            "first_block": ("layer", [i for i, _ in spans]),
            "n_blocks": ("layer", [n for _, n in spans]),
        },
        {"network": {"family": "decoder", "depth": blocks}, "data": {"name": "synthetic"}},
    )


def _paired(value: Array, base: Array, n_examples: int) -> tuple[Array, Array]:
    """Make up how examples differ from the baseline: the mean, and its standard error."""
    moved = value - base
    moved[..., 0] = np.round(moved[..., 0] * n_examples) / n_examples
    # A perturbed network also names a few rightly that the trained one does not.
    better = np.where(moved == 0, 0, np.floor(0.1 * base * n_examples))
    squares = 2 * better / n_examples + np.abs(moved)
    return moved, np.sqrt(np.clip(squares - moved**2, 0, None) / max(n_examples - 1, 1))
