"""What an experiment is, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Experiment", "Scale"]


@dataclass(frozen=True)
class Scale:
    """An experiment at one size.

    Parameters
    ----------
    parameters : mapping
        Of the notebook, where they differ from its own defaults.
    data : str
        The data set it runs on.
    expected : str
        How long it takes, in words, and on what.
    minutes : float
        The same as a number, for plans: on two cores, or for ``paper`` an estimate for the GPU
        that `expected` names.
    """

    parameters: Mapping[str, Any]
    data: str
    expected: str
    minutes: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Parameters
    ----------
    name, title : str
    shown_in : str
        Where the paper shows it.
    notebook : str
        File name in ``notebooks/``.
    networks : tuple of str
        Of the paper.
    scales : mapping of str to Scale
    """

    name: str
    title: str
    shown_in: str
    notebook: str
    networks: tuple[str, ...]
    scales: Mapping[str, Scale]
