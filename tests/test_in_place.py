"""Functions of the user's own may work in place: what they are handed is theirs, or it is said."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import data, metrics
from layerscope.core import plain
from layerscope.core.metrics import Metric
from layerscope.core.perturb import Perturbation
from layerscope.core.session import Session
from layerscope.errors import OptionError


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 6, generator=generator), torch.randint(4, (40,), generator=generator)


@pytest.fixture
def states():
    return {epoch: network(epoch).state_dict() for epoch in (0, 3)}


def sweep(model, pair, states, **options):
    options = {"device": "cpu", "batch_size": 16, "show_progress": False} | options
    return layerscope.sweep(model, pair, checkpoints=states, **options)


def multiplied(site):
    return {name: tensor.mul_(2) for name, tensor in site.trained.items()}


def assigned(site):
    for tensor in site.trained.values():
        tensor[...] = 0.25
    return dict(site.trained)


def initialised(site):
    return {
        name: nn.init.uniform_(site.trained[name], 0.1, 0.2, generator=torch.manual_seed(0))
        for name in site.layer.parameters
    }


def through_data(site):
    for tensor in site.trained.values():
        tensor.data.fill_(0.125)
    return dict(site.trained)


def through_numpy(site):
    for tensor in site.trained.values():
        tensor.numpy()[...] = 0.75
    return dict(site.trained)


def into_the_checkpoint(site):
    return {name: tensor.add_(1) for name, tensor in site.checkpoint.items()}


def into_what_is_fresh(site):
    return {n: t.mul_(2) for n, t in site.fresh(site.layer, site.generator).items()}


def through_modules(site):
    found = {}
    for path, module in site.modules.items():
        for name, tensor in module.named_parameters(recurse=False):
            found[f"{path}.{name}"] = tensor.data.fill_(0.5)
    return found


def resetting_modules(site):
    for module in site.modules.values():
        module.eps = 100.0
        for parameter in module.parameters():
            parameter.mul_(0)
    return {name: tensor * 2 for name, tensor in site.trained.items()}


FUNCTIONS = [
    multiplied, assigned, initialised, through_data, through_numpy, into_the_checkpoint,
    through_modules, resetting_modules,
]  # fmt: skip


def plainly(function, row, states, pair):
    """What the function gives on copies of its own, in a copy of the network."""
    from types import SimpleNamespace

    model = network(3)
    model.load_state_dict(states[3])
    site = SimpleNamespace(
        layer=row,
        trained={n: states[3][n].clone() for n in row.tensors},
        checkpoint={n: states[0][n].clone() for n in row.tensors},
        modules=dict(copy.deepcopy({row.name: model.get_submodule(row.name)})),
    )
    with torch.no_grad():
        given = function(site)
    batches = zip(*(each.split(16) for each in pair), strict=True)
    return plain.evaluate(plain.copy_with(model, given), batches, ["loss"])["loss"].mean


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_perturbation_that_works_in_place_equals_the_same_on_its_own_copies(
    pair, states, function
):
    model = network(7)
    own, recorded = copy.deepcopy(model.state_dict()), copy.deepcopy(states)
    perturbation = Perturbation("mine", function, uses_checkpoint=True)
    ds = sweep(model, pair, states, perturbations=[perturbation], epochs=[0], whole=False)
    rows = {row.name: row for row in layerscope.layers.find(model)}
    for name in ds["layer"].values:
        value = float(ds["value"].sel(layer=name, epoch=0, metric="loss", draw=0).squeeze())
        assert value == plainly(function, rows[str(name)], recorded, pair)
    assert float(ds["baseline"].sel(metric="loss")) not in ds["value"].sel(metric="loss")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name])
    for epoch, state in recorded.items():
        assert all(torch.equal(states[epoch][name], state[name]) for name in state)


def test_what_is_drawn_may_be_changed_in_place(pair, states):
    twice = Perturbation(
        "twice",
        lambda s: {n: 2 * t for n, t in s.fresh(s.layer, s.generator).items()},
        stochastic=True,
    )
    # The stream goes by the name, so both sweeps draw the same.
    place = Perturbation("twice", into_what_is_fresh, stochastic=True)
    one, other = (sweep(network(1), pair, states, perturbations=[p]) for p in (twice, place))
    xr.testing.assert_equal(one["value"], other["value"])


def test_memory_that_a_perturbation_returns_again_and_again_is_copied(pair, states):
    kept: dict[str, torch.Tensor] = {}

    def reusing(site):
        for name in site.layer.parameters:
            memory = kept.setdefault(name, torch.empty_like(site.trained[name]))
            memory.normal_(generator=site.generator)
        return {name: kept[name] for name in site.layer.parameters}

    def anew(site):
        return {
            n: torch.empty_like(site.trained[n]).normal_(generator=site.generator)
            for n in site.layer.parameters
        }

    one, other = (
        sweep(network(1), pair, states, perturbations=[Perturbation("mine", f, stochastic=True)])
        for f in (reusing, anew)
    )
    xr.testing.assert_equal(one["value"], other["value"])


def test_parts_of_a_joined_perturbation_do_not_see_what_others_did_in_place(pair, states):
    def scribbling(site):
        for tensor in (*site.trained.values(), *site.checkpoint.values()):
            tensor.fill_(9)
        return {}

    def plus_one(site):
        return {n: site.trained[n] + site.checkpoint[n] for n in site.layer.parameters}

    first = Perturbation("first", scribbling, uses_checkpoint=True)
    second = Perturbation("second", plus_one, uses_checkpoint=True)
    joined = sweep(network(1), pair, states, perturbations=[first.then(second)])
    alone = sweep(network(1), pair, states, perturbations=[second])
    assert np.array_equal(joined["value"], alone["value"], equal_nan=True)


def doubled(site):
    for tensor in site.trained.values():
        tensor.mul_(2)


def zeroed_modules(site):
    for module in site.modules.values():
        for parameter in module.parameters(recurse=False):
            parameter.data.zero_()


@pytest.mark.parametrize("change", [doubled, zeroed_modules])
def test_a_perturbation_that_changes_in_place_and_returns_nothing_is_refused(change, pair, states):
    def forgetful(site):
        change(site)
        return {}

    with pytest.raises(OptionError, match=r"'mine' changed .* in place and returned nothing"):
        sweep(network(1), pair, states, perturbations=[Perturbation("mine", forgetful)])


@pytest.mark.parametrize("change", [doubled, lambda site: list(site.trained.values())])
def test_a_perturbation_that_returns_no_mapping_is_refused(change, pair, states):
    with pytest.raises(OptionError, match=r"'mine' returned (None|a list of 2); let it return"):
        sweep(network(1), pair, states, perturbations=[Perturbation("mine", change)])


def test_what_is_not_looked_at_is_not_copied(states):
    from layerscope.base.copies import copy_tensors

    given = copy_tensors(states[0])
    assert "0.weight" in given
    assert len(given) == len(states[0])
    assert list(given) == list(states[0])
    assert not given.taken
    assert given["0.weight"] is given["0.weight"]
    assert given["0.weight"] is not states[0]["0.weight"]
    assert (given | {"more": 1})["more"] == 1
    assert ({"more": 1} | given)["0.bias"] is given["0.bias"]


def scaled(tensor):
    return tensor.mul_(3)


def shifted_by_numpy(tensor):
    array = tensor.numpy()
    array -= array.max(-1, keepdims=True) + 1
    return tensor


def filled_through_data(tensor):
    tensor.data.fill_(0)
    return tensor


@pytest.mark.parametrize("change", [scaled, shifted_by_numpy, filled_through_data])
@pytest.mark.parametrize("what", ["outputs", "targets", "reference"])
def test_a_metric_that_changes_what_it_is_handed_is_refused(pair, states, what, change):
    def mine(outputs, targets, reference):
        change({"outputs": outputs, "targets": targets, "reference": reference}[what])
        return outputs.sum(-1)

    metric = Metric("mine", "mine", mine, uses_reference=True)
    labels = pair[1].clone()
    calls = [
        lambda: sweep(network(1), pair, states, metrics=[metric, "loss"]),
        lambda: Session(network(1), pair, checkpoints=states, metrics=[metric], device="cpu"),
        lambda: metrics.evaluate(network(1), pair, [metric], device="cpu", reference=network(2)),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=f"'mine' changes the {what}.*{what}.clone()"):
            call()
    assert torch.equal(pair[1], labels)


def test_a_metric_that_starts_to_work_in_place_later_is_refused_then(pair, states):
    seen = []

    def mine(outputs, _):
        seen.append(outputs)
        return (outputs.mul_(2) if len(seen) > 4 else outputs).sum(-1)

    with pytest.raises(OptionError, match="'mine' changes the outputs"):
        sweep(network(1), pair, states, metrics=["loss", Metric("mine", "mine", mine)])


def test_what_a_callback_does_to_the_dataset_stays_there(pair, states, tmp_path):
    def spoiling(ds):
        ds["value"][...] = 99.0
        ds.attrs.clear()

    out = tmp_path / "out"
    ds = sweep(network(1), pair, states, callback=spoiling, out=out)
    right = sweep(network(1), pair, states, out=tmp_path / "right")
    for found in (ds, layerscope.open_dataset(out / "sweep.nc")):
        assert np.array_equal(found["value"], right["value"], equal_nan=True)
        assert found.attrs.keys() == right.attrs.keys()


class Centring(nn.Module):
    """Changes its input in place, and not the same way when done twice."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs -= 0.5
        inputs *= 2
        return self.body(inputs)


def test_a_network_that_changes_its_inputs_leaves_the_users_data_alone(pair, states):
    model = Centring(network(1))
    series = {e: {f"body.{n}": t for n, t in state.items()} for e, state in states.items()}
    inputs = pair[0].clone()
    ds = sweep(model, pair, series)
    assert torch.equal(pair[0], inputs)
    model.load_state_dict(series[3])
    tallies = metrics.evaluate(model, pair, ["loss"], 16, "cpu", reference=model)
    assert torch.equal(pair[0], inputs)
    assert tallies["loss"].mean == float(ds["baseline"].sel(metric="loss"))
    other = network(1)
    other.load_state_dict(states[3])
    changed = (inputs - 0.5) * 2, pair[1]
    assert (
        tallies["loss"].mean == metrics.evaluate(other, changed, ["loss"], 16, "cpu")["loss"].mean
    )


def test_what_augments_may_work_in_place():
    examples = data.Examples(torch.ones(6, 2), torch.zeros(6, dtype=torch.long))
    list(examples.batches(4, augment=lambda inputs, _: inputs.mul_(0)))
    assert bool((examples.inputs == 1).all())
