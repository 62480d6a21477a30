"""Distances are those that a few lines of NumPy give, and add up over layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import layerscope
from layerscope.core.sweep import _distances as distances

VALUES = st.floats(-1e3, 1e3, width=32)


def arrays(*shape):
    return hnp.arrays(np.float32, shape, elements=VALUES)


@given(w0=arrays(3, 4), w1=arrays(3, 4), b0=arrays(3), b1=arrays(3))
def test_every_norm_equals_numpy(w0, w1, b0, b1):
    tensors = [
        {"m.weight": torch.from_numpy(w), "m.bias": torch.from_numpy(b)}
        for w, b in ((w1, b1), (w0, b0))
    ]
    found = distances.displacement(*tensors).norms()
    assert list(found) == list(distances.NORMS)
    start = np.concatenate([w0.ravel(), b0]).astype(float)
    change = np.concatenate([w1.ravel(), b1]).astype(float) - start
    length, began = np.linalg.norm(change), np.linalg.norm(start)
    assert found["l2"] == pytest.approx(length, rel=1e-12, abs=0)
    assert found["l2_rms"] == pytest.approx(length / math.sqrt(15), rel=1e-12, abs=0)
    # The bias takes the fan-in of the matrix beside it.
    assert found["l2_fan_in"] == pytest.approx(length / math.sqrt(4), rel=1e-12, abs=0)
    assert found["linf"] == np.abs(change).max()
    if began:
        assert found["l2_relative"] == pytest.approx(length / began, rel=1e-12, abs=0)
    else:
        assert found["l2_relative"] == (math.inf if length else 0.0)


@given(w0=arrays(2, 3), w1=arrays(2, 3), v0=arrays(4, 5), v1=arrays(4, 5))
def test_modules_add_up_to_the_whole(w0, w1, v0, v1):
    def state(**found):
        return {f"{name}.weight": torch.from_numpy(values) for name, values in found.items()}

    parts = [
        distances.displacement(state(a=w1), state(a=w0)),
        distances.displacement(state(b=v1), state(b=v0)),
    ]
    whole = distances.displacement(state(a=w1, b=v1), state(a=w0, b=v0))
    added = sum(parts, distances.Displacement())
    for field in ("squares", "scaled", "start", "largest", "count"):
        assert getattr(added, field) == pytest.approx(getattr(whole, field), rel=1e-14, abs=0)
    expected = math.sqrt(parts[0].squares / 3 + parts[1].squares / 5)
    assert added.norms()["l2_fan_in"] == pytest.approx(expected, rel=1e-14, abs=0)
    assert parts[0] + parts[1] == parts[1] + parts[0]


def test_fan_in_is_what_one_output_sees():
    start = {"c.weight": torch.zeros(8, 3, 5, 5), "n.weight": torch.zeros(8)}
    now = {name: torch.ones_like(t) for name, t in start.items()}
    scaled = distances.displacement(now, start).scaled
    assert scaled == pytest.approx(8 * 75 / 75 + 8, rel=1e-14)  # a vector alone counts as it is


def weighed(module, names=None) -> float:
    """Squared distance by fan-in of a module whose parameters moved by 1 each, or some of them."""
    start = dict(module.named_parameters())
    now = {name: t + (names is None or name in names) for name, t in start.items()}
    with torch.no_grad():
        return distances.displacement(now, start, dict(module.named_modules())).scaled


def test_each_matrix_of_a_recurrent_layer_has_a_fan_in_of_its_own():
    lstm = nn.LSTM(4, 1024)
    assert weighed(lstm, {"weight_ih_l0"}) == pytest.approx(64.0**2, rel=1e-6)
    assert weighed(lstm, {"weight_hh_l0"}) == pytest.approx(4096, rel=1e-6)
    assert weighed(lstm, {"bias_ih_l0"}) == pytest.approx(4096 / 4, rel=1e-6)
    assert weighed(lstm, {"bias_hh_l0"}) == pytest.approx(4096 / 1024, rel=1e-6)
    # Two layers, both directions, with a projection: each weight by its own second dimension.
    deep = nn.LSTM(5, 12, 2, bidirectional=True, proj_size=3)
    fans = {"weight_ih_l0": 5, "weight_ih_l1": 6, "weight_hh": 3, "weight_hr": 12}
    for name, tensor in deep.named_parameters():
        like = name.replace("bias", "weight")
        fan = next(fan for start, fan in fans.items() if like.startswith(start))
        assert weighed(deep, {name}) == pytest.approx(tensor.numel() / fan, rel=1e-6)


def test_attention_with_sizes_of_its_own_for_keys_and_values():
    apart = nn.MultiheadAttention(12, 2, kdim=5, vdim=7, add_bias_kv=True)
    for name, expected in (
        ("q_proj_weight", 12 * 12 / 12),
        ("k_proj_weight", 12 * 5 / 5),
        ("v_proj_weight", 12 * 7 / 7),
        ("in_proj_bias", 12 / 12 + 12 / 5 + 12 / 7),
        ("bias_k", 12 / 5),
        ("bias_v", 12 / 7),
        ("out_proj.weight", 12),
        ("out_proj.bias", 1),
    ):
        assert weighed(apart, {name}) == pytest.approx(expected, rel=1e-6), name
    joint = nn.MultiheadAttention(12, 2)
    assert weighed(joint) == pytest.approx(36 + 36 / 12 + 12 + 1, rel=1e-6)


def test_gpt2_keeps_its_weights_transposed():
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    layer = pytorch_utils.Conv1D(nf=30, nx=10)
    assert weighed(layer) == pytest.approx(300 / 10 + 30 / 10, rel=1e-6)
    square = pytorch_utils.Conv1D(nf=10, nx=10)
    assert weighed(square, {"weight"}) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize(
    ("module", "fan"),
    [
        (nn.Conv2d(6, 4, 5), 6 * 25),
        (nn.Conv2d(6, 4, (5, 3), groups=2, stride=2), 3 * 15),
        (nn.Conv2d(6, 6, 3, groups=6), 9),
        # Each output sees every input channel of its group, at as many places as cover it.
        (nn.ConvTranspose2d(6, 4, 5), 6 * 25),
        (nn.ConvTranspose1d(6, 4, 3, groups=2), 3 * 3),
        (nn.ConvTranspose2d(6, 4, 4, stride=2), 6 * 4),
        (nn.Bilinear(3, 5, 4), 15),
        (nn.Linear(7, 2), 7),
        (nn.LayerNorm((4, 5)), 1),
        (nn.BatchNorm2d(4), 1),
    ],
    ids=str,
)
def test_fan_ins_of_layers_of_one_weight(module, fan):
    count = sum(t.numel() for t in module.parameters())
    assert weighed(module) == pytest.approx(count / fan, rel=1e-6)


def test_fan_ins_where_names_do_not_tell():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.inner = nn.Parameter(torch.zeros(3, 5))
            self.shift = nn.Parameter(torch.zeros(3))
            self.outer = nn.Parameter(torch.zeros(2, 3))
            self.gain = nn.Parameter(torch.zeros(2))

    for name, expected in (("token", 8), ("inner", 3), ("shift", 3 / 5), ("outer", 2)):
        assert weighed(Own(), {name}) == pytest.approx(expected, rel=1e-6)
    assert weighed(Own(), {"gain"}) == pytest.approx(2 / 3, rel=1e-6)


def test_a_sweep_measures_layers_by_their_own_fan_in():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 64, batch_first=True)
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    start = {name: t.clone() for name, t in Reader().state_dict().items()}
    end = {name: t.clone() for name, t in start.items()}
    end |= {"lstm.weight_ih_l0": start["lstm.weight_ih_l0"] + 1}
    pair = torch.zeros(4, 2, 4), torch.zeros(4, dtype=torch.long)
    ds = layerscope.sweep(
        Reader(), pair, checkpoints={0: start, 1: end}, draws=1, device="cpu", show_progress=False
    )
    moved = ds.distance.sel(epoch=1, norm="l2_fan_in")
    assert float(moved.sel(layer="lstm")) == pytest.approx(16.0, rel=1e-6)
    assert float(moved.sel(layer="head")) == 0
    assert float(moved.sel(layer="fullmodel")) == pytest.approx(16.0, rel=1e-6)


def test_a_start_at_zero_has_no_relative_distance():
    zero, one = {"b": torch.zeros(3)}, {"b": torch.tensor([0.0, 3.0, 4.0])}
    assert distances.displacement(one, zero).norms()["l2_relative"] == math.inf
    assert distances.displacement(zero, zero).norms()["l2_relative"] == 0.0
    assert distances.displacement(zero, one).norms()["l2_relative"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_in_double_precision(dtype):
    # In float16, 300² overflows and 10,001 terms of 1 do not add up.
    start = {"w": torch.zeros(10_001, dtype=dtype)}
    now = {"w": torch.cat([torch.full((1,), 304.0), torch.ones(10_000)]).to(dtype)}
    assert distances.displacement(now, start).squares == 304.0**2 + 10_000


def test_nothing_at_all_has_moved_nowhere():
    empty = {"w": torch.zeros(0, 4)}
    assert set(distances.displacement(empty, empty).norms().values()) == {0.0}
    assert set(distances.Displacement().norms().values()) == {0.0}


def test_nan_is_not_hidden():
    start, now = {"w": torch.zeros(2)}, {"w": torch.tensor([math.nan, 1.0])}
    found = distances.displacement(now, start).norms()
    assert math.isnan(found["l2"])
    assert math.isnan(found["linf"])
    total = (
        distances.Displacement(largest=1.0, squares=1.0, count=1)
        + distances.displacement(now, start)
    ).norms()
    assert math.isnan(total["l2"])
    assert math.isnan(total["linf"])
