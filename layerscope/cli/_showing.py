"""Commands that show results, in the terminal and as pages."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from layerscope.cli._options import HEATMAP, add, get, parse
from layerscope.cli._shared import add_row, make_table, room, show
from layerscope.cli._signature import arguments
from layerscope.errors import OptionError, choose

__all__ = ["add_report", "add_show_result", "show_result"]

_REFUSED = "✕ refused"

_PLOTS = ("overview", "heatmap", "curves", "tasks")
_WIDE = 76  # columns of a terminal that the table of verdicts needs
_LONGEST_NAME = 45  # per cent of a terminal, of layers beside their numbers


def add_show_result(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("show", help="show a result in the terminal, as a page or picture")
    parser.add_argument("result", help="a Dataset (.nc), or a folder with one")
    parser.add_argument("--metric", help="default: error, where the result has it")
    parser.add_argument("--html", metavar="FILE", help="write the figure as a page, with hover")
    parser.add_argument(
        "--png",
        metavar="FILE",
        help="write the figure as a picture, by its suffix .png, .svg, .pdf",
    )
    parser.add_argument(
        "--plot", metavar="NAME", help=f"which figure: {', '.join(_PLOTS)} (default: what there is)"
    )
    parser.add_argument(
        "--width", metavar="WIDTH", help="of the picture: column, page or inches (default: neither)"
    )
    parser.add_argument(
        "--part", help="of several tasks or trained networks show this one, such as 'task news'"
    )
    add(parser, HEATMAP)
    parser.set_defaults(run=_run_show)


def _run_show(options: argparse.Namespace) -> None:
    from layerscope import results

    ds = results.open_dataset(options.result)
    if options.part is not None:
        parts = results.parts(ds)
        ds = parts[choose(options.part, parts, "part of this result")]
    show_result(ds, options.metric)
    for notice in results.notices(ds):
        print(notice)
    if targets := [target for target in (options.html, options.png) if target]:
        from layerscope import plots

        width = None if options.width is None else parse(options.width)
        figure = _figure(ds, options)
        for target in targets:
            print(plots.save(figure, target, width=width))


def _figure(ds: Any, options: argparse.Namespace) -> Any:
    """Draw the figure that is asked for, with the options that it has."""
    from layerscope import plots, results

    by_task = "task" in ds.dims and "model_epoch" not in ds.dims
    if len(found := results.parts(ds)) > 1 and not by_task:
        raise OptionError(
            f"a figure is of one part; choose it with --part: {', '.join(map(repr, found))}."
        )
    there = "tasks" if len(found) > 1 else "overview" if "distance" in ds else "heatmap"
    name = choose(options.plot or there, _PLOTS, "plot")
    given = get(options, HEATMAP)
    if wrong := sorted(set(given) - set(arguments("plots", name))):
        raise OptionError(f"--{wrong[0]} is not of the plot {name!r}; choose another: --plot NAME.")
    return getattr(plots, name)(ds, options.metric, **given)


def show_result(ds: Any, metric: str | None = None) -> None:
    """Print what came out, and what can't be computed and why."""
    from layerscope import results

    if metric is not None:
        choose(metric, map(str, ds["metric"].values), "metric")
    for words, part in results.parts(ds).items():
        # A task that is not measured by it shows what it is measured by.
        there = metric is None or metric in part["metric"]
        for table in _result_tables(part, metric if there else None, words):
            show(table)
    if reasons := results.refusals_by_reason(ds):
        table = make_table("can't be computed", "perturbation", "rows", "which", "why")
        for perturbation, why, layers in reasons:
            count = f"{len(layers)} of {ds.sizes['layer']}"
            add_row(table, perturbation, count, ", ".join(layers), why)
        show(table)
    for words, part in results.parts(ds).items():
        _show_verdicts(part, metric if metric in part["metric"] else None, words)


def _show_verdicts(ds: Any, metric: str | None, words: str) -> None:
    """Print which layers are critical, and how sure that is, in as many columns as there is room.

    Last of all, in a sentence: in a long network the table scrolls by.
    """
    from layerscope import report, results

    metric = results.metric_name(ds, metric)
    found = report.verdicts(ds, metric)
    if found is not None:
        heading = f"{words}: verdicts when {found.done}" if words else f"Verdicts when {found.done}"
        if room() >= _WIDE:
            table = make_table(heading, *found.columns, whole=True)
            for row in found.rows:
                add_row(table, *row)
            show(table)
        else:
            print(heading)
            for layer, rise, interval, verdict in found.rows:
                print(f"{layer}: {verdict}\n  {rise}\n  {interval}")
    print(report.finding(ds, metric))


def _result_tables(ds: Any, metric: str | None = None, words: str = "") -> list[Any]:
    """Make tables like the paper's figure: layers down, checkpoints across, coloured."""
    import numpy as np

    from layerscope import results, stats

    results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    metric = results.metric_name(ds, metric)
    cells = stats.summary(ds, metric)
    columns = list(dict.fromkeys(cells["column"]))
    info = results.metric(ds, metric)
    heading = f"{metric} with one layer {results.act(ds)}"
    finite = cells["value"][np.isfinite(cells["value"])]
    ends = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    good, bad = ends[:: info.worse]
    refused = results.refusals(ds)
    done = dict(zip(cells["column"], cells["perturbation"], strict=True))
    values = {
        (str(each["layer"]), str(each["column"])): (each["value"], bool(each["not_finite"] > 0))
        for each in cells.to_dict("records")
    }
    rows = stats.layer_order(ds)
    heading = f"{words}: {heading}" if words else heading
    tables = []
    for some in _abreast(columns, max(map(len, rows))):
        table = make_table(heading, "layer", *some, whole=True)
        for layer in rows:
            missing = [_REFUSED if (layer, done[each]) in refused else "–" for each in some]
            known = [values.get((layer, column)) for column in some]
            drawn = [_colour_cell(cell, good, bad) if cell else None for cell in known]
            add_row(
                table, layer, *(cell or sign for cell, sign in zip(drawn, missing, strict=True))
            )
        tables.append(table)
    base = ds["baseline"].sel(metric=metric)
    caption = f"{info.sentence} Trained network: {float(base.mean()):.4f}"
    if (cells["not_finite"] > 0).any():
        caption += "; red: outputs or value not finite; –: not computed"
    if refused:
        caption += f"; {_REFUSED}: can't be computed"
    tables[-1].caption = caption
    return tables


def _abreast(columns: Sequence[str], longest: int) -> list[list[str]]:
    """Part columns into tables that a terminal has room for, so that no number is cut or broken."""
    left = room() - min(longest, _LONGEST_NAME * room() // 100) - 4
    parts: list[list[str]] = [[]]
    for column in columns:
        taken = sum(max(len(each), 5) + 3 for each in parts[-1])
        if parts[-1] and taken + max(len(column), 5) + 3 > left:
            parts.append([])
        parts[-1].append(column)
    return parts


def _colour_cell(cell: tuple[float, bool], good: float, bad: float) -> Any:
    """A value and whether it, or the outputs, were not finite."""
    from rich.style import Style
    from rich.text import Text

    value, broken = cell
    if broken:
        text = "NaN" if math.isnan(value) else f"{value:.3f}"
        return Text(text, style=Style(color="white", bgcolor="rgb(170,40,20)", bold=True))
    # Dark is bad, as in the figures; printed numbers say the same without colour.
    share = (value - good) / (bad - good) if bad != good else 0.0
    shade = int(250 - 200 * share)
    text = "black" if shade > 140 else "white"
    return Text(f"{value:.3f}", style=Style(color=text, bgcolor=f"rgb({shade},{shade},255)"))


def add_report(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("report", help="write one HTML file about one or more results")
    parser.add_argument("result", nargs="+", help="a Dataset (.nc), or a folder with one")
    parser.add_argument("-o", "--out", default="report.html", help="default: %(default)s")
    parser.add_argument("--metric", help="default: error, where the results have it")
    parser.add_argument(
        "--critical", type=float, help="rise of the metric from which a layer is critical"
    )
    parser.add_argument("--title", default="Which layers matter?", help="default: %(default)s")
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> None:
    from layerscope import report

    path = report.write(
        report.read(options.result),
        options.out,
        metric=options.metric,
        critical=options.critical,
        title=options.title,
    )
    # As it was written: a folder that ".." leads out of need not be there.
    print(f"{path} ({path.resolve().stat().st_size / 1e6:.1f} MB)")
