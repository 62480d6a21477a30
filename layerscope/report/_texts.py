"""Texts of a language model, token by token, without its most and its least critical rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from layerscope import plots, results, stats

__all__ = ["TextSection", "positions", "text_sections"]


class _Token(NamedTuple):
    text: str
    colour: str
    moved: bool
    tip: str


class _Shown(NamedTuple):
    head: str
    tokens: list[_Token]


class TextSection(NamedTuple):
    """Texts as trained and without one row."""

    head: str
    texts: list[_Shown]


def text_sections(ds: xr.Dataset) -> list[TextSection]:
    """Write the texts that a Dataset holds; none where it holds none.

    They come from `layerscope.session.with_texts`.
    """
    if "text_token" not in ds or "text_loss" not in ds:
        return []
    return [
        TextSection(_head(ds, str(row)), [_text(ds, str(row), text) for text in ds["text"].values])
        for row in ds["text_layer"].values
    ]


def _head(ds: xr.Dataset, row: str) -> str:
    """Name the row, what was done to it, and what that costs."""
    table = stats.summary(ds, str(ds["metric"].values[0]))
    cell = table[table["layer"] == row].iloc[0]
    done = results.perturbation(ds, cell["perturbation"]).words_at(int(cell["epoch"]))
    costs = []
    for name in map(str, ds["metric"].values):
        table = stats.summary(ds, name)
        (value,) = table.loc[(table["layer"] == row) & (table["column"] == cell["column"]), "value"]
        before = float(ds["baseline"].sel(metric=name).mean())
        costs.append(f"{name} {before:.4g} → {value:.4g}")
    return f"{row} {done}: {', '.join(costs)}"


def _text(ds: xr.Dataset, row: str, number: object) -> _Shown:
    held = ds.sel(text=number, text_layer=row)
    words = [str(word) for word in held["text_token"].values]
    before, after = held["text_trained_loss"].values, held["text_loss"].values
    named = held["text_trained_prediction"].values, held["text_prediction"].values
    counted = ~np.isnan(before)
    moved = counted & (named[0] != named[1])
    tokens = [
        _Token(word, "", False, "")
        if not counted[at]
        else _Token(
            word,
            plots.loss_colour(float(after[at] - before[at])),
            bool(moved[at]),
            f"loss {before[at]:.3g} → {after[at]:.3g} nats\n"
            f"predicted {str(named[0][at])!r} → {str(named[1][at])!r}",
        )
        for at, word in enumerate(words)
        if word
    ]
    head = (
        f"text {number}: {moved.sum()} of {counted.sum()} predictions changed, mean loss "
        f"{before[counted].mean():.3g} → {after[counted].mean():.3g} nats"
    )
    return _Shown(head, tokens)


def positions(ds: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Make a table of metrics of some targets alone; without rows where there are none.

    Returns
    -------
    columns, rows
        Targets across; the trained network and each row that texts are kept of downwards.
    """
    if "first_target" not in ds.coords or "text_layer" not in ds.coords:
        return [], []
    ranges = [
        str(name)
        for name, first, last in zip(
            ds["metric"].values, ds["first_target"].values, ds["last_target"].values, strict=True
        )
        if (first, last) != (0, -1)
    ]
    rows = [["trained", *(f"{float(ds['baseline'].sel(metric=n).mean()):.4g}" for n in ranges)]]
    for row in map(str, ds["text_layer"].values):
        cells = []
        for name in ranges:
            table = stats.summary(ds, name)
            cells.append(f"{float(table.loc[table['layer'] == row, 'value'].iloc[0]):.4g}")
        rows.append([f"without {row}", *cells])
    return ["", *ranges], rows if ranges else []
