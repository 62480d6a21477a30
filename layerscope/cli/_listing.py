"""Commands that list what there is."""

from __future__ import annotations

import argparse
from typing import Any

from layerscope.cli._shared import add_data_root, add_row, make_table, show

__all__ = ["add_data", "add_experiments", "add_models"]


def add_experiments(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("experiments", help="list the paper's experiments")
    parser.set_defaults(run=_run_experiments)


def _run_experiments(_: argparse.Namespace) -> None:
    from layerscope.paper.experiments import EXPERIMENTS

    table = make_table(
        "Experiments", "name", "figure", "networks", "scale", "data", "time on 2 cores"
    )
    for experiment in EXPERIMENTS.values():
        for index, (scale, what) in enumerate(experiment.scales.items()):
            same = index > 0
            add_row(
                table,
                "" if same else experiment.name,
                "" if same else experiment.shown_in,
                "" if same else ", ".join(experiment.networks),
                scale,
                what.data,
                what.expected,
            )
    show(table)


def add_models(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("models", help="list the networks that go by name")
    parser.set_defaults(run=_run_models)


def _run_models(_: argparse.Namespace) -> None:
    from layerscope.errors import ExtraError
    from layerscope.zoo import models

    table = make_table("Networks", "such as", "what", "parameters", "name")
    for family in models.FAMILIES.values():
        try:
            size = f"{models.count_parameters(family.example):,}"
        except ExtraError as error:
            size = str(error)
        add_row(table, family.example, family.about, size, family.form)
    show(table)


def add_data(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("data", help="show which data sets are found, and how to get more")
    parser.add_argument(
        "name", nargs="?", help="read this one, such as cifar10+classes=0,1, and show its parts"
    )
    add_data_root(parser)
    parser.set_defaults(run=_run_data)


def _run_data(options: argparse.Namespace) -> None:
    if options.name is None:
        _list_data(options.data_root)
        return
    from rich.text import Text

    from layerscope.zoo import data

    found = data.load(options.name, options.data_root)
    table = make_table(found.name, "part", "examples", "shape", "classes", "fingerprint")
    for name in ("train", "valid", "test"):
        part = getattr(found, name, None)
        if part is not None:
            shape = "×".join(map(str, found.shape))
            cells = f"{len(part):,}", shape, f"{found.classes:,}", part.fingerprint[:12]
            add_row(table, name, *cells)
    table.caption = Text(found.origin)
    show(table)


def _list_data(root: str | None) -> None:
    from layerscope.errors import DataError, ExtraError
    from layerscope.zoo import data

    table = make_table("Data sets", "name", "what", "found")
    for source in data.SOURCES.values():
        try:
            state = source.locate(root)
        except (DataError, ExtraError) as error:
            state = f"no: {error}"
        add_row(table, source.name, source.what, state)
    show(table)
