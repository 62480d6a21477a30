"""Pages that are kept elsewhere in the repository: read from there, never written twice."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

__all__ = ["PAGES", "ROOT", "adopt", "adopt_all", "adopt_notebooks"]

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent

# Files of the repository, and the pages that they become.
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "papermill_runs/GALLERY.md": "runs/gallery.md",
    "notebooks/00_quickstart.ipynb": "tutorials/quickstart.ipynb",
}
# A link to these leads to the page that says the same.
_ELSEWHERE = {"README.md": "index.md"}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s]+)(?=\))")
_ANCHOR = re.compile(r'^<a id="([\w-]+)"></a>$', re.MULTILINE)


def adopt_all() -> None:
    """Make every page that is kept elsewhere, and the executed notebooks of the runs."""
    runs = adopt_notebooks()
    pages = PAGES | runs
    for source, page in pages.items():
        path = DOCS / page
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            text = adopt((ROOT / source).read_text(encoding="utf-8"), source, page, pages)
            _write(path, text + (_toctree(runs) if page.startswith("runs/") else ""))
        else:
            shutil.copyfile(ROOT / source, path)


def adopt_notebooks() -> dict[str, str]:
    """Choose the page of every executed notebook of the runs."""
    found = sorted((ROOT / "papermill_runs").glob("*/*/*.ipynb"))
    return {
        path.relative_to(ROOT).as_posix(): f"runs/{_slug(path.parent)}.ipynb"
        for path in found
        if not path.parent.name.startswith("smoke")
    }


def _slug(run: Path) -> str:
    return re.sub(r"[^\w.]+", "-", f"{run.parent.name}-{run.name}")


def adopt(text: str, source: str, page: str, pages: Mapping[str, str]) -> str:
    """Take the text of a file over into a page: its links lead where they led."""

    def moved(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        there = os.path.normpath(os.path.join(os.path.dirname(source), unquote(path)))  # noqa: PTH118, PTH120
        goal = {**pages, **_ELSEWHERE}.get(there)
        target = os.path.relpath(DOCS / goal if goal else ROOT / there, (DOCS / page).parent)
        return f"{target}{mark}{anchor}"

    return _LINK.sub(moved, _ANCHOR.sub(r"(\1)=", text))


def _toctree(runs: Mapping[str, str]) -> str:
    rows = "\n".join(Path(page).stem for page in runs.values())
    return f"\n```{{toctree}}\n:hidden:\n\n{rows}\n```\n"


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
