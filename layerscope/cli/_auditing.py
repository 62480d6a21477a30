"""The command that audits a series of checkpoints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from layerscope.cli._shared import add_row, make_table, show

if TYPE_CHECKING:
    from layerscope.core.checkpoints import Audit

__all__ = ["add_checkpoints"]

FOUND = 3
"""Exit status where a series has faults; 1 and 2 are of errors."""


def add_checkpoints(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "checkpoints",
        help="audit a series: copies, foreign checkpoints and shards, wrong starts, jumps, NaN",
        epilog=f"The exit status is 0 for a sound series, {FOUND} where faults were found.",
    )
    parser.add_argument("folder", help="folder of checkpoints, or that layerscope train printed")
    parser.add_argument(
        "--tensors", action="store_true", help="show every tensor at every checkpoint, too"
    )
    parser.set_defaults(run=_run_checkpoints)


def _run_checkpoints(options: argparse.Namespace) -> int:
    from layerscope.core.checkpoints import audit

    found = audit(options.folder)
    show(_checkpoints(found, options.folder))
    if options.tensors:
        show(_tensors(found))
    for finding in found.findings:
        print(f"{'✕' if finding.fault else '·'} {finding.sentence} {finding.advice}")
    if not found.faults:
        print("Nothing was found against these checkpoints.")
    return FOUND if found.faults else 0


def _checkpoints(found: Audit, folder: str) -> Any:
    """One row for each checkpoint, all its tensors together."""
    ds = found.dataset
    unit = ds["epoch"].attrs["units"]
    table = make_table(
        f"{folder}: {ds.sizes['tensor']} tensors",
        unit, "from the first", "from the one before", "from the last", "in doubt",
    )  # fmt: skip
    for at, epoch in enumerate(ds["epoch"].values.tolist()):
        marks = [f.mark for f in found.faults if epoch in f.epochs]
        lengths = [
            f"{float((ds[name][:, at] ** 2).sum() ** 0.5):.4g}" if at or name != "step" else "–"
            for name in ("distance", "step", "to_last")
        ]
        add_row(table, str(epoch), *lengths, "; ".join(dict.fromkeys(marks)))
    return table


def _tensors(found: Audit) -> Any:
    ds = found.dataset
    unit = ds["epoch"].attrs["units"]
    table = make_table(
        "Tensors", "tensor", unit, "from the first", "from the one before", "from the last",
        "cosine with the one before", "SHA-256",
    )  # fmt: skip
    for row, name in enumerate(map(str, ds["tensor"].values)):
        for at, epoch in enumerate(ds["epoch"].values.tolist()):
            names = ("distance", "step", "to_last", "cosine_before")
            numbers = [float(ds[each][row, at]) for each in names]
            told = ["–" if number != number else f"{number:.4g}" for number in numbers]
            add_row(
                table, "" if at else name, str(epoch), *told, str(ds["digest"].values[row, at])[:12]
            )
    return table
