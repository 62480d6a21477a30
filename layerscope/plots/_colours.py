"""Colours: of cells, of what is written in them, and of lines."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from layerscope.base.validate import describe
from layerscope.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = [
    "FULL_CHANGE",
    "LINES",
    "NO_NUMBER",
    "ColourMap",
    "ink",
    "legible",
    "loss_colour",
    "shades",
]

ColourMap: TypeAlias = "str | Sequence[str] | Colormap"
"""A name known to matplotlib, Bokeh or colorcet; colours to go between; a map of matplotlib's."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe & Ito's palette without black, which is the whole network's, and without its yellow,
which is too pale for a thin line on white."""

NO_NUMBER = "#f4c5ad"
"""The ground of a cell whose value is NaN: none of the usual colours that stand for values."""

FULL_CHANGE = 4.0
"""Change of a token's loss, in nats, that has the full colour: e⁴ ≈ 55 times less likely."""

_ROSE, _FELL = "217,72,15", "43,138,155"
_STEPS = 256


def shades(cmap: ColourMap | None = None, *, reverse: bool = False) -> list[str]:
    """Give 256 colours in the order of a map; from light to dark if none is given.

    Raises
    ------
    OptionError
        If there is no such map, or something in a list is no colour.
    """
    from matplotlib.colors import to_hex

    # From a little way in: the palest of the map can't be told from blank paper.
    first, colours = (0.04, _find("YlGnBu")) if cmap is None else (0.0, _find(cmap))
    found = [to_hex(each) for each in colours(np.linspace(first, 1, _STEPS))]
    return found[::-1] if reverse else found


def ink(colour: str) -> str:
    """Black or white, whichever has the higher contrast on `colour` (WCAG 2.2)."""
    # Where both have the same; the lower of the two is nowhere below 4.58.
    return "#000000" if _luminance(colour) > 0.179 else "#ffffff"


def legible(colour: str) -> str:
    """Darken a colour until its contrast on white is 4.5 (WCAG 2.2, for text).

    Examples
    --------
    >>> legible("#0072b2"), legible("#56b4e9")
    ('#0072b2', '#3b7ca1')
    """
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(colour))
    shares = (share for share in np.linspace(1, 0, 101) if _contrast(to_hex(share * rgb)) >= 4.5)
    return str(to_hex(next(shares) * rgb))


def _contrast(colour: str) -> float:
    return 1.05 / (_luminance(colour) + 0.05)


def _luminance(colour: str) -> float:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def loss_colour(change: float) -> str:
    """Give the colour of a token, as CSS has it, by how its loss changed; empty for no change.

    What is no number has the colour of the largest rise.

    Examples
    --------
    >>> loss_colour(4.0), loss_colour(-1.0), loss_colour(0.0)
    ('rgba(217,72,15,0.75)', 'rgba(43,138,155,0.19)', '')
    """
    strength = 0.75 * min(1.0 if np.isnan(change) else abs(change) / FULL_CHANGE, 1.0)
    return f"rgba({_FELL if change < 0 else _ROSE},{strength:.2f})" if strength >= 0.03 else ""


def _find(cmap: ColourMap) -> Colormap:
    """Find a map, or make one of colours."""
    from matplotlib.colors import Colormap

    if isinstance(cmap, Colormap):
        return cmap
    if isinstance(cmap, str):
        return _named(cmap)
    if not isinstance(cmap, Iterable) or len(colours := list(cmap)) < 2:
        raise OptionError(
            f"cmap is {describe(cmap)}; give the name of a colour map, such as 'viridis', or a "
            "list of at least two colours, such as ['white', 'darkred']."
        )
    return _between(colours)


def _between(colours: Sequence[str]) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap, is_color_like

    if wrong := [colour for colour in colours if not is_color_like(colour)]:
        raise OptionError(
            f"cmap has {wrong[0]!r}, which is no colour; give names such as 'darkred', or "
            "'#rrggbb'."
        )
    return LinearSegmentedColormap.from_list("given", colours, N=_STEPS)


def _named(name: str) -> Colormap:
    """Look a map up in matplotlib, Bokeh and colorcet; ``_r`` reverses any of them."""
    known = _known()
    if name in known:
        return known[name]()
    plain = name.removesuffix("_r")
    if plain != name and plain in known:
        return known[plain]().reversed()
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=3)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise OptionError(
        f"there is no colour map {name!r}.{hint} Give a name that matplotlib, Bokeh or colorcet "
        "knows, such as 'viridis', or a list of colours."
    )


def _known() -> Mapping[str, Callable[[], Colormap]]:
    """Find all maps by name; of two with the same name matplotlib's, then Bokeh's."""
    import colorcet
    import matplotlib as mpl
    from bokeh.palettes import all_palettes

    palettes = {name: sizes[max(sizes)] for name, sizes in all_palettes.items()}
    lists = {**colorcet.palette, **palettes}
    known = {name: partial(_between, colours) for name, colours in lists.items()}
    # Importing colorcet gives its maps to matplotlib, too, as "cet_…".
    return known | {name: partial(mpl.colormaps.__getitem__, name) for name in mpl.colormaps}
