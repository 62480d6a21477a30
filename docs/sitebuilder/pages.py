"""What comments in a page stand for, made into what the site shows.

A host shows a page without them, and nothing is missing from its sense.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import blocks

__all__ = ["expand", "lines_of"]

ROOT = Path(__file__).resolve().parents[2]

_LINES = re.compile(r"^<!-- lines: (?P<file>[\w./-]+), (?P<heading>.+) -->$", re.MULTILINE)
_DOCSTRING = re.compile(r"^<!-- docstring of (?P<module>[\w.]+) -->$", re.MULTILINE)
_EXPLORER = re.compile(r"^<!-- explorer -->$", re.MULTILINE)
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)">\s*</picture>'
)
_EXPORTED = Path("_static") / "explorer.html"
_FRAME = """Click a layer or a cell: this is the page that the explorer exports, of a run on MNIST.

```{raw} html
<iframe class="explorer" src="_static/explorer.html" title="The explorer of a swept network"
  loading="lazy"></iframe>
```"""
_STILL = """<picture>
<source media="(prefers-color-scheme: dark)" srcset="pictures/explorer-dark.png">
<img alt="The explorer: a strip of six layers, the first reset; error, changed predictions,
 heat map" src="pictures/explorer-light.png">
</picture>"""


def expand(text: str) -> str:
    """Put in what comments name, and pictures that follow the theme."""
    text = _EXPLORER.sub(_explorer(), text)
    text = _PICTURE.sub(_themed, text)
    text = _LINES.sub(lambda match: lines_of(match["file"], match["heading"]), text)
    return _DOCSTRING.sub(r"```{eval-rst}\n.. docstring:: \g<module>\n```", text)


def _explorer() -> str:
    """Show the exported page where there is one, else a picture."""
    there = (ROOT / "docs" / _EXPORTED).is_file()
    return _FRAME if there else re.sub(r"\s*\n\s*", " ", _STILL).replace("> <", ">\n<")


def _themed(match: re.Match[str]) -> str:
    alt = " ".join(match["alt"].split())
    shades = (("light", match["light"]), ("dark", match["dark"]))
    return "\n\n".join(f"![{alt}]({path}){{.only-{shade}}}" for shade, path in shades)


def lines_of(file: str, heading: str) -> str:
    """Quote the first block of Python under a heading, so that it is not written twice."""
    text = (ROOT / file).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return f"```python\n{blocks.find(section)[0].code}```"
