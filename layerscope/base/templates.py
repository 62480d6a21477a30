"""HTML from templates of this package, in which whatever is put in is escaped.

Templates lie in the folder ``templates`` of their room, and are called by their path in the
package, so that one may extend or import another's.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

__all__ = ["call", "render", "trusted"]


def render(name: str, /, **values: Any) -> Markup:
    """Fill in a template.

    Parameters
    ----------
    name : str
        Path in the package, such as ``"report/templates/report.html.jinja"``.
    **values
        Escaped where they are put in, but for what is `Markup`, which was before.

    Returns
    -------
    Markup
        A `str` that escapes what is added to it; give users ``str(…)`` of it.
    """
    return trusted(_environment().get_template(name).render(values))


def call(name: str, macro: str, /, **values: Any) -> Markup:
    """Fill in one of the macros of a template, as `render` does."""
    return trusted(getattr(_environment().get_template(name).module, macro)(**values))


def trusted(html: str) -> Markup:
    """Mark HTML that was escaped where it was made, here or by Bokeh: never a name from a file."""
    return Markup(html)  # noqa: S704


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("layerscope", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: object) -> Markup:
    """Let a line break between the components of a name, rather than within one."""
    text = str(name)
    # Words joined by "_" belong together where there is a better place; numbers are never parted.
    after = "./" if re.search(r"[./]", text) else "_"
    parts = re.split(rf"(?<=[{after}])(?=[^\W\d])", text)
    return Markup("<wbr>").join(escape(part) for part in parts)
