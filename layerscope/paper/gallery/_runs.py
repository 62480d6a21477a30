"""Finished runs, with what each says that it found."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from layerscope.base import files, validate
from layerscope.errors import ResultError
from layerscope.paper import experiments, reproduce

__all__ = ["Claim", "Run", "read"]

_MANIFEST = reproduce.MANIFEST
_SILENT = "This run left no summary; its notebook says what came out."
_LONGEST_TABLE = 2**20  # bytes of a table that is shown, and its columns
_MOST_COLUMNS = 200


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, what was measured, and whether the two agree.

    Attributes
    ----------
    paper, measured : str
        In words and numbers, with the interval of what was measured.
    agrees : bool or None
        None where the run can't decide it.
    """

    paper: str
    measured: str
    agrees: bool | None


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes
    ----------
    folder : Path
    name, title, scale : str
        Of the experiment; `title` is its question.
    finding : str
    claims : tuple of Claim
    figure, notebook : Path or None
    facts : mapping of str to str
        Data, seeds, time, machine, command.
    rows : tuple of tuple of str
        Of a table that the run left, its header first; empty where `claims` say it all.
    """

    folder: Path
    name: str
    title: str
    scale: str
    finding: str
    claims: tuple[Claim, ...]
    figure: Path | None
    notebook: Path | None
    facts: Mapping[str, str]
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def agreement(self) -> str:
        """Count the claims that agree, in words."""
        if not self.claims:
            return "no statements"
        count = {answer: sum(c.agrees is answer for c in self.claims) for answer in (True, False)}
        said = [f"{count[True]} of {len(self.claims)} agree"]
        said += [f"{count[False]} disagree"] if count[False] else []
        still = len(self.claims) - sum(count.values())
        return ", ".join([*said, *([f"{still} undecided"] if still else [])])


def read(folder: str | os.PathLike[str]) -> list[Run]:
    """Read every finished run below a folder, in the order of the paper's experiments.

    Parameters
    ----------
    folder : path

    Returns
    -------
    list of Run

    Raises
    ------
    ResultError
        If there is none, or a manifest is damaged.
    """
    found = sorted(validate.path(folder, "runs", "papermill_runs").glob(f"*/*/{_MANIFEST}"))
    # Drafts of runs that are on their way begin with a dot.
    found = [path for path in found if not path.parent.name.startswith(".")]
    # Trained series may lie beside the runs; their manifests are of another kind.
    found = [path for path in found if b'"layerscope-series"' not in _beginning(path)]
    if not found:
        raise ResultError(
            f"there is no finished run in {folder}; layerscope reproduce NAME makes one."
        )
    order = list(experiments.EXPERIMENTS)
    runs = [_run(path) for path in found]
    return sorted(
        runs,
        key=lambda run: (
            order.index(run.name) if run.name in order else len(order),
            run.name,
            run.scale,
        ),
    )


def _beginning(path: Path) -> bytes:
    with files.open_file(path, error=ResultError, what="the manifest of a run") as file:
        return file.read(200)


def _run(path: Path) -> Run:
    about, folder = reproduce.read_manifest(path), path.parent
    known = experiments.EXPERIMENTS.get(about.experiment)
    there = reproduce.find_files(folder, about.files)
    summary = about.summary or experiments.Summary(finding=_SILENT)
    claims = tuple(Claim(each.paper, each.measured, each.agrees) for each in summary.claims)
    return Run(
        folder=folder,
        name=about.experiment,
        title=known.title if known else about.title or about.experiment,
        scale=folder.name,
        finding=summary.finding,
        claims=claims,
        figure=next((each for each in there if each.name == summary.figure), None),
        notebook=next((each for each in there if each.suffix == ".ipynb"), None),
        facts=_facts(about),
        rows=() if claims else _read_table(there),
    )


def _facts(about: reproduce.Manifest) -> dict[str, str]:
    parameters, trained = about.parameters, about.training_seconds
    facts = {
        "network": str(parameters.get("network", "")),
        "data": about.data.name,
        "epochs": str(parameters.get("epochs", "")),
        "seeds": str(parameters.get("seeds", "")),
        "training": f"{_time(sum(trained))} for the networks swept" if trained else "",
        # Whether a network was trained in the notebook or found is not recorded.
        "notebook": f"{_time(about.seconds)}, with what had not been trained before",
        "device": about.machine.device,
        "again": about.command,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read_table(there: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """Read the rows of a run's table, if it has a single one.

    Raises
    ------
    ResultError
        If it is no table, or too large to be shown.
    """
    tables = [each for each in there if each.suffix == ".csv"]
    if len(tables) != 1:
        return ()
    what = "a table of a run"
    text = files.read_text(tables[0], error=ResultError, what=what, most=_LONGEST_TABLE)
    columns = text.partition("\n")[0].count(",") + 1
    if columns > _MOST_COLUMNS:
        raise ResultError(f"{tables[0]} is not {what}: it has {columns:,} columns.")
    try:
        table = pd.read_csv(io.StringIO(text)).round(3)
        cells = table.astype(object).where(table.notna(), "")
    # Pandas has errors of many kinds for what is no table.
    except Exception as error:  # noqa: BLE001
        raise ResultError(f"{tables[0]} is not {what}: {error}") from None
    return (tuple(map(str, table)), *(tuple(map(str, row)) for row in cells.to_numpy().tolist()))
