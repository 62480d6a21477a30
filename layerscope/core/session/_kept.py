"""Texts that are kept in the Dataset of a sweep, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope import results, stats
from layerscope.core.perturb import skip
from layerscope.core.session._session import Session
from layerscope.core.session._texts import Text, TextReader
from layerscope.errors import ResultError

__all__ = ["with_texts"]

_NAMES = (
    *("text_token", "text_trained_loss", "text_trained_prediction", "text_loss", "text_prediction"),
)


def with_texts(
    ds: xr.Dataset,
    session: Session,
    decode: Callable[[Sequence[int]], str | Sequence[str]],
    places: Sequence[int] = (0, 1),
    metric: str | None = None,
) -> xr.Dataset:
    """Keep texts with what becomes of them without the most and the least critical row.

    `report.page` shows them, and needs no network for it.

    Parameters
    ----------
    ds : Dataset
        Of a sweep of the session's network; left as it is.
    session : Session
        With the same data.
    decode : callable
        From tokens to their text, such as a tokenizer's ``decode``.
    places : sequence of int
        Numbers of the texts, in the order that examples are seen in.
    metric : str, optional
        Says which rows are critical; by default as for `stats.summary`.

    Returns
    -------
    Dataset
        With ``text_token`` (text, place), the text's tokens in words; ``text_trained_loss`` and
        ``text_trained_prediction`` (text, place), in nats and in words; ``text_loss`` and
        ``text_prediction`` (text_layer, text, place), the same without the row. At each place
        stands the token that was to be predicted; the loss is NaN where none was.

    Raises
    ------
    ResultError
        If no single row was computed; or if it is a group, such as a range of blocks, and what was
        done to it is neither leaving it out nor putting it back, which alone are the same row by
        row.
    DataError
        If examples are no texts.

    Examples
    --------
    >>> kept = with_texts(ds, session, tokenizer.decode)                    # doctest: +SKIP
    >>> report.write({"SmolLM2": kept}, "report.html")                      # doctest: +SKIP
    """
    changes = _extremes(ds, metric)
    view = str(ds.attrs.get("view", "leaf"))
    reader = TextReader(session)
    states = {row: _state(ds, session, row, act, view) for row, act in changes.items()}
    read = {row: list(reader.texts(places, state, view)) for row, state in states.items()}
    words = _Words(decode)
    texts = next(iter(read.values()))
    longest = 1 + max(len(text.tokens) for text in texts)
    trained = [(text.trained_loss, text.trained) for text in texts]
    changed = [[(text.loss, text.predicted) for text in each] for each in read.values()]
    rows, each = ("text", "place"), ("text_layer", "text", "place")
    fresh = results.build(
        {
            "text_token": (rows, [words.padded(_shown(text), longest) for text in texts]),
            "text_trained_loss": (rows, [_padded(loss, longest) for loss, _ in trained]),
            "text_trained_prediction": (rows, [words.after(t, longest) for _, t in trained]),
            "text_loss": (each, [[_padded(loss, longest) for loss, _ in one] for one in changed]),
            "text_prediction": (
                each,
                [[words.after(t, longest) for _, t in one] for one in changed],
            ),
        },
        {"text": list(places), "text_layer": list(read)},
        {},
    )
    kept = ds.drop_vars([name for name in (*_NAMES, "text", "text_layer") if name in ds.variables])
    joined: xr.Dataset = kept.merge(fresh, combine_attrs="override")
    return joined


def _extremes(ds: xr.Dataset, metric: str | None) -> Mapping[str, Any]:
    """Choose the most and the least critical row under what was done first, and what it was."""
    metric = results.metric_name(ds, metric)
    table = stats.summary(ds, metric)
    table = table[table["layer"].isin(stats.layer_order(ds, network=False))]
    resets = table["perturbation"].isin(results.resets(ds))
    table = table[resets] if resets.any() else table
    table = table[table["column"] == table["column"].iloc[0]] if len(table) else table
    worse = results.metric(ds, metric).worse * table["degradation"]
    if not worse.notna().any():
        raise ResultError("no single row of this Dataset was computed; sweep it first.")
    found = table.loc[list(dict.fromkeys([worse.idxmax(), worse.idxmin()]))]
    return {
        str(row["layer"]): row["perturbation"]
        if row["epoch"] == results.NO_EPOCH
        else (row["perturbation"], int(row["epoch"]))
        for row in found.to_dict("records")
    }


def _state(ds: xr.Dataset, session: Session, row: str, act: Any, view: str) -> dict[str, Any]:
    """Say what is to be done to which rows of the session, for one row of the Dataset or a group.

    Raises
    ------
    ResultError
    """
    rows = session.rows(view)
    if any(each.name == row for each in rows):
        return {row: act}
    group = set((results.settings(ds).get("groups") or {}).get(row, ()))
    inside = [each for each in rows if group.issuperset(each.members)]
    if not group or group != {leaf for each in inside for leaf in each.members}:
        raise ResultError(f"{row} is no row of the session in the view {view!r}, nor several.")
    name = act if isinstance(act, str) else act[0]
    if name != skip().name and name not in results.resets(ds):
        raise ResultError(
            f"{row} is a group of {len(inside)} rows, and {name!r} of all at once is not the same "
            "as of each; keep texts of a sweep of single rows: ds.sel(layer=[…])."
        )
    return {each.name: act for each in inside}


def _shown(text: Text) -> list[int]:
    """List the tokens of a text, each at the place where it is to be predicted, after the first."""
    following = [*text.tokens[1:].tolist(), -1]
    wanted = text.targets.tolist()
    counted = text.counted.tolist()
    ids = [target if count else other for target, count, other in
           zip(wanted, counted, following, strict=True)]  # fmt: skip
    return [int(text.tokens[0]), *ids]


def _padded(losses: Any, longest: int) -> list[float]:
    return [np.nan, *losses.tolist(), *[np.nan] * (longest - 1 - len(losses))]


class _Words:
    """Tokens in words."""

    def __init__(self, decode: Callable[[Sequence[int]], str | Sequence[str]]) -> None:
        self._decode = decode
        self._known: dict[int, str] = {-1: ""}

    def padded(self, ids: Sequence[int], longest: int) -> list[str]:
        return [*map(self._word, ids), *[""] * (longest - len(ids))]

    def after(self, ids: Any, longest: int) -> list[str]:
        """Write what was predicted at each place but the first."""
        return ["", *self.padded(ids.tolist(), longest - 1)]

    def _word(self, token: int) -> str:
        if token not in self._known:
            text = self._decode([token])
            text = text if isinstance(text, str) else "\n".join([*text, *([""] * (len(text) < 1))])
            self._known[token] = text if "\ufffd" not in text else f"#{token}"
        return self._known[token]
