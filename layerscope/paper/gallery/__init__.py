"""A page of what the experiments gave, what disagrees with the paper as plainly as what agrees.

>>> from layerscope.paper import gallery
>>> gallery.write("papermill_runs", "gallery.html")                         # doctest: +SKIP
PosixPath('gallery.html')

It is made from the manifests that `layerscope.reproduce` leaves, and from nothing else: the same
runs give the same page. `reproduce.judge` brings runs up to the rules of today.
"""

from __future__ import annotations

import os
from pathlib import Path

from layerscope.base import validate
from layerscope.base.writing import write_bytes
from layerscope.errors import OptionError
from layerscope.paper.gallery._markdown import THUMBNAILS, as_markdown, draw_thumbnails
from layerscope.paper.gallery._pages import as_html
from layerscope.paper.gallery._runs import Run, read

__all__ = ["Run", "read", "write"]


def write(runs: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write the gallery, in the form that the suffix names.

    Parameters
    ----------
    runs : path
        Folder of finished runs, as `reproduce.run` fills it.
    path : path
        ``.html``, with the figures in it, or ``.md``, which shows those beside the runs, and small
        ones of a folder ``thumbnails`` that is written beside it. Links to notebooks are relative
        to it.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        If the suffix is neither.
    ResultError
        If there is no finished run, a manifest is damaged, or the place is not writable.
    """
    path = validate.path(path, "path", "gallery.html")
    make = {".html": as_html, ".md": as_markdown}
    form = path.suffix.lower()
    if form not in make:
        raise OptionError(
            f"path is {path}, with the suffix {form!r}; give one that ends in {' or '.join(make)}."
        )
    found = read(runs)
    page = make[form](found, path.parent).encode(errors="backslashreplace")
    small = draw_thumbnails(found) if form == ".md" else {}
    write_bytes(path, page)  # first: where it is refused nothing is left beside it
    for name, content in small.items():
        write_bytes(path.parent / THUMBNAILS / name, content)
    return path
