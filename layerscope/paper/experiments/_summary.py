"""Summary that an experiment leaves of itself, as a run's manifest takes it up."""

from __future__ import annotations

from typing import Any

from layerscope.base import files

__all__ = ["SUMMARY", "Cell", "Claim", "Comparison", "Summary"]

SUMMARY = "summary.json"


class Claim(files.Schema):
    """A statement of the paper, what was measured, and whether the two agree; None: undecided.

    Attributes
    ----------
    rule : str
        Name of the rule that it is judged by; empty where there is none.
    runs : int
        Training runs that it is judged by.
    holds : bool or None
        Whether what was measured lies on the statement's side, decided or not.
    of_paper : bool
        False for a check of ours, which is not counted.
    reduced : str
        What is smaller than in the paper, where printed numbers are compared.
    """

    paper: str
    measured: str
    agrees: bool | None = None
    rule: str = ""
    runs: int = 0
    holds: bool | None = None
    of_paper: bool = True
    reduced: str = ""


class Cell(files.Schema):
    """A number that the paper prints, and ours.

    Attributes
    ----------
    told : bool
        False where the interval is so wide that lying in it tells nothing.
    """

    layer: str
    column: str
    paper: str
    measured: float
    agrees: bool
    lower: float | None = None
    upper: float | None = None
    told: bool = True


class Comparison(files.Schema):
    """Printed numbers beside ours; the intervals are those of one more run."""

    what: str
    reduced: str = ""
    cells: tuple[Cell, ...] = ()


class Summary(files.Schema):
    """Content of the file that `keep` writes.

    Attributes
    ----------
    found, beside : str
        What was found, and whether the paper agrees: a sentence each, without its full stop.
    finding : str
        What was found in detail.
    """

    title: str = ""
    found: str = ""
    beside: str = ""
    finding: str = ""
    claims: tuple[Claim, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    findings: tuple[dict[str, Any], ...] = ()
    figure: str | None = None
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
