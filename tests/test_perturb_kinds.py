"""Every kind of perturbation does what it says, by name, joined, and the same at every draw."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from layerscope import layers, perturb
from layerscope.base import seeds
from layerscope.base.tensors import owner_name
from layerscope.core.batches import FixedBatches
from layerscope.core.checkpoints import open_series
from layerscope.core.layers import Norms
from layerscope.core.perturb import Perturbation, Redraw, Site
from layerscope.core.probe import CellTensors, Subject
from layerscope.core.running import PASSED
from layerscope.core.sweep._grid import Grid, rows
from layerscope.core.sweep._identity import identify
from layerscope.core.sweep._plan import Plan
from layerscope.errors import CheckpointError, LayerError, OptionError

pytestmark = pytest.mark.usefixtures("same_global_generator")


class Net(nn.Module):
    """Convolution, normalisation with statistics, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv1(x)).mean((2, 3)))


def made(make, seed=0):
    """A network all of whose tensors differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape) + 0.5)
                else:
                    tensor.fill_(seed + 3)
    return model.eval()


def chance():
    return torch.Generator().manual_seed(3)


def site_of(make, *names, seed=7):
    """One layer, or several as a group, of a network between two states."""
    model, start = made(make, 0), made(make, 1)
    found = {layer.name: layer for layer in layers.find(model)}
    members = [found[name] for name in names] if names else list(found.values())
    layer = members[0] if len(names) == 1 else layers.select(members, {"row": "*"})[0]
    series = open_series({0: start.state_dict(), 5: model.state_dict()}).fit(model)
    return Site(
        layer=layer,
        trained=series.read(5, layer.tensors),
        checkpoint=series.read(0, layer.tensors),
        fresh=Redraw(model, series).draw,
        generator=seeds.generator("test", seed),
        modules={owner: model.get_submodule(owner) for owner in map(owner_name, layer.tensors)},
    )


def again(site, seed=7):
    return dataclasses.replace(site, generator=seeds.generator("test", seed))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def applied(site, name, seed=7):
    """All that the layer then holds."""
    (perturbation,) = perturb.parse([name])
    return {**site.trained, **perturbation.apply(again(site, seed))}


# By name

PLAIN = ["reinitialize", "rerandomize", "rerandomize_matched", "zero", "skip", "permute"]
NAMED = [
    *PLAIN,
    "noise(0.1)",
    "noise(2, relative=True)",
    "interpolate(0.5)",
    "interpolate(-1e-05)",
    "reinitialize+noise(0.1)",
    "permute+zero+permute",
    "together({'conv*': 'noise(0.1)', 'fc': 'reinitialize+zero'})",
]


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_the_call_that_makes_it(name):
    (perturbation,) = perturb.parse([name])
    assert perturbation.name == name
    assert perturb.parse(perturbation.name)[0].settings == perturbation.settings


def test_functions_and_names_make_the_same():
    assert set(perturb.PERTURBATIONS) > set(PLAIN)
    assert all(perturb.PERTURBATIONS[name] is getattr(perturb, name) for name in PLAIN)
    assert perturb.noise(0.5, True).name == "noise(0.5, relative=True)"
    assert perturb.parse(" reinitialize  + zero() ")[0].name == "reinitialize+zero"
    assert perturb.reinitialize().then(perturb.noise(1)).name == "reinitialize+noise(1)"
    mapped = perturb.together({"fc": perturb.zero()}, name="head off")
    assert perturb.parse([mapped]) == [mapped]
    assert mapped.name == "head off"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nois(0.1)", r"no perturbation 'nois'. Did you mean 'noise'"),
        ("zero+reinitialise", r"'reinitialise'. Did you mean 'reinitialize'"),
        ("zero plus noise", "no perturbation 'zero plus noise'"),
        ("zero-noise(1)", r"no perturbation 'zero-noise\(1\)'"),
        ("os.system('ls')", "no perturbation"),
        ("", "no perturbation ''"),
        ("noise", r"missing a required argument: 'scale'.*noise\(scale, relative=False\)"),
        ("noise(0.1, 0.2, 0.3)", "too many positional"),
        ("noise(width=1)", r"noise\(scale, relative=False\)"),
        ("zero(1)", "it is: zero"),
        ("noise(__import__('os'))", "must be plain numbers"),
        ("noise(x)", "must be plain numbers"),
        ("noise(-1)", "must be above 0"),
        ("noise('a lot')", "give a finite number"),
        ("noise(True)", "give a finite number"),
        ("interpolate(1e999)", "give a finite number"),
        ("together({})", "give at least one layer"),
        ("together(['fc'])", "give at least one layer"),
        ("together({'fc': 'zeros'})", "no perturbation 'zeros'. Did you mean 'zero'"),
    ],
)
def test_bad_names_are_refused(name, message):
    with pytest.raises(OptionError, match=message):
        perturb.parse([name])


# What each does


def test_zero_and_skip_leave_buffers_alone():
    site = site_of(Net, "norm")
    values = perturb.zero().apply(site)
    assert values.keys() == {"norm.weight", "norm.bias"}
    assert not any(t.any() for t in values.values())
    assert perturb.skip().apply(site) == {}
    assert perturb.skip().routes(site.layer, chance()) == {"norm": PASSED}
    assert perturb.skip().routes(site_of(lambda: Root(), "(root)").layer, chance()) == {"": PASSED}
    alone = dataclasses.replace(site.layer, modules=())
    with pytest.raises(LayerError, match="no module stands for it alone"):
        perturb.skip().routes(alone, chance())


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 20, 5))


def test_noise_has_its_scale():
    site = site_of(lambda: nn.Sequential(nn.Linear(200, 100), nn.BatchNorm1d(100)))
    for relative in (False, True):
        values = perturb.noise(0.3, relative).apply(again(site))
        assert values.keys() == set(site.layer.parameters)
        for name in ("0.weight",):
            moved = values[name] - site.trained[name]
            expected = 0.3 * (site.trained[name].std() if relative else 1)
            assert moved.std() == pytest.approx(float(expected), rel=0.02)
            assert abs(moved.mean()) < 4 * expected / moved.numel() ** 0.5


def test_matched_values_have_the_trained_moments_and_no_more():
    site = site_of(lambda: nn.Linear(200, 100))
    values = perturb.rerandomize_matched().apply(site)
    drawn, trained = values["weight"], site.trained["weight"]
    assert drawn.mean() == pytest.approx(float(trained.mean()), abs=0.01)
    assert drawn.std() == pytest.approx(float(trained.std()), rel=0.03)
    assert abs(torch.corrcoef(torch.stack([drawn.flatten(), trained.flatten()]))[0, 1]) < 0.03


@given(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
@settings(max_examples=4, deadline=None)
def test_every_precision_stays_what_it_is(dtype):
    site = site_of(lambda: Net().to(dtype))
    for name in ("noise(0.1)", "rerandomize_matched", "interpolate(0.3)", "permute", "zero"):
        for key, value in applied(site, name).items():
            assert value.dtype == site.trained[key].dtype
            assert value.shape == site.trained[key].shape
            assert value.isfinite().all()


def test_interpolation_is_exact_at_its_ends():
    site = site_of(Net)
    site.trained["fc.bias"][0], site.checkpoint["fc.bias"][0] = 1e30, -0.0
    site.trained["fc.bias"][1] = -0.0
    whole = "norm.num_batches_tracked"
    for alpha, end in ((0, site.trained), (1, site.checkpoint), (1.0, site.checkpoint)):
        values = perturb.interpolate(alpha).apply(site)
        assert whole not in values
        assert values.keys() == end.keys() - {whole}
        for name, value in values.items():
            assert torch.equal(value.view(torch.int32), end[name].view(torch.int32)), name


@given(st.floats(-2, 3))
@settings(max_examples=25, deadline=None)
def test_interpolation_lies_on_the_line(alpha):
    site = site_of(Net, "fc")
    value = perturb.interpolate(alpha).apply(site)["fc.weight"].double()
    a, b = site.trained["fc.weight"].double(), site.checkpoint["fc.weight"].double()
    torch.testing.assert_close(value, (1 - alpha) * a + alpha * b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["reinitialize", "interpolate(0.5)"])
def test_without_a_checkpoint_it_is_refused(name):
    site = dataclasses.replace(site_of(Net, "fc"), checkpoint=None)
    with pytest.raises(LayerError, match="needs the checkpoint of an epoch"):
        applied(site, name)


# Permutations


def outputs(make, x, values):
    model = made(make)
    model.load_state_dict({**model.state_dict(), **values})
    with torch.no_grad():
        return model(x)


UNITS = {
    "linear": (lambda: nn.Linear(5, 8), (3, 5), 1),
    "convolution": (lambda: nn.Conv2d(2, 8, 3), (3, 2, 5, 5), 1),
    "transposed": (lambda: nn.ConvTranspose2d(3, 8, 3), (3, 3, 5, 5), 1),
    "embedding": (lambda: nn.Embedding(9, 8), None, 2),
    "layer norm of equal inputs": (lambda: nn.LayerNorm(8), (0,), 1),
    "RNN cell": (lambda: nn.RNNCell(5, 8), (3, 5), 1),
    "GRU cell": (lambda: nn.GRUCell(5, 8), (3, 5), 1),
}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("seed", range(3))
def test_permuted_units_come_out_in_another_order(name, seed):
    make, shape, axis = UNITS[name]
    draw = seeds.generator("inputs")
    x = torch.arange(6).view(2, 3) if shape is None else torch.rand(shape, generator=draw)
    if shape == (0,):
        x = torch.arange(3.0)[:, None].expand(3, 8)  # the same in every unit
    site = site_of(make)
    values = applied(site, "permute", seed)
    before = outputs(make, x, {})
    after = outputs(make, x, values)
    # From a hidden state of zeros the state weights don't matter, and the gates stay together.
    columns = [before.select(axis, unit) for unit in range(before.shape[axis])]
    order = [
        next(u for u, c in enumerate(columns) if torch.allclose(c, after.select(axis, k)))
        for k in range(len(columns))
    ]
    if "layer norm" not in name:
        assert sorted(order) == list(range(8))
    assert order != list(range(8))
    for key, value in values.items():
        assert torch.equal(value.flatten().sort().values, site.trained[key].flatten().sort().values)


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_weight_bias_and_statistics_move_together(seed):
    site = site_of(Net, "norm")
    values = applied(site, "permute", seed)
    order = [
        int((site.trained["norm.weight"] == value).nonzero()) for value in values["norm.weight"]
    ]
    assert sorted(order) == list(range(6))
    for name, tensor in site.trained.items():
        expected = tensor[order] if tensor.dim() else tensor
        assert torch.equal(values[name], expected)


def test_modules_of_a_group_have_orders_of_their_own():
    def make():
        return nn.Sequential(nn.Linear(3, 40), nn.Linear(3, 40))

    values, site = applied(site_of(make), "permute"), site_of(make)
    orders = [
        (values[f"{k}.bias"][:, None] == site.trained[f"{k}.bias"]).float().argmax(1)
        for k in range(2)
    ]
    assert not torch.equal(*orders)
    for k, order in enumerate(orders):
        assert torch.equal(values[f"{k}.weight"], site.trained[f"{k}.weight"][order])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_filters_of_transposed_convolutions_stay_whole(groups):
    def make():
        return nn.ConvTranspose1d(8, 12, 3, groups=groups)

    site = site_of(make)
    values = applied(site, "permute")

    def filters(weight):
        split = weight.view(groups, 8 // groups, 12 // groups, 3)
        return [split[g, :, j] for g in range(groups) for j in range(12 // groups)]

    order = [int((site.trained["bias"] == value).nonzero()) for value in values["bias"]]
    before, after = filters(site.trained["weight"]), filters(values["weight"])
    assert sorted(order) == list(range(12))
    assert order != list(range(12))
    assert all(torch.equal(after[k], before[unit]) for k, unit in enumerate(order))


@pytest.mark.parametrize(
    ("make", "sections", "prefix"),
    [
        (lambda: nn.MultiheadAttention(8, 2), 3, "in_proj"),
        (lambda: nn.LSTM(5, 8), 4, "weight_ih"),
        (lambda: nn.GRU(5, 8, bidirectional=True), 3, "weight_ih"),
        (lambda: nn.LSTM(5, 8, proj_size=3), 4, "weight_ih"),
    ],
)
def test_parts_of_stacked_weights_are_permuted_alike(make, sections, prefix):
    site = site_of(make)
    values = applied(site, "permute")
    orders = []
    for name, tensor in site.trained.items():
        if name.startswith((prefix, "weight_hh", "bias_ih")):
            old = tensor.reshape(sections, 8, -1)
            new = values[name].reshape(sections, 8, -1)
            for before, after in zip(old, new, strict=True):
                orders.append([
                    next(u for u in range(8) if torch.equal(before[u], row)) for row in after
                ])  # fmt: skip
    assert len(orders) >= sections
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(8))
    if "weight_hr_l0" in values:
        assert not torch.equal(values["weight_hr_l0"], site.trained["weight_hr_l0"])


def test_own_parameters_move_along_their_first_long_axis():
    site = site_of(Root, "(root)")
    values = applied(site, "permute", 1)
    rows_ = [tuple(row) for row in values["token"][0].tolist()]
    assert sorted(rows_) == sorted(tuple(row) for row in site.trained["token"][0].tolist())
    assert not torch.equal(values["token"], site.trained["token"])


def test_permuting_without_modules_is_refused():
    with pytest.raises(LayerError, match=r"permuting fc\.weight needs to know the module"):
        applied(dataclasses.replace(site_of(Net, "fc"), modules={}), "permute")


# Exchange


def test_layers_come_from_another_network(tmp_path):
    site, donor = site_of(Net, "conv1"), made(Net, 9)
    path = tmp_path / "donor.safetensors"
    save_file({n: t.clone() for n, t in donor.state_dict().items()}, path)
    for other in (donor, donor.state_dict(), path, str(path)):
        values = perturb.exchange(other).apply(site)
        assert values.keys() == set(site.layer.tensors)
        assert torch.equal(values["conv1.weight"], donor.conv1.weight)
    by_path = perturb.exchange(path)
    assert by_path.name == f"exchange({str(path)!r})"
    assert perturb.parse(by_path.name)[0].settings == by_path.settings
    assert perturb.exchange(donor).name != perturb.exchange(made(Net, 8)).name
    norm = perturb.exchange(donor).apply(site_of(Net, "norm"))
    assert torch.equal(norm["norm.running_mean"], donor.norm.running_mean)


def test_layers_of_other_names_are_mapped():
    donor = made(lambda: nn.Sequential(nn.ModuleDict({"conv": nn.Conv2d(2, 6, 3)})), 9)
    weight = donor[0]["conv"].weight
    values = perturb.exchange(donor, {"conv1": "0.conv"}).apply(site_of(Net, "conv1"))
    assert torch.equal(values["conv1.weight"], weight)
    inner = site_of(lambda: nn.Sequential(nn.Sequential(nn.Conv2d(2, 6, 3))), "0.0")
    deep = made(lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(2, 6, 3))), 9)
    values = perturb.exchange(deep, {"0": "1"}).apply(inner)
    assert torch.equal(values["0.0.weight"], deep[1][0].weight)
    donor = made(lambda: nn.Sequential(nn.Linear(2, 3)), 9)
    values = perturb.exchange(donor, {"(root)": "0"}).apply(
        site_of(lambda: nn.Linear(2, 3), "(root)")
    )
    assert torch.equal(values["weight"], donor[0].weight)


def test_what_does_not_fit_is_refused(tmp_path):
    site = site_of(Net, "fc")
    with pytest.raises(LayerError, match=r"has no fc\.weight to take.*with layers="):
        perturb.exchange(made(lambda: nn.Linear(3, 3))).apply(site)
    other = made(lambda: nn.ModuleDict({"fc": nn.Linear(6, 5)}))
    with pytest.raises(LayerError, match=r"fc\.weight of shape \(5, 6\), expected \(4, 6\)"):
        perturb.exchange(other).apply(site)
    with pytest.raises(CheckpointError, match="can't read"):
        perturb.exchange(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="is a int"):
        perturb.exchange(3)


# Joined


def test_the_second_sees_what_the_first_gave():
    site = site_of(Net)
    assert same(applied(site, "reinitialize+zero"), {**site.checkpoint, **applied_zero(site)})
    shaken = perturb.parse("zero+noise(0.1, relative=True)")[0].apply(again(site))
    assert not any(shaken[name].any() for name in site.layer.parameters)
    assert any(applied(site, "noise(0.1)+zero+noise(0.1)")["fc.bias"])
    back = applied(site, "noise(0.1)+reinitialize")
    assert same(back, dict(site.checkpoint))


def applied_zero(site):
    return {name: torch.zeros_like(site.trained[name]) for name in site.layer.parameters}


def test_what_is_joined_knows_what_its_parts_need():
    part = {p.name: p for p in perturb.parse(["reinitialize", "noise(1)", "skip", "zero"])}
    joined = part["zero"].then(part["noise(1)"])
    assert (joined.uses_checkpoint, joined.stochastic, joined.routes) == (False, True, None)
    joined = part["reinitialize"].then(part["skip"])
    assert (joined.uses_checkpoint, joined.stochastic) == (True, False)
    layer = site_of(Net, "fc").layer
    twice = part["skip"].then(part["skip"])
    assert joined.routes(layer, chance()) == twice.routes(layer, chance()) == {"fc": PASSED}
    several = perturb.together({"conv1": "skip", "fc": "interpolate(0.5)", "norm": "noise(1)"})
    assert (several.uses_checkpoint, several.stochastic) == (True, True)
    assert several.routes(site_of(Net).layer, chance()) == {"conv1": PASSED}


def test_joining_does_not_depend_on_brackets():
    a, b, c = perturb.parse(["noise(1)", "permute", "noise(2)"])
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert left.name == right.name
    assert left.settings == right.settings
    site = site_of(Net)
    assert same(left.apply(again(site)), right.apply(again(site)))


def test_a_part_more_shifts_no_other():
    site = site_of(Net)

    noise = applied(site, "zero+noise(1)")["fc.weight"]
    for before in ("permute", "rerandomize", "noise(2)", "reinitialize"):
        assert torch.equal(noise, applied(site, f"{before}+zero+noise(1)")["fc.weight"])


def test_the_same_part_twice_draws_twice():
    site = site_of(Net, "fc")
    once = applied(site, "zero+noise(1)")["fc.weight"]
    twice = applied(site, "zero+noise(1)+noise(1)")["fc.weight"]
    assert (twice - 2 * once).abs().min() > 1e-6


def test_members_are_told_apart():
    site = site_of(Net)
    values = perturb.together({"conv*": "zero", "fc": "reinitialize"}).apply(again(site))
    assert values.keys() == {"conv1.weight", "conv1.bias", "fc.weight", "fc.bias"}
    assert not values["conv1.weight"].any()
    assert torch.equal(values["fc.weight"], site.checkpoint["fc.weight"])
    # The first that matches counts, and a member draws the same whoever stands beside it.
    first = perturb.together({"fc": "zero", "*": "noise(1)"}).apply(again(site))
    assert not first["fc.weight"].any()
    alone = perturb.together({"conv1": "noise(1)"}).apply(again(site))
    assert torch.equal(first["conv1.weight"], alone["conv1.weight"])


def test_a_part_sees_its_member_alone():
    seen = []
    look = Perturbation("look", lambda site: seen.append(site) or {})
    perturb.together({"norm": look}).apply(site_of(Net))
    (site,) = seen
    assert site.layer.name == "norm"
    assert site.layer.members == ("norm",)
    assert site.layer.module_type == "BatchNorm2d"
    assert site.layer.size == 12
    assert site.trained.keys() == set(site.layer.tensors)
    assert site.checkpoint is None
    drawn = perturb.together({"fc": "rerandomize"}).apply(site_of(Net))
    assert drawn.keys() == {"fc.weight", "fc.bias"}


def test_patterns_without_a_match_are_refused():
    with pytest.raises(LayerError, match=r"no member of row matches 'dense'; its members are conv"):
        perturb.together({"dense": "zero"}).apply(site_of(Net))


# Chance


@pytest.mark.parametrize("name", NAMED)
def test_draws_depend_on_the_generator_alone(name):
    site = site_of(Net)
    before = copy.deepcopy(dict(site.trained))
    (perturbation,) = perturb.parse([name])
    one, two = applied(site, name, 1), applied(site, name, 1)
    assert same(one, two)
    assert same(one, applied(site, name, 2)) == (not perturbation.stochastic or name == "zero")
    assert same(before, dict(site.trained))


# Settings


def test_an_edited_function_has_another_digest():
    def make(factor, offset=0):
        return lambda site: {n: t * factor + offset for n, t in site.trained.items()}

    def code(apply):
        return Perturbation("own", apply).settings["code"]

    assert code(make(2)) == code(make(2))
    assert len({code(make(2)), code(make(3)), code(make(2, 1)), code(len)}) == 4
    assert code(functools.partial(make(2), 1)) != code(functools.partial(make(2), 2))
    helpers = [lambda x: x / 2, lambda x: x / 3]
    by_helper = [code((lambda help_: lambda site: help_(site))(h)) for h in helpers]
    assert by_helper[0] != by_helper[1]
    assert code(Callable(1)) == code(Callable(1)) != code(Callable(2))
    assert code(Callable(1).method) != code(Callable(2).method)
    assert Perturbation("own", make(2), settings={"factor": 2}).settings == {"factor": 2}
    assert perturb.zero().settings == {}


class Callable:
    def __init__(self, value):
        self.value = value
        self.me = self  # a circle

    def __call__(self, site):
        return site.trained

    def method(self, site):
        return site.trained


# In a plan


def plan_of(perturbations):
    model, start = made(Net, 0), made(Net, 1)
    series = open_series({0: start.state_dict(), 5: model.state_dict()}).fit(model)
    pair = torch.ones(4, 2, 5, 5), torch.zeros(4, dtype=torch.long)
    cpu, found = torch.device("cpu"), rows(model, None, "leaf", Norms(), network=True)
    return Plan(
        Subject(model, series, FixedBatches(pair, 4, cpu), [], cpu),
        Grid(found, perturb.parse(perturbations), [0, 5], 2),
        CellTensors(model, series, Redraw(model, series), 0, cpu),
    )


def test_a_plan_knows_cells_skips_and_settings():
    plan = plan_of(["reinitialize+noise(0.1)", "skip", "permute"])
    cells = [cell for cell in plan.grid.cells() if cell.layer.name == "fc"]
    assert [(c.perturbation.name, c.epoch, c.draw) for c in cells] == [
        *(("reinitialize+noise(0.1)", epoch, draw) for epoch in (0, 5) for draw in (0, 1)),
        ("skip", -1, 0),
        ("permute", -1, 0),
        ("permute", -1, 1),
    ]
    ways = [plan.tensors.routes(cell) for cell in cells]
    assert ways == [{}] * 4 + [{"fc": PASSED}] + [{}] * 2
    assert plan.tensors.computed(cells[4]) == {}
    assert identify(plan, None)["perturbation_settings"] == {
        "reinitialize+noise(0.1)": {
            "parts": [["reinitialize", {}], ["noise(0.1)", {"scale": 0.1, "relative": False}]]
        }
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3, 6), r"'odd' returned fc\.weight of shape \(3, 6\), expected \(4, 6\)"),
        (torch.ones(4, 6, dtype=torch.int64), r"fc\.weight of type torch\.int64.*\.to\(torch"),
        (torch.ones(4, 6, dtype=torch.bool), r"fc\.weight of type torch\.bool"),
        ([1.0], "'odd' returned a list for fc.weight, expected a tensor"),
    ],
)
def test_what_a_layer_cannot_hold_is_refused_beforehand(value, message):
    odd = Perturbation("odd", lambda site: {"fc.weight": value} if "fc" in site.layer.name else {})
    with pytest.raises(OptionError, match=message):
        plan_of([odd]).check()


def test_another_precision_is_taken():
    half = Perturbation("half", lambda site: {n: t.double() for n, t in site.trained.items()
                                              if t.is_floating_point()})  # fmt: skip
    plan_of([half]).check()


def test_an_exchange_that_does_not_fit_is_refused_beforehand():
    with pytest.raises(LayerError, match="expected"):
        plan_of([perturb.exchange({"conv1.weight": torch.ones(2)})]).check()
