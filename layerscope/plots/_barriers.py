"""The way of layers to another network, and the barriers on it."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import choose
from layerscope.plots._backends import both, side_by_side, with_frame
from layerscope.plots._colours import LINES, shades
from layerscope.plots._hover import tooltips
from layerscope.plots._lines import DASHES
from layerscope.plots._names import shorten_layers, within

__all__ = ["barriers"]

_NAMED = 6  # layers that the legend names; of more, the colour tells the depth
_SERIES = ("one at a time", "all from below", "all from above")
_SIGNS = (("circle", "o"), ("triangle", "^"), ("inverted_triangle", "v"))


def barriers(
    ds: xr.Dataset,
    metric: str | None = None,
    *,
    ends: str = "networks",
    outcomes: xr.Dataset | None = None,
    towards: str | None = None,
    title: str | None = None,
) -> hv.Layout:
    """Draw how layers fare on the way to another network, and how high the barriers are.

    On the left, how much worse the network is with one layer at (1 − α) of its own values and α of
    the other's; black, with all of them. On the right the height of each barrier, see
    `stats.barrier`: of single layers, and where they were swept (`layers.cumulative`), of all up to
    a block and of all from a block on; bars are its intervals.

    Parameters
    ----------
    ds : Dataset
        Of perturbations that are on the way to another network, as `perturb.blend` is.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    ends, outcomes
        As for `stats.barrier`.
    towards : str, optional
        One of ``ds.towards``; the first by default.
    title : str, optional
        Of the left side.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    ResultError
        If no perturbation is on such a line, or its end was not swept.
    OptionError
        If there is no such metric or other network.
    """
    metric = results.metric_name(ds, metric)
    way, found = stats.line(ds, metric), stats.barrier(ds, metric, ends=ends, outcomes=outcomes)
    there = list(dict.fromkeys(found["towards"]))
    chosen = there[0] if towards is None else choose(towards, there, "other network")
    epoch = found.loc[found["towards"] == chosen, "epoch"].iloc[-1]
    way, found = (_of(ds, table, chosen, epoch) for table in (way, found))
    heading = f"One layer on the way to {chosen}" if title is None else title
    unit = f"{metric} above the trained network's"
    if results.metric(ds, metric).worse < 0:
        unit = f"{metric} below the trained network's"
    left = with_frame(
        hv.Overlay(_ways(way)),
        heading,
        {"xlabel": "α", "ylabel": unit, "xlim": (-0.02, 1.02)},
        within(_single(way)),
    )
    # The legend of the left side stands between the two.
    return side_by_side(left, _heights(found, f"barrier ({metric})"), (9.2, 2.9), 0.62)


def _of(ds: xr.Dataset, table: pd.DataFrame, towards: str, epoch: int) -> pd.DataFrame:
    """Keep what leads to one network; with rows' places, single ones and the whole told apart."""
    kept = table[(table["towards"] == towards) & (table["epoch"] == epoch)].copy()
    order = stats.layer_order(ds, network=False)
    if "n_blocks" not in kept:
        kept["first_block"] = kept["layer"].map({name: at for at, name in enumerate(order)})
        kept["n_blocks"] = 1
    if not (kept["n_blocks"] == 1).any():
        # Leaves inside of blocks: each row by itself, in order.
        kept["first_block"] = kept["layer"].map({name: at for at, name in enumerate(order)})
        kept["n_blocks"] = kept["first_block"].notna().astype(int)
    kept["whole"] = ~kept["layer"].isin(order)
    return kept


def _ways(table: pd.DataFrame) -> list[Any]:
    """Draw a curve for each single layer, and one for the whole network."""
    single = table[table["layer"].isin(_single(table))]
    names = shorten_layers(_single(table))
    few, colours = len(names) <= _NAMED, shades()[80:]
    parts = []
    for at, (name, each) in enumerate(single.groupby("layer", sort=False)):
        place = at * (len(colours) - 1) // max(len(names) - 1, 1)
        colour = LINES[at % len(LINES)] if few else colours[place]
        named = few or at in (0, len(names) - 1)
        # Few are told apart without colour, too.
        dash = DASHES[at % len(DASHES) if few else 0]
        parts += _way(each, names[str(name)], colour, named, dash)
    for name, each in table[table["whole"]].groupby("layer", sort=False):
        parts += _way(each, str(name), "#000000", named=True, dash=DASHES[0])
    return parts


def _single(table: pd.DataFrame) -> list[str]:
    """List the rows that are no more than one block."""
    return list(dict.fromkeys(table["layer"][(table["n_blocks"] == 1) & ~table["whole"]]))


def _way(
    table: pd.DataFrame, name: str, colour: str, named: bool, dash: tuple[str, str]
) -> list[Any]:
    shown = table.rename(columns={"degradation": "worse"}).assign(**{"hover layer": table["layer"]})
    line = hv.Curve(shown, "alpha", "worse", label=name if named else "")
    dots = hv.Scatter(shown, "alpha", ["worse", "hover layer"], label=name if named else "")
    look = {"color": colour, "show_legend": named}
    return [
        both(
            line,
            look,
            {"line_width": 1.5, "line_dash": dash[0]},
            {"linewidth": 1.5, "linestyle": dash[1], "marker": ".", "ms": 5},
        ),
        both(
            dots,
            {"color": colour, "show_legend": False},
            {"size": 5, "tools": ["hover"], "hover_tooltips": tooltips(["hover layer"])},
            {"visible": False},
        ),
    ]


def _heights(table: pd.DataFrame, label: str) -> hv.Overlay:
    """Draw the barriers against the block that they are of, reach up to, or begin with."""
    rows = table[(table["n_blocks"] > 0) & ~table["whole"]]
    last = rows["first_block"] + rows["n_blocks"] - 1
    parts: list[Any] = [hv.HLine(0)]
    parts = [both(parts[0], {"color": "#bbbbbb"}, {"line_width": 1}, {"linewidth": 0.8})]
    kinds = (
        (rows["n_blocks"] == 1, rows["first_block"]),
        (rows["first_block"] == 0, last),
        (last == last.max(), rows["first_block"]),
    )
    for at, (those, place) in enumerate(kinds):
        each = rows[those].assign(place=place[those].astype(float)).sort_values("place")
        if at and not (each["n_blocks"] > 1).sum() > 1:
            continue
        parts += _series(each, _SERIES[at], at)
    ticks = sorted({int(at) for at in rows["first_block"]})
    step = max(1, -(-len(ticks) // 12))
    shared = {"xlabel": "block", "ylabel": label, "xticks": ticks[::step]}
    return with_frame(hv.Overlay(parts), "Barriers, units as they stand", shared)


def _series(table: pd.DataFrame, name: str, at: int) -> list[Any]:
    colour, shift = LINES[at], 0.12 * (at - 1)
    shown = table.assign(place=table["place"] + shift, **{"hover layer": table["layer"]})
    known = shown[np.isfinite(shown["lower"]) & np.isfinite(shown["upper"])]
    bars = hv.Segments(
        (known["place"], known["lower"], known["place"], known["upper"]),
        ["place", "barrier", "place end", "upper"],
    )
    dots = hv.Scatter(shown, "place", ["barrier", "hover layer"], label=name)
    line = hv.Curve(shown, "place", "barrier", label=name)
    hover = {"tools": ["hover"], "hover_tooltips": tooltips(["hover layer"])}
    return [
        both(bars, {"color": colour}, {"line_width": 1, "show_legend": False}, {"linewidth": 1}),
        both(line, {"color": colour, "show_legend": False}, {"line_width": 1}, {"linewidth": 1}),
        both(
            dots,
            {"color": colour},
            {"size": 8, "marker": _SIGNS[at][0], **hover},
            {"s": 28, "marker": _SIGNS[at][1]},
        ),
    ]
