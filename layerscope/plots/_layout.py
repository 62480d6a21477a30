"""Figures of matplotlib laid out for a width: type keeps its size, and axes take what is left.

A hook of a plot says with `arrange` how high its axes are to be and what of them fits a given room;
`lay_out` then places all axes of a figure side by side, in as many rows as they need.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from layerscope.errors import OptionError

__all__ = [
    "HIGHEST",
    "UNBOUND",
    "Room",
    "arrange",
    "is_arranged",
    "lay_out",
    "ride",
    "settle",
    "wrapped",
]

HIGHEST = 9.0
"""Inches that a figure may be high: a page has that much between its margins."""

UNBOUND = 20.0
"""Inches of a figure whose width is not given: names have all the room that they want."""

_GAP, _ROW_GAP = 0.12, 0.14
_BAR_GAP, _BAR, _HIGHEST_BAR = 0.08, 0.1, 2.4
_OVER = 0.2  # inches by which the label of an axis may be longer than that
_ROUNDS = 3  # names that fit depend on the room, and the room on the names
_ARRANGEMENT, _RIDER = "_layerscope_arrangement", "_layerscope_rider"
_AS_DRAWN = "_layerscope_as_drawn"


class Room(NamedTuple):
    """Room of axes, in inches, of how wide a figure, and whether others stand to the left."""

    wide: float
    high: float
    figure: float
    first: bool


class _Arrangement(NamedTuple):
    """Say how high axes of a width are to be, what fits a room, and how wide they are at least."""

    height: Callable[[float], float]
    fit: Callable[[Any, Room], None]
    least: float


class _Margins(NamedTuple):
    """Room in inches that what stands around axes takes."""

    left: float
    right: float
    bottom: float
    top: float


def arrange(
    axes: Any,
    height: Callable[[float], float],
    fit: Callable[[Any, Room], None],
    least: float = 0.8,
) -> None:
    """Let axes be laid out: `height` of a width, and `fit`, which chooses what there is room for.

    All in inches; `least` is how narrow they may be.
    """
    setattr(axes, _ARRANGEMENT, _Arrangement(height, fit, least))


def ride(bar: Any, axes: Any) -> None:
    """Keep the axes of a colour bar beside those that it belongs to."""
    setattr(bar, _RIDER, axes)


def is_arranged(figure: Any) -> bool:
    """Check whether a figure can be laid out."""
    return bool(_panels(figure)) and all(hasattr(axes, _ARRANGEMENT) for axes in _panels(figure))


def lay_out(figure: Any, width: float | None) -> None:
    """Lay a figure out for a width in inches; as wide as it comes if None.

    It may be laid out again for another width, as often as is wanted.

    Raises
    ------
    OptionError
        If there is not room enough.
    """
    panels = _panels(figure)
    _restore(figure)
    words = {
        text: (text.get_text(), axes)
        for axes in panels
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
    }
    wide = {axes: axes.get_position().width * figure.get_figwidth() for axes in panels}
    rows = [panels]
    if width is not None:
        _guess(panels, width)
    for _ in range(_ROUNDS):
        margins = {axes: _margins(figure, axes) for axes in panels}
        if width is not None:
            rows = _rows(panels, margins, width)
            wide = {a: w for row in rows for a, w in _widths(row, margins, width).items()}
        total = width or _total(panels, wide, margins)
        high = _heights(rows, wide, margins)
        for row in rows:
            for axes in row:
                _shape(axes).fit(
                    axes, Room(wide[axes], high[axes], width or UNBOUND, axes is row[0])
                )
        _place(figure, rows, wide, high, total)
        for text, (said, axes) in words.items():
            _keep_within(text, said, axes, margins[axes])


def _restore(figure: Any) -> None:
    """Give a figure that was laid out before the places and words back that it was drawn with."""
    words = [
        text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
    ]
    if not hasattr(figure, _AS_DRAWN):
        places = {axes: axes.get_position().frozen() for axes in figure.axes}
        said = {text: text.get_text() for text in words}
        setattr(figure, _AS_DRAWN, (figure.get_size_inches().copy(), places, said))
        return
    inches, places, said = getattr(figure, _AS_DRAWN)
    figure.set_size_inches(inches)
    for axes, place in places.items():
        axes.set_position(place)
    for text, words_of in said.items():
        text.set_text(words_of)


def settle(figure: Any) -> None:
    """Leave axes where they are from now on."""
    for axes in figure.axes:
        for mark in (_ARRANGEMENT, _RIDER):
            if hasattr(axes, mark):
                delattr(axes, mark)
    if hasattr(figure, _AS_DRAWN):
        delattr(figure, _AS_DRAWN)


def _guess(panels: Sequence[Any], width: float) -> None:
    """Fit panels to about what they will get: names cut for a wider figure would leave no room."""
    wide = 0.5 * width / len(panels)
    for axes in panels:
        shape = _shape(axes)
        shape.fit(axes, Room(wide, shape.height(wide), width, axes is panels[0]))


def _panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if not hasattr(axes, _RIDER)]


def _riders(axes: Any) -> list[Any]:
    return [bar for bar in axes.figure.axes if getattr(bar, _RIDER, None) is axes]


def _shape(axes: Any) -> _Arrangement:
    found: _Arrangement = getattr(axes, _ARRANGEMENT)
    return found


def _margins(figure: Any, axes: Any) -> _Margins:
    """Measure what stands around axes; what titles need across is not counted, since they wrap."""
    inner = axes.get_window_extent()
    boxes = [axes.get_tightbbox(for_layout_only=True)]
    boxes += [bar.get_tightbbox() for bar in _riders(axes)]
    sides = (
        inner.x0 - min(box.x0 for box in boxes),
        max(box.x1 for box in boxes) - inner.x1,
        inner.y0 - min(box.y0 for box in boxes),
        max(box.y1 for box in boxes) - inner.y1,
    )
    return _Margins(*(max(side, 0.0) / figure.dpi for side in sides))


def _needed(row: Sequence[Any], margins: dict[Any, _Margins]) -> float:
    """Inches that what stands around axes in one row takes."""
    around = sum(margins[axes].left + margins[axes].right for axes in row)
    return around + _GAP * (len(row) - 1)


def _total(row: Sequence[Any], wide: dict[Any, float], margins: dict[Any, _Margins]) -> float:
    return _needed(row, margins) + sum(wide[axes] for axes in row)


def _rows(panels: Sequence[Any], margins: dict[Any, _Margins], width: float) -> list[list[Any]]:
    """Put panels into as few rows as have room for them."""
    for count in range(1, len(panels) + 1):
        each = -(-len(panels) // count)
        rows = [list(panels[at : at + each]) for at in range(0, len(panels), each)]
        if all(
            _needed(row, margins) + sum(_shape(axes).least for axes in row) <= width for row in rows
        ):
            return rows
    raise OptionError(
        f"a width of {width:g} inches leaves no room for this figure; choose a wider one, "
        "or fewer columns."
    )


def _widths(row: Sequence[Any], margins: dict[Any, _Margins], width: float) -> dict[Any, float]:
    """Share what room is left among the panels of a row."""
    each = (width - _needed(row, margins)) / len(row)
    return dict.fromkeys(row, each)


def _heights(
    rows: Sequence[Sequence[Any]], wide: dict[Any, float], margins: dict[Any, _Margins]
) -> dict[Any, float]:
    """Give the panels of a row one height, such that all rows fit a page."""
    wanted = [max(_shape(axes).height(wide[axes]) for axes in row) for row in rows]
    around = sum(_above(row, margins) + _below(row, margins) for row in rows)
    left = HIGHEST - around - _ROW_GAP * (len(rows) - 1)
    share = min(1.0, max(left, 0.3 * len(rows)) / sum(wanted))
    return {axes: share * high for row, high in zip(rows, wanted, strict=True) for axes in row}


def _above(row: Sequence[Any], margins: dict[Any, _Margins]) -> float:
    return max(margins[axes].top for axes in row)


def _below(row: Sequence[Any], margins: dict[Any, _Margins]) -> float:
    return max(margins[axes].bottom for axes in row)


def _place(
    figure: Any,
    rows: Sequence[Sequence[Any]],
    wide: dict[Any, float],
    high: dict[Any, float],
    width: float,
) -> None:
    """Place axes and their colour bars, once what fits them is known."""
    margins = {axes: _margins(figure, axes) for row in rows for axes in row}
    rows_high = [_above(row, margins) + high[row[0]] + _below(row, margins) for row in rows]
    height = sum(rows_high) + _ROW_GAP * (len(rows) - 1)
    figure.set_size_inches(width, height)
    top = height
    for row, row_high in zip(rows, rows_high, strict=True):
        x, y = 0.0, top - _above(row, margins) - high[row[0]]
        for axes in row:
            x += margins[axes].left
            box = x / width, y / height, wide[axes] / width, high[axes] / height
            axes.set_position(box)
            for bar in _riders(axes):
                _place_bar(bar, (x + wide[axes], y + high[axes], high[axes]), (width, height))
            x += wide[axes] + margins[axes].right + _GAP
        top -= row_high + _ROW_GAP


def _place_bar(bar: Any, beside: tuple[float, float, float], size: tuple[float, float]) -> None:
    """Place a colour bar to the right of axes, from their top down."""
    x, top, high = beside
    high = min(high, _HIGHEST_BAR)
    x, y = x + _BAR_GAP, top - high
    bar.set_position((x / size[0], y / size[1], _BAR / size[0], high / size[1]))
    label = bar.yaxis.label
    label.set_text(
        wrapped(bar.figure, label, label.get_text().replace("\n", " "), high, upright=True)
    )


def _keep_within(text: Any, said: str, axes: Any, around: _Margins) -> None:
    """Break a title, or an axis' label, so that it stays within what its axes take across."""
    figure = axes.figure
    if text is axes.yaxis.label:
        # Titles stand above: what is higher than its axes would reach them.
        high = axes.get_window_extent().height / figure.dpi
        text.set_text(wrapped(figure, text, said, high + _OVER, upright=True))
        return
    inner = axes.get_window_extent().width / figure.dpi
    block = around.left + inner + around.right
    text.set_text(wrapped(figure, text, said, block))
    half = text.get_window_extent().width / figure.dpi / 2
    low, high = half - around.left, inner + around.right - half
    text.set_x(min(max(inner / 2, low), max(high, low)) / inner)


def _filled(line: str, signs: int) -> str:
    """Break a line into as few as can be, of about the same length: no word stands alone."""
    broken = textwrap.wrap(line, signs, break_long_words=True)
    for fewer in range(signs - 1, 5, -1):
        shorter = textwrap.wrap(line, fewer, break_long_words=False)
        if len(shorter) > len(broken) or max(map(len, shorter)) > signs:
            break
        broken = shorter
    return "\n".join(broken)


def wrapped(figure: Any, text: Any, said: str, room: float, *, upright: bool = False) -> str:
    """Break words into lines that are no longer than a room in inches."""
    lines = []
    for line in said.split("\n"):
        text.set_text(line)
        box = text.get_window_extent()
        long = (box.height if upright else box.width) / figure.dpi
        if long > room > 0:
            line = _filled(line, max(int(len(line) * room / long), 6))
        lines.append(line)
    return "\n".join(lines)
