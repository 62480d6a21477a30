"""Single weights of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from layerscope.base.copies import uncopied
from layerscope.base.validate import describe
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.errors import LayerError, OptionError

__all__ = ["zero_weights"]

Index = tuple[int, ...]

_HOW = "give a mapping such as {'layer1.weight': [(3, 7)]}"


def zero_weights(weights: Mapping[str, Sequence[Sequence[int]]], name: str = "") -> Perturbation:
    """Set single weights to zero; all else that the layer holds keeps its trained values.

    Each row loses those of the weights that lie in it, so that one perturbation may name one weight
    for each of several layers. A row that holds none is refused.

    Parameters
    ----------
    weights : mapping of str to sequence of tuple
        From the name of a tensor in the state dict to the indices of weights: as many whole numbers
        each as the tensor has dimensions; below 0 they count from the end.
    name : str
        For the Dataset; by default the call.

    Raises
    ------
    OptionError
        If `weights` is empty or has another form.
    LayerError
        When it is applied: if the row holds none of these tensors, or a weight is not there.

    Examples
    --------
    >>> zero_weights({"layer1.weight": [(3, 7)]}).name
    "zero_weights({'layer1.weight': [(3, 7)]})"
    """
    wanted = _checked(weights)
    return Perturbation(
        name or f"zero_weights({wanted!r})",
        lambda site: _without(wanted, site),
        settings={"weights": {at: [list(each) for each in each_] for at, each_ in wanted.items()}},
        label=f"without {_words(wanted)}",
        column=name or f"without {_words(wanted)}",
    )


def _checked(weights: Any) -> dict[str, list[Index]]:
    if not isinstance(weights, Mapping) or not weights:
        raise OptionError(f"zero_weights got {describe(weights)}; {_HOW}.")
    return {
        str(name): [_index(name, at) for at in _listed(name, weights[name])] for name in weights
    }


def _listed(name: str, places: Any) -> Sequence[Any]:
    listed = isinstance(places, Sequence) and not isinstance(places, str) and len(places)
    if not listed or isinstance(places[0], int):
        raise OptionError(f"zero_weights got {places!r} for {name}; {_HOW}, a list of indices.")
    return list(places)


def _index(name: str, given: Any) -> Index:
    try:
        return tuple(int(each.__index__()) for each in given)
    except (AttributeError, TypeError):
        raise OptionError(f"zero_weights got the index {given!r} for {name}; {_HOW}.") from None


def _words(wanted: Mapping[str, Sequence[Index]]) -> str:
    (first, places), *others = wanted.items()
    if not others and len(places) == 1:
        return f"{first}[{', '.join(map(str, places[0]))}]"
    return f"{sum(map(len, wanted.values()))} weights of {len(wanted)} tensors, {first} first"


def _without(wanted: Mapping[str, Sequence[Index]], site: Site) -> dict[str, Tensor]:
    own = uncopied(site.trained)
    here = [name for name in wanted if name in own]
    if not here:
        raise LayerError(
            f"{site.layer.name} holds none of {', '.join(wanted)}, of which weights are to go; "
            "name rows that do in layers=."
        )
    found = {}
    for name in here:
        found[name] = own[name].clone()
        for place in wanted[name]:
            _require(name, own[name], place)
            found[name][place] = 0
    return found


def _require(name: str, tensor: Tensor, place: Index) -> None:
    fits = len(place) == tensor.ndim
    if not fits or any(not -n <= i < n for i, n in zip(place, tensor.shape, strict=True)):
        raise LayerError(f"{name} of shape {tuple(tensor.shape)} has no weight {place}.")
