"""Perturbations by name: a name is the call that makes the perturbation."""

from __future__ import annotations

import ast
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from layerscope.base import seeds
from layerscope.base.copies import uncopied
from layerscope.base.validate import describe
from layerscope.core.layers import ROOT, Layer
from layerscope.core.perturb import _named as named, _protocol as protocol
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.core.running import Route
from layerscope.errors import LayerError, LayerscopeError, OptionError, choose

__all__ = ["PERTURBATIONS", "PerturbationLike", "default_names", "parse", "together"]


PerturbationLike = str | Perturbation | Callable[[Site], Mapping[str, Tensor]]
"""A perturbation as users write it."""


def default_names(past: bool = True) -> tuple[str, ...]:
    """Name the perturbations of a sweep that was not told any.

    Parameters
    ----------
    past : bool
        There are checkpoints to go back to; without, nothing says how layers began, so these are
        two that can be done to any layer.
    """
    return ("reinitialize", "rerandomize") if past else ("zero", "rerandomize_matched")


def parse(names: PerturbationLike | Sequence[PerturbationLike]) -> list[Perturbation]:
    """Look up perturbations by name; one of the user's own is taken as it is.

    A function of a `Site` goes by its own name, with one result for each layer; what uses
    checkpoints, or draws, says so as a `Perturbation`.

    A name is a call with plain arguments, such as ``"noise(0.1)"``, or several with a plus, which
    are done one after the other.

    Raises
    ------
    OptionError
        If there is no perturbation of a name, it can't be called like that, two have the same
        name or column, or something else came.

    Examples
    --------
    >>> [p.name for p in parse(["zero", "noise(scale=0.1)", "reinitialize + noise(1)"])]
    ['zero', 'noise(0.1)', 'reinitialize+noise(1)']
    """
    if isinstance(names, (str, Perturbation)) or callable(names):
        names = [names]
    if not isinstance(names, Iterable):
        raise OptionError(f"perturbations came as {describe(names)}; {_HOW}")
    made = [_one(each) for each in names]
    for what in ("name", "column"):
        said = [getattr(each.info, what) for each in made]
        if twice := [each for each in said if said.count(each) > 1]:
            raise OptionError(
                f"two perturbations have the {what} {twice[0]!r}; each needs one of its own, to be "
                "found in the Dataset."
            )
    return made


_HOW = (
    "give names, such as ['reinitialize', 'zero'], or your own: Perturbation(name, function), "
    "where the function takes a site and returns tensors by name."
)


def _one(given: object) -> Perturbation:
    if isinstance(given, Perturbation):
        return given
    if isinstance(given, str):
        return _parsed(given)
    name = getattr(given, "__name__", "")
    if not callable(given) or isinstance(given, (type, nn.Module)) or not name.isidentifier():
        raise OptionError(f"a perturbation came as {describe(given)}; {_HOW}")
    if PERTURBATIONS.get(name) is given:
        return _called(name, [], {})
    return Perturbation(name, given)


def together(parts: Mapping[str, PerturbationLike], name: str | None = None) -> Perturbation:
    """Do different things to different members of one row, at once.

    Parameters
    ----------
    parts : mapping of str to Perturbation or its name
        From names or patterns of leaf layers to what is done to them; a leaf that several match
        goes by the first. Leaves that none matches keep their trained values.
    name : str, optional
        By default the call.

    Raises
    ------
    OptionError
        If `parts` is empty.
    LayerError
        When it is applied: if a pattern matches no leaf of the row.

    Examples
    --------
    >>> together({"conv*": "noise(0.1)", "fc": "zero"}).name
    "together({'conv*': 'noise(0.1)', 'fc': 'zero'})"
    """
    if not isinstance(parts, Mapping) or not parts:
        raise OptionError(
            f"together got {parts!r}; give at least one layer and what is done to it, such as "
            "{'fc': 'zero'}."
        )
    made = {pattern: parse(part)[0] for pattern, part in parts.items()}
    called = f"together({ {pattern: part.name for pattern, part in made.items()}!r})"
    routes = any(part.routes for part in made.values())
    uses_checkpoint = any(part.uses_checkpoint for part in made.values())
    return Perturbation(
        name or called,
        lambda site: _together(made, site),
        uses_checkpoint=uses_checkpoint,
        redraws=any(part.redraws for part in made.values()) and not uses_checkpoint,
        stochastic=any(part.stochastic for part in made.values()),
        settings={"parts": [[p, part.name, dict(part.settings)] for p, part in made.items()]},
        routes=(lambda layer, chance: _routes_together(made, layer, chance)) if routes else None,
    )


PERTURBATIONS: Mapping[str, Callable[..., Perturbation]] = {
    kind.__name__: kind for kind in (*(getattr(named, each) for each in named.__all__), together)
}
"""What makes a perturbation, by name."""


def _parsed(name: str) -> Perturbation:
    try:
        return _made(_tree(name), name)
    # Python's own parser says either of what is nested too deeply for it.
    except (RecursionError, MemoryError):
        raise OptionError(
            f"the perturbation {name[:40]!r}…, of {len(name):,} characters, has too many parts or "
            "is nested too deeply; give fewer."
        ) from None


def _tree(name: str) -> ast.expr:
    try:
        return ast.parse(name.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        choose(name, PERTURBATIONS, "perturbation")  # raises, with what comes nearest
        raise


def _made(tree: ast.expr, name: str) -> Perturbation:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return _made(tree.left, name).then(_made(tree.right, name))
    if isinstance(tree, ast.Name):
        return _called(choose(tree.id, PERTURBATIONS, "perturbation"), [], {})
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        choose(name, PERTURBATIONS, "perturbation")
        raise AssertionError(name)
    kind = choose(tree.func.id, PERTURBATIONS, "perturbation")
    try:
        given = [ast.literal_eval(argument) for argument in tree.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except (ValueError, TypeError):
        raise OptionError(
            f"the arguments in {name!r} must be plain numbers, texts and the like, as in "
            "'noise(0.1)'."
        ) from None
    return _called(kind, given, named)


def _called(kind: str, given: Sequence[object], named: Mapping[str, object]) -> Perturbation:
    signature = inspect.signature(PERTURBATIONS[kind])
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        wanted = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default!r}"
            for p in signature.parameters.values()
        )
        how = f"{kind}({wanted})" if wanted else kind
        raise OptionError(f"{kind} can't be called like that ({error}); it is: {how}.") from None
    try:
        return PERTURBATIONS[kind](*given, **named)
    except LayerscopeError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise OptionError(f"{kind} can't take these arguments: {error}") from None


def _matches(made: Mapping[str, Perturbation], layer: Layer) -> dict[str, str]:
    """From every member that is matched to the pattern that it goes by."""
    found: dict[str, str] = {}
    for pattern in made:
        # A name is taken literally before it is read as a pattern: names may hold brackets.
        literal = [pattern] if pattern in layer.members else []
        matched = literal or fnmatch.filter(layer.members, pattern)
        if not matched:
            raise LayerError(
                f"no member of {layer.name} matches {pattern!r}; its members are "
                f"{', '.join(layer.members)}. Sweep a row that holds it."
            )
        for member in matched:
            found.setdefault(member, pattern)
    return found


def _together(made: Mapping[str, Perturbation], site: Site) -> dict[str, Tensor]:
    base = protocol.base_seed(site)
    values: dict[str, Tensor] = {}
    for member, pattern in _matches(made, site.layer).items():
        part = made[pattern]
        values |= part.apply(protocol.part_site(part, _member_site(site, member), base, member))
    return values


def _member_site(site: Site, member: str) -> Site:
    """Show one member of the row alone."""
    layer, seen = protocol.member_of(site.layer, member), uncopied(site.trained)
    module = uncopied(site.modules).get("" if member == ROOT else member)
    layer = replace(
        layer,
        module_type=type(module).__name__ if module is not None else "",
        size=sum(seen[name].numel() for name in layer.parameters),
    )
    return replace(
        site,
        layer=layer,
        trained={name: seen[name] for name in layer.tensors},
        checkpoint=site.checkpoint and {name: site.checkpoint[name] for name in layer.tensors},
    )


def _routes_together(
    made: Mapping[str, Perturbation], layer: Layer, chance: Generator
) -> dict[str, Route]:
    base = int(torch.randint(2**62, (), generator=chance))
    found: dict[str, Route] = {}
    for member, pattern in _matches(made, layer).items():
        part = made[pattern]
        if part.routes:
            own = seeds.generator(base, part.name, member)
            protocol.join_routes(found, part.routes(protocol.member_of(layer, member), own))
    return found
