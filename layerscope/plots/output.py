"""Figures as files, and in notebooks."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import Any

import holoviews as hv
from bokeh.models import Toolbar

from layerscope import results
from layerscope.errors import choose
from layerscope.plots.backends import load_backends

_SUFFIXES = (".html", ".pdf", ".png", ".svg")


def save(plot: Any, path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write a figure, in the form that the suffix names.

    Parameters
    ----------
    plot : HoloViews object
        From this module, or any other.
    path : path-like
        ``.html`` is one self-contained interactive page; ``.png`` (300 dots per inch), ``.svg``
        and ``.pdf`` are for a paper, with fonts embedded. The same plot gives the same bytes,
        except in HTML.
    title : str, optional
        Of the document; the plot's description if not given.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        If the suffix is none of these.
    ResultError
        If the place is not writable.

    Examples
    --------
    >>> from layerscope import plots, testing
    >>> save(plots.heatmap(testing.dataset()), "heatmap.svg")               # doctest: +SKIP
    """
    path = Path(path)
    suffix = choose(path.suffix.lower(), _SUFFIXES, "kind of figure with the suffix")
    if suffix == ".html":
        return results.write_bytes(path, _page(plot, title or _description(plot)).encode())
    return results.write_bytes(path, _still(plot, suffix[1:], 300, title))


def show(plot: Any, live: bool | None = None) -> Shown:
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
    Shown
        Displays itself as the last value of a cell.

    Examples
    --------
    >>> from layerscope import plots, testing
    >>> show(plots.heatmap(testing.dataset(layers=2)), live=False)
    Test error with one layer reset: 3 rows × 9 columns, from .02 (layer1, 100) to .95 \
(fullmodel, 0).
    """
    return Shown(plot, _is_interactive() if live is None else live)


class Shown:
    """A figure that a notebook displays; made by `show`."""

    def __init__(self, plot: Any, live: bool) -> None:
        self.plot = plot
        self.live = live

    def __repr__(self) -> str:
        return _description(self.plot)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        """Give Jupyter a picture, its description and, if live, a page in a frame."""
        del include, exclude  # Jupyter passes them; every form is cheap enough to give.
        picture = _fewer_colours(_still(self.plot, "png", 144, None))
        bundle = {"text/plain": repr(self), "image/png": base64.b64encode(picture).decode()}
        if self.live:
            bundle["text/html"] = _frame(self.plot)
        # 144 dots per inch are sharp on fine screens; shown at 96 they keep the figure's size.
        size = int(int.from_bytes(picture[16:20], "big") * 96 / 144)
        return bundle, {"image/png": {"width": size, "alt": repr(self)}}


def _still(plot: Any, form: str, dots: int, title: str | None) -> bytes:
    """Draw with matplotlib; the same plot gives the same bytes."""
    import matplotlib as mpl

    load_backends()
    words = _description(plot)
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Title": title or words, "Software": None},
        "svg": {"Title": title or words, "Date": None},
        "pdf": {"Title": title or words, "CreationDate": None},
    }
    settings: dict[Any, Any] = {
        "svg.hashsalt": "layerscope",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    content = io.BytesIO()
    with mpl.rc_context(settings):
        figure = hv.renderer("matplotlib").get_plot(plot).state
        figure.savefig(
            content,
            format=form,
            dpi=dots,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata=metadata[form],
        )
    return content.getvalue()


def _fewer_colours(picture: bytes) -> bytes:
    """Shrink a PNG to a third with a palette of 256 colours, to keep notebooks small."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            content, "png", optimize=True
        )
    return content.getvalue()


def _page(plot: Any, title: str) -> str:
    """Draw with Bokeh, into a page that asks nothing of the network.

    Bokeh's own INLINE pages also ask for a script of panel's, which holoviews imports.
    """
    from bokeh.embed import components
    from bokeh.settings import settings

    load_backends()
    figure = hv.render(plot, backend="bokeh")
    for toolbar in figure.select({"type": Toolbar}):
        toolbar.logo = None
    script, place = components(figure)
    library = (Path(settings.bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<script>{library}</script>\n</head>\n"
        f"<body>\n{place}\n{script}\n</body>\n</html>\n"
    )


def _frame(plot: Any) -> str:
    """Put the page into a frame, where it can't disturb other output, nor that it."""
    words = _description(plot)
    heights = plot.traverse(lambda part: _option(part, "frame_height") or 0)
    return (
        f'<iframe title="{html.escape(words)}" srcdoc="{html.escape(_page(plot, words))}" '
        f'width="100%" height="{170 + (max(heights) or 400)}" style="border: 0"></iframe>'
    )


def _description(plot: Any) -> str:
    """Say in words what a figure shows."""
    if isinstance(plot, hv.Layout):
        return " ".join(_description(part) for part in plot)
    title = str(_option(plot, "title") or plot.label or type(plot).__name__)
    title = title.replace("{{", "{").replace("}}", "}")
    if isinstance(plot, hv.HeatMap) and "shown" in plot:
        cells = plot.dframe().dropna(subset=["value"])[::-1]  # the first layer comes last
        rows, columns = (len(plot.dimension_values(name, False)) for name in ("layer", "column"))
        ends = cells.loc[[cells["value"].idxmin(), cells["value"].idxmax()]]
        low, high = (f"{end.shown} ({end.layer}, {end.column})" for end in ends.itertuples())
        return f"{title}: {rows} rows × {columns} columns, from {low} to {high}."
    if isinstance(plot, hv.Overlay):
        names = dict.fromkeys(part.label for part in plot if part.label)
        return f"{title}: {', '.join(names)}."
    return f"{title}."


def _option(plot: Any, name: str) -> Any:
    load_backends()
    return hv.Store.lookup_options("bokeh", plot, "plot").kwargs.get(name)


def _is_interactive() -> bool:
    """Whether a person sits at this kernel.

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
