"""What the commands ``train`` and ``sweep`` take beside a name, and what becomes of it.

Nothing heavy is imported: help must come at once.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.errors import DataError, OptionError

__all__ = [
    "add_recipe",
    "add_sweep",
    "data_of",
    "given",
    "pair",
    "recipe",
    "sweep_options",
]

_RECIPE: Sequence[tuple[str, Any, str]] = (
    ("epochs", int, "passes over the training set (default: 100)"),
    ("batch-size", int, "examples in a batch (default: 128)"),
    ("lr", float, "initial or highest learning rate (default: 0.01)"),
    ("optimizer", str, "sgd, adam or adamw (default: sgd)"),
    ("momentum", float, "of sgd (default: 0.9)"),
    ("weight-decay", float, "default: 0"),
    ("schedule", str, "steps, cosine or constant (default: steps)"),
    ("warmup", float, "epochs in which the rate first rises (default: 0)"),
    ("clip", float, "largest norm of the gradient (default: any)"),
    ("label-smoothing", float, "share of the target spread over the classes (default: 0)"),
    ("autocast", str, "auto, float32 or bfloat16 (default: auto)"),
)
"""Fields of the recipe that are single values: name, type and help."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add what a training takes."""
    group = parser.add_argument_group("recipe")
    for name, kind, text in _RECIPE:
        group.add_argument(f"--{name}", type=kind, metavar=_placeholder(kind), help=text)
    group.add_argument("--nesterov", action="store_true", default=None, help="for sgd")
    group.add_argument(
        "--frozen", nargs="+", metavar="PATTERN", help="layers that stay at their initial values"
    )
    group.add_argument(
        "--augment", metavar="NAME", help="shift, shift-flip, or resized-crop for pictures in files"
    )
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="of the network, such as removed=layer2 or dropout=0.1; may be repeated",
    )  # fmt: skip


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of the recipe that were given."""
    names = [name.replace("-", "_") for name, _, _ in _RECIPE] + ["nesterov"]
    found = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return found | ({"frozen": tuple(options.frozen)} if options.frozen else {})


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add what a sweep takes; the defaults are those of `engine.sweep`."""
    group = parser.add_argument_group("sweep")
    group.add_argument("--layers", nargs="+", metavar="PATTERN", help="default: every layer")
    group.add_argument("--view", help="leaf, component, block or stage (default: leaf)")
    group.add_argument("--norms", help="own, with or kept: normalisation layers (default: own)")
    group.add_argument("--epochs", type=int, nargs="+", metavar="EPOCH", help="default: all")
    group.add_argument(
        "--perturbations", nargs="+", metavar="NAME",
        help="such as zero or 'noise(0.1)' (default: reinitialize rerandomize)",
    )  # fmt: skip
    group.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="default: error loss, for text perplexity too"
    )
    group.add_argument("--draws", type=int, help="random draws (default: 3)")
    group.add_argument("--seed", type=int, help="of the random draws (default: 0)")
    group.add_argument("--batch-size", type=int, help="default: 1000; as trained for text")
    group.add_argument("--dtype", help="bfloat16 or float16 to compute in a shorter type")
    group.add_argument(
        "--decide", nargs="?", type=float, const=True, metavar="LIMIT",
        help="stop a cell once its layer is settled to be robust or critical",
    )  # fmt: skip
    group.add_argument("--tolerance", type=float, help="stop a cell at intervals no wider")
    group.add_argument("--outcomes", action="store_true", default=None, help="keep every example's")
    group.add_argument(
        "--no-whole", dest="whole", action="store_false", default=None, help="no row fullmodel"
    )


_SWEEP = (
    *("layers", "view", "norms", "epochs", "perturbations", "metrics", "draws", "seed"),
    *("batch_size", "dtype", "decide", "tolerance", "outcomes", "whole"),
)


def sweep_options(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `engine.sweep` that were given."""
    return {name: getattr(options, name) for name in _SWEEP if getattr(options, name) is not None}


def given(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """Turn ``NAME=VALUE`` into values by name."""
    return dict(pair(text, flag) for text in texts)


def pair(text: str, flag: str) -> tuple[str, Any]:
    """Turn ``NAME=VALUE`` into a name and what Python reads the value as, else a string.

    Raises
    ------
    OptionError
        If there is no value.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"{flag} {text!r} has no value; write {flag} name=value.")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value


def data_of(
    series: Any, name: str | None, root: str | None, options: Mapping[str, Any] | None = None
) -> Any:
    """Load what a series was trained on, or what is named, in the series' own tokens.

    Raises
    ------
    DataError
        If no other data are named and these are no longer what it was trained on, or texts are
        not in the tokens that the network knows.
    """
    from layerscope.zoo import data, training

    about, more = series.manifest.get("data", {}), dict(options or {})
    kept = series.folder / training.TOKENIZER
    if kept.is_file():
        more.setdefault("tokenizer", kept)
    known = name or about.get("name")
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


def _placeholder(kind: Any) -> str:
    return "NAME" if kind is str else "N" if kind is int else "X"
