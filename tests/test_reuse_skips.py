"""A pass over skipped modules has the bits of a copy in which they hand on a clone."""

from __future__ import annotations

import copy
import itertools

import pytest
import test_reuse as whole
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from test_reuse import AddInPlace, Counter, Lines, Stateful, lin, lines, spy
from torch import nn

from layerscope.core import plain
from layerscope.core.reuse import Group, Recorder
from layerscope.core.running import PASSED
from layerscope.errors import LayerError


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def group(skipped, changed=()):
    return Group.of(*changed, skipped=skipped)


def plainly(model, routes, weights, *inputs):
    """Run a copy in which the skipped modules hand on a clone of what they are given."""
    with torch.no_grad():
        return plain.copy_with(model, weights, dict(routes))(*copy.deepcopy(inputs))


def skippable(model, *inputs):
    """Which modules, other than the network itself, can be passed over."""
    with Recorder(model.eval()) as recorder:
        names = [name for name, _ in model.named_modules() if name]
        found = recorder.obstacles(lambda: model(*inputs), [(name, PASSED) for name in names])
    assert found.keys() == {(name, PASSED) for name in names}
    return [name for (name, _), why in found.items() if not why]


def check(model, *inputs, groups):
    """Replay every group and compare with the plain way; return the recorder."""
    model.eval()
    pristine = copy.deepcopy(inputs)
    before = whole.trace_of(model)
    cells = {g: whole.changed_weights(model, g.changed, seed=1) for g in groups}
    expected = {g: plainly(model, g.routes, cells[g], *inputs) for g in groups}
    with Recorder(model) as recorder:
        for g in recorder.walk(lambda: model(*inputs), groups):
            own = {name: model.get_parameter(name).data for name in cells[g]}
            try:
                for name, value in cells[g].items():
                    model.get_parameter(name).data = value
                output = recorder.replay(lambda: model(*inputs), g)
            finally:
                for name, value in own.items():
                    model.get_parameter(name).data = value
            assert whole.same(output, expected[g]), f"{g} differs"
            whole.assert_same_trace(before, whole.trace_of(model))
    for a, b in zip(whole.leaves(inputs), whole.leaves(pristine), strict=True):
        assert torch.equal(a, b)
    return recorder


def every_kind(model, *inputs):
    """Skip each module that can be; with another; while each of the parameters is changed."""
    names = skippable(model, *inputs)
    holders = [name for name in whole.holders(model) if name]
    return [
        *(group([name]) for name in names),
        *(group([a, b]) for a, b in itertools.pairwise(names)),
        *(group([a], [b]) for a in names for b in {holders[0], holders[-1]} if holders),
    ]


# Exactness


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", whole.NASTY)
def test_nasty_networks_are_exact(name):
    torch.manual_seed(1)
    build, shape = whole.NASTY[name]
    model, x = build(), torch.randn(shape)
    model.eval()
    recorder = check(model, x, groups=every_kind(model, x))
    assert not recorder.refusal


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(whole.programs(), st.integers(0, 1000), st.data())
def test_random_programs_are_exact(steps, seed, data):
    torch.manual_seed(seed)
    model = whole.Program(steps).eval()
    x = torch.randn(3, 4)
    names = skippable(model, x)
    if not names:
        return
    some = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    held = st.lists(st.sampled_from(whole.holders(model)), max_size=1)
    groups = [group(data.draw(some), data.draw(held)) for _ in range(4)]
    recorder = check(model, x, groups=[*groups, *(group([name]) for name in names)])
    assert not recorder.refusal


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "vit_b_32"])
def test_torchvision_networks_are_exact(name):
    model, x = whole.torchvision_network(name)
    names = skippable(model.eval(), x)
    weighty = [n for n in names if any(True for _ in model.get_submodule(n).parameters())]
    picks = [weighty[0], weighty[len(weighty) // 2], weighty[-1], names[len(names) // 3]]
    last = whole.holders(model)[-1]
    recorder = check(model, x, groups=[*(group([n]) for n in picks), group(picks[:2], [last])])
    assert not recorder.refusal
    # An activation in place, or dropout, returns its input itself.
    assert set(recorder.plain_groups) <= {group([picks[3]])}
    assert recorder.passes["replayed"] >= 4


# What is reused


def reused(model, *inputs, skipped, changed=()):
    """Which spies a replay does not run, those passed over aside."""
    check(model, *inputs, groups=[group(skipped, changed)])
    spies = {n for n, m in model.named_modules() if isinstance(m, whole.Spy)}
    with Recorder(model.eval()) as recorder:
        recorder.record(lambda: model(*inputs), [group(skipped, changed)])
        whole.ran()
        recorder.replay(lambda: model(*inputs), group(skipped, changed))
    return spies - set(whole.ran()) - set(skipped)


def test_what_comes_before_and_beside_is_reused():
    model = lines(
        lambda n, x: n.d(n.b(n.a(x)) + n.c(x)), a=spy("a"), b=spy("b"), c=spy("c"), d=spy("d")
    )
    x = torch.randn(3, 4)
    assert reused(model, x, skipped=["b"]) == {"a", "c"}
    assert reused(model, x, skipped=["a"]) == {"c"}
    assert reused(model, x, skipped=["d"]) == {"a", "b", "c"}
    assert reused(model, x, skipped=["d"], changed=["b.inner"]) == {"a", "c"}


def test_every_call_of_a_shared_module_is_passed_over():
    model = lines(lambda n, x: n.a(n.b(n.a(x))) + n.c(x), a=spy("a"), b=spy("b"), c=spy("c"))
    assert reused(model, torch.randn(3, 4), skipped=["a"]) == {"c"}
    assert "a" not in whole.RAN


def test_a_module_inside_a_skipped_one_and_elsewhere():
    shared = spy("shared")
    block = nn.Sequential(shared, spy("inner"))
    model = nn.Sequential(spy("0"), block, shared, spy("3"))
    x = torch.randn(3, 4)
    check(model, x, groups=[group(["1", "1.0"]), group(["1.1"]), group(["1.0"])])


def test_what_is_written_after_a_skip_does_not_reach_back():
    def forward(net, x):
        a = net.a(x)
        view = net.view(a)
        b = net.same(a)
        b += 1  # of the input itself, unless there is a copy
        return net.b(a) + net.c(view) + b

    # Not that it could be handed back: the network might ask whether it is the same object.
    model = lines(forward, a=lin(), view=whole.Lines(lambda _, x: x[:]), same=nn.Identity(),
                  b=lin(), c=lin())  # fmt: skip
    x = torch.randn(3, 4)
    assert "same" in skippable(model, x)
    check(model, x, groups=[group(["same"]), group(["view"]), group(["same", "view"], ["c"])])


class Setter(nn.Module):
    """Say in an attribute of another module what that should do."""

    def __init__(self, other):
        super().__init__()
        self.others = [other]

    def forward(self, x):
        self.others[0].scale = 3
        return x * 2


@pytest.mark.parametrize("kind", ["attribute", "hook", "state"])
def test_where_a_skip_may_steer_the_rest_the_pass_is_plain(kind):
    scaled = whole.Scaled()
    inner = {"attribute": lambda: Setter(scaled), "hook": lin, "state": Stateful}[kind]()
    model = nn.Sequential(spy("0"), nn.Sequential(inner), scaled, spy("3")).eval()
    if kind == "hook":
        inner.register_forward_hook(lambda *_: None)
    recorder = check(model, torch.randn(3, 4), groups=[group(["1"])])
    assert recorder.passes["plain"] == 1
    assert recorder.passes["replayed"] == 0


def told_by_shape(net, x):
    return net.c(net.times(net.a(x), net.skipped(x).shape[-1]))


def told_by_strides(net, x):
    return net.c(net.times(net.a(x), net.skipped(x).stride(0)))


def told_by_offset(net, x):
    return net.c(net.times(net.a(x), 1 + net.skipped(x).storage_offset()))


def told_by_identity(net, x):
    return net.c(net.times(net.a(x), 2 if net.skipped(x) is x else 3))


@pytest.mark.parametrize(
    ("function", "skipped", "reason"),
    [
        (told_by_shape, lambda: lin(4, 7), r"turns (n, 4) into (n, 7)"),
        (told_by_strides, lambda: Lines(lambda _, x: (x + 1).t().contiguous().t()), "in memory"),
        (told_by_offset, lambda: Lines(lambda _, x: torch.cat([x, x])[3:]), "in memory"),
        (told_by_identity, nn.Identity, "memory that was there before"),
    ],
)
def test_what_python_can_tell_of_a_skip_is_not_reused(function, skipped, reason):
    times = Lines(lambda _, x, number: x * number)
    model = lines(function, a=lin(), skipped=skipped(), times=times, c=lin())
    recorder = check(model, torch.randn(3, 4), groups=[group(["skipped"])])
    assert reason in recorder.plain_groups[group(["skipped"])]


def test_what_python_can_tell_of_what_is_missing_is_not_reused():
    def forward(net, x):
        y, more = net.skipped(net.a(x))
        return net.c(y) + net.b(x if more is None else x + 1)

    model = lines(forward, a=spy("a"), skipped=Lines(lambda _, x: (x * 2, x)), b=spy("b"), c=lin())
    assert reused(model, torch.randn(3, 4), skipped=["skipped"]) == {"a"}


def test_a_tensor_with_gaps_is_cloned_without():
    model = lines(
        lambda n, x: n.c(n.times(n.a(x), n.b(n.a(x)[:, ::2]).stride(0))),
        a=lin(),
        b=Lines(lambda _, x: torch.empty(3, 4)[:, ::2].copy_(x)),
        times=Lines(lambda _, x, number: x * number),
        c=lin(),
    )
    check(model, torch.randn(3, 4), groups=[group(["b"])])


class Bump(nn.Module):
    """Change the argument and return another tensor."""

    def forward(self, x):
        x += 1
        return x * 2


class Constant(nn.Module):
    """Never look at the argument."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.randn(3, 4))

    def forward(self, _):
        return self.value * 2


def test_what_a_skipped_module_wrote_is_reached():
    model = lines(
        lambda n, x: (y := n.a(x), z := n.bump(y), n.c(y) + n.d(z) + n.e(x))[2],
        a=spy("a"), bump=Bump(), c=spy("c"), d=spy("d"), e=spy("e"),
    )  # fmt: skip
    assert reused(model, torch.randn(3, 4), skipped=["bump"]) == {"a", "e"}


def test_what_a_skipped_module_never_read_is_copied():
    model = nn.Sequential(spy("0"), Constant(), spy("2"))
    assert reused(model, torch.randn(3, 4), skipped=["1"]) == {"0"}


def test_what_a_skipped_module_looks_at_does_not_steer_the_rest():
    looks = Lines(lambda _, x: x * 2 if x.sum() > 0 else x * 3)
    model = lines(lambda n, x: n.c(n.a(x)) + n.b(n.looks(x)), a=spy("a"), looks=looks, c=spy("c"),
                  b=spy("b"))  # fmt: skip
    changed = reused(model, torch.randn(3, 4), skipped=["looks"])
    assert changed == {"a", "c"}
    also = lines(lambda n, x: n.b(n.looks(x)) + n.c(n.a(x)), a=spy("a"), looks=looks, c=spy("c"),
                 b=spy("b"))  # fmt: skip
    assert reused(also, torch.randn(3, 4), skipped=["looks"]) == {"a", "c"}


def test_a_buffer_that_a_skipped_module_counts_in_stays_as_it_was():
    model = nn.Sequential(spy("0"), Counter(), spy("2"), Counter())
    assert reused(model, torch.randn(3, 4), skipped=["1"]) == {"0"}


def test_nothing_is_kept_for_what_does_not_run():
    model = nn.Sequential(lin(), nn.Sequential(nn.Identity(), lin()), lin()).eval()
    x = torch.randn(3, 4)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [group(["1"])])
        assert len(recorder._memory) == 1


def test_a_group_without_skips_is_the_plain_collection():
    model = nn.Sequential(lin(), lin()).eval()
    x = torch.randn(3, 4)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [Group.of("1"), group(["1"])])
        assert recorder.remembered == [Group.of("1"), group(["1"])]
        recorder.forget(Group.of("1"))
        with torch.no_grad():
            assert torch.equal(recorder.replay(lambda: model(x), group(["1"])), model[0](x))


def test_without_room_the_pass_is_plain_and_passes_over_too():
    model = nn.Sequential(lin(), lin(), lin()).eval()
    x = torch.randn(3, 4)
    with Recorder(model, budget=1) as recorder, torch.no_grad():
        recorder.record(lambda: model(x), [group(["1"])])
        output = recorder.replay(lambda: model(x), group(["1"]))
        assert torch.equal(output, model[2](model[0](x)))
    assert list(recorder.plain_groups) == [group(["1"])]


def test_what_refuses_to_be_watched_is_passed_over_plainly():
    model = lines(lambda n, x: n.a(x) * float(n.b.bias.tolist()[0]), a=lin(), b=lin())
    recorder = check(model, torch.randn(3, 4), groups=[group(["a"])])
    assert "tolist" in recorder.refusal


# What can't be skipped


def why(model, name, *inputs):
    with Recorder(model.eval()) as recorder:
        return recorder.obstacles(lambda: model(*inputs), [(name, PASSED)])[name, PASSED]


def grow(_, given):
    given.append(given[0])
    return given[0] * 2


def scripted():
    return nn.Sequential(lin(), whole.scripted())


def compiled():
    torch._dynamo.reset()
    inner = nn.Sequential(lin(), nn.ReLU(True))
    inner.compile(backend="eager")
    return nn.Sequential(lin(), inner)


@pytest.mark.parametrize(
    ("build", "name", "expected"),
    [
        (lambda: nn.Sequential(lin(4, 7)), "0", "turns (n, 4) into (n, 7)"),
        (lambda: nn.Sequential(Lines(lambda _, x: x.sum())), "0", "turns (3, 4) into ()"),
        (lambda: nn.Sequential(Lines(lambda _, x: x[0])), "0", "turns (3, 4) into (4,)"),
        (
            lambda: nn.Sequential(Lines(lambda _, x: x.unsqueeze_(0)), lin()),
            "0",
            "turns (3, 4) into (1, 3, 4)",
        ),
        (
            lambda: nn.Sequential(Lines(lambda _, x: x > 0)),
            "0",
            "turns torch.float32 into torch.bool",
        ),
        (
            lambda: nn.Sequential(Lines(lambda _, x: (x, x))),
            "0",
            "returns more than hidden states, and something later reads it",
        ),
        (
            lambda: lines(lambda n, x: sum(n.a(x)), a=Lines(lambda _, x: (x, x))),
            "a",
            "returns more than hidden states, and what reads it fails without: TypeError",
        ),
        (lambda: lines(lambda n, x: n.a(x)[0], a=Lines(lambda _, x: (x, x))), "a", ""),
        (lambda: nn.Sequential(Lines(lambda _, x: (3, x))), "0", "returns a tuple, not a tensor"),
        (
            lambda: lines(lambda n, x: (n.a(y := [x]), y[0])[1], a=Lines(grow)),
            "a",
            "changes a container it was given",
        ),
        (
            lambda: lines(lambda n, x: (n.a(x), x)[1], a=AddInPlace()),
            "a",
            "returns a NoneType, not a tensor",
        ),
        (
            lambda: lines(lambda n, x: n.a(x, x + 1), a=Lines(lambda _, x, y: x + y)),
            "a",
            "",
        ),
        (lambda: lines(lambda n, x: x * n.a(), a=whole.OwnParameter()), "a", "takes no tensors"),
        (lambda: lines(lambda n, x: n.a(x), a=lin(), b=lin()), "b", "is never called itself"),
        (lambda: whole.attention(False), "attention.out_proj", "is never called itself"),
        (scripted, "1.0", "is inside 1, which is compiled or scripted"),
        (compiled, "1.0", "is inside 1, which is compiled or scripted"),
        (
            lambda: lines(whole.raises_inside, a=lin(), bad=lines(whole.raising, a=lin()), b=lin(),
                          c=lin()),
            "bad",
            "raises an exception",
        ),
        (
            lambda: lines(lambda n, x: n.a(n.a(x)[:, :2].repeat(1, 2)), a=lin()),
            "a",
            "",
        ),
        (
            lambda: lines(lambda n, x: n.a(x)[:, :1] + n.a(x[:1]), a=Lines(lambda _, x: x[:3])),
            "a",
            "",
        ),
        (
            lambda: lines(lambda n, x: n.a(x[:2]) + n.a(x)[:2], a=Lines(lambda _, x: x[:2])),
            "a",
            "turns (3, 4) into (2, 4)",
        ),
    ],
)  # fmt: skip
def test_it_is_said_why_a_module_cannot_be_skipped(build, name, expected):
    model = build()
    x = torch.randn((2, 3, 4) if "attention" in name else (3, 4))
    before = whole.trace_of(model)
    found = why(model, name, x)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)
    whole.assert_same_trace(before, whole.trace_of(model))


def test_asking_for_what_is_not_there_is_refused():
    with Recorder(lin()) as recorder:
        with pytest.raises(LayerError, match="nowhere"):
            recorder.obstacles(lambda: None, [("nowhere", PASSED)])
        with pytest.raises(LayerError, match="nowhere"):
            recorder.record(lambda: None, [group(["nowhere"])])


def test_passing_over_what_takes_no_tensor_is_refused():
    model = lines(lambda n, x: n.a() * x, a=Lines(lambda _: torch.ones(4))).eval()
    x = torch.randn(3, 4)
    before = whole.trace_of(model)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [group(["a"])])
        with pytest.raises(LayerError, match="there is no tensor"):
            recorder.replay(lambda: model(x), group(["a"]))
    whole.assert_same_trace(before, whole.trace_of(model))


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_nothing_stays_passed_over_after_an_exception(stop):
    model = nn.Sequential(lin(), lin(), lin()).eval()
    x = torch.randn(3, 4)
    with Recorder(model) as recorder:
        recorder.record(lambda: model(x), [group(["1"]), Group.of("2")])

        def call():
            model(x)
            raise stop

        with pytest.raises(stop):
            recorder.replay(call, group(["1"]))
        with torch.no_grad():
            assert torch.equal(
                recorder.replay(lambda: model(x), Group.of("2")), copy.deepcopy(model)(x)
            )
