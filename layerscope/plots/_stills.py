"""Figures as pictures, drawn with matplotlib, and in words."""

from __future__ import annotations

import io
from typing import Any

import holoviews as hv

from layerscope.errors import OptionError
from layerscope.plots._backends import load_backends
from layerscope.plots._fonts import families, known_glyphs
from layerscope.plots._layout import is_arranged, lay_out, settle

__all__ = ["description", "drawn", "option", "quantize", "reusable", "still"]

_PADDING = 0.05
# In points; what is smaller can't be read in print.
_SMALLEST_NAME, _SMALLEST_VALUE = 4.5, 3.5
_SMALLEST_SHARE = 0.25


def still(
    plot: Any, form: str, dots: int, title: str | None = None, width: float | None = None
) -> bytes:
    """Draw with matplotlib; the same plot gives the same bytes. `width` is in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    load_backends()
    words = description(plot)
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Title": title or words, "Software": None},
        "svg": {"Title": title or words, "Date": None},
        "pdf": {"Title": title or words, "CreationDate": None},
    }
    settings: dict[Any, Any] = {
        "svg.hashsalt": "layerscope",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "font.family": families(),
    }
    content = io.BytesIO()
    with mpl.rc_context(settings):
        drawn = isinstance(plot, Figure)
        figure = plot if drawn else hv.renderer("matplotlib").get_plot(plot).state
        with known_glyphs(figure):
            if is_arranged(figure):
                lay_out(figure, None if width is None else width - 2 * _PADDING)
            elif width is not None:
                _scale(figure, width)
            figure.savefig(
                content,
                format=form,
                dpi=dots,
                bbox_inches="tight",
                pad_inches=_PADDING,
                metadata=metadata[form],
            )
    return content.getvalue()


def reusable(plot: Any) -> Any:
    """Draw with matplotlib once for any number of pictures, where its figures can be laid out.

    Drawing takes as long as laying out. Any other plot is given back, to be drawn each time.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if isinstance(plot, Figure):
        return plot
    load_backends()
    settings: dict[Any, Any] = {"font.family": families()}
    with mpl.rc_context(settings):
        figure = hv.renderer("matplotlib").get_plot(plot).state
    figure.set_label(description(plot))
    return figure if is_arranged(figure) else plot


def drawn(plot: Any, width: float) -> Any:
    """Draw with matplotlib, laid out for a width in inches, for more to be written on the figure.

    From then on it is scaled as a whole where another width is wanted.
    """
    load_backends()
    figure = hv.renderer("matplotlib").get_plot(plot).state
    with known_glyphs(figure):
        lay_out(figure, width)
    settle(figure)
    return figure


def _scale(figure: Any, width: float) -> None:
    """Make all of a figure, type and lines included, as wide as is wanted.

    Names don't become smaller than can be read, and printed values that would are left out.

    Raises
    ------
    OptionError
        If there is not room enough.
    """
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    inches, total = figure.get_size_inches().copy(), 1.0
    values = {text for axes in figure.axes for text in axes.texts}
    sizes = {text: text.get_fontsize() for text in figure.findobj(Text)}
    lines = {line: (line.get_linewidth(), line.get_markersize()) for line in figure.findobj(Line2D)}
    pads = {axis: axis.labelpad for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
    # Type of fixed size does not scale with the rest: a few times come close enough.
    for _ in range(6):
        total *= (width - 2 * _PADDING) / figure.get_tightbbox().width
        if total < _SMALLEST_SHARE:
            raise OptionError(
                f"a width of {width:g} inches leaves no room for this figure; choose a wider one, "
                "or fewer columns."
            )
        figure.set_size_inches(inches * total)
        for text, size in sizes.items():
            least = 0.0 if text in values else min(size, _SMALLEST_NAME)
            text.set_fontsize(max(size * total, least))
            if text in values:
                text.set_visible(size * total >= _SMALLEST_VALUE)
        for line, (thickness, marker) in lines.items():
            line.set_linewidth(thickness * total)
            line.set_markersize(marker * total)
        for axis, pad in pads.items():
            axis.labelpad = 0.5 * pad * min(total, 1)
            axis.set_tick_params(pad=3.5 * min(total, 1))


def quantize(picture: bytes) -> bytes:
    """Shrink a PNG to a third with a palette of 256 colours, to keep notebooks small."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            content, "png", optimize=True
        )
    return content.getvalue()


def description(plot: Any) -> str:
    """Say in words what a figure shows."""
    from matplotlib.figure import Figure

    if isinstance(plot, Figure):
        return str(plot.get_label())
    if isinstance(plot, hv.Layout):
        return " ".join(description(part) for part in plot)
    title = str(option(plot, "title") or plot.label or type(plot).__name__)
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


def option(plot: Any, name: str) -> Any:
    """Look up one of the options that a figure has for Bokeh."""
    load_backends()
    return hv.Store.lookup_options("bokeh", plot, "plot").kwargs.get(name)
