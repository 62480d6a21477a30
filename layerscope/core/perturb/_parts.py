"""Parts of a block that contribute nothing: attention, MLP, one head, one expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Generator, Tensor

from layerscope.base import validate
from layerscope.base.copies import uncopied
from layerscope.core.layers import BlockPart, Layer
from layerscope.core.perturb._protocol import Perturbation, Site, blocks_of, no_values
from layerscope.core.running import NOTHING, PASSED, Route
from layerscope.errors import LayerError

__all__ = ["skip", "skip_attention", "skip_expert", "skip_head", "skip_mlp"]


def skip() -> Perturbation:
    """Pass the layer over: a copy of the hidden states that it is given stands for what it returns.

    For residual blocks and the like. The hidden states are the first tensor that a module is given
    and the first that it returns, of the same shape and type; what else it returns, such as
    attention weights, is None, and nothing may read it. Of a row that is a residual branch, as the
    attention or the MLP of a block, nothing is added to the hidden states.
    """
    return Perturbation("skip", no_values, settings={}, routes=_passed, label="skipped", sign="–")


def skip_attention() -> Perturbation:
    """Let the attention of a block, or of each block of a range, add nothing."""
    return _without("attention")


def skip_mlp() -> Perturbation:
    """Let the MLP of a block, or of each block of a range, add nothing, with all of its experts."""
    return _without("mlp")


def skip_head(index: int) -> Perturbation:
    """Let one head of the attention contribute nothing: what reads it has weights of zero.

    Parameters
    ----------
    index : int
        From 0 to ``layer.heads`` − 1, of the queries where several share keys and values. Of a
        range it is this head of every block.

    Raises
    ------
    OptionError
        If `index` is no such number.
    """
    at = validate.integer(index, "index", 0, 0)

    def without(part: BlockPart, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        tensor = trained[part.output].clone()
        width = tensor.shape[part.axis] // part.heads
        tensor.narrow(part.axis, at * width, width).zero_()
        return {part.output: tensor}

    return _values("head", at, lambda part: part.heads, lambda part: [part.output], without)


def skip_expert(index: int) -> Perturbation:
    """Let one expert contribute nothing: its last projection, and the bias of that, are zero.

    The router's weights stay, so that tokens which would have gone to it lose its share.

    Parameters
    ----------
    index : int
        From 0 to ``layer.experts`` − 1; experts that all tokens share do not count. Of a range it
        is this expert of every block.

    Raises
    ------
    OptionError
        If `index` is no such number.
    """
    at = validate.integer(index, "index", 0, 0)

    def without(part: BlockPart, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {name: trained[name].clone() for name in part.experts_at(at)}
        for tensor in values.values():
            (tensor[at] if part.stacked else tensor).zero_()
        return values

    return _values(
        "expert", at, lambda part: part.experts, lambda part: part.experts_at(at), without
    )


def _passed(layer: Layer, _: Generator) -> dict[str, Route]:
    places = {part.module: part.place for part in layer.parts}
    return {
        places.get(module, module): NOTHING if module in places else PASSED
        for module in blocks_of(layer)
    }


def _without(role: str) -> Perturbation:
    said = {"mlp": "MLP"}.get(role, role)

    def routes(layer: Layer, _: Generator) -> dict[str, Route]:
        places = [part.place for part in layer.parts if part.role == role]
        if not places:
            raise LayerError(f"has no {said} that can be told{_has(layer)}")
        return dict.fromkeys(places, NOTHING)

    return Perturbation(
        f"skip_{role}", no_values, settings={}, routes=routes, label=f"without {said}"
    )


def _values(
    what: str,
    at: int,
    count: Callable[[BlockPart], int],
    names: Callable[[BlockPart], Sequence[str]],
    without: Callable[[BlockPart, dict[str, Tensor]], dict[str, Tensor]],
) -> Perturbation:
    """Make a perturbation of a part that is told by values, and refuses a row without it."""

    def fitting(layer: Layer) -> list[BlockPart]:
        held = set(layer.tensors)
        return [p for p in layer.parts if count(p) > at and held.issuperset(names(p))]

    def apply(site: Site) -> dict[str, Tensor]:
        trained, values = dict(uncopied(site.trained)), dict[str, Tensor]()
        for part in fitting(site.layer):
            values |= without(part, trained)
        return values

    def routes(layer: Layer, _: Generator) -> dict[str, Route]:
        most = max((count(part) for part in layer.parts), default=0)
        if not fitting(layer):
            has = f"has {most} {what}s, numbered from 0" if most else f"has no {what}s"
            raise LayerError(f"{has}{'' if most else _has(layer)}")
        return {}

    return Perturbation(
        f"skip_{what}({at})",
        apply,
        settings={"index": at},
        routes=routes,
        label=f"without {what} {at}",
    )


def _has(layer: Layer) -> str:
    roles = dict.fromkeys(part.role for part in layer.parts)
    return f"; its parts are: {', '.join(roles)}" if roles else ""
