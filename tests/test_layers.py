"""Layers are found whole, named as in the state dict, and watched without a trace."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from layerscope import layers, models
from layerscope.base.tensors import owner_name, shared_groups, tied_names
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


# Views


def tiny(name: str) -> nn.Module:
    """A network of others without memory for its weights."""
    with torch.device("meta"):
        if name.startswith("timm:"):
            return timm.create_model(name.removeprefix("timm:"))
        kept = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        return torchvision.models.get_model(name, weights=None, **kept)


def row_names(model: nn.Module, view: str, norms: str = "own") -> list[str]:
    return [row.name for row in layers.find(model, view, norms)]


BLOCKS = {
    "resnet50": [f"layer{s}.{b}" for s, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for b in range(n)],
    "densenet121": [
        f"features.denseblock{s}.denselayer{b + 1}"
        for s, n in ((1, 6), (2, 12), (3, 24), (4, 16))
        for b in range(n)
    ],
    "vit_b_16": [f"encoder.layers.encoder_layer_{b}" for b in range(12)],
    "swin_t": [f"features.{s}.{b}" for s, n in ((1, 2), (3, 2), (5, 6), (7, 2)) for b in range(n)],
    "convnext_tiny": [
        f"features.{s}.{b}" for s, n in ((1, 3), (3, 3), (5, 9), (7, 3)) for b in range(n)
    ],
    "mobilenet_v3_small": [f"features.{b}" for b in range(1, 12)],
    "inception_v3": [
        *(f"Mixed_{b}" for b in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")),
        "AuxLogits",
        *(f"Mixed_{b}" for b in ("7a", "7b", "7c")),
    ],
    "timm:mixer_s16_224": [f"blocks.{b}" for b in range(8)],
    "timm:swin_tiny_patch4_window7_224": [
        f"layers.{s}.blocks.{b}" for s, n in ((0, 2), (1, 2), (2, 6), (3, 2)) for b in range(n)
    ],
    "timm:efficientnet_b0": [
        f"blocks.{s}.{b}" for s, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for b in range(n)
    ],
}
STAGES = {
    "resnet50": ["layer1", "layer2", "layer3", "layer4"],
    "densenet121": [f"features.denseblock{s}" for s in (1, 2, 3, 4)],
    "vit_b_16": ["stage1"],
    "swin_t": [f"features.{s}" for s in (1, 3, 5, 7)],
    "convnext_tiny": [f"features.{s}" for s in (1, 3, 5, 7)],
    "mobilenet_v3_small": ["stage1", "stage2", "stage3", "stage4"],
    "inception_v3": ["stage1", "stage2", "stage3"],
    "timm:mixer_s16_224": ["stage1"],
    "timm:swin_tiny_patch4_window7_224": [f"layers.{s}" for s in range(4)],
    "timm:efficientnet_b0": [f"blocks.{s}" for s in range(7)],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_and_stages_are_what_the_field_calls_so(name):
    model = tiny(name)
    blocks, stages = layers.find(model, "block"), layers.find(model, "stage")
    assert [row.name for row in blocks if len(row.members) > 1] == BLOCKS[name]
    named = [row.name for row in stages if len(row.members) > 1]
    assert named == STAGES[name]
    inside = {row.block: row.stage for row in layers.find(model)}
    assert {inside[block] for block in BLOCKS[name]} == set(named)


def test_convolutions_without_blocks_are_split_where_they_are_pooled():
    stages = layers.find(tiny("vgg16"), "stage")
    assert [row.name for row in stages] == [
        *(f"stage{s}" for s in range(1, 6)),
        *(f"classifier.{i}" for i in (0, 3, 6)),
    ]
    assert [len(row.members) for row in stages] == [2, 2, 3, 3, 3, 1, 1, 1]
    assert stages[1].modules == ("features.5", "features.7")


def test_components_are_the_parts_of_a_block():
    resnet = row_names(tiny("resnet50"), "component")
    parts = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"]
    assert resnet[:10] == ["conv1", "bn1", *(f"layer1.0.{p}" for p in parts), "layer1.1.conv1"]
    vit = {row.name: row for row in layers.find(tiny("vit_b_16"), "component")}
    first = "encoder.layers.encoder_layer_0"
    assert [n for n in vit if n.startswith(f"{first}.")] == [
        f"{first}.{part}" for part in ("ln_1", "self_attention", "ln_2", "mlp")
    ]
    attention = vit[f"{first}.self_attention"]
    assert attention.members == (f"{first}.self_attention", f"{first}.self_attention.out_proj")
    assert attention.modules == (f"{first}.self_attention",)
    assert (attention.block, attention.stage) == (first, "stage1")
    assert vit["encoder"].modules == ()  # its position embedding lies beside whole blocks
    convnext = row_names(tiny("convnext_tiny"), "component")
    assert [n for n in convnext if n.startswith("features.1.0")] == [
        "features.1.0",  # the scale of the block
        *(f"features.1.0.block.{i}" for i in (0, 2, 3, 5)),
    ]


def test_two_towers_are_seen_into():
    def tower() -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    model = nn.ModuleDict({"text": tower(), "image": tower(), "head": nn.Linear(4, 2)})
    assert row_names(model, "block") == [
        *(f"{t}.layers.{i}" for t in ("text", "image") for i in (0, 1)),
        "head",
    ]
    stages = layers.find(model, "stage")
    assert [row.name for row in stages] == ["text", "image", "head"]
    assert [row.modules for row in stages] == [("text",), ("image",), ("head",)]


RULES = st.sampled_from(["own", "with", "kept"])


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    """Any tree of convolutions, normalisation, pooling, attention and what holds them."""
    leaf = st.sampled_from(
        [
            lambda: nn.Conv2d(1, 1, 1, stride=2),
            lambda: nn.Linear(2, 2),
            lambda: nn.BatchNorm2d(1),
            lambda: nn.BatchNorm1d(2, affine=False),
            lambda: nn.LayerNorm(2),
            lambda: nn.MaxPool2d(2),
            lambda: nn.MultiheadAttention(2, 1),
            lambda: Pair(),
        ]
    )
    children = []
    for _ in range(draw(st.integers(1, 4))):
        deeper = depth > 0 and draw(st.booleans())
        children.append(draw(trees(depth=depth - 1)) if deeper else draw(leaf)())
    return draw(st.sampled_from([nn.Sequential, Owning]))(*children)


class Pair(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(2), nn.Linear(2, 2), nn.Linear(2, 2))


class Owning(nn.Module):
    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.listed = nn.ModuleList(children)


@settings(max_examples=40)
@given(trees(), st.sampled_from(layers.VIEWS), RULES, RULES)
def test_every_view_of_every_network_holds_every_tensor_once(tree, view, parameters, statistics):
    model = nn.Sequential(tree, nn.Linear(2, 2))
    rule = {"parameters": parameters, "statistics": statistics}
    rows = layers.find(model, view, rule)
    named = [name for row in rows for name in row.tensors]
    assert len(named) == len(set(named))
    assert len({row.name for row in rows}) == len(rows)
    norms = {n for n, m in model.named_modules() if isinstance(m, (nn.LayerNorm, NORM))}
    scaled = {n for n, _ in model.named_parameters() if owner_name(n) in norms}
    kept = scaled if parameters == "kept" else set()
    found = {name for row in rows for name in row.parameters}
    assert found == dict(model.named_parameters()).keys() - kept
    everything = layers.whole_network(model, "all", rule)
    assert set(named) <= set(everything.tensors)
    assert set(everything.parameters) == found
    ran = {n for n, _ in model.named_buffers() if owner_name(n) in norms}
    assert set(everything.buffers) == (set() if statistics == "kept" else ran)
    leaves = {row.name: row for row in layers.find(model)}
    for row in rows:
        assert row.size == sum(model.get_parameter(name).numel() for name in row.parameters)
        if row.parameters:
            of_members = {name for leaf in row.members for name in leaves[leaf].parameters}
            assert of_members >= set(row.parameters)
            assert view == "tensor" or of_members == set(row.parameters)
        for module in row.modules:
            # What is passed over with the row is the row's, or kept.
            inside = {n for n, _ in model.get_submodule(module).named_parameters(prefix=module)}
            assert inside <= set(row.parameters) | scaled


NORM = nn.modules.batchnorm._NormBase


def test_an_unknown_view_is_refused():
    with pytest.raises(LayerError, match=r"no view 'blocks'.*'block'"):
        layers.find(nn.Linear(1, 1), "blocks")


class Declaring(nn.Module):
    """Declares blocks across the tree of its modules."""

    def __init__(self, blocks: object, view: str = "block") -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.one.weight
        self.layer_views = {view: blocks}


def test_what_a_network_declares_wins():
    model = Declaring({"first": ["two", "tied"], "norm": "norm", "rest": ["on*"]})
    rows = layers.find(model, "block")
    assert [(row.name, row.members) for row in rows] == [
        ("rest", ("one",)),
        ("first", ("two",)),
        ("norm", ("norm",)),
    ]
    assert [row.modules for row in rows] == [("one",), ("two",), ("norm",)]
    assert rows[0].aliases == ("tied.weight",)
    assert [row.block for row in layers.find(model)] == ["rest", "first", "norm"]
    assert [row.stage for row in layers.find(model)] == ["one", "two", "norm"]  # found
    joined = layers.find(model, "block", "with")
    assert [(row.name, row.members) for row in joined] == [
        ("rest", ("one",)),
        ("first", ("two", "norm")),
    ]


@pytest.mark.parametrize(
    ("blocks", "view", "match"),
    [
        ({"a": ["one", "two"], "b": ["norm", "two"]}, "block", "names two in 'a' and in 'b'"),
        ({"a": ["one", "two"]}, "block", r"layer_views\['block'\] leaves out norm; every leaf"),
        ({"a": ["one", "three"]}, "block", r"'a'\] names 'three', which is no leaf.*one, two"),
        ({"a": ["one"]}, "blocks", "layer_views is .* must map component, block, stage"),
        (["one"], "block", r"layer_views\['block'\] is \['one'\]; it must map names to leaves"),
    ],
)
def test_a_declaration_that_is_no_partition_is_refused(blocks, view, match):
    with pytest.raises(LayerError, match=match):
        layers.find(Declaring(blocks, view))


# Normalisation


def bottleneck() -> nn.Module:
    return torchvision.models.resnet.Bottleneck(4, 1, downsample=nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    ))  # fmt: skip


def test_normalisation_goes_with_the_layer_before_it():
    rows = layers.find(bottleneck(), norms="with")
    assert [row.members for row in rows] == [
        ("conv1", "bn1"),
        ("conv2", "bn2"),
        ("conv3", "bn3"),
        ("downsample.0", "downsample.1"),
    ]
    assert [row.name for row in rows] == ["conv1", "conv2", "conv3", "downsample.0"]
    assert rows[0].module_type == "Conv2d"
    assert rows[0].modules == ("conv1", "bn1")
    assert rows[0].buffers == tuple(
        f"bn1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    )


def test_where_normalisation_comes_first_it_goes_with_the_layer_after_it():
    model = torchvision.models.vision_transformer.EncoderBlock(2, 4, 8, 0.0, 0.0)
    rows = layers.find(model, norms="with")
    assert [row.members for row in rows] == [
        ("ln_1", "self_attention"),
        ("self_attention.out_proj",),
        ("ln_2", "mlp.0"),
        ("mlp.3",),
    ]
    alone = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.LayerNorm(2)), nn.Linear(2, 2))
    assert row_names(alone, "leaf", "with") == ["0", "1.0", "2"]  # nothing beside it
    last = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2), nn.LayerNorm(2))
    assert [row.members for row in layers.find(last, norms="with")] == [("0", "1", "2")]


def test_parameters_and_statistics_are_ruled_apart():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    weights, scale = ("0.weight", "0.bias"), ("1.weight", "1.bias")
    ran = ("1.running_mean", "1.running_var", "1.num_batches_tracked")

    def found(parameters: str, statistics: str) -> list[tuple]:
        rows = layers.find(model, norms={"parameters": parameters, "statistics": statistics})
        return [(row.name, row.tensors, row.members) for row in rows]

    own, both = (*weights, *ran), (*weights, *scale)
    assert found("own", "with") == [("0", own, ("0",)), ("1", scale, ("1",))]
    assert found("with", "kept") == [("0", both, ("0", "1"))]
    assert found("with", "own") == [("0", both, ("0", "1")), ("1", ran, ("1",))]
    assert found("kept", "own") == [("0", weights, ("0",)), ("1", ran, ("1",))]
    assert found("kept", "kept") == [("0", weights, ("0",))]
    statistics_alone = layers.find(model, norms={"parameters": "kept"})[1]
    assert statistics_alone.size == 0
    whole = layers.whole_network(model, "all", {"statistics": "kept"})
    assert whole.tensors == (*weights, *scale)
    assert layers.whole_network(model, "all").tensors == (*weights, *scale, *ran)


def test_statistics_of_normalisation_without_parameters_follow_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    assert [row.buffers for row in layers.find(model)] == [()]
    (row,) = layers.find(model, norms="with")
    assert row.buffers[0] == "1.running_mean"
    assert row.members == ("0",)
    assert layers.whole_network(model, "all").buffers == row.buffers
    assert layers.whole_network(model, "all", "kept").buffers == ()


def test_normalisation_of_others_is_known_by_its_form():
    class OtherRMSNorm(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(shape))

    class Normaliser(OtherRMSNorm):
        pass

    model = nn.Sequential(nn.Linear(2, 2), OtherRMSNorm(2), OtherRMSNorm(2, 2), Normaliser(2))
    assert row_names(model, "leaf", "kept") == ["0", "2", "3"]
    with pytest.raises(LayerError, match="norms keeps every layer"):
        layers.find(nn.BatchNorm1d(2), norms="kept")


@pytest.mark.parametrize(
    ("norms", "match"),
    [
        ("wth", "norms has 'wth' for parameters; it must be one of own, with, kept"),
        ({"statistics": "none"}, "norms has 'none' for statistics"),
        ({"stats": "kept"}, r"norms is \{'stats': 'kept'\}; give one of own, with, kept, or a map"),
        (None, "norms is None; give one of"),
    ],
)
def test_a_rule_that_is_none_is_refused(norms, match):
    with pytest.raises(LayerError, match=match):
        layers.find(nn.Linear(1, 1), norms=norms)


# Groups by function


def test_a_function_groups_leaves():
    model = Nested()

    def by_kind(name: str, module: nn.Module) -> str | None:
        assert module is (model if name == "(root)" else model.get_submodule(name))
        return None if name == "head" else type(module).__name__

    rows = layers.find(model, wanted=by_kind)
    assert [(row.name, row.members) for row in rows] == [
        ("Nested", ("(root)",)),
        ("Linear", ("blocks.0.0", "blocks.1.0")),
        ("BatchNorm1d", ("blocks.0.2", "blocks.1.2")),
    ]
    followed = layers.find(model, norms="with", wanted=lambda name, _: name[:8])
    assert followed[2].members == ("blocks.0.0", "blocks.0.2")
    assert followed[2].modules == ("blocks.0.0", "blocks.0.2")


@pytest.mark.parametrize(
    ("function", "view", "match"),
    [
        (lambda *_: 3, "leaf", r"returned 3 for \(root\); it must return the name of a group"),
        (lambda *_: None, "leaf", "leaves every layer out"),
        (lambda name, _: name, "block", "groups leaves, but view is 'block'; leave view out"),
    ],
)
def test_a_function_that_does_not_group_is_refused(function, view, match):
    with pytest.raises(LayerError, match=match):
        layers.find(Nested(), view, wanted=function)


def test_patterns_pick_rows_of_the_view():
    model = torchvision.models.resnet18()
    assert [r.name for r in layers.find(model, "block", wanted=["layer1*", "fc"])] == [
        "layer1.0", "layer1.1", "fc",
    ]  # fmt: skip
    (deep,) = layers.find(model, "stage", "kept", {"deep": ["layer3", "layer4"]})
    assert deep.modules == ("layer3", "layer4")
    assert not any("bn" in name for name in deep.tensors)


# Tied weights


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), max_size=2),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_tensors_are_tied_exactly_where_an_element_is_shared(forms):
    memory = torch.arange(40.0)
    values, elements = [], []
    for offset, dims in forms:
        view = memory.as_strided([n for n, _ in dims], [step for _, step in dims], offset)
        values.append(view)
        elements.append({int(x) for x in view.flatten()})
    expected = [{i} for i in range(len(values))]
    for i in range(len(values)):
        for j in range(i):
            if elements[i] & elements[j]:
                joined = next(g for g in expected if i in g) | next(g for g in expected if j in g)
                expected = [g for g in expected if not g & joined] + [joined]
    assert {frozenset(c) for c in shared_groups(values)} == {frozenset(g) for g in expected}


class Shared(nn.Module):
    """Views of one memory as parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(3, 2, bias=False)
        self.table = nn.Embedding(4, 3)
        self.head = nn.Linear(4, 3, bias=False)
        self.part.weight = nn.Parameter(self.table.weight.detach()[1:3])
        self.head.weight = nn.Parameter(self.table.weight.detach().T)
        joint = torch.randn(4, 3)
        self.left, self.right = nn.Linear(2, 4, bias=False), nn.Linear(1, 4, bias=False)
        self.left.weight = nn.Parameter(joint[:, :2])
        self.right.weight = nn.Parameter(joint[:, 2:])


def test_views_of_one_memory_are_one_row_and_slices_beside_each_other_are_not():
    model = Shared()
    assert tied_names(model) == {"table.weight": ("part.weight", "head.weight")}
    rows = layers.find(model)
    assert [row.name for row in rows] == ["table", "left", "right"]
    assert rows[0].aliases == ("part.weight", "head.weight")
    assert tied_names(nn.LSTM(2, 3, num_layers=2)) == {}


def test_a_module_in_two_places_has_aliases():
    once = nn.Linear(2, 2)
    assert tied_names(nn.Sequential(once, once)) == {
        "0.weight": ("1.weight",),
        "0.bias": ("1.bias",),
    }
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("seen", model[1].running_mean)
    # A buffer counts where the parameters beside it are, though it is named elsewhere first.
    assert tied_names(model) == {"1.running_mean": ("seen",)}


# Parametrised modules


@pytest.mark.parametrize(
    "parametrise",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
def test_what_parametrises_a_tensor_belongs_to_its_module(parametrise):
    model = nn.Sequential(parametrise(nn.Conv2d(2, 2, 1)), nn.Conv2d(2, 2, 1))
    first, second = layers.find(model)
    assert (first.name, first.module_type, first.modules) == ("0", "Conv2d", ("0",))
    assert {n for n in model.state_dict() if n.startswith("0.")} == set(first.tensors)
    assert second.tensors == ("1.weight", "1.bias")


def test_weight_norm_of_old_is_one_layer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.utils.weight_norm(nn.Linear(2, 2))
    (row,) = layers.find(model)
    assert set(row.tensors) == {"bias", "weight_g", "weight_v"}
