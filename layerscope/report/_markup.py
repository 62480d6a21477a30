"""HTML by hand: everything is escaped here, and nowhere else put together."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

__all__ = ["document", "element", "fold", "link", "table", "text"]

# Belt and braces: the page could not ask anything of the network if it tried.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


def text(value: object) -> str:
    """Escape a text, for content and for attributes."""
    return html.escape(str(value))


def element(tag: str, content: object, kind: str = "") -> str:
    """Put a text into an element of a class."""
    attribute = f' class="{text(kind)}"' if kind else ""
    return f"<{tag}{attribute}>{text(content)}</{tag}>"


def link(target: str, content: object) -> str:
    """Link to a place in the page, or to a file beside it."""
    # No scheme can stand in it: a name from a file might be "javascript:…".
    return f'<a href="{text(quote(target, safe="/#"))}">{text(content)}</a>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Make a table of a header's texts and rows of cells that are HTML already."""
    head = "".join(element("th", column) for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    attribute = f' class="{text(kind)}"' if kind else ""
    return (
        f'<div class="wide"><table{attribute}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def fold(summary: str, content: str) -> str:
    """Fold HTML away below one line."""
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def document(title: str, head: str, body: str) -> str:
    """Make a whole page."""
    style = resources.files("layerscope.report").joinpath("style.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # No icon is asked for where one is named.
        '<link rel="icon" href="data:,">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n{head}\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
