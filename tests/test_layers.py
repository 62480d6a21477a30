"""Layers are found whole, named as in the state dict, and watched without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerscope import layers, models
from layerscope.errors import LayerError


class Nested(nn.Module):
    """Tied, run in another order than registered, with parameters and buffers on the root."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 10, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)) for _ in range(2)
        )
        self.embed = nn.Embedding(10, 4)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.embed(tokens)
        for block in reversed(self.blocks):
            values = block(values) * self.scale
        return self.head(values)


TOKENS = torch.tensor([1, 2, 3])


def hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()
    )


def test_every_tensor_is_in_one_layer_and_named_as_in_the_state_dict():
    model = Nested()
    found = {layer.name: layer for layer in layers.find(model)}
    assert list(found) == ["(root)", "head", "blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"]
    assert found["(root)"].parameters == ("scale",)
    assert found["(root)"].buffers == ("kept",)  # the other is not saved
    assert found["head"].parameters == ("head.weight",)
    assert found["blocks.1.2"].module_type == "BatchNorm1d"
    assert found["blocks.1.2"].tensors == (
        "blocks.1.2.weight",
        "blocks.1.2.bias",
        "blocks.1.2.running_mean",
        "blocks.1.2.running_var",
        "blocks.1.2.num_batches_tracked",
    )
    assert sum(layer.size for layer in found.values()) == sum(p.numel() for p in model.parameters())
    named = [name for layer in found.values() for name in layer.tensors]
    assert len(named) == len(set(named))
    assert set(named) == model.state_dict().keys() - {"embed.weight"}  # the tied alias


def test_a_tied_weight_with_a_bias_of_its_own_splits_rightly():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    first, second = layers.find(model)
    assert first.parameters == ("0.weight", "0.bias")
    assert second.parameters == ("1.bias",)


def test_frozen_parameters_count():
    model = nn.Linear(2, 2).requires_grad_(requires_grad=False)
    assert layers.find(model)[0].tensors == ("weight", "bias")


def test_attention_has_its_projections():
    found = {layer.name: layer for layer in layers.find(nn.Sequential(nn.MultiheadAttention(4, 2)))}
    assert set(found) == {"0", "0.out_proj"}
    assert found["0"].parameters == ("0.in_proj_weight", "0.in_proj_bias")


def test_no_parameters_and_none_yet_are_refused():
    with pytest.raises(LayerError, match="the ReLU has no parameters"):
        layers.find(nn.ReLU())
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(LayerError, match="0 has no shape yet; run the network on one batch"):
        layers.find(lazy)
    lazy(torch.zeros(1, 5))
    assert layers.find(lazy)[0].size == 18


def test_select_by_name_pattern_and_group():
    found = layers.find(Nested())
    assert layers.select(found, None) == found
    names = [layer.name for layer in layers.select(found, ["blocks.1.*", "head", "blocks.*.0"])]
    assert names == ["head", "blocks.0.0", "blocks.1.0", "blocks.1.2"]  # each once, in order
    assert [layer.name for layer in layers.select(found, "(root)")] == ["(root)"]
    block, rest = layers.select(found, {"block": "blocks.0.*", "rest": ["(root)", "blocks.1.?"]})
    assert block.name == "block"
    assert block.members == ("blocks.0.0", "blocks.0.2")
    assert block.size == 4 * 4 + 4 + 8
    assert block.buffers[0] == "blocks.0.2.running_mean"
    assert rest.members == ("(root)", "blocks.1.0", "blocks.1.2")
    assert rest.tensors == rest.parameters + rest.buffers


def test_names_with_brackets_are_taken_literally():
    model = nn.Module()
    model.add_module("a[0]", nn.Linear(1, 1))
    model.add_module("a0", nn.Linear(1, 1))
    assert [layer.name for layer in layers.select(layers.find(model), ["a[0]"])] == ["a[0]"]


@pytest.mark.parametrize("wanted", [["layr2"], {"group": "layr2"}, {"group": ["layer1", "layr2"]}])
def test_a_pattern_that_matches_nothing_suggests_names(wanted):
    found = layers.find(models.build("fcn-2x4", inputs=(3,), classes=2))
    with pytest.raises(LayerError, match=r"'layr2'.*'layer2'.*There is: layer1, layer2, layer3"):
        layers.select(found, wanted)


def test_execution_order_is_not_order_of_registration():
    model = Nested().eval()
    found = layers.find(model)
    ordered = layers.execution_order(model, found, lambda: model(TOKENS))
    names = [layer.name for layer in ordered]
    assert names == ["(root)", "blocks.1.0", "blocks.1.2", "blocks.0.0", "blocks.0.2", "head"]
    assert hooks(model) == 0


def test_a_module_that_is_called_again_stands_where_it_was_first():
    twice, once = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.Sequential(twice, once, twice)
    ordered = layers.execution_order(
        model, layers.find(model)[::-1], lambda: model(torch.ones(1, 2))
    )
    assert [layer.name for layer in ordered] == ["0", "1"]


def test_a_module_that_is_not_called_itself_stands_with_its_ancestor():
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.attend = nn.MultiheadAttention(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.attend(x, x, x)[0])

    model = Attending()
    ordered = layers.execution_order(model, layers.find(model), lambda: model(torch.zeros(3, 1, 4)))
    assert [layer.name for layer in ordered] == ["attend", "attend.out_proj", "last"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_also_when_the_pass_fails(stop):
    model = Nested()
    own = model.head.register_forward_pre_hook(lambda *_: None)

    def run() -> None:
        assert hooks(model) > 1
        raise stop

    with pytest.raises(stop):
        layers.execution_order(model, layers.find(model), run)
    assert hooks(model) == 1
    assert own.id in model.head._forward_pre_hooks
