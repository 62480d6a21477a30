"""What an experiment leaves in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.analyses import Finding

__all__ = ["SUMMARY", "keep"]

SUMMARY = "summary.json"


def keep(
    out: str | os.PathLike[str] | None,
    *,
    title: str,
    findings: Iterable[Finding] = (),
    datasets: Mapping[str, xr.Dataset] | None = None,
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write an experiment's results into a folder.

    Parameters
    ----------
    out : path or None
        None keeps nothing.
    title : str
        One line that says what was run.
    findings : iterable of Finding
    datasets, figures, tables : mapping, optional
        By name of the file without its suffix: written as ``.nc``, ``.png`` with ``.svg``, and
        ``.csv``.

    Returns
    -------
    list of Path
        What was written, ``summary.json`` first. A run's manifest takes it up: ``title``;
        ``finding``, a sentence; ``claims``, what the paper says, what was measured, and whether
        it ``agrees`` (None: undecided); ``findings``, the same with the fields of
        `analyses.Finding`; ``figure``, the first one; the names of all ``figures`` and
        ``tables``.
    """
    if out is None:
        return []
    from layerscope import plots, results

    folder = Path(out)
    written = [results.save(ds, folder / f"{name}.nc") for name, ds in (datasets or {}).items()]
    for name, figure in (figures or {}).items():
        written += [plots.save(figure, folder / f"{name}.{suffix}") for suffix in ("png", "svg")]
    for name, table in (tables or {}).items():
        text = table.to_csv(index=False).encode()
        written.append(results.write_bytes(folder / f"{name}.csv", text))
    found, drawn = list(findings), [path.name for path in written if path.suffix == ".png"]
    about = {
        "title": title,
        "finding": _sentence(title, found),
        "claims": [_claim(each) for each in found],
        "findings": [each.plain() for each in found],
        "figure": drawn[0] if drawn else None,
        "figures": drawn,
        "tables": [path.name for path in written if path.suffix == ".csv"],
    }
    content = json.dumps(about, indent=1, ensure_ascii=False).encode()
    return [results.write_bytes(folder / SUMMARY, content), *written]


def _sentence(title: str, findings: Sequence[Finding]) -> str:
    verdicts = [found.verdict for found in findings]
    parts = ", ".join(
        f"{verdicts.count(verdict)} {word}"
        for verdict, word in (
            ("agrees", "agree"),
            ("disagrees", "disagree"),
            ("undecided", "undecided"),
        )
    )
    return f"{title}. Of {len(verdicts)} statements: {parts}."


def _claim(found: Finding) -> dict[str, Any]:
    runs = f"{found.runs} run{'' if found.runs == 1 else 's'}"
    number = f"{found.value:.3g}" if found.runs else "unknown"
    between = f", 95 % interval {found.lower:.3g} to {found.upper:.3g}" if found.runs > 1 else ""
    return {
        "paper": found.claim,
        "measured": f"{found.measured}: {number} ({runs}{between}); agrees if {found.condition}",
        "agrees": {"agrees": True, "disagrees": False}.get(found.verdict),
    }
