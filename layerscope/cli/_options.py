"""Options of commands, made from the arguments of the functions that they call.

An argument that is added to `sweep`, `train` or `Recipe` is an option without further ado, with the
name, the default and the words that it has there.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerscope.base import literals
from layerscope.cli._signature import Argument, arguments
from layerscope.errors import OptionError

__all__ = [
    "EXPORT",
    "HEATMAP",
    "PRUNE",
    "PRUNE_SWEEP",
    "RECIPE",
    "SWEEP",
    "TRAIN",
    "Function",
    "add",
    "assignments",
    "get",
    "parse",
]


@dataclass(frozen=True)
class Function:
    """A function, or dataclass, that a command calls with its options.

    Attributes
    ----------
    room, name : str
        Where `arguments` finds it.
    without : mapping of str to str
        The arguments that are no option, and why.
    defaults : mapping of str to str
        What an option is by default where that is not the default of the function.
    """

    room: str
    name: str
    without: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Argument]:
        """List the arguments that are options."""
        found = arguments(self.room, self.name)
        return {name: each for name, each in found.items() if name not in self.without}


SWEEP = Function(
    "core/sweep",
    "sweep",
    without={
        "model": "built as the series' manifest says",
        "checkpoints": "the series itself, which comes without a flag",
        "data": "a name, and by default what the series was trained on: --data",
        "out": "never None, or the result would be lost; by default in the series: --out",
        "callback": "for programs that go on while the sweep runs",
        "between": "for programs that go on while the sweep runs",
        "client": "a connection, which a text stands for: --dask",
    },
    # So many texts or large pictures at once are more than most machines hold, and here it is
    # known what the network was trained in.
    defaults={"batch_size": "1000; texts and large pictures as they were trained in"},
)

TRAIN = Function(
    "zoo/training",
    "train",
    without={
        "network": "a name, which comes without a flag",
        "data": "a name, with a default: --data",
        "recipe": "its fields are options themselves",
        "out": "has a default: --out",
    },
)

RECIPE = Function("zoo/training", "Recipe")

HEATMAP = Function(
    "plots",
    "heatmap",
    without={
        "ds": "the result, which comes without a flag",
        "metric": "of the table as well: --metric",
    },
)

PRUNE = Function(
    "core/pruning",
    "prune",
    without={
        "model": "a name, which comes without a flag",
        "data": "a name: --data",
        "out": "has a default: --out",
        "show_progress": "as that of the sweeps",
    },
)

PRUNE_SWEEP = Function(
    "core/sweep",
    "sweep",
    without=dict(SWEEP.without)
    | dict.fromkeys(
        ("layers", "view", "perturbations", "whole", "decide", "tolerance", "model_epochs"),
        "set by prune itself",
    )
    | dict.fromkeys(
        ("draws", "seed", "fresh", "epochs", "measures"), "of no use where blocks are skipped"
    )
    | {"outcomes": "kept of no step", "plan": "there is a sweep for each step"},
    defaults=SWEEP.defaults,
)

EXPORT = Function(
    "core/export",
    "export",
    without={
        "model": "a name, which comes without a flag",
        "folder": "comes without a flag",
        "without": "by name, or a result: --without, --result",
        "data": "a name: --data",
        "checkpoints": "the series itself",
        "tokenizer": "that of the network",
    },
    defaults={"batch_size": "as the network was trained in, or 8 texts"},
)

_IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
"""A metric, perturbation or function of the user's own: ``module:name``."""

_TYPES = {"int": int, "float": float}
_PLACES = {"int": "N", "float": "X"}


def add(parser: argparse.ArgumentParser, function: Function) -> None:
    """Add the options of a function.

    One that is not given leaves nothing behind, so that the function's own default holds.
    """
    group = parser.add_argument_group(f"arguments of layerscope.{function.name}")
    for name, argument in function.options().items():
        told = replace(argument, default=function.defaults.get(name, argument.default))
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, default=argparse.SUPPRESS, help=_help(told), **_how(told))


def get(options: argparse.Namespace, function: Function) -> dict[str, Any]:
    """Give the arguments of a function that came on the command line, by name."""
    return {
        name: _as_python(argument, vars(options)[name])
        for name, argument in function.options().items()
        if name in options
    }


def parse(text: str) -> Any:
    """Read a text as Python does, as a text itself where it is no plain value.

    Examples
    --------
    >>> parse("0.1"), parse("block"), parse("{'robust': 0.1}")
    (0.1, 'block', {'robust': 0.1})
    """
    try:
        return literals.read(text)
    except ValueError:
        return text


def assignments(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """Turn texts ``NAME=VALUE`` into values by name.

    Raises
    ------
    OptionError
        If one has no name or no value.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"{flag} {text!r} has no value; write {flag} name=value.")
        if not name.strip():
            raise OptionError(f"{flag} {text!r} names nothing; write {flag} name=value.")
        found[name.strip()] = parse(value)
    return found


def _how(argument: Argument) -> dict[str, Any]:
    """Say how argparse reads an argument, by its type in the docstring."""
    kind = argument.kind.removesuffix(", optional")
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction}
    if repeated := re.match(r"(?:sequence|tuple) of (\w+)( or str)?", kind):
        # Numbers and names: each may be either.
        each = "str" if repeated[2] else repeated[1]
        read = _TYPES.get(each, _text_or_mapping if "mapping" in kind else str)
        return {"nargs": "+", "type": read, "metavar": _PLACES.get(each, "NAME")}
    if kind in _TYPES:
        return {"type": _TYPES[kind], "metavar": _PLACES[kind]}
    if kind.startswith("bool"):
        return {"nargs": "?", "const": True, "type": parse, "metavar": "VALUE"}
    texts = kind.startswith(("str or", "path")) or kind == "str"
    return {"type": str if texts else parse, "metavar": "NAME" if texts else "VALUE"}


def _text_or_mapping(text: str) -> Any:
    # Names such as "0" stay texts.
    return value if isinstance(value := parse(text), dict) else text


def _as_python(argument: Argument, value: Any) -> Any:
    """Give what came in several texts as the function takes it: a mapping, tuple or list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0]
    if _takes_objects(argument):
        return [_imported(each) for each in value] if isinstance(value, list) else _imported(value)
    return tuple(value) if argument.kind.startswith("tuple") else value


def _imported(value: Any) -> Any:
    own = isinstance(value, str) and _IMPORTABLE.fullmatch(value)
    return _your_own(value) if own else value


def _takes_objects(argument: Argument) -> bool:
    return any(kind in argument.kind for kind in ("Metric", "Measure", "Perturbation", "callable"))


def _your_own(text: str) -> Any:
    """Import what stands in a module of the user's, in this folder or installed.

    Raises
    ------
    OptionError
        If there is no such module, or nothing of that name in it.
    """
    module, _, name = text.partition(":")
    # A command finds what is installed; `python -m` and notebooks look in this folder first.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"{text} can't be imported ({error}); give a module and what is defined there, such "
            "as mine:margin for margin in mine.py in this folder."
        ) from None


def _help(argument: Argument) -> str:
    """Say in one sentence what an argument does, and what it is by default."""
    first, *others = re.split(r"(?<=[\w`)])\. (?=[A-Z])", argument.words.removesuffix("."))
    said = [first, *(each for each in others if each.startswith("By default"))]
    choices = re.match(r"\{(.*)\}", argument.kind)
    notes = [choices[1].replace('"', "")] if choices else []
    notes += ["your own: module:name"] if _takes_objects(argument) else []
    if argument.default not in (None, "None"):
        notes.append(f"default: {_plain(str(argument.default))}")
    text = ". ".join(said) + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("`", "").strip().replace("%", "%%")


def _plain(default: str) -> str:
    """Write a default as it would be given on the command line."""
    value = parse(default)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
