"""Memory of a sweep: one second network and no third, what is kept, and what there is."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import layerscope
from layerscope import perturb
from layerscope.base import devices, memory
from layerscope.base.tensors import as_bytes
from layerscope.core import lending, plain
from layerscope.core.checkpoints import Series, open_series
from layerscope.core.layers import Norms, find, whole_network
from layerscope.core.perturb import Redraw
from layerscope.core.probe import _cell

# What is not kept, or refused, is said by a warning too.
pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")


def build(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)
    )
    net[1].running_mean.normal_()
    return net.eval()


PAIR = (
    torch.randn(12, 6, generator=torch.Generator().manual_seed(0)),
    torch.arange(12) % 3,
)


def sweep(**more):
    series = {epoch: build(epoch).state_dict() for epoch in (0, 1)}
    options = {"checkpoints": series, "device": "cpu", "batch_size": 4, "show_progress": False}
    return layerscope.sweep(build(1), PAIR, **options | more)


def test_values_are_taken_out_one_by_one_and_ties_hold():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    own = {name: (p, p.data_ptr(), p.data.clone()) for name, p in net.named_parameters()}
    values = {name: torch.full_like(t, 2) for name, t in net.state_dict().items()}
    left = []

    class Watching(dict):
        def __delitem__(self, name):
            super().__delitem__(name)
            left.append(len(self))

    passing = Watching(values)
    with lending.Swapper(net).swapped(passing, consume=True):
        assert left == [3, 2, 1, 0]
        assert all(torch.equal(t, values[name]) for name, t in net.state_dict().items())
    assert len(values) == 4  # the caller's other dict of them is not touched
    for parameter, place, before in own.values():
        assert parameter.data_ptr() == place
        assert torch.equal(parameter, before)


def test_a_value_that_does_not_fit_changes_nothing():
    net = nn.Linear(2, 2)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(layerscope.errors.LayerError, match="can't hold"):
        lending.Swapper(net).swapped(
            {"weight": torch.ones(2, 2), "bias": torch.ones(3)}, consume=True
        ).__enter__()
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def halve_in_place(site):
    found = dict(site.checkpoint)
    for tensor in site.checkpoint.values():
        tensor.copy_(tensor * 0.5)
    return found


KINDS = [
    "reinitialize",
    "rerandomize",
    "zero",
    "noise(0.1)",
    "reinitialize+noise(0.1)",
    perturb.Perturbation("in place", halve_in_place, uses_checkpoint=True),
]


@pytest.mark.parametrize("batch_size", [4, 12])
def test_large_rows_are_read_tensor_by_tensor_to_the_same_bits(monkeypatch, batch_size):
    expected = sweep(perturbations=KINDS, draws=2, batch_size=batch_size)
    monkeypatch.setattr(_cell, "KEPT_BYTES", 0)
    found = sweep(perturbations=KINDS, draws=2, batch_size=batch_size)
    assert found["value"].equals(expected["value"])
    assert bool(expected["value"].sel(layer="fullmodel", metric="loss").notnull().any())


def test_of_a_large_row_never_more_than_a_tensor_is_read_at_a_time(monkeypatch):
    asked = []
    real = Series.read

    def noted(self, epoch, names=None):
        asked.append(list(names))
        return real(self, epoch, names)

    net = build(1)
    series = open_series({epoch: build(epoch).state_dict() for epoch in (0, 1)}).fit(net)
    tensors = _cell.CellTensors(net, series, Redraw(net, series), 0, torch.device("cpu"))
    row = whole_network(net, "fullmodel", Norms())
    monkeypatch.setattr(_cell, "KEPT_BYTES", 0)
    monkeypatch.setattr(Series, "read", noted)
    values = tensors.computed(_cell.Cell(row, perturb.parse("reinitialize")[0], 0, 0))
    assert max(map(len, asked)) == 1
    start = build(0).state_dict()
    assert values.keys() == {n for n, t in start.items() if not torch.equal(t, net.state_dict()[n])}
    assert all(torch.equal(values[name], start[name]) for name in values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(3, 2), (1,), (0, 2), ()])
@pytest.mark.parametrize("value", [-0.0, 1.5])
def test_one_value_for_all_is_written_as_if_it_were_many(dtype, shape, value):
    one = torch.tensor([9.0, value]).to(dtype)[1]
    into, expected = (torch.empty(shape, dtype=dtype) for _ in range(2))
    devices.write(into, one.expand(shape))
    expected.copy_(one.expand(shape).contiguous())
    assert torch.equal(as_bytes(into), as_bytes(expected))


def test_zeros_of_a_large_layer_take_no_memory():
    net = build(1)
    series = open_series({epoch: build(epoch).state_dict() for epoch in (0, 1)}).fit(net)
    tensors = _cell.CellTensors(net, series, Redraw(net, series), 0, torch.device("cpu"))
    row, (zero,) = whole_network(net, "fullmodel", Norms()), perturb.parse("zero")
    values = tensors.computed(_cell.Cell(row, zero, -1, 0))
    assert {t.untyped_storage().nbytes() for t in values.values()} == {4}
    assert {name: t.shape for name, t in values.items()} == {
        name: p.shape for name, p in net.named_parameters() if p.any()
    }


# Whole networks


def test_a_second_network_that_does_not_fit_is_left_out_and_said(monkeypatch, tmp_path):
    right = sweep(perturbations=["reinitialize", "skip"])
    room = 4 * sum(t.numel() for t in build(0).state_dict().values()) // 2
    monkeypatch.setattr(devices, "free_bytes", lambda _: room)
    with pytest.warns(layerscope.errors.SweepWarning, match=r"fullmodel has no cells.*once more"):
        ds = sweep(perturbations=["reinitialize", "skip"], out=tmp_path)
    refused = json.loads(ds.attrs["refused"])["fullmodel reinitialize"]
    assert refused.startswith("it needs ")
    assert bool(ds["value"].sel(layer="fullmodel").isnull().all())
    others = [str(name) for name in ds["layer"].values if name != "fullmodel"]
    assert ds["value"].sel(layer=others).equals(right["value"].sel(layer=others))
    # Elsewhere there is more memory, and there are other cells.
    monkeypatch.undo()
    with pytest.raises(layerscope.errors.ResultError, match="too_large"):
        sweep(perturbations=["reinitialize", "skip"], out=tmp_path)


# What is kept


def test_what_is_kept_is_said_and_holds_the_budget(monkeypatch):
    free = json.loads(sweep().attrs["reuse"])
    assert 0 < free["kept_bytes"] <= free["budget_bytes"] <= 4 * 2**30
    tight = free["kept_bytes"] - 1
    monkeypatch.setattr(devices, "spare_bytes", lambda _: tight)
    ds = sweep()
    reuse = json.loads(ds.attrs["reuse"])
    assert reuse["budget_bytes"] == tight
    assert reuse["kept_bytes"] <= tight
    assert reuse["passes"]["recorded"] > free["passes"]["recorded"]
    assert ds["value"].equals(sweep()["value"])


def test_cells_are_the_plain_ones_where_almost_nothing_may_be_kept(monkeypatch):
    monkeypatch.setattr(devices, "spare_bytes", lambda _: 0)
    ds = sweep(perturbations=["zero"], metrics=["loss"], batch_size=12)
    for row in find(build(1)):
        series = Series({epoch: build(epoch).state_dict() for epoch in (0, 1)}).fit(build(1))
        (zero,) = perturb.parse("zero")
        cell = plain.cell(build(1), series, [PAIR], row, zero, wanted=["loss"])
        assert ds["value"].sel(layer=row.name, metric="loss").max() == cell["loss"].mean


# What there is


def group(folder, limit, used, idle, *, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {idle}\n")


@pytest.mark.parametrize(
    ("own", "make", "room"),
    [
        ("0::/\n", lambda at: group(at, 5000, 1000, 500), 4500),
        ("0::/job/step\n", lambda at: group(at / "job", 5000, 1000, 500), 4500),
        ("0::/job/step\n", lambda at: group(at / "job" / "step", "max", 1, 1), None),
        ("4:memory:/job\n", lambda at: group(at / "memory" / "job", 90, 20, 5, version=1), 75),
        ("3:cpu:/job\n", lambda at: group(at / "job", 5000, 1000, 500), None),
    ],
)  # fmt: skip
def test_what_a_job_may_take_is_asked_of_its_own_group(own, make, room, monkeypatch, tmp_path):
    (tmp_path / "cgroup").write_text(own)
    make(tmp_path / "fs")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "fs")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_of_machine", lambda: None)
    assert memory.available() == room
