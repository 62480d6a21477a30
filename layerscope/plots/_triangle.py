"""Ranges of blocks: the first by how many."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.plots._colours import ColourMap
from layerscope.plots._finishing import BLANK, CROSSED, OUTSIDE
from layerscope.plots._grids import draw_cells, texts_of, with_looks
from layerscope.plots._hover import with_hover
from layerscope.plots._relative import Limits, ends_of, limited
from layerscope.plots._scales import Scale, damage_scale

__all__ = ["triangle"]

_HOVER = {
    "range": "{layer}",
    "blocks": "{blocks}",
    "value": "{value:.4g}",
    "95 % interval": "{lower:.4g} to {upper:.4g}, over {interval_kind}",
    "trained network": "{baseline:.4g}",
    "change": "{degradation:+.4g}",
    "examples": "{n_examples:,.0f}",
}
# Times the trained network's perplexity: such a network has forgotten its language, and differences
# between those that have would leave no colours for those that have not.
_LIMIT = 100.0


def triangle(
    ds: xr.Dataset,
    metric: str | None = None,
    column: int | str | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
) -> hv.HeatMap:
    """Draw what is lost with n blocks in a row, from block i on.

    The first block stands across and the number of blocks upwards, so that the lowest row is single
    blocks and the uppermost cell the whole stack. Colours tell the damage: of a metric whose values
    differ by factors, as perplexity's do, how many times the trained network's value it is; of any
    other, by how much the metric got worse. What is beyond the last of `limits` has the darkest
    colour, which the colour bar says together with the largest value; hovering tells every value as
    it is. Cells that can't be computed are grey with dots, and say why on hovering; hatched ones
    were not computed.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``, of rows that are ranges of blocks, as
        ``layers=layers.ranges(model)`` makes them; ``ds.first_block`` and ``ds.n_blocks`` say
        which. Other rows, such as the whole network, have no place here.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    column : int or str, optional
        What was done to the ranges: a column of `heatmap`, such as "skip" or an epoch; the first
        that was computed, if not given.
    title : str, optional
    cmap : str, sequence of str or Colormap, optional
        From no damage on, as for `heatmap`.
    limits : sequence of float, optional
        As for `heatmap`, in the unit of the colour bar; by default up to 100 times the trained
        network's value, or to the largest damage where that is a difference.

    Returns
    -------
    holoviews.HeatMap
        Key dimensions ``column``, the first block, and ``layer``, the number of blocks.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or has no ranges of blocks.
    OptionError
        If there is no such metric, column or map of colours, or `limits` are none.

    Examples
    --------
    >>> from layerscope import testing
    >>> plot = triangle(testing.ranges(blocks=6))
    >>> len(plot.dimension_values("column", expanded=False))
    6
    """
    metric = results.metric_name(ds, metric)
    info = results.metric(ds, metric)
    table = _ranges(ds, metric)
    chosen = _column(table, column)
    table = table[table["column"] == chosen]
    table = table.assign(value=_damage(table, info))
    most = _LIMIT if info.logarithmic and (ends_of(limits)[1] is None) else None
    scale = limited(damage_scale(table["value"], info.logarithmic, most, cmap), limits)
    cells = _grid(ds, with_looks(table, scale))
    heading = _heading(ds, metric, table) if title is None else title
    return draw_cells(
        cells,
        scale,
        heading,
        _label(table["value"], scale, info),
        _axis_label(cells),
        "number of blocks",
    )


def _ranges(ds: xr.Dataset, metric: str) -> pd.DataFrame:
    """One row per computed cell of a range of blocks."""
    if "n_blocks" not in ds.coords or not (ds["n_blocks"] > 0).any():
        raise ResultError(
            "no row of this Dataset is a range of blocks; sweep with "
            "layers=layers.ranges(model), whose rows say where they begin and how long they are."
        )
    baseline = results.require(ds, "metric", variable="baseline").sel(metric=metric)
    table = stats.summary(ds, metric)
    first, count = (
        table["layer"].map(ds[name].to_series()) for name in ("first_block", "n_blocks")
    )
    table = table.assign(first=first, n=count, blocks=list(map(_named, first, count)))
    table = table.assign(baseline=float(baseline.mean()))
    return with_hover(ds, table[table["n"] > 0], _HOVER)


def _named(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first} to {first + count - 1} ({count})"


def _column(table: pd.DataFrame, wanted: int | str | None) -> str:
    there = stats.column_order(table)
    if wanted is None:
        return there[0]
    if str(wanted) not in there:
        raise OptionError(
            f"the column {str(wanted)!r} was not computed. There is: {', '.join(there)}."
        )
    return str(wanted)


def _damage(table: pd.DataFrame, metric: results.MetricInfo) -> pd.Series:
    """Measure how much worse a range makes the network: as a factor, or as a difference."""
    if metric.logarithmic:
        factor = table["value"] / table["baseline"]
        return 1 / factor if metric.higher_is_better else factor
    return metric.worse * table["degradation"]


def _grid(ds: xr.Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """Lay ranges out, the shortest first, with what is known of each place."""
    rows = ds["layer"].values[ds["n_blocks"].values > 0]
    spans = {
        (int(ds["first_block"].sel(layer=row)), int(ds["n_blocks"].sel(layer=row))): str(row)
        for row in rows
    }
    last = max(first + count for first, count in spans)
    lengths = sorted({count for _, count in spans})
    place = pd.MultiIndex.from_product([lengths, range(last)], names=["n", "first"])
    cells = table.set_index(["n", "first"]).reindex(place).reset_index()
    cells = cells.assign(**cells[texts_of(cells)].fillna(""))
    refused = results.refusals(ds)
    done = str(table["perturbation"].iloc[0])
    kinds, said, names = [], [], []
    looked_at = ["n", "first", "value", "crossed", "hover value"]
    for count, first, value, crossed, text in cells[looked_at].itertuples(index=False):
        row = spans.get((first, count), "")
        kind, blank = _blank(first + count > last, crossed, refused.get((row, done)))
        kinds.append(kind if pd.isna(value) else "")
        said.append(blank if pd.isna(value) else text)
        names.append(row)
    return cells.assign(
        layer=cells["n"].astype(str),
        column=cells["first"].astype(str),
        blank=kinds,
        **{
            "hover range": names,
            "hover blocks": list(map(_named, cells["first"], cells["n"])),
            "hover value": said,
        },
    )


def _blank(outside: bool, crossed: str, why: str | None) -> tuple[str, str]:
    """Name the state of a cell without a value, and what it says on hovering."""
    if outside:
        return OUTSIDE, "there are fewer blocks"
    if crossed:
        return "broken", "NaN"
    return ("open", "not computed") if why is None else ("refused", f"can't be computed: {why}")


def _axis_label(cells: pd.DataFrame) -> str:
    there = set(cells["blank"])
    told = [text for kind, text in BLANK.items() if kind in there]
    told += [CROSSED] if (cells["crossed"] != "").any() else []
    return "\n".join(["first block", *told])


def _heading(ds: xr.Dataset, metric: str, table: pd.DataFrame) -> str:
    first = table.iloc[0]
    done = results.perturbation(ds, first["perturbation"]).words_at(int(first["epoch"]))
    return f"Test {metric} with a range of blocks {done}"


def _label(values: pd.Series, scale: Scale, metric: results.MetricInfo) -> str:
    """Say what the colours mean, and what lies beyond the darkest."""
    if metric.logarithmic:
        label = f"test {metric.name} ÷ that of the trained network"
    else:
        label = f"{'fall' if metric.higher_is_better else 'rise'} of test {metric.label}"
    if not (values > scale.high).any():
        return label
    largest = values[np.isfinite(values)].max()
    most = scale.text(np.inf if np.isinf(values).any() else largest)
    return f"{label}\n(all beyond {scale.text(scale.high)} are as dark; largest: {most})"
