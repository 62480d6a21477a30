"""Values that an initialiser can't give rule it out: structured initialisers, one by one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn

from layerscope import layers
from layerscope.base import seeds
from layerscope.core.checkpoints import open_series
from layerscope.core.perturb import Redraw, _likeness as likeness


def drawn(make, name, still=()):
    """Origin of a layer, its values at epoch 0, and two draws of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    start = copy.deepcopy(model.state_dict())
    late = {
        n: t.clone() if n in still or not t.is_floating_point() else 3 * t + 7
        for n, t in start.items()
    }
    source = Redraw(model, open_series({0: start, 5: late}).fit(model))
    leaf = next(layer for layer in layers.find(model) if layer.name == name)
    one, two = (source.draw(leaf, seeds.generator("fresh", n)) for n in range(2))
    assert one.keys() == set(leaf.tensors)
    return source.origin(leaf), start, one, two


class Net(nn.Module):
    def __init__(self, change, layer=None):
        super().__init__()
        self.layer = layer or nn.Linear(48, 48)
        with torch.no_grad():
            change(self.layer)


def orthogonal(matrix):
    gram = matrix.double() @ matrix.double().T
    return torch.allclose(gram, gram[0, 0] * torch.eye(len(gram), dtype=gram.dtype), atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 48), (20, 48), (8, 8)])
def test_orthogonal_matrices_stay_orthogonal(shape):
    layer = nn.Linear(shape[1], shape[0])
    origin, start, one, two = drawn(
        lambda: Net(lambda m: nn.init.orthogonal_(m.weight, 1.4), layer), "layer"
    )
    assert origin == "empirical (orthogonal)"
    assert orthogonal(one["layer.weight"])
    assert not torch.equal(one["layer.weight"], two["layer.weight"])
    assert not torch.equal(one["layer.weight"], start["layer.weight"])
    assert float(one["layer.weight"].norm(dim=1).mean()) == pytest.approx(1.4, rel=1e-5)


def test_orthogonal_blocks_are_told_not_to_be_independent():
    def change(lstm):
        for block in lstm.weight_hh_l0.split(16):
            nn.init.orthogonal_(block)

    origin, *_ = drawn(lambda: Net(change, nn.LSTM(8, 16)), "layer")
    assert "not independent" in origin


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (lambda: nn.Linear(48, 48, bias=False), lambda m: nn.init.eye_(m.weight)),
        (lambda: nn.Conv2d(8, 8, 3, bias=False), lambda m: nn.init.dirac_(m.weight)),
        (lambda: nn.Linear(6, 6, bias=False), lambda m: nn.init.eye_(m.weight)),
        (
            lambda: nn.Linear(48, 48, bias=False),
            lambda m: m.weight.copy_(torch.ones(48, 48).tril()),
        ),
    ],
    ids=["identity", "dirac", "small identity", "mask"],
)
def test_patterns_of_few_values_stay(layer, change):
    origin, start, one, _ = drawn(lambda: Net(change, layer()), "layer")
    assert origin == "empirical (pattern kept)"
    assert torch.equal(one["layer.weight"], start["layer.weight"])


@pytest.mark.parametrize("size", [4, 16])
def test_a_forget_gate_begins_open(size):
    def change(lstm):
        for name, tensor in lstm.named_parameters():
            if "bias" in name:
                tensor.zero_()
                tensor[size : 2 * size] = 1

    origin, start, one, two = drawn(lambda: Net(change, nn.LSTM(8, size)), "layer")
    assert origin == "empirical (pattern kept)"
    for name in ("layer.bias_ih_l0", "layer.bias_hh_l0"):
        assert torch.equal(one[name], start[name])
    assert not torch.equal(one["layer.weight_hh_l0"], two["layer.weight_hh_l0"])
    bound = size**-0.5
    law = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(one["layer.weight_ih_l0"].flatten(), law.cdf).pvalue > 1e-3


def test_a_padding_row_stays_zero_and_gives_its_zeros_to_none():
    def change(table):
        table.weight.mul_(0.3)
        table.weight[0] = 0

    origin, _, one, two = drawn(lambda: Net(change, nn.Embedding(100, 16, padding_idx=0)), "layer")
    assert origin == "empirical (pattern kept)"
    for table in (one["layer.weight"], two["layer.weight"]):
        assert not table[0].any()
        assert table[1:].all()
    assert stats.kstest(one["layer.weight"][1:].flatten(), stats.norm(scale=0.3).cdf).pvalue > 1e-3
    # As torch draws it, its own method is right, and knows the row.
    origin, _, one, _ = drawn(lambda: Net(lambda _: None, nn.Embedding(100, 16, 3)), "layer")
    assert origin == "reset_parameters"
    assert not one["layer.weight"][3].any()


def test_zeros_of_a_sparse_matrix_stay_where_they_are():
    origin, start, one, two = drawn(
        lambda: Net(lambda m: nn.init.sparse_(m.weight, 0.25, std=0.1)), "layer"
    )
    assert origin.startswith("empirical (")
    assert "pattern kept" in origin or "not independent" in origin
    zeros = start["layer.weight"] == 0
    assert torch.equal(one["layer.weight"] == 0, zeros)
    assert torch.equal(two["layer.weight"] == 0, zeros)


def test_truncated_normal_values_stay_within_their_bounds():
    def change(layer):
        nn.init.trunc_normal_(layer.weight, std=0.5, a=-0.6, b=0.6)

    origin, start, one, two = drawn(lambda: Net(change), "layer")
    assert origin == "empirical"
    assert one["layer.weight"].abs().max() <= 0.6
    assert (
        stats.ks_2samp(one["layer.weight"].flatten(), start["layer.weight"].flatten()).pvalue > 1e-3
    )
    assert not torch.equal(one["layer.weight"], two["layer.weight"])


def sinusoids(count=64, width=32):
    at = torch.arange(count).unsqueeze(1) / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([at.sin(), at.cos()], -1).flatten(1)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_table_of_sinusoids(frozen):
    """Frozen, it stays; else nothing is known that would draw another, and it says so."""

    def make():
        net = Net(lambda m: m.weight.copy_(sinusoids()), nn.Embedding(64, 32))
        net.layer.weight.requires_grad_(not frozen)
        return net

    origin, start, one, _ = drawn(make, "layer", ["layer.weight"] if frozen else [])
    if frozen:
        assert origin == "frozen"
        assert torch.equal(one["layer.weight"], start["layer.weight"])
    else:
        assert origin == "empirical (not independent)"


def test_what_only_does_not_want_gradients_is_drawn():
    def make():
        return Net(lambda _: None).requires_grad_(False)

    origin, start, one, _ = drawn(make, "layer")
    assert origin == "reset_parameters"
    assert not torch.equal(one["layer.weight"], start["layer.weight"])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.weight.copy_(torch.eye(48) + 0.01 * torch.randn(48, 48)),
        lambda m: m.weight.copy_(m.weight + m.weight.T.clone()),
        lambda m: m.weight.copy_(m.weight - m.weight.T.clone()),
        lambda m: m.weight.copy_(torch.cat([m.weight[:24], -m.weight[:24]])),
        lambda m: m.weight.mul_(torch.linspace(0.1, 3, 48).unsqueeze(1)),
        lambda m: m.weight.copy_(m.weight.cumsum(1)),
        lambda m: m.weight.sub_(m.weight.mean(1, keepdim=True)).add_(
            torch.linspace(-1, 1, 48).unsqueeze(1)
        ),
    ],
    ids=[
        "eye plus noise",
        "symmetric",
        "antisymmetric",
        "pairs",
        "row sizes",
        "paths",
        "row means",
    ],
)
def test_what_hangs_together_is_said_to_be(change):
    assert drawn(lambda: Net(change), "layer")[0] == "empirical (not independent)"


def test_a_residual_branch_begins_shut():
    def make():
        net = Net(lambda m: (m.weight.zero_(), m.bias.zero_()))
        net.gamma = nn.BatchNorm2d(8)
        nn.init.zeros_(net.gamma.weight)
        return net

    for name in ("layer", "gamma"):
        origin, _, one, _ = drawn(make, name)
        assert origin == "empirical"
        assert not one[f"{name}.weight"].any()


def test_gpt2_scales_its_residual_projections():
    transformers = pytest.importorskip("transformers")

    def make():
        config = transformers.GPT2Config(
            vocab_size=99, n_positions=32, n_embd=48, n_layer=8, n_head=4
        )
        return transformers.GPT2LMHeadModel(config)

    for name, std in (
        ("transformer.h.3.attn.c_proj", 0.02 / math.sqrt(16)),
        ("transformer.h.3.mlp.c_fc", 0.02),
    ):
        origin, _, one, two = drawn(make, name)
        assert origin == "init_weights"
        values = one[f"{name}.weight"].flatten()
        assert stats.kstest(values, stats.norm(scale=std).cdf).pvalue > 1e-3
        assert not one[f"{name}.bias"].any()
        assert not torch.equal(values, two[f"{name}.weight"].flatten())


def test_a_part_of_a_network_draws_itself():
    transformers = pytest.importorskip("transformers")

    def make():
        net = nn.Module()
        config = transformers.BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=32,
        )  # fmt: skip
        net.backbone = transformers.BertModel(config)
        net.head = nn.Linear(32, 3)
        return net

    words = "backbone.embeddings.word_embeddings"
    origin, _, one, _ = drawn(make, words)
    assert origin == "init_weights"
    assert not one[f"{words}.weight"][0].any()
    law = stats.norm(scale=0.02)
    assert stats.kstest(one[f"{words}.weight"][1:].flatten(), law.cdf).pvalue > 1e-3
    assert drawn(make, "head")[0] == "reset_parameters"


def test_timm_draws_truncated_normals():
    timm = pytest.importorskip("timm")

    def make():
        return timm.models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=48, depth=2, num_heads=4, num_classes=10
        )

    name = "blocks.0.mlp.fc1"
    origin, start, one, _ = drawn(make, name)
    assert origin == "init_weights"
    values, before = one[f"{name}.weight"].flatten(), start[f"{name}.weight"].flatten()
    assert stats.ks_2samp(values, before).pvalue > 1e-3
    assert not one[f"{name}.bias"].any()


def test_an_initialiser_that_epoch_0_contradicts_is_not_used():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(48, 48)
            nn.init.normal_(self.layer.weight, std=0.5)

        def init_weights(self):
            nn.init.normal_(self.layer.weight, std=0.02)
            nn.init.zeros_(self.layer.bias)

    origin, _, one, _ = drawn(Changed, "layer")
    assert origin == "empirical"
    assert stats.kstest(one["layer.weight"].flatten(), stats.norm(scale=0.5).cdf).pvalue > 1e-5


@pytest.mark.parametrize(
    "method",
    [lambda _, module: module, lambda _: 1 / 0, lambda net: net.layer.weight.mean().item()],
)
def test_a_method_that_needs_more_is_left_alone(method):
    net = type("Own", (Net,), {"init_weights": method})
    origin, _, one, _ = drawn(lambda: net(lambda _: None), "layer")
    assert origin == "reset_parameters"
    assert one["layer.weight"].abs().max() <= 48**-0.5


def test_random_signs_are_draws():
    def change(layer):
        layer.weight.copy_(torch.where(torch.rand(48, 48) < 0.5, 0.1, -0.1))

    origin, _, one, two = drawn(lambda: Net(change), "layer")
    assert origin == "empirical"
    assert not torch.equal(one["layer.weight"], two["layer.weight"])


def test_clean_initialisers_raise_no_alarm():
    """Networks whose every layer is what torch, or the network, says it is."""
    for seed in range(12):
        torch_net = lambda: nn.Sequential(  # noqa: E731
            nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, groups=12),
            nn.Linear(40, 10), nn.LSTM(8, 8), nn.Embedding(30, 8), nn.Linear(8, 8),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(100 + seed)
            net = torch_net()
            dist = torch.distributions.Laplace(0.0, 1.0)
            for tensor in (net[6].weight, net[6].bias):
                tensor.data = dist.sample(tensor.shape)
        start = copy.deepcopy(net.state_dict())
        late = {n: t * 3 + 7 if t.is_floating_point() else t for n, t in start.items()}
        source = Redraw(net, open_series({0: start, 5: late}).fit(net))
        found = {layer.name: source.origin(layer) for layer in layers.find(net)}
        assert found.pop("6") == "empirical"
        assert set(found.values()) == {"reset_parameters"}, (seed, found)


def test_short_types_repeat_values_by_themselves():
    torch.manual_seed(0)
    values = torch.randn(64, 64).bfloat16()
    assert likeness.independent(values)
    assert not likeness.patterned(values).any()
