"""The command line: thin, and quick to say what it can do."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerscope._version import __version__
from layerscope.cli import (
    _auditing as auditing,
    _exporting as exporting,
    _listing as listing,
    _reproducing as reproducing,
    _showing as showing,
    _sweeping as sweeping,
)
from layerscope.errors import LayerscopeError, SweepWarning

__all__ = ["main"]

_COMMANDS = (
    listing.add_experiments,
    listing.add_models,
    listing.add_data,
    sweeping.add_train,
    auditing.add_checkpoints,
    sweeping.add_sweep,
    exporting.add_prune,
    exporting.add_export,
    showing.add_show_result,
    showing.add_report,
    sweeping.add_explore,
    reproducing.add_reproduce,
    reproducing.add_judge,
    reproducing.add_gallery,
)


TRACEBACK = "LAYERSCOPE_TRACEBACK"
"""Environment variable that has an unforeseen error printed with where it came from."""

EXAMPLES = {
    "experiments": "layerscope experiments",
    "models": "layerscope models",
    "data": "layerscope data mnist-5k",
    "train": "layerscope train fcn-3x256 --data mnist-5k --epochs 10",
    "checkpoints": "layerscope checkpoints series/fcn-3x256",
    "sweep": "layerscope sweep series/fcn-3x256 --perturbations reinitialize rerandomize",
    "prune": "layerscope prune HuggingFaceTB/SmolLM2-135M@main --data ./text.txt --blocks 4",
    "export": "layerscope export HuggingFaceTB/SmolLM2-135M@main smaller --without 20-24",
    "show": "layerscope show series/fcn-3x256/sweep --relative damage --png figure.pdf",
    "report": "layerscope report series/fcn-3x256/sweep -o report.html",
    "explore": "layerscope explore series/fcn-3x256",
    "reproduce": "layerscope reproduce fcn_mnist --scale smoke",
    "judge": "layerscope judge papermill_runs/fcn-mnist/paper",
    "gallery": "layerscope gallery papermill_runs",
}
"""What may be typed, of every command."""

_TELL_WIDTH = 76
_LONGEST = 300  # characters of such an error


def main(command: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0; 1 for an error with its message; 3 where an audit found faults; 130 for Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(command)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        with _notices_as_lines():
            status: int | None = options.run(options)
    except LayerscopeError as error:
        for said in (error, *getattr(error, "__notes__", ())):
            _say(str(said))
        return 1
    except KeyboardInterrupt as stop:
        for note in getattr(stop, "__notes__", ["stopped; what is finished is kept."]):
            print(f"layerscope: {note}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as head, has seen enough.
        sys.stderr.close()
        return 0
    except Exception as error:  # noqa: BLE001 - of a bug of ours, or of what nobody thought of
        return _tell_unforeseen(error)
    return status or 0


def _tell_unforeseen(error: Exception) -> int:
    """Tell of an error that is none of ours in one message; all of it to who asks."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        said = "there is not enough memory for this"
    else:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"
    _say(
        f"{said}. Nobody thought of this: please report it, with what {TRACEBACK}=1 layerscope … "
        "prints."
    )
    return 1


def _say(message: str) -> None:
    """Print a message, also where it holds the name of a file that is not UTF-8."""
    plain = message.encode(errors="backslashreplace").decode()
    print(f"layerscope: {plain}", file=sys.stderr)


@contextmanager
def _notices_as_lines() -> Iterator[None]:
    """Show what a sweep has to say as a line, without the place in the code that said it."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def line(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, SweepWarning):
                print(f"layerscope: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = line
        # However often the same was said before in this process.
        warnings.simplefilter("always", SweepWarning)
        yield


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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    for name, example in EXAMPLES.items():
        if name in commands.choices:
            _explain(commands, name, example)
    return parser


def _explain(commands: Any, name: str, example: str) -> None:
    """Give the help of a command a sentence above its options, and an example below them."""
    parser = commands.choices[name]
    (said,) = (each.help for each in commands._choices_actions if each.dest == name)
    parser.description = parser.description or f"{said[0].upper()}{said[1:]}."
    # As it stands: an example that is wrapped can't be copied.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    lines = (parser.epilog or "").splitlines()
    told = "\n".join(textwrap.fill(line, _TELL_WIDTH) for line in lines)
    parser.epilog = "\n\n".join(filter(None, [told, f"example:\n  {example}"]))
