"""Long names where there is little room."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["front_of", "shorten", "shorten_layers", "within", "wrap"]

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
    while True:
        # What tells names apart may lie in the middle: of "0.blocks.7.attention.output", the 7.
        for head in (longest - 1) // 3, (longest - 1) // 2, 2 * (longest - 1) // 3:
            cut = {name: _cut(name, front, longest, head) for name in names}
            if len(set(cut.values())) == len(cut):
                return cut
        longest += 4


def shorten_layers(names: Sequence[str], longest: int = 40) -> dict[str, str]:
    """Write the layers of a network without what most of them begin with, as `within` tells.

    What is too long then is cut as in `shorten`.

    Examples
    --------
    >>> shorten_layers(["model.embed", "model.layers.0.mlp", "model.layers.1.mlp", "lm_head"])
    {'model.embed': 'model.embed', 'model.layers.0.mlp': '0.mlp', \
'model.layers.1.mlp': '1.mlp', 'lm_head': 'lm_head'}
    """
    front = front_of(names)
    bare = {name: name.removeprefix(front) for name in names}
    short = shorten(list(bare.values()), longest)
    return {name: short[bare[name]] for name in names}


def within(names: Sequence[str]) -> str:
    """Say where layers lie whose names `shorten_layers` writes without it; empty if nowhere.

    Examples
    --------
    >>> within(["model.layers.0.mlp", "model.layers.1.mlp", "lm_head"])
    'layer in model.layers'
    """
    front = front_of(names).removesuffix(".")
    return f"layer in {front}" if front else ""


def front_of(names: Sequence[str]) -> str:
    """Find what the names of layers begin with: what all do, or else the list that blocks lie in.

    A list counts where no layer outside of it has a number for a component: of "0" beside
    "classifier.0" one could not tell that it lies in "features".

    Examples
    --------
    >>> front_of(["net.conv1", "net.conv2", "fullmodel"]), front_of(["features.0", "classifier.0"])
    ('net.', '')
    """
    lists = [_list_of(name) for name in names]
    numbered = {front for front in lists if front is not None}
    one = len(numbered) == 1 and len(lists) - lists.count(None) > 1
    front = str(numbered.pop()) if one else _shared(names)
    bare = {name.removeprefix(front) for name in names}
    return front if len(bare) == len(set(names)) and "" not in bare else ""


def _list_of(name: str) -> str | None:
    """Name the first list that a layer lies in, with a dot behind it; None if in none."""
    parts = name.split(".")
    # Of ranges of blocks, too: "layers.0-3".
    first = next((at for at, part in enumerate(parts) if part[:1].isdigit()), None)
    return None if first is None else "".join(f"{part}." for part in parts[:first])


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


def _cut(name: str, front: str, longest: int, head: int) -> str:
    if front and name.startswith(front):
        name = "…" + name.removeprefix(front)
    if len(name) <= longest:
        return name
    return name[:head] + "…" + name[len(name) - (longest - 1 - head) :]
