"""Run an experiment's notebook in batch, and keep what it leaves with a manifest.

>>> from layerscope import reproduce
>>> done = reproduce.run("fcn-mnist", "small")                              # doctest: +SKIP
>>> done.folder                                                             # doctest: +SKIP
PosixPath('papermill_runs/fcn-mnist/small')

The folder holds the executed notebook, the Dataset, the figures and ``manifest.json``. A run that
is there already, of the same notebook and parameters, is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from layerscope import results
from layerscope._version import __version__
from layerscope.base import devices, notebooks, progress, validate
from layerscope.base.extras import extra, require
from layerscope.base.writing import write_bytes
from layerscope.errors import LayerscopeError, OptionError, ResultError, choose
from layerscope.paper import experiments
from layerscope.zoo import data

__all__ = ["MANIFEST", "Done", "NotebookError", "run"]

MANIFEST = "manifest.json"
_HASH = "notebook_sha256"

_PURPOSE = "running the paper's experiments"

# Set by the runner, not by the user: they hold places of this machine or of the run itself.
_OURS = ("out", "device")
_OF_THE_DATA = ("size", "test_size", "vocab", "length", "lines")  # what `data.load` is given
_ALL_OF = ("size", "test_size", "lines")  # where None means all

_PACKAGES = (
    *("torch", "torchvision", "numpy", "xarray", "holoviews", "bokeh", "papermill", "mlxtend"),
    "safetensors",
)


class NotebookError(LayerscopeError):
    """A cell of a notebook failed."""


@dataclass(frozen=True)
class Done:
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
) -> Done:
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

    Returns
    -------
    Done

    Raises
    ------
    OptionError
        If there is no such experiment, scale or parameter, or a value has the wrong type.
    DataError
        If the data set is not there.
    NotebookError
        If a cell fails; the notebook up to there is kept beside the run's folder.
    """
    experiment = experiments.find(name)
    chosen = dict(experiment.scales[choose(scale, experiment.scales, "scale")].parameters)
    root = validate.path(out, "out", "papermill_runs")
    if not isinstance(overrides or {}, Mapping):
        raise OptionError(
            f"overrides is {validate.describe(overrides)}; give a mapping, such as {{'epochs': 5}}."
        )
    changed = dict(overrides or {}) | ({} if seeds is None else {"seeds": seeds})
    require("papermill", "paper", _PURPOSE)  # before the data are read
    source = experiment.notebook
    declared = notebooks.parameters(source)
    _check(changed, declared, source.name)
    usual = {**declared, **chosen}
    values = {**usual, **changed}
    devices.resolve(device)
    fingerprints = _fingerprints(values, data_root)
    changed = {key: value for key, value in changed.items() if usual[key] != value}
    folder = root / experiment.name / experiments.folder_name(scale, changed)
    identity = {
        "experiment": experiment.name,
        "scale": scale,
        "parameters": values,
        "data": fingerprints,
        _HASH: notebooks.digest(source),
        "layerscope": __version__,
    }
    found = _finished(folder, identity, experiment.same_as) if resume else None
    if found is not None:
        return Done(folder, True, found)
    command = experiments.command(os.fspath(name), scale, changed)
    with _environment(root, data_root), _draft(folder) as draft:
        began, started = time.monotonic(), datetime.now(UTC)
        given = {**chosen, **changed, "out": ".", "device": device}
        with _reporting(f"{experiment.name} ({scale})", draft, show_progress):
            _execute(source, draft, given, declared, folder)
        about = identity | {
            "command": command,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
            "training_seconds": _training_seconds(draft),
            "software": _software(),
            "machine": _machine(device),
            "summary": _summary(draft),
            "files": _files(draft, source.name),
        }
        write_bytes(draft / MANIFEST, json.dumps(about, indent=1, ensure_ascii=False).encode())
    _failed(folder).unlink(missing_ok=True)
    return Done(folder, False, about)


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
                f"parameter {key} is {value!r}, of type {type(value).__name__}; "
                f"expected {type(default).__name__}, such as {default!r}."
            )
        if key == "seeds" and value < 1:
            raise OptionError(f"seeds is {value}; at least one training run is needed.")


def _fingerprints(values: Mapping[str, Any], root: str | os.PathLike[str] | None) -> dict[str, str]:
    # Before the kernel starts: the user waits for the answer where the data are not there.
    options = {name: values[name] for name in _OF_THE_DATA if name in values}
    name = values.get("dataset")
    if name is None:
        return {}
    found = data.load(name, root, **options)
    return {"name": name, "train": found.train.fingerprint, "test": found.test.fingerprint}


def _finished(
    folder: Path, identity: Mapping[str, Any], same_as: Sequence[str]
) -> dict[str, Any] | None:
    """Return the manifest of a finished run that is the same in all that matters."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None
    wanted = json.loads(json.dumps(identity))
    if str(about.get(_HASH)).startswith(tuple(same_as)):
        wanted.pop(_HASH)
    same = all(about.get(key) == value for key, value in wanted.items())
    intact = all(
        (folder / name).is_file() and _sha256(folder / name) == entry["sha256"]
        for name, entry in about.get("files", {}).items()
    )
    return about if same and intact else None


@contextmanager
def _environment(root: Path, data_root: str | os.PathLike[str] | None) -> Iterator[None]:
    """Tell the kernel where things are on this machine without writing it into the notebook."""
    values = {
        experiments.SERIES_VARIABLE: str((root / "series").resolve()),
        "LAYERSCOPE_STILL": "1",
        # Kernels of Jupyter warn about it at every start, on standard error.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if data_root is not None:
        values[data.ROOT_VARIABLE] = str(Path(data_root).expanduser().resolve())
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """Work in a folder beside the run's, and put it in place only when all is done."""
    folder = Path(os.path.realpath(folder))  # a link to a folder stays one
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    except OSError as error:
        raise ResultError(
            f"can't write to {folder.parent}: {error.strerror}. Choose another folder with --out."
        ) from None
    try:
        yield draft
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
        if folder.exists():
            folder.replace(old)
        draft.replace(folder)
        experiments.hand_on(old, folder, MANIFEST)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _execute(
    source: Path,
    draft: Path,
    values: Mapping[str, Any],
    declared: Mapping[str, Any],
    folder: Path,
) -> None:
    with extra("paper", _PURPOSE):
        import papermill

    given = {key: value for key, value in values.items() if key in declared}
    target = draft / source.name
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            given,
            cwd=str(draft),
            progress_bar=False,
            # Kernels of recent versions warn at every start that loopback is not encrypted.
            extra_arguments=["--Application.log_level=40"],
            kernel_name="python3",
        )
    except papermill.PapermillExecutionError as error:
        kept = _failed(folder)
        target.replace(kept)
        last = error.evalue.splitlines()[0] if error.evalue else ""
        raise NotebookError(
            f"cell {error.exec_count} of {source.name} failed: {error.ename}: {last} "
            f"(the notebook up to there is {kept})"
        ) from None
    _clean(target)


def _failed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed.ipynb")


def _training_seconds(folder: Path) -> list[float]:
    """List how long each training took, whether in this run or in an earlier one."""
    found = [results.settings(results.open_dataset(path)) for path in sorted(folder.glob("*.nc"))]
    runs = [
        run["training"] for about in found for run in about.get("runs", []) if "training" in run
    ]
    # Several sweeps may be of the same trained network.
    return [run["seconds"] for at, run in enumerate(runs) if run not in runs[:at]]


def _summary(folder: Path) -> dict[str, Any] | None:
    """Take up what the notebook says that it found, if it does."""
    path = folder / experiments.SUMMARY
    if not path.is_file():
        return None
    told = dict(json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return told


def _clean(path: Path) -> None:
    """Take out of an executed notebook what tells of this machine or this minute."""
    with extra("paper", _PURPOSE):
        import nbformat

    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    book.metadata.pop("papermill", None)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    nbformat.write(book, path)  # type: ignore[no-untyped-call]


@contextmanager
def _reporting(what: str, draft: Path, show: bool) -> Iterator[None]:
    """Show what the notebook's own progress bars say while it runs."""
    relay = draft / "progress.tmp.json"
    os.environ[progress.RELAY] = str(relay.resolve())
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(what, relay, over), daemon=True)
    try:
        if show:
            watcher.start()
        yield
    finally:
        over.set()
        if show:
            watcher.join()
        os.environ.pop(progress.RELAY, None)
        relay.unlink(missing_ok=True)


def _watch(what: str, relay: Path, over: threading.Event) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    began, said, told = time.monotonic(), "", 0.0
    with console.status(f"{what}: starting") as status:
        while not over.wait(0.25):
            line = progress.read_relay(relay)
            spent = time.monotonic() - began
            status.update(f"{what}, {spent:.0f} s: {line or 'starting'}")
            # Where there is no terminal to redraw a line in, a line now and then.
            if not console.is_terminal and line != said and spent - told > 20:
                console.print(f"{what}, {spent:.0f} s: {line}", highlight=False)
                said, told = line, spent


def _files(folder: Path, first: str) -> dict[str, dict[str, Any]]:
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    names.sort(key=lambda name: name != first)
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
        if not name.endswith(".tmp.json")
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _software() -> dict[str, str]:
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version()} | versions


def _machine(device: str) -> dict[str, Any]:
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": devices.describe(devices.resolve(device)),
    }
