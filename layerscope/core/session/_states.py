"""Changes of layers, as a user writes them and as the engine takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from layerscope import results
from layerscope.base.validate import describe
from layerscope.core import perturb
from layerscope.core.perturb import Perturbation
from layerscope.errors import OptionError
from layerscope.results import NO_EPOCH, PerturbationInfo

__all__ = ["TRAINED", "Change", "changes"]

TRAINED = "trained"
"""What a layer is to which nothing is done."""


@dataclass(frozen=True)
class Change:
    """A change of one row.

    Parameters
    ----------
    perturbation : str
        Its name, such as ``"reinitialize"``, ``"rerandomize"``, ``"zero"``, ``"skip"`` or
        ``"noise(0.1)"``.
    epoch : int
        The checkpoint that it takes values from; `results.NO_EPOCH` where it takes none.
    draw : int
        Which random draw, the same as that of a sweep with the same seed.
    kind : Perturbation, optional
        The perturbation itself, where it is one of the user's own.
    info : PerturbationInfo, optional
        What is known of it; by default what `kind` says, or its name.
    """

    perturbation: str
    epoch: int = NO_EPOCH
    draw: int = 0
    kind: Perturbation | None = field(default=None, repr=False, compare=False)
    info: PerturbationInfo | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, given: Any) -> Change | None:
        """Read a change as users write it; None for ``"trained"``.

        Raises
        ------
        OptionError
            If it is none of ``"trained"``, ``"zero"``, ``"skip"``, ``("reinitialize", 3)``,
            ``"rerandomize"`` or ``("rerandomize", 1)``, or the like; instead of the name may
            stand a `Perturbation` of one's own.

        Examples
        --------
        >>> Change.of(("reinitialize", 0))
        Change(perturbation='reinitialize', epoch=0, draw=0)
        >>> Change.of("rerandomize").plain
        'rerandomize'
        """
        if isinstance(given, Change) or given in (None, TRAINED):
            return given if isinstance(given, Change) else None
        name, *numbers = given if isinstance(given, (tuple, list)) and given else (given,)
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in numbers)
        if not isinstance(name, (str, Perturbation)) or len(numbers) > 1 or not whole:
            raise OptionError(
                f"{describe(given)} says nothing that can be done to a layer; give 'trained', "
                "'zero', 'skip', ('reinitialize', epoch) or ('rerandomize', draw)."
            )
        (kind,) = perturb.parse(name)
        own = None if isinstance(name, str) else kind
        number = int(numbers[0]) if numbers else None
        if kind.uses_checkpoint:
            if number is None:
                called = repr(name if own is None else own.name)
                raise OptionError(f"{called} needs an epoch: write ({called}, 0), for example.")
            return cls(kind.name, number, kind=own, info=kind.info)
        if number is not None and (number < 0 or not kind.stochastic):
            raise OptionError(f"{given!r} has a number that {name!r} can't use; leave it out.")
        return cls(kind.name, draw=number or 0, kind=own, info=kind.info)

    @property
    def plain(self) -> str | tuple[str, int]:
        """As a user writes it."""
        if self.epoch != NO_EPOCH:
            return self.perturbation, self.epoch
        return (self.perturbation, self.draw) if self.draw else self.perturbation

    @property
    def words(self) -> str:
        """In words, such as ``"checkpoint 3"``."""
        if self.about.resets:
            return "initial" if self.epoch == 0 else f"checkpoint {self.epoch}"
        words = self.about.words_at(self.epoch)
        return f"{words}, draw {self.draw}" if self.draw else words

    @property
    def about(self) -> PerturbationInfo:
        """Facts of the perturbation."""
        if self.kind is not None:
            return self.kind.info
        return self.info or results.perturbation(None, self.perturbation)


def changes(state: Mapping[str, Any]) -> dict[str, Change]:
    """Read what is done to each row, those left out to which nothing is.

    Examples
    --------
    >>> changes({"layer1": "trained", "layer2": "zero"})
    {'layer2': Change(perturbation='zero', epoch=-1, draw=0)}
    """
    if not isinstance(state, Mapping):
        raise OptionError(
            f"the state is {describe(state)}; give a mapping from rows to what is done to them, "
            "such as {'layer1': 'zero'}."
        )
    read = {row: Change.of(given) for row, given in state.items()}
    return {row: change for row, change in read.items() if change is not None}
