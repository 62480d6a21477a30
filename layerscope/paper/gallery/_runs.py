"""Finished runs, with what each says that it found."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from layerscope.base import files, validate
from layerscope.errors import ResultError
from layerscope.paper import experiments, reproduce, rules
from layerscope.paper.experiments import Claim, Comparison

__all__ = ["AGAIN", "Claim", "Comparison", "Run", "read"]

AGAIN = "again"
"""Name of the fact that is a command."""

_MANIFEST = reproduce.MANIFEST
_SILENT = "This run left no summary; its notebook says what came out."
_OTHERS = "Other experiments"
_LONGEST_TABLE = 2**20  # bytes of a table that is shown, and its columns
_MOST_COLUMNS = 200


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes
    ----------
    folder : Path
    name, title, question : str
        Of the experiment; `title` is what it asks, `question` what several ask together.
    scale : str
    subject : str
        Network and data in words.
    reduced : str
        What is smaller than in the paper, in words; empty where nothing is, or it is no experiment
        of the paper's.
    found, beside, finding : str
        What came out, whether the paper agrees, and the first in detail.
    claims : tuple of Claim
    comparisons : tuple of Comparison
        Numbers that the paper prints, beside ours.
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
    question: str = _OTHERS
    subject: str = ""
    reduced: str = ""
    found: str = ""
    beside: str = ""
    comparisons: tuple[Comparison, ...] = field(default=())

    @property
    def heading(self) -> str:
        """Network and data; the question where the paper has nothing to hold the run against."""
        return self.subject if any(claim.of_paper for claim in self.claims) else self.title

    @property
    def subheading(self) -> str:
        """The other of the question and of network and data; empty where both are the same."""
        other = self.title if self.heading == self.subject else self.subject
        return "" if other == self.heading else other

    @property
    def is_single(self) -> bool:
        """True for a single training run, which decides nothing."""
        return bool(self.claims) and self.agreement.startswith("one run")

    @property
    def agreement(self) -> str:
        """Count the claims that agree, in words."""
        return experiments.agreement(self.claims)

    @property
    def statements(self) -> dict[str, int]:
        """Count the paper's statements by answer, its printed numbers left out."""
        answers = {"yes": True, "no": False, "open": None}
        return {
            kind: sum(c.agrees is said for c in self._counted) for kind, said in answers.items()
        }

    @property
    def stated(self) -> str:
        """Head of the column of statements: who makes them."""
        return "the paper says" if any(c.of_paper for c in self.claims) else "checked here"

    @property
    def later(self) -> int:
        """Count the paper's statements whose rule was fixed after the day of the run."""
        fixed = [r.fixed for c in self._counted if (r := rules.RULES.get(c.rule))]
        return sum(day > self.facts.get("run", "") for day in fixed)

    @property
    def _counted(self) -> list[Claim]:
        return [c for c in self.claims if c.of_paper and not c.rule.startswith("printed")]

    @property
    def detail(self) -> str:
        """Result in detail; empty where `found` and the statements say it all."""
        said = self.finding
        known = said.rstrip(".") == self.found or any(c.paper in said for c in self.claims)
        return "" if known else said

    @property
    def sentence(self) -> str:
        """Say in sentences what came out, and whether the paper agrees."""
        return " ".join(f"{part}." for part in (self.found, self.beside) if part)

    @property
    def printed(self) -> str:
        """Answer of the printed numbers together: those of an interval, by what chance leaves."""
        answers = [claim.agrees for claim in self.claims if claim.rule.startswith("printed")]
        return "no" if False in answers else "open" if None in answers else "yes"

    @property
    def cells(self) -> tuple[int, int, int]:
        """Count the printed numbers that agree, all whose intervals tell, and the others."""
        cells = [cell for each in self.comparisons for cell in each.cells]
        told = [cell for cell in cells if cell.told]
        return sum(cell.agrees for cell in told), len(told), len(cells) - len(told)


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
    title = known.title if known else about.title or about.experiment
    return Run(
        folder=folder,
        name=about.experiment,
        title=title,
        scale=folder.name,
        finding=summary.finding,
        claims=summary.claims,
        figure=next((each for each in there if each.name == summary.figure), None),
        notebook=next((each for each in there if each.suffix == ".ipynb"), None),
        facts=_facts(about),
        rows=() if summary.claims else _read_table(there),
        question=known.question if known and known.question else _OTHERS,
        subject=_subject(about) or title,
        reduced=", ".join(_smaller(about, known)),
        found=summary.found or summary.finding.rstrip("."),
        beside=_beside(summary),
        comparisons=summary.comparisons,
    )


def _networks(about: reproduce.Manifest) -> list[str]:
    """Networks of a run by name; of many, such as a grid of sizes, none."""
    parameters = about.parameters
    given = parameters.get("network", parameters.get("networks", ()))
    names = [given] if isinstance(given, str) else list(given or ())
    return [str(name) for name in names] if len(names) <= 2 else []


def _beside(summary: experiments.Summary) -> str:
    """Say whether the paper agrees; where it says nothing that is at hand, that."""
    silent = summary.claims and not any(claim.of_paper for claim in summary.claims)
    parts = ["the paper says nothing of it that is at hand"] if silent else []
    said = "; ".join(filter(None, [*parts, summary.beside]))
    return f"{said[:1].upper()}{said[1:]}"


def _is_connected(about: reproduce.Manifest) -> bool:
    names = _networks(about)
    return bool(names) and all(name.startswith("fcn") for name in names)


def _subject(about: reproduce.Manifest) -> str:
    names = [experiments.network_words(name) for name in _networks(about)]
    if not names:
        return ""
    on = f" on {experiments.data_words(about.data.name)}" if about.data.name else ""
    said = f"{' and '.join(names)}{on}"
    return f"{said[:1].upper()}{said[1:]}"


def _smaller(about: reproduce.Manifest, known: experiments.Experiment | None) -> Iterator[str]:
    """Say what is smaller than in the paper's experiment, or other."""
    paper = known.scales.get("paper") if known and known.networks else None
    if known is None or paper is None:
        return
    # The fully connected networks of the paper saw digits, whatever the others saw.
    known_data = {paper.data, *(["mnist"] if _is_connected(about) else [])}
    if paper.data and about.data.name not in known_data:
        yield (
            f"{experiments.data_words(about.data.name)} (the paper: "
            f"{experiments.data_words(paper.data)})"
        )
    if any(name not in known.networks for name in _networks(about)):
        yield "a smaller network"
    here, there = (each.get("epochs") for each in (about.parameters, paper.parameters))
    if isinstance(here, int) and isinstance(there, int) and here < there:
        yield f"{here} of {there} epochs"


def _facts(about: reproduce.Manifest) -> dict[str, str]:
    parameters, trained = about.parameters, about.training_seconds
    judged = about.judged
    facts = {
        "network": str(parameters.get("network", "")),
        "data": about.data.name,
        "epochs": str(parameters.get("epochs", "")),
        "seeds": str(parameters.get("seeds", "")),
        "training": f"{_time(sum(trained))} for the networks swept" if trained else "",
        # Whether a network was trained in the notebook or found is not recorded.
        "notebook": f"{_time(about.seconds)}, with what had not been trained before",
        "run": about.started[:10],
        "judged": f"{judged.at[:10]}, by version {judged.layerscope} and the rules {judged.rules}"
        if judged
        else "when it was run, by the rules of then",
        "device": about.machine.device,
        AGAIN: about.command,
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
