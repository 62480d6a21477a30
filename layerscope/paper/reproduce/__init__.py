"""Run an experiment's notebook in batch, and keep what it leaves with a manifest.

>>> from layerscope import reproduce
>>> found = reproduce.run("fcn-mnist", "small")                              # doctest: +SKIP
>>> found.folder                                                            # doctest: +SKIP
PosixPath('papermill_runs/fcn-mnist/small')

The folder holds the executed notebook, the Dataset, the figures and ``manifest.json``. A run that
is there already, of the same notebook and parameters, is not repeated.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope._version import __version__
from layerscope.base import devices, notebooks, validate
from layerscope.base.extras import require
from layerscope.base.writing import write_bytes
from layerscope.errors import OptionError, choose
from layerscope.paper import experiments
from layerscope.paper.reproduce import _about as about, _spreading as spreading
from layerscope.paper.reproduce._executing import (
    PURPOSE,
    NotebookError,
    environment,
    execute,
    failed,
    reporting,
)
from layerscope.paper.reproduce._folder import draft, finished, list_files, recover
from layerscope.paper.reproduce._judging import (
    execute_plain as execute_plain,
    find_runs as find_runs,
    judge,
    judgement,
)
from layerscope.paper.reproduce._manifest import (
    HASH,
    MANIFEST,
    Manifest as Manifest,
    find_files as find_files,
    read_manifest as read_manifest,
)
from layerscope.paper.reproduce._naming import command, folder_name
from layerscope.zoo import data

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["MANIFEST", "NotebookError", "RunResult", "judge", "run"]

# Set by the runner, not by the user: they hold places of this machine or of the run itself.
_OURS = ("out", "device")
_OF_THE_DATA = ("size", "test_size", "vocab", "length", "lines")  # what `data.load` is given
_ALL_OF = ("size", "test_size", "lines")  # where None means all


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes
    ----------
    folder : Path
        With everything that the run left.
    reused : bool
        True where it was there already.
    manifest : dict
    """

    folder: Path
    reused: bool
    manifest: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        """Files of the run, the executed notebook first."""
        return [self.folder / name for name in self.manifest["files"]]


def run(
    name: str | os.PathLike[str],
    scale: str = "small",
    *,
    seeds: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] = "papermill_runs",
    overrides: Mapping[str, Any] | None = None,
    resume: bool = True,
    show_progress: bool = True,
    client: Client | None = None,
) -> RunResult:
    """Run one experiment of the paper and keep what it leaves.

    Parameters
    ----------
    name : str or path
        One of `experiments.EXPERIMENTS`, or the path of a notebook that is one.
    scale : str
        One of the experiment's scales.
    seeds : int, optional
        Number of training runs; the scale's own number by default.
    data_root : path, optional
        Folder that holds the data sets, for those that are not embedded.
    device : str
    out : path
        The run goes to ``out/NAME/SCALE``; where parameters differ from the scale's, they are
        part of the folder's name. Trained series go to ``out/series`` and are shared.
    overrides : mapping, optional
        Parameters of the notebook.
    resume : bool
        Take a finished run as it is; else run again, with the trained series that are there.
    show_progress : bool
    client : distributed.Client, optional
        Have the workers of a Dask cluster train, one network by each at a time, and compute the
        cells of its sweeps, to the bits of a run here with as many threads as a worker has, which
        is one unless you set it (``OMP_NUM_THREADS=1``). Workers must see `out` under the same
        path. Those sweeps are spread that the notebook makes by `experiments`.

    Returns
    -------
    RunResult

    Raises
    ------
    OptionError
        If there is no such experiment, scale or parameter, or a value has the wrong type.
    DataError
        If the data set is not there.
    NotebookError
        If a cell fails; the notebook up to there is kept beside the run's folder.
    ClusterError
        If a worker does not see `out`, workers compute on devices of several kinds, or the cluster
        answers no more.
    """
    experiment = experiments.find(name)
    root = validate.path(out, "out", "papermill_runs")
    require("papermill", "paper", PURPOSE)  # before the data are read
    chosen = dict(experiment.scales[choose(scale, experiment.scales, "scale")].parameters)
    usual = notebooks.parameters(experiment.notebook) | chosen
    changed = _changed(overrides, seeds, experiment.notebook)
    values = usual | changed
    if client is None:
        devices.resolve(device)
    fingerprints = _fingerprints(values, data_root)
    changed = {key: value for key, value in changed.items() if usual[key] != value}
    folder = root / experiment.name / folder_name(scale, changed)
    identity = {
        "experiment": experiment.name,
        "scale": scale,
        "parameters": values,
        "data": fingerprints,
        HASH: notebooks.digest(experiment.notebook),
        "layerscope": __version__,
    }
    recover(folder)
    found = finished(folder, identity, experiment.same_as) if resume else None
    if found is not None:
        return RunResult(folder, True, found)
    identity |= {"title": experiment.title, "command": command(os.fspath(name), scale, changed)}
    given = values | {"out": ".", "device": device}
    workers = spreading.agree(client, device, show_progress)
    here = device if workers is None else str(workers.here)
    with environment(root, data_root, spreading.settings(workers)), draft(folder) as place:
        with reporting(f"{experiment.name} ({scale})", place, show_progress):
            spreading.train_ahead(experiment.notebook, place, given, workers)
            manifest = identity | _execute(experiment.notebook, place, given, folder, here)
        write_bytes(place / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    with suppress(OSError):  # of an earlier attempt, and none of this run
        failed(folder).unlink()
    return RunResult(folder, False, manifest)


def _changed(
    overrides: Mapping[str, Any] | None, seeds: int | None, source: Path
) -> dict[str, Any]:
    """Return the parameters that the user gave, checked."""
    if not isinstance(overrides or {}, Mapping):
        raise OptionError(
            f"overrides is {validate.describe(overrides)}; give a mapping, such as {{'epochs': 5}}."
        )
    changed = dict(overrides or {}) | ({} if seeds is None else {"seeds": seeds})
    _check(changed, notebooks.parameters(source), source.name)
    return changed


def _execute(
    source: Path, place: Path, given: Mapping[str, Any], folder: Path, device: str
) -> dict[str, Any]:
    """Execute the notebook in a folder; return the manifest's account of it."""
    began, started = time.monotonic(), datetime.now(UTC)
    execute(source, place, given, folder)
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "training_seconds": about.training_seconds(place),
        "software": about.software(),
        "machine": about.machine(device),
        "judged": judgement(),
        "summary": about.summary(place),
        "files": list_files(place, source.name),
    }


def _check(changed: Mapping[str, Any], declared: Mapping[str, Any], where: str) -> None:
    allowed = [key for key in declared if key not in _OURS]
    for key, value in changed.items():
        default = declared[choose(key, allowed, f"parameter of {where} called")]
        fits = default is None or isinstance(value, type(default))
        fits |= value is None and key in _ALL_OF
        # A whole number is fine where a fraction is expected; True is no number.
        fits |= isinstance(default, float) and isinstance(value, int)
        if not fits or (isinstance(value, bool) and not isinstance(default, bool)):
            raise OptionError(
                f"parameter {key} is {validate.describe(value)}, of type {type(value).__name__}; "
                f"expected {type(default).__name__}, such as {default!r}."
            )
        _require_plain(value, key)
        if key == "seeds" and value < 1:
            raise OptionError(f"seeds is {value}; at least one training run is needed.")


def _require_plain(value: Any, key: str) -> None:
    """Refuse what neither a notebook nor a manifest can hold."""
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise OptionError(
            f"parameter {key} is {validate.describe(value)}; expected texts, finite numbers, True, "
            "False, None, and lists and mappings of them."
        ) from None


def _fingerprints(values: Mapping[str, Any], root: str | os.PathLike[str] | None) -> dict[str, str]:
    # Before the kernel starts: the user waits for the answer where the data are not there.
    options = {name: values[name] for name in _OF_THE_DATA if name in values}
    name = values.get("dataset")
    if name is None:
        return {}
    found = data.load(name, root, **options)
    return {"name": name, "train": found.train.fingerprint, "test": found.test.fingerprint}
