"""Conclusion of an experiment: shown at the end of its notebook, kept in its manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.base.templates import render
from layerscope.paper.experiments._summary import Cell, Claim, Comparison
from layerscope.paper.experiments._words import agreement

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.paper.analyses import Finding

__all__ = ["Conclusion", "claim_of", "claim_of_table", "comparison_of"]

_ANSWERS = {True: "yes", False: "no", None: "undecided"}
_MOST_NAMED = 4
_LEVEL = 0.05
_TEMPLATE = "paper/experiments/templates/conclusion.html.jinja"


@dataclass(frozen=True)
class Conclusion:
    """Conclusion of an experiment, for a notebook to show.

    Attributes
    ----------
    found, beside : str
        What came out, and whether the paper agrees, for people.
    finding : str
        In detail.
    claims : tuple of Claim
    files : tuple of Path
        What was written.
    """

    found: str
    beside: str
    finding: str
    claims: tuple[Claim, ...]
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        lines = [self._sentence, f"{agreement(self.claims)}. {self.finding}"]
        lines += [f"[{_ANSWERS[c.agrees]}] {c.paper}: {c.measured}" for c in self.claims]
        return "\n".join(lines)

    @property
    def _sentence(self) -> str:
        return f"{'; '.join(part for part in (self.found, self.beside) if part)}."

    def _repr_html_(self) -> str:
        return str(
            render(
                _TEMPLATE,
                found=self.found,
                beside=self.beside,
                finding=self.finding,
                claims=self.claims,
                agreement=agreement(self.claims),
                answers=_ANSWERS,
            )
        )


def claim_of(found: Finding, of_paper: bool = True) -> Claim:
    """Put a finding in words: the number, its interval, the limit, what would decide it."""
    from layerscope.paper import rules

    runs = f"{found.runs} {found.unit}{'' if found.runs == 1 else 's'}"
    between = f", 95 % interval {found.lower:.3g} to {found.upper:.3g}" if found.runs > 1 else ""
    number = f"{found.value:.3g} ({runs}{between})" if found.runs else "nothing to measure here"
    said = f"{found.measured}: {number}; agrees if {found.condition}"
    if math.isfinite(found.detectable):
        said += f" ({runs} tell what is {found.detectable:.2g} away from that)"
    said += f". {found.note}" if found.note else ""
    said += _open(found) if found.verdict == "undecided" and found.runs > 1 else ""
    rule = rules.RULES.get(found.rule)
    return Claim(
        paper=found.claim,
        measured=said,
        agrees={"agrees": True, "disagrees": False}.get(found.verdict),
        rule=found.rule,
        runs=found.runs,
        holds=_holds(found.value, found.condition) if found.runs else None,
        of_paper=of_paper and (rule.of_paper if rule else True),
    )


def _open(found: Finding) -> str:
    """Say of what is undecided what would decide it."""
    sides = {_holds(value, found.condition) for value in (found.lower, found.upper)}
    if found.least * found.statements >= _LEVEL:
        return (
            f". So few layers have too few orders to decide one of {found.statements} statements: "
            "a network with more would"
        )
    if found.least:
        return ". Networks with more layers would decide it rather than further runs"
    said = ""
    if len(sides) == 1 and found.statements > 1:
        said = f". Alone it would be decided, among {found.statements} statements it is not"
    needed = f"; about {found.needed} {found.unit}s would decide it" if found.needed else ""
    return said + needed


def _holds(value: float, condition: str) -> bool:
    side, limit, *_ = condition.split()
    value = abs(value) if side == "within" else value
    return value > float(limit) if side == "above" else value < float(limit)


def claim_of_table(what: str, table: pd.DataFrame) -> Claim:
    """Tell a table of printed numbers beside ours as one statement.

    Parameters
    ----------
    what : str
        What the numbers are, such as ``"test errors of fcn-3x256"``.
    table : DataFrame
        As `reference.errors` or `reference.distances` makes it, with at least one row.

    Returns
    -------
    Claim
        ``measured`` names every cell outside its interval; ``agrees`` is False if 95 % intervals
        leave as many cells outside by chance in less than one case of twenty (binomial, cells taken
        as independent; those that tell nothing count as inside, so that no answer of theirs could
        change it), else True where every cell is told, and None where one is not, or with one run,
        which has no intervals.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"agrees": [True] * 9, "difference": 0.0})
    >>> table = table.assign(column="0", lower=0.1, upper=0.2, told=True)
    >>> claim_of_table("test errors", table).measured
    '9 of 9 cells agree; root mean square difference 0.000.'
    """
    from scipy.stats import binom

    from layerscope.paper import reference

    told = table["told"].astype(bool)
    outside = table[told & ~table["agrees"].astype(bool)]
    by_chance = bool(binom.sf(len(outside) - 1, len(table), 0.05) >= 0.05)
    said = f"{reference.verdict(table)}."
    if len(outside):
        said += f" {_outside(outside)}"
        said += " Intervals of 95 % leave as many outside by chance." if by_chance else ""
    # Fresh random values have several draws in a single run.
    over_runs = table[table["column"] != "rand"]
    known = bool((over_runs["lower"] < over_runs["upper"]).any())
    if known and by_chance and not told.all():
        said += f" {_untold(table[~told])}"
    said += "" if known else " One run has no interval."
    return Claim(
        paper=f"{len(table)} {what}",
        measured=said,
        agrees=by_chance if known and (told.all() or not by_chance) else None,
        rule="printed-distances" if what.startswith("distances") else "printed-errors",
        runs=2 if known else 1,
        holds=by_chance,
        reduced=str(table.attrs.get("reduced", "")),
    )


def _outside(cells: pd.DataFrame) -> str:
    """Name the cells that lie outside of their interval, of many those that differ most."""
    worst = cells.reindex(cells["difference"].abs().sort_values(ascending=False).index)
    shown = worst.head(_MOST_NAMED).sort_index()
    named = [
        f"{row.layer} at {row.column} (paper {row.paper}, measured {row.measured:.3g}, "
        f"{row.lower:.3g} to {row.upper:.3g})"
        for row in shown.itertuples()
    ]
    begin = "Outside:" if len(cells) == len(shown) else "Farthest outside:"
    return f"{begin} {'; '.join(named)}."


def _untold(cells: pd.DataFrame) -> str:
    """Name the cells that keep a comparison from agreeing."""
    named = [f"{row.layer} at {row.column}" for row in cells.head(_MOST_NAMED).itertuples()]
    more = len(cells) - len(named)
    names = ", ".join(named) + (f" and {more} more" if more else "")
    return f"Undecided, since no interval tells of {names}."


def comparison_of(what: str, table: pd.DataFrame) -> Comparison:
    """Keep a table of printed numbers beside ours."""
    cells = [
        Cell(
            layer=str(row["layer"]),
            column=str(row["column"]),
            paper=str(row["paper"]),
            measured=float(row["measured"]),
            agrees=bool(row["agrees"]),
            told=bool(row["told"]),
            lower=_known(row["lower"]),
            upper=_known(row["upper"]),
        )
        for row in table.to_dict("records")
    ]
    return Comparison(what, str(table.attrs.get("reduced", "")), tuple(cells))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
