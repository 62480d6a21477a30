"""Measures of one pass beside the exact effects of a sweep."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from layerscope import measures, open_dataset, results, sweep
from layerscope.core.sweep import _fragments as fragments
from layerscope.errors import ResultError

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)  # noqa: E731
        return nn.Sequential(nn.Embedding(50, 8), block(), block(), block(), nn.Linear(8, 50))


@pytest.fixture
def data():
    ids = torch.randint(50, (9, 6), generator=torch.Generator().manual_seed(1))
    return ids, ids.roll(-1, 1)


OPTIONS = {"view": "block", "perturbations": ["zero"], "metrics": ["loss"], "batch_size": 4,
           "device": "cpu", "show_progress": False}  # fmt: skip
WANTED = ["block_influence", "variance", "spectral_exponent"]


def test_they_are_those_that_stand_alone_and_change_no_value(net, data):
    plain, ds = sweep(net, data, **OPTIONS), sweep(net, data, **OPTIONS, measures=WANTED)
    alone = measures.measure(
        net, (data[0], None), WANTED, batch_size=4, device="cpu", show_progress=False
    )
    for name in plain.data_vars:
        assert plain[name].identical(ds[name]), name
    assert ds.measure_value.dims == ("layer", "measure")
    rows = ds.measure_value.sel(layer=alone.layer.values)
    np.testing.assert_array_equal(rows, alone.measure_value)
    assert ds.measure_value.sel(layer="fullmodel").isnull().all()
    assert repr(results.measure(ds, "variance")) == repr(results.measure(alone, "variance"))
    assert json.loads(ds.attrs["call"])["measures"] == WANTED


def test_a_sweep_that_was_stopped_has_them_as_well(net, data, tmp_path, monkeypatch):
    whole = sweep(net, data, **OPTIONS, measures=WANTED)
    kept = fragments.Fragments.record
    monkeypatch.setattr(fragments.Fragments, "record", lambda *given: kept(*given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep(net, data, **OPTIONS, measures=WANTED, out=tmp_path)
    monkeypatch.undo()
    ds = sweep(net, data, **OPTIONS, measures=WANTED, out=tmp_path)
    for each in (ds, open_dataset(tmp_path / "sweep.nc")):
        np.testing.assert_array_equal(each.measure_value, whole.measure_value)
        np.testing.assert_array_equal(each.value, whole.value)


def test_another_measure_is_another_sweep(net, data, tmp_path):
    def size(scale):
        return measures.Measure("size", per_token=lambda _, y: scale * y.norm(dim=-1))

    sweep(net, data, **OPTIONS, measures=[size(1)], out=tmp_path)
    again = sweep(net, data, **OPTIONS, measures=[size(1)], out=tmp_path)
    assert again.measure_value.sel(measure="size").notnull().any()
    with pytest.raises(ResultError, match="another sweep"):
        sweep(net, data, **OPTIONS, measures=[size(2)], out=tmp_path)


def test_a_row_that_is_not_finite_or_no_block_says_so(net, data):
    ds = sweep(net, data, **{**OPTIONS, "view": "leaf"}, measures=["block_influence"])
    assert ds.measure_value.isnull().all()
    reasons = results.settings(ds)["not_measured"]
    assert "no row of whole blocks" in reasons["1.linear1 block_influence"]
