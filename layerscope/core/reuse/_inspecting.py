"""Finding out which routes a network can go, from passes over one batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from layerscope.base.tensors import as_bytes
from layerscope.core.reuse._adding import Additions
from layerscope.core.reuse._forms import Form, formless, given_in, obstacle, tensors_in
from layerscope.core.reuse._passes import Args, Forward, Kwargs
from layerscope.core.reuse._watching import Watcher
from layerscope.core.running import NOTHING, Route, first_tensor, hidden_first, with_hidden
from layerscope.errors import LayerError

Way = tuple[str, Route]


@dataclass(slots=True)
class _Met:
    """Facts of a module that was called."""

    calls: int = 0
    given: Form | None = None
    obstacle: str = ""
    formless: str = ""
    more: bool = False


class Inspector(Watcher):
    """Tells which routes can be gone."""

    def obstacles(self, call: Callable[[], object], ways: Iterable[Way]) -> dict[Way, str]:
        """Tell from passes with the present weights which routes can't be gone.

        A block hands on hidden states, only with other values: the first tensor that it is given
        and the first that it returns are of one shape and type, and nothing reads what else it
        returns. What is to contribute nothing has to be added to the hidden states.

        Parameters
        ----------
        call : callable
            Runs the network over a batch.
        ways : iterable of (str, Route)
            Places, and what is to run there.

        Returns
        -------
        dict
            For each why not, such as ``"turns (n, 784) into (n, 256)"``; ``""`` if it can.

        Raises
        ------
        LayerError
            If the network has no module of one of the names.
        """
        wanted = {(place, route): self._way(place, route) for place, route in ways}
        places = {place for place, _ in wanted.values()}
        self._met: dict[str, _Met] = {}
        self._hiding: Collection[str] = ()
        out, _ = self._pass(self._inspect_call, call, noting=places, watched=True)
        self.passes["plain"] += 1
        found = {way: self._obstacle(*way) for way in set(wanted.values())}
        able = {place for (place, _), why in found.items() if not why}
        later = self._read_later(call, out, able)
        nothing = {place for place, route in wanted.values() if route == NOTHING and place in able}
        apart = self._not_added(call, nothing - later.keys())
        said = {
            way: why or later.get(way[0]) or (apart.get(way[0], "") if way[1] == NOTHING else "")
            for way, why in found.items()
        }
        return {asked: said[way] for asked, way in wanted.items()}

    def _way(self, place: str, route: Route) -> Way:
        """Name modules as the log does."""
        return self._first(place), tuple(tuple(map(self._first, branch)) for branch in route)

    def _first(self, name: str) -> str:
        return next(iter(self._known([name])))

    def _known(self, names: Collection[str]) -> frozenset[str]:
        """Name modules as the log does: a module that has several names by the first."""
        try:
            return frozenset(self._first_names[name] for name in names)
        except KeyError as error:
            raise LayerError(f"the network lacks a module of {sorted(names)}: {error}") from None

    def _obstacle(self, place: str, route: Route) -> str:
        """Say what one pass tells against a route."""
        met = self._met.get(place)
        if met is None:
            return self._uncalled(place)
        if route == NOTHING:
            return met.formless
        if met.obstacle:
            return met.obstacle
        others = {block for branch in route for block in branch} - {place}
        return next((why for block in sorted(others) if (why := self._unlike(met, block))), "")

    def _unlike(self, met: _Met, block: str) -> str:
        """Say why a block can't run at a place that is called as `met`."""
        other = self._met.get(block)
        why = self._uncalled(block) if other is None else other.obstacle
        if why or other is None:
            return f"would run {block}, which {why}"
        if other.calls > 1:
            return f"would run {block}, which is called {other.calls} times in a pass"
        if _kind(other.given) != _kind(met.given):
            return f"would run {block}, which takes other hidden states"
        return ""

    def _uncalled(self, name: str) -> str:
        around = [n for n in self._opaque if name.startswith(f"{n}." if n else "") and n != name]
        if around:
            return f"is inside {min(around) or 'the network'}, which is compiled or scripted"
        return "is never called itself"

    def _read_later(
        self, call: Callable[[], object], out: object, places: Iterable[str]
    ) -> dict[str, str]:
        """Find the places of whose output more is read than the hidden states."""
        more = [place for place in places if self._met[place].more]
        if not more or not self._differs(call, out, more):
            return {}
        each = {place: self._differs(call, out, [place]) for place in more}
        return {
            place: f"returns more than hidden states, and {why}"
            for place, why in each.items()
            if why
        }

    def _differs(self, call: Callable[[], object], out: object, hiding: Collection[str]) -> str:
        """Say how the network gets on if blocks return hidden states alone."""
        self._hiding = hiding
        self.passes["plain"] += 1
        try:
            without, _ = self._pass(self._inspect_call, call, watched=True)
        except Exception as error:  # noqa: BLE001 - whatever a network does without it
            return f"what reads it fails without: {type(error).__name__}: {error}"
        finally:
            self._hiding = ()
        return "" if _same(out, without) else "something later reads it"

    def _not_added(self, call: Callable[[], object], places: Collection[str]) -> dict[str, str]:
        """Find the places whose output is not added to hidden states."""
        if not places:
            return {}
        self._additions = additions = Additions(self.model)
        self.passes["plain"] += 1
        routes = [(place, NOTHING) for place in places]
        run = functools.partial(_within, additions, call)
        try:
            self._pass(self._follow_call, run, routes=routes, watched=True)
        except Exception as error:  # noqa: BLE001 - then it can't be told
            why = f"can't be followed to where it is added: {type(error).__name__}: {error}"
            return dict.fromkeys(places, why)
        return additions.reasons(places)

    # What stands in for a module's forward.

    def _inspect_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        met = self._met.setdefault(name, _Met())
        given = given_in(hidden_first((args, kwargs)))
        if name in self._hiding:
            out = forward(*args, **kwargs)
            return with_hidden(out, first_tensor(out))
        # What an earlier call was refused for stands; one that raises leaves this.
        before = met.obstacle, met.formless
        met.obstacle, met.formless = (why or "raises an exception" for why in before)
        leaves, spec = tree_flatten((args, kwargs))
        out = forward(*args, **kwargs)
        after, form = tree_flatten((args, kwargs))
        if form != spec or any(a is not b for a, b in zip(leaves, after, strict=True)):
            met.obstacle = met.formless = "changes a container it was given"
            return out
        met.obstacle, met.formless = before[0] or obstacle(given, out), before[1] or formless(out)
        met.calls, met.given = met.calls + 1, given[0] if given else None
        met.more |= any(leaf is not None for leaf in tree_leaves(out)[1:])
        return out

    def _follow_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        out = self._run(name, forward, args, kwargs)
        if name in self._routes:
            self._additions.follow(name, first_tensor(out))
        return out


def _within(additions: Additions, call: Callable[[], object]) -> None:
    with additions:
        call()


def _kind(form: Form | None) -> object:
    return form and (form.size, form.dtype, form.device)


def _same(one: object, other: object) -> bool:
    pairs = zip(tensors_in(one), tensors_in(other), strict=False)
    alike = len(tensors_in(one)) == len(tensors_in(other))
    return alike and all(a.shape == b.shape and _same_bits(a, b) for a, b in pairs)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(as_bytes(one), as_bytes(other))
