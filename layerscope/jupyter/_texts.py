"""Texts in the explorer: what changed in them token by token, and prompts that are continued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
import torch

from layerscope.base.templates import call
from layerscope.core.session import Continuation, Estimate, Session, Text, TextReader
from layerscope.errors import DataError
from layerscope.jupyter._history import Scene
from layerscope.jupyter._reader import TokenReader
from layerscope.jupyter._words import show_token
from layerscope.plots import FULL_CHANGE, loss_colour

__all__ = ["Texts", "is_text"]

_MOST_TEXTS = 3
_MOST_TOKENS = 400


def is_text(session: Session) -> bool:
    """Check whether a network is given tokens, and predicts one at each position."""
    inputs, targets = session.data.first
    if not torch.is_tensor(targets) or targets.ndim != 2 or targets.is_floating_point():
        return False
    first = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
    first = first[0] if isinstance(first, (tuple, list)) and first else first
    return torch.is_tensor(first) and not first.is_floating_point() and first.ndim == 2


class Texts:
    """The part of the explorer that is about texts.

    Parameters
    ----------
    reader : TokenReader or None
        Without one, tokens are shown, and prompts written, as numbers.
    shown : bool
        False where the network is no language model.
    """

    def __init__(self, reader: TokenReader | None, shown: bool) -> None:
        self._reader = reader
        self.said, self.texts = widgets.HTML(), widgets.HTML()
        hint = "a prompt of your own" if reader else "numbers of tokens, such as 12 5 7"
        self.prompt = widgets.Textarea(
            placeholder=hint, rows=2, layout=widgets.Layout(flex="1 1 380px", width="auto")
        )
        self.count = widgets.BoundedIntText(
            value=24, min=1, max=500, description="tokens", layout=widgets.Layout(width="160px")
        )
        self.go = widgets.Button(
            description="Continue",
            icon="forward",
            tooltip="Continue the prompt, as trained and as changed",
            layout=widgets.Layout(width="110px"),
        )
        row = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 8px")
        asked = widgets.HBox([self.prompt, self.count, self.go], layout=row)
        self.box = widgets.VBox([asked, self.said, self.texts])
        self.shown = shown
        self.box.layout.display = None if shown else "none"

    def parts(self) -> list[Any]:
        """List every widget."""
        return [part for part in vars(self).values() if isinstance(part, widgets.Widget)]

    def clear(self) -> None:
        """Show nothing of a state that is no longer, or can't be measured."""
        self.said.value = self.texts.value = ""

    def answers(self, session: Session, scene: Scene, estimate: Estimate) -> Iterator[None]:
        """Show the texts in which most predictions changed, then continue the prompt."""
        if not self.shown:
            return
        places, found = _most_changed(estimate), list[tuple[int, Text]]()
        read = TextReader(session).texts(places, scene.state, scene.view)
        for place, text in zip(places, read, strict=False):
            found.append((place, text))
            self.texts.value = texts(found, self._reader)
            yield
        if not places:
            self.texts.value = ""
        yield from self.continuations(session, scene)

    def continuations(self, session: Session, scene: Scene) -> Iterator[None]:
        """Continue the prompt, and show every token as it comes."""
        if not self.prompt.value.strip():
            self.said.value = ""
            return
        ids, count = self._tokens(), int(self.count.value)
        reader = TextReader(session)
        for said in reader.continuations(ids, count, scene.state, scene.view):
            final = len(said.changed) == count
            self.said.value = continuation(said, self._reader, final)
            yield

    def _tokens(self) -> list[int]:
        prompt = str(self.prompt.value)
        if self._reader is not None:
            return self._reader.tokens(prompt)
        try:
            return [int(part) for part in prompt.replace(",", " ").split()]
        except ValueError:
            raise DataError(
                "without a tokenizer a prompt is numbers of tokens, such as 12 5 7; for words "
                "pass tokenizer= to the explorer."
            ) from None


def _most_changed(estimate: Estimate) -> list[int]:
    """Choose the examples in which most predictions changed, in the order that they were seen."""
    places = estimate.changed()
    counts = np.array([len(estimate.changed_at(int(place))) for place in places])
    most = np.argsort(-counts, kind="stable")[:_MOST_TEXTS]
    return sorted(int(places[at]) for at in most)


class _Token(NamedTuple):
    """One token as it is shown."""

    text: str
    colour: str = ""
    moved: bool = False
    tip: str = ""


class _Shown(NamedTuple):
    """One text as it is shown."""

    head: str
    tokens: list[_Token]


def texts(found: Sequence[tuple[int, Text]], reader: TokenReader | None) -> str:
    """Write texts inline, each token coloured by how the loss of predicting it changed."""
    shown = [_Shown(_head(place, text), _tokens(text, reader)) for place, text in found]
    return _html("texts", shown=shown, full=f"{FULL_CHANGE:g}")


def _head(place: int, text: Text) -> str:
    counted, moved = int(text.counted.sum()), int(text.changed.sum())
    before, after = (float(each[text.counted].mean()) for each in (text.trained_loss, text.loss))
    cut = f"; its first {_MOST_TOKENS} tokens" if len(text.tokens) > _MOST_TOKENS else ""
    return (
        f"example {place}: {moved} of {counted} predictions changed, mean loss {before:.3g} → "
        f"{after:.3g} nats{cut}"
    )


def _tokens(text: Text, reader: TokenReader | None) -> list[_Token]:
    """Write every token with what was predicted in its place, as trained and as changed."""
    places = range(min(len(text.tokens), _MOST_TOKENS))
    kept = text.counted
    if bool((text.targets == text.tokens)[kept].all()):  # as where some tokens were masked
        return [_token(text, at, int(text.tokens[at]), reader) for at in places]
    following = [*text.tokens[1:].tolist(), int(text.targets[-1])]
    first = _Token(_inline(int(text.tokens[0]), reader))
    shown = [_token(text, at, following[at], reader) for at in places]
    return [first, *(shown if bool(kept[-1]) else shown[: len(text.tokens) - 1])]


def _token(text: Text, at: int, token: int, reader: TokenReader | None) -> _Token:
    """Write a token, and how it was predicted at a position, where it was to be."""
    if not text.counted[at]:
        return _Token(_inline(token, reader), tip="does not count")
    target = int(text.targets[at])
    before, after = float(text.trained_loss[at]), float(text.loss[at])
    named = [show_token(int(each[at]), reader) for each in (text.trained, text.predicted)]
    tip = (
        f"{show_token(target, reader)!r}: loss {before:.3g} → {after:.3g} nats\n"
        f"predicted {named[0]!r} → {named[1]!r}"
    )
    return _Token(_inline(target, reader), loss_colour(after - before), bool(text.changed[at]), tip)


def _inline(token: int, reader: TokenReader | None) -> str:
    """Write a token within its text: numbers need a blank between them."""
    shown = show_token(token, reader)
    return f"{shown} " if reader is None else shown.replace("↵", "↵\n")


def continuation(said: Continuation, reader: TokenReader | None, final: bool) -> str:
    """Write both continuations, the changed one from where it differs set off."""
    same = next(
        (at for at, pair in enumerate(zip(said.trained, said.changed, strict=True))
         if pair[0] != pair[1]),
        len(said.trained),
    )  # fmt: skip
    rows = [
        ("as trained", _said(said.trained[:same], reader), _said(said.trained[same:], reader)),
        ("as changed", _said(said.changed[:same], reader), _said(said.changed[same:], reader)),
    ]
    return _html("continuation", rows=rows, final=final, count=len(said.changed), same=same)


def _said(ids: Sequence[int], reader: TokenReader | None) -> str:
    if reader is None:
        return "".join(f" {token}" for token in ids)
    if not ids:
        return ""
    # Of the whole, so that characters of several tokens are one; the blank is of the first.
    text = reader.text(ids)
    first = reader.piece(ids[0])
    blank = " " if first.startswith(" ") and not text.startswith(" ") else ""
    said = (blank + text).replace("↵", "↵\n")
    # Nothing but blanks would look as if nothing had come.
    return said if said.strip() else said.replace(" ", "␣")


def _html(macro: str, **values: Any) -> str:
    return str(call("report/templates/texts.html.jinja", macro, **values))
