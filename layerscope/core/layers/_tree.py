"""The tree of modules, with the tensors of each: what views are found from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import nn
from torch.nn.utils import parametrize

from layerscope.base.tensors import canonical_names, named_tensors, owner_name
from layerscope.core.layers._layer import ROOT
from layerscope.core.layers._norms import is_norm
from layerscope.errors import LayerError

__all__ = ["Leaf", "Tree", "conv_like", "pooling"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CALLED_APART = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Leaf:
    """A module with the tensors of its own that count under their name here."""

    path: str
    module: nn.Module
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of its parameters' elements."""
        return sum(self.sizes)

    @property
    def name(self) -> str:
        """Its name as a row."""
        return self.path or ROOT

    @property
    def norm(self) -> bool:
        """True if it normalises."""
        return is_norm(self.module)


class Tree:
    """A network's modules by path, without those that only parametrise a tensor.

    Parameters
    ----------
    model : nn.Module

    Attributes
    ----------
    modules : dict
        By path, each module under the first of its names.
    leaves : dict of Leaf
        By path: what holds parameters.
    held : dict of Leaf
        By path: these, and what holds saved buffers alone.
    aliases : dict
        From the name of a tensor to the further names of it.

    Raises
    ------
    LayerError
        If the network has no parameters, or some without a shape yet.
    """

    def __init__(self, model: nn.Module) -> None:
        every = dict(model.named_modules())
        for path, module in every.items():
            if any(nn.parameter.is_lazy(p) for p in module.parameters(recurse=False)):
                raise LayerError(
                    f"{path or ROOT} has no shape yet; run the network on one batch before the "
                    "sweep."
                )
        self.modules = {path: m for path, m in every.items() if holder(every, path) == path}
        self._children: dict[str, list[str]] = {path: [] for path in self.modules}
        for path in self.modules:
            if path:
                self._children[self.parent(path)].append(path)
        self._gather(model, every)
        if not self.leaves:
            raise LayerError(
                f"the {type(model).__name__} has no parameters, so no layer to perturb."
            )
        self.counts = Counter(self.kind(path) for path in self.modules)
        self._below: dict[str, list[Leaf]] = {path: [] for path in self.modules}
        for leaf in self.leaves.values():
            for path in lineage(leaf.path):
                self._below[path].append(leaf)

    def _gather(self, model: nn.Module, every: dict[str, nn.Module]) -> None:
        held = named_tensors(model)
        names = canonical_names(held)
        self.aliases: dict[str, tuple[str, ...]] = {}
        gathered: dict[str, tuple[list[str], list[str]]] = {}
        for name, tensor in held.items():
            if names[name] != name:
                self.aliases[names[name]] = (*self.aliases.get(names[name], ()), name)
                continue
            parts = gathered.setdefault(holder(every, owner_name(name)), ([], []))
            parts[0 if isinstance(tensor, nn.Parameter) else 1].append(name)
        self.held: dict[str, Leaf] = {}
        for path in self.modules:
            if path in gathered:
                own, kept = map(tuple, gathered[path])
                sizes = tuple(held[name].numel() for name in own)
                self.held[path] = Leaf(path, self.modules[path], own, kept, sizes)
        self.leaves = {path: leaf for path, leaf in self.held.items() if leaf.parameters}

    def parent(self, path: str) -> str:
        """Path of the module that holds another, by its first name."""
        return owner_name(path)

    def children(self, path: str) -> list[str]:
        """Paths of the modules right inside one."""
        return self._children[path]

    def below(self, path: str) -> list[Leaf]:
        """The leaves in a module, itself included."""
        return self._below[path]

    def size(self, path: str) -> int:
        """Number of parameters in a module."""
        return sum(leaf.size for leaf in self._below[path])

    def kind(self, path: str) -> type[nn.Module]:
        """Class of a module, as it was before a parametrisation made one of its own."""
        kind: type[nn.Module] = parametrize.type_before_parametrizations(self.modules[path])
        return kind

    def container(self, path: str) -> bool:
        """Recognise a module that only gathers others."""
        return self.kind(path) in _CONTAINERS

    def called(self, path: str) -> bool:
        """Recognise a module that a network calls, not a list of such."""
        return self.kind(path) not in _CALLED_APART

    def through(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield a module's children, those of containers in their place, each with its parent."""
        for child in self.children(path):
            if self.container(child) and self.children(child):
                yield from self.through(child)
            else:
                yield child, path

    def many(self, path: str) -> bool:
        """Check for two leaves or more that do not normalise; attention is one."""
        return len({self._unit(leaf.path) for leaf in self.below(path) if not leaf.norm}) > 1

    def _unit(self, path: str) -> str:
        above = self.parent(path)
        attends = path and isinstance(self.modules[above], nn.MultiheadAttention)
        return above if attends else path

    def reduces(self, path: str) -> bool:
        """Check whether the resolution falls inside a module."""
        start = f"{path}." if path else ""
        inside = (m for p, m in self.modules.items() if p == path or p.startswith(start))
        return any(pooling(m) or (conv_like(m) and _step(m) > 1) for m in inside)


def holder(every: dict[str, nn.Module], path: str) -> str:
    """The module that a module belongs to: itself, or the one whose tensors it parametrises."""
    parts = path.split(".")
    for at, part in enumerate(parts):
        above = ".".join(parts[:at])
        if part == "parametrizations" and parametrize.is_parametrized(every[above]):
            return above
    return path


@lru_cache(maxsize=2**14)
def lineage(path: str) -> tuple[str, ...]:
    """A path and the paths of all that holds it, from the root."""
    # Asked for each pair of module and block of deep networks.
    parts = path.split(".") if path else []
    return tuple(".".join(parts[:count]) for count in range(len(parts) + 1))


def conv_like(module: nn.Module) -> bool:
    """Recognise a convolution that may lower the resolution."""
    conv = isinstance(module, nn.modules.conv._ConvNd)
    return conv and not isinstance(module, nn.modules.conv._ConvTransposeNd)


def pooling(module: nn.Module) -> bool:
    """Recognise pooling with a step, as that over everything and that of step 1 is not."""
    name = type(module).__name__
    return "Pool" in name and not hasattr(module, "output_size") and _step(module) > 1


def _step(module: nn.Module) -> int:
    step = getattr(module, "stride", 1)
    steps = step if isinstance(step, (tuple, list)) else (step,)
    return max((s for s in steps if isinstance(s, int)), default=1)
