"""Networks of every family compute what they should, and say of themselves what is true."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional

from layerscope import layers, models
from layerscope.errors import LayerError, OptionError
from layerscope.zoo.models._family import VIEWS
from layerscope.zoo.models._language import LSTMConfig, TransformerConfig
from layerscope.zoo.models._patches import MixerConfig, ViTConfig
from layerscope.zoo.models._resnet import ResNetConfig
from layerscope.zoo.models._vgg import VGGConfig

TEXT = {"inputs": (7,), "classes": 50}
V1 = {"inputs": (3, 64, 64), "classes": 7}

# One of every kind that there is code for.
NETWORKS = {
    "fcn": ("fcn-2x32", {"inputs": (1, 6, 6), "classes": 7}),
    "vgg": ("vgg11-w0.1", {"classes": 7}),
    "vgg, batch norm, 28 pixels": ("vgg16-bn-w0.05", {"inputs": (1, 28, 28), "dropout": 0.3}),
    "vgg of torchvision": ("vgg11-bn-w0.05", V1),
    "resnet": ("resnet18-w0.1", {"classes": 7}),
    "resnet, bottlenecks without norm": ("resnet50-nonorm-w0.05", {}),
    "resnet, large, without norm": ("resnet18-nonorm-w0.1", V1),
    "resnet of torchvision": ("resnet18", V1),
    "vit": ("vit-32x2-p8-h2", {"classes": 7, "dropout": 0.1}),
    "vit of timm": ("vit-32x2-p8", {"initializer": "timm"}),
    "mixer": ("mixer-32x2-p8", {"classes": 7}),
    "transformer": ("transformer-32x2-h4", {**TEXT, "dropout": 0.1}),
    "transformer, tied": ("transformer-32x2", {**TEXT, "tied": True}),
    "lstm": ("lstm-16x2", {**TEXT, "dropout": 0.2}),
    "lstm, tied": ("lstm-16x2", {**TEXT, "tied": True}),
}


def built(kind, seed=0, **options):
    name, own = NETWORKS[kind]
    return models.build(name, seed=seed, **{**own, **options})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(net, n=3, seed=0):
    """Random inputs that the network takes."""
    if isinstance(net.config, TransformerConfig | LSTMConfig):
        return torch.randint(net.config.classes, (n, *net.config.inputs), generator=generator(seed))
    return torch.randn(n, *net.config.inputs, generator=generator(seed))


def test_there_is_one_of_every_family():
    assert {models.configure(name).family for name, _ in NETWORKS.values()} == set(models.FAMILIES)
    for name, family in models.FAMILIES.items():
        assert models.configure(family.example).family == name
        assert models.configure(family.example).name == family.example


# What every network promises


@pytest.mark.usefixtures("same_global_generator")
@pytest.mark.parametrize("kind", NETWORKS)
def test_outputs_have_the_right_shape_and_repeat(kind):
    net = built(kind).eval()
    x = batch(net)
    out = net(x)
    assert out.shape == (3, *(x.shape[1:] if x.ndim == 2 else ()), net.config.classes)
    assert out.isfinite().all()
    assert torch.equal(out, net(x))


@pytest.mark.usefixtures("same_global_generator")
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_is_drawn_by_what_is_declared_for_it(kind):
    net = built(kind, seed=5)
    assert list(net.initializers) == [name for name, _ in net.named_parameters()]
    again = generator(5)
    for name, parameter in net.named_parameters():
        drawn = torch.full_like(parameter, math.nan)
        net.initializers[name](drawn, again)
        assert torch.equal(drawn, parameter), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_manifest_builds_the_same_network(kind):
    net = built(kind, seed=3)
    kept = json.loads(json.dumps(net.config.plain()))
    again = models.build(kept, seed=3)
    assert again.config == net.config
    other = models.build(kept, seed=4)
    state, same = net.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not all(map(torch.equal, net.parameters(), other.parameters()))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_view_is_a_partition_of_the_leaves(kind):
    net = built(kind)
    leaves = [layer.name for layer in layers.find(net)]
    assert tuple(net.layer_views) == VIEWS
    for rows in net.layer_views.values():
        assert sorted(leaf for members in rows.values() for leaf in members) == sorted(leaves)


@pytest.mark.parametrize("kind", NETWORKS)
def test_views_grow_coarser_and_a_name_means_the_same_in_each(kind):
    net = built(kind)
    meaning = {name: (name,) for name in (layer.name for layer in layers.find(net))}
    finer = [{leaf} for leaf in meaning]
    for rows in net.layer_views.values():
        for row, members in rows.items():
            assert meaning.setdefault(row, members) == members, row
        coarser = [set(members) for members in rows.values()]
        assert all(any(small <= large for large in coarser) for small in finer)
        finer = coarser


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_reaches_every_parameter(kind):
    net = built(kind).train()
    net(batch(net)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_counting_needs_no_network(kind):
    name, own = NETWORKS[kind]
    assert models.count_parameters(name, **own) == sum(p.numel() for p in built(kind).parameters())


# Names


WIDTH = st.integers(1, 400).map(lambda n: n / 100)
SIZE = st.integers(1, 500)


@given(st.sampled_from([11, 13, 16, 19]), st.sampled_from(["none", "batch"]), WIDTH)
def test_names_of_vggs_come_back(depth, norm, width):
    config = VGGConfig(depth, norm, width)
    assert models.configure(config.name) == config


@given(st.sampled_from([18, 34, 50, 101, 152]), st.sampled_from(["none", "batch"]), WIDTH)
def test_names_of_resnets_come_back(depth, norm, width):
    config = ResNetConfig(depth, norm, width)
    assert models.configure(config.name) == config


@given(SIZE, SIZE, st.sampled_from([1, 2, 4, 8, 32]), st.booleans())
def test_names_of_the_others_come_back(width, depth, patch, whole):
    for config in (
        ViTConfig(width, depth, patch, 1 if whole else None),
        MixerConfig(width + 1, depth, patch),
        TransformerConfig(width, depth, width if whole else None),
        LSTMConfig(width, depth),
    ):
        assert models.configure(config.name) == config


# Parameters: how many, and from which distribution


LARGE = {"inputs": (3, 224, 224), "classes": 1000}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg11", 132_863_336),
        ("vgg16", 138_357_544),
        ("vgg16-bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("vit-768x12-p16", 86_567_656),
        ("mixer-768x12-p16", 59_880_472),
    ],
)
def test_large_networks_have_the_published_number_of_parameters(name, count):
    assert models.count_parameters(name, **LARGE) == count


def test_the_paper_s_vgg_for_small_images_has_these_layers():
    net = models.build("vgg11-w0.25")
    convs = {"s1b1": 16, "s2b1": 32, "s3b1": 64, "s3b2": 64}
    convs |= dict.fromkeys(["s4b1", "s4b2", "s5b1", "s5b2"], 128)
    sizes = {name: (channels, 3, 3) for name, channels in convs.items()}
    for name, (channels, *field) in sizes.items():
        weight = net.get_submodule(name).weight
        assert (weight.shape[0], *weight.shape[2:]) == (channels, *field)
    assert [tuple(net.get_submodule(n).weight.shape) for n in ("fc1", "fc2", "final")] == [
        (128, 128),
        (128, 128),
        (10, 128),
    ]
    assert list(net.layer_views["block"]) == [*sizes, "fc1", "fc2", "final"]


def test_blocks_of_resnets_are_called_as_in_the_paper():
    blocks = ["stage0"]
    blocks += [f"s{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(1, n + 1)]
    ours = models.build("resnet50-nonorm-w0.05")
    assert list(ours.layer_views["block"]) == [*blocks, "final_linear"]
    theirs = models.build("resnet18", **V1).layer_views["block"]
    assert list(theirs) == ["stage0", *(f"s{s}.{b}" for s in range(1, 5) for b in (1, 2)),
                            "final_linear"]  # fmt: skip
    assert theirs["s2.1"] == (
        "layer2.0.conv1",
        "layer2.0.bn1",
        "layer2.0.conv2",
        "layer2.0.bn2",
        "layer2.0.downsample.0",
        "layer2.0.downsample.1",
    )


def alike(ours, theirs):
    """Whether two tensors could be samples of one distribution; decided at fixed seeds."""
    a, b = ours.detach().double().flatten().numpy(), theirs.detach().double().flatten().numpy()
    if a.std() == 0 or b.std() == 0:
        return a.std() == b.std() and a[0] == b[0]
    few = slice(None, 50_000)
    return stats.ks_2samp(a[few], b[few]).pvalue > 1e-3


def fresh_resnet(**_):
    from torchvision.models import resnet

    return resnet.resnet18(num_classes=7)


def fresh_vit(mode):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        32, 8, num_classes=100, embed_dim=64, depth=2, num_heads=1, weight_init=mode
    )


def fresh_mixer():
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(100, 32, patch_size=8, embed_dim=64, num_blocks=2)


@pytest.mark.parametrize(
    ("name", "options", "fresh"),
    [
        ("resnet18", V1, fresh_resnet),
        ("vit-64x2-p8", {"classes": 100}, lambda: fresh_vit("jax")),
        ("vit-64x2-p8", {"classes": 100, "initializer": "timm"}, lambda: fresh_vit("")),
        ("mixer-64x2-p8", {"classes": 100}, fresh_mixer),
    ],
)
def test_networks_of_others_are_drawn_as_they_draw_themselves(name, options, fresh):
    net = models.build(name, seed=1, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = dict(fresh().named_parameters())
    drawn = dict(net.named_parameters())
    assert {n: p.shape for n, p in drawn.items()} == {n: p.shape for n, p in theirs.items()}
    for n, parameter in drawn.items():
        assert alike(parameter, theirs[n]), n
        if parameter.numel() > 3000 and parameter.std() > 0:
            assert not alike(1.3 * parameter, theirs[n]), n


def normal(std):
    return stats.norm(scale=std)


def cut(fan_in, factor=1.0):
    return stats.truncnorm(-2, 2, scale=factor * fan_in**-0.5)


def flat(bound):
    return stats.uniform(-bound, 2 * bound)


# Distributions written down here independently of the package; None is for all zeros.
LAWS = [
    ("vgg11-w0.25", {}, {
        "s1b1.weight": cut(27), "s5b2.weight": cut(9 * 128), "fc1.weight": cut(128),
        "final.weight": cut(128), "s4b1.bias": None, "fc2.bias": None,
    }),
    ("vgg11-bn-w0.25", {}, {
        "s1b1.conv.weight": normal((2 / (9 * 16)) ** 0.5),
        "s5b2.conv.weight": normal((2 / (9 * 128)) ** 0.5),
        "fc1.weight": normal(0.01), "final.weight": normal(0.01), "fc1.bias": None,
        "s5b2.bn.bias": None,
    }),
    ("vgg11-w0.05", V1, {
        "features.0.weight": cut(27), "features.18.weight": cut(9 * 26),
        "classifier.0.weight": cut(26 * 49), "classifier.6.weight": cut(205),
        "classifier.6.bias": None,
    }),
    ("vgg11-w0.25", {"initializer": "torch-default"}, {
        "s5b2.weight": flat((9 * 128) ** -0.5), "s5b2.bias": flat((9 * 128) ** -0.5),
        "fc2.weight": flat(128**-0.5),
    }),
    ("resnet18-w0.25", {}, {
        "stage0.weight": normal((2 / (9 * 16)) ** 0.5),
        "s4.1.conv1.weight": normal((2 / (9 * 128)) ** 0.5),
        "s4.1.shortcut.weight": normal((2 / 128) ** 0.5),
        "final_linear.weight": flat(128**-0.5), "s4.1.norm1.bias": None,
    }),
    ("resnet18-nonorm-w0.25", {}, {
        "stage0.weight": cut(27), "s4.1.conv1.weight": cut(9 * 64),
        "s4.1.conv2.weight": cut(9 * 128, 8**-0.5), "s4.1.shortcut.weight": cut(64),
        "final_linear.weight": cut(128), "s4.1.conv2.bias": None,
    }),
    ("resnet50-nonorm-w0.1", {"initializer": "he-normal"}, {
        "s3.2.conv1.weight": normal((2 / 104) ** 0.5),
        "s3.2.conv3.weight": normal((2 / 26 / 16) ** 0.5),
    }),
    ("transformer-64x2", {"inputs": (32,), "classes": 100}, {
        "embedding.token.weight": normal(0.02), "embedding.position.weight": normal(0.02),
        "block1.q.weight": normal(0.02), "block2.v.weight": normal(0.02),
        "block1.out.weight": normal(0.01), "block2.mlp_in.weight": normal(0.02),
        "block2.mlp_out.weight": normal(0.01), "head.weight": normal(0.02),
        "block1.k.bias": None, "block2.mlp_out.bias": None, "norm.bias": None,
    }),
    ("lstm-32x2", {"inputs": (8,), "classes": 100}, {
        "embedding.weight": flat(0.1), "lstm1.weight_ih_l0": flat(32**-0.5),
        "lstm2.weight_hh_l0": flat(32**-0.5), "lstm2.bias_hh_l0": flat(32**-0.5),
        "head.weight": flat(0.1), "head.bias": None,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "laws"), LAWS)
def test_our_own_networks_are_drawn_from_what_is_documented(name, options, laws):
    drawn = dict(models.build(name, seed=2, **options).named_parameters())
    for n, law in laws.items():
        values = drawn[n].detach().double().flatten().numpy()
        if law is None:
            assert not values.any(), n
            continue
        assert stats.kstest(values[:50_000], law.cdf).pvalue > 1e-3, n
        if values.size > 3000:
            assert stats.kstest(1.3 * values[:50_000], law.cdf).pvalue < 1e-3, n
            assert values.std() == pytest.approx(law.std(), rel=0.05), n


def test_normalisation_starts_as_the_identity():
    for kind in ("vgg, batch norm, 28 pixels", "resnet", "transformer", "mixer"):
        net = built(kind)
        norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))]
        assert norms
        for norm in norms:
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))
            assert not norm.bias.any()
            if isinstance(norm, nn.BatchNorm2d):
                assert not norm.running_mean.any()
                assert (norm.running_var == 1).all()
                assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("initializer", ["auto", "he-normal"])
def test_without_norm_blocks_keep_their_scale_however_many_there_are(initializer):
    net = models.build("resnet152-nonorm-w0.1", inputs=(3, 8, 8), initializer=initializer).eval()
    seen = {}
    for name in ("s3.1", "s3.36"):
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: float(out.detach().var())})
        )
    net(batch(net, 8)).logsumexp(1).sum().backward()
    # 35 blocks of 50 may add up to e^0.7; drawn without the factor they come to thousands.
    assert 0.9 < seen["s3.36"] / seen["s3.1"] < math.exp(0.8)
    early, late = (net.get_submodule(f"s3.{i}.conv1").weight.grad.norm() for i in (2, 36))
    assert 0.3 < early / late < 3


# What they compute


def test_vgg_for_small_images_is_torchvision_s_features_and_three_layers():
    from torchvision.models import vgg

    net = models.build("vgg13-bn-w0.1", classes=7, seed=1).eval()
    plan = [6, 6, "M", 13, 13, "M", 26, 26, "M", 51, 51, "M", 51, 51, "M"]
    features = vgg.make_layers(plan, batch_norm=True)
    values = [v for n, v in net.state_dict().items() if not n.startswith(("fc", "final"))]
    features.load_state_dict(dict(zip(features.state_dict(), values, strict=True)))
    head = nn.Sequential(net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), net.final)
    x = batch(net)
    assert torch.equal(net(x), head(features.eval()(x).flatten(1)))


def block_by_hand(state, x, convs, stride, where):
    """A pre-activation block written out, for norms that are the identity."""
    past = out = functional.relu(x)
    if f"{where}.shortcut.weight" in state:
        past = functional.conv2d(past, state[f"{where}.shortcut.weight"], stride=stride)
    else:
        past = x
    for index in range(1, convs + 1):
        weight = state[f"{where}.conv{index}.weight"]
        step = stride if index == (1 if convs == 2 else 2) else 1
        out = functional.conv2d(out, weight, stride=step, padding=weight.shape[2] // 2)
        out = functional.relu(out) if index < convs else out
    return past + out


@pytest.mark.parametrize(("depth", "convs"), [(18, 2), (50, 3)])
def test_resnets_are_the_pre_activation_ones(depth, convs):
    net = models.build(f"resnet{depth}-nonorm-w0.05", seed=1).eval().double()
    state, x = net.state_dict(), batch(net).double()
    values = functional.conv2d(x, state["stage0.weight"], padding=1)
    for where in [name for name in net.layer_views["block"] if re.fullmatch(r"s\d\.\d+", name)]:
        stride = 2 if where in ("s2.1", "s3.1", "s4.1") else 1
        values = block_by_hand(state, values, convs, stride, where)
    expected = functional.relu(values).mean((2, 3)) @ state["final_linear.weight"].T
    assert torch.allclose(net(x), expected, rtol=1e-12, atol=1e-14)


def test_resnets_with_norm_normalise_before_every_convolution():
    net = built("resnet").eval()
    order = []
    for name, module in net.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _m, _i, _o, name=name: order.append(name))
    net(batch(net))
    assert order[:6] == ["stage0", "s1.1.norm1", "s1.1.conv1", "s1.1.norm2", "s1.1.conv2",
                         "s1.2.norm1"]  # fmt: skip
    assert order[-2:] == ["final_norm", "final_linear"]


def test_a_transformer_is_attention_and_mlp_on_a_residual_path():
    net = models.build("transformer-8x1-h2", inputs=(5,), classes=11, seed=1).eval().double()
    tokens = batch(net)
    block = net.block1
    x = net.embedding.token.weight[tokens] + net.embedding.position.weight
    y = functional.layer_norm(x, (8,))
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        q, k, v = ((y @ layer.weight.T)[..., head] for layer in (block.q, block.k, block.v))
        scores = q @ k.transpose(1, 2) / 4**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        parts.append(scores.softmax(-1) @ v)
    x = x + torch.cat(parts, -1) @ block.out.weight.T
    y = functional.gelu(functional.layer_norm(x, (8,)) @ block.mlp_in.weight.T)
    x = x + y @ block.mlp_out.weight.T
    expected = functional.layer_norm(x, (8,)) @ net.head.weight.T
    assert torch.allclose(net(tokens), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_language_models_never_look_ahead(kind):
    net = built(kind).eval()
    tokens = batch(net)
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 50
    before, after = net(tokens), net(changed)
    assert torch.allclose(before[:, :4], after[:, :4], rtol=0, atol=1e-7)
    assert not torch.allclose(before[:, 4:], after[:, 4:], rtol=0, atol=1e-4)
    assert net(tokens[:, :3]).shape == (3, 3, 50)


def test_an_lstm_is_torch_s_lstm_layer_by_layer():
    net = built("lstm").eval()
    whole = nn.LSTM(16, 16, num_layers=2, batch_first=True)
    for index in (1, 2):
        for name, value in net.get_submodule(f"lstm{index}").state_dict().items():
            whole.get_parameter(name.replace("l0", f"l{index - 1}")).data.copy_(value)
    tokens = batch(net)
    assert torch.allclose(net(tokens), net.head(whole(net.embedding(tokens))[0]), atol=1e-6)


def test_longer_sequences_than_there_are_positions_are_refused():
    net = built("transformer")
    with pytest.raises(OptionError, match=r"have 8 tokens.*7 positions.*inputs=\(8,\)"):
        net(torch.zeros(1, 8, dtype=torch.long))


@pytest.mark.parametrize(
    ("kind", "held"), [("transformer", "embedding.token"), ("lstm", "embedding")]
)
def test_a_tied_head_is_the_embedding(kind, held):
    net = built(f"{kind}, tied")
    assert net.head.weight is net.get_submodule(held).weight
    leaves = {leaf for rows in net.layer_views["component"].values() for leaf in rows}
    assert ("head" in leaves) == (kind == "lstm")  # there its bias is its own
    assert "head.weight" not in net.initializers
    assert built(kind).head.weight is not built(kind).get_submodule(held).weight


@pytest.mark.parametrize("kind", ["vgg, batch norm, 28 pixels", "vit", "transformer", "lstm"])
def test_dropout_acts_in_training_alone(kind):
    net = built(kind, dropout=0.5)
    for name, parameter in net.named_parameters():  # heads that start at zero hide it
        torch.nn.init.normal_(parameter, std=0.1, generator=generator(len(name)))
    x = batch(net)
    with torch.random.fork_rng(devices=[]):
        net.train()
        assert not torch.equal(net(x), net(x))


# Checkpoints of others


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vgg16-bn", "torchvision.models.vgg16_bn"),
        ("vgg11", "torchvision.models.vgg11"),
        ("resnet18", "torchvision.models.resnet18"),
        ("resnet101", "torchvision.models.resnet101"),
        ("vit-768x12-p16", "timm.models.vit_base_patch16_224"),
        ("mixer-768x12-p16", "timm.models.mixer_b16_224"),
    ],
)
def test_names_and_shapes_are_those_of_published_checkpoints(name, theirs):
    import importlib

    from layerscope.zoo.models._family import structure

    module, _, function = theirs.rpartition(".")
    with torch.device("meta"):
        published = getattr(importlib.import_module(module), function)()
    config = models.configure(name, **LARGE)
    assert shapes(structure(models.FAMILIES[config.family], config)) == shapes(published)


def test_a_checkpoint_of_torchvision_gives_torchvision_s_outputs():
    from torchvision.models import resnet

    with torch.random.fork_rng(devices=[]):
        theirs = resnet.resnet18(num_classes=7).eval()
    net = models.build("resnet18", **V1).eval()
    net.load_state_dict(theirs.state_dict())
    assert torch.equal(net(batch(net)), theirs(batch(net)))


# Removing


def test_a_removed_layer_passes_on_what_comes_in():
    net = models.build("fcn-3x16", seed=1, inputs=(6,), classes=3)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    lighter = models.remove(net, ["layer2"])
    x = torch.randn(4, 6, generator=generator())
    hidden = net.layer1(x).relu()
    assert torch.equal(lighter(x), net.layer4(net.layer3(hidden).relu()))
    assert isinstance(net.layer2, nn.Linear)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net.config.removed == ()
    assert list(net.layer_views["block"]) == ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("kind", "removed", "gone"),
    [
        ("fcn", ["layer2"], ["layer2"]),
        ("vgg, batch norm, 28 pixels", ["s5b2", "s4b3"], ["s4b3.bn", "s4b3.conv", "s5b2.bn",
                                                          "s5b2.conv"]),
        ("vgg of torchvision", ["s5b2"], ["features.25", "features.26"]),
        ("resnet", ["s4.2.conv1"], ["s4.2.conv1"]),
        ("resnet of torchvision", ["s4.2"], ["layer4.1.bn1", "layer4.1.bn2", "layer4.1.conv1",
                                             "layer4.1.conv2"]),
        ("vit", ["block1.out"], ["blocks.0.attn.proj"]),
        ("transformer, tied", ["norm", "block2.q"], ["block2.q", "norm"]),
        ("lstm", ["lstm1"], ["lstm1"]),
    ],
)  # fmt: skip
def test_a_manifest_builds_a_network_without_what_was_removed(kind, removed, gone):
    net = built(kind, seed=6)
    lighter = models.remove(net, removed)
    before, after = ({layer.name for layer in layers.find(m)} for m in (net, lighter))
    assert sorted(before - after) == gone
    assert list(lighter.initializers) == [name for name, _ in lighter.named_parameters()]
    for rows in lighter.layer_views.values():
        assert {leaf for members in rows.values() for leaf in members} == after
        assert all(rows.values())
    again = models.build(json.loads(json.dumps(lighter.config.plain())), seed=6)
    x = batch(net)
    assert torch.equal(again.eval()(x), lighter.eval()(x))
    assert again.config == lighter.config
    assert again.layer_views == lighter.layer_views


def test_removing_a_block_skips_it():
    net = built("resnet", seed=1).eval()
    lighter = models.remove(net, "s3.2").eval()
    for name, value in lighter.s3.state_dict().items():
        assert torch.equal(value, net.s3.state_dict()[name])
    values = net.s3[0](net.s2(net.s1(net.stage0(batch(net)))))
    expected = net.final_linear(net.final_norm(net.s4(values)).relu().mean((2, 3)))
    assert torch.equal(lighter(batch(net)), expected)


def test_removing_all_blocks_and_removing_step_by_step():
    net = built("transformer").eval()
    bare = models.remove(net, "blocks")
    assert [layer.name for layer in layers.find(bare)] == [
        "embedding.token", "embedding.position", "norm", "head",
    ]  # fmt: skip
    stepwise = models.remove(models.remove(net, "block1.q"), ["block1", "block2"])
    assert stepwise.config.removed == ("block1.q", "block1", "block2")
    assert torch.equal(stepwise(batch(net)), bare(batch(net)))
    assert models.build(stepwise.config).config == stepwise.config


@pytest.mark.parametrize(
    ("kind", "removed", "message"),
    [
        ("fcn", "layer1", r"layer1 can't be removed: it turns \(36,\) into \(32,\)"),
        ("fcn", ["layer2", "layer9"], "no layer to remove 'layer9'.*Did you mean 'layer"),
        ("fcn", [], "layers is empty"),
        ("vgg", "s4b1", r"s4b1 can't be removed: it turns \(26, 4, 4\) into \(51, 4, 4\)"),
        ("resnet", "s2.1", r"\(6, 32, 32\) into \(13, 16, 16\)"),
        ("vit", "positions", "own parameters can't be removed"),
        ("transformer", "embedding", r"\(7,\) int64 into \(7, 32\)"),
        ("transformer", "block1.mlp_in", r"\(7, 32\) into \(7, 128\)"),
    ],
)
def test_what_can_t_be_removed_is_refused(kind, removed, message):
    net = built(kind)
    with pytest.raises(LayerError, match=message):
        models.remove(net, removed)
    if removed:
        with pytest.raises(LayerError, match=message):
            built(kind, removed=removed)


def test_networks_of_the_user_lose_layers_too():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(OptionError, match="Sequential does not say what it takes; pass example="):
        models.remove(net, "0")
    lighter = models.remove(net, "0", example=torch.zeros(1, 4))
    assert isinstance(lighter[0], nn.Identity)
    assert isinstance(net[0], nn.Linear)
    with pytest.raises(LayerError, match=r"turns \(4,\) into \(2,\)"):
        models.remove(net, "2", example=torch.zeros(1, 4))


def test_modules_that_are_not_called_or_give_no_tensor_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4)
            self.idle = nn.Linear(4, 4)

        def forward(self, x):
            return self.lstm(x)[0]

    with pytest.raises(LayerError, match="lstm does not turn one tensor into one"):
        models.remove(Odd(), "lstm", example=torch.zeros(2, 1, 4))
    with pytest.raises(LayerError, match="idle is not called on its own"):
        models.remove(Odd(), "idle", example=torch.zeros(2, 1, 4))
