"""One self-contained HTML file that says what came out, how sure that is, and how to get it again.

>>> from layerscope import report, testing
>>> report.write({"fcn": testing.dataset()}, "report.html")                 # doctest: +SKIP
PosixPath('report.html')

The file asks nothing of the network, hovers where scripts run, and prints. What comes from a
Dataset, such as the names of layers, is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup

from layerscope import plots, results, stats
from layerscope.base import validate
from layerscope.base.progress import Advance, bar
from layerscope.base.templates import render, trusted
from layerscope.base.writing import write_bytes
from layerscope.errors import OptionError
from layerscope.report._across import Across, across
from layerscope.report._again import again, argument, settings_table
from layerscope.report._findings import (
    classify,
    finding,
    name_some,
    refusal_rows,
    unperturbed,
    verdict_table,
    verdicts as verdicts,
)
from layerscope.report._kept import KeptSection, kept_section
from layerscope.report._measures import MeasureSection, measure_section
from layerscope.report._reading import read
from layerscope.report._texts import TextSection, positions, text_sections

__all__ = ["argument", "finding", "page", "read", "write"]

_MOST_TRIANGLES = 6
_NAMED = ("critical", "undecided", results.NOT_FINITE)


def write(
    runs: Mapping[str, xr.Dataset],
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    critical: float | None = None,
    title: str = "Which layers matter?",
    show_progress: bool = True,
) -> Path:
    """Write a report of one or several results.

    Parameters
    ----------
    runs : mapping of str to Dataset
        From a name to what a sweep returned; `read` makes one from files.
    path : path
        Of the HTML file.
    metric, critical, title, show_progress
        As for `page`.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        As for `page`.
    ResultError
        As for `page`, or if the place is not writable.
    """
    path = validate.path(path, "path", "report.html")
    text = page(runs, metric=metric, critical=critical, title=title, show_progress=show_progress)
    return write_bytes(path, text.encode(errors="backslashreplace"))


def page(
    runs: Mapping[str, xr.Dataset],
    *,
    metric: str | None = None,
    critical: float | None = None,
    title: str = "Which layers matter?",
    show_progress: bool = True,
) -> str:
    """Make the report: for each result a finding, figures, verdicts, settings; then a comparison.

    Parameters
    ----------
    runs : mapping of str to Dataset
    metric : str, optional
        What to judge by; the first that all results have if not given.
    critical : float, optional
        Degradation from which a layer counts as critical, as `stats.classify` takes it; without
        it only error and accuracy can be judged.
    title : str
    show_progress : bool
        Show how far it is, with an estimate, once that takes more than two seconds.

    Returns
    -------
    str
        HTML, some 2 MB, most of it BokehJS.

    Raises
    ------
    OptionError
        If there is no result, or not all have the metric.
    ResultError
        If a Dataset lacks a dimension or variable, or nothing in it was computed.

    Examples
    --------
    >>> from layerscope import testing
    >>> text = page({"fcn": testing.dataset(layers=2)})                      # doctest: +SKIP
    """
    # A Dataset is a mapping as well.
    if isinstance(runs, xr.Dataset) or not isinstance(runs, Mapping) or not runs:
        came = "an empty one" if isinstance(runs, dict) else f"a {type(runs).__name__}"
        raise OptionError(
            f"a report takes a mapping from names to Datasets, such as {{'fcn': ds}}; got {came}."
        )
    for name, ds in runs.items():
        if not isinstance(ds, xr.Dataset):
            came = validate.describe(ds)
            raise OptionError(f"the result {name!r} is {came}; open it first: open_dataset(path).")
    each = dict(_parts(runs))
    metrics = _metrics(each, metric)
    shared = set(metrics.values()) if len(each) > 1 else set()
    # Of tasks that are measured by different things there is nothing to set side by side.
    comparison = _comparison(each, shared.pop(), critical) if len(shared) == 1 else None
    side_by_side = list(_across(runs, metrics, critical))
    with bar(len(each), "judge the layers", "result", show=show_progress) as judged:
        sections = [
            _section(name, ds, metrics[name], critical, judged) for name, ds in each.items()
        ]
    count = _count_figures(comparison, side_by_side, sections)
    with bar(count, "draw the report", "figure", show=show_progress) as advance:
        made = render(
            "report/templates/report.html.jinja",
            title=title,
            library=trusted(plots.library()),
            draw=partial(_draw, advance=advance),
            full=f"{plots.FULL_CHANGE:g}",
            comparison=comparison,
            across=side_by_side,
            runs=sections,
        )
    return str(made)


def _count_figures(
    comparison: _Comparison | None, across: list[Across], sections: list[_Section]
) -> int:
    measured = [run.measures is not None and run.measures.figure is not None for run in sections]
    drawn = [len(part.figures) for part in across] + [len(run.figures) for run in sections]
    return (comparison is not None) + sum(drawn) + sum(measured)


def _draw(plot: Any, advance: Advance) -> Markup:
    html = trusted(plots.embed(plot))
    advance()
    return html


def _parts(runs: Mapping[str, xr.Dataset]) -> Iterator[tuple[str, xr.Dataset]]:
    """Name every result; of several tasks or trained networks each is one."""
    for name, ds in runs.items():
        for words, part in results.parts(ds).items():
            yield f"{name}, {words}" if words else str(name), part


def _across(
    runs: Mapping[str, xr.Dataset], metrics: Mapping[str, str], critical: float | None
) -> Iterator[Across]:
    """Set the parts of every result that has some side by side."""
    for name, ds in runs.items():
        of_parts = {words: metrics[each] for words in results.parts(ds)
                    if (each := f"{name}, {words}") in metrics}  # fmt: skip
        if of_parts:
            yield from across(str(name), ds, of_parts, critical)


def _metrics(runs: Mapping[str, xr.Dataset], metric: str | None) -> dict[str, str]:
    """Choose what each result is judged by: one metric for all where all have one."""
    try:
        return dict.fromkeys(runs, results.metric_name(runs.values(), metric))
    except OptionError:
        if metric is not None or all("," not in name for name in runs):
            raise
    return {name: results.metric_name(ds) for name, ds in runs.items()}


class _Comparison(NamedTuple):
    """A table with a row for each run, and a figure of them all."""

    columns: list[str]
    rows: list[list[str]]
    figure: Any


def _comparison(runs: Mapping[str, xr.Dataset], metric: str, critical: float | None) -> _Comparison:
    tables = [classify(ds, metric, critical) for ds in runs.values()]
    there = {verdict for table in tables if table is not None for verdict in table["verdict"]}
    kinds = ["intermediate", "robust", "undecided"]
    kinds += [
        kind for kind in (results.NOT_FINITE, results.NOT_MOVED, results.REFUSED) if kind in there
    ]
    rows = [
        [name, unperturbed(ds, metric), *_counts(table, kinds)]
        for (name, ds), table in zip(runs.items(), tables, strict=True)
    ]
    columns = ["run", f"{metric}, unperturbed", "critical", *kinds]
    return _Comparison(columns, rows, plots.compare(runs, metric))


def _counts(table: pd.DataFrame | None, kinds: list[str]) -> list[str]:
    """Count the layers of each kind, and name those that matter, or may."""
    if table is None or table.empty:
        return ["–"] * (1 + len(kinds))
    return [_count(table, kind, named=kind in _NAMED) for kind in ("critical", *kinds)]


def _count(table: pd.DataFrame, kind: str, *, named: bool) -> str:
    names = list(table.loc[table["verdict"] == kind, "layer"])
    if len(names) == len(table):
        return f"all {len(names)}"
    return f"{len(names)}: {name_some(names)}" if named and names else str(len(names))


class _Section(NamedTuple):
    """All about one result."""

    name: str
    finding: str
    notices: list[str]
    figures: list[Any]
    verdicts: Markup
    refused: list[list[str]]
    kept: KeptSection | None
    measures: MeasureSection | None
    texts: list[TextSection]
    positions: tuple[list[str], list[list[str]]]
    settings: Markup
    again: str


def _section(
    name: str, ds: xr.Dataset, metric: str, critical: float | None, advance: Advance
) -> _Section:
    made = _Section(
        name,
        finding(ds, metric, critical),
        results.notices(ds),
        _figures(ds, metric),
        verdict_table(ds, metric, critical),
        refusal_rows(ds),
        kept_section(ds, metric),
        measure_section(ds, metric),
        text_sections(ds),
        positions(ds),
        settings_table(ds),
        again(ds),
    )
    advance()
    return made


def _figures(ds: xr.Dataset, metric: str) -> list[Any]:
    """Draw ranges of blocks as triangles, one for each thing done to them; all else as layers."""
    lengths = ds["n_blocks"].values if "n_blocks" in ds.coords else np.zeros(ds.sizes["layer"])
    drawn = []
    if lengths.max(initial=0) > 1:
        table = stats.summary(ds.isel(layer=lengths > 0), metric)
        columns = stats.column_order(table)
        drawn = [plots.triangle(ds, metric, column) for column in columns[:_MOST_TRIANGLES]]
        ds = ds.isel(layer=lengths < 2)
        if not stats.layer_order(ds, network=False):
            return drawn
    drawn.append(plots.overview(ds, metric) if "distance" in ds else plots.heatmap(ds, metric))
    return drawn + ([plots.curves(ds, metric)] if results.resets(ds) else [])
