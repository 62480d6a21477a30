"""The experiments, read from their notebooks: each declares its own scales.

A notebook with a cell tagged ``scales`` is an experiment, and its name is that of the file:
``01_fcn_mnist.ipynb`` is ``fcn-mnist``. The cell assigns literals to these names:

title
    The question.
question
    That which several experiments ask together, for the gallery.
scales
    Parameters by scale, where they differ from the notebook's own defaults.
minutes, hints
    By scale, how long it takes, and in words what that is said of. On two cores for ``smoke`` and
    ``small``; for ``paper`` mostly an estimate for one NVIDIA A100 at 30 % of its TF32 speed, for
    all seeds, by ``benchmarks/cost.py``.
shown_in, paper_networks
    Where the paper shows it, and of which networks.
same_as
    Beginnings of the notebook's SHA-256 before changes that left alone what it computes, such as
    a renamed function: runs that were made with it stay finished.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from layerscope.base import files, notebooks, validate
from layerscope.errors import OptionError, ResultError, choose

__all__ = ["EXPERIMENTS", "SCALES", "Experiment", "Scale", "find"]

SCALES = ("smoke", "small", "paper")
_SUFFIX = ".ipynb"
_EMPTY: dict[str, Any] = {
    "title": "",
    "question": "",
    "scales": {},
    "minutes": {},
    "hints": {},
    "shown_in": "",
    "paper_networks": [],
    "same_as": [],
}


@dataclass(frozen=True)
class Scale:
    """An experiment at one size.

    Parameters
    ----------
    parameters : mapping
        Of the notebook, where they differ from its own defaults.
    data : str
        The data set it runs on; empty where the notebook has no parameter ``dataset``.
    minutes : float
        How long it takes; 0 where nobody has said.
    hint : str
        What `minutes` is said of, in words.
    """

    parameters: Mapping[str, Any]
    data: str = ""
    minutes: float = 0.0
    hint: str = ""

    @property
    def expected(self) -> str:
        """Time that it takes, in words."""
        return ", ".join(filter(None, (_time(self.minutes) if self.minutes else "", self.hint)))


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Parameters
    ----------
    name, title : str
    notebook : Path
    scales : mapping of str to Scale
    shown_in : str
        Where the paper shows it.
    networks : tuple of str
        Of the paper.
    same_as : tuple of str
        SHA-256 of earlier forms of the notebook that compute the same.
    question : str
        That which several experiments ask together.
    """

    name: str
    title: str
    notebook: Path
    scales: Mapping[str, Scale]
    shown_in: str = ""
    networks: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()
    question: str = ""


_WHAT = "what an experiment declares, such as minutes = {'small': 1}"


class _Declared(files.Schema):
    title: str
    scales: dict[str, dict[str, Any]]
    minutes: dict[str, float] = msgspec.field(default_factory=dict)
    hints: dict[str, str] = msgspec.field(default_factory=dict)
    question: str = ""
    shown_in: str = ""
    paper_networks: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()


class _Catalogue(Mapping[str, Experiment]):
    """Experiments by name, in the order of their files, read when they are asked for."""

    def __getitem__(self, name: str) -> Experiment:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Experiment]:
        found: dict[str, Experiment] = {}
        for path in sorted(notebooks.folder().glob(f"*{_SUFFIX}")):
            experiment = _read(path, _modified(path))
            if experiment is None:
                continue
            if experiment.name in found:
                raise ResultError(
                    f"{found[experiment.name].notebook} and {path} are both called "
                    f"{experiment.name}; rename one."
                )
            found[experiment.name] = experiment
        return found


EXPERIMENTS: Mapping[str, Experiment] = _Catalogue()
"""Every experiment by name: a notebook that is added to the folder is one at once."""


def find(name: str | os.PathLike[str]) -> Experiment:
    """Find an experiment by its name, or by the path of its notebook.

    Raises
    ------
    OptionError
        If there is none, or the notebook at the path has the name of another experiment.
    ResultError
        If the notebook has no cell tagged ``scales``, or what it declares does not fit.
    """
    if not os.fspath(name).endswith(_SUFFIX):
        return EXPERIMENTS[choose(os.fspath(name), EXPERIMENTS, "experiment")]
    path = validate.expand(name)
    there = files.is_file(path)
    experiment = _read(path, _modified(path)) if there else None
    if experiment is None:
        what = f"has no cell tagged {notebooks.SCALES!r}" if there else "is no file"
        raise ResultError(f"{path} {what}; CONTRIBUTING.md shows how a notebook is an experiment.")
    known = EXPERIMENTS.get(experiment.name)
    if known and not known.notebook.samefile(path):
        raise OptionError(
            f"{path} would take the place of the experiment {known.name}; give the file another "
            "name."
        )
    return experiment


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if files.is_file(path) else 0


@lru_cache(256)
def _read(path: Path, _modified: int) -> Experiment | None:
    """Read one notebook, again where it was modified; None where it is no experiment."""
    given = notebooks.declared(path, notebooks.SCALES)
    if given is None:
        return None
    declared = notebooks.parameters(path)
    _check(given, declared, path)
    about = _EMPTY | given
    return Experiment(
        name=re.sub(r"^\d+[a-z]?_", "", path.stem).replace("_", "-"),
        title=about["title"],
        question=about["question"],
        notebook=path,
        scales={
            scale: Scale(
                parameters,
                (declared | parameters).get("dataset") or "",
                about["minutes"].get(scale, 0.0),
                about["hints"].get(scale, ""),
            )
            for scale, parameters in about["scales"].items()
        },
        shown_in=about["shown_in"],
        networks=tuple(about["paper_networks"]),
        same_as=tuple(about["same_as"]),
    )


def _check(given: Mapping[str, Any], declared: Mapping[str, Any], path: Path) -> None:
    where = f"the cell tagged {notebooks.SCALES!r} of {path}"
    for name, value in given.items():
        kind = type(_EMPTY[choose(name, _EMPTY, f"entry of {where} called")])
        if not isinstance(value, kind):
            raise ResultError(f"{where}: {name} is {value!r}; expected {kind.__name__}.")
        if name in declared:
            raise ResultError(f"{where} assigns {name}, which is a parameter; rename that.")
    if not given.get("title") or not given.get("scales"):
        raise ResultError(f"{where} needs a title and scales, such as {{'smoke': {{}}}}.")
    for scale, parameters in given["scales"].items():
        choose(scale, SCALES, f"scale, for {path},")
        if not isinstance(parameters, dict):
            raise ResultError(f"{where}: scale {scale} is {parameters!r}; expected dict.")
        for name in parameters:
            choose(name, declared, f"parameter of {path} called")
    for name in ("minutes", "hints"):
        for scale in given.get(name, ()):
            choose(scale, given["scales"], f"scale, for {name} in {path},")
    files.fit_schema(given, _Declared, where=where, error=ResultError, what=_WHAT)
    for scale, parameters in given["scales"].items():
        name = (declared | parameters).get("dataset")
        if not isinstance(name, (str, type(None))):
            raise ResultError(f"{where}: dataset of scale {scale} is {name!r}; expected a name.")


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    if minutes < 60:
        return f"{minutes:g} min"
    return f"{minutes / 60:.2g} h" if minutes < 2 * 1440 else f"{minutes / 1440:.0f} days"
