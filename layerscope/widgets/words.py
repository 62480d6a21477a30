"""What the explorer says, as HTML in which everything that came from outside is escaped."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layerscope import stats
from layerscope.session import Estimate

__all__ = ["cards", "changed", "chosen", "classes", "confusion", "status", "unmeasured"]

_MOST_CLASSES = 12
_MOST_PICTURES = 12


def status(text: str, kind: str = "info") -> str:
    """The line that says what is going on, or went wrong."""
    return f'<div class="ls-status" role="status" data-kind="{kind}">{html.escape(text)}</div>'


def cards(estimate: Estimate, seq: int) -> str:
    """The numbers: each metric with its interval, its change, and how much was seen."""
    boxes = [_card(estimate, name) for name in estimate.tallies]
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


def unmeasured(seq: int) -> str:
    """What stands in place of the numbers of a state that can't be measured."""
    told = _box("this state", "–", "could not be measured; the line above says why")
    return (
        f'<div class="ls-cards" data-seq="{seq}" data-final="false" data-value="nan">{told}</div>'
    )


def _card(estimate: Estimate, name: str) -> str:
    fraction = name in stats.FRACTIONS
    lower, upper = estimate.interval(name)
    change, bounds = estimate.change(name), estimate.change_interval(name)
    told = f"{_number(lower, fraction)} to {_number(upper, fraction)}"
    moved = f"{_signed(change, fraction)} against trained"
    if not math.isnan(bounds[0]):
        moved += f" ({_signed(bounds[0], fraction)} to {_signed(bounds[1], fraction)})"
    return _box(name, _number(estimate.mean(name), fraction), told, moved)


def _box(title: str, value: str, *lines: str) -> str:
    more = "".join(f"<span>{html.escape(line)}</span>" for line in lines)
    return f'<div class="ls-card"><span>{html.escape(title)}</span><b>{value}</b>{more}</div>'


def classes(estimate: Estimate) -> str:
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
        f'<span>{c}</span><div class="ls-bar"><i style="width:{now[c]:.1%}"></i>'
        f'<u style="left:{before[c]:.1%}"></u></div><span>{now[c]:.0%}</span>'
        for c in order
    ]
    return f'<div class="ls-head">{title}</div><div class="ls-bars">{"".join(lines)}</div>'


def confusion(estimate: Estimate) -> str:
    """What each class is named; of many classes those that are named most."""
    if estimate.targets is None or estimate.classes > 1000:
        return ""
    counts = estimate.confusion()
    busy = sorted(range(estimate.classes), key=lambda c: -counts[:, c].sum())[:_MOST_CLASSES]
    shown = sorted(busy)
    most = max(int(counts.max()), 1)
    head = "".join(f"<th>{c}</th>" for c in shown)
    lines = []
    for row in shown:
        cells = "".join(_count(int(counts[row, c]), most, row == c) for c in shown)
        lines.append(f"<tr><th>{row}</th>{cells}</tr>")
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


def changed(estimate: Estimate, places: Sequence[int], inputs: Sequence[Any]) -> str:
    """Pictures, or tokens, that are named otherwise now.

    Parameters
    ----------
    estimate : Estimate
    places : sequence of int
        As `chosen` gives.
    inputs : sequence
        What the network was given at each.
    """
    told = [_one(estimate, at, given) for at, given in zip(places, inputs, strict=True)]
    if not told:
        return '<div class="ls-head">no prediction changed</div>'
    title = "some predictions that changed: trained → now (right)"
    return f'<div class="ls-head">{title}</div><div class="ls-pictures">{"".join(told)}</div>'


def _one(estimate: Estimate, at: int, given: Any) -> str:
    before, now = estimate.trained[at], estimate.predicted[at]
    if now.ndim:
        place = int((before != now).nonzero()[0])
        before, now = before[place], now[place]
    words = f"{int(before)} → {int(now)}"
    if estimate.targets is not None and not estimate.targets[at].ndim:
        words += f" ({int(estimate.targets[at])})"
    return f'<div class="ls-picture" title="example {at}">{_shown(given)}{words}</div>'


def _shown(given: Any) -> str:
    if not isinstance(given, Tensor):
        return "<code>–</code>"
    if not given.is_floating_point() and given.ndim == 1:
        return f"<code>{' '.join(map(str, given[:40].tolist()))}</code>"
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
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"


def _signed(value: float, fraction: bool) -> str:
    return f"{100 * value:+.2f}" if fraction else f"{value:+.3g}"
