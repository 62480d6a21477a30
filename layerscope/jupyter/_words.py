"""Texts of the explorer, as HTML in which everything that came from outside is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from layerscope.base.templates import call
from layerscope.core.session import Estimate
from layerscope.errors import LayerscopeError
from layerscope.jupyter._reader import TokenReader, reader_of
from layerscope.zoo.data import Tokenizer

__all__ = [
    "Reading",
    "cards",
    "changes",
    "classes",
    "confusion",
    "coverage",
    "no_numbers",
    "number",
    "readings",
    "result",
    "sample",
    "show_token",
    "signed",
    "title",
]

Reads: TypeAlias = Tokenizer | TokenReader | None
"""Says what tokens are; their numbers are shown without."""

_MOST_CLASSES = 12
_MOST_PICTURES = 12
_CONTEXT = 16
_MOST_TOKENS = 40
# Of control characters, which byte-level tokens may be, what Unicode has to show them.
_SHOWN = {number: 0x2400 + number for number in range(32)} | {127: 0x2421}


def said(error: BaseException) -> str:
    """Say what went wrong; what is not of this package, with its kind."""
    known = isinstance(error, LayerscopeError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def title(name: str, about: str, doubts: Mapping[str, str] | None = None) -> str:
    """The network's name, what is shown of it, and by kind what speaks against it."""
    return _html("title", name=name, about=about, doubts=doubts or {})


def cards(estimate: Estimate, seq: int, trained: bool = False) -> str:
    """The numbers: each metric with its interval, its change, and how much was seen."""
    boxes = [_card(reading, _before(estimate, reading, trained))
             for reading in readings(estimate, trained)]  # fmt: skip
    moved, count = estimate.predictions_changed()
    share = [f"{moved / max(count, 1):.1%} of {count:,} {_unit(estimate)} seen"]
    if estimate.predicted.ndim > 1:
        share.append(f"in {len(estimate.changed()):,} of {estimate.examples:,} examples")
    boxes.append(_Box("predictions changed", f"{moved:,}", share))
    seen = f"{estimate.examples:,} of {estimate.total:,} examples"
    boxes.append(_Box("coverage", f"{estimate.examples / estimate.total:.0%}", [seen]))
    first = estimate.mean(next(iter(estimate.tallies)))
    return _html("cards", boxes=boxes, seq=seq, final=estimate.final, value=repr(first))


def coverage(estimate: Estimate) -> str:
    """Say of how many examples something was measured, and how much is predicted otherwise."""
    moved, count = estimate.predictions_changed()
    of = f"{estimate.examples:,}" if estimate.final else f"the first {estimate.examples:,}"
    share = 100 * moved / max(count, 1)
    rest = "" if estimate.final else f" of {estimate.total:,}"
    them = "them" if estimate.predicted.ndim == 1 else f"{count:,} {_unit(estimate)}"
    return f"over {of}{rest} examples; {moved:,} of {them} ({share:.1f} %) are predicted otherwise"


def _unit(estimate: Estimate) -> str:
    """Name what has one prediction each."""
    return {1: "examples", 2: "tokens"}.get(estimate.predicted.ndim, "positions")


def no_numbers(seq: int) -> str:
    """Card in place of the numbers of a state that can't be measured."""
    box = _Box("this state", "–", ["could not be measured; the line above says why"])
    return _html("cards", boxes=[box], seq=seq, final=False, value="nan")


class Reading(NamedTuple):
    """One metric, written out: its value and its change against trained, with their intervals."""

    metric: str
    value: str
    interval: str
    change: str
    change_interval: str


def readings(estimate: Estimate, trained: bool = False) -> list[Reading]:
    """Write every metric out; an interval that is not known is empty.

    Of the trained network itself the change is exactly 0, and has none.
    """
    found = []
    for name in estimate.tallies:
        fraction = estimate.is_fraction(name)
        value, change = estimate.mean(name), estimate.change(name)
        lower, upper = estimate.interval(name)
        below, above = estimate.change_interval(name)
        found.append(
            Reading(
                name,
                number(value, fraction),
                ""
                if math.isnan(lower)
                else f"{number(lower, fraction)} to {number(upper, fraction)}",
                ("0" if trained else signed(change, fraction))
                + (" points" if fraction and not math.isnan(change) else ""),
                ""
                if trained or math.isnan(below)
                else f"{signed(below, fraction)} to {signed(above, fraction)}",
            )
        )
    return found


def result(estimate: Estimate, metric: str, trained: bool) -> str:
    """Say in a few words what a metric came to, and what that is against trained."""
    known = {reading.metric: reading for reading in readings(estimate, trained)}
    reading = known.get(metric) or next(iter(known.values()))
    moves = not trained and math.isfinite(estimate.change(reading.metric))
    change = f", {reading.change}" if moves else ""
    return f"{reading.metric} {reading.value}{change}"


class _Box(NamedTuple):
    """One number, what it is, and lines about it."""

    title: str
    value: str
    lines: list[str]


def _card(reading: Reading, before: str) -> _Box:
    bounds = f" ({reading.change_interval})" if reading.change_interval else ""
    moved = f"{reading.change} against trained{bounds}"
    lines = [reading.interval, before, moved]
    return _Box(reading.metric, reading.value, [line for line in lines if line])


def _before(estimate: Estimate, reading: Reading, trained: bool) -> str:
    """Say what a metric is as trained, on the same examples; empty where that is shown anyway."""
    fraction = estimate.is_fraction(reading.metric)
    return (
        "" if trained else f"as trained {number(estimate.baseline[reading.metric].mean, fraction)}"
    )


def classes(estimate: Estimate, tokenizer: Reads = None) -> str:
    """Accuracy of each class, the worst first where there are many; a mark for the trained."""
    if estimate.targets is None:
        return ""
    now = estimate.class_accuracy()
    before = _as_trained(estimate).class_accuracy()
    order = [c for c in range(estimate.classes) if not math.isnan(now[c])]
    head = "accuracy by class; the mark is the trained network"
    if len(order) > _MOST_CLASSES:
        order = sorted(order, key=lambda c: now[c] - before[c])[:_MOST_CLASSES]
        head = f"accuracy of the {_MOST_CLASSES} classes that lost most; the mark: trained"
    rows = [
        {
            "label": _label(c, estimate, tokenizer),
            "now": f"{now[c]:.1%}",
            "before": f"{before[c]:.1%}",
            "share": f"{now[c]:.0%}",
        }
        for c in order
    ]
    return _html("bars", head=head, rows=rows)


def confusion(estimate: Estimate, tokenizer: Reads = None) -> str:
    """Confusion matrix; of many classes, of those that are named most."""
    if estimate.targets is None or estimate.classes > 1000:
        return ""
    counts = estimate.confusion()
    busy = sorted(range(estimate.classes), key=lambda c: -counts[:, c].sum())[:_MOST_CLASSES]
    shown = sorted(busy)
    most = max(int(counts.max()), 1)
    labels = [_label(c, estimate, tokenizer) for c in shown]
    rows = [[_count(int(counts[row, c]), most, row == c) for c in shown] for row in shown]
    return _html("confusion", labels=labels, rows=rows)


def _count(count: int, most: int, right: bool) -> dict[str, Any]:
    strength = 0.9 * math.sqrt(count / most)
    colour = "43, 138, 155" if right else "217, 72, 15"
    return {"count": count, "colour": f"rgba({colour},{strength:.2f})"}


def sample(estimate: Estimate) -> list[int]:
    """Pick some of the examples whose prediction changed, spread evenly over all that did."""
    places = estimate.changed()
    step = max(1, len(places) // _MOST_PICTURES)
    return [int(place) for place in places[::step][:_MOST_PICTURES]]


def changes(
    estimate: Estimate,
    places: Sequence[int],
    inputs: Sequence[Any],
    tokenizer: Reads = None,
) -> str:
    """Pictures, or tokens, that are named otherwise now.

    Parameters
    ----------
    estimate : Estimate
    places : sequence of int
        As `sample` gives.
    inputs : sequence
        What the network was given at each.
    tokenizer : Tokenizer or TokenReader, optional
        Says what tokens are; their numbers are shown without.
    """
    pairs = zip(places, inputs, strict=True)
    return _html(
        "examples", shown=[_example(estimate, at, given, tokenizer) for at, given in pairs]
    )


class _Example(NamedTuple):
    """An example and its labels, trained and now and right: a picture, or words before a token."""

    at: int
    token: int
    labels: list[_Label]
    before: str | None = None
    picture: str = ""
    text: str = ""


def _example(estimate: Estimate, at: int, given: Any, tokenizer: Reads) -> _Example:
    """Describe an example: of a sequence, the first change with something to read before it."""
    changes = [int(place) for place in estimate.changed_at(at)]
    here = next((place for place in changes if place >= _CONTEXT), changes[-1])
    said = [estimate.trained, estimate.predicted]
    if estimate.targets is not None and estimate.targets.shape == estimate.predicted.shape:
        said.append(estimate.targets)
    labels = [_label(int(each[at].flatten()[here]), estimate, tokenizer) for each in said]
    example = _Example(at, here, labels)
    if tokenizer is not None and _tokens(given) and estimate.predicted.ndim > 1:
        before = given[max(0, here + 1 - _CONTEXT) : here + 1].tolist()
        # The text is cut between tokens, which may be within a character.
        words = "…" * (here >= _CONTEXT) + _read(before, tokenizer).lstrip("\ufffd")
        return example._replace(before=words)
    if (picture := _picture(given)) is not None:
        return example._replace(picture=base64.b64encode(_png(picture)).decode())
    return example._replace(text=_text(given, tokenizer))


class _Label(NamedTuple):
    """A class, or a token, in words."""

    text: str
    is_token: bool = False


def _label(number: int, estimate: Estimate, tokenizer: Reads) -> _Label:
    """Name a class by its number, and a token as `show_token` does."""
    if number < 0:
        return _Label("not finite")
    if tokenizer is None or estimate.predicted.ndim == 1:
        return _Label(str(number))
    return _Label(show_token(number, tokenizer), is_token=True)


def show_token(number: int, tokenizer: Reads) -> str:
    """Write a token: its text, or its number where it is a part of a character."""
    if number < 0:
        return "not finite"
    reader = reader_of(tokenizer)
    if reader is None:
        return str(number)
    text = reader.piece(number).translate(_SHOWN)
    return text if text and "\ufffd" not in text else f"#{number}"


def _read(tokens: Sequence[int], tokenizer: Reads) -> str:
    """Text of tokens in one line, an arrow where a line ends."""
    reader = reader_of(tokenizer)
    assert reader is not None
    return reader.text(tokens).translate(_SHOWN)


def _tokens(given: Any) -> bool:
    return isinstance(given, Tensor) and not given.is_floating_point() and given.ndim == 1


def _picture(given: Any) -> Tensor | None:
    """Lay an input out as a picture (channels, height, width), if it is one."""
    if not isinstance(given, Tensor) or _tokens(given):
        return None
    side = math.isqrt(given.numel())
    if given.ndim == 1 and side * side == given.numel():
        given = given.view(1, side, side)
    return given if given.ndim == 3 and given.shape[0] in (1, 3) else None


def _text(given: Any, tokenizer: Reads) -> str:
    """Write an input that is no picture: its tokens, or the first of its numbers."""
    if not isinstance(given, Tensor):
        return "–"
    if _tokens(given):
        first = given[:_MOST_TOKENS].tolist()
        return " ".join(map(str, first)) if tokenizer is None else _read(first, tokenizer)
    return f"{' '.join(f'{v:.2g}' for v in given.flatten()[:12].tolist())} …"


def _png(picture: Tensor) -> bytes:
    from PIL import Image

    plain = picture.detach().float().cpu()
    low, high = plain.min(), plain.max()
    scaled = ((plain - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    array = scaled.permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(content, "png")
    return content.getvalue()


def _html(macro: str, **values: Any) -> str:
    return str(call("jupyter/templates/words.html.jinja", macro, **values))


def _as_trained(estimate: Estimate) -> Estimate:
    return replace(estimate, predicted=estimate.trained)


def number(value: float, fraction: bool) -> str:
    """Write a value; of a fraction in percent."""
    if math.isnan(value):
        return "not finite"
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"


def signed(value: float, fraction: bool) -> str:
    """Write a change with its sign; of a fraction in points."""
    if math.isnan(value):
        return "not finite"
    text = f"{100 * value:+.2f}" if fraction else f"{value:+.3g}"
    return text.replace("-", "−")
