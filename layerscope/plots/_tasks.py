"""Layers by several tasks: how much each loses, and how they rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import holoviews as hv
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.plots._colours import ColourMap
from layerscope.plots._finishing import BLANK, CROSSED, explain_marks
from layerscope.plots._grids import draw_cells, texts_of, with_looks
from layerscope.plots._hover import with_hover
from layerscope.plots._relative import Limits, limited
from layerscope.plots._scales import Scale, damage_scale

__all__ = ["tasks"]

_HOVER = {
    "layer": "{layer}",
    "task": "{task}",
    "measured by": "{metric}",
    "value": "{value:.4g}",
    "95 % interval": "{lower:.4g} to {upper:.4g}, over {interval_kind}",
    "trained network": "{baseline:.4g}",
    "change": "{degradation:+.4g}",
    "rank, 1 is worst": "{rank:.0f}",
    "examples": "{n_examples:,.0f}",
}
_LIMIT = 100.0  # times the trained network's perplexity, as in `triangle`


def tasks(
    ds: xr.Dataset,
    metric: str | None = None,
    column: int | str | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
) -> hv.HeatMap:
    """Draw what each layer is worth to each of several tasks: layers by task.

    Where all tasks are measured by one metric, colours tell how much worse each gets; of one whose
    values differ by factors, as perplexity's do, how many times the trained network's value it is.
    Tasks without a metric in common are coloured by rank: 1 is the layer that a task needs most.

    Parameters
    ----------
    ds : Dataset
        Of ``sweep(model, {"news": …, "code": …}, …)``; of several trained networks select one:
        ``ds.sel(model_epoch=…)``.
    metric : str, optional
        One that all tasks have. By default the first of every task.
    column : int or str, optional
        What was done to the layers: a column of `heatmap`, such as "skip" or an epoch; the first
        checkpoint, else what was computed first, if not given.
    title : str, optional
    cmap : str, sequence of str or Colormap, optional
        As for `heatmap`, from no damage on.
    limits : sequence of float, optional
        As for `heatmap`, in the unit of the colour bar.

    Returns
    -------
    holoviews.HeatMap
        Key dimensions ``column``, the task, and ``layer``.

    Raises
    ------
    ResultError
        If the Dataset has no tasks, or nothing in it was computed.
    OptionError
        If not all tasks have such a metric or column.

    Examples
    --------
    >>> from layerscope import testing
    >>> each = [({"task": name}, testing.dataset()) for name in ("news", "code")]
    >>> plot = tasks(results.join(each))
    >>> list(plot.dimension_values("column", expanded=False))
    ['news', 'code']
    """
    parts = _parts(ds)
    metrics = {task: results.metric_name(part, metric) for task, part in parts.items()}
    tables = {task: _table(part, metrics[task], task) for task, part in parts.items()}
    chosen = _column(tables, column)
    tables = {task: _ranked(ds, each, chosen) for task, each in tables.items()}
    look = _look(parts, metrics, tables, cmap, limits)
    cells = _grid(parts, with_looks(look.table, look.scale), look.rows)
    heading = f"What each task loses,\none layer {_done(parts, tables)}"
    return draw_cells(
        cells, look.scale, heading if title is None else title, look.label, _axis_label(cells)
    )


def _parts(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """Cut a Dataset into its tasks."""
    results.require(ds, "layer", "metric")
    if "task" not in ds.dims:
        raise ResultError(
            "this Dataset has no tasks; sweep over a mapping of data sets, "
            "{'news': news, 'code': code}. Of one alone: heatmap(ds)."
        )
    if "model_epoch" in ds.dims:
        first = ds["model_epoch"].values.tolist()[-1]
        raise ResultError(
            f"this Dataset has several trained networks; choose one: .sel(model_epoch={first})."
        )
    names = [str(task) for task in ds["task"].values]
    return dict(zip(names, results.parts(ds).values(), strict=True))


def _table(part: xr.Dataset, metric: str, task: str) -> pd.DataFrame:
    """One row per computed cell of a task."""
    table = stats.summary(part, metric)
    baseline = results.require(part, "metric", variable="baseline").sel(metric=metric)
    info = results.metric(part, metric)
    damage = info.worse * table["degradation"]
    if info.logarithmic:
        factor = table["value"] / float(baseline.mean())
        damage = 1 / factor if info.higher_is_better else factor
    return table.assign(task=task, metric=metric, baseline=float(baseline.mean()), damage=damage)


def _column(tables: Mapping[str, pd.DataFrame], wanted: int | str | None) -> str:
    """Choose what was done to the layers, which all tasks were measured under."""
    there = [stats.column_order(table) for table in tables.values()]
    shared = [name for name in there[0] if all(name in columns for columns in there)]
    if wanted is None and shared:
        return next(filter(str.isdigit, shared), shared[0])
    if str(wanted) not in shared:
        raise OptionError(
            f"not all tasks have the column {wanted!r}. They share: {', '.join(shared) or 'none'}."
        )
    return str(wanted)


def _ranked(ds: xr.Dataset, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Keep one column, and rank the single layers in it, 1 for the worst."""
    kept = table[table["column"] == column]
    single = kept["layer"].isin(stats.layer_order(ds, network=False))
    worst = kept["damage"].where(single).rank(ascending=False, method="min")
    return with_hover(ds, kept.assign(rank=worst), _HOVER)


class _Look(NamedTuple):
    """How the cells are coloured, and which rows there are."""

    table: pd.DataFrame
    scale: Scale
    label: str
    rows: list[str]


def _look(
    parts: Mapping[str, xr.Dataset],
    metrics: Mapping[str, str],
    tables: Mapping[str, pd.DataFrame],
    cmap: ColourMap | None,
    limits: Limits | None,
) -> _Look:
    """Colour by damage in the metric that all share; by rank where they share none."""
    # The whole network has no rank, and would leave no colours for its layers.
    rows = stats.layer_order(next(iter(parts.values())), network=False)
    table = pd.concat(tables.values(), ignore_index=True)
    table = table[table["layer"].isin(rows)]
    part, metric = next(iter(parts.values())), next(iter(metrics.values()))
    info = results.metric(part, metric)
    if len(set(metrics.values())) > 1:
        scale = damage_scale(table["rank"], False, None, cmap)
        scale = scale._replace(low=1.0, decimals=0, colours=scale.colours[::-1])
        scale = limited(scale, limits)
        return _Look(table.assign(value=table["rank"]), scale, "rank, 1 is the worst", rows)
    scale = damage_scale(
        table["damage"], info.logarithmic, _LIMIT if info.logarithmic else None, cmap
    )
    scale = limited(scale, limits)
    way = "fall" if info.higher_is_better else "rise"
    label = f"{way} of test {info.label}"
    if info.logarithmic:
        label = f"test {info.name} ÷ that of the trained network"
    if (table["damage"] > scale.high).any():
        label += f"\n(all beyond {scale.text(scale.high)} are as dark)"
    return _Look(table.assign(value=table["damage"]), scale, label, rows)


def _grid(parts: Mapping[str, xr.Dataset], table: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """Lay cells out, the last layer first, which is drawn lowest."""
    place = pd.MultiIndex.from_product([rows[::-1], list(parts)], names=["layer", "task"])
    cells = table.set_index(["layer", "task"]).reindex(place).reset_index()
    texts = texts_of(cells)
    cells = cells.assign(**cells[texts].fillna(""))
    done = str(table["perturbation"].iloc[0])
    why = {task: results.refusals(part) for task, part in parts.items()}
    kinds, said = [], []
    for layer, task, value, crossed, text in cells[
        ["layer", "task", "value", "crossed", "hover value"]
    ].itertuples(index=False):
        refused = why[task].get((layer, done))
        kind = "broken" if crossed else "open" if refused is None else "refused"
        unknown = {
            "broken": "NaN",
            "open": "not computed",
            "refused": f"can't be computed: {refused}",
        }
        kinds.append(kind if pd.isna(value) else "")
        said.append(unknown[kind] if pd.isna(value) else text)
    named: dict[str, Any] = {
        "hover layer": cells["layer"],
        "hover task": cells["task"],
        "hover value": said,
    }
    return cells.assign(column=cells["task"], blank=kinds, **named)


def _done(parts: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame]) -> str:
    cell = next(iter(tables.values())).iloc[0]
    done = results.perturbation(next(iter(parts.values())), str(cell["perturbation"]))
    return done.words_at(int(cell["epoch"]))


def _axis_label(cells: pd.DataFrame) -> str:
    told = [text for kind, text in BLANK.items() if kind in set(cells["blank"])]
    told += [CROSSED] if (cells["crossed"] != "").any() else []
    return "\n".join(filter(None, ["task", *told, explain_marks(cells["settled"])]))
