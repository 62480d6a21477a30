"""What the explorer says, as HTML in which everything that came from outside is escaped."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layerscope.core.session import Estimate
from layerscope.zoo.data import Tokenizer

__all__ = [
    "Reading",
    "cards",
    "changed",
    "chosen",
    "classes",
    "confusion",
    "readings",
    "seen",
    "status",
    "unmeasured",
]

_MOST_CLASSES = 12
_MOST_PICTURES = 12
_CONTEXT = 16
_MOST_TOKENS = 40
# Of control characters, which byte-level tokens may be, what Unicode has to show them.
_SHOWN = {number: 0x2400 + number for number in range(32)} | {127: 0x2421}


def status(text: str, kind: str = "info") -> str:
    """The line that says what is going on, or went wrong."""
    return f'<div class="ls-status" role="status" data-kind="{kind}">{html.escape(text)}</div>'


def cards(estimate: Estimate, seq: int) -> str:
    """The numbers: each metric with its interval, its change, and how much was seen."""
    boxes = [_card(reading) for reading in readings(estimate)]
    moved = len(estimate.changed())
    share = moved / max(estimate.examples, 1)
    boxes.append(_box("predictions changed", f"{moved:,}", f"{share:.1%} of those seen"))
    seen = f"{estimate.examples:,} of {estimate.total:,} examples"
    boxes.append(_box("seen", f"{estimate.examples / estimate.total:.0%}", seen))
    first = next(iter(estimate.tallies))
    return (
        f'<div class="ls-cards" data-seq="{seq}" data-final="{str(estimate.final).lower()}" '
        f'data-value="{estimate.mean(first)!r}">{"".join(boxes)}</div>'
    )


def seen(estimate: Estimate) -> str:
    """Say of how many examples something was measured, and how many are named otherwise."""
    moved = len(estimate.changed())
    of = f"{estimate.examples:,}" if estimate.final else f"the first {estimate.examples:,}"
    share = 100 * moved / max(estimate.examples, 1)
    rest = "" if estimate.final else f" of {estimate.total:,}"
    return f"over {of}{rest} examples; {moved:,} of them ({share:.1f} %) are predicted otherwise"


def unmeasured(seq: int) -> str:
    """What stands in place of the numbers of a state that can't be measured."""
    told = _box("this state", "–", "could not be measured; the line above says why")
    return (
        f'<div class="ls-cards" data-seq="{seq}" data-final="false" data-value="nan">{told}</div>'
    )


class Reading(NamedTuple):
    """One metric, written out: its value and its change against trained, with their intervals."""

    metric: str
    value: str
    interval: str
    change: str
    change_interval: str


def readings(estimate: Estimate) -> list[Reading]:
    """Write every metric out; an interval that is not known is empty."""
    found = []
    for name in estimate.tallies:
        fraction = estimate.is_fraction(name)
        value, change = estimate.mean(name), estimate.change(name)
        lower, upper = estimate.interval(name)
        below, above = estimate.change_interval(name)
        found.append(
            Reading(
                name,
                _number(value, fraction),
                ""
                if math.isnan(lower)
                else f"{_number(lower, fraction)} to {_number(upper, fraction)}",
                _signed(change, fraction) + (" points" if fraction else ""),
                ""
                if math.isnan(below)
                else f"{_signed(below, fraction)} to {_signed(above, fraction)}",
            )
        )
    return found


def _card(reading: Reading) -> str:
    bounds = f" ({reading.change_interval})" if reading.change_interval else ""
    moved = f"{reading.change} against trained{bounds}"
    return _box(reading.metric, reading.value, reading.interval, moved)


def _box(title: str, value: str, *lines: str) -> str:
    more = "".join(f"<span>{html.escape(line)}</span>" for line in lines)
    return f'<div class="ls-card"><span>{html.escape(title)}</span><b>{value}</b>{more}</div>'


def classes(estimate: Estimate, tokenizer: Tokenizer | None = None) -> str:
    """Accuracy of each class, the worst first where there are many; a mark for the trained."""
    if estimate.targets is None:
        return ""
    now = estimate.class_accuracy()
    before = _as_trained(estimate).class_accuracy()
    order = [c for c in range(estimate.classes) if not math.isnan(now[c])]
    title = "accuracy by class; the mark is the trained network"
    if len(order) > _MOST_CLASSES:
        order = sorted(order, key=lambda c: now[c] - before[c])[:_MOST_CLASSES]
        title = f"accuracy of the {_MOST_CLASSES} classes that lost most; the mark: trained"
    lines = [
        f"<span>{_named(c, estimate, tokenizer)}</span>"
        f'<div class="ls-bar"><i style="width:{now[c]:.1%}"></i>'
        f'<u style="left:{before[c]:.1%}"></u></div><span>{now[c]:.0%}</span>'
        for c in order
    ]
    return f'<div class="ls-head">{title}</div><div class="ls-bars">{"".join(lines)}</div>'


def confusion(estimate: Estimate, tokenizer: Tokenizer | None = None) -> str:
    """What each class is named; of many classes those that are named most."""
    if estimate.targets is None or estimate.classes > 1000:
        return ""
    counts = estimate.confusion()
    busy = sorted(range(estimate.classes), key=lambda c: -counts[:, c].sum())[:_MOST_CLASSES]
    shown = sorted(busy)
    most = max(int(counts.max()), 1)
    names = {c: _named(c, estimate, tokenizer) for c in shown}
    head = "".join(f"<th>{names[c]}</th>" for c in shown)
    lines = []
    for row in shown:
        cells = "".join(_count(int(counts[row, c]), most, row == c) for c in shown)
        lines.append(f"<tr><th>{names[row]}</th>{cells}</tr>")
    return (
        '<div class="ls-head">confusion: class down, named across</div>'
        f'<table class="ls-confusion"><tr><th></th>{head}</tr>{"".join(lines)}</table>'
    )


def _count(count: int, most: int, right: bool) -> str:
    strength = 0.9 * math.sqrt(count / most)
    colour = "43, 138, 155" if right else "217, 72, 15"
    shown = f"{count}" if count else ""
    return f'<td style="background:rgba({colour},{strength:.2f})">{shown}</td>'


def chosen(estimate: Estimate) -> list[int]:
    """Pick some of the examples whose prediction changed, spread evenly over all that did."""
    places = estimate.changed()
    step = max(1, len(places) // _MOST_PICTURES)
    return [int(place) for place in places[::step][:_MOST_PICTURES]]


def changed(
    estimate: Estimate,
    places: Sequence[int],
    inputs: Sequence[Any],
    tokenizer: Tokenizer | None = None,
) -> str:
    """Pictures, or tokens, that are named otherwise now.

    Parameters
    ----------
    estimate : Estimate
    places : sequence of int
        As `chosen` gives.
    inputs : sequence
        What the network was given at each.
    tokenizer : Tokenizer, optional
        Says what tokens are; their numbers are shown without.
    """
    told = [_one(estimate, at, given, tokenizer) for at, given in zip(places, inputs, strict=True)]
    if not told:
        return '<div class="ls-head">no prediction changed</div>'
    title = "some predictions that changed: trained → now (right)"
    return f'<div class="ls-head">{title}</div><div class="ls-pictures">{"".join(told)}</div>'


def _one(estimate: Estimate, at: int, given: Any, tokenizer: Tokenizer | None) -> str:
    """One example: of a sequence, the first change that has something to read before it."""
    changes = [int(place) for place in estimate.changed_at(at)]
    here = next((place for place in changes if place >= _CONTEXT), changes[-1])
    said = [estimate.trained, estimate.predicted]
    if estimate.targets is not None and estimate.targets.shape == estimate.predicted.shape:
        said.append(estimate.targets)
    names = [_named(int(each[at].flatten()[here]), estimate, tokenizer) for each in said]
    told = " → ".join(names[:2]) + "".join(f" ({right})" for right in names[2:])
    if tokenizer is not None and _tokens(given) and estimate.predicted.ndim > 1:
        before = given[max(0, here + 1 - _CONTEXT) : here + 1].tolist()
        # The text is cut between tokens, which may be within a character.
        words = "…" * (here >= _CONTEXT) + _read(before, tokenizer).lstrip("\ufffd")
        return (
            f'<div class="ls-token" title="example {at}, token {here}">'
            f"<span>{html.escape(words)}</span> {told}</div>"
        )
    return f'<div class="ls-picture" title="example {at}">{_shown(given, tokenizer)}{told}</div>'


def _named(number: int, estimate: Estimate, tokenizer: Tokenizer | None) -> str:
    """A class by its number; a token by its text, unless it is a part of a character."""
    if number < 0:
        return "not finite"
    if tokenizer is None or estimate.predicted.ndim == 1:
        return str(number)
    text = _read([number], tokenizer)
    known = text and "\ufffd" not in text
    return f"<code>{html.escape(text) if known else f'#{number}'}</code>"


def _read(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """Text of tokens in one line, an arrow where a line ends."""
    lines = tokenizer.decode(tokens)
    # Nothing follows the last end, so that there is no line for it.
    ended = "↵" if tokens and tokens[-1] == tokenizer.end else ""
    return ("↵".join(lines) + ended).translate(_SHOWN)


def _tokens(given: Any) -> bool:
    return isinstance(given, Tensor) and not given.is_floating_point() and given.ndim == 1


def _shown(given: Any, tokenizer: Tokenizer | None) -> str:
    if not isinstance(given, Tensor):
        return "<code>–</code>"
    if _tokens(given):
        first = given[:_MOST_TOKENS].tolist()
        text = " ".join(map(str, first)) if tokenizer is None else _read(first, tokenizer)
        return f"<code>{html.escape(text)}</code>"
    side = math.isqrt(given.numel())
    if given.ndim == 1 and side * side == given.numel():
        given = given.view(1, side, side)
    if given.ndim == 3 and given.shape[0] in (1, 3):
        picture = base64.b64encode(_png(given)).decode()
        return f'<img alt="" src="data:image/png;base64,{picture}">'
    return f"<code>{' '.join(f'{v:.2g}' for v in given.flatten()[:12].tolist())} …</code>"


def _png(picture: Tensor) -> bytes:
    from PIL import Image

    plain = picture.detach().float().cpu()
    low, high = plain.min(), plain.max()
    scaled = ((plain - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    array = scaled.permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(content, "png")
    return content.getvalue()


def _as_trained(estimate: Estimate) -> Estimate:
    return replace(estimate, predicted=estimate.trained)


def _number(value: float, fraction: bool) -> str:
    if math.isnan(value):
        return "not finite"
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"


def _signed(value: float, fraction: bool) -> str:
    if math.isnan(value):
        return "not finite"
    text = f"{100 * value:+.2f}" if fraction else f"{value:+.3g}"
    return text.replace("-", "−")
