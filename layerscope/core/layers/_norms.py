"""Rules for normalisation layers: they go with their row, stay, or are rows of their own.

A normalisation layer scales and shifts what another layer gives, so it can be seen as a layer of
its own, as part of the layer that it normalises, or as no part of the question:

``own``
    A row of its own.
``with``
    Its tensors move with the layer that it normalises, see `hosts`.
``kept``
    It is never perturbed, neither in groups nor in the whole network.

Parameters (scale and shift) and running statistics can be ruled apart:

>>> from layerscope.core.layers import Norms
>>> Norms.of({"parameters": "with", "statistics": "kept"})
Norms(parameters='with', statistics='kept')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from torch import nn

from layerscope.errors import LayerError

__all__ = ["RULES", "Norms", "is_norm"]

RULES = ("own", "with", "kept")

_CLASSES = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_ENDINGS = ("Norm", "Norm1d", "Norm2d", "Norm3d")


@dataclass(frozen=True)
class Norms:
    """The rule for normalisation layers.

    Parameters
    ----------
    parameters, statistics : {"own", "with", "kept"}
        For scale and shift, and for the running statistics.

    Raises
    ------
    LayerError
        If a value is none of these.
    """

    parameters: str = "own"
    statistics: str = "own"

    def __post_init__(self) -> None:
        for part, rule in asdict(self).items():
            if rule not in RULES:
                raise LayerError(
                    f"norms has {rule!r} for {part}; it must be one of {', '.join(RULES)}."
                )

    @classmethod
    def of(cls, value: Norms | str | Mapping[str, str]) -> Norms:
        """Read the rule from any of its forms.

        Parameters
        ----------
        value : Norms, str or mapping
            One rule for both, or a mapping from ``"parameters"`` and ``"statistics"`` to one
            each; what is left out is ``"own"``.

        Raises
        ------
        LayerError
            If it has another form, or a value that is no rule.
        """
        if isinstance(value, Norms):
            return value
        if isinstance(value, str):
            return cls(value, value)
        parts = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(parts):
            raise LayerError(
                f"norms is {value!r}; give one of {', '.join(RULES)}, or a mapping from "
                f"{' and '.join(parts)} to one of them each."
            )
        return cls(**value)

    def describe(self) -> dict[str, str]:
        """Give the rule in plain values."""
        return asdict(self)


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a normalisation layer.

    PyTorch's are, with what is derived from them; so is a class of another origin whose name ends
    in Norm, Norm1d, Norm2d or Norm3d, if it holds vectors alone and no modules.
    """
    if isinstance(module, _CLASSES):
        return True
    own = [p for p in module._parameters.values() if p is not None]
    named = type(module).__name__.endswith(_ENDINGS)
    return named and not module._modules and all(p.ndim <= 1 for p in own)
