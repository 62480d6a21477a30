"""Cells, and the tensors that they put into a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from layerscope.base import devices, seeds
from layerscope.base.copies import LazyCopies, changed_names, copy_modules, copy_tensors
from layerscope.base.tensors import named_tensors, owner_name, plain_name
from layerscope.base.validate import describe
from layerscope.core import layers
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer
from layerscope.core.networks import find_packed
from layerscope.core.perturb import Perturbation, Redraw, Site, join_routes, no_values
from layerscope.core.reuse import Group
from layerscope.core.running import Route
from layerscope.errors import OptionError
from layerscope.results import NO_EPOCH

__all__ = ["KEPT_BYTES", "Cell", "CellTensors", "Question"]

KEPT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Cell:
    """One evaluation: a layer, what is done to it, the epoch it uses and the draw."""

    layer: Layer
    perturbation: Perturbation
    epoch: int
    draw: int

    @cached_property
    def key(self) -> str:
        """A file name that is the same whatever else is swept."""
        parts = (self.layer.name, self.perturbation.name, self.epoch, self.draw)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


class Question(NamedTuple):
    """Something that a network is asked about.

    Attributes
    ----------
    group : Group
        The modules that are changed, and what else runs at places.
    values : callable
        Returns the tensors that are put in, by name; none where the modules stay as they are.
    label : str
        Of messages.
    """

    group: Group
    values: Callable[[], Mapping[str, Tensor]]
    label: str


class CellTensors:
    """The tensors that the layers of cells hold instead of their trained ones.

    Parameters
    ----------
    model : nn.Module
    series : Series
    fresh : Redraw
        What draws a layer anew.
    seed : int
        Of the random draws.
    device : torch.device
        Where small tensors are kept for the next batch.

    Attributes
    ----------
    too_large : dict
        By row, why there is no memory for other values of it; empty until somebody says so.
    outgrown : bool
        Whether what some cell asked for did not fit what is kept.
    """

    def __init__(
        self, model: nn.Module, series: Series, fresh: Redraw, seed: int, device: torch.device
    ) -> None:
        self.model, self.series, self.fresh = model, series, fresh
        self._seed, self._device = seed, device
        self._kept: dict[tuple[str, Layer], dict[str, Tensor]] = {}
        self._routes: dict[tuple[str, Layer], dict[str, Route]] = {}
        self._left, self.outgrown = KEPT_BYTES, False
        self.too_large: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[CellTensors], tuple[Any, ...]]:
        # What is kept for the next batch is made again where it is sent to.
        return type(self), (self.model, self.series, self.fresh, self._seed, self._device)

    def question(self, cell: Cell) -> Question:
        """Ask about one cell."""
        label = f"{cell.layer.name} under {cell.perturbation.name}"
        return Question(self.group([cell]), lambda: self.of(cell), label)

    def of(self, cell: Cell) -> dict[str, Tensor]:
        """Return the tensors of one cell; on the device if they are kept, else on the CPU."""
        at = cell.key, cell.layer  # views may give one name to different layers
        if at in self._kept:
            return self._kept[at]
        values = self.computed(cell)
        self._keep(cell, values)
        self.outgrown = self.outgrown or at not in self._kept
        return self._kept.get(at, values)

    def try_out(self, cell: Cell) -> None:
        """Compute the tensors of a cell, for what is wrong to be found; keep them if there is room.

        Raises
        ------
        LayerError, OptionError
            As `computed`.
        """
        if (cell.key, cell.layer) not in self._kept:
            self._keep(cell, self.computed(cell))

    def _keep(self, cell: Cell, values: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a cell for the next batch, if there is room."""
        size = _bytes(values)
        if size <= self._left:
            # Moved once, not for every batch; and copied, since a function of the user's own may
            # return the same memory for the next cell.
            sent = {name: _sent_copy(t, self._device) for name, t in values.items()}
            self._kept[cell.key, cell.layer] = sent
            self._left -= size

    def computed(self, cell: Cell) -> dict[str, Tensor]:
        """Compute the tensors of one cell, on the CPU and in the trained tensors' types.

        Those equal to the trained ones are left out: a cell with none is the baseline.

        Raises
        ------
        OptionError
            If the perturbation returns what its layer can't hold.
        LayerError
            If it can't be applied to the layer.
        """
        if cell.perturbation.apply is no_values:
            return {}  # without reading a whole block to find that out
        trained = self._stored(self.series.last, cell.layer.tensors)
        # Compared with the trained values below, so these themselves are handed to nobody.
        values = self._perturbed(cell, copy_tensors(trained))
        return self._changed(cell, trained, values)

    def _changed(
        self, cell: Cell, trained: Mapping[str, Tensor], values: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Leave out values that are the trained ones; `values` is empty afterwards."""
        found = {}
        for name in list(values):
            # One after the other: of a whole network there is memory for one more, and not for two.
            value, own = values.pop(name), trained.get(name)
            _check_fit(cell, name, value, own)
            assert own is not None
            value = value.detach().to(own.dtype)
            if not torch.equal(value, own):
                found[name] = value
        return found

    def all_of(self, cell: Cell) -> dict[str, Tensor]:
        """Compute all tensors of a cell's layer, those that it leaves as they were included.

        What the cell puts in is kept for it, where there is room.

        Raises
        ------
        LayerError, OptionError
            As `computed`.
        """
        last, names = self.series.last, cell.layer.tensors
        trained = self._stored(last, names)
        values = self._perturbed(cell, copy_tensors(trained))
        for name, value in values.items():
            _check_fit(cell, name, value, self._forms.get(name) if name in names else None)
        if _bytes(values) <= self._left and (cell.key, cell.layer) not in self._kept:
            self._keep(cell, self._changed(cell, trained, dict(values)))
        return self.series.read(last, [n for n in names if n not in values]) | values

    def obstacle(self, cell: Cell) -> str:
        """Say why the values of a cell's layer can't be others; empty if they can.

        What takes another way through the network leaves values alone, and what a checkpoint
        holds as a whole is put back with its scales.
        """
        kind = cell.perturbation
        if all(part.routes for part in kind.parts or (kind,)):
            return ""
        if cell.layer.name in self.too_large:
            return self.too_large[cell.layer.name]
        if kind.info.resets:
            return ""
        packed = next((name for name in cell.layer.tensors if name in self._packed), "")
        return packed and (
            f"{packed} is stored as {self._packed[packed]}, whose numbers mean nothing without "
            "their scales; it can be passed over, as 'skip' does. To change its values, open the "
            "network without quantisation"
        )

    @cached_property
    def _packed(self) -> dict[str, str]:
        return find_packed(self.model)

    def group(self, cells: Iterable[Cell]) -> Group:
        """Name the modules that cells change and the routes that they go, all of them at once.

        Raises
        ------
        LayerError
            If two of them let different blocks run at one place.
        """
        # A module that stands in several places goes by the first of its names.
        names, find = self._names, self._modules.__getitem__
        known = list(cells)
        # Where only other modules run, tensors stay as they are, and what reads them is known.
        changed = [cell for cell in known if cell.perturbation.apply is not no_values]
        owners = {owner_name(tensor) for cell in changed for tensor in cell.layer.tensors}
        routes: dict[str, Route] = {}
        for cell in known:
            own = {names[find(place)]: route for place, route in self.routes(cell).items()}
            join_routes(routes, own)
        return Group(frozenset(names[find(name)] for name in owners), frozenset(routes.items()))

    def routes(self, cell: Cell) -> Mapping[str, Route]:
        """Tell what runs at places instead of the blocks that stand there.

        Raises
        ------
        LayerError
            If no module stands for the layer, or its modules are not such that could.
        """
        routes = cell.perturbation.routes
        if routes is None:
            return {}
        at = cell.key, cell.layer
        if at not in self._routes:
            found = routes(cell.layer, self._chance(cell))
            # Where a draw leaves a block at its place, it runs as it always does.
            self._routes[at] = {p: way for p, way in found.items() if way != ((p,),)}
        return self._routes[at]

    def holders(self, tensors: Iterable[str]) -> dict[str, nn.Module]:
        """Find the modules that hold tensors, by name."""
        owners = dict.fromkeys(owner_name(name) for name in tensors)
        return {owner: self._modules[owner] for owner in owners}

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        # By any of its names: looking modules up by path takes a third of a sweep over ranges.
        return dict(self.model.named_modules(remove_duplicate=False))

    @cached_property
    def _names(self) -> dict[nn.Module, str]:
        return {module: name for name, module in self.model.named_modules()}

    def _perturbed(self, cell: Cell, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from_checkpoint = cell.epoch != NO_EPOCH
        site = Site(
            layer=cell.layer,
            trained=trained,
            checkpoint=self._handed(cell.epoch, trained) if from_checkpoint else None,
            fresh=self.fresh.draw,
            generator=self._chance(cell),
            modules=copy_modules(self.holders(trained)),
        )
        # As in the sweep, where an operation in place on a parameter needs no thought of gradients.
        with torch.no_grad():
            values = cell.perturbation.apply(site)
        if not isinstance(values, Mapping):
            raise OptionError(
                f"the perturbation {cell.perturbation.name!r} returned {describe(values)}; let it "
                "return the tensors that the layer is to hold, by name."
            )
        if not values and not cell.perturbation.routes:
            _check_in_place(cell, changed_names(trained, site.modules))
        return dict(values)

    def _stored(self, epoch: int, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Read tensors of a checkpoint, those of a large row only when they are asked for."""
        wanted = list(names)
        size = sum(self._sizes.get(name, 0) for name in wanted)
        if size > KEPT_BYTES:
            return StoredTensors(self.series, epoch, wanted)
        return self.series.read(epoch, wanted)

    def _handed(self, epoch: int, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Read tensors of a checkpoint that a function may change where they are."""
        found = self._stored(epoch, names)
        return LazyCopies(found, _as_read) if isinstance(found, StoredTensors) else found

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Bytes of every tensor of the network."""
        return {n: t.numel() * t.element_size() for n, t in named_tensors(self.model).items()}

    @cached_property
    def _forms(self) -> dict[str, Tensor]:
        """Shape and type of every tensor of the network, without its values."""
        held = named_tensors(self.model)
        return {name: torch.empty_like(tensor, device="meta") for name, tensor in held.items()}

    def _chance(self, cell: Cell) -> Generator:
        """Begin the stream of a cell, the same whether the network is compiled or not."""
        row = plain_name(cell.layer.name) or layers.ROOT
        return seeds.generator(self._seed, row, cell.perturbation.name, cell.epoch, cell.draw)


def _bytes(values: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in values.values())


def _sent_copy(tensor: Tensor, device: torch.device) -> Tensor:
    sent = devices.send(tensor, device)
    return tensor.clone() if sent is tensor else sent


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of a checkpoint, each read anew whenever it is asked for, and held by nobody here.

    Parameters
    ----------
    series : Series
    epoch : int
    names : sequence of str
    """

    def __init__(self, series: Series, epoch: int, names: Sequence[str]) -> None:
        self._series, self._epoch, self._names = series, epoch, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._series.read(self._epoch, [name])[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read it to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _as_read(tensor: Tensor) -> Tensor:
    return tensor  # a copy of what is stored already


def _check_in_place(cell: Cell, changed: Sequence[str]) -> None:
    """Refuse a perturbation that returned nothing after it changed copies in place."""
    if changed:
        raise OptionError(
            f"the perturbation {cell.perturbation.name!r} changed {changed[0]} in place and "
            "returned nothing, so nothing would change; let it return the tensors that the layer "
            "is to hold, by name."
        )


def _check_fit(cell: Cell, name: str, value: Any, own: Tensor | None) -> None:
    """Refuse what the cell's layer can't hold, in the name of the perturbation."""
    what = f"the perturbation {cell.perturbation.name!r} returned"
    if own is None:
        raise OptionError(
            f"{what} {name!r}, which {cell.layer.name} does not hold; it holds "
            f"{', '.join(cell.layer.tensors)}."
        )
    if not isinstance(value, Tensor):
        raise OptionError(f"{what} a {type(value).__name__} for {name}, expected a tensor.")
    if value.shape != own.shape:
        raise OptionError(
            f"{what} {name} of shape {tuple(value.shape)}, expected {tuple(own.shape)}."
        )
    # Another precision is converted, as from a checkpoint that was saved in it; so are counters
    # among the buffers, which a function of one's own may have scaled with all the rest.
    is_parameter = name in cell.layer.parameters
    if is_parameter and _number_kind(value) != _number_kind(own):
        raise OptionError(
            f"{what} {name} of type {value.dtype}, expected {own.dtype}; convert it with "
            f".to({own.dtype})."
        )


def _number_kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Tell truth values, complex, real and whole numbers apart."""
    return tensor.dtype == torch.bool, tensor.is_complex(), tensor.is_floating_point()
