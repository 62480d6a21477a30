"""Networks hold what they say they were drawn from, and nothing else is moved."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from layerscope import models
from layerscope.errors import OptionError
from layerscope.zoo.models._fcn import FCNConfig

WIDE = {"depth": 2, "width": 200, "inputs": (150,), "classes": 50}
FANS = {"layer1": (150, 200), "layer2": (200, 200), "layer3": (200, 50)}


def law(scheme: str, fan_in: int, fan_out: int):
    """The distribution of a weight, written down here independently of the package."""
    if scheme == "lecun-truncated":
        return stats.truncnorm(-2, 2, scale=fan_in**-0.5)
    if scheme == "lecun-normal":
        return stats.norm(scale=fan_in**-0.5)
    if scheme == "he-normal":
        return stats.norm(scale=(2 / fan_in) ** 0.5)
    bound = math.sqrt(6 / (fan_in + fan_out)) if scheme == "glorot-uniform" else fan_in**-0.5
    return stats.uniform(-bound, 2 * bound)


@pytest.mark.parametrize("scheme", models.INITIALIZERS)
def test_weights_follow_the_declared_distribution(scheme):
    net = models.build(FCNConfig(**WIDE, initializer=scheme), seed=11)
    for name, (fan_in, fan_out) in FANS.items():
        weight = net.get_submodule(name).weight.detach().double().flatten().numpy()
        expected = law(scheme, fan_in, fan_out)
        # At a fixed seed; the second line shows that a σ off by a tenth would be noticed.
        assert stats.kstest(weight, expected.cdf).pvalue > 1e-3
        assert stats.kstest(1.1 * weight, expected.cdf).pvalue < 1e-3
        assert weight.std() == pytest.approx(expected.std(), rel=0.02)


@pytest.mark.parametrize("scheme", models.INITIALIZERS)
def test_biases_are_zero_or_as_torch_draws_them(scheme):
    net = models.build(FCNConfig(**WIDE, initializer=scheme), seed=3)
    bias = torch.cat([module.bias.detach() for module in net.children()])
    if scheme != "torch-default":
        assert not bias.any()
        return
    for name, (fan_in, _) in FANS.items():
        values = net.get_submodule(name).bias.detach().double().numpy()
        bound = fan_in**-0.5
        assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_declared_initialisers_draw_what_the_network_holds():
    net = models.build("fcn-2x32", seed=5, inputs=(20,), classes=4)
    assert list(net.initializers) == [name for name, _ in net.named_parameters()]
    generator = torch.Generator().manual_seed(5)
    for name, parameter in net.named_parameters():
        again = torch.full_like(parameter, math.nan)
        net.initializers[name](again, generator)
        assert torch.equal(again, parameter)


@pytest.mark.usefixtures("same_global_generator")
def test_seed_decides_every_bit():
    one, same, other = (models.build("fcn-3x16", seed=seed) for seed in (4, 4, 5))
    for (name, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert name.endswith("bias") or not torch.equal(a, c)


def test_forward_is_affine_maps_with_relu_between():
    net = models.build("fcn-2x8", inputs=(2, 3), classes=4, initializer="torch-default").double()
    x = torch.randn(5, 2, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in net.children()]
    values = x.reshape(5, 6).numpy()
    for index, (weight, bias) in enumerate(weights):
        values = values @ weight.T + bias
        values = values if index == 2 else values.clip(0)
    assert torch.allclose(net(x), torch.from_numpy(values), rtol=1e-12, atol=1e-12)


def test_a_manifest_describes_the_network_completely():
    net = models.build("fcn-2x8", seed=9, inputs=(2, 3), classes=4, initializer="he-normal")
    again = models.build(net.config.plain(), seed=9)
    assert again.config == net.config
    assert all(map(torch.equal, net.parameters(), again.parameters()))


def test_manifests_of_fully_connected_networks_are_as_they_always_were():
    # Series are found again by a hash of this.
    assert models.configure("fcn-3x256").plain() == {
        "family": "fcn",
        "depth": 3,
        "width": 256,
        "inputs": [1, 28, 28],
        "classes": 10,
        "initializer": "lecun-truncated",
    }


def test_options_count_beside_a_name_a_configuration_and_a_mapping():
    for network in ("fcn-2x8", FCNConfig(2, 8), {"depth": 2, "width": 8}):
        net = models.build(network, inputs=(3, 2, 2), classes=7)
        assert net.layer1.in_features == 12
        assert net.layer3.out_features == 7


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("fcn3x256", {}, "no network 'fcn3x256'.*fcn-DEPTHxWIDTH"),
        ("fcn-3x256 ", {}, "no network"),
        ("fcn-0x5", {}, "depth is 0; it must be at least 1"),
        ("fcn-2x0", {}, "width is 0"),
        ("fcn-2x5", {"classes": 0}, "classes is 0"),
        ("fcn-2x5", {"initializer": "he-norm"}, "Did you mean 'he-normal'"),
        ("fcn-2x5", {"klasses": 3}, "no network option 'klasses'.*Did you mean 'classes'"),
        ({"family": "vti"}, {}, "no network family 'vti'.*Did you mean 'vit'"),
        ("vgg12", {}, r"no network 'vgg12'\. There is: vggDEPTH"),
        ("alexnet", {}, "no network 'alexnet'.*fcn-DEPTHxWIDTH.*lstm-WIDTHxDEPTH"),
        ("resnet18-w0", {}, "width is 0.0; it multiplies"),
        ({"family": "vgg", "depth": 12}, {}, "depth is 12; VGG has 11"),
        ({"family": "resnet", "depth": 20}, {}, "depth is 20; ResNet has 18"),
        ("vgg11", {"inputs": (784,)}, "vgg11 takes images"),
        ("vgg11", {"inputs": (1, 224, 224)}, "have 1 channels; torchvision's VGG takes 3"),
        ("vgg11", {"norm": "layer"}, "no norm 'layer'"),
        ("vgg11", {"dropout": 1}, r"dropout is 1; it must be in \[0, 1\)"),
        ("resnet18", {"form": "large"}, "no form 'large'"),
        ("resnet18", {"version": "v1"}, "'v1' is torchvision's.*form='cifar'.*version='v2'"),
        ("vit-192x6-p5", {}, "patch is 5, which does not divide images of 32×32"),
        ("vit-192x6-h5", {}, "heads is 5; it must divide the width, 192, evenly, as 3 does"),
        ("vit-192x6", {"initializer": "moco"}, "no initializer 'moco'"),
        ("mixer-1x2", {}, "width is 1; a Mixer needs at least 2"),
        ("transformer-64x2", {"inputs": (3, 32, 32)}, "transformer-64x2 takes sequences"),
        ("lstm-8x0", {}, "depth is 0"),
        ({"dept": 3}, {}, "Did you mean 'depth'"),
        (FCNConfig(2, 5), {"widht": 3}, "Did you mean 'width'"),
    ],
)
def test_bad_names_and_options_are_answered_with_what_there_is(network, options, message):
    with pytest.raises(OptionError, match=message):
        models.build(network, **options)
