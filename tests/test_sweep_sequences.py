"""Cells that stop early where an example has several targets, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import layerscope
from layerscope.errors import DataError, OptionError

LENGTH, CLASSES = 8, 5


class Tagger(nn.Module):
    """Names the class of every token, and of none by what stands beside it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.table = nn.Embedding(40, 6)
            self.head = nn.Linear(6, CLASSES)

    def forward(self, ids, mask=None):
        hidden = self.table(ids)
        return self.head(hidden if mask is None else hidden * mask.unsqueeze(-1))


@pytest.fixture
def states():
    start, end = Tagger().state_dict(), Tagger().state_dict()
    end["head.weight"] = start["head.weight"] + 0.2 * torch.randn(
        CLASSES, 6, generator=torch.Generator().manual_seed(1)
    )
    end["table.weight"] = start["table.weight"] + 0.01
    return {0: start, 1: end}


def tokens(states, count=4000, seed=0):
    """Sequences that the trained network names rightly but for every 20th token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(40, (count, LENGTH), generator=generator)
    net = Tagger()
    net.load_state_dict(states[1])
    with torch.no_grad():
        named = net(ids).argmax(-1)
    wrong = torch.rand(named.shape, generator=generator) < 0.05
    return ids, torch.where(wrong, (named + 1) % CLASSES, named)


def shortened(targets, seed=0):
    """The same targets with sequences of different length, the ends ignored, some as a whole."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(LENGTH + 1, (len(targets), 1), generator=generator)
    return torch.where(torch.arange(LENGTH) < lengths, targets, -100)


def swept(data, states, **options):
    given = {"checkpoints": states, "draws": 1, "batch_size": 100, "device": "cpu"}
    return layerscope.sweep(Tagger(), data, **given, show_progress=False, **options)


def risen(ds) -> xr.DataArray:
    """How much the error rose, of the cells that are there."""
    return (ds.value - ds.baseline).sel(metric="error").where(ds.value.sel(metric="error") >= 0)


@pytest.mark.parametrize("ragged", [False, True])
def test_decisions_on_tokens_are_about_the_mean_over_targets(states, ragged):
    ids, targets = tokens(states)
    data = ids, shortened(targets) if ragged else targets
    true = risen(swept(data, states))
    limit = true.sel(layer="head", epoch=0, perturbation="reinitialize").item()
    assert 0.02 < limit < 0.4
    for robust, verdict in ((0.7 * limit, "critical"), (1.3 * limit, "robust")):
        ds = swept(data, states, decide=robust)
        expected = xr.where(true > robust, "critical", "robust").where(true.notnull(), "")
        assert bool((ds.verdict == expected).all())
        cell = ds.sel(layer="head", epoch=0, perturbation="reinitialize", draw=0)
        assert str(cell.verdict.values) == verdict
        assert int(cell.n_examples) < 4000


@pytest.mark.parametrize("ragged", [False, True])
def test_intervals_on_tokens_enclose_the_value_and_the_truth(states, ragged):
    ids, targets = tokens(states)
    data = ids, shortened(targets) if ragged else targets
    true = swept(data, states).value.sel(metric="error")
    ds = swept(data, states, tolerance=0.03)
    known = true.notnull()
    for value in (true, ds.value.sel(metric="error")):
        assert bool(((ds.lower <= value) & (value <= ds.upper)).where(known, True).all())
    assert float(ds.n_examples.mean()) < 3500
    # Each is a mean over targets, as it is without a rule.
    assert float(ds.baseline.sel(metric="error")) == pytest.approx(0.05, abs=0.01)


def classifier(share_ignored):
    """A network whose reset gives a known rise: 4.5 points over the targets that count."""
    inputs = torch.eye(3)[torch.arange(10_000) % 3]
    targets = torch.arange(10_000) % 3
    counted = torch.arange(10_000) >= share_ignored * 10_000
    # Reset, the network names class 0 for all: wrong where the target is another one.
    place = torch.nonzero(counted).squeeze(1)
    inputs[place], targets[place] = torch.eye(3)[0], 0
    worse = place[: round(0.045 * len(place))]
    inputs[worse], targets[worse] = torch.eye(3)[1], 1
    return inputs, torch.where(counted, targets, -100)


def test_ignored_targets_do_not_count_as_zero():
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    start = {"0.weight": torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 0, 0]])}
    states = {0: start, 1: {"0.weight": torch.eye(3)}}
    given = {"checkpoints": states, "perturbations": ["reinitialize"], "epochs": [0]}
    given |= {"batch_size": 100, "device": "cpu", "show_progress": False, "whole": False}
    data = classifier(0.6)
    plain = layerscope.sweep(net, data, **given)
    assert plain.value.sel(metric="error").item() == pytest.approx(0.045)
    decided = layerscope.sweep(net, data, **given, decide=0.02)
    assert decided.verdict.values.tolist() == [[[["critical"]]]]
    bounded = layerscope.sweep(net, data, **given, tolerance=0.01)
    lower, value, upper = (
        float(each.squeeze())
        for each in (bounded.lower, bounded.value.sel(metric="error"), bounded.upper)
    )
    assert lower <= 0.045 <= upper
    assert lower <= value <= upper
    assert upper - lower <= 0.02 + 1e-9
    ignored = data[0], torch.full((10_000,), -100)
    with pytest.raises(DataError, match="all targets are -100"):
        layerscope.sweep(net, ignored, **given, decide=0.02)


def test_batches_in_a_fixed_order_are_seen_in_a_random_one(states):
    ids, targets = tokens(states)
    true = risen(swept((ids, targets), states))
    limit = 0.7 * true.sel(layer="head", epoch=0, perturbation="reinitialize").item()
    net, other = Tagger(), Tagger()
    net.load_state_dict(states[1])
    other.load_state_dict(states[1] | {"head.weight": states[0]["head.weight"]})
    with torch.no_grad():
        worse = (other(ids).argmax(-1) != targets).sum(1) - (net(ids).argmax(-1) != targets).sum(1)
    # Whoever goes through them as they come sees no rise at first.
    order = worse.argsort()
    ids, targets = ids[order], targets[order]
    assert float(worse[order][:500].sum()) <= 0
    loader = DataLoader(TensorDataset(ids, targets), batch_size=50)
    named = [({"ids": part, "mask": torch.ones_like(part)}, wanted) for part, wanted in loader]
    several = [((part, torch.ones_like(part)), wanted) for part, wanted in loader]
    for batches in (loader, named, several):
        ds = swept(batches, states, decide=limit, seed=3)
        expected = xr.where(true > limit, "critical", "robust").where(true.notnull(), "")
        assert bool((ds.verdict == expected).all())
        assert ds.attrs["batch_size"] == 50
        assert "shuffled with seed 3" in ds.attrs["data"]


def test_batches_of_different_length_are_refused_with_what_to_do(states):
    ids, targets = tokens(states, 60)
    batches = [(ids[:30, :5], targets[:30, :5]), (ids[30:], targets[30:])]
    with pytest.raises(OptionError, match=r"differ in shape .*Pad all to one length.*-100"):
        swept(batches, states, decide=True)
    # Without a rule they are as good as others.
    assert np.isfinite(float(swept(batches, states).baseline.sel(metric="error")))


def test_a_metric_of_ones_own_with_one_value_an_example_has_weight_one(states):
    ids, targets = tokens(states)

    def all_right(outputs, wanted):
        return (outputs.argmax(-1) != wanted).any(1).float()

    whole = layerscope.metrics.Metric(
        "any_wrong", "sequences with a wrong token", all_right, bounds=(0.0, 1.0)
    )
    true = swept((ids, targets), states, metrics=[whole]).value.sel(metric="any_wrong")
    ds = swept((ids, targets), states, metrics=[whole], tolerance=0.06)
    assert bool(((ds.lower <= true) & (true <= ds.upper)).where(true.notnull(), True).all())
    assert int(ds.n_examples.min()) < 4000


def test_cells_that_were_stopped_are_told_from_those_that_saw_everything(states, tmp_path):
    ids, targets = tokens(states)
    targets = shortened(targets)  # some examples have no target, which is not stopping early
    true = risen(swept((ids, targets), states))
    limit = true.sel(layer="head", epoch=0, perturbation="reinitialize").item()
    for rule in ({"decide": limit}, {"tolerance": 0.02}):
        ds = swept((ids, targets), states, **rule, out=tmp_path / next(iter(rule)))
        again = layerscope.results.open_dataset(tmp_path / next(iter(rule)))
        assert again.stopped_early.dtype == bool
        full = int(swept((ids, targets), states).n_examples.max())
        assert full < 4000
        known = ds.n_examples.notnull()
        assert bool(((ds.n_examples < full) == ds.stopped_early).where(known, True).all())
        assert ds.stopped_early.any()
        # At its own limit a cell can't be settled.
        assert "tolerance" in rule or not ds.where(known).stopped_early.all()
        table = layerscope.stats.summary(ds).set_index(["layer", "column"])
        for row in table.itertuples():
            assert row.stopped_early == (row.n_examples < full)
    assert "stopped_early" not in layerscope.stats.summary(swept((ids, targets), states))


def test_batches_as_collators_make_them_are_settled_by_their_next_tokens():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    net = transformers.GPT2LMHeadModel(config).eval()
    start = {name: t.clone() for name, t in net.state_dict().items()}
    end = {name: t.clone() for name, t in start.items()}
    # Every token names the one that comes next in a ring.
    end["transformer.wte.weight"] = end["lm_head.weight"] = torch.randn(12, 8) * 3
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(12, (600, 8), generator=generator)
    mask = (torch.arange(8) < torch.randint(1, 9, (600, 1), generator=generator)).long()
    batches = [
        {"input_ids": ids[at], "attention_mask": mask[at], "labels": ids[at]}
        for at in (slice(first, first + 100) for first in range(0, 600, 100))
    ]
    given = {"checkpoints": {0: start, 1: end}, "draws": 1, "device": "cpu"}
    given |= {"perturbations": ["reinitialize"], "epochs": [0], "show_progress": False}
    true = risen(layerscope.sweep(net, batches, **given))
    ds = layerscope.sweep(net, batches, **given, tolerance=0.1, metrics=["error"])
    value = ds.value.sel(metric="error")
    for each in (value, true + float(layerscope.sweep(net, batches, **given).baseline[0])):
        inside = (ds.lower <= each + 1e-12) & (each - 1e-12 <= ds.upper)
        assert bool(inside.where(each.notnull(), True).all())
    assert ds.stopped_early.any()
