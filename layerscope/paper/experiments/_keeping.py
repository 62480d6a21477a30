"""Files that an experiment leaves in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from layerscope.base.writing import write_bytes
from layerscope.paper.experiments._conclusion import (
    Conclusion,
    claim_of,
    claim_of_table,
    comparison_of,
)
from layerscope.paper.experiments._saved import saved_folder
from layerscope.paper.experiments._summary import SUMMARY, Claim, Summary
from layerscope.paper.experiments._words import compose

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.paper.analyses import Finding

__all__ = ["file_name", "keep", "ranked", "told"]

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
    lead: str = "",
    finding: str | None = None,
    findings: Iterable[Finding] = (),
    comparisons: Mapping[str, pd.DataFrame] | None = None,
    datasets: Mapping[str, xr.Dataset] | None = None,
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    of_paper: bool = True,
) -> Conclusion:
    """Write an experiment's results into a folder, and conclude.

    Parameters
    ----------
    out : path or None
        None keeps nothing.
    title : str
        One line that says what was run.
    lead : str, optional
        Words of one sentence that say what came out, see `matter`; whether the paper agrees is
        added. By default the statements say it.
    finding : str, optional
        What came out in detail, see `told`; which statements agree, if not given.
    findings : iterable of Finding
        Corrected for each other, see `analyses.correct`.
    comparisons : mapping, optional
        Tables of printed numbers beside ours, as `reference.errors` makes them, by what they are
        of; each is one more statement.
    datasets, figures, tables : mapping, optional
        By name of the file without its suffix: written as ``.nc``, ``.png`` with ``.svg``, and
        ``.csv``.
    of_paper : bool
        False where the paper says these statements of other networks: then they are checks of ours,
        which are shown and not counted.

    Returns
    -------
    Conclusion
        A notebook shows it; in ``files`` stands what was written, ``summary.json`` first. A run's
        manifest takes that up: ``title``; ``found``, ``beside`` and ``finding``; ``claims``, what
        the paper says, what was measured, and whether it ``agrees`` (None: undecided);
        ``comparisons``, cell by cell; ``findings`` with the fields of `analyses.Finding`;
        ``figure``, the first one; the names of all ``figures`` and ``tables``.

    Notes
    -----
    Where a finished run is judged again its Datasets are there, and not written.
    """
    found = list(findings)
    numbers = {what: each for what, each in (comparisons or {}).items() if len(each)}
    claims = [claim_of(each, of_paper) for each in found]
    claims += [claim_of_table(*each) for each in numbers.items()]
    said = finding or _sentence(title, claims)
    sentences = compose(lead, claims)
    if out is None:
        return Conclusion(*sentences, said, tuple(claims), ())
    folder = Path(out)
    written = _write(folder, datasets or {}, figures or {}, tables or {})
    drawn = [path.name for path in written if path.suffix == ".png"]
    about = Summary(
        title=title,
        found=sentences[0],
        beside=sentences[1],
        finding=said,
        claims=tuple(claims),
        comparisons=tuple(comparison_of(*each) for each in numbers.items()),
        findings=tuple(each.plain() for each in found),
        figure=drawn[0] if drawn else None,
        figures=tuple(drawn),
        tables=tuple(path.name for path in written if path.suffix == ".csv"),
    )
    content = json.dumps(msgspec.to_builtins(about), indent=1, ensure_ascii=False).encode()
    first = write_bytes(folder / SUMMARY, content)
    return Conclusion(*sentences, said, tuple(claims), (first, *written))


def _write(
    folder: Path,
    datasets: Mapping[str, xr.Dataset],
    figures: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
) -> list[Path]:
    from layerscope import plots, results

    new = {} if saved_folder() is not None else datasets
    written = [results.save(ds, folder / f"{name}.nc") for name, ds in new.items()]
    for name, figure in figures.items():
        written += [plots.save(figure, folder / f"{name}.{suffix}") for suffix in ("png", "svg")]
    for name, table in tables.items():
        text = table.to_csv(index=False).encode()
        written.append(write_bytes(folder / f"{name}.csv", text))
    return written


def file_name(what: str) -> str:
    """Make a file's name of words.

    Examples
    --------
    >>> file_name("vgg11, weight decay")
    'vgg11_weight_decay'
    """
    return what.replace(", ", "_").replace(" ", "_")


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


def _sentence(title: str, claims: Sequence[Claim]) -> str:
    words = ((True, "Agrees"), (False, "Disagrees"), (None, "Undecided"))
    found = {
        word: [each.paper for each in claims if each.agrees is answer] for answer, word in words
    }
    # Of many the ones that agree are counted: the others are what has to be read.
    if len(found["Agrees"]) > _MOST_TOLD:
        found["Agrees"] = [f"{len(found['Agrees'])} statements"]
    parts = [f"{word}: {'; '.join(those)}." for word, those in found.items() if those]
    return " ".join([title if title.endswith("?") else f"{title}.", *parts])
