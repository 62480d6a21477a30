"""The protocol of a perturbation, and what it may look at."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from layerscope.base import seeds
from layerscope.base.copies import copy_modules, copy_tensors, uncopied
from layerscope.base.fingerprints import fingerprint
from layerscope.base.tensors import owner_name
from layerscope.core.layers import ROOT, Layer
from layerscope.core.running import Route
from layerscope.errors import LayerError, OptionError
from layerscope.results import PerturbationInfo

__all__ = ["Perturbation", "Site"]

_UNSAID: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Site:
    """The view that a perturbation has of a layer.

    In a sweep these are copies, so that it may work in place.

    Attributes
    ----------
    layer : Layer
    trained : mapping of str to Tensor
        The layer's tensors in the trained network, by dotted name.
    checkpoint : mapping of str to Tensor, or None
        The same at the chosen epoch, for perturbations that use one.
    fresh : callable
        Draws the layer anew from the distribution that it was initialised from.
    generator : torch.Generator
        The only source of chance, seeded by sweep seed, layer, perturbation and draw.
    modules : mapping of str to nn.Module
        The modules that hold the layer's tensors, by dotted name (the network itself by ``""``),
        to be asked what they are. The values are in `trained`, not in them.
    """

    layer: Layer
    trained: Mapping[str, Tensor]
    checkpoint: Mapping[str, Tensor] | None
    fresh: Callable[[Layer, Generator], dict[str, Tensor]]
    generator: Generator
    modules: Mapping[str, nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class Perturbation:
    """A named function on one layer's tensors.

    Parameters
    ----------
    name : str
        Its label along the dimension ``perturbation``.
    apply : callable
        Takes a `Site`, returns tensors by name; those left out keep their trained values.
    uses_checkpoint : bool
        True where there is one result per epoch.
    stochastic : bool
        True where there is one result per draw.
    settings : mapping, optional
        Everything that the values depend on besides the site, as plain values that JSON can hold;
        recorded with a run, which goes on only with the same. By default a digest of the code of
        `apply`, so that a function which was edited meanwhile is noticed.
    routes : callable, optional
        Takes a `Layer` and the only source of chance, a ``torch.Generator``; returns, by the name
        of the module that stands at a place, the route that is gone there instead: a tuple of
        branches, whose results are averaged, each a tuple of names of blocks that run one after
        the other on the hidden states. ``((),)`` hands on the hidden states, ``()`` gives zeros,
        ``(("b", "b"),)`` runs the block ``b`` twice.
    parts : tuple of Perturbation
        Those that it joins, in their order; `then` fills it in.
    redraws : bool
        True where all of a layer's values are drawn anew, so that nothing is left of the trained
        ones nor of a checkpoint: the Dataset says how far each draw is from the first checkpoint.
    label : str, optional
        What a layer is after it, in words such as "re-randomised"; by default "perturbed by" and
        the name. ``{epoch}`` stands for the checkpoint.
    column : str, optional
        Its column in figures and tables; by default the name, with the epoch where there is one.
    sign : str, optional
        A layer's mark in the explorer, one or two characters.
    towards : str, optional
        On the straight line to what other values it puts the layer, if it does: a name for the
        other network, or ``"checkpoint"``.
    alpha : float
        How far on that line, 0 at the trained values and 1 at the others.

    Raises
    ------
    OptionError
        If it `redraws` without being `stochastic`, or with `uses_checkpoint`.

    Examples
    --------
    >>> halve = Perturbation("halve", lambda site: {n: t / 2 for n, t in site.trained.items()})
    >>> list(halve.settings)
    ['code']
    >>> halve.then(halve).name
    'halve+halve'
    """

    name: str
    apply: Callable[[Site], Mapping[str, Tensor]]
    uses_checkpoint: bool = False
    stochastic: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: _UNSAID)
    routes: Callable[[Layer, Generator], Mapping[str, Route]] | None = None
    parts: tuple[Perturbation, ...] = field(default=(), repr=False, compare=False)
    redraws: bool = False
    label: str = ""
    column: str = ""
    sign: str = ""
    towards: str = ""
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.redraws and (self.uses_checkpoint or not self.stochastic):
            raise OptionError(
                f"the perturbation {self.name!r} redraws a layer, so it must be stochastic and "
                "use no checkpoint; say stochastic=True, or leave redraws= out."
            )
        if self.settings is _UNSAID:
            # What the Dataset says of it as well, for that goes on only with the same, too.
            said = (self.label, self.column, self.sign, self.stochastic, self.redraws)
            code = fingerprint((self.apply, self.uses_checkpoint, *said))
            object.__setattr__(self, "settings", {"code": code})

    @property
    def info(self) -> PerturbationInfo:
        """Facts of the perturbation that a Dataset keeps."""
        said = (self.label, self.column, self.sign)
        return PerturbationInfo(
            self.name,
            *said,
            self.stochastic,
            self.redraws,
            self.uses_checkpoint,
            self.towards,
            self.alpha,
        )

    def then(self, other: Perturbation) -> Perturbation:
        """Do this, then `other` to what this gave: `other` sees it as ``site.trained``.

        Its name is both names with a plus, as in ``"reinitialize+noise(0.1)"``. Each part draws
        from a stream of its own, so that the others draw the same whatever stands beside them.
        """
        parts = (*(self.parts or (self,)), *(other.parts or (other,)))
        uses_checkpoint = any(part.uses_checkpoint for part in parts)
        return Perturbation(
            name="+".join(part.name for part in parts),
            apply=lambda site: _in_turn(parts, site),
            uses_checkpoint=uses_checkpoint,
            stochastic=any(part.stochastic for part in parts),
            redraws=any(part.redraws for part in parts) and not uses_checkpoint,
            settings={"parts": [[part.name, dict(part.settings)] for part in parts]},
            routes=(lambda layer, chance: routes_in_turn(parts, layer, chance))
            if any(part.routes for part in parts)
            else None,
            parts=parts,
        )


def routes_in_turn(
    parts: Sequence[Perturbation], layer: Layer, chance: Generator
) -> dict[str, Route]:
    """Gather the routes of perturbations that are done one after the other.

    Raises
    ------
    LayerError
        If two of them say different things about one place.
    """
    base = int(torch.randint(2**62, (), generator=chance))
    found: dict[str, Route] = {}
    for part, purpose in _purposes(parts):
        if part.routes:
            join_routes(found, part.routes(layer, seeds.generator(base, part.name, purpose)))
    return found


def join_routes(known: dict[str, Route], more: Mapping[str, Route]) -> None:
    """Add routes to those that are known.

    Raises
    ------
    LayerError
        If both say different things about one place.
    """
    for place, route in more.items():
        if known.setdefault(place, route) != route:
            raise LayerError(f"two perturbations let different blocks run at {place}; do one")


def _purposes(parts: Sequence[Perturbation]) -> Iterator[tuple[Perturbation, int]]:
    """Number parts by name and how often it came before, so that a part more shifts no other."""
    met: dict[str, int] = {}
    for part in parts:
        met[part.name] = met.get(part.name, 0) + 1
        yield part, met[part.name]


def no_values(_: Site) -> dict[str, Tensor]:
    """Put nothing in: what a perturbation does that changes only which modules run."""
    return {}


def modules_of(layer: Layer) -> Sequence[str]:
    """Names of the modules that stand for a layer as a whole.

    Raises
    ------
    LayerError
        If none does, as for parameters that a block holds itself.
    """
    if not layer.modules:
        raise LayerError("no module stands for it alone")
    return layer.modules


def blocks_of(layer: Layer) -> Sequence[str]:
    """Names of the modules of a layer at whose places other blocks, or none, may run.

    Raises
    ------
    LayerError
        If no module stands for it, or it is none that hidden states could pass by.
    """
    if layer.impassable:
        raise LayerError(layer.impassable)
    return modules_of(layer)


def part_site(perturbation: Perturbation, site: Site, base: int, *purpose: str | int) -> Site:
    """Give a part of a perturbation its own stream and copies, and what else it asked for."""
    there = site.checkpoint if perturbation.uses_checkpoint else None
    return replace(
        site,
        # What one part does in place must not be seen by another.
        trained=copy_tensors(site.trained),
        checkpoint=None if there is None else copy_tensors(there),
        modules=copy_modules(site.modules),
        generator=seeds.generator(base, perturbation.name, *purpose),
    )


def base_seed(site: Site) -> int:
    """Draw the seed that the streams of parts are derived from."""
    return int(torch.randint(2**62, (), generator=site.generator))


def _in_turn(parts: Sequence[Perturbation], site: Site) -> dict[str, Tensor]:
    base = base_seed(site)
    values: dict[str, Tensor] = {}
    for part, purpose in _purposes(parts):
        now = replace(site, trained=ChainMap(dict(values), uncopied(site.trained)))  # type: ignore[arg-type]
        values |= part.apply(part_site(part, now, base, purpose))
    return values


def member_of(layer: Layer, name: str) -> Layer:
    """Make a layer of one member of a group; its size and type are not known from the group."""
    path = "" if name == ROOT else name
    parameters, buffers = (
        tuple(tensor for tensor in tensors if owner_name(tensor) == path)
        for tensors in (layer.parameters, layer.buffers)
    )
    return replace(
        layer,
        name=name,
        members=(name,),
        modules=(path,),
        parameters=parameters,
        buffers=buffers,
    )
