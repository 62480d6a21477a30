"""Single weights, and tensors as rows: bit for bit what a copy without them gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from layerscope import layers, perturb, sweep
from layerscope.core import plain
from layerscope.core.batches import FixedBatches
from layerscope.errors import LayerError, OptionError

pytestmark = [
    pytest.mark.usefixtures("same_global_generator"),
    pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning"),
]


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)
        )


@pytest.fixture
def data():
    inputs = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    return inputs, torch.arange(24) % 3


def swept(net, data, **options):
    started = {name: t / 2 for name, t in net.state_dict().items()}
    checkpoints = {0: started, 1: net.state_dict()}
    given = {"metrics": ["loss"], "show_progress": False, "device": "cpu", "batch_size": 10}
    return sweep(net, data, checkpoints=checkpoints, **{**given, **options})


def loss(net, data):
    batches = FixedBatches(data, 10, torch.device("cpu"))
    return plain.evaluate(net, batches, ["loss"])["loss"].mean


def without(net, name, place):
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.get_parameter(name)[place] = 0
    return other


def test_one_weight_of_each_row_is_zero_and_nothing_else(net, data):
    chosen = {"0.weight": [(3, 2)], "2.weight": [(-1, 0)], "4.bias": [(1,)]}
    ds = swept(
        net, data, layers=list(chosen), view="tensor", perturbations=[perturb.zero_weights(chosen)]
    )
    for name, (place,) in chosen.items():
        assert float(ds.value.sel(layer=name).max()) == loss(without(net, name, place), data)
    everything = net
    for name, (place,) in chosen.items():
        everything = without(everything, name, place)
    assert float(ds.value.sel(layer="fullmodel").max()) == loss(everything, data)


def test_by_name_it_goes_on_where_it_was_stopped(net, data, tmp_path):
    name = "zero_weights({'2.weight': [(1, 1), (2, 2)]})"
    first = swept(net, data, layers=["2"], perturbations=[name], out=tmp_path / "out")
    again = swept(net, data, layers=["2"], perturbations=[name], out=tmp_path / "out")
    assert first.identical(again)
    assert list(first.perturbation.values) == [name]
    both = without(without(net, "2.weight", (1, 1)), "2.weight", (2, 2))
    assert float(first.value.sel(layer="2").max()) == loss(both, data)


@pytest.mark.parametrize(
    "weights", [{}, None, {"0.weight": (3, 2)}, {"0.weight": [3.5]}, {"0.weight": []}]
)
def test_what_names_no_weight_is_refused(weights):
    with pytest.raises(OptionError, match=r"zero_weights got .*\{'layer1.weight': \[\(3, 7\)\]\}"):
        perturb.zero_weights(weights)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"4.weight": [(0, 0)]}, "0.weight holds none of 4.weight"),
        ({"0.weight": [(7, 0)]}, r"\(7, 5\) has no weight \(7, 0\)"),
        ({"0.weight": [(1,)]}, r"\(7, 5\) has no weight \(1,\)"),
    ],
)  # fmt: skip
def test_a_weight_that_is_not_there_is_refused(net, data, weights, match):
    with pytest.raises(LayerError, match=match):
        swept(
            net,
            data,
            layers=["0.weight"],
            view="tensor",
            perturbations=[perturb.zero_weights(weights)],
        )


def test_every_parameter_is_a_row_and_no_buffer(net):
    net = nn.Sequential(net[0], nn.BatchNorm1d(7), nn.Linear(7, 5, bias=False, device="meta"))
    net[2].weight = nn.Parameter(net[0].weight.T)  # tied
    rows = layers.find(net, view="tensor")
    assert [row.name for row in rows] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [row.size for row in rows] == [35, 7, 7, 7]
    assert all(row.parameters == (row.name,) and not row.buffers for row in rows)
    assert rows[0].aliases == ("2.weight",)
    kept = layers.find(net, view="tensor", norms="kept")
    assert [row.name for row in kept] == ["0.weight", "0.bias"]


def test_a_tensor_moved_as_far_as_its_layer_less_what_lies_beside_it(net, data):
    parts, whole = (
        swept(net, data, view=view, draws=1).distance.sel(norm="l2_fan_in", epoch=1)
        for view in ("tensor", "leaf")
    )
    for leaf in ("0", "2", "4"):
        weight, bias = (float(parts.sel(layer=f"{leaf}.{part}")) for part in ("weight", "bias"))
        together = (weight**2 + bias**2) ** 0.5
        assert together == pytest.approx(float(whole.sel(layer=leaf)), rel=1e-12)
        module = net[int(leaf)]
        alone = float((module.bias.detach() / 2).double().norm()) / module.in_features**0.5
        assert bias == pytest.approx(alone, rel=1e-12)


def test_a_drawn_bias_has_the_fan_in_of_its_weight(net, data):
    ds = swept(net, data, view="tensor", draws=1, perturbations=["rerandomize"])
    far = ds.draw_distance.sel(layer="2.bias").squeeze()
    ratio = float(far.sel(norm="l2")) / float(far.sel(norm="l2_fan_in"))
    assert ratio == pytest.approx(7**0.5, rel=1e-12)


def test_no_module_stands_for_a_tensor(net, data):
    with pytest.raises(LayerError, match="no module stands for it alone"):
        swept(net, data, view="tensor", layers=["0.weight"], perturbations=["skip"])
