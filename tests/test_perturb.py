"""Layers are drawn anew from where they came, and every draw can be made again."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from layerscope import layers, models, perturb
from layerscope.base import seeds
from layerscope.core.checkpoints import open_series
from layerscope.core.perturb import Redraw, Site
from layerscope.errors import LayerError, OptionError

pytestmark = pytest.mark.usefixtures("same_global_generator")


def seeded(seed: int, make):
    """Build a network that draws from the global generator, and leave that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Plain(nn.Module):
    """Initialised by its modules' own ``reset_parameters``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 30)
        self.norm = nn.BatchNorm1d(30)
        self.last = nn.Linear(30, 10)


class Overwritten(Plain):
    """Overwrites what its modules drew."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.first.weight, std=0.3)


class Bare(nn.Module):
    """A parameter of its own, without any ``reset_parameters``."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(50))


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state that is plainly not an initialisation."""
    state = copy.deepcopy(model.state_dict())
    return {name: t * 3 + 7 if t.is_floating_point() else t + 7 for name, t in state.items()}


def fresh(model: nn.Module, start: bool = True, build=None):
    epochs = {0: copy.deepcopy(model.state_dict())} if start else {}
    series = open_series({**epochs, 5: trained(model)}).fit(model)
    found = {layer.name: layer for layer in layers.find(model)}
    return Redraw(model, series, build), found, series


# Where values come from


@pytest.mark.parametrize("start", [True, False])
def test_declared_initialisers_are_used(start):
    model = models.build("fcn-2x32", seed=1)
    source, found, _ = fresh(model, start)
    drawn = source.draw(found["layer1"], seeds.generator(1))
    assert source.origin(found["layer1"]) == "declared"
    again = torch.empty(32, 784)
    model.initializers["layer1.weight"](again, seeds.generator(1))
    assert torch.equal(drawn["layer1.weight"], again)
    assert not drawn["layer1.bias"].any()


@pytest.mark.parametrize("start", [True, False])
def test_modules_reset_themselves_where_that_is_how_they_started(start):
    source, found, _ = fresh(seeded(0, Plain), start)
    origin = "reset_parameters" if start else "reset_parameters (unchecked)"
    assert source.origin(found["first"]) == origin
    assert source.origin(found["norm"]) == origin
    drawn = source.draw(found["first"], seeds.generator(2))
    bound = 40**-0.5
    law = stats.uniform(-bound, 2 * bound)
    for name in ("first.weight", "first.bias"):
        assert stats.kstest(drawn[name].flatten().numpy(), law.cdf).pvalue > 1e-3
    assert drawn["first.weight"].shape == (30, 40)
    assert not drawn["first.weight"].requires_grad


def test_overwritten_initialisations_are_noticed_and_drawn_from_epoch_0():
    model = seeded(0, Overwritten)
    source, found, series = fresh(model)
    assert source.origin(found["first"]) == "empirical"
    assert source.origin(found["last"]) == "reset_parameters"
    start = series.read(0)["first.weight"]
    drawn = source.draw(found["first"], seeds.generator(3))["first.weight"]
    values, counts = drawn.unique(return_counts=True)
    assert torch.isin(values, start).all()
    # With replacement: of n values, about n(1 − 1/e) come up, and some come up several times.
    assert len(values) / 1200 == pytest.approx(1 - 1 / torch.e, abs=0.04)
    assert counts.max() > 2
    assert stats.kstest(drawn.flatten().numpy(), stats.norm(scale=0.3).cdf).pvalue > 1e-3


def test_without_epoch_0_what_is_not_known_is_refused():
    source, found, _ = fresh(seeded(0, Bare), start=False)
    with pytest.raises(LayerError, match=r"how \(root\) was initialised.*Pass fresh="):
        source.origin(found["(root)"])
    source, found, series = fresh(seeded(0, Bare))
    assert source.origin(found["(root)"]) == "empirical"
    drawn = source.draw(found["(root)"], seeds.generator(0))["scale"]
    assert torch.isin(drawn, series.read(0)["scale"]).all()


def test_a_series_that_begins_later_than_0_is_not_taken_for_an_initialisation():
    model = seeded(0, Bare)
    series = open_series({1: copy.deepcopy(model.state_dict()), 5: trained(model)}).fit(model)
    with pytest.raises(LayerError, match="epoch 0 was not recorded"):
        Redraw(model, series).origin(layers.find(model)[0])


def test_a_function_that_builds_a_fresh_network_comes_first():
    source, found, _ = fresh(seeded(0, Overwritten), build=Overwritten)
    assert {source.origin(layer) for layer in found.values()} == {"fresh network"}
    drawn = source.draw(found["first"], seeds.generator(4))
    assert drawn.keys() == {"first.weight", "first.bias"}
    assert stats.kstest(drawn["first.weight"].flatten(), stats.norm(scale=0.3).cdf).pvalue > 1e-3


def test_a_function_that_builds_another_network_is_refused():
    source, found, _ = fresh(seeded(0, Plain), build=lambda: nn.Linear(40, 30))
    with pytest.raises(LayerError, match=r"fresh= returned has no first\.weight"):
        source.origin(found["first"])
    other = nn.Sequential
    source, found, _ = fresh(
        seeded(0, lambda: other(nn.Linear(4, 3))), build=lambda: other(nn.Linear(1, 3))
    )
    with pytest.raises(LayerError, match=r"0\.weight of shape \(3, 1\), expected \(3, 4\)"):
        source.origin(found["0"])


def test_a_function_that_builds_the_same_network_each_time_is_refused():
    model = models.build("fcn-1x4", seed=1)
    source, found, _ = fresh(model, build=lambda: models.build("fcn-1x4"))
    with pytest.raises(LayerError, match="fresh= returned the same network twice"):
        source.origin(found["layer1"])


def test_a_group_names_all_origins_of_its_members():
    source, found, _ = fresh(seeded(0, Overwritten))
    (group,) = layers.select(list(found.values()), {"all": "*"})
    assert source.origin(group) == "empirical, reset_parameters"
    assert source.draw(group, seeds.generator(0)).keys() == set(group.tensors)


# Buffers


@pytest.mark.parametrize("make", [Plain, Overwritten])
def test_running_statistics_start_anew(make):
    model = seeded(0, make)
    with torch.no_grad():
        model.norm.running_mean += 4  # the network in hand has been used
    start = {name: t.clone() for name, t in seeded(0, make).state_dict().items()}
    series = open_series({0: start, 5: trained(model)}).fit(model)
    found = {layer.name: layer for layer in layers.find(model)}
    drawn = Redraw(model, series).draw(found["norm"], seeds.generator(0))
    assert drawn.keys() == set(found["norm"].tensors)
    assert torch.equal(drawn["norm.running_mean"], torch.zeros(30))
    assert torch.equal(drawn["norm.running_var"], torch.ones(30))
    assert drawn["norm.num_batches_tracked"] == 0
    assert model.norm.running_mean[0] == 4


# Draws


MAKERS = {
    "declared": (lambda: models.build("fcn-2x32", seed=1), None, "layer1", "layer2"),
    "reset_parameters": (Plain, None, "first", "last"),
    "empirical": (lambda: scaled(Plain()), None, "first", "last"),
    "fresh network": (Plain, Plain, "first", "last"),
}


def scaled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


@pytest.mark.parametrize("origin", MAKERS)
def test_a_draw_depends_on_its_generator_only(origin):
    make, build, one, two = MAKERS[origin]
    model = seeded(0, make)
    before = copy.deepcopy(model.state_dict())
    source, found, _ = fresh(model, build=build)
    assert source.origin(found[one]) == origin
    straight = [source.draw(found[name], seeds.generator(name, 7)) for name in (one, two)]
    other, _, _ = fresh(model, build=build)  # nothing was asked of it before
    turned = [other.draw(found[name], seeds.generator(name, 7)) for name in (two, one)][::-1]
    for a, b in zip(straight, turned, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    another = source.draw(found[one], seeds.generator(one, 8))
    assert not torch.equal(another[f"{one}.weight"], straight[0][f"{one}.weight"])
    # The network itself is not written to.
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_seeds_are_told_apart_by_every_part():
    purposes = [
        (0, "a", "b", 1),
        (0, "a", "b", 2),
        (0, "ab", "", 1),
        (1, "a", "b", 1),
        ("0", "a", "b", 1),
    ]
    states = {seeds.generator(*purpose).initial_seed() for purpose in purposes}
    assert len(states) == len(purposes)
    # Hard-coded: draws of finished sweeps must stay what they were.
    assert seeds.generator("order", 0, 1).initial_seed() == 5235859805464026190


def test_a_failing_function_leaves_the_global_generator_alone():
    def fail() -> nn.Module:
        torch.rand(3)
        raise RuntimeError("no network today")

    source, found, _ = fresh(seeded(0, Plain), build=fail)
    with pytest.raises(RuntimeError, match="no network today"):
        source.draw(found["first"], seeds.generator(0))


# Perturbations


def test_chosen_by_name_or_ones_own():
    own = perturb.Perturbation("halve", lambda site: site.trained)
    assert [p.name for p in perturb.parse(["rerandomize", own])] == ["rerandomize", "halve"]
    assert [p.name for p in perturb.parse("reinitialize")] == ["reinitialize"]
    with pytest.raises(OptionError, match=r"'rerandomise'.*Did you mean 'rerandomize'"):
        perturb.parse(["rerandomise"])


def test_both_perturbations_do_what_they_say():
    source, found, series = fresh(seeded(0, Plain))
    layer = found["first"]
    site = Site(
        layer,
        series.read(5, layer.tensors),
        series.read(0, layer.tensors),
        source.draw,
        seeds.generator(1),
    )
    back = perturb.reinitialize().apply(site)
    assert torch.equal(back["first.weight"], series.read(0)["first.weight"])
    drawn = perturb.rerandomize().apply(site)
    expected = source.draw(layer, seeds.generator(1))
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)
    with pytest.raises(LayerError, match="needs the checkpoint of an epoch"):
        perturb.reinitialize().apply(
            Site(layer, site.trained, None, source.draw, seeds.generator(1))
        )


# What users pass


def halve(site):
    return {name: tensor / 2 for name, tensor in site.trained.items()}


def test_a_function_goes_by_its_own_name():
    (made,) = perturb.parse([halve])
    assert (made.name, made.stochastic, made.uses_checkpoint) == ("halve", False, False)
    assert perturb.parse(halve)[0].settings == made.settings
    assert perturb.parse([perturb.zero])[0].name == "zero"
    assert perturb.together({"a": halve}).name == "together({'a': 'halve'})"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([lambda _: {}], r"came as .*lambda.*Perturbation\(name, function\)"),
        ([3], r"came as 3; give names, such as \['reinitialize', 'zero'\]"),
        (3, "came as 3; give names"),
        (None, "came as None; give names"),
        ([perturb.noise], r"noise can't be called like that .* it is: noise\(scale"),
        ([nn.Linear(2, 2)], "came as .*Linear; give names"),
        (["zero", "zero"], "two perturbations have the name 'zero'"),
        (
            ["rerandomize", perturb.Perturbation("x", halve, column="rand")],
            "two perturbations have the column 'rand'",
        ),
    ],
)
def test_what_is_no_perturbation_is_refused(given, said):
    with pytest.raises(OptionError, match=said):
        perturb.parse(given)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (seeded(0, Plain), "fresh is a Plain, a network itself"),
        ("Plain()", r"fresh is 'Plain\(\)'; pass a function without arguments"),
    ],
)
def test_fresh_is_a_function(build, said):
    with pytest.raises(OptionError, match=said):
        fresh(seeded(0, Plain), build=build)


def test_fresh_returns_a_network():
    source, found, _ = fresh(seeded(0, Plain), build=lambda: Plain().state_dict())
    with pytest.raises(LayerError, match=r"fresh= returned an OrderedDict.*freshly initialised"):
        source.draw(found["first"], seeds.generator(0))
