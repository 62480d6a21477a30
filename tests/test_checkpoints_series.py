"""A series that is not one: the network itself, one entry twice, layers that never moved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import layerscope
from layerscope import models, results, stats
from layerscope.core.checkpoints import open_series
from layerscope.errors import CheckpointError, SweepWarning

OPTIONS = {"device": "cpu", "draws": 1, "show_progress": False}


def built(seed=0):
    return models.build("fcn-2x8", seed=seed, inputs=(4,), classes=3)


def data():
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 4, generator=chance)
    return inputs, inputs[:, :3].argmax(1)


def train(model, steps=3):
    """Write to every parameter, and to running statistics, in place, as optimisers do."""
    chance = torch.Generator().manual_seed(steps)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(30, 4, generator=chance)
        nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)).backward()
        optimizer.step()
    return model


def saved(model, path):
    if path.suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_file({n: t.clone() for n, t in model.state_dict().items()}, path)
    return path


class Tied(nn.Module):
    """Two layers with one weight, a running statistic, and a mask that every network shares."""

    MASK = torch.ones(4)

    def __init__(self, seed=0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", self.MASK)

    def forward(self, inputs):
        return self.out(self.norm(self.b(torch.relu(self.a(inputs * self.mask)))))


def state(model):
    return copy.deepcopy(model.state_dict())


# Of the network

ALIASES = {
    "state_dict()": lambda net: net.state_dict(),
    "parameters": lambda net: dict(net.named_parameters()),
    "the network": lambda net: net,
    "detached": lambda net: {n: t.detach() for n, t in net.state_dict().items()},
    "views": lambda net: {n: t.view(-1).view(t.shape) for n, t in net.state_dict().items()},
    "biases alone": lambda net: {
        n: t if n.endswith("bias") else t.clone() for n, t in net.state_dict().items()
    },
    "one bias": lambda net: state(net) | {"layer2.bias": net.layer2.bias},
    "in a wrapper": lambda net: {f"module.{n}": t for n, t in net.state_dict().items()},
    "to the same device": lambda net: {n: t.to("cpu") for n, t in net.state_dict().items()},
}


@pytest.mark.parametrize("after", ["copy", "trained.pt", "trained.safetensors"])
@pytest.mark.parametrize("alias", ALIASES)
def test_the_network_as_it_is_now_is_not_taken_for_its_start(alias, after, tmp_path):
    net = built()
    start = ALIASES[alias](net)
    train(net)
    end = state(net) if after == "copy" else saved(net, tmp_path / after)
    with pytest.raises(
        CheckpointError, match=r"epoch 0 shares memory with the network \(layer.*"
    ) as e:
        layerscope.sweep(net, data(), checkpoints={0: start, 5: end}, **OPTIONS)
    assert "keep copy.deepcopy(net.state_dict()) instead" in str(e.value)


def test_between_the_first_and_the_last_it_is_refused_as_well():
    net = built()
    series = {0: state(net), 3: net.state_dict()}
    series[5] = state(train(net))
    with pytest.raises(CheckpointError, match="epoch 3 shares memory with the network"):
        open_series(series).fit(net)


@pytest.mark.parametrize("part", ["a.weight", "b.weight", "norm.running_mean"])
def test_tied_weights_and_running_statistics_count(part):
    net = Tied()
    start = state(net) | {part: net.state_dict()[part]}
    if part != "norm.running_mean":
        start["a.weight"] = start["b.weight"] = net.a.weight
    end = state(train(net))
    with pytest.raises(CheckpointError, match="epoch 0 shares memory with the network"):
        open_series({0: start, 5: end}).fit(net)


def test_a_network_that_was_frozen_to_be_evaluated_counts_in_full():
    net = built()
    start = net.state_dict()
    train(net).requires_grad_(False)
    with pytest.raises(CheckpointError, match="epoch 0 shares memory with the network"):
        open_series({0: start, 5: state(net)}).fit(net)


def test_what_the_message_says_to_write_gives_the_right_values():
    net, (inputs, targets) = built(), data()
    start = copy.deepcopy(net.state_dict())
    train(net)
    ds = layerscope.sweep(
        net, (inputs, targets), checkpoints={0: start, 5: net.state_dict()}, whole=False, **OPTIONS
    )
    assert ds.moved.values.all()
    for name in map(str, ds.layer.values):
        plain = copy.deepcopy(net)
        plain.get_submodule(name).load_state_dict(
            {n.removeprefix(f"{name}."): t for n, t in start.items() if n.startswith(f"{name}.")}
        )
        with torch.no_grad():
            error = float((plain.eval()(inputs).argmax(1) != targets).double().mean())
        cell = ds.value.sel(layer=name, epoch=0, perturbation="reinitialize", draw=0)
        assert float(cell.sel(metric="error")) == error


# Of one another

TWINS = {
    "one dict": lambda net: (held := state(net), held),
    "two calls": lambda net: (net.state_dict(), net.state_dict()),
    "another order": lambda net: (s := state(net), dict(reversed(s.items()))),
    "renamed": lambda net: (s := state(net), {f"module.{n}": t for n, t in s.items()}),
}
PARTLY = {
    "biases": lambda s: s | {n: t.clone() for n, t in s.items() if n.endswith("weight")},
    "all but one": lambda s: s | {"layer3.bias": s["layer3.bias"].clone()},
    "views": lambda s: (
        {n: t.view(-1).view(t.shape) for n, t in s.items()}
        | {"layer1.bias": s["layer1.bias"].clone()}
    ),
}


@pytest.mark.parametrize("twin", TWINS)
def test_one_entry_twice_is_refused(twin):
    first, second = TWINS[twin](built(1))
    with pytest.raises(CheckpointError, match=r"epochs 0 and 5 (are the same|share) memory"):
        open_series({0: first, 5: second}).fit(built())


@pytest.mark.parametrize("part", PARTLY)
def test_entries_that_share_what_training_writes_to_are_refused(part):
    first = state(built(1))
    with pytest.raises(CheckpointError, match=r"epochs 0 and 5 share memory \(layer\d.*deepcopy"):
        open_series({0: first, 5: PARTLY[part](first)}).fit(built())


# What is right is let through


def clean(folder):
    """Series as people hold them, each with a network they fit; more than twenty."""
    net, end = built(0), train(built(0))
    a, b, c = state(net), state(train(built(0), 2)), state(end)
    paths = {
        (name, suffix): saved(model, folder / f"{name}{suffix}")
        for name, model in (("start", net), ("end", end))
        for suffix in (".pt", ".safetensors")
    }
    start_pt, end_pt = paths["start", ".pt"], paths["end", ".pt"]
    start_st, end_st = paths["start", ".safetensors"], paths["end", ".safetensors"]
    yield "copies", end, {0: a, 5: c}
    yield "the last is the network", end, {0: a, 5: end.state_dict()}
    yield "the last is the module", end, {0: net, 5: end}
    yield "three copies", end, {0: a, 2: b, 5: c}
    yield "two networks of one process", built(2), {0: net.state_dict(), 5: end.state_dict()}
    yield "pt files", end, {0: start_pt, 5: end_pt}
    yield "safetensors files", end, {0: start_st, 5: end_st}
    yield "a file and the network", end, {0: start_st, 5: end.state_dict()}
    yield "loaded safetensors", end, {0: load_file(start_st), 5: load_file(end_st)}
    mapped = [torch.load(path, mmap=True, weights_only=True) for path in (start_pt, end_pt)]
    yield "mapped pt files", end, dict(zip((0, 5), mapped, strict=True))
    yield "clones of values", end, {0: {n: t.clone() for n, t in a.items()}, 5: c}
    yield "columns of one table", end, columns(a, b, c)
    yield "rows of one table", end, rows(a, b, c)
    yield "one flat vector each", end, {0: flat(a), 5: flat(c)}
    yield "parameters", end, {0: {n: p.detach().clone() for n, p in net.named_parameters()}, 5: c}
    yield "half precision", end, {0: {n: t.half() for n, t in a.items()}, 5: c}
    yield "one checkpoint", end, {5: end.state_dict()}
    yield "in a wrapper", end, {0: {f"module.{n}": t for n, t in a.items()}, 5: c}

    tied, after = Tied(), train(Tied())
    yield "tied weights, a mask for all", after, {0: tied.state_dict(), 5: after.state_dict()}
    yield "a mask for all, a third network", Tied(3), {0: tied.state_dict(), 5: state(after)}
    yield "the mask of the network", after, {0: state(tied) | {"mask": after.mask}, 5: state(after)}

    frozen = built(0)
    frozen.layer1.requires_grad_(False)
    kept = {n: p if not p.requires_grad else p.detach().clone() for n, p in named(frozen)}
    train(frozen)
    yield "frozen layers kept once", frozen, {0: kept, 5: frozen.state_dict()}
    yield "frozen layers kept once, a copy", frozen, {0: kept, 5: kept | trainable(frozen)}
    head = built(0)
    head.layer3 = nn.Linear(8, 3)
    yield "a new head on a copy", head, {0: a | {"layer3.weight": torch.ones(3, 8)}, 5: head}


def named(model):
    return dict(model.named_parameters()).items()


def trainable(model):
    return {n: p.detach().clone() for n, p in named(model) if p.requires_grad}


def columns(*states):
    table = {n: torch.stack([s[n] for s in states], -1) for n in states[0]}
    return {at: {n: t[..., at] for n, t in table.items()} for at in range(len(states))}


def rows(*states):
    table = {n: torch.stack([s[n] for s in states]) for n in states[0]}
    return {at: {n: t[at] for n, t in table.items()} for at in range(len(states))}


def flat(state):
    """Every tensor as a view of one vector."""
    vector = torch.cat([t.flatten() for t in state.values()])
    parts = vector.split([t.numel() for t in state.values()])
    return {n: part.view(t.shape) for (n, t), part in zip(state.items(), parts, strict=True)}


def test_series_as_people_hold_them_are_let_through(tmp_path):
    tried = []
    for name, model, checkpoints in clean(tmp_path):
        series = open_series(checkpoints).fit(model)
        assert series.epochs == tuple(checkpoints), name
        tried.append(name)
    assert len(set(tried)) == len(tried) >= 20


# Layers that never moved


def test_a_frozen_layer_is_not_moved_and_gets_no_verdict():
    net = built()
    start = state(net)
    net.layer2.requires_grad_(False)
    train(net, 40)
    series = {0: start, 5: state(net)}
    with pytest.warns(SweepWarning, match=r"^layer2 never moved, as a frozen layer does not"):
        ds = layerscope.sweep(net, data(), checkpoints=series, **OPTIONS)
    assert dict(zip(map(str, ds.layer.values), ds.moved.values, strict=True)) == {
        "layer1": True,
        "layer2": False,
        "layer3": True,
        "fullmodel": True,
    }
    verdicts = stats.classify(ds).set_index("layer")["verdict"]
    assert verdicts["layer2"] == "not moved"
    assert "not moved" not in set(verdicts.drop("layer2"))
    # Other random values do change it, moved or not.
    drawn = stats.classify(ds, perturbation="rerandomize").set_index("layer")["verdict"]
    assert drawn["layer2"] != "not moved"


def test_a_first_entry_that_is_a_copy_of_the_last_is_said_and_judged_by_nobody():
    net = train(built())
    series = {0: state(net), 5: state(net)}
    with pytest.warns(SweepWarning, match="All 2 checkpoints hold the same values: nothing moved"):
        ds = layerscope.sweep(net, data(), checkpoints=series, **OPTIONS)
    assert not ds.moved.values.any()
    assert set(stats.classify(ds, include_network=True)["verdict"]) == {"not moved"}


def test_some_tensors_of_the_last_entry_make_no_layer_still():
    net = built()
    start = state(net)
    train(net)
    start["layer2.bias"] = net.layer2.bias.detach().clone()
    start["layer3.bias"] = net.layer3.bias.detach().clone()
    start["layer3.weight"] = net.layer3.weight.detach().clone()
    ds = layerscope.sweep(net, data(), checkpoints={0: start, 5: state(net)}, **OPTIONS)
    assert list(ds.moved.values) == [True, True, False, True]


def test_running_statistics_move_a_layer_and_counted_batches_do_not():
    net = Tied()
    start = state(net)
    net.norm.requires_grad_(False)
    train(net)
    ds = layerscope.sweep(net, data(), checkpoints={0: start, 5: state(net)}, **OPTIONS)
    assert bool(ds.moved.sel(layer="norm"))
    start["norm.running_mean"], start["norm.running_var"] = (
        net.norm.running_mean.clone(),
        net.norm.running_var.clone(),
    )
    assert start["norm.num_batches_tracked"] != net.norm.num_batches_tracked
    ds = layerscope.sweep(net, data(), checkpoints={0: start, 5: state(net)}, **OPTIONS)
    assert not bool(ds.moved.sel(layer="norm"))


def test_a_cell_that_is_settled_at_once_is_not_called_robust():
    net = built()
    start = state(net)
    net.layer2.requires_grad_(False)
    train(net)
    ds = layerscope.sweep(
        net, data(), checkpoints={0: start, 5: state(net)}, decide=0.3, batch_size=10, **OPTIONS
    )
    cells = ds.verdict.sel(perturbation="reinitialize", epoch=0, draw=0)
    assert str(cells.sel(layer="layer2").values) == "not moved"
    assert "not moved" not in set(cells.drop_sel(layer="layer2").values.tolist())


def test_one_checkpoint_tells_nothing_of_moving():
    net = built()
    ds = layerscope.sweep(net, data(), checkpoints={5: state(net)}, **OPTIONS)
    assert "moved" not in ds.coords


def test_over_runs_a_layer_that_rested_in_one_has_no_verdict(tmp_path):
    runs = []
    for still in (False, True):
        net = built()
        start = state(net)
        net.layer2.requires_grad_(not still)
        train(net, 20)
        runs.append(layerscope.sweep(net, data(), checkpoints={0: start, 5: net}, **OPTIONS))
    joined = results.open_dataset(results.save(results.concat(runs, [0, 1]), tmp_path / "a.nc"))
    assert list(joined.moved.values) == [True, False, True, True]
    table = stats.classify(joined).set_index("layer")["verdict"]
    assert table["layer2"] == "not moved"
    # Beside a Dataset of before there was such a coordinate, nothing is known of it.
    old = runs[0].drop_vars("moved")
    assert "moved" not in results.concat([old, runs[1]], [0, 1]).coords
    np.testing.assert_array_equal(
        stats.classify(old)["degradation"], stats.classify(runs[0])["degradation"]
    )
