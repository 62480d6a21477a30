"""Readers of what is typed: parameters of a notebook, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from layerscope import plots, results, testing
from layerscope.cli import main
from layerscope.errors import LayerscopeError
from layerscope.paper import reproduce
from malformed._case import CANARY, Case, Reader
from malformed._spoiling import DEEP, replaced

__all__ = ["READERS"]

_ARGUMENTS = "arguments.json"


def _call(folder: Path) -> Any:
    """Call the command line; its own errors, which it prints, are raised."""
    arguments = json.loads((folder / _ARGUMENTS).read_text())
    said, failed = io.StringIO(), io.StringIO()
    inside = contextlib.chdir(folder)
    with inside, contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    told = failed.getvalue().rpartition("\r")[2]  # after what progress there was
    if status and told.lstrip().startswith("layerscope:"):
        raise LayerscopeError(told)
    if status:
        raise RuntimeError(f"status {status}: {told}")
    return "done"


def _given(how: str, arguments: Sequence[str], *names: str) -> Case:
    """Make a case of arguments; its error must repeat one, the name in one, or one of `names`."""
    content = json.dumps(list(arguments)).encode()
    typed = arguments[1:] or arguments
    # A long argument may be shortened.
    told = [each[:40] for each in (*typed, *names)]
    plain = [*told, *(ascii(each)[1:-1] for each in told)]
    quoted = [repr(each) for word in told for each in (word, word.partition("=")[0].strip())]
    # A single letter stands in any message, if not in quotes.
    seen = [each for each in (*plain, *quoted) if len(each) > 1 and each != "''"]
    return Case(how, replaced(_ARGUMENTS, content), tuple(seen))


def _values(folder: Path) -> dict[str, str]:
    touch = f"open({str(folder.parent / CANARY)!r}, 'w')"
    return {
        "nested deeply": "[" * DEEP,
        "nested deeply and closed": "[" * 5000 + "]" * 5000,
        "a tuple nested a hundred times": "(" * 150 + ")" * 150,
        "a number of 5,000 digits": "9" * 5000,
        "a power": "9**9**9",
        "a product": "'x' * 10**10",
        "minuses": "-" * 50_000 + "1",
        "a sum without end": "1" + "+1" * 50_000,
        "a call": touch,
        "an import": f"__import__('os').system('touch {folder.parent / CANARY}')",
        "a lambda": f"(lambda: {touch})()",
        "an f-string": "f'{" + touch + "}'",
        "NUL": "a\0b",
        "half a surrogate": "\ud800",
        "300 letters": "x" * 300,
        "a million letters": "x" * 10**6,
        "nothing": "",
        "no number": "nan",
        "infinity": "1e999",
        "minus infinity": "-1e999",
        "zero": "0",
        "minus one": "-1",
        "a fraction": "0.5",
        "True": "True",
        "None": "None",
        "a list": "[1]",
        "a mapping": "{'a': 1}",
        "a mapping with a list for a key": "{[]: 1}",
        "a path that leads out": "../../../etc/passwd",
        "a path": "/etc/passwd",
        "a script": "<script>alert(1)</script>",
        "a line break": "a\nb",
        "a command": "$(touch x); `touch x` | touch x",
        "a complex number": "1j",
        "bytes": "b'a'",
        "2 to the 63rd": str(2**63),
        "ten to the 30th": "10" + "0" * 29,
        "blanks": "   ",
        "an open quote": "'a",
        "an indent": "  1",
    }


def _build_parameters(folder: Path) -> None:
    (folder / _ARGUMENTS).write_text(json.dumps(["reproduce", "fcn-mnist", "--scale", "smoke"]))


def _reproduce(folder: Path) -> Any:
    """Everything but the run itself."""
    ran = {"seconds": 1.0, "files": [], "summary": None}
    with mock.patch.object(reproduce, "_execute", return_value=ran):
        return _call(folder)


def _parameter_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    begin = ["reproduce", "fcn-mnist", "--scale", "smoke"]
    names = ("network", "epochs", "lr", "seeds", "draws", "dataset", "initializer")
    values = _values(folder)
    for how, value in values.items():
        for name in chance.sample(names, min(len(names), max(2, each // 2))):
            yield _given(f"{name} is {how}", [*begin, "-p", f"{name}={value}"], name, value)
        yield _given(f"a parameter called {how}", [*begin, "-p", f"{value}=1"])
    for text in ("", "=", "=1", "epochs", "epochs=", "epochs==1", "__class__=1", "out=x", "a.b=1"):
        yield _given(f"{text!r}", [*begin, "-p", text], text.partition("=")[0], "-p ")


def _build_line(folder: Path) -> None:
    results.save(testing.dataset(layers=3, epochs=(0, 1, 8), draws=2), folder / "sweep.nc")
    (folder / _ARGUMENTS).write_text(json.dumps(["show", "sweep.nc"]))


def _without_figures(folder: Path) -> Any:
    """Everything but the figures of a report, which take seconds whatever the arguments are."""
    with mock.patch.object(plots, "embed", return_value=""):
        return _call(folder)


_COMMANDS: dict[str, list[list[str]]] = {
    "show": [["VALUE"], ["sweep.nc", "--metric", "VALUE"]],
    "report": [["VALUE"], ["sweep.nc", "--metric", "VALUE"], ["sweep.nc", "-o", "VALUE"]],
    "gallery": [["VALUE"], [".", "-o", "VALUE"]],
    "sweep": [["VALUE"], ["VALUE", "--data", "VALUE"]],
    "train": [["VALUE"], ["fcn-1x8", "--data", "VALUE"], ["fcn-1x8", "--option", "VALUE"],
              ["fcn-1x8", "--epochs", "VALUE"], ["fcn-1x8", "--option", "dropout=VALUE"]],
    "reproduce": [["VALUE"], ["fcn-mnist", "--scale", "VALUE"], ["fcn-mnist", "--seeds", "VALUE"],
                  ["fcn-mnist", "--device", "VALUE"]],
    "checkpoints": [["VALUE"]],
    "export": [["VALUE", "out"]],
    "VALUE": [[]],
}  # fmt: skip


def _line_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    os.mkfifo(folder.parent / "pipe") if not (folder.parent / "pipe").exists() else None
    values = _values(folder) | {
        "a pipe": "../pipe", "a folder": ".", "a device": "/dev/zero", "a name of the hub": "a/b@c",
        "a revision that leads out": "a/b@../../c", "an option": "--help-me", "a scheme": "file:///etc",
    }  # fmt: skip
    # What is of a right form would train for minutes.
    long = {"zero", "True", "a fraction"}
    lines = [[command, *rest] for command, all_of in _COMMANDS.items() for rest in all_of]
    for line in lines:
        for how in chance.sample(
            sorted(set(values) - long), min(len(values) - len(long), 3 * each)
        ):
            arguments = [word.replace("VALUE", values[how]) for word in line]
            yield _given(f"{' '.join(line)}: {how}", arguments, *line)


READERS = (
    Reader("parameters (-p)", _build_parameters, _reproduce, _parameter_cases),
    Reader("command line", _build_line, _without_figures, _line_cases),
)
