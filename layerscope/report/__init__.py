"""One self-contained HTML file that says what came out, how sure that is, and how to get it again.

>>> from layerscope import report, testing
>>> report.write({"fcn": testing.dataset()}, "report.html")                 # doctest: +SKIP
PosixPath('report.html')

The file asks nothing of the network, hovers where scripts run, and prints. What comes from a
Dataset, such as the names of layers, is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from layerscope import plots, results
from layerscope.base import validate
from layerscope.base.writing import write_bytes
from layerscope.errors import OptionError
from layerscope.report import _markup as markup
from layerscope.report._again import again, settings_table
from layerscope.report._findings import finding, judged, plain, verdict_table
from layerscope.report._reading import read

__all__ = ["finding", "page", "read", "write"]


def write(
    runs: Mapping[str, xr.Dataset],
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    critical: float | None = None,
    title: str = "Which layers matter?",
) -> Path:
    """Write a report of one or several results.

    Parameters
    ----------
    runs : mapping of str to Dataset
        From a name to what a sweep returned; `read` makes one from files.
    path : path
        Of the HTML file.
    metric, critical, title
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
    return write_bytes(
        validate.path(path, "path", "report.html"),
        page(runs, metric=metric, critical=critical, title=title).encode(),
    )


def page(
    runs: Mapping[str, xr.Dataset],
    *,
    metric: str | None = None,
    critical: float | None = None,
    title: str = "Which layers matter?",
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

    Returns
    -------
    str
        HTML, some 1.5 MB, most of it BokehJS.

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
    metric = results.metric_name(runs.values(), metric)
    body = [markup.element("h1", title)]
    if len(runs) > 1:
        body += _comparison(runs, metric, critical)
    for number, (name, ds) in enumerate(runs.items()):
        body += _section(str(name), ds, metric, critical, f"run{number}")
    return markup.document(title, plots.library(), "\n".join(body))


def _comparison(runs: Mapping[str, xr.Dataset], metric: str, critical: float | None) -> list[str]:
    rows = []
    tables = [judged(ds, metric, critical) for ds in runs.values()]
    there = {verdict for table in tables if table is not None for verdict in table["verdict"]}
    kinds = ["intermediate", "robust", "undecided"]
    kinds += [kind for kind in (results.NOT_FINITE, results.NOT_MOVED) if kind in there]
    for number, ((name, ds), table) in enumerate(zip(runs.items(), tables, strict=True)):
        counts = {} if table is None else table["verdict"].value_counts().to_dict()
        level = float(results.require(ds, "metric", variable="baseline").sel(metric=metric).mean())
        names = [] if table is None else list(table.loc[table["verdict"] == "critical", "layer"])
        cells = [f"{len(names)}: {', '.join(names)}" if names else "0"]
        cells += [str(counts.get(each, 0)) for each in kinds]
        link = markup.link(f"#run{number}", str(name))
        cells = cells if counts else ["–"] * len(cells)
        rows.append([link, plain(level), *map(markup.text, cells)])
    columns = ["run", f"{metric}, unperturbed", "critical", *kinds]
    figure = plots.embed(plots.compare({str(name): ds for name, ds in runs.items()}, metric))
    return [
        markup.element("h2", "Side by side"),
        markup.table(columns, rows),
        markup.element(
            "p",
            "Each layer has an equal share of the height of its network, from the input at the "
            "top to the output at the bottom. Zooming in one panel zooms all.",
        ),
        figure,
    ]


def _section(
    name: str, ds: xr.Dataset, metric: str, critical: float | None, anchor: str
) -> list[str]:
    """All about one result."""
    heading = f'<h2 id="{anchor}">{markup.text(name)}</h2>'
    figures = [plots.overview(ds, metric) if "distance" in ds else plots.heatmap(ds, metric)]
    if results.resets(ds):
        figures.append(plots.curves(ds, metric))
    return [
        "<section>",
        heading,
        f'<p class="finding">{markup.text(finding(ds, metric, critical))}</p>',
        *(markup.element("p", notice, "note") for notice in results.notices(ds)),
        *map(plots.embed, figures),
        verdict_table(ds, metric, critical),
        markup.element("h3", "How it was computed"),
        settings_table(ds),
        markup.element("h3", "How to compute it again"),
        markup.element("pre", again(ds)),
        "</section>",
    ]
