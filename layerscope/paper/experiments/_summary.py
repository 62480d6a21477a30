"""Summary that an experiment leaves of itself, as a run's manifest takes it up."""

from __future__ import annotations

from typing import Any

from layerscope.base import files

__all__ = ["SUMMARY", "Claim", "Summary"]

SUMMARY = "summary.json"


class Claim(files.Schema):
    """A statement of the paper, what was measured, and whether the two agree; None: undecided."""

    paper: str
    measured: str
    agrees: bool | None = None


class Summary(files.Schema):
    """Content of the file that `keep` writes."""

    title: str = ""
    finding: str = ""
    claims: tuple[Claim, ...] = ()
    findings: tuple[dict[str, Any], ...] = ()
    figure: str | None = None
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
