"""Drawing layers anew from where they came."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from layerscope.base import seeds
from layerscope.base.tensors import named_tensors, owner_name, plain_name
from layerscope.base.validate import describe
from layerscope.core import layers as layers_module
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer
from layerscope.core.perturb import _likeness as likeness
from layerscope.core.perturb._blanks import below, draws_itself, seeded, spare, unfilled
from layerscope.errors import LayerError, OptionError

__all__ = ["Redraw"]


class Redraw:
    """Draws layers from the distribution that they were initialised from.

    For each leaf layer the first of these that is known:

    ``fresh network``
        `build`, where the user gave a function that makes a freshly initialised network.
    ``declared``
        ``model.initializers``, a mapping from parameter name to a function of (tensor, generator).
    ``init_weights``
        The method of the network, or of a part of it, as those of transformers and timm have it,
        if it draws all of the layer's parameters.
    ``reset_parameters``
        The module's own method: many networks overwrite what their modules drew for themselves.
    ``empirical``
        Values drawn with replacement from the same tensor at the first checkpoint. Right for
        independent, identically distributed elements, whatever the distribution. Padding rows and
        other patterns of few values stay as they are: ``empirical (pattern kept)``; a matrix of
        orthogonal rows or columns is drawn as such: ``empirical (orthogonal)``. Where elements
        plainly depend on each other otherwise: ``empirical (not independent)``, which is not what
        the network was initialised from; pass ``fresh=``.

    Both methods count only if what they draw and the first checkpoint could be draws of one
    initialiser, see `likeness.alike`. Without epoch 0 nothing tells, and they are ``(unchecked)``.
    Parameters that are frozen (``requires_grad`` is False) and the same in the first and the last
    of several checkpoints stay as they are: ``frozen``. Buffers, such as running statistics, start
    as they were at epoch 0; without it as their module resets them, or as they are where they never
    change.

    Parameters
    ----------
    model : nn.Module
    series : Series
        Epoch 0 of it, where there is one, is the sample that the above are checked against.
    build : callable, optional
    """

    def __init__(
        self,
        model: nn.Module,
        series: Series,
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        self._model = model
        self._series = series
        self._build = _builder(build)
        self._leaves = {layer.name: layer for layer in layers_module.find(model)}
        self._origins: dict[str, str] = {}
        self._drawn: set[str] = set()
        self._stayed: dict[str, list[str]] = {}
        self._patterns: dict[str, tuple[Tensor | None, float | None]] = {}
        # Asked now: a network that is lent needs no gradients at all.
        self._fixed = {n for n, p in model.named_parameters() if not p.requires_grad}

    def origin(self, layer: Layer) -> str:
        """Say where the values of a layer are drawn from; of a group, all its members' origins.

        Raises
        ------
        LayerError
            If nothing is known of the layer's initialisation.
        """
        origins = {name: self._origin(self._leaves[name]) for name in layer.members}
        return ", ".join(sorted(set(origins.values())))

    def drawn_from(self, layer: Layer) -> str:
        """Say where values of a layer were drawn from so far; empty where none were."""
        origins = {self._origin(self._leaves[n]) for n in layer.members if n in self._drawn}
        return ", ".join(sorted(origins))

    def draw(self, layer: Layer, generator: Generator) -> dict[str, Tensor]:
        """Draw every tensor of a layer anew, on the CPU.

        Parameters
        ----------
        layer : Layer
        generator : torch.Generator
            Gives the seed; the global generators are left as they are.
        """
        self._drawn |= set(layer.members)
        if self._build is not None:
            return self._from_network(layer.tensors, generator, self._build)
        drawn: dict[str, Tensor] = {}
        leaves = [self._leaves[name] for name in layer.members]
        itself = [leaf for leaf in leaves if _way(self._origin(leaf)) == "init_weights"]
        for top in dict.fromkeys(self._top(leaf) for leaf in itself):
            # All of them at once: each drawing is one of the whole network, or a part of it.
            wanted = {n for leaf in itself if self._top(leaf) == top for n in leaf.parameters}
            drawn |= self._by_itself([n for n in layer.tensors if n in wanted], top, generator)
        for leaf in leaves:
            values = self._of_leaf(leaf, generator)
            drawn |= {n: t for n, t in values.items() if n in layer.tensors}
        # What belongs to no leaf is a buffer, and those start where they started.
        rest = [name for name in layer.tensors if name not in drawn]
        return drawn | self._start(rest)

    def _of_leaf(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        ways: dict[str, Callable[[Layer, Generator], dict[str, Tensor]]] = {
            "declared": self._declared,
            "reset_parameters": self._reset,
            "empirical": self._empirical,
        }
        own = ways.get(_way(self._origin(leaf)))
        values = self._buffers(leaf) if own is None else own(leaf, generator)
        return values | self._series.read(self._series.last, self._frozen(leaf))

    def _origin(self, leaf: Layer) -> str:
        if leaf.name not in self._origins:
            self._origins[leaf.name] = self._find_origin(leaf)
        return self._origins[leaf.name]

    def _find_origin(self, leaf: Layer) -> str:
        if self._build is not None:
            if not self._origins:
                self._check_varies()
            return "fresh network"
        declared = getattr(self._model, "initializers", None)
        if isinstance(declared, Mapping) and all(
            plain_name(name) in declared for name in leaf.parameters
        ):
            return "declared"
        if leaf.parameters and len(self._frozen(leaf)) == len(leaf.parameters):
            return "frozen"
        known = self._series.first == 0
        for way, tried in (("init_weights", self._tried), ("reset_parameters", self._tried_reset)):
            drawn = tried(leaf)
            if drawn is not None and (not known or self._looks_alike(leaf, drawn)):
                return way if known else f"{way} (unchecked)"
        if known:
            return self._how_empirical(leaf)
        raise LayerError(
            f"nothing says how {leaf.name} was initialised: its {leaf.module_type} has no "
            f"reset_parameters, and {self._unrecorded()}. Pass fresh=, a "
            "function that returns a freshly initialised network."
        )

    def _unrecorded(self) -> str:
        if not self._series.epochs:
            return "there are no checkpoints"
        return f"{self._series.unit} 0 was not recorded"

    def _tried_reset(self, leaf: Layer) -> dict[str, Tensor] | None:
        """Let the module's own method draw the leaf's parameters; None if it does not draw all."""
        module = _module(self._model, leaf)
        inside = {name: name.rpartition(".")[2] for name in leaf.parameters}
        # It knows nothing of the tensors that a parametrisation keeps elsewhere …
        if not callable(getattr(module, "reset_parameters", None)) or not all(
            own in module._parameters and owner_name(name) == _path(leaf)
            for name, own in inside.items()
        ):
            return None
        # … nor of those that weight_norm put beside the weight: what stays NaN was not drawn.
        try:
            blank = copy.deepcopy(module).cpu()
        except RuntimeError:
            return None  # PyTorch copies no weight that was computed from others
        with seeded(seeds.generator("check", leaf.name)), torch.no_grad():
            for parameter in blank._parameters.values():
                if parameter is not None and parameter.is_floating_point():
                    parameter.fill_(torch.nan)
            blank.reset_parameters()  # type: ignore[operator]
        own = {name: p.detach() for name, p in blank._parameters.items() if p is not None}
        if any(bool(p.isnan().any()) for p in own.values()):
            return None
        return {name: own[key] for name, key in inside.items()}

    def _top(self, leaf: Layer) -> str | None:
        """The outermost module around a leaf that has a method to draw itself; None of none."""
        parts = _path(leaf).split(".")
        paths = ["", *(".".join(parts[:end]) for end in range(1, len(parts) + 1))]
        return next((p for p in paths if draws_itself(self._model.get_submodule(p))), None)

    def _tried(self, leaf: Layer) -> dict[str, Tensor] | None:
        """Let the network's own method, or that of a part of it, draw the leaf; None if not all."""
        top, generator = self._top(leaf), seeds.generator("check", leaf.name)
        if top is None:
            return None
        try:
            drawn = self._by_itself(leaf.parameters, top, generator)
        except Exception:  # noqa: BLE001 - it is not ours, and takes more than it gets here
            return None
        return None if any(bool(tensor.isnan().any()) for tensor in drawn.values()) else drawn

    def _by_itself(
        self, names: Sequence[str], top: str | None, generator: Generator
    ) -> dict[str, Tensor]:
        """Let a module draw itself, of which only these parameters are there; others cost nothing.

        What it does not draw is NaN.
        """
        assert top is not None
        source = self._model.get_submodule(top)
        wanted = {below(name, top) for name in names}
        held = {id(t): t.detach().cpu().clone() for t in source.buffers()}
        held |= {id(p): unfilled(p, name in wanted) for name, p in source.named_parameters()}
        spare(source, held)
        blank = copy.deepcopy(source, held)
        for module in blank.modules():
            # transformers marks what was drawn, and would leave it as it is.
            module.__dict__.pop("_is_hf_initialized", None)
        with seeded(generator), torch.no_grad():
            blank.init_weights()  # type: ignore[operator]
        state = named_tensors(blank)
        return {name: state[below(name, top)].detach() for name in names}

    def _looks_alike(self, leaf: Layer, drawn: Mapping[str, Tensor]) -> bool:
        frozen = self._frozen(leaf)
        own = [name for name in leaf.parameters if name not in frozen]
        start = self._series.read(0, own)
        return all(likeness.alike(drawn[name], start[name]) for name in own)

    def _frozen(self, leaf: Layer) -> list[str]:
        """Name the parameters that can't be trained, and were not."""
        if leaf.name not in self._stayed:
            names = [name for name in leaf.parameters if name in self._fixed]
            several = len(self._series.epochs) > 1
            first = self._series.read(self._series.first, names) if several else {}
            last = self._series.read(self._series.last, list(first))
            self._stayed[leaf.name] = [n for n, t in first.items() if torch.equal(t, last[n])]
        return self._stayed[leaf.name]

    def _declared(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        current = named_tensors(self._model)
        drawn = {}
        for name in leaf.parameters:
            drawn[name] = torch.empty(current[name].shape, dtype=current[name].dtype)
            initializer = self._model.initializers[plain_name(name)]  # type: ignore[index]
            initializer(drawn[name], generator)  # type: ignore[operator]
        return drawn | self._buffers(leaf)

    def _empirical(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        drawn = {}
        for name, start in self._series.read(0, leaf.parameters).items():
            free, gain = self._pattern(name, start)
            if gain is not None:
                drawn[name] = _orthogonal(start, gain, generator)
                continue
            count = start.numel() if free is None else len(free)
            picks = torch.randint(max(count, 1), (count,), generator=generator)
            flat = start.flatten()
            flat = flat[picks] if free is None else flat.index_put((free,), flat[free[picks]])
            drawn[name] = flat.view(start.shape)
        return drawn | self._buffers(leaf)

    def _pattern(self, name: str, start: Tensor) -> tuple[Tensor | None, float | None]:
        """Indices of the elements that are drawn, None for all; gain of an orthogonal matrix."""
        if name not in self._patterns:
            mask = likeness.patterned(start)
            free = (~mask).flatten().nonzero().flatten() if mask.any() else None
            self._patterns[name] = free, likeness.orthogonal_gain(start)
        return self._patterns[name]

    def _how_empirical(self, leaf: Layer) -> str:
        """Say what is right about drawing from the first checkpoint, and what is not."""
        frozen, found = self._frozen(leaf), set()
        for name, start in self._series.read(0, leaf.parameters).items():
            if name in frozen:
                continue
            free, gain = self._pattern(name, start)
            if gain is not None:
                found.add("orthogonal")
            elif not likeness.independent(likeness.rest(start)):
                found.add("not independent")
            elif free is not None:
                found.add("pattern kept")
        return f"empirical ({' and '.join(sorted(found))})" if found else "empirical"

    def _buffers(self, leaf: Layer) -> dict[str, Tensor]:
        # Running statistics and the like are not drawn: they start where they started.
        return self._start(leaf.buffers)

    def _start(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Buffers as they were before training.

        Raises
        ------
        LayerError
            If epoch 0 was not recorded, and nothing else says what one of them was.
        """
        if not names:
            return {}
        first = self._series.read(self._series.first, names)
        if self._series.first == 0:
            return first
        reset = {name: value for name in names if (value := self._statistic(name)) is not None}
        last = self._series.read(self._series.last, names)
        for name in names:
            # Constants are in every checkpoint the same; whole numbers, such as positions and
            # masks, are taken for such.
            several = len(self._series.epochs) > 1 or not first[name].is_floating_point()
            constant = several and torch.equal(first[name], last[name])
            if name not in reset and not constant:
                raise LayerError(
                    f"nothing says what the buffer {name} was before training: "
                    f"{self._unrecorded()}, and its module has no "
                    "reset_running_stats. Pass fresh=, a function that returns a freshly "
                    "initialised network."
                )
        return first | reset

    def _statistic(self, name: str) -> Tensor | None:
        """A running statistic as its module resets it; None of other buffers."""
        module = self._model.get_submodule(owner_name(name))
        reset = getattr(module, "reset_running_stats", None)
        own = name.rpartition(".")[2]
        if not callable(reset) or own not in ("running_mean", "running_var", "num_batches_tracked"):
            return None
        blank = copy.deepcopy(module).cpu()
        blank.reset_running_stats()  # type: ignore[operator]
        return blank._buffers[own]

    def _reset(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        module = copy.deepcopy(_module(self._model, leaf)).cpu()
        with seeded(generator), torch.no_grad():
            module.reset_parameters()  # type: ignore[operator]
        state = {n: t.detach() for n, t in named_tensors(module).items()}
        return {name: state[name.rpartition(".")[2]] for name in leaf.tensors}

    def _check_varies(self) -> None:
        assert self._build is not None
        names = [name for leaf in self._leaves.values() for name in leaf.parameters]
        one, other = (
            self._from_network(names, seeds.generator("check", draw), self._build)
            for draw in range(2)
        )
        if all(torch.equal(one[name], other[name]) for name in names):
            raise LayerError(
                "fresh= returned the same network twice, so every draw would be the same; it must "
                "draw from torch's global generator and not seed it."
            )

    def _from_network(
        self, names: Sequence[str], generator: Generator, build: Callable[[], nn.Module]
    ) -> dict[str, Tensor]:
        with seeded(generator):
            built = build()
        if not isinstance(built, nn.Module):
            raise LayerError(
                f"fresh= returned {describe(built)}; it must return a freshly initialised network."
            )
        state = named_tensors(built)
        lacking = [name for name in names if name not in state]
        if lacking:
            raise LayerError(
                f"the network that fresh= returned has no {lacking[0]}; it must return one of the "
                "same architecture."
            )
        current = named_tensors(self._model)
        for name in names:
            if state[name].shape != current[name].shape:
                raise LayerError(
                    f"the network that fresh= returned has {name} of shape "
                    f"{tuple(state[name].shape)}, expected {tuple(current[name].shape)}; it must "
                    "return one of the same architecture."
                )
        return {name: state[name].detach().cpu() for name in names}


def _module(model: nn.Module, leaf: Layer) -> nn.Module:
    return model.get_submodule(_path(leaf))


def _path(leaf: Layer) -> str:
    return "" if leaf.name == layers_module.ROOT else leaf.name


def _builder(build: object) -> Callable[[], nn.Module] | None:
    """Refuse what draws no new network, such as a network.

    Raises
    ------
    OptionError
    """
    if isinstance(build, nn.Module):
        raise OptionError(
            f"fresh is a {type(build).__name__}, a network itself, but every draw needs a new one; "
            "pass a function that returns one: fresh=lambda: Net(…)."
        )
    if build is not None and not callable(build):
        raise OptionError(
            f"fresh is {describe(build)}; pass a function without arguments that returns a "
            "freshly initialised network."
        )
    return build


def _way(origin: str) -> str:
    """The beginning of an origin, before what is said of it."""
    return origin.partition(" (")[0]


def _orthogonal(start: Tensor, gain: float, generator: Generator) -> Tensor:
    drawn = torch.empty(start.shape, dtype=torch.float64)
    nn.init.orthogonal_(drawn, gain, generator=generator)
    return drawn.to(start.dtype)
