"""Greedy removal: the cheapest block each time, each value that of a network without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import metrics
from layerscope.errors import LayerError, OptionError, ResultError

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")

OPTIONS = {"metric": "loss", "batch_size": 4, "device": "cpu", "show_progress": False}


class Stack(nn.Module):
    """Blocks of unequal strength between an embedding and a head."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            for _ in range(blocks)
        )
        self.head = nn.Linear(8, 7)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean(1))


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Stack()


@pytest.fixture
def data():
    chance = torch.Generator().manual_seed(0)
    return torch.randint(7, (10, 5), generator=chance), torch.randint(7, (10,), generator=chance)


def by_hand(model, data, gone):
    """The loss of a copy that never had these blocks."""
    other = copy.deepcopy(model)
    other.blocks = nn.ModuleList(b for at, b in enumerate(other.blocks) if at not in gone)
    return metrics.evaluate(other, data, ["loss"], batch_size=4, device="cpu")["loss"].mean


def test_each_step_takes_the_cheapest_block_and_says_what_a_network_without_it_gives(model, data):
    path = layerscope.prune(model, data, **OPTIONS)
    loss, tried = path.value.sel(metric="loss"), path.candidate.sel(metric="loss")
    gone: list[int] = []
    assert float(loss[0]) == by_hand(model, data, [])
    for step in range(1, 4):
        found = {at: by_hand(model, data, [*gone, at]) for at in range(4) if at not in gone}
        best = min(found, key=found.__getitem__)
        assert {at: float(tried[step, at]) for at in found} == found
        assert bool(tried[step, gone].isnull().all())
        assert str(path.removed[step].item()) == f"blocks.{best}"
        assert float(loss[step]) == found[best]
        worse = path.sel(step=step, metric="loss")
        assert float(worse.degradation) == pytest.approx(found[best] - float(loss[0]))
        assert float(worse.lower) < float(worse.degradation) < float(worse.upper)
        gone.append(best)
    assert len(model.blocks) == 4


def test_where_blocks_work_together_one_by_one_is_not_what_counts(data):
    """Two blocks that each undo the other: either alone breaks the network, both do nothing."""

    class Add(nn.Module):
        def __init__(self, amount):
            super().__init__()
            self.amount = nn.Parameter(torch.full((8,), amount))
            self.other = nn.Linear(8, 8)  # a block has several leaves

        def forward(self, hidden):
            return hidden + self.amount * torch.arange(8) + 0 * self.other(hidden)

    torch.manual_seed(0)
    model = Stack()
    model.blocks = nn.ModuleList(Add(amount) for amount in (50.0, -50.0, 0.125, 0.25))
    path = layerscope.prune(model, data, **OPTIONS)
    assert {*path.removed.values[1:3].tolist()} == {"blocks.2", "blocks.3"}


def test_it_stops_at_a_number_of_blocks_or_a_limit(model, data):
    whole = layerscope.prune(model, data, **OPTIONS)
    assert whole.sizes["step"] == 4
    two = layerscope.prune(model, data, blocks=2, **OPTIONS)
    xr.testing.assert_equal(two, whole.isel(step=slice(3)))
    cost = whole.degradation.sel(metric="loss").values
    limit = float(np.sort(cost[1:])[0] - 1e-6)
    none = layerscope.prune(model, data, limit=limit, **OPTIONS)
    assert none.sizes["step"] == 1
    assert "beyond the limit" in none.attrs["ended"]
    assert str(whole.removed[1].item()) in none.attrs["ended"]
    again = layerscope.prune(model, data, limit=float(cost[1]), **OPTIONS)
    assert again.sizes["step"] >= 2


def test_what_is_done_is_kept_and_not_done_again(model, data, tmp_path):
    asked = []

    def stop(after):
        def between():
            asked.append(None)
            if len(asked) > after:
                raise KeyboardInterrupt

        return between

    # Three batches of four blocks, then of three.
    with pytest.raises(KeyboardInterrupt):
        layerscope.prune(model, data, out=tmp_path, between=stop(12 + 4), **OPTIONS)
    known = layerscope.open_dataset(tmp_path)
    assert known.sizes["step"] == 2
    assert known.attrs["ended"] == "stopped before its end."
    asked.clear()
    path = layerscope.prune(model, data, out=tmp_path, between=stop(10**6), **OPTIONS)
    assert len(asked) < 3 * (3 + 2)
    xr.testing.assert_identical(layerscope.open_dataset(tmp_path), path)
    xr.testing.assert_equal(path, layerscope.prune(model, data, **OPTIONS))


def test_the_path_is_exported_as_far_as_it_is_wanted(model, data, tmp_path):
    path = layerscope.prune(model, data, **OPTIONS)

    def removed(without, **more):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        return layerscope.export(model, place, without, data=data, **more)

    record = removed(path.sel(step=slice(2)))
    assert {*record["removed"]} == {*path.removed.values[1:3].tolist()}
    assert record["of_the_sweep"] == record["predicted"] == record["measured"]
    assert record["predicted"]["loss"] == float(path.value.sel(step=2, metric="loss"))
    bounds = path.upper.sel(metric="loss").values
    record = removed(path, margin=float(bounds[1]), metric="loss")
    last = max(at for at, bound in enumerate(bounds) if bound <= bounds[1])
    assert {*record["removed"]} == {*path.removed.values[1 : last + 1].tolist()}
    with pytest.raises(ResultError, match="all up to it"):
        removed(path.sel(step=2))
    with pytest.raises(LayerError, match="no step of the path"):
        removed(path, margin=-9.0, metric="loss")


def test_wrong_calls_are_told_before_anything_runs(model, data):
    for more, error, words in (
        ({"blocks": 4}, OptionError, "at least one must stay"),
        ({"blocks": 0}, OptionError, "at least 1"),
        ({"limit": "much"}, OptionError, "limit"),
        ({"view": "leaf"}, OptionError, "view itself"),
        ({"tolerance": 0.1}, OptionError, "tolerance itself"),
        ({"plan": True}, OptionError, "plan itself"),
        ({"metric": "lost", "blocks": 1}, OptionError, "loss"),
    ):
        with pytest.raises(error, match=words):
            layerscope.prune(model, data, **{**OPTIONS, **more})
    with pytest.raises(OptionError, match="one data set"):
        layerscope.prune(model, {"one": data, "two": data}, **OPTIONS)
    with pytest.raises(LayerError, match="at least two"):
        layerscope.prune(nn.Sequential(nn.Linear(8, 7)), data, **OPTIONS)


def test_a_decoder_loses_its_blocks_as_a_forward_without_them(data):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=7, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    pair = data[0][:, :-1], data[0][:, 1:]
    path = layerscope.prune(model, pair, **OPTIONS)
    gone = {str(name) for name in path.removed.values[1:]}
    stays = [f"model.layers.{at}" for at in range(3) if f"model.layers.{at}" not in gone]
    model.model.layers = nn.ModuleList(model.get_submodule(name) for name in stays)
    model.config.num_hidden_layers = 1
    model.config.use_cache = False
    found = metrics.evaluate(model, pair, ["loss"], batch_size=4, device="cpu")["loss"].mean
    assert found == float(path.value.sel(metric="loss")[-1])
