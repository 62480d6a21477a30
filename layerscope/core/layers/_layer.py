"""One layer, or several that are perturbed as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.errors import LayerError

__all__ = ["ROOT", "Layer", "merge"]

ROOT = "(root)"
"""Name of the layer that holds parameters of the network itself."""


@dataclass(frozen=True)
class BlockPart:
    """A part of a block.

    Parameters
    ----------
    role : {"attention", "mlp", "mixer"}
    module : str
        Dotted name of its module.
    place : str
        Dotted name of the module whose output is added to the hidden states; the same, or a
        matrix in it.
    output : str
        Name of the weight of the last matrix of attention, which reads the heads; empty where it
        isn't known.
    axis : int
        Along which the heads lie in it.
    heads, experts : int
        How many there are; 0 where there are none, or it isn't known.
    downs : tuple of tuple of str
        Names of the tensors of the last projection of the experts: one of all where they are
        `stacked`, else of one expert each.
    stacked : bool
    """

    role: str
    module: str
    place: str
    output: str = ""
    axis: int = 1
    heads: int = 0
    experts: int = 0
    downs: tuple[tuple[str, ...], ...] = ()
    stacked: bool = False

    def experts_at(self, index: int) -> tuple[str, ...]:
        """Names of the tensors of the last projection of one expert, or of all in one."""
        return self.downs[0 if self.stacked else index] if index < self.experts else ()


@dataclass(frozen=True)
class Layer:
    """One layer, or a group of layers that is perturbed as one.

    Parameters
    ----------
    name : str
        Dotted name of its module, or the name of the group.
    parameters, buffers : tuple of str
        Dotted names of the tensors that move with it.
    module_type : str
        Class name of its module.
    size : int
        Number of parameters.
    members : tuple of str
        Names of the leaf layers whose parameters move with it; itself for a leaf. Where only
        buffers move, the leaf layers that hold these.
    modules : tuple of str
        Dotted names of the modules that stand for it as a whole: those to pass over where it is
        skipped. Empty where none does, as for a parameter held beside whole layers.
    component, block, stage : str
        Names of the rows of these views that it lies in; empty where it lies in several.
    aliases : tuple of str
        Further names of its tensors, which are tied to tensors elsewhere.
    parts : tuple of BlockPart
        Attention and MLP of its blocks, or that which it is itself.
    impassable : str
        Why it is not to be passed over, although its shapes allow it; empty where it may be.
    """

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    module_type: str
    size: int
    members: tuple[str, ...]
    modules: tuple[str, ...] = ()
    component: str = ""
    block: str = ""
    stage: str = ""
    aliases: tuple[str, ...] = ()
    parts: tuple[BlockPart, ...] = ()
    impassable: str = ""

    @property
    def heads(self) -> int:
        """Number of heads that attention has, the fewest of several blocks; 0 without."""
        return min((part.heads for part in self.parts if part.heads), default=0)

    @property
    def experts(self) -> int:
        """Number of experts that the MLP has, the fewest of several blocks; 0 without."""
        return min((part.experts for part in self.parts if part.experts), default=0)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of everything that is saved with the layer."""
        return self.parameters + self.buffers


def merge(name: str, members: Sequence[Layer], module_type: str = "group") -> Layer:
    """Make one layer of several, to be perturbed together.

    Raises
    ------
    LayerError
        If there are none.
    """
    if not members:
        raise LayerError(f"the group {name!r} holds no layers; give it names or patterns.")
    return Layer(
        name=name,
        parameters=tuple(tensor for layer in members for tensor in layer.parameters),
        buffers=tuple(tensor for layer in members for tensor in layer.buffers),
        module_type=module_type,
        size=sum(layer.size for layer in members),
        # Statistics may move apart from the parameters beside them: each leaf is named once.
        members=tuple(dict.fromkeys(leaf for layer in members for leaf in layer.members)),
        modules=tuple(dict.fromkeys(module for layer in members for module in layer.modules)),
        component=common([layer.component for layer in members]),
        block=common([layer.block for layer in members]),
        stage=common([layer.stage for layer in members]),
        aliases=tuple(alias for layer in members for alias in layer.aliases),
        parts=tuple(dict.fromkeys(part for layer in members for part in layer.parts)),
        impassable=next((layer.impassable for layer in members if layer.impassable), ""),
    )


def common(names: Sequence[str]) -> str:
    """Return the name that all share, or nothing."""
    return names[0] if len(set(names)) == 1 else ""
