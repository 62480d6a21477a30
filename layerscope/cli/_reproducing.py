"""Commands that run the paper's experiments."""

from __future__ import annotations

import argparse
from typing import Any

from layerscope.base import validate
from layerscope.cli._options import assignments
from layerscope.cli._shared import add_data_root, add_device, add_row, make_table, show
from layerscope.errors import LayerscopeError, OptionError, ResultError

__all__ = ["add_gallery", "add_judge", "add_reproduce"]


def add_reproduce(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("reproduce", help="run the paper's experiments, one or all")
    parser.add_argument("name", nargs="?", help="as layerscope experiments lists it, or a notebook")
    parser.add_argument("--all", action="store_true", help="every experiment, by a plan")
    parser.add_argument("--jobs", type=int, default=1, help="with --all: how many at once")
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="have the workers of a Dask cluster train, one network by each at a time, and compute "
        "the sweeps; with --all, have them run whole experiments: local:N for N processes of this "
        "machine, or the address of a scheduler, such as tcp://10.0.0.1:8786, whose workers see "
        "the same folders",
    )
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
    add_data_root(parser)
    add_device(parser)
    parser.set_defaults(run=_run_reproduce)


def _run_reproduce(options: argparse.Namespace) -> None:
    if options.all == (options.name is not None):
        raise OptionError("give the name of one experiment, or --all.")
    from layerscope.core import sweep as engine

    with engine.connect(options.dask) as client:
        if options.all:
            _run_all(options, client)
        else:
            _run_one(options, client)


def _run_one(options: argparse.Namespace, client: Any = None) -> None:
    from layerscope.paper import reproduce

    done = reproduce.run(
        options.name,
        options.scale,
        seeds=options.seeds,
        data_root=options.data_root,
        device=options.device,
        out=options.out,
        overrides=assignments(options.parameters, "-p"),
        resume=options.resume,
        client=client,
    )
    spent = f"{done.manifest['seconds']:.0f} s"
    if done.reused:
        print(f"finished before (in {spent}), nothing to do; it is in {done.folder}:")
    else:
        print(f"finished in {spent}; it is in {done.folder}:")
    for path in done.files:
        print(f"  {path}")
    _tell(done.manifest.get("summary"))


def _tell(summary: dict[str, Any] | None) -> None:
    """Print what a run found: what the paper says, what was measured, whether the two agree."""
    if not summary or not summary["claims"]:
        return
    table = make_table(summary["finding"], "agrees?", "the paper says", "we measured")
    for claim in summary["claims"]:
        answer = {True: "yes", False: "no"}.get(claim["agrees"], "undecided")
        add_row(table, answer, claim["paper"], claim["measured"])
    show(table)


def _run_all(options: argparse.Namespace, client: Any = None) -> None:
    from layerscope.paper import batch

    if options.seeds is not None or options.parameters:
        raise OptionError("--seeds and -p are for one experiment; leave them out with --all.")
    validate.integer(options.jobs, "jobs", 1)
    planned = batch.plan(options.scale, out=options.out)
    table = make_table(f"Plan, scale {options.scale}", "experiment", "minutes", "expected", "")
    for each in planned:
        add_row(table, each.name, f"{each.minutes:g}", each.expected, "there" if each.there else "")
    jobs = options.jobs if client is None else batch.workers_of(client)
    open_minutes = sum(each.minutes for each in planned if not each.there) / jobs
    table.caption = f"about {open_minutes:.0f} minutes with {jobs} at a time"
    show(table)
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
        client=client,
    )
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        told = "\n".join(f"  {outcome.name}: {outcome.error}" for outcome in failed)
        raise ResultError(f"{len(failed)} of {len(outcomes)} experiments failed:\n{told}")
    print(f"all {len(outcomes)} are in {options.out}")


def add_judge(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "judge", help="judge finished runs by today's rules, from their Datasets, training nothing"
    )
    parser.add_argument("runs", help="folder of runs, or of one run")
    add_data_root(parser)
    parser.set_defaults(run=_run_judge)


def _run_judge(options: argparse.Namespace) -> None:
    from layerscope.paper import reproduce

    found, failed = reproduce.find_runs(options.runs), []
    for folder in found:
        try:
            manifest = reproduce.judge(folder, data_root=options.data_root)
        except LayerscopeError as error:
            failed.append(f"  {folder}: {error}")
            print(f"{folder}: not judged", flush=True)
        else:
            print(f"{folder}: judged in {manifest['judged']['seconds']:.0f} s", flush=True)
            _tell(manifest["summary"])
    if failed:
        told = "\n".join(failed)
        raise ResultError(f"{len(failed)} of {len(found)} runs were not judged again:\n{told}")


def add_gallery(commands: Any) -> None:
    """Add the command."""
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

    from layerscope.paper import gallery

    runs = Path(options.runs)
    for path in options.out or (runs / "gallery.html", runs / "GALLERY.md"):
        print(gallery.write(runs, path))
