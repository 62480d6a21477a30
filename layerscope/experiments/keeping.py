"""What an experiment leaves in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.analyses import Finding

__all__ = ["SUMMARY", "keep"]

SUMMARY = "summary.json"


def keep(
    out: str | os.PathLike[str] | None,
    *,
    title: str,
    findings: Iterable[Finding] = (),
    datasets: Mapping[str, xr.Dataset] | None = None,
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write an experiment's results into a folder.

    Parameters
    ----------
    out : path or None
        None keeps nothing.
    title : str
        One line that says what was run.
    findings : iterable of Finding
    datasets, figures, tables : mapping, optional
        By name of the file without its suffix: written as ``.nc``, ``.png`` with ``.svg``, and
        ``.csv``.

    Returns
    -------
    list of Path
        What was written, ``summary.json`` first: ``title``, ``findings`` with the fields of
        `analyses.Finding`, and the names of the files with ``figures`` and ``tables``.
    """
    if out is None:
        return []
    from layerscope import plots, results

    folder = Path(out)
    written = [results.save(ds, folder / f"{name}.nc") for name, ds in (datasets or {}).items()]
    for name, figure in (figures or {}).items():
        written += [plots.save(figure, folder / f"{name}.{suffix}") for suffix in ("png", "svg")]
    for name, table in (tables or {}).items():
        text = table.to_csv(index=False).encode()
        written.append(results.write_bytes(folder / f"{name}.csv", text))
    about = {
        "title": title,
        "findings": [found.plain() for found in findings],
        "figures": [path.name for path in written if path.suffix == ".png"],
        "tables": [path.name for path in written if path.suffix == ".csv"],
    }
    content = json.dumps(about, indent=1, ensure_ascii=False).encode()
    return [results.write_bytes(folder / SUMMARY, content), *written]
