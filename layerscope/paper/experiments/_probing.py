"""Train once per seed, sweep, and join: what every experiment does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.base import validate
from layerscope.errors import choose
from layerscope.paper.experiments._saved import find_network_sweep, find_sweep, saved_folder
from layerscope.paper.experiments._spreading import (
    Training,
    Untrained,
    cluster,
    rehearsing,
    train_all,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from torch import nn

    from layerscope.core.checkpoints import Series
    from layerscope.zoo.models import Config
    from layerscope.zoo.training import Recipe

__all__ = [
    "SERIES_VARIABLE",
    "audit",
    "caption",
    "probe",
    "series_folder",
    "sweep_network",
    "sweep_series",
    "trained",
    "trainings",
]

SERIES_VARIABLE = "LAYERSCOPE_SERIES"


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
        return validate.expand(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "layerscope" / "series"


def trained(
    network: str | Config | Mapping[str, Any],
    data: Any,
    recipe: Recipe,
    seeds: Iterable[int],
    *,
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Series]:
    """Train a network once per seed, or find what is trained already.

    Parameters
    ----------
    network, data, recipe, seeds, device, folder
        As for `probe`.
    **options
        Further ones of `training.train`, such as ``record`` and ``augment``.

    Notes
    -----
    On a cluster, which ``reproduce --dask`` names in the environment, the networks of all seeds
    are trained by its workers, one by each at a time.
    """
    asked = [Training(network, data, recipe, seed, device, options) for seed in seeds]
    return train_all(asked, series_folder(folder))


def probe(
    network: str | Config | Mapping[str, Any],
    data: Any,
    recipe: Recipe,
    seeds: Iterable[int],
    *,
    draws: int = 3,
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    record: Sequence[int] | None = None,
    augment: Any = None,
    kept_as: str | None = None,
    **sweep: Any,
) -> xr.Dataset:
    """Train a network once per seed, sweep each over its checkpoints, and join the results.

    Parameters
    ----------
    network : str or mapping
        As `models.build` takes it.
    data : data set
        Trained on its training part, swept over its test part.
    recipe : Recipe
    seeds : iterable of int
    draws : int
        Random draws of each layer, for re-randomisation.
    device : str
    folder : path, optional
        As `series_folder` takes it; what is there is not trained again.
    record : sequence of int, optional
        Epochs to record; by default those of the paper's first figure.
    augment : callable, optional
        As `training.train` takes it.
    kept_as : str, optional
        As `sweep_series` takes it.
    **sweep
        Options of `layerscope.sweep`, such as ``view="block"``. Texts are scored by loss,
        perplexity and error unless ``metrics`` says otherwise.

    Returns
    -------
    xarray.Dataset
        With a dimension ``seed``; ``attrs["runs"]`` says how each network was trained, on which
        device, and in how many seconds.
    """
    wanted = list(seeds)
    options = {} if record is None else {"record": tuple(record)}
    if augment is not None:
        options["augment"] = augment
    runs = trained(network, data, recipe, wanted, device=device, folder=folder, **options)
    return sweep_series(runs, data, wanted, draws=draws, device=device, kept_as=kept_as, **sweep)


def sweep_series(
    runs: Sequence[Series],
    data: Any,
    seeds: Sequence[int],
    *,
    part: str = "test",
    networks: Sequence[nn.Module] | None = None,
    draws: int = 3,
    device: str = "auto",
    kept_as: str | None = None,
    **sweep: Any,
) -> xr.Dataset:
    """Sweep series that are trained, and join the results along ``seed``.

    What is done of each sweep is kept beside its series, so that one which was stopped goes on.

    Parameters
    ----------
    runs : sequence of Series
        One per seed.
    data : data set, or mapping of str to data set
        Several by name give a dimension ``task``.
    seeds, draws, device, **sweep
        As for `probe`.
    part : {"test", "train"}
        Which examples are swept over.
    networks : sequence of nn.Module, optional
        One per series, where these are of modules that were handed over; by default they are built
        by their names.
    kept_as : str, optional
        Name that `keep` gives the Dataset. It is needed where a run has several of the same
        network, recipe and examples, so that it can be judged again.
    """
    from layerscope import results
    from layerscope.core import sweep as engine
    from layerscope.zoo import models

    if rehearsing(*runs):
        return Untrained()  # type: ignore[return-value]
    sweep.setdefault("metrics", _metrics(data))
    examples = _part(data, part)
    if (saved := saved_folder()) is not None:
        return find_sweep(saved, runs, examples, {"draws": draws, **sweep}, kept_as)  # type: ignore[arg-type]
    found = []
    nets = [None] * len(runs) if networks is None else networks
    for series, seed, net in zip(runs, seeds, nets, strict=True):
        options = {"draws": draws, "seed": seed, **sweep}
        place = _place(series, examples, options)
        ds = engine.sweep(
            models.rebuild(series) if net is None else net,
            examples,
            checkpoints=series,
            device=device,
            out=place,
            client=cluster(),
            **options,
        )
        known = ("network", "data", "recipe", "augment", "seed", "device", "torch", "seconds")
        ds.attrs["training"] = json.dumps({key: series.manifest.get(key) for key in known})
        found.append(ds)
    return results.concat(found, list(seeds))


def sweep_network(
    model: nn.Module,
    data: Any,
    *,
    name: str,
    part: str = "test",
    device: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    kept_as: str | None = None,
    by: Callable[..., xr.Dataset] | None = None,
    **sweep: Any,
) -> xr.Dataset:
    """Sweep a network with the weights that it holds, and go on where that was stopped.

    Parameters
    ----------
    model : nn.Module
    data : data set
    name : str
        Of the network, for the folder in which what is done is kept.
    part : {"test", "train"}
        Which examples are swept over.
    device : str
    folder : path, optional
        As `series_folder` takes it.
    kept_as : str, optional
        As `sweep_series` takes it.
    by : callable, optional
        What sweeps in place of `layerscope.sweep`, such as `layerscope.super_weights`; it needs
        `kept_as`.
    **sweep
        Options of `layerscope.sweep`, or of `by`, in plain values.
    """
    from layerscope.core import sweep as engine

    if rehearsing():
        return Untrained()  # type: ignore[return-value]
    examples = _part(data, part)
    if (saved := saved_folder()) is not None:
        options = sweep if by is None else None
        return find_network_sweep(saved, model, examples, options, kept_as)
    named = {"network": name, **({} if by is None else {"by": by.__name__}), **sweep}
    place = series_folder(folder) / "networks" / _digest(examples, named)
    ask = by or partial(engine.sweep, client=cluster())
    return ask(model, examples, device=device, out=place, **sweep)


def audit(runs: Sequence[Series]) -> str:
    """Look through trained series for what should not be trusted, one after the other.

    Parameters
    ----------
    runs : sequence of Series
        As `trained` returns them.

    Returns
    -------
    str
        As `checkpoints.audit` says it; of a run that is judged again, whose weights are not kept,
        that.
    """
    from layerscope.core import checkpoints

    if saved_folder() is not None:
        return "The weights of this run are not kept; they were looked through when it was run."
    return "\n".join(str(checkpoints.audit(series)) for series in runs)


def trainings(runs: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """List what was trained: network, seed, metrics of the trained network, seconds, device.

    Parameters
    ----------
    runs : mapping of str to Dataset
        By name of the network, as `probe` returns them.
    """
    import pandas as pd

    from layerscope import results

    rows = []
    for name, ds in runs.items():
        for number, run in enumerate(results.settings(ds)["runs"]):
            base = ds["baseline"].isel(seed=number)
            scores = {str(m): float(base.sel(metric=m)) for m in ds["metric"].values}
            how = run["training"]
            rows.append(
                {"network": name, "seed": how["seed"], **scores}
                | {"seconds": how["seconds"], "device": how["device"]}
            )
    return pd.DataFrame(rows)


def caption(network: str, data: Any, meant: str) -> str:
    """Say in a title what was run, and that it is not what the paper ran where it is not.

    What was taken of the data, which their name says behind a plus, stands in the manifest.

    Parameters
    ----------
    network : str
    data : data set
    meant : str
        Name of the data set that the paper uses.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> caption("resnet18-w0.25", SimpleNamespace(name="cifar10-jpeg+size=500@0"), "imagenet")
    'resnet18-w0.25 on cifar10-jpeg (reduced; the paper: imagenet)'
    >>> caption("fcn-3x256", SimpleNamespace(name="mnist"), "mnist")
    'fcn-3x256 on mnist'
    """
    plain = f"{network} on {data.name.partition('+')[0]}"
    return plain if data.name == meant else f"{plain} (reduced; the paper: {meant})"


def _metrics(data: Any) -> tuple[str, ...]:
    from layerscope.zoo.data import TextData

    if isinstance(data, Mapping):
        return tuple(dict.fromkeys(name for each in data.values() for name in _metrics(each)))
    return ("loss", "perplexity", "error") if isinstance(data, TextData) else ("error", "loss")


def _part(data: Any, part: str) -> Any:
    if isinstance(data, Mapping):
        return {name: _part(each, part) for name, each in data.items()}
    return {"test": data.test, "train": data.train}[choose(part, ("test", "train"), "part")]


def _place(series: Series, examples: Any, options: Mapping[str, Any]) -> Path | None:
    """Return the folder of a sweep with these options; None where they are not plain values."""
    if series.folder is None:
        return None
    try:
        return series.folder / "sweeps" / _digest(examples, options)
    except TypeError:
        return None


def _digest(examples: Any, options: Mapping[str, Any]) -> str:
    from layerscope._version import __version__

    several = examples if isinstance(examples, Mapping) else {"": examples}
    data = {name: each.fingerprint for name, each in several.items()}
    # As it always was for one data set, so that what is kept is found again.
    known = data[""] if list(data) == [""] else data
    said = json.dumps([__version__, known, options], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]
