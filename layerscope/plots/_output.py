"""Figures as files, and in notebooks."""

from __future__ import annotations

import base64
import os
from numbers import Real
from pathlib import Path
from typing import Any

from layerscope.base import validate
from layerscope.base.templates import render
from layerscope.base.writing import write_bytes
from layerscope.errors import OptionError, choose
from layerscope.plots._backends import require_plot
from layerscope.plots._embedding import frame, page
from layerscope.plots._stills import description, quantize, still

WIDTHS = {"column": 3.25, "page": 6.75}
"""Widths of paper, in inches."""

_SUFFIXES = (".html", ".pdf", ".png", ".svg")


def save(
    plot: Any,
    path: str | os.PathLike[str],
    title: str | None = None,
    width: float | str | None = None,
) -> Path:
    """Write a figure, in the form that the suffix names.

    Parameters
    ----------
    plot : HoloViews object or matplotlib figure
        From this module, or any other.
    path : path-like
        ``.html`` is one self-contained page, interactive unless matplotlib drew it; ``.png`` (300
        dots per inch), ``.svg`` and ``.pdf`` are for a paper, with fonts embedded. The same plot
        gives the same bytes, except in HTML.
    title : str, optional
        Of the document; the plot's description if not given.
    width : float or {"column", "page"}, optional
        Of the picture on paper, in inches: all is scaled, type and lines included. "column" is
        3.25, of a page with two columns, and "page" 6.75. As it comes if not given; pages (HTML)
        have no width.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        If the suffix is none of these, or the width is not one, or would make type too small to
        read.
    ResultError
        If the place is not writable.

    Examples
    --------
    >>> from layerscope import plots, testing
    >>> figure = plots.heatmap(testing.dataset())
    >>> save(figure, "heatmap.svg", width="column")                         # doctest: +SKIP
    """
    plot = plot.plot if isinstance(plot, Display) else plot
    path, plot = validate.path(path, "path", "figure.pdf"), require_plot(plot)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise OptionError(
            f"path is {path}, with the suffix {suffix!r}; give one that ends in "
            f"{', '.join(_SUFFIXES)}."
        )
    if suffix == ".html":
        words = description(plot) if title is None else str(title)
        made = _picture_page(plot, words) if _is_drawn(plot) else page(plot, words)
        return write_bytes(path, made.encode())
    return write_bytes(path, still(plot, suffix[1:], 300, title, _inches(width)))


def _is_drawn(plot: Any) -> bool:
    from matplotlib.figure import Figure

    return isinstance(plot, Figure)


def _picture_page(figure: Any, title: str) -> str:
    """Put what matplotlib drew into a page, as a picture: names in it can't become elements."""
    picture = base64.b64encode(still(figure, "svg", 300, title)).decode()
    return str(render("plots/templates/picture.html.jinja", title=title, picture=picture))


def _inches(width: float | str | None) -> float | None:
    if isinstance(width, str):
        return WIDTHS[choose(width, WIDTHS, "width of paper called")]
    if width is None:
        return None
    if not isinstance(width, Real) or not 1 <= float(width) <= 50:
        came = validate.describe(width)
        raise OptionError(f"width is {came}; give inches between 1 and 50, or 'column', 'page'.")
    return float(width)


def show(plot: Any, live: bool | None = None) -> Display:
    """Show a figure in a notebook, interactive or as a still picture.

    Parameters
    ----------
    plot : HoloViews object
    live : bool, optional
        With hover and zoom (1.5 MB, in a frame that needs nothing from outside), or a PNG of
        some 30 kB without JavaScript. If not given: live in an interactive kernel; still where a
        notebook is executed in one go (papermill, nbconvert), outside notebooks, and where the
        environment variable ``LAYERSCOPE_STILL`` is set.

    Returns
    -------
    Display
        Displays itself as the last value of a cell.

    Examples
    --------
    >>> from layerscope import plots, testing
    >>> show(plots.heatmap(testing.dataset(layers=2)), live=False)
    Test error with one layer reset: 3 rows × 9 columns, from .02 (layer1, 100) to .95 \
(fullmodel, 0).
    """
    live = _is_interactive() if live is None else validate.flag(live, "live")
    return Display(require_plot(plot), live)


class Display:
    """A figure that a notebook displays; made by `show`."""

    def __init__(self, plot: Any, live: bool) -> None:
        self.plot = plot
        self.live = live

    def __repr__(self) -> str:
        return description(self.plot)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        """Give Jupyter a picture, its description and, if live, a page in a frame."""
        del include, exclude  # Jupyter passes them; every form is cheap enough to give.
        picture = quantize(still(self.plot, "png", 144, None))
        bundle = {"text/plain": repr(self), "image/png": base64.b64encode(picture).decode()}
        if self.live:
            bundle["text/html"] = frame(self.plot)
        # 144 dots per inch are sharp on fine screens; shown at 96 they keep the figure's size.
        size = int(int.from_bytes(picture[16:20], "big") * 96 / 144)
        return bundle, {"image/png": {"width": size, "alt": repr(self)}}


def _is_interactive() -> bool:
    """Check whether a person sits at this kernel.

    papermill sets no mark of its own; but nbclient, which it, nbconvert and Voila run notebooks
    with, keeps the kernel's history in memory instead of the user's file.
    """
    if os.environ.get("LAYERSCOPE_STILL", "0") not in ("", "0"):
        return False
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    history = getattr(shell, "history_manager", None)
    return hasattr(shell, "kernel") and history is not None and history.hist_file != ":memory:"
