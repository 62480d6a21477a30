"""Files that an experiment leaves in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.base.writing import write_bytes
from layerscope.paper.experiments._summary import SUMMARY

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.paper.analyses import Finding

__all__ = ["keep", "ranked", "told"]

_WORST_FIRST = (
    *("critical", "not finite", "intermediate", "robust", "not moved", "undecided", "refused"),
)
_MOST_TOLD = 4
_ENDS = 3
"""Layers that a sentence names at either end of a ranking."""


def keep(
    out: str | os.PathLike[str] | None,
    *,
    title: str,
    finding: str | None = None,
    findings: Iterable[Finding] = (),
    comparisons: Mapping[str, pd.DataFrame] | None = None,
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
    finding : str, optional
        One sentence that says what came out, see `told`; which statements agree, if not given.
    findings : iterable of Finding
    comparisons : mapping, optional
        Tables of printed numbers beside ours, as `reference.errors` makes them, by what they are
        of; each is one more statement.
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
        ``tables``. Comparisons are among the ``claims`` alone.
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
        written.append(write_bytes(folder / f"{name}.csv", text))
    found, drawn = list(findings), [path.name for path in written if path.suffix == ".png"]
    claims = [_claim(each) for each in found]
    claims += [_claim_of_table(*each) for each in (comparisons or {}).items() if len(each[1])]
    about = {
        "title": title,
        "finding": finding or _sentence(title, claims),
        "claims": claims,
        "findings": [each.plain() for each in found],
        "figure": drawn[0] if drawn else None,
        "figures": drawn,
        "tables": [path.name for path in written if path.suffix == ".csv"],
    }
    content = json.dumps(about, indent=1, ensure_ascii=False).encode()
    return [write_bytes(folder / SUMMARY, content), *written]


def told(title: str, runs: Mapping[str, xr.Dataset], metric: str = "error") -> str:
    """Say in a sentence which layers are critical, which robust, at their initial values.

    Parameters
    ----------
    title : str
        What was run.
    runs : mapping of str to Dataset
        Results by name; the name of a single one is not repeated.
    metric : str
        Its limits are those of `analyses.limits`.

    Returns
    -------
    str

    Examples
    --------
    >>> from layerscope import testing
    >>> told("A network", {"net": testing.dataset(layers=2)})
    'A network. Trained, its error is 0.02; back at the initial values, critical: layer1, layer2.'
    """
    from layerscope import stats
    from layerscope.paper import analyses

    parts = [title]
    for name, ds in runs.items():
        table = stats.classify(ds, **analyses.limits(ds, metric))
        verdicts = [
            f"{verdict}: {', '.join(layers)}"
            for verdict in _WORST_FIRST
            if len(layers := table.loc[table["verdict"] == verdict, "layer"])
        ]
        level = float(ds["baseline"].sel(metric=metric).mean())
        begin = f"{name}: trained" if len(runs) > 1 else "Trained"
        said = f"its {metric} is {level:.3g}; back at the initial values, {'; '.join(verdicts)}"
        parts.append(f"{begin}, {said}")
    return f"{'. '.join(parts)}."


def ranked(
    title: str,
    ds: xr.Dataset,
    metric: str,
    perturbation: str | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> str:
    """Say in a sentence which layers cost most and least, and how well measures rank them.

    Parameters
    ----------
    title : str
        What was run.
    ds : Dataset
    metric : str
    perturbation : str, optional
        By default the first that resets, else the first.
    tables : mapping, optional
        Of `stats.agreement`; of the one by the name ``"agreement"`` Spearman's correlations are
        told.

    Examples
    --------
    >>> from layerscope import testing
    >>> ranked("A network", testing.dataset(layers=2), "error")
    'A network. Trained, its error is 0.02; it rises most by layer1 (+0.88), layer2 (+0.298).'
    """
    from layerscope import results, stats

    which = results.perturbation_name(ds, perturbation)
    moved = stats.degradation(ds).sel(metric=metric, perturbation=which)
    first = moved.dropna("epoch", how="all").isel(epoch=0)
    costs = first.drop_sel(layer=results.FULL_MODEL, errors="ignore")
    means = costs.mean([dim for dim in costs.dims if dim != "layer"]).to_series().dropna()
    order = means.sort_values(ascending=False)
    level = float(ds["baseline"].sel(metric=metric).mean())
    said = (
        f"{title}. Trained, its {metric} is {level:.3g}; it rises most by {_listed(order[:_ENDS])}"
    )
    if len(order) > 2 * _ENDS:
        said += f", least by {_listed(order[: -_ENDS - 1 : -1])}"
    found = (tables or {}).get("agreement")
    if found is not None:
        rows = found[found["statistic"] == "spearman"]
        known = ", ".join(f"{row.measure} {row.value:.2f}" for row in rows.itertuples())
        said += f". Rank correlation with it: {known}"
    return f"{said}."


def _listed(costs: pd.Series) -> str:
    return ", ".join(f"{layer} ({cost:+.3g})" for layer, cost in costs.items())


def _claim_of_table(what: str, table: pd.DataFrame) -> dict[str, Any]:
    """Tell a table of printed numbers beside ours as one statement.

    Parameters
    ----------
    what : str
        What the numbers are, such as ``"test errors of fcn-3x256"``.
    table : DataFrame
        As `reference.errors` or `reference.distances` makes it, with at least one row.

    Returns
    -------
    dict
        ``paper``, ``measured`` (every cell outside its interval is named) and ``agrees``: True if
        95 % intervals leave as many cells outside by chance in at least one case of twenty
        (binomial, cells taken as independent); None with one run, which has no intervals.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"agrees": [True] * 9, "difference": 0.0})
    >>> table = table.assign(column="0", lower=0.1, upper=0.2)
    >>> _claim_of_table("test errors", table)["measured"]
    '9 of 9 cells agree; root mean square difference 0.000.'
    """
    from scipy.stats import binom

    from layerscope.paper import reference

    outside = table[~table["agrees"].astype(bool)]
    by_chance = bool(binom.sf(len(outside) - 1, len(table), 0.05) >= 0.05)
    said = f"{reference.verdict(table)}."
    if len(outside):
        cells = [
            f"{row.layer} at {row.column} (paper {row.paper}, measured {row.measured:.3g}, "
            f"{row.lower:.3g} to {row.upper:.3g})"
            for row in outside.itertuples()
        ]
        said += f" Outside: {'; '.join(cells)}."
        said += " Intervals of 95 % leave as many outside by chance." if by_chance else ""
    # Fresh random values have several draws in a single run.
    over_runs = table[table["column"] != "rand"]
    known = bool((over_runs["lower"] < over_runs["upper"]).any())
    said += "" if known else " One run has no interval."
    return {
        "paper": f"{len(table)} {what}",
        "measured": said,
        "agrees": by_chance if known else None,
    }


def _sentence(title: str, claims: Sequence[Mapping[str, Any]]) -> str:
    words = ((True, "Agrees"), (False, "Disagrees"), (None, "Undecided"))
    found = {
        word: [each["paper"] for each in claims if each["agrees"] is answer]
        for answer, word in words
    }
    # Of many the ones that agree are counted: the others are what has to be read.
    if len(found["Agrees"]) > _MOST_TOLD:
        found["Agrees"] = [f"{len(found['Agrees'])} statements"]
    parts = [f"{word}: {'; '.join(those)}." for word, those in found.items() if those]
    return " ".join([title if title.endswith("?") else f"{title}.", *parts])


def _claim(found: Finding) -> dict[str, Any]:
    runs = f"{found.runs} run{'' if found.runs == 1 else 's'}"
    number = f"{found.value:.3g}" if found.runs else "unknown"
    between = f", 95 % interval {found.lower:.3g} to {found.upper:.3g}" if found.runs > 1 else ""
    return {
        "paper": found.claim,
        "measured": f"{found.measured}: {number} ({runs}{between}); agrees if {found.condition}",
        "agrees": {"agrees": True, "disagrees": False}.get(found.verdict),
    }
