"""Commands that train, sweep and show."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerscope.cli._options import RECIPE, SWEEP, TRAIN, add, assignments, get
from layerscope.cli._shared import (
    add_data_option,
    add_data_root,
    add_device,
)
from layerscope.cli._showing import show_result
from layerscope.cli._signature import names_in
from layerscope.errors import DataError, OptionError, choose

__all__ = [
    "NETWORK",
    "add_explore",
    "add_sweep",
    "add_train",
    "data_of",
    "texts_of",
]

NETWORK = (
    "folder that layerscope train printed; or a language model: a folder of Hugging Face's, a GGUF "
    "file, or org/name@revision"
)

_PARTS = ("test", "train")

_ROWS = 8
"""Rows of a text that a language model sees at once."""

_TASK = re.compile(r"([\w .-]+)=(.+)", re.DOTALL)
_HARNESS = "lm-eval:"


def add_train(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("train", help="train a network and record its checkpoints")
    parser.add_argument("network", help="such as fcn-3x256 (3 hidden layers of 256 units)")
    parser.add_argument("--data", default="mnist-5k", help="data set (default: %(default)s)")
    parser.add_argument("--out", default="series", help="folder of series (default: %(default)s)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="of the network, such as removed=layer2 or dropout=0.1; may be repeated",
    )  # fmt: skip
    add_data_root(parser)
    add_data_option(parser)
    add(parser, TRAIN)
    add(parser, RECIPE)
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace) -> None:
    from layerscope.zoo import data, models, training

    network = models.configure(options.network, **assignments(options.option, "--option"))
    recipe = training.Recipe(**get(options, RECIPE))
    more = assignments(options.data_option, "--data-option")
    series = training.train(
        network,
        data.load(options.data, options.data_root, **more),
        recipe,
        out=options.out,
        **get(options, TRAIN),
    )
    scores = series.manifest["epochs"][str(series.last)]["metrics"]
    print(f"{series.folder}")
    print(
        f"{series.unit}s {', '.join(map(str, series.epochs))}; {_scores(scores)}, "
        f"trained in {series.manifest['seconds']:.0f} s"
    )


def _scores(scores: Mapping[str, float]) -> str:
    """The test error, and the perplexity where it was measured."""
    perplexity = scores.get("test_perplexity")
    also = "" if perplexity is None else f", perplexity {perplexity:.2f}"
    return f"test error {scores['test_error']:.4f}{also}"


def add_sweep(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sweep",
        help="reset each layer of a trained series and evaluate",
        epilog=f"Perturbations that go by name: {', '.join(names_in('core/perturb'))}.\n"
        f"Metrics that go by name: {', '.join(names_in('core/metrics', 'METRICS'))}, topN_error.\n"
        "Both may be your own: module:name.",
    )
    parser.add_argument("series", metavar="NETWORK", help=NETWORK)
    parser.add_argument(
        "--data", action="append", metavar="NAME",
        help="data set (default: the one it was trained on); several, each by a name of your own: "
        "--data news=news --data code=./code.txt; of a language model also a task of lm-eval: "
        "--data easy=lm-eval:arc_easy",
    )  # fmt: skip
    parser.add_argument(
        "--part", default="test", help="examples to evaluate on: test or train (default: test)"
    )
    parser.add_argument(
        "--out", help="folder for the result (default: in that of the series, else NETWORK-sweep)"
    )
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="have the cells computed by a Dask cluster: local:N for N processes of this machine, "
        "or the address of a scheduler, such as tcp://10.0.0.1:8786",
    )
    add_data_root(parser)
    add_data_option(parser)
    add(parser, SWEEP)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(options: argparse.Namespace) -> None:
    from layerscope.core import checkpoints, networks, sweep as engine
    from layerscope.zoo import models, training

    choose(options.part, _PARTS, "part of the data")
    if networks.is_network(options.series):
        _sweep_network(options)
        return
    series = checkpoints.open_series(options.series)
    model = models.rebuild(series)
    more = assignments(options.data_option, "--data-option")
    found = {
        task: getattr(data_of(series, name, options.data_root, more), options.part)
        for task, name in _named(options.data).items()
    }
    # Another part is another result.
    kept = "sweep" if options.part == "test" else f"sweep-{options.part}"
    out = Path(options.out) if options.out else Path(options.series) / kept
    trained = series.manifest["recipe"]["batch_size"]
    size = min(training.scoring_batch_size(each, trained) for each in found.values())
    with engine.connect(options.dask, start=not getattr(options, "plan", False)) as client:
        ds = engine.sweep(
            model,
            _one_or_all(found),
            checkpoints=series,
            out=out,
            **{"batch_size": size} | _with(client) | get(options, SWEEP),
        )
    _print_result(ds, out)


def _with(client: Any) -> dict[str, Any]:
    return {} if client is None else {"client": client}


def _sweep_network(options: argparse.Namespace) -> None:
    """Sweep a network without checkpoints over a text, in its own tokens."""
    from layerscope.core import sweep as engine

    found = {task: _texts(options, name) for task, name in _named(options.data).items()}
    out = Path(options.out) if options.out else Path(f"{Path(options.series).stem}-sweep")
    given = {"batch_size": _ROWS} | get(options, SWEEP)
    with engine.connect(options.dask, start=not getattr(options, "plan", False)) as client:
        ds = engine.sweep(options.series, _one_or_all(found), out=out, **given | _with(client))
    _print_result(ds, out)


def _texts(options: argparse.Namespace, name: str | None) -> Any:
    """Load one text, or one task of lm-eval, in a network's own tokens."""
    from layerscope.core import networks
    from layerscope.zoo import data

    if name is not None and name.startswith(_HARNESS):
        if options.part != "test":
            raise OptionError(
                f"--part {options.part} is for data sets; {name} says itself which documents are "
                "asked about. Leave --part out."
            )
        tokenizer = networks.open_tokenizer(options.series)
        more = assignments(options.data_option, "--data-option")
        return data.harness_task(name.removeprefix(_HARNESS), tokenizer, **more)
    given = argparse.Namespace(**vars(options) | {"data": name})
    return texts_of(options.series, given, part=options.part)[0]


def _named(given: Sequence[str] | None) -> dict[str | None, str | None]:
    """Tell data sets apart that came as TASK=NAME; one alone needs no name of its own.

    Raises
    ------
    OptionError
        If of several one has no name, or two have one.
    """
    texts = list(given or [])
    # A name of a data set may hold "=" as well, behind a "+": mnist+size=50.
    pairs = [_TASK.fullmatch(text) for text in texts]
    if len(texts) < 2 and not any(pairs):
        return {None: texts[0] if texts else None}
    found: dict[str | None, str | None] = {}
    for text, pair in zip(texts, pairs, strict=True):
        if pair is None or pair[1] in found:
            problem = "has no name of its own" if pair is None else f"is a second {pair[1]!r}"
            raise OptionError(
                f"--data {text} {problem}; of several data sets give each one: "
                "--data news=NAME --data code=NAME."
            )
        found[pair[1]] = pair[2]
    return found


def _one_or_all(found: Mapping[str | None, Any]) -> Any:
    """Give one data set as it is, several by name."""
    return found.get(None, found)


def _print_result(found: Any, out: Path) -> None:
    """Print where a result lies and what came out; of a plan, what it would take."""
    from layerscope.core import sweep as engine

    if isinstance(found, engine.Forecast):
        print(found)
        return
    print(out / engine.DATASET)
    show_result(found)


def texts_of(
    network: str, options: argparse.Namespace, tokenizer: Any = None, part: str = "test"
) -> tuple[Any, int]:
    """Load the texts that are named, in a network's own tokens; and how many it sees at once.

    Raises
    ------
    DataError
        If none are named.
    """
    from layerscope.core import networks
    from layerscope.zoo import data

    if options.data is None:
        raise DataError(f"{network} does not say what to evaluate on; name it: --data NAME.")
    more = assignments(options.data_option, "--data-option")
    if "tokenizer" not in more:
        more["tokenizer"] = tokenizer or networks.open_tokenizer(network)
    found: Any = data.load(options.data, options.data_root, **more)
    return getattr(found, part), _ROWS


def data_of(series: Any, name: str | None, root: str | None, options: Mapping[str, Any]) -> Any:
    """Load what a series was trained on, or what is named, in the series' own tokens.

    Raises
    ------
    DataError
        If no other data are named and these are no longer what it was trained on, or texts are
        not in the tokens that the network knows.
    """
    from layerscope.zoo import data, training

    about, more = series.manifest.get("data", {}), dict(options)
    kept = series.folder / training.TOKENIZER
    if kept.is_file():
        more.setdefault("tokenizer", kept)
    known = name or series.data_name
    if known is None:
        raise DataError("the series does not say what it was trained on; name it: --data NAME.")
    found: Any = data.load(known, root, **more)
    if name is None and found.train.fingerprint != about["sha256"]:
        raise DataError(
            f"{known} is not what the series was trained on: its fingerprint is "
            f"{found.train.fingerprint[:12]}…, the manifest says {about['sha256'][:12]}…. Name it "
            f"to take it all the same: --data '{known}'."
        )
    if isinstance(found, data.TextData):
        found.tokenizer.check(series.manifest["network"]["classes"], str(series.folder))
    return found


def add_explore(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("explore", help="toggle layers in JupyterLab, and watch")
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="RUN",
        help="folder that layerscope train printed (default: a small example)",
    )
    parser.add_argument("--out", default=".", help="folder for the notebook (default: this one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    add_data_root(parser)
    add_device(parser)
    parser.set_defaults(run=_run_explore)


def _run_explore(options: argparse.Namespace) -> None:
    from layerscope.jupyter import prepare, serve

    book = prepare(options.folder, options.out, options.device, options.data_root)
    print(book)
    serve(book, browser=not options.no_browser)
