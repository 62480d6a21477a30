"""One layer, or several that are perturbed as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.errors import LayerError

__all__ = ["ROOT", "Layer", "merge"]

ROOT = "(root)"
"""Name of the layer that holds parameters of the network itself."""


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
    )


def common(names: Sequence[str]) -> str:
    """Return the name that all share, or nothing."""
    return names[0] if len(set(names)) == 1 else ""
