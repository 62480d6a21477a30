"""Quantised networks: what of them can be swept, and what is refused with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import layerscope
from layerscope import errors, results
from layerscope.core.networks import find_packed


class Packed(nn.Module):
    """A layer of 8 × 8 weights, two in a byte, as bitsandbytes or GPTQ keep them."""

    def __init__(self, buffers=False):
        super().__init__()
        numbers = torch.randint(256, (8, 4), dtype=torch.uint8)
        if buffers:
            self.register_buffer("qweight", numbers.int())
            self.register_buffer("scales", torch.rand(8, 1))
            self.bias = nn.Parameter(torch.rand(8))
        else:
            self.weight = nn.Parameter(numbers, requires_grad=False)
            self.register_buffer("absmax", torch.rand(8, 1))

    def forward(self, x):
        state = dict(self.state_dict())
        bias = state.pop("bias", 0.0)
        numbers, scale = state.values()
        low, high = numbers.int() % 16, numbers.int() // 16
        return x @ ((torch.cat([low, high], 1) - 8) * scale / 8).T + bias


class Net(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.start, self.packed, self.end = nn.Linear(4, 8), Packed(**how), nn.Linear(8, 3)

    def forward(self, x):
        return self.end(torch.relu(self.packed(torch.relu(self.start(x)))))


@pytest.fixture(params=[False, True], ids=["parameter", "buffers"])
def net(request):
    torch.manual_seed(0)
    return Net(buffers=request.param)


@pytest.fixture
def pair():
    return torch.randn(20, 4), torch.arange(20) % 3


def test_values_are_refused_and_what_passes_by_is_not(net, pair):
    kinds = ["zero", "rerandomize_matched", "noise(0.1)", "skip", "rerandomize"]
    ds = layerscope.sweep(net, pair, device="cpu", perturbations=kinds, show_progress=False)
    refused = results.refusals(ds)
    for kind in ("zero", "rerandomize_matched", "noise(0.1)", "rerandomize"):
        assert "mean nothing without their scales" in refused["packed", kind]
        assert ds["value"].sel(layer="packed", perturbation=kind).isnull().all()
        # Beside it all is as ever.
        assert ds["value"].sel(layer="start", perturbation=kind, draw=0).notnull().all()
    with torch.no_grad():
        by_hand = net.end(torch.relu(torch.relu(net.start(pair[0]))))
        loss = nn.functional.cross_entropy(by_hand, pair[1]).item()
    skipped = ds["value"].sel(layer="packed", perturbation="skip", metric="loss", draw=0)
    assert skipped.item() == pytest.approx(loss)
    assert any("stored as" in said for said in results.notices(ds))


def test_what_a_checkpoint_holds_is_put_back_with_its_scales(net, pair):
    start = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (*start.packed.parameters(), *start.packed.buffers()):
            tensor.copy_(tensor.flip(0))
    series = {0: start.state_dict(), 1: copy.deepcopy(net.state_dict())}
    ds = layerscope.sweep(
        net, pair, checkpoints=series, device="cpu", perturbations=["reinitialize"],
        show_progress=False,
    )  # fmt: skip
    other = copy.deepcopy(net)
    other.packed.load_state_dict(start.packed.state_dict())
    with torch.no_grad():
        loss = nn.functional.cross_entropy(other(pair[0]), pair[1]).item()
    found = ds["value"].sel(layer="packed", perturbation="reinitialize", epoch=0, metric="loss")
    assert found.isel(draw=0).item() == pytest.approx(loss)


def test_where_nothing_is_left_the_reason_is_said(net, pair):
    with pytest.raises(errors.LayerError, match=r"'zero' fits no layer; packed.*scales") as caught:
        layerscope.sweep(
            net, pair, device="cpu", perturbations=["zero"], layers=["packed"], whole=False
        )
    assert "Hidden states" not in str(caught.value)


def test_a_session_refuses_in_the_same_words(net, pair):
    with layerscope.Session(net, pair, device="cpu") as session:
        with pytest.raises(errors.LayerError, match=r"packed can't be set to zero: .*scales"):
            session.measure({"packed": "zero"})
        assert session.measure({"packed": "skip"}).examples == 20


def test_ordinary_networks_hold_nothing_packed():
    kinds = [nn.BatchNorm1d(4), nn.Embedding(3, 4), nn.LSTM(4, 4), nn.Linear(2, 2).half()]
    positions = nn.Module()
    positions.register_buffer("position_ids", torch.arange(8)[None])
    assert [find_packed(kind) for kind in (*kinds, positions)] == [{}] * 5


def test_numbers_of_eight_bits_are_packed_and_the_method_is_named():
    net = nn.Linear(4, 4)
    net.weight = nn.Parameter(net.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    net.config = type("Config", (), {"quantization_config": {"quant_method": "fp8"}})()
    assert find_packed(net) == {"weight": "float8_e4m3fn (fp8)"}


def test_tensors_of_a_class_of_their_own_are_refused(pair):
    from torch.testing._internal.two_tensor import TwoTensor

    net = nn.Linear(4, 3)
    with torch.no_grad():
        own = TwoTensor(net.weight.detach().clone(), net.weight.detach().clone())
    net.weight = nn.Parameter(own, requires_grad=False)
    with pytest.raises(errors.OptionError, match=r"weight is a .*TwoTensor.*without quantisation"):
        layerscope.sweep(net, pair, device="cpu", perturbations=["zero"])
