"""Distances are those that a few lines of NumPy give, and add up over layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerscope import distances

VALUES = st.floats(-1e3, 1e3, width=32)


def arrays(*shape):
    return hnp.arrays(np.float32, shape, elements=VALUES)


@given(w0=arrays(3, 4), w1=arrays(3, 4), b0=arrays(3), b1=arrays(3))
def test_every_norm_equals_numpy(w0, w1, b0, b1):
    tensors = [
        {"m.weight": torch.from_numpy(w), "m.bias": torch.from_numpy(b)}
        for w, b in ((w1, b1), (w0, b0))
    ]
    found = distances.moved(*tensors).norms()
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
        distances.moved(state(a=w1), state(a=w0)),
        distances.moved(state(b=v1), state(b=v0)),
    ]
    whole = distances.moved(state(a=w1, b=v1), state(a=w0, b=v0))
    added = sum(parts, distances.Moved())
    for field in ("squares", "scaled", "start", "largest", "count"):
        assert getattr(added, field) == pytest.approx(getattr(whole, field), rel=1e-14, abs=0)
    expected = math.sqrt(parts[0].squares / 3 + parts[1].squares / 5)
    assert added.norms()["l2_fan_in"] == pytest.approx(expected, rel=1e-14, abs=0)
    assert parts[0] + parts[1] == parts[1] + parts[0]


def test_fan_in_is_what_one_output_sees():
    start = {"c.weight": torch.zeros(8, 3, 5, 5), "n.weight": torch.zeros(8)}
    now = {name: torch.ones_like(t) for name, t in start.items()}
    scaled = distances.moved(now, start).scaled
    assert scaled == pytest.approx(8 * 75 / 75 + 8, rel=1e-14)  # a vector alone counts as it is


def test_a_start_at_zero_has_no_relative_distance():
    zero, one = {"b": torch.zeros(3)}, {"b": torch.tensor([0.0, 3.0, 4.0])}
    assert distances.moved(one, zero).norms()["l2_relative"] == math.inf
    assert distances.moved(zero, zero).norms()["l2_relative"] == 0.0
    assert distances.moved(zero, one).norms()["l2_relative"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_in_double_precision(dtype):
    # In float16, 300² overflows and 10,001 terms of 1 do not add up.
    start = {"w": torch.zeros(10_001, dtype=dtype)}
    now = {"w": torch.cat([torch.full((1,), 304.0), torch.ones(10_000)]).to(dtype)}
    assert distances.moved(now, start).squares == 304.0**2 + 10_000


def test_nothing_at_all_has_moved_nowhere():
    empty = {"w": torch.zeros(0, 4)}
    assert set(distances.moved(empty, empty).norms().values()) == {0.0}
    assert set(distances.Moved().norms().values()) == {0.0}


def test_nan_is_not_hidden():
    start, now = {"w": torch.zeros(2)}, {"w": torch.tensor([math.nan, 1.0])}
    found = distances.moved(now, start).norms()
    assert math.isnan(found["l2"])
    assert math.isnan(found["linf"])
    total = (
        distances.Moved(largest=1.0, squares=1.0, count=1) + distances.moved(now, start)
    ).norms()
    assert math.isnan(total["l2"])
    assert math.isnan(total["linf"])
