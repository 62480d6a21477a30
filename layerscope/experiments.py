"""The paper's experiments as data: networks, data, training and sweep, at three scales.

>>> from layerscope import experiments
>>> experiments.EXPERIMENTS["fcn-mnist"].scales["paper"].parameters["seeds"]
5
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.data import ImageData
    from layerscope.training import Recipe

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "Scale", "probe", "series_folder", "summarise"]

SERIES_VARIABLE = "LAYERSCOPE_SERIES"

SUMMARY = "summary.json"
"""File that `summarise` writes, and that goes into a run's manifest."""


@dataclass(frozen=True)
class Scale:
    """An experiment at one size.

    Parameters
    ----------
    parameters : mapping
        Of the notebook, where they differ from its own defaults.
    data : str
        The data set it runs on.
    expected : str
        How long it takes, measured on two cores.
    """

    parameters: Mapping[str, Any]
    data: str
    expected: str


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Parameters
    ----------
    name, title : str
    shown_in : str
        The paper's figure.
    notebook : str
        File name in ``notebooks/``.
    networks : tuple of str
    scales : mapping of str to Scale
    """

    name: str
    title: str
    shown_in: str
    notebook: str
    networks: tuple[str, ...]
    scales: Mapping[str, Scale]


EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            name="fcn-mnist",
            title="Which layers of a fully connected network on MNIST matter?",
            shown_in="Figure 1",
            notebook="01_fcn_mnist.ipynb",
            networks=("fcn-3x256", "fcn-5x256"),
            scales={
                "smoke": Scale({"epochs": 3, "seeds": 2}, "mnist-5k", "15 s"),
                "small": Scale({"seeds": 3}, "mnist-5k", "1 min"),
                "paper": Scale({"dataset": "mnist", "seeds": 5}, "mnist", "3 min a seed"),
            },
        ),
        Experiment(
            name="fcn-mnist-recipe",
            title="Which recipe comes closest to the paper's numbers?",
            shown_in="Figure 1",
            notebook="01b_fcn_mnist_recipe.ipynb",
            networks=("fcn-3x256",),
            scales={
                "smoke": Scale(
                    {"epochs": 2, "recipes": [[0.01, "lecun-truncated"], [0.05, "he-normal"]]},
                    "mnist-5k",
                    "15 s",
                ),
                "small": Scale({}, "mnist-5k", "2 min"),
                "paper": Scale({"dataset": "mnist"}, "mnist", "3 min a recipe"),
            },
        ),
    )
}


def series_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that trained series are kept in and shared through.

    Parameters
    ----------
    folder : path, optional
        By default the environment variable ``LAYERSCOPE_SERIES``, else a folder in the user's
        cache.
    """
    chosen = folder or os.environ.get(SERIES_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "layerscope" / "series"


def probe(
    network: str | Mapping[str, Any],
    data: ImageData,
    recipe: Recipe,
    seeds: Iterable[int],
    *,
    draws: int = 3,
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Train a network once per seed, sweep each over its checkpoints, and join the results.

    Parameters
    ----------
    network : str or mapping
        As `models.build` takes it.
    data : ImageData
        Trained on its training part, swept over its test part.
    recipe : Recipe
    seeds : iterable of int
    draws : int
        Random draws of each layer, for re-randomisation.
    device : str
    folder : path, optional
        As `series_folder` takes it; what is there is not trained again.

    Returns
    -------
    xarray.Dataset
        With a dimension ``seed``; ``attrs["runs"]`` says how each network was trained, on which
        device, and in how many seconds.
    """
    from layerscope import engine, results, training

    wanted = list(seeds)
    runs = []
    for seed in wanted:
        series = training.train(
            network, data, recipe, seed=seed, out=series_folder(folder), device=device
        )
        ds = engine.sweep(
            series.build(), data.test, checkpoints=series, draws=draws, seed=seed, device=device
        )
        known = ("network", "data", "recipe", "seed", "device", "torch", "seconds")
        ds.attrs["training"] = json.dumps({key: series.manifest[key] for key in known})
        runs.append(ds)
    return results.concat(runs, wanted)


@dataclass(frozen=True)
class Claim:
    """What the paper says of one thing, what was measured, and whether the two agree.

    Parameters
    ----------
    paper, measured : str
        In words and numbers, with the interval of what was measured.
    agrees : bool or None
        None where the run can't decide it.
    """

    paper: str
    measured: str
    agrees: bool | None


def summarise(
    out: str | os.PathLike[str] | None,
    finding: str,
    claims: Sequence[Claim] = (),
    figure: str | None = None,
) -> None:
    """Leave what a run found, for its manifest and for the gallery.

    Parameters
    ----------
    out : path, optional
        The notebook's parameter: folder of the run; None keeps nothing.
    finding : str
        What came out, in a sentence or two.
    claims : sequence of Claim
        The table "the paper says, we measured, agrees?".
    figure : str, optional
        File in `out`, PNG or SVG, that shows it.

    Raises
    ------
    ResultError
        If there is no such figure.

    Examples
    --------
    >>> summarise(None, "layer1 is critical", [Claim("layer1 alone", "layer1 alone", True)])
    """
    if out is None:
        return
    from layerscope import results
    from layerscope.errors import ResultError

    folder = Path(out)
    if figure is not None and not (folder / figure).is_file():
        raise ResultError(f"there is no figure {figure} in {folder}; save it before summarise.")
    told = {"finding": finding, "figure": figure, "claims": [asdict(claim) for claim in claims]}
    content = json.dumps(told, indent=1, ensure_ascii=False)
    results.write_bytes(folder / SUMMARY, content.encode())
