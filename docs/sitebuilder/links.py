"""Check a built site: every link inside it leads somewhere, and nothing is loaded from elsewhere.

python docs/sitebuilder/links.py build/site
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["faults"]

# What a browser fetches by itself when it opens a page.
_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}


class _Page(HTMLParser):
    """Links, places that links may lead to, and what is loaded, of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names, leads to and loads."""
        given = {name: value for name, value in attrs if value}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if _LOADED.get(tag) in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given[_LOADED[tag]])


class Fault(NamedTuple):
    """A link that leads nowhere, or a file from elsewhere."""

    page: str
    link: str
    why: str


def faults(site: Path) -> list[Fault]:
    """Look through all pages of a site."""
    found = sorted(path for path in site.rglob("*.html") if path.parent.name != "_static")
    pages = {path: _Page(path) for path in found}
    return [
        Fault(path.relative_to(site).as_posix(), link, why)
        for path, page in pages.items()
        for link, why in _faults(path, page, pages)
    ]


def _faults(path: Path, page: _Page, pages: dict[Path, _Page]) -> Iterator[tuple[str, str]]:
    for link in page.loaded:
        if urlsplit(link).netloc:
            yield link, "is loaded from another host"
    for link in (*page.links, *page.loaded):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not goal.is_file():
            yield link, "there is no such file"
        elif goal in pages and unquote(parts.fragment) not in pages[goal].anchors | {""}:
            yield link, "there is no such place on the page"


def main(site: Path) -> None:
    """Print what is wrong; end with an error if anything is."""
    found = faults(site.resolve())
    for fault in found:
        print(f"{fault.page}: {fault.link}: {fault.why}", file=sys.stderr)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
