"""The command line: thin, and quick to say what it can do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope import arguments
from layerscope._version import __version__
from layerscope.errors import LayerscopeError, OptionError, ResultError, choose

__all__ = ["main"]


def main(command: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 for an error with its message, 130 for Ctrl-C."""
    options = _parser().parse_args(command)
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
    for add in (_experiments, _models, _data, _train, _sweep, _show, _explore, _reproduce, _smoke):
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


def _models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the networks that go by name")
    parser.set_defaults(run=_run_models)


def _run_models(_: argparse.Namespace) -> None:
    from layerscope import models

    table = _table("Networks", "such as", "what", "parameters", "name")
    for family in models.FAMILIES.values():
        size = f"{models.count_parameters(family.example):,}"
        _add_row(table, family.example, family.about, size, family.form)
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
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--record", type=int, nargs="+", metavar="EPOCH", help="epochs to record")
    parser.add_argument(
        "--record-steps", type=int, nargs="+", metavar="STEP", help="steps to record as well"
    )
    parser.add_argument("--out", default="series", help="folder of series (default: %(default)s)")
    arguments.add_recipe(parser)
    _data_root(parser)
    _data_option(parser)
    _device(parser)
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace) -> None:
    from layerscope import data, models, training

    network = models.configure(options.network, **arguments.given(options.option, "--option"))
    recipe = training.Recipe(**arguments.recipe(options))
    more = arguments.given(options.data_option, "--data-option")
    series = training.train(
        network,
        data.load(options.data, options.data_root, **more),
        recipe,
        seed=options.seed,
        out=options.out,
        record=options.record or training.PAPER_EPOCHS,
        record_steps=options.record_steps or (),
        augment=options.augment,
        device=options.device,
    )
    scores = series.manifest["epochs"][str(series.last)]["metrics"]
    print(f"{series.folder}")
    print(
        f"{series.unit}s {', '.join(map(str, series.epochs))}; {_told(scores)}, "
        f"trained in {series.manifest['seconds']:.0f} s"
    )


def _told(scores: Mapping[str, float]) -> str:
    """The test error, and the perplexity where it was measured."""
    perplexity = scores.get("test_perplexity")
    also = "" if perplexity is None else f", perplexity {perplexity:.2f}"
    return f"test error {scores['test_error']:.4f}{also}"


def _sweep(commands: Any) -> None:
    parser = commands.add_parser("sweep", help="reset each layer of a trained series and evaluate")
    parser.add_argument("series", help="folder that layerscope train printed")
    parser.add_argument("--data", help="data set (default: the one it was trained on)")
    parser.add_argument("--out", help="folder for the result (default: SERIES/sweep)")
    arguments.add_sweep(parser)
    _data_root(parser)
    _data_option(parser)
    _device(parser)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(options: argparse.Namespace) -> None:
    from pathlib import Path

    from layerscope import checkpoints, engine, store, training

    series = checkpoints.open_series(options.series)
    model = series.build()
    more = arguments.given(options.data_option, "--data-option")
    test = arguments.data_of(series, options.data, options.data_root, more).test
    out = Path(options.out) if options.out else Path(options.series) / "sweep"
    size = training.scored_in(test, series.manifest["recipe"]["batch_size"])
    ds = engine.sweep(
        model,
        test,
        checkpoints=series,
        device=options.device,
        out=out,
        **{"batch_size": size} | arguments.sweep_options(options),
    )
    print(out / store.DATASET)
    _print(_result_table(ds, _shown(ds)))


def _shown(ds: Any) -> str:
    """The metric to be shown: the error where it was measured."""
    names = [str(name) for name in ds["metric"].values]
    return "error" if "error" in names else names[0]


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


def _explore(commands: Any) -> None:
    parser = commands.add_parser("explore", help="toggle layers in JupyterLab, and watch")
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="RUN",
        help="folder that layerscope train printed (default: a small example)",
    )
    parser.add_argument("--out", default=".", help="folder for the notebook (default: this one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    _data_root(parser)
    _device(parser)
    parser.set_defaults(run=_run_explore)


def _run_explore(options: argparse.Namespace) -> None:
    from layerscope import explore

    book = explore.prepare(options.folder, options.out, options.device, options.data_root)
    print(book)
    explore.serve(book, browser=not options.no_browser)


def _reproduce(commands: Any) -> None:
    parser = commands.add_parser("reproduce", help="run the paper's experiments, one or all")
    parser.add_argument("name", nargs="?", help="as layerscope experiments lists it")
    parser.add_argument("--all", action="store_true", help="the paper's fifteen, by a plan")
    parser.add_argument("--jobs", type=int, default=1, help="with --all: how many at once")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave runs that are finished as they are (default), or run them again",
    )
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
    if options.all == (options.name is not None):
        raise OptionError("give the name of one experiment, or --all.")
    if options.all:
        _run_all(options)
        return
    from layerscope import reproduce

    done = reproduce.run(
        options.name,
        options.scale,
        seeds=options.seeds,
        data_root=options.data_root,
        device=options.device,
        out=options.out,
        overrides=arguments.given(options.parameters, "-p"),
        resume=options.resume,
    )
    spent = f"{done.manifest['seconds']:.0f} s"
    if done.reused:
        print(f"finished before (in {spent}), nothing to do; it is in {done.folder}:")
    else:
        print(f"finished in {spent}; it is in {done.folder}:")
    for path in done.files:
        print(f"  {path}")


def _run_all(options: argparse.Namespace) -> None:
    from layerscope import batch

    if options.seeds is not None or options.parameters:
        raise OptionError("--seeds and -p are for one experiment; leave them out with --all.")
    planned = batch.plan(options.scale, out=options.out)
    table = _table(f"Plan, scale {options.scale}", "experiment", "minutes", "expected", "")
    for each in planned:
        _add_row(
            table, each.name, f"{each.minutes:g}", each.expected, "there" if each.there else ""
        )
    open_minutes = sum(each.minutes for each in planned if not each.there) / options.jobs
    table.caption = f"about {open_minutes:.0f} minutes with {options.jobs} at a time"
    _print(table)
    ended: list[batch.Outcome] = []

    def report(outcome: batch.Outcome) -> None:
        ended.append(outcome)
        how = "failed" if outcome.error else "there" if outcome.reused else "done"
        left = f"{len(ended)} of {len(planned)}"
        print(f"{outcome.name}: {how} after {outcome.seconds:.0f} s ({left})", flush=True)

    outcomes = batch.run_all(
        options.scale,
        jobs=options.jobs,
        out=options.out,
        data_root=options.data_root,
        device=options.device,
        resume=options.resume,
        started=lambda name: print(f"{name}: started", flush=True),
        ended=report,
    )
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        told = "\n".join(f"  {outcome.name}: {outcome.error}" for outcome in failed)
        raise ResultError(f"{len(failed)} of {len(outcomes)} experiments failed:\n{told}")
    print(f"all {len(outcomes)} are in {options.out}")


def _smoke(commands: Any) -> None:
    parser = commands.add_parser("smoke", help="try every network with its data, seconds each")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="such as vgg (default: all)")
    _data_root(parser)
    _device(parser)
    parser.set_defaults(run=_run_smoke)


def _run_smoke(options: argparse.Namespace) -> None:
    from layerscope import progress, smoke

    table = _table("Trained, killed and resumed, swept", *smoke.COLUMNS)
    wrong = []
    pairs = smoke.chosen(options.networks)
    with progress.bar(len(pairs), "smoke", "network") as advance:
        for row in smoke.run(options.networks, root=options.data_root, device=options.device):
            _add_row(table, *row.cells_of_table())
            advance(1)
            if not (row.resumed and row.exact):
                wrong.append(f"{row.network} on {row.data}")
    _print(table)
    if wrong:
        raise LayerscopeError(f"not the same to the last bit: {'; '.join(wrong)}.")


def _data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data sets")


def _data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of the data set, such as image_size=64 or encoding=latin-1; may be repeated",
    )


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
