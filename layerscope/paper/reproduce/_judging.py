"""Finished runs, judged again: their notebooks executed on the Datasets that they left."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerscope._version import __version__
from layerscope.base import notebooks, validate
from layerscope.base.extras import require
from layerscope.base.writing import failures, make_folder, write_bytes
from layerscope.errors import ResultError
from layerscope.paper import experiments, rules
from layerscope.paper.reproduce import _about as about
from layerscope.paper.reproduce._executing import PURPOSE, environment, execute, reporting
from layerscope.paper.reproduce._folder import draft, finished, list_files, recover
from layerscope.paper.reproduce._manifest import HASH, MANIFEST, read_with_all

__all__ = ["execute_plain", "find_runs", "judge", "judgement"]

_DATASETS = "*.nc"


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """Find the folders of finished runs in a folder of runs, or one that is a run itself.

    Raises
    ------
    ResultError
        If there is none.
    """
    place = validate.path(folder, "runs", "papermill_runs")
    found = [place] if (place / MANIFEST).is_file() else []
    found = found or sorted(path.parent for path in place.glob(f"*/*/{MANIFEST}"))
    # Drafts of runs that are on their way begin with a dot; series have manifests of their own.
    found = [each for each in found if not each.name.startswith(".") and _is_run(each)]
    if not found:
        raise ResultError(
            f"there is no finished run in {folder}; layerscope reproduce NAME makes one."
        )
    return found


def judge(
    folder: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Judge a finished run again: execute today's notebook on its Datasets, training nothing.

    Findings, comparisons, figures and the executed notebook are made anew by today's rules; the
    Datasets stay as they are, byte for byte. The manifest keeps when, where and how long was
    trained, and says in ``judged`` when and by which rules and version it was judged.

    Parameters
    ----------
    folder : path
        Of one run.
    data_root : path, optional
        As for `reproduce.run`: the data are loaded, to be compared with what the Datasets say.
    show_progress : bool

    Returns
    -------
    dict
        The new manifest.

    Raises
    ------
    ResultError
        If it is no finished run, or its Datasets were changed since.
    NotebookError
        If a cell fails, as where a sweep that today's notebook asks for is not among the Datasets;
        the run stays as it was.
    """
    require("papermill", "paper", PURPOSE)
    place = validate.path(folder, "folder", "papermill_runs/fcn-mnist/small").absolute()
    recover(place)
    known, manifest = read_with_all(place / MANIFEST)
    if finished(place, {}, ()) is None:
        raise ResultError(f"files of {place} were changed since the run; run it again.")
    experiment = experiments.find(known.experiment)
    given = dict(known.parameters) | {"out": "."}
    saved = {experiments.SAVED_VARIABLE: os.fspath(place)}
    began = time.monotonic()
    with environment(place.parents[1], data_root, saved), draft(place) as work:
        with reporting(f"{known.experiment}, judged again", work, show_progress):
            execute(experiment.notebook, work, given, place)
        summary = about.summary(work)
        for path in sorted(place.glob(_DATASETS)):
            with failures(work / path.name):
                shutil.copyfile(path, work / path.name)
        manifest |= {
            HASH: notebooks.digest(experiment.notebook),
            "title": experiment.title,
            "judged": {**judgement(), "seconds": round(time.monotonic() - began, 1)},
            "summary": summary,
            "files": list_files(work, experiment.notebook.name),
        }
        write_bytes(work / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return manifest


def execute_plain(
    source: str | os.PathLike[str], folder: str | os.PathLike[str], **values: Any
) -> Path:
    """Execute a notebook that is no experiment, such as the quickstart, for those who read it.

    Parameters
    ----------
    source : path
    folder : path
        Where the executed copy is put, under the same name.
    **values
        Parameters of the notebook.

    Returns
    -------
    Path
    """
    path = validate.path(source, "source", "notebooks/00_quickstart.ipynb")
    place = make_folder(validate.path(folder, "folder", "papermill_runs"))
    with environment(place, None, {}):
        execute(path.absolute(), place, values, place / path.stem)
    return place / path.name


def judgement() -> Mapping[str, Any]:
    """Say when, by which version and by which rules a run is judged."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "layerscope": __version__,
        "rules": rules.digest(),
    }


def _is_run(folder: Path) -> bool:
    try:
        read_with_all(folder / MANIFEST)
    except ResultError:
        return False
    return True
