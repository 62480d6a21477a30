"""Criticality over training: layers by the network that counts as trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.plots._backends import with_frame
from layerscope.plots._colours import ColourMap
from layerscope.plots._epochs import Epochs, epochs_along
from layerscope.plots._finishing import BLANK, CROSSED, MARKS, explain_marks
from layerscope.plots._grids import draw_cells, with_looks
from layerscope.plots._lines import dotted, layer_lines
from layerscope.plots._names import within
from layerscope.plots._relative import Limits, limited
from layerscope.plots._scales import damage_scale

__all__ = ["emergence"]


def emergence(
    ds: xr.Dataset,
    metric: str | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    *,
    lines: bool = False,
    **options: Any,
) -> hv.HeatMap | hv.Overlay:
    """Draw when in the training layers became critical: layers by the network that was trained.

    Each column is another checkpoint that counts as the trained network; in it each layer is put
    back to the first one, or perturbed otherwise. Colours tell how much worse the network gets by
    it, from no damage on; a mark says what the layer is in that network. Hovering says since when
    a layer is critical, and within which bounds.

    Parameters
    ----------
    ds : Dataset
        Of ``sweep(…, model_epochs=[…])``; of several tasks select one: ``ds.sel(task=…)``.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    title : str, optional
    cmap : str, sequence of str or Colormap, optional
        As for `heatmap`, from no damage on.
    limits : sequence of float, optional
        As for `heatmap`, of degradations; of lines, what their axis goes over.
    lines : bool
        Draw a line for each layer in place of cells, with its interval where there are twelve
        layers or fewer, and the degradation from which on a layer is critical, dotted.
    **options
        Of `stats.emergence`: ``epoch``, ``perturbation``, ``critical``, ``tolerance``, ….

    Returns
    -------
    holoviews.HeatMap or Overlay
        Of cells, key dimensions are ``column``, the trained network, and ``layer``.

    Raises
    ------
    ResultError, OptionError
        As `stats.emergence`.

    Examples
    --------
    >>> from layerscope import results, testing
    >>> each = [({"model_epoch": e}, testing.dataset(epochs=range(e + 1))) for e in (1, 8)]
    >>> plot = emergence(results.join(each))
    >>> list(plot.dimension_values("column", expanded=False))
    ['1', '8']
    """
    metric = results.metric_name(ds, metric)
    found = stats.emergence(ds, metric, **{"include_network": True, **options})
    info = results.metric(ds, metric)
    # In the order of execution from above.
    cells = _cells(found, results.refusals(ds))
    scale = limited(damage_scale(cells["value"], False, None, cmap), limits)
    unit = found["model_epoch"].attrs["units"]
    act = results.perturbation(ds, found.attrs["perturbation"])
    label = f"test {info.label}, how much worse"
    heading = f"When layers became critical: {act.label}" if title is None else title
    if act.uses_checkpoint and title is None:
        heading = f"When layers became critical: reset to {unit} {found.attrs['epoch']}"
    if lines:
        axis = epochs_along(found["model_epoch"].values.tolist(), f"{unit} of the trained network")
        parts = [_limit(found, axis), *layer_lines(found, _placed(cells, found, axis), scale)]
        axes = {
            "xlabel": axis.words,
            "ylabel": label,
            "xticks": axis.ticks(360.0),
            "xlim": axis.ends,
        } | ({} if limits is None else {"ylim": scale[:2]})
        return with_frame(hv.Overlay(parts), heading, axes, within(stats.layer_order(ds)), axis)
    cells = with_looks(cells, scale)
    return draw_cells(cells, scale, heading, label, _axis_label(cells, unit))


def _placed(cells: pd.DataFrame, found: xr.Dataset, axis: Epochs) -> pd.DataFrame:
    """Put the cells along the axis, with their bounds: layers from the first to the last."""
    at = {str(epoch): place for epoch, place in axis.places.items()}
    bounds = found[["lower", "upper"]].to_dataframe(dim_order=["layer", "model_epoch"])
    bounds = bounds[["lower", "upper"]].reset_index()
    bounds["column"] = bounds.pop("model_epoch").astype(str)
    order = {str(name): place for place, name in enumerate(found["layer"].values)}
    table = cells.merge(bounds, on=["layer", "column"]).assign(
        place=cells["column"].map(at).to_numpy()
    )
    known = table[(table["value"].notna()) | (table["not_finite"] > 0)]
    return known.sort_values("layer", key=lambda names: names.map(order), kind="stable")


def _limit(found: xr.Dataset, axis: Epochs) -> Any:
    """Draw from which degradation on a layer is critical, in each trained network."""
    line = hv.Curve(
        (list(axis.places.values()), found["limit"].values), "place", "value",
        label="critical from here on",
    )  # fmt: skip
    return dotted(line)


def _cells(found: xr.Dataset, refused: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """One row per layer and network, the last layer first, which is drawn lowest."""
    table = found[["degradation", "lower", "upper", "verdict"]].to_dataframe(
        dim_order=["layer", "model_epoch"]
    )
    table = table.reindex(found["layer"].values[::-1], level="layer").reset_index()
    since = {str(name): _since(found.sel(layer=name)) for name in found["layer"].values}
    unknown = table["verdict"] == results.NOT_FINITE
    stopped = table["layer"].isin(
        [name for name, act in refused if act == found.attrs["perturbation"]]
    )
    blank = np.where(unknown, "broken", np.where(stopped, "refused", "open"))
    return pd.DataFrame(
        {
            "layer": table["layer"].astype(str),
            "column": table["model_epoch"].astype(str),
            "value": table["degradation"].astype(float),
            "verdict": table["verdict"].where(table["verdict"].isin(MARKS), ""),
            "not_finite": unknown.astype(int),
            "blank": np.where(table["degradation"].isna(), blank, ""),
            "hover layer": table["layer"].astype(str),
            "hover trained network": table["model_epoch"].astype(str),
            "hover value": [_number(value) for value in table["degradation"]],
            "hover 95 % interval": [
                f"{_number(low)} to {_number(high)}"
                for low, high in zip(table["lower"], table["upper"], strict=True)
            ],
            "hover verdict": table["verdict"].replace("", "not computed"),
            "hover critical since": table["layer"].map(since),
        }
    ).reset_index(drop=True)  # fmt: skip


def _since(layer: xr.Dataset) -> str:
    """Say since when a layer is critical: "8 (2 to 40)"."""
    first, low, high = (float(layer[f"since{end}"]) for end in ("", "_lower", "_upper"))
    if np.isnan(first):
        return "–" if np.isnan(low) else f"– (perhaps {low:.0f})"
    if low == first == high:
        return f"{first:.0f}"
    return f"{first:.0f} ({low:.0f} to {'?' if np.isnan(high) else f'{high:.0f}'})"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.4g}"


def _axis_label(cells: pd.DataFrame, unit: str) -> str:
    told = [text for kind, text in BLANK.items() if kind in set(cells["blank"])]
    told += [CROSSED] if cells["crossed"].any() else []
    marks = explain_marks(cells["settled"]).removeprefix("settled: ")
    return "\n".join(filter(None, [f"{unit} of the trained network", *told, marks]))
