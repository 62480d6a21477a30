"""A session gives the bits of the plain way, batch by batch, and leaves nothing behind."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

import layerscope
from layerscope import session, stats
from layerscope.core import plain
from layerscope.core.running import PASSED
from layerscope.core.session import Change, Session, changes
from layerscope.errors import (
    CheckpointError,
    DataError,
    LayerError,
    LayerscopeError,
    OptionError,
)


class Residual(nn.Module):
    """Convolution, BatchNorm, a residual block with an in-place ReLU, dropout, a shortcut."""

    layer_views = {"block": {"stem": ["stem.*"], "block": ["block.*"], "head": ["head"]}}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = torch.relu_(self.stem(x))
        x = x + self.block(x)
        return self.head(self.drop(x).flatten(1))


@pytest.fixture(scope="module")
def states():
    made = {}
    for epoch in range(3):
        torch.manual_seed(epoch)
        net = Residual()
        net(torch.randn(16, 1, 6, 6))  # moves the running statistics
        made[epoch] = copy.deepcopy(net.state_dict())
    return made


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(9)
    return torch.randn(50, 1, 6, 6, generator=generator), torch.arange(50) % 3


def network():
    torch.manual_seed(5)
    return Residual()


def opened(states, pair, model=None, **options):
    options = {"batch_size": 16, "device": "cpu", "seed": 3, **options}
    return Session(model or network(), pair, checkpoints=states, **options)


def specified(states, pair, values, over=(), size=16):
    other = plain.copy_with(Residual(), {**states[2], **values}, dict.fromkeys(over, PASSED))
    batches = zip(*(each.split(size) for each in pair), strict=True)
    return plain.evaluate(other, batches)


LEAVES = ("stem.0", "stem.1", "block.0", "head")


def own(state, row):
    return {name: t for name, t in state.items() if name.startswith(f"{row}.")}


@settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    asked=st.lists(
        st.dictionaries(
            st.sampled_from(LEAVES),
            st.sampled_from(["trained", "zero", ("reinitialize", 0), ("reinitialize", 1)]),
        ),
        min_size=1,
        max_size=4,
    ),
    budget=st.sampled_from([None, 0, 20_000]),
)
def test_any_states_one_after_the_other_equal_the_plain_way(states, pair, asked, budget):
    with opened(states, pair, budget=budget) as live:
        for state in asked:
            values = {}
            for row, what in state.items():
                if what == "zero":
                    kept = own(states[2], row)
                    values |= {n: t * 0 for n, t in kept.items() if n.endswith(("weight", "bias"))}
                elif what != "trained":
                    values |= own(states[what[1]], row)
            assert live.measure(state).tallies == specified(states, pair, values)


def test_skipping_beside_other_changes_equals_the_plain_way(states, pair):
    with opened(states, pair) as live:
        found = live.measure({"block": "skip", "stem": ("reinitialize", 0)}, view="block")
        expected = specified(states, pair, own(states[0], "stem"), over=["block"])
        assert found.tallies == expected
        assert live.obstacle("block", "block") == ""
        assert "turns" in live.obstacle("head")


def test_a_state_of_one_row_is_the_cell_of_a_sweep(states, pair):
    kinds = ["reinitialize", "rerandomize", "zero"]
    ds = layerscope.sweep(
        network(), pair, checkpoints=states, perturbations=kinds, draws=2, seed=3, batch_size=16,
        device="cpu", show_progress=False,
    )  # fmt: skip
    with opened(states, pair) as live:
        for row in live.rows():
            for change in [("reinitialize", 1), ("rerandomize", 1), "zero"]:
                found = live.measure({row.name: change})
                made = Change.of(change)
                at = {"layer": row.name, "epoch": made.epoch, "draw": made.draw}
                cell = ds.sel(**at, perturbation=made.perturbation)
                for metric in ("error", "loss"):
                    assert found.mean(metric) == float(cell.value.sel(metric=metric))
                    told = float(cell.difference_standard_error.sel(metric=metric))
                    assert found.differences[metric].standard_error == told


def test_a_late_layer_costs_only_what_comes_after_it(states, pair, monkeypatch):
    ran = []
    model = network()
    for name in LEAVES:
        module = model.get_submodule(name)
        monkeypatch.setattr(
            module, "forward", lambda x, n=name, m=module: (ran.append(n), type(m).forward(m, x))[1]
        )
    with opened(states, pair, model) as live:
        live.measure({})
        ran.clear()
        live.measure({})
        assert ran == []
        live.measure({"head": ("reinitialize", 0)})
        assert set(ran) == {"head"}
        ran.clear()
        # Never asked together before.
        live.measure({"head": "zero", "block.0": "zero"})
        assert set(ran) == {"head", "block.0"}


def test_estimates_come_batch_by_batch_and_may_be_left_unread(states, pair):
    with opened(states, pair) as live:
        first = next(live.evaluate({"head": "zero"}))
        assert (first.examples, first.total, first.final) == (16, 50, False)
        part = pair[0][:16], pair[1][:16]
        assert first.tallies == specified(states, part, zeroed(states, "head"))
        weights = live.subject.model.state_dict()
        assert all(torch.equal(weights[name], states[2][name]) for name in weights)
        other = live.evaluate({"stem.0": "zero"})
        next(other)
        left = live.evaluate({"head": "zero"})
        seen = [next(left), next(other), *left, *other]  # interleaved
        assert seen[-1].tallies == specified(states, pair, zeroed(states, "stem.0"))
        assert seen[-3].tallies == specified(states, pair, zeroed(states, "head"))


def zeroed(states, row):
    return {name: t * 0 for name, t in own(states[2], row).items()}


def test_estimates_say_what_changed(states, pair):
    with opened(states, pair) as live:
        found = live.measure({"stem.0": ("reinitialize", 0)})
    named, before, right = found.predicted, found.trained, pair[1]
    assert torch.equal(found.targets, right)
    assert found.changed().tolist() == [i for i in range(50) if named[i] != before[i]]
    assert found.confusion().sum() == 50
    assert np.trace(found.confusion()) == 50 - found.tallies["error"].total
    accuracy = [float((named == right)[right == c].double().mean()) for c in range(3)]
    assert found.class_accuracy().tolist() == accuracy
    lower, upper = found.interval("error")
    assert (lower, upper) == tuple(float(b) for b in stats.wilson(found.mean("error"), 50))
    worse = int(((named != right) & (before == right)).sum())
    better = int(((named == right) & (before != right)).sum())
    assert found.change("error") == pytest.approx((worse - better) / 50, abs=1e-15)
    bounds = stats.paired_proportions(worse, better, 50)
    assert found.change_interval("error") == tuple(map(float, bounds))


def test_everything_comes_back_as_it_was(states, pair):
    model = network().train()
    before = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    live = opened(states, pair, model)
    iterator = live.evaluate({"head": "zero"})
    next(iterator)
    kept = weakref.ref(live._probe.recorder)
    live.close()
    live.close()
    now = model.state_dict(keep_vars=True)
    assert all(now[name] is t and torch.equal(t, copy_) for name, (t, copy_) in before.items())
    assert all(module.training for module in model.modules())
    assert all("forward" not in vars(module) for module in model.modules())
    assert list(iterator) == []
    with pytest.raises(LayerscopeError, match="closed"):
        live.evaluate({})
    gc.collect()
    assert kept() is None


def test_an_error_while_opening_gives_the_network_back(states, pair):
    class Sampling(Residual):
        def forward(self, x):
            return super().forward(x) + torch.rand(len(x), 3)

    model = Sampling().train()
    data = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(LayerscopeError, match="different outputs"):
        opened(states, pair, model)
    assert [parameter.data_ptr() for parameter in model.parameters()] == data
    assert model.training


def test_what_cannot_be_done_is_refused_and_the_session_goes_on(states, pair, tmp_path):
    for epoch, state in states.items():
        torch.save(state, tmp_path / f"epoch-{epoch}.pt")
    with opened(str(tmp_path), pair) as live:
        for state, error, match in [
            ({"haed": "zero"}, LayerError, "Did you mean 'head'"),
            ({"head": "explode"}, OptionError, "explode"),
            ({"head": ("reinitialize", 7)}, CheckpointError, "7 was not recorded"),
            ({"head": "reinitialize"}, OptionError, "needs an epoch"),
            ({"head": ("zero", 2)}, OptionError, "can't use"),
            ({"head": 3}, OptionError, "says nothing"),
            ({"head": "skip"}, LayerError, r"can't be skipped: head turns"),
            ({"fullmodel": "zero", "head": "zero"}, LayerError, "both hold head.weight"),
        ]:
            with pytest.raises(error, match=match):
                live.evaluate(state)
        (tmp_path / "epoch-0.pt").unlink()
        with pytest.raises(CheckpointError, match=r"epoch-0\.pt"):
            live.evaluate({"head": ("reinitialize", 0)})
        assert live.measure({"head": ("reinitialize", 1)}).final


def test_a_state_is_read_as_it_is_written():
    state = {"head": ("reinitialize", 0), "stem.0": "zero", "stem.1": "trained"}
    assert changes(state).keys() == {"head", "stem.0"}
    assert session.Change.of(("rerandomize", 0)).plain == "rerandomize"


# Several data sets.


def tasks(pair):
    inputs, targets = pair
    return {"one": pair, "two": ((inputs[:20] * 2), (targets[:20] + 1) % 3)}


def test_of_several_data_sets_one_is_measured_at_a_time(states, pair):
    data, state = tasks(pair), {"block": ("reinitialize", 0)}
    options = {"checkpoints": states, "batch_size": 16, "device": "cpu"}
    alone = {}
    for name, each in data.items():
        with Session(network(), each, **options) as single:
            assert (single.tasks, single.task) == ((), None)
            alone[name] = single.measure(state, "block").tallies
            with pytest.raises(OptionError, match="one data set came alone"):
                Session(network(), each, task="one", **options)
    model = network()
    before = copy.deepcopy(model.state_dict())
    with Session(model, data, **options) as session:
        assert (session.tasks, session.task) == (("one", "two"), "one")
        for name in ("one", "two", "one", "one"):
            session.select_task(name)
            assert session.measure(state, "block").tallies == alone[name]
            assert session.data.count == len(data[name][1])
        with pytest.raises(OptionError, match="there is no task 'three'"):
            session.select_task("three")
        assert session.measure(state, "block").tallies == alone["one"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with Session(network(), data, task="two", **options) as session:
        assert session.measure(state, "block").tallies == alone["two"]
    with pytest.raises(LayerscopeError, match="closed"):
        session.select_task("one")


def test_what_was_asked_of_one_data_set_says_nothing_of_another(states, pair):
    options = {"checkpoints": states, "batch_size": 16, "device": "cpu"}
    with Session(network(), tasks(pair), **options) as session:
        asked = session.evaluate({"block": "zero"}, "block")
        assert next(asked).total == 50
        early = session.evaluate({"block": "zero"}, "block")
        session.select_task("two")
        assert list(asked) == list(early) == []
        session.select_task("one")
        assert list(early) == []


def test_a_data_set_that_can_not_be_read_leaves_the_session_as_it_is(states, pair):
    data = tasks(pair) | {"broken": (torch.zeros(4, 1, 6, 6), torch.zeros(3, dtype=torch.long))}
    with Session(network(), data, checkpoints=states, device="cpu") as session:
        first = session.measure({"head": "zero"}).tallies
        with pytest.raises(DataError):
            session.select_task("broken")
        assert session.task == "one"
        assert session.measure({"head": "zero"}).tallies == first
