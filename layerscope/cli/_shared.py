"""Options that several commands have, and tables in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = [
    "add_data_option",
    "add_data_root",
    "add_device",
    "add_row",
    "make_table",
    "room",
    "show",
]


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of the data sets."""
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data sets")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for what a data set takes."""
    parser.add_argument(
        "--data-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of the data set, such as image_size=64 or encoding=latin-1; may be repeated",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses a device."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def make_table(title: str, *columns: str, whole: bool = False) -> Any:
    """Make an empty table; cells may come from a file.

    With `whole` names break where there is no room, and never what stands beside them: numbers.
    """
    from rich.table import Table
    from rich.text import Text

    # As Text, since names may come from a file, and rich reads markup in plain strings.
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in columns:
        # The first column is a name to be typed again: never cut.
        first = column == columns[0]
        table.add_column(Text(column), no_wrap=first != whole, overflow="fold")
    return table


def add_row(table: Any, *cells: Any) -> None:
    """Add a row, text as it is."""
    from rich.text import Text

    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def room() -> int:
    """Count the columns of the terminal."""
    from rich.console import Console

    return Console().width


def show(table: Any) -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console

    Console().print(table)
