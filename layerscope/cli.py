"""The command line: thin, and quick to say what it can do."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

from layerscope._version import __version__
from layerscope.errors import LayerscopeError, OptionError, choose

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 for an error with its message, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except LayerscopeError as error:
        print(f"layerscope: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        for note in getattr(stop, "__notes__", ["stopped; what is finished is kept."]):
            print(f"layerscope: {note}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as head, has seen enough.
        sys.stderr.close()
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser that answers a misspelt command with those there are."""

    def error(self, message: str) -> Any:
        print(f"layerscope: {message}", file=sys.stderr)
        print(f"Try: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="layerscope",
        description="Which layers of a trained network matter? Reset them and see.",
        epilog="layerscope COMMAND --help says more of one command.",
    )
    parser.add_argument("--version", action="version", version=f"layerscope {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_experiments, _data, _train, _sweep, _show, _report, _reproduce, _gallery):
        add(commands)
    return parser


def _experiments(commands: Any) -> None:
    parser = commands.add_parser("experiments", help="list the paper's experiments")
    parser.set_defaults(run=_run_experiments)


def _run_experiments(_: argparse.Namespace) -> None:
    from layerscope.experiments import EXPERIMENTS

    table = _table("Experiments", "name", "figure", "networks", "scale", "data", "time on 2 cores")
    for experiment in EXPERIMENTS.values():
        for index, (scale, what) in enumerate(experiment.scales.items()):
            same = index > 0
            _add_row(
                table,
                "" if same else experiment.name,
                "" if same else experiment.shown_in,
                "" if same else ", ".join(experiment.networks),
                scale,
                what.data,
                what.expected,
            )
    _print(table)


def _data(commands: Any) -> None:
    parser = commands.add_parser("data", help="show which data sets are found, and how to get more")
    parser.add_argument(
        "name", nargs="?", help="read this one, such as cifar10+classes=0,1, and show its parts"
    )
    _data_root(parser)
    parser.set_defaults(run=_run_data)


def _run_data(options: argparse.Namespace) -> None:
    if options.name is None:
        _list_data(options.data_root)
        return
    from rich.text import Text

    from layerscope import data

    found = data.load(options.name, options.data_root)
    table = _table(found.name, "part", "examples", "shape", "classes", "fingerprint")
    for name in ("train", "valid", "test"):
        part = getattr(found, name, None)
        if part is not None:
            shape = "×".join(map(str, found.shape))
            cells = f"{len(part):,}", shape, f"{found.classes:,}", part.fingerprint[:12]
            _add_row(table, name, *cells)
    table.caption = Text(found.origin)
    _print(table)


def _list_data(root: str | None) -> None:
    from layerscope import data
    from layerscope.errors import DataError

    table = _table("Data sets", "name", "what", "found")
    for source in data.SOURCES.values():
        try:
            state = source.found(root)
        except DataError as error:
            state = f"no: {error}"
        _add_row(table, source.name, source.what, state)
    _print(table)


def _train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a network and record its checkpoints")
    parser.add_argument("network", help="such as fcn-3x256 (3 hidden layers of 256 units)")
    parser.add_argument("--data", default="mnist-5k", help="data set (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="initial learning rate (default: 0.01)")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--record", type=int, nargs="+", metavar="EPOCH", help="epochs to record")
    parser.add_argument("--out", default="series", help="folder of series (default: %(default)s)")
    _data_root(parser)
    _device(parser)
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace) -> None:
    from layerscope import data, training

    recipe = training.Recipe(
        epochs=options.epochs,
        batch_size=options.batch_size,
        **({"lr": options.lr} if options.lr is not None else {}),
    )
    # Which kinds can be trained on, training says itself.
    found: Any = data.load(options.data, options.data_root)
    series = training.train(
        options.network,
        found,
        recipe,
        seed=options.seed,
        out=options.out,
        record=options.record or training.PAPER_EPOCHS,
        device=options.device,
    )
    scores = series.manifest["epochs"][str(series.last)]["metrics"]
    print(f"{series.folder}")
    print(
        f"epochs {', '.join(map(str, series.epochs))}; test error {scores['test_error']:.4f}, "
        f"trained in {series.manifest['seconds']:.0f} s"
    )


def _sweep(commands: Any) -> None:
    parser = commands.add_parser("sweep", help="reset each layer of a trained series and evaluate")
    parser.add_argument("series", help="folder that layerscope train printed")
    parser.add_argument("--data", help="data set (default: the one it was trained on)")
    parser.add_argument("--layers", nargs="+", metavar="PATTERN", help="default: every layer")
    parser.add_argument("--epochs", type=int, nargs="+", metavar="EPOCH", help="default: all")
    parser.add_argument("--draws", type=int, default=3, help="random draws (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--out", help="folder for the result (default: SERIES/sweep)")
    _data_root(parser)
    _device(parser)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(options: argparse.Namespace) -> None:
    from pathlib import Path

    from layerscope import checkpoints, data, engine, store

    series = checkpoints.open_series(options.series)
    model = series.build()
    known = options.data or series.manifest["data"]["name"]
    out = Path(options.out) if options.out else Path(options.series) / "sweep"
    ds = engine.sweep(
        model,
        data.load(known, options.data_root).test,
        checkpoints=series,
        layers=options.layers,
        epochs=options.epochs,
        draws=options.draws,
        batch_size=options.batch_size,
        device=options.device,
        out=out,
    )
    print(out / store.DATASET)
    _print(_result_table(ds, "error"))


def _show(commands: Any) -> None:
    parser = commands.add_parser("show", help="show a result in the terminal, as a page or picture")
    parser.add_argument("result", help="a Dataset (.nc), or a folder with one")
    parser.add_argument("--metric", default="error", help="default: %(default)s")
    parser.add_argument("--html", metavar="FILE", help="write the figure as a page, with hover")
    parser.add_argument("--png", metavar="FILE", help="write the figure as a picture")
    parser.set_defaults(run=_run_show)


def _run_show(options: argparse.Namespace) -> None:
    from layerscope import results

    ds = results.open_dataset(options.result)
    _print(_result_table(ds, options.metric))
    targets = [target for target in (options.html, options.png) if target]
    if targets:
        from layerscope import plots

        figure = plots.overview(ds, options.metric)
        for target in targets:
            print(plots.save(figure, target))


def _report(commands: Any) -> None:
    parser = commands.add_parser("report", help="write one HTML file about one or more results")
    parser.add_argument("result", nargs="+", help="a Dataset (.nc), or a folder with one")
    parser.add_argument("-o", "--out", default="report.html", help="default: %(default)s")
    parser.add_argument("--metric", help="default: error, where the results have it")
    parser.add_argument(
        "--critical", type=float, help="rise of the metric from which a layer is critical"
    )
    parser.add_argument("--title", default="Which layers matter?", help="default: %(default)s")
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> None:
    from layerscope import report

    path = report.write(
        report.read(options.result),
        options.out,
        metric=options.metric,
        critical=options.critical,
        title=options.title,
    )
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def _reproduce(commands: Any) -> None:
    parser = commands.add_parser("reproduce", help="run one of the paper's experiments")
    parser.add_argument("name", help="as layerscope experiments lists it")
    parser.add_argument("--scale", default="small", help="smoke, small or paper (default: small)")
    parser.add_argument("--seeds", type=int, help="number of training runs")
    parser.add_argument("--out", default="papermill_runs", help="default: %(default)s")
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the notebook; may be repeated",
    )
    _data_root(parser)
    _device(parser)
    parser.set_defaults(run=_run_reproduce)


def _run_reproduce(options: argparse.Namespace) -> None:
    from layerscope import reproduce

    done = reproduce.run(
        options.name,
        options.scale,
        seeds=options.seeds,
        data_root=options.data_root,
        device=options.device,
        out=options.out,
        overrides=dict(map(_parameter, options.parameters)),
    )
    spent = f"{done.manifest['seconds']:.0f} s"
    if done.reused:
        print(f"finished before (in {spent}), nothing to do; it is in {done.folder}:")
    else:
        print(f"finished in {spent}; it is in {done.folder}:")
    for path in done.files:
        print(f"  {path}")


def _gallery(commands: Any) -> None:
    parser = commands.add_parser("gallery", help="make a page of what the experiments gave")
    parser.add_argument(
        "runs", nargs="?", default="papermill_runs", help="folder of runs (default: %(default)s)"
    )
    parser.add_argument(
        *("-o", "--out"),
        metavar="FILE",
        action="append",
        help=".html or .md; may be repeated (default: gallery.html and GALLERY.md in RUNS)",
    )
    parser.set_defaults(run=_run_gallery)


def _run_gallery(options: argparse.Namespace) -> None:
    from pathlib import Path

    from layerscope import gallery

    runs = Path(options.runs)
    for path in options.out or (runs / "gallery.html", runs / "GALLERY.md"):
        print(gallery.write(runs, path))


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"-p {text!r} has no value; write -p name=value.")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value


def _data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data sets")


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    # As Text, since names may come from a file, and rich reads markup in plain strings.
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in columns:
        # The first column is a name to be typed again: never cut.
        table.add_column(Text(column), no_wrap=column == columns[0], overflow="fold")
    return table


def _add_row(table: Any, *cells: Any) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _result_table(ds: Any, metric: str) -> Any:
    """Make a table like the paper's figure: layers down, checkpoints across, coloured."""
    from layerscope import results, stats

    results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    choose(metric, map(str, ds["metric"].values), "metric")
    cells = stats.summary(ds, metric)
    columns = list(dict.fromkeys(cells["column"]))
    table = _table(f"{metric} with one layer reset", "layer", *columns)
    low, high = cells["value"].min(), cells["value"].max()
    for layer, row in cells.groupby("layer", sort=False):
        values = dict(zip(row["column"], row["value"], strict=True))
        _add_row(
            table,
            str(layer),
            *(_coloured(values.get(column), low, high) for column in columns),
        )
    base = ds["baseline"].sel(metric=metric)
    table.caption = f"trained network: {float(base.mean()):.4f}"
    return table


def _coloured(value: float | None, low: float, high: float) -> Any:
    from rich.style import Style
    from rich.text import Text

    if value is None:
        return Text("–")
    # Dark is bad, as in the figures; printed numbers say the same without colour.
    share = (value - low) / (high - low) if high > low else 0.0
    shade = int(250 - 200 * share)
    text = "black" if shade > 140 else "white"
    return Text(f"{value:.3f}", style=Style(color=text, bgcolor=f"rgb({shade},{shade},255)"))


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
