"""Names beside points of curves, with matplotlib, where they lie on as little as can be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CURVE_NAME", "keep_clear"]

CURVE_NAME = "name of a curve"
"""What texts that `keep_clear` may move are called."""

_APART = 4.0, 2.0  # points from the point to its name, across and upwards
_STEP = 2.0  # points between samples of a curve
_WORST = 1e4
_SIDES = (("left", "bottom"), ("left", "top"), ("right", "bottom"), ("right", "top"))


def keep_clear(axes: Any) -> None:
    """Put each name to that side of its point where it lies on least of the curves.

    Names that come first choose first; none is put on another, or out of the axes, as long as
    there is another place.
    """
    from matplotlib.transforms import ScaledTranslation

    names = [text for text in axes.texts if text.get_gid() == CURVE_NAME]
    if not names:
        return
    figure, drawn = axes.figure, _samples(axes)
    # Its title begins as far above the axes as this.
    inside = axes.get_window_extent().padded(3 * figure.dpi / 72)
    taken: list[npt.NDArray[np.float64]] = []
    for text in names:
        size = text.get_window_extent()
        at = axes.transData.transform(text.get_position())
        off = np.array(_APART) * figure.dpi / 72
        boxes = [_box(at, (size.width, size.height), off, side) for side in _SIDES]
        costs = [_cost(box, drawn, taken, inside) for box in boxes]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        (across, upwards), signs = _SIDES[best], _signs(_SIDES[best])
        x, y = signs * _APART / 72
        away = ScaledTranslation(x, y, figure.dpi_scale_trans)
        text.set(ha=across, va=upwards)
        text.set_transform(axes.transData + away)


def _signs(side: tuple[str, str]) -> npt.NDArray[np.float64]:
    return np.array([1 if side[0] == "left" else -1, 1 if side[1] == "bottom" else -1], float)


def _box(
    at: npt.NDArray[np.float64],
    size: tuple[float, float],
    off: npt.NDArray[np.float64],
    side: tuple[str, str],
) -> npt.NDArray[np.float64]:
    """Give left, bottom, right and top of a name on one side of a point."""
    near = at + _signs(side) * off
    far = near + _signs(side) * size
    return np.concatenate([np.minimum(near, far), np.maximum(near, far)])


def _cost(
    box: npt.NDArray[np.float64],
    drawn: npt.NDArray[np.float64],
    taken: Sequence[npt.NDArray[np.float64]],
    inside: Any,
) -> float:
    """Count what lies under a name, in samples of curves."""
    within = (drawn >= box[:2]) & (drawn <= box[2:])
    names = sum(bool((box[:2] < each[2:]).all() and (box[2:] > each[:2]).all()) for each in taken)
    bounds = inside.extents
    out = bool((box[:2] < bounds[:2]).any() or (box[2:] > bounds[2:]).any())
    return float(within.all(axis=1).sum()) + _WORST * (names + out)


def _samples(axes: Any) -> npt.NDArray[np.float64]:
    """Sample all curves, in pixels."""
    step = _STEP * axes.figure.dpi / 72
    parts = [part for path in _paths(axes) for part in _between(path, step)]
    return np.concatenate(parts) if parts else np.empty((0, 2))


def _paths(axes: Any) -> Iterator[npt.NDArray[np.float64]]:
    from matplotlib.collections import LineCollection

    for line in axes.lines:
        if line.get_visible() and line.get_transform() == axes.transData:
            yield axes.transData.transform(np.column_stack(line.get_data()).astype(float))
    for lines in axes.collections:
        if isinstance(lines, LineCollection):
            yield from (axes.transData.transform(each) for each in lines.get_segments())


def _between(path: npt.NDArray[np.float64], step: float) -> Iterator[npt.NDArray[np.float64]]:
    """Sample what lies between the points of a path; nothing where it has a gap."""
    for start, end in itertools.pairwise(path):
        if np.isfinite(start).all() and np.isfinite(end).all():
            count = int(np.hypot(*(end - start)) / step) + 2
            yield np.linspace(start, end, count)
