"""Finished runs, with what each says that it found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerscope.errors import ResultError
from layerscope.paper import experiments

__all__ = ["Claim", "Run", "read"]

_MANIFEST = "manifest.json"
_SILENT = {"finding": "This run left no summary; its notebook says what came out."}


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
    found = sorted(Path(folder).glob(f"*/*/{_MANIFEST}"))
    # Drafts of runs that are on their way begin with a dot.
    found = [path for path in found if not path.parent.name.startswith(".")]
    # Trained series may lie beside the runs; their manifests are of another kind.
    found = [path for path in found if b'"layerscope-series"' not in path.read_bytes()[:200]]
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


def _run(path: Path) -> Run:
    about, folder = _manifest(path), path.parent
    name, scale = str(about["experiment"]), folder.name
    known = experiments.EXPERIMENTS.get(name)
    files = [folder / str(each) for each in about["files"]]
    files = [
        each for each in files if each.is_file() and each.resolve().is_relative_to(folder.resolve())
    ]
    kept = about.get("summary")
    summary = _read_summary(kept if isinstance(kept, dict) else _SILENT, files)
    figure = next((each for each in files if each.name == summary.get("figure")), None)
    return Run(
        folder=folder,
        name=name,
        title=known.title if known else str(about.get("title", name)),
        scale=scale,
        finding=str(summary.get("finding", "")),
        claims=tuple(summary.get("claims", ())),
        figure=figure,
        notebook=next((each for each in files if each.suffix == ".ipynb"), None),
        facts=_facts(about),
        rows=tuple(summary.get("rows", ())),
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        about = dict(json.loads(path.read_text("utf-8")))
        missing = [
            key for key in ("experiment", "parameters", "files", "seconds") if key not in about
        ]
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"{path} is no manifest of a run: {error}") from None
    if missing:
        raise ResultError(f"{path} is no manifest of a run: it lacks {', '.join(missing)}.")
    return about


def _read_summary(summary: Mapping[str, Any], files: list[Path]) -> dict[str, Any]:
    """Summary that a notebook left through `experiments.keep`."""
    claims = [
        Claim(str(claim["paper"]), str(claim["measured"]), _answer(claim["agrees"]))
        for claim in summary.get("claims", ())
    ]
    return {**summary, "claims": claims, "rows": () if claims else _read_table(files)}


def _answer(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    parameters = about["parameters"]
    trained = [float(seconds) for seconds in about.get("training_seconds", ())]
    data = about.get("data", {})
    facts = {
        "network": str(parameters.get("network", "")),
        "data": str(data.get("name", "") if isinstance(data, dict) else data),
        "epochs": str(parameters.get("epochs", "")),
        "seeds": str(parameters.get("seeds", "")),
        "training": f"{_time(sum(trained))} for the networks swept" if trained else "",
        # Whether a network was trained in the notebook or found is not recorded.
        "notebook": f"{_time(float(about['seconds']))}, with what had not been trained before",
        "device": str(about.get("machine", {}).get("device", "")),
        "again": str(about.get("command", "")),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read_table(files: list[Path]) -> tuple[tuple[str, ...], ...]:
    """Read the rows of a run's table, if it has a single one."""
    tables = [each for each in files if each.suffix == ".csv"]
    if len(tables) != 1:
        return ()
    table = pd.read_csv(tables[0]).round(3)
    cells = table.astype(object).where(table.notna(), "")
    return (tuple(map(str, table)), *(tuple(map(str, row)) for row in cells.to_numpy().tolist()))
