"""Fonts for names in any script: those that are here, one after the other."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["families", "known_glyphs"]

_FIRST = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, symbols
_OTHERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Source Han Sans SC", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "SimHei", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic",
    "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Symbola", "Segoe UI Symbol",
    "Arial Unicode MS",
)  # fmt: skip


def families() -> list[str]:
    """Name the fonts that are here, in the order in which a sign is looked for."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return [_FIRST, *(name for name in _OTHERS if name in there)]


@contextmanager
def known_glyphs(figure: Any) -> Iterator[None]:
    """Tell once which signs of a figure no font here has, in place of a line of matplotlib's each.

    Such a sign is drawn as a box.
    """
    if missing := _missing(figure):
        kinds = sorted({unicodedata.name(sign, "?").split()[0] for sign in missing})
        warnings.warn(
            f"no font here has {''.join(missing[:12])}{'…' if len(missing) > 12 else ''} "
            f"({', '.join(kinds)}), drawn as boxes; install one that has, such as Noto Sans CJK or "
            "Noto Emoji. Pages (.html) use the browser's fonts.",
            stacklevel=5,
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape("Glyph ") + ".* missing from", UserWarning)
        yield


def _missing(figure: Any) -> list[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.text import Text

    signs = {sign for text in figure.findobj(Text) for sign in text.get_text() if ord(sign) > 0x7F}
    if not signs:
        return []
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in families()]
    return sorted(sign for sign in signs if not any(f.get_char_index(ord(sign)) for f in fonts))
