"""Drawing layers anew from where they came."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from layerscope import layers as layers_module
from layerscope import seeds
from layerscope.checkpoints import Series
from layerscope.errors import LayerError
from layerscope.layers import Layer

__all__ = ["Fresh"]


class Fresh:
    """Draws layers from the distribution that they were initialised from.

    For each leaf layer the first of these that is known:

    ``fresh network``
        `build`, where the user gave a function that makes a freshly initialised network.
    ``declared``
        ``model.initializers``, a mapping from parameter name to a function of (tensor, generator).
    ``init_weights``
        The network's own method, as those of transformers and timm have it, if it draws all of
        the parameters; only where epoch 0 was not recorded, since it need not be what was called.
    ``reset_parameters``
        The module's own method, if what it draws and the first checkpoint look like samples of
        one distribution: many networks overwrite what their modules drew for themselves.
    ``empirical``
        Values drawn with replacement from the same tensor at the first checkpoint. Right for
        independent, identically distributed elements, whatever the distribution.

    ``reset_parameters`` is checked, and ``empirical`` known, only where epoch 0 was recorded.
    Buffers, such as running statistics, start as they were at epoch 0; without it as their module
    resets them, or as they are where they never change.

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
        self._build = build
        self._leaves = {layer.name: layer for layer in layers_module.find(model)}
        self._origins: dict[str, str] = {}
        self._drawn: set[str] = set()
        self._draws_itself: bool | None = None

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
        itself = [leaf for leaf in leaves if self._origin(leaf) == "init_weights"]
        # All of them at once: each drawing is one of the whole network.
        names = [n for leaf in itself for n in leaf.parameters if n in layer.tensors]
        drawn |= self._from_network(names, generator, self._redrawn) if names else {}
        for leaf in leaves:
            own = {
                "declared": self._declared,
                "init_weights": lambda leaf, _: self._buffers(leaf),
                "reset_parameters": self._reset,
                "empirical": self._empirical,
            }[self._origin(leaf)]
            drawn |= {n: t for n, t in own(leaf, generator).items() if n in layer.tensors}
        # What belongs to no leaf is a buffer, and those start where they started.
        rest = [name for name in layer.tensors if name not in drawn]
        return drawn | self._start(rest)

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
            layers_module.bare(name) in declared for name in leaf.parameters
        ):
            return "declared"
        known = self._series.epochs[0] == 0
        if not known and self._redraws():
            return "init_weights"
        if self._resets(leaf) and (not known or self._looks_alike(leaf)):
            return "reset_parameters"
        if known:
            return "empirical"
        raise LayerError(
            f"nothing says how {leaf.name} was initialised: its {leaf.module_type} has no "
            f"reset_parameters, and {self._series.unit} 0 was not recorded. Pass fresh=, a "
            "function that returns a freshly initialised network."
        )

    def _resets(self, leaf: Layer) -> bool:
        """Whether the module's own method draws all of the leaf's parameters."""
        module = _module(self._model, leaf)
        inside = set(module._parameters)
        # It knows nothing of the tensors that a parametrisation keeps elsewhere …
        if not callable(getattr(module, "reset_parameters", None)) or not all(
            name.rpartition(".")[2] in inside and layers_module.owner(name) == _path(leaf)
            for name in leaf.parameters
        ):
            return False
        # … nor of those that weight_norm put beside the weight: what stays NaN was not drawn.
        try:
            blank = copy.deepcopy(module).cpu()
        except RuntimeError:
            return False  # PyTorch copies no weight that was computed from others
        with _seeded(seeds.generator("check", leaf.name)), torch.no_grad():
            for name in inside:
                parameter = blank._parameters[name]
                if parameter is not None and parameter.is_floating_point():
                    parameter.fill_(torch.nan)
            blank.reset_parameters()  # type: ignore[operator]
        return not any(bool(p.isnan().any()) for p in blank._parameters.values() if p is not None)

    def _redraws(self) -> bool:
        """Whether the network's own method draws every parameter."""
        if self._draws_itself is None:
            try:
                with _seeded(seeds.generator("check", "init_weights")):
                    parameters = list(self._redrawn().parameters())
                self._draws_itself = not any(bool(p.isnan().any()) for p in parameters)
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                self._draws_itself = False  # there is none, or it takes more than it gets here
        return self._draws_itself

    def _redrawn(self) -> nn.Module:
        """Copy the network and let it draw itself anew; what it does not draw is NaN."""
        if not callable(getattr(self._model, "init_weights", None)):
            raise AttributeError("init_weights")
        blank = copy.deepcopy(self._model).cpu()
        for module in blank.modules():
            # transformers marks what was drawn, and would leave it as it is.
            module.__dict__.pop("_is_hf_initialized", None)
        with torch.no_grad():
            for parameter in blank.parameters():
                if parameter.is_floating_point():
                    parameter.fill_(torch.nan)
            blank.init_weights()  # type: ignore[operator]
        return blank

    def _looks_alike(self, leaf: Layer) -> bool:
        drawn = self._reset(leaf, seeds.generator("check", leaf.name))
        start = self._series.read(0, leaf.parameters)
        return all(_same_distribution(drawn[name], start[name]) for name in leaf.parameters)

    def _declared(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        current = layers_module.tensors(self._model)
        drawn = {}
        for name in leaf.parameters:
            drawn[name] = torch.empty(current[name].shape, dtype=current[name].dtype)
            initializer = self._model.initializers[layers_module.bare(name)]  # type: ignore[index]
            initializer(drawn[name], generator)  # type: ignore[operator]
        return drawn | self._buffers(leaf)

    def _empirical(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        drawn = {}
        for name, start in self._series.read(0, leaf.parameters).items():
            picks = torch.randint(max(start.numel(), 1), start.shape, generator=generator)
            drawn[name] = start.flatten()[picks] if start.numel() else start
        return drawn | self._buffers(leaf)

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
        first = self._series.read(self._series.epochs[0], names)
        if self._series.epochs[0] == 0:
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
                    f"{self._series.unit} 0 was not recorded, and its module has no "
                    "reset_running_stats. Pass fresh=, a function that returns a freshly "
                    "initialised network."
                )
        return first | reset

    def _statistic(self, name: str) -> Tensor | None:
        """A running statistic as its module resets it; None of other buffers."""
        module = self._model.get_submodule(layers_module.owner(name))
        reset = getattr(module, "reset_running_stats", None)
        own = name.rpartition(".")[2]
        if not callable(reset) or own not in ("running_mean", "running_var", "num_batches_tracked"):
            return None
        blank = copy.deepcopy(module).cpu()
        blank.reset_running_stats()  # type: ignore[operator]
        return blank._buffers[own]

    def _reset(self, leaf: Layer, generator: Generator) -> dict[str, Tensor]:
        module = copy.deepcopy(_module(self._model, leaf)).cpu()
        with _seeded(generator), torch.no_grad():
            module.reset_parameters()  # type: ignore[operator]
        state = {n: t.detach() for n, t in layers_module.tensors(module).items()}
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
        with _seeded(generator):
            state = layers_module.tensors(build())
        lacking = [name for name in names if name not in state]
        if lacking:
            raise LayerError(
                f"the network that fresh= returned has no {lacking[0]}; it must return one of the "
                "same architecture."
            )
        current = layers_module.tensors(self._model)
        for name in names:
            if state[name].shape != current[name].shape:
                raise LayerError(
                    f"the network that fresh= returned has {name} of shape "
                    f"{tuple(state[name].shape)}, expected {tuple(current[name].shape)}; it must "
                    "return one of the same architecture."
                )
        return {name: state[name].detach().cpu() for name in names}


class _seeded:  # noqa: N801
    """The global CPU generator, seeded inside and as before outside."""

    def __init__(self, generator: Generator) -> None:
        self._seed = int(torch.randint(2**62, (), generator=generator))

    def __enter__(self) -> None:
        # Not torch.manual_seed, which would seed the generators of every GPU as well.
        self._before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.default_generator.set_state(self._before)


def _module(model: nn.Module, leaf: Layer) -> nn.Module:
    return model.get_submodule(_path(leaf))


def _path(leaf: Layer) -> str:
    return "" if leaf.name == layers_module.ROOT else leaf.name


def _same_distribution(a: Tensor, b: Tensor, limit: int = 20_000) -> bool:
    """Whether two samples could come from one distribution.

    By the two-sample Kolmogorov–Smirnov test, with the correction for small samples of Stephens,
    M. A. (1970), Journal of the Royal Statistical Society B 32.
    """
    from scipy.special import kolmogorov  # scipy.stats would take 60 MB

    x, y = (t.flatten()[:limit].double().sort().values for t in (a, b))
    if len(x) < 2:
        return True  # one number says nothing about where it came from
    if bool(x[0] == x[-1]) and bool(y[0] == y[-1]):
        return torch.equal(x[:1], y[:1])
    steps = torch.cat([x, y])
    below = (torch.searchsorted(t, steps, right=True) / len(t) for t in (x, y))
    distance = float(torch.sub(*below).abs().max())
    size = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    # Strict: a true match is then rejected once in 10,000 tensors, and falls back on `empirical`.
    return float(kolmogorov((size + 0.12 + 0.11 / size) * distance)) > 1e-4
