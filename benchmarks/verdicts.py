"""Verdicts on the layers of the committed runs: each layer by itself, and all of them at once.

Nothing is trained and nothing evaluated: the Datasets of finished runs are judged again.

    python benchmarks/verdicts.py [RUNS] [--out FILE]

Writes a table in Markdown: by Dataset how many layers are robust, critical, intermediate and
undecided, and which verdicts the correction for several layers leaves open.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import LayerscopeError

_ABOUT = """# Verdicts on many layers at once

Made by `python benchmarks/verdicts.py --out docs/verdicts.md` from the Datasets of the committed
runs; nothing was trained or evaluated for it. An arrow leads from the verdicts on each layer by
itself to those on all layers at once (`stats.classify`, Holm's correction, 95 %), which is what
`classify` gives. Of each layer by itself some verdict is wrong far more often than in 5 % of cases:
with 10, 50 and 160 layers at the limit and three seeds one or more is called robust in 24, 72 and
98 % (`benchmarks/coverage.py`), and in 3 % with the correction. Cells that a sweep with
`tolerance=` stopped early are known at that sweep's confidence and no higher, and stay open.
"""

WORDS = ("robust", "intermediate", "critical", "undecided")


def datasets(runs: Path) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the parts of each Dataset below a folder that has verdicts, by name."""
    for path in sorted(runs.rglob("*.nc")):
        ds = results.open_dataset(path)
        for words, part in results.parts(ds).items():
            name = f"{path.parent.relative_to(runs)}, {path.stem}"
            yield f"{name}, {words}" if words else name, part


def judged(ds: xr.Dataset) -> pd.DataFrame | None:
    """Judge each layer by itself and all at once; None where no metric has limits."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone, together = (
                stats.classify(ds, correction=each).set_index("layer")["verdict"]
                for each in ("none", "holm")
            )
    except LayerscopeError:
        return None
    return pd.DataFrame({"alone": alone, "together": together})


def line(name: str, verdicts: pd.DataFrame) -> str:
    """Make a row of the table."""
    counts = []
    for word in WORDS:
        before, after = (Counter(verdicts[each])[word] for each in ("alone", "together"))
        counts.append(str(after) if before == after else f"{before} → {after}")
    moved = verdicts[verdicts["alone"] != verdicts["together"]]
    which = [f"{layer} ({row.alone})" for layer, row in moved.iterrows()]
    return f"| {' | '.join([name, str(len(verdicts)), *counts, ', '.join(which)])} |"


def main() -> None:
    """Judge, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="?", default=Path("papermill_runs"))
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    head = ["Dataset", "layers", *WORDS, "no longer decided"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, ds in datasets(options.runs):
        verdicts = judged(ds)
        if verdicts is not None and len(verdicts):
            lines.append(line(name, verdicts))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join([_ABOUT, *lines]) + "\n")


if __name__ == "__main__":
    main()
