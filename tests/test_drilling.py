"""Drilling down finds a planted weight, and measures it exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import measures, perturb, testing
from layerscope.core import plain
from layerscope.core.batches import FixedBatches
from layerscope.core.drilling import _drill as own
from layerscope.core.measures import down_projections
from layerscope.errors import LayerError, OptionError

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")

OPTIONS = {
    "metrics": ["agreement", "loss"],
    "batch_size": 4,
    "device": "cpu",
    "show_progress": False,
}
TINY = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 97, "n_positions": 64,
             "bos_token_id": 0, "eos_token_id": 0},
}  # fmt: skip
WHERE = {
    # A weight of block 1's down-projection, which GPT-2 holds the other way round.
    "llama": ("model.layers.1.mlp.down_proj.weight", (20, 7)),
    "gpt2": ("transformer.h.1.mlp.c_proj.weight", (7, 20)),
}


@pytest.fixture(params=["llama", "gpt2"])
def planted(request):
    """A network in which one scalar says most of what is said, and its place."""
    kind = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **TINY[kind])
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
            name, place = WHERE[kind]
            if kind == "llama":
                model.model.layers[1].mlp.up_proj.weight[7] *= 40  # its input has a spike
            else:
                model.transformer.h[1].mlp.c_fc.weight[:, 7] *= 40
            model.get_parameter(name)[place] = 300.0
    return model, name, place


@pytest.fixture
def data():
    ids = torch.randint(97, (8, 10), generator=torch.Generator().manual_seed(1))
    return ids, ids.roll(-1, 1)


def without(model, name, place):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name)[place] = 0
    return other


def evaluated(model, data, reference):
    batches = FixedBatches(data, 4, torch.device("cpu"))
    found = plain.evaluate(model, batches, ["agreement", "loss"], reference)
    return [tally.mean for tally in found.values()]


def test_the_super_weight_is_found_and_measured_exactly(planted, data):
    model, name, place = planted
    ds = layerscope.super_weights(model, data, 2, **OPTIONS)
    assert ds.sizes["layer"] == 2
    row = ds.sel(layer=name)
    assert (int(row.weight_row), int(row.weight_column)) == place
    assert float(row.weight) == 300.0
    wanted = evaluated(without(model, name, place), data, model)
    assert row.value.squeeze().values.tolist() == wanted
    agreement = ds.value.sel(metric="agreement").squeeze()
    assert str(agreement.idxmin("layer").item()) == name
    for other in set(ds.layer.values) - {name}:
        at = ds.sel(layer=other)
        there = int(at.weight_row), int(at.weight_column)
        assert at.value.squeeze().values.tolist() == evaluated(
            without(model, str(other), there), data, model
        )


def test_spikes_are_the_largest_inputs_and_outputs_of_tokens_that_count(planted):
    model, name, _ = planted
    ids = torch.randint(1, 97, (6, 9), generator=torch.Generator().manual_seed(2))
    kept = torch.tensor([9, 4, 9, 2, 7, 9])[:, None] > torch.arange(9)
    inputs = {"input_ids": ids * kept, "attention_mask": kept.long()}
    seen = []
    hook = model.get_submodule(name.removesuffix(".weight")).register_forward_hook(
        lambda _, args, out: seen.append((args[0][kept].abs().max(), out[kept].abs().max()))
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    labels = {**inputs, "labels": ids.where(kept, -100)}
    ds = layerscope.super_weights(model, labels, 3, **{**OPTIONS, "batch_size": 6})
    row = ds.sel(layer=name)
    assert [float(row.largest_input), float(row.largest_output)] == [float(x) for x in seen[0]]
    assert not any(m._forward_hooks or m._forward_hooks_with_kwargs for m in model.modules())


def test_drilling_ends_at_the_planted_weight(planted, data, tmp_path):
    model, name, place = planted
    found = layerscope.drill(model, data, metric="agreement", out=tmp_path, **OPTIONS)
    assert list(found) == ["block", "component", "tensor", "weight"]
    block = name.split(".mlp")[0]
    assert all(str(row).startswith(f"{block}.") for row in found["component"].layer.values)
    assert all(str(row).startswith(f"{block}.mlp.") for row in found["tensor"].layer.values)
    (row,) = found["weight"].layer.values
    assert row == name
    worst = found["weight"].value.sel(metric="agreement").squeeze().idxmin("perturbation").item()
    assert worst == f"zero_weights({{'{name}': [{place}]}})"
    value = found["weight"].value.sel(perturbation=worst).squeeze().values.tolist()
    assert value == evaluated(without(model, name, place), data, model)
    again = layerscope.drill(model, data, metric="agreement", out=tmp_path, **OPTIONS)
    assert all(again[view].identical(found[view]) for view in found)
    inside = layerscope.drill(model, data, block, metric="agreement", **OPTIONS)
    assert list(inside) == ["component", "tensor", "weight"]
    np.testing.assert_array_equal(inside["weight"].value, found["weight"].value)


def test_a_tensor_that_is_no_matrix_loses_its_largest_weight():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
        with torch.no_grad():
            net[1].weight[2] = -9.0
        pair = torch.randn(12, 4), torch.arange(12) % 3
    (first, *_) = own._single(net, pair, "1.weight", 2, {"device": "cpu"})
    assert first.name == "zero_weights({'1.weight': [(2,)]})"


def test_what_is_no_number_is_the_worst():
    ds = testing.dataset(layers=3)
    computed = ds["value"].isel(metric=0, drop=True).notnull()
    broken = computed & (ds["layer"] == "layer2")
    ds["value"] = ds["value"].where(~broken)
    ds["not_finite"] = (broken * 5.0).where(computed)
    assert own._worst(ds, "error") == "layer2"


def test_where_nothing_leads_back_there_is_no_super_weight(data):
    net = nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 97))
    with pytest.raises(LayerError, match="no blocks whose MLP leads back"):
        layerscope.super_weights(net, data, **OPTIONS)
    assert down_projections(net) == []


def test_what_the_steps_give_themselves_is_refused(planted, data):
    model, *_ = planted
    with pytest.raises(OptionError, match="drill sets view itself"):
        layerscope.drill(model, data, view="leaf")
    with pytest.raises(LayerError, match=r"no block 'model\.layer'"):
        layerscope.drill(model, data, "model.layer")
    assert measures.MEASURES["output_spike"].per_output is not None


def test_experts_in_one_tensor_are_told_and_their_weights_can_be_taken_by_name(data):
    config = transformers.AutoConfig.for_model("mixtral", num_local_experts=3, **TINY["llama"])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    name = "model.layers.0.mlp.experts.down_proj"
    with pytest.raises(LayerError, match=f"experts .* one tensor .* {name}"):
        layerscope.super_weights(model, data, **OPTIONS)
    ds = layerscope.sweep(
        model, data, view="tensor", layers=[name], whole=False, **OPTIONS,
        perturbations=[perturb.zero_weights({name: [(1, 2, 3)]}, "one")],
        measures=["output_spike"],
    )  # fmt: skip
    wanted = evaluated(without(model, name, (1, 2, 3)), data, model)
    assert ds.value.squeeze().values.tolist() == wanted
    (why,) = layerscope.results.settings(ds)["not_measured"].values()
    assert f"experts are one tensor, {name}" in str(why)
