"""A pass in which other blocks run at places has the bits of a copy that goes the same routes."""

from __future__ import annotations

import copy

import pytest
import test_reuse as whole
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from test_reuse import Lines, lin, lines, spy
from torch import nn

from layerscope.core import plain
from layerscope.core.reuse import Group, Recorder
from layerscope.core.running import NOTHING, PASSED
from layerscope.errors import LayerError

KINDS = ("bare", "tuple", "mapping", "keyword", "in place", "more")


class Block(nn.Module):
    """Adds to hidden states what it makes of them and of a mask; returns them in some form."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.norm = kind, nn.LayerNorm(4)
        self.attn, self.mlp = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))

    def forward(self, hidden, mask=None, number=1):
        x = hidden
        if self.kind == "in place":
            x += self.attn(x) * 0.5
        else:
            x = x + self.attn(self.norm(x)) * mask * number
        x = x + self.mlp(x)
        if self.kind == "mapping":
            return {"hidden": x, "none": None}
        if self.kind in ("tuple", "more"):
            return x, (x.mean() if self.kind == "more" else None)
        return x


class Chain(nn.Module):
    """Blocks in a row, each with a mask of its own that an embedding of the input gives."""

    def __init__(self, kinds: list[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.masks = nn.Linear(4, 4), nn.Linear(4, 4)
        self.h = nn.ModuleList(map(Block, kinds))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        masks = [self.masks(x).sigmoid(), torch.ones_like(x)]
        y = self.stem(x)
        for index, block in enumerate(self.h):
            mask = masks[index % 2]
            if block.kind == "keyword":
                out = block(mask=mask, hidden=y, number=index + 1)
            else:
                out = block(y, mask, number=index + 1)
            y = (
                out["hidden"]
                if isinstance(out, dict)
                else out[0]
                if isinstance(out, tuple)
                else out
            )
        return self.head(y)


def routes_of(names):
    """Any routes over some places, each of up to three branches of up to three blocks."""
    branch = st.lists(st.sampled_from(names), max_size=3).map(tuple)
    route = st.lists(branch, min_size=1, max_size=3).map(tuple)
    return st.dictionaries(st.sampled_from(names), route, min_size=1, max_size=3)


def check(model, batches, groups, budget=None):
    """Record each batch and go the routes of every group; return the recorder."""
    model.eval()
    before = whole.trace_of(model)
    with Recorder(model, budget=budget) as recorder:
        for x in batches:
            for group in recorder.walk(lambda x=x: model(x), groups):
                values = whole.changed_weights(model, group.changed, seed=2)
                with torch.no_grad():
                    right = plain.copy_with(model, values, dict(group.routes))(copy.deepcopy(x))
                recorder.prepare(lambda x=x: model(x), group)
                own = {name: model.get_parameter(name).data for name in values}
                try:
                    for name, value in values.items():
                        model.get_parameter(name).data = value
                    found = recorder.replay(lambda x=x: model(x), group)
                finally:
                    for name, value in own.items():
                        model.get_parameter(name).data = value
                assert whole.same(found, right), f"{group} differs"
                whole.assert_same_trace(before, whole.trace_of(model))
    return recorder


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(KINDS), min_size=2, max_size=5), st.integers(0, 99), st.data())
def test_random_chains_go_random_routes(kinds, seed, data):
    model = Chain(kinds, seed)
    names = [f"h.{index}" for index in range(len(kinds))]
    changed = st.lists(
        st.sampled_from([*(f"{name}.attn" for name in names), "stem", "head"]), max_size=1
    )
    groups = [
        Group.of(*data.draw(changed), routes=data.draw(routes_of(names))) for _ in range(3)
    ]  # fmt: skip
    batches = [torch.randn(3, 4), torch.randn(3, 4), torch.randn(2, 4)]
    recorder = check(model, batches, groups, budget=data.draw(st.sampled_from([None, None, 200])))
    assert not recorder.refusal


def ran(model, x, group):
    """Which spies a replay runs."""
    with Recorder(model.eval()) as recorder:
        recorder.record(lambda: model(x), [group])
        whole.ran()
        recorder.replay(lambda: model(x), group)
    return [name for name in whole.ran() if name in dict(model.named_modules())]


def test_what_comes_before_the_first_place_is_reused():
    model = nn.Sequential(*(spy(str(index)) for index in range(5)))
    x = torch.randn(3, 4)
    assert ran(model, x, Group.of(routes={"3": (("3", "3"),)})) == ["3", "3", "4"]
    assert ran(model, x, Group.of(routes={"2": (("3",),), "3": (("2",),)})) == ["3", "2", "4"]
    assert ran(model, x, Group.of(routes={"3": NOTHING})) == ["4"]
    assert ran(model, x, Group.of(routes={"1": (("1",), ("2",)), "2": PASSED})) == list("1234")


def test_routes_that_were_not_recorded_are_prepared_with_the_unchanged_weights():
    model = Chain(["tuple", "bare", "in place", "more"], 3).eval()
    x, later = torch.randn(3, 4), Group.of("stem", routes={"h.1": (("h.3", "h.0"),)})
    values = whole.changed_weights(model, later.changed, seed=2)
    with torch.no_grad():
        right = plain.copy_with(model, values, dict(later.routes))(x)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [Group.of("head")])
        recorder.prepare(lambda: model(x), later)
        seen = recorder.passes["plain"]
        recorder.prepare(lambda: model(x), later)
        assert recorder.passes["plain"] == seen == 1
        for name, value in values.items():
            model.get_parameter(name).data = value
        assert torch.equal(recorder.replay(lambda: model(x), later), right)


def test_without_a_log_routes_are_gone_plainly():
    model = lines(
        lambda n, x: n.c(n.b(n.a(x)) * float(n.c.bias.tolist()[0])), a=lin(), b=lin(), c=lin()
    )
    batches = [torch.randn(3, 4), torch.randn(2, 4)]
    groups = [Group.of(routes={"a": (("b",),), "b": NOTHING}), Group.of(skipped=["b"])]
    assert "tolist" in check(model, batches, groups).refusal


def why(model, place, route, x=None):
    x = torch.randn(3, 4) if x is None else x
    with Recorder(model.eval()) as recorder:
        return recorder.obstacles(lambda: model(x), [(place, route)])[place, route]


@pytest.mark.parametrize(
    ("build", "route", "expected"),
    [
        (lambda: nn.Sequential(lin(), lin()), (("1", "0"),), ""),
        (
            lambda: nn.Sequential(lin(), lin(4, 3)),
            (("1",),),
            "would run 1, which turns (n, 4) into (n, 3)",
        ),
        (
            lambda: lines(lambda n, x: n.b(n.b(getattr(n, "0")(x))), **{"0": lin(), "b": lin()}),
            (("b",),),
            "would run b, which is called 2 times in a pass",
        ),
        (
            lambda: lines(
                lambda n, x: n.b(getattr(n, "0")(x)[:, :2]), **{"0": lin(), "b": lin(2, 2)}
            ),
            (("b",),),
            "would run b, which takes other hidden states",
        ),
        (
            lambda: lines(lambda n, x: getattr(n, "0")(x), **{"0": lin(), "b": lin()}),
            (("b",),),
            "would run b, which is never called itself",
        ),
        (lambda: lines(lambda n, x: x + getattr(n, "0")(x), **{"0": lin()}), NOTHING, ""),
        (
            lambda: lines(lambda n, x: x + getattr(n, "0")(x)[:, :1], **{"0": lin(4, 9)}),
            NOTHING,
            "",
        ),
        (
            lambda: lines(lambda n, x: x * getattr(n, "0")(x), **{"0": lin()}),
            NOTHING,
            "is not added to hidden states",
        ),
        (
            lambda: lines(lambda n, x: x + n.b(getattr(n, "0")(x)), **{"0": lin(), "b": lin()}),
            NOTHING,
            "is normalised with a bias before it is added to hidden states",
        ),
        (
            lambda: lines(
                lambda n, x: n.b(y := getattr(n, "0")(x)) + y, **{"0": lin(), "b": lin()}
            ),
            NOTHING,
            "is not added to hidden states",
        ),
        (
            lambda: lines(lambda n, x: getattr(n, "0")(x).add_(x), **{"0": lin()}),
            NOTHING,
            "",
        ),
    ],
)  # fmt: skip
def test_it_is_said_why_a_route_cannot_be_gone(build, route, expected):
    model = build()
    before = whole.trace_of(model)
    assert why(model, "0", route) == expected
    whole.assert_same_trace(before, whole.trace_of(model))


def test_a_block_that_is_not_there_is_refused():
    with Recorder(lin()) as recorder, pytest.raises(LayerError, match="nowhere"):
        recorder.record(lambda: None, [Group.of(routes={"": (("nowhere",),)})])


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_nothing_stays_rerouted_after_an_exception(stop):
    def fails(_, x):
        if not failing:
            return x * 2
        raise stop

    failing: list[int] = []
    model = nn.Sequential(lin(), Lines(fails), lin()).eval()
    x, group = torch.randn(3, 4), Group.of(routes={"0": (("1",),), "1": (("0",),)})
    before = whole.trace_of(model)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [group])
        failing.append(1)
        with pytest.raises(stop):
            recorder.replay(lambda: model(x), group)
        failing.clear()
        whole.assert_same_trace(before, whole.trace_of(model))
        with torch.no_grad():
            right = plain.copy_with(model, {}, dict(group.routes))(x)
            assert torch.equal(recorder.replay(lambda: model(x), group), right)
