"""Commands that find which blocks a network can do without, and write it without them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layerscope.cli._options import EXPORT, PRUNE, PRUNE_SWEEP, add, assignments, get
from layerscope.cli._shared import (
    add_data_option,
    add_data_root,
    add_device,
    add_row,
    make_table,
    show,
)
from layerscope.cli._sweeping import NETWORK, data_of, texts_of
from layerscope.errors import OptionError

__all__ = ["add_export", "add_prune"]


class _Subject(NamedTuple):
    """A network with what it is evaluated on."""

    model: Any
    data: Any
    checkpoints: Any
    tokenizer: Any
    batch_size: int


def add_prune(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "prune", help="remove one block after the other, each time the one that costs least"
    )
    _add_subject(parser)
    parser.add_argument("--out", help="folder for the path (default: NETWORK-pruned)")
    add(parser, PRUNE)
    add(parser, PRUNE_SWEEP)
    parser.set_defaults(run=_run_prune)


def _run_prune(options: argparse.Namespace) -> None:
    from layerscope.core import pruning

    subject = _subject(options)
    out = Path(options.out or f"{Path(options.network).stem}-pruned")
    path = pruning.prune(
        subject.model,
        subject.data,
        checkpoints=subject.checkpoints,
        out=out,
        **{"batch_size": subject.batch_size} | get(options, PRUNE) | get(options, PRUNE_SWEEP),
    )
    print(out / pruning.PATH)
    _show_path(path)


def _show_path(path: Any) -> None:
    """Print a table for each metric: all in one would be wider than a terminal."""
    for name in map(str, path["metric"].values):
        table = make_table(f"{name} by blocks removed", "blocks", "without", name, "worse", "95 %")
        for step in path["step"].values.tolist():
            at = path.sel(step=step, metric=name)
            worse = [
                f"{float(at.degradation):+.2g}",
                f"{float(at.lower):.2g} to {float(at.upper):.2g}",
            ]
            gone = str(at["removed"].item()) or "–"
            add_row(
                table, str(step), gone, f"{float(at.value):.4g}", *(worse if step else ("", ""))
            )
        show(table)
    print(f"Ended: {path.attrs['ended']}")


def add_export(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write a network without some of its blocks, as a folder that transformers loads",
        epilog="What is written is loaded again, and must give exactly what was predicted.",
    )
    _add_subject(parser)
    parser.add_argument("folder", help="new folder for the network")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--without",
        nargs="+",
        metavar="BLOCK",
        help="blocks by name or number, or ranges of them: model.layers.3 20-24",
    )
    which.add_argument(
        "--result",
        metavar="FILE",
        help="result of layerscope sweep or prune that says which: with --margin or --row, or as "
        "many as prune removed",
    )
    parser.add_argument("--row", help="of the result of a sweep, such as model.layers.3-5")
    parser.add_argument("--steps", type=int, help="of the result of prune, how many")
    add_device(parser)
    add(parser, EXPORT)
    parser.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> None:
    from layerscope.base import devices
    from layerscope.core.export import export

    without = _without(options)
    subject = _subject(options)
    model = subject.model.to(devices.resolve(options.device))
    # As many at once as the result was measured with, where there is one.
    size = {} if options.without is None else {"batch_size": subject.batch_size}
    record = export(
        model,
        options.folder,
        without,
        data=subject.data,
        checkpoints=subject.checkpoints,
        tokenizer=subject.tokenizer,
        **size | get(options, EXPORT),
    )
    print(options.folder)
    _show_record(record)


def _without(options: argparse.Namespace) -> Any:
    """Say what is to go, by name or as a Dataset."""
    from layerscope import results

    for flag, there in (("--row", options.row), ("--steps", options.steps)):
        if there is not None and options.result is None:
            raise OptionError(f"{flag} goes with --result FILE.")
    if options.without is not None:
        return options.without
    ds = results.open_dataset(options.result)
    if options.row is not None:
        return ds.sel(layer=[_choose(options.row, ds, "layer", "row")])
    if options.steps is not None:
        return ds.sel(step=slice(_choose(options.steps, ds, "step", "step")))
    return ds


def _choose(value: Any, ds: Any, dim: str, what: str) -> Any:
    from layerscope.errors import choose

    if dim not in ds.dims:
        raise OptionError(f"the result has no {what}s; it is along {', '.join(map(str, ds.dims))}.")
    known = {str(each): each for each in ds[dim].values.tolist()}
    return known[choose(str(value), known, what)]


def _show_record(record: Mapping[str, Any]) -> None:
    """Print what the smaller network costs and gains."""
    kept = record["parameters_left"] / record["parameters"]
    table = make_table(
        f"{record['network']} without {', '.join(record['removed'])}",
        "", "all blocks", "these skipped (predicted)", "what was written (measured)",
    )  # fmt: skip
    for name, value in record["measured"].items():
        told = (record["baseline"][name], record["predicted"][name], value)
        add_row(table, name, *(f"{each:.6g}" for each in told))
    left = f"{record['parameters_left']:,} ({kept:.1%})"
    add_row(table, "parameters", f"{record['parameters']:,}", "", left)
    speed = record["speed"]
    low, high = speed["ratio_range"]
    faster = f"{speed['after']:,} ({speed['ratio']:.2f} times, {low:.2f} to {high:.2f})"
    add_row(table, speed["unit"], f"{speed['before']:,}", "", faster)
    show(table)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("--data", help="data set (default: the one it was trained on)")
    add_data_root(parser)
    add_data_option(parser)


def _subject(options: argparse.Namespace) -> _Subject:
    """Open a network by name with texts in its tokens, or a trained series with its data."""
    from layerscope.core import checkpoints, networks
    from layerscope.zoo import models, training

    if networks.is_network(options.network):
        tokenizer = networks.open_tokenizer(options.network)
        texts, size = texts_of(options.network, options, tokenizer)
        return _Subject(networks.open_network(options.network), texts, None, tokenizer, size)
    series = checkpoints.open_series(options.network)
    more = assignments(options.data_option, "--data-option")
    test = data_of(series, options.data, options.data_root, more).test
    size = training.scoring_batch_size(test, series.manifest["recipe"]["batch_size"])
    return _Subject(models.rebuild(series), test, series, None, size)
