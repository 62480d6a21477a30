"""Long names where there is little room."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["shorten", "wrap"]

_PIXELS = 6.2  # of a sign of an axis' label in Bokeh, on average


def shorten(names: Sequence[str], longest: int = 40) -> dict[str, str]:
    """Cut names that are too long, each to one that none of the others is cut to.

    What they all begin with goes first, in whole components; then the middle, since the front
    says where a layer is and the end what it is. Where two would become the same, all are given
    more room.

    Examples
    --------
    >>> shorten(["encoder.layer.0.attention.query", "encoder.layer.1.output", "all"], 20)
    {'encoder.layer.0.attention.query': '…0.attention.query', \
'encoder.layer.1.output': '…1.output', 'all': 'all'}
    """
    if all(len(name) <= longest for name in names):
        return {name: name for name in names}
    front = _shared(names)
    cut = {name: _cut(name, front, longest) for name in names}
    while len(set(cut.values())) < len(cut):
        longest += 4
        cut = {name: _cut(name, front, longest) for name in names}
    return cut


def wrap(label: str, pixels: float) -> str:
    """Break a label of Bokeh's, which would be cut off where it is longer than the plot is wide.

    Examples
    --------
    >>> print(wrap("checkpoint the layer is reset to", 120))
    checkpoint the
    layer is reset to
    """
    signs = max(int(pixels / _PIXELS), 10)
    lines = (textwrap.fill(line, signs, break_long_words=False) for line in label.split("\n"))
    return "\n".join(lines)


def _shared(names: Sequence[str]) -> str:
    """Find the components that every name with a dot begins with, dots included."""
    parts = [name.split(".")[:-1] for name in names if "." in name]
    if len(parts) < 2:
        return ""
    same = 0
    while all(len(part) > same and part[same] == parts[0][same] for part in parts):
        same += 1
    return "".join(f"{part}." for part in parts[0][:same])


def _cut(name: str, front: str, longest: int) -> str:
    if front and name.startswith(front):
        name = "…" + name.removeprefix(front)
    if len(name) <= longest:
        return name
    head = (longest - 1) // 3
    return name[:head] + "…" + name[len(name) - (longest - 1 - head) :]
