"""Numbers that are none: counted, marked, and never taken for what was not computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import metrics, results, stats, testing
from layerscope.core.session import Session

CELL = {"layer": "root", "epoch": 0, "perturbation": "reinitialize", "draw": 0}
METRICS = ("error", "loss", "perplexity", "agreement", "top2_error")


class Rooted(nn.Module):
    """Takes the root of what its first layer gives, so that NaN comes of what is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.root(x).sqrt())


def state(bias: float):
    """Weights whose roots are of `bias` plus or minus 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        "root.weight": torch.rand(6, 4, generator=generator) / 4,
        "head.weight": torch.randn(3, 6, generator=generator),
        "head.bias": torch.zeros(3),
    }
    return {**weights, "root.bias": torch.full((6,), bias)}


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(200, 4, generator=generator) * 2 - 1
    return inputs, logits((inputs, None), 3.0).argmax(1)


def swept(pair, bias, **options):
    given = {"metrics": METRICS, "batch_size": 50, "device": "cpu", "draws": 1}
    given |= {"perturbations": ["reinitialize"], "show_progress": False, "epochs": [0]}
    states = {0: state(bias), 1: state(3.0)}
    return layerscope.sweep(Rooted(), pair, checkpoints=states, **given | options)


def logits(pair, bias):
    """What the network with its first layer set back gives, the plainest way there is."""
    net = Rooted()
    net.load_state_dict(state(3.0) | {n: t for n, t in state(bias).items() if n[0] == "r"})
    with torch.no_grad():
        return net(pair[0])


@pytest.mark.parametrize("bias", [0.0, -3.0])
def test_outputs_that_are_nan_are_wrong_and_counted(pair, bias):
    out = logits(pair, bias)
    broken = out.isnan().any(1)
    assert broken.all() if bias else 0 < broken.sum() < 200
    wrong = broken | (out.argmax(1) != pair[1])
    ds = swept(pair, bias)
    cell = ds.sel(CELL)
    assert float(cell.value.sel(metric="error")) == float(wrong.double().mean())
    beyond = broken | (out.topk(2).indices != pair[1].unsqueeze(1)).all(1)
    assert float(cell.value.sel(metric="top2_error")) == float(beyond.double().mean())
    agrees = ~broken & (out.argmax(1) == logits(pair, 3.0).argmax(1))
    assert float(cell.value.sel(metric="agreement")) == float(agrees.double().mean())
    assert int(cell.not_finite) == int(broken.sum())
    assert int(ds.baseline_not_finite) == 0
    assert np.isnan(cell.value.sel(metric=["loss", "perplexity"])).all()
    marked = results.not_finite(ds)
    assert bool(marked.sel(CELL).all())
    other = marked.sel(CELL | {"layer": "head"})
    assert not bool(other.any())


def test_nothing_agrees_with_outputs_that_are_nan():
    nan = torch.tensor([[float("nan"), 1.0]])
    found = metrics.measure(metrics.parse("agreement"), nan, None, nan)["agreement"]
    assert found.values.tolist() == [0]


def test_a_class_that_is_ruled_out_is_no_number_that_is_missing():
    out = torch.tensor([[0.0, -np.inf], [np.inf, 0.0], [-np.inf, -np.inf], [0, np.nan], [1, 0]])
    found = metrics.measure([metrics.NOT_FINITE], out, None)["not finite"]
    assert found.values.tolist() == [0, 1, 1, 1, 0]
    # Padding does not count, whatever the network gives there.
    targets = torch.tensor([[0, -100, -100, -100, 1]])
    found = metrics.measure([metrics.NOT_FINITE], out[None], targets)["not finite"]
    assert found.values.tolist() == [0]


def test_a_trained_network_that_gives_nan_says_so(pair):
    states = {0: state(3.0), 1: state(0.0)}
    ds = layerscope.sweep(
        Rooted(), pair, checkpoints=states, perturbations=["reinitialize"], device="cpu",
        show_progress=False,
    )  # fmt: skip
    assert 0 < int(ds.baseline_not_finite) < 200


def test_the_state_survives_a_file_and_a_join(pair, tmp_path):
    ds = swept(pair, -3.0, out=tmp_path)
    again = results.open_dataset(tmp_path)
    xr.testing.assert_identical(results.not_finite(again), results.not_finite(ds))
    joined = results.concat([ds, ds], [0, 1])
    marked = results.not_finite(joined)
    assert set(marked.dims) == set(joined.value.dims)
    assert bool(marked.sel(CELL).all())


def test_what_is_not_finite_is_settled_as_the_worst(pair):
    ds = swept(pair, -3.0, decide={"robust": 0.02, "metric": "cosine"}, metrics=["cosine"])
    assert str(ds.sel(CELL).verdict.values) == "critical"
    assert str(ds.sel(CELL | {"layer": "head"}).verdict.values) in ("robust", "not moved")


def test_tables_name_what_is_not_finite_and_leave_nothing_out(pair):
    ds = swept(pair, -3.0)
    loss = stats.summary(ds, "loss").set_index(["layer", "column"])
    assert loss.loc[("root", "0"), "not_finite"] == 1
    assert loss.loc[("root", "0"), ["value", "lower", "upper", "degradation"]].isna().all()
    assert loss.loc[("root", "0"), "n_draws"] == 1
    assert loss.loc[("head", "0"), "not_finite"] == 0
    error = stats.summary(ds).set_index(["layer", "column"])
    assert error.loc[("root", "0"), "value"] == 1
    assert error.loc[("root", "0"), "not_finite"] == 1
    verdicts = stats.classify(ds, "loss", critical=1.0).set_index("layer").verdict
    assert verdicts["root"] == "not finite"
    assert stats.classify(ds, critical=0.5).set_index("layer").verdict["root"] == "critical"


def test_one_draw_that_is_not_finite_makes_the_mean_so():
    ds = testing.dataset(layers=3)
    per_cell = ds.value.sel(metric="error", drop=True).notnull() * ds.n_examples
    ds["n_examples"] = per_cell.where(per_cell > 0)
    at = {"layer": "layer1", "epoch": -1, "perturbation": "rerandomize", "metric": "loss"}
    plain = stats.summary(ds, "loss")
    ds.value.loc[at | {"draw": 1}] = np.nan
    ds.difference.loc[at | {"draw": 1}] = np.nan
    table = stats.summary(ds, "loss")
    assert len(table) == len(plain)
    row = table.query("layer == 'layer1' and column == 'rand'").iloc[0]
    assert (row.n_draws, row.not_finite) == (3, 1)
    assert np.isnan(row.value)
    table = stats.classify(ds, "loss", perturbation="rerandomize", critical=1.0)
    assert table.verdict[0] == "not finite"
    assert "not finite" not in set(table.verdict[1:])


@pytest.mark.parametrize(("spoilt", "verdict"), [(3, "critical"), (1, "not finite")])
def test_an_infinite_perplexity_is_critical(spoilt, verdict):
    ds = testing.dataset(layers=3)
    at = {"layer": "layer1", "epoch": -1, "perturbation": "rerandomize", "metric": "loss"}
    ds.value.loc[at | {"draw": list(range(spoilt))}] = np.inf
    ds = ds.drop_vars(["difference", "difference_standard_error"])
    table = stats.classify(ds, "loss", perturbation="rerandomize", critical=1.0)
    assert table.verdict[0] == verdict
    assert table.degradation[0] == np.inf
    single = ds.isel(draw=[0])
    table = stats.classify(single, "loss", perturbation="rerandomize", critical=1.0)
    assert table.verdict[0] == "critical"


def test_a_layer_that_destroys_the_loss_ranks_as_the_worst():
    ds = testing.dataset(layers=6)
    ds["not_finite"] = xr.zeros_like(ds.value.isel(metric=0, drop=True)).where(
        ds.value.isel(metric=0).notnull()
    )
    worst = int(np.argmax(ds.distance.sel(norm="l2_fan_in", epoch=100).values[:6]))
    at = {"epoch": 0, "perturbation": "reinitialize", "draw": 0, "metric": "loss"}
    name = str(ds.layer[worst].values)
    ds.value.loc[at | {"layer": name}] = 1e6
    ds.difference.loc[at | {"layer": name}] = 1e6
    expected = float(stats.rank_correlation(ds, metric="loss").correlation)
    ds.value.loc[at | {"layer": name}] = np.nan
    ds.difference.loc[at | {"layer": name}] = np.nan
    assert float(stats.rank_correlation(ds, metric="loss").correlation) == expected


def one_layer(baseline, reset, chance, n=10_000):
    """A Dataset of one layer, whose reset changes the error."""
    ds = testing.dataset(layers=1, draws=1, n_examples=n)
    at = {"layer": "layer1", "epoch": 0, "perturbation": "reinitialize", "metric": "error"}
    ds.value.loc[at] = reset
    ds.baseline.loc[{"metric": "error"}] = baseline
    ds["chance"] = chance
    return ds.drop_vars(["difference", "difference_standard_error"])


@pytest.mark.parametrize(
    ("baseline", "reset", "verdict"),
    [
        # 90 % are of one class: the limit for critical, 0.015, lies below the tolerance of 0.05.
        (0.04, 0.90, "critical"),
        (0.04, 0.075, "undecided"),
        (0.04, 0.041, "robust"),
        # Hardly better than chance, so that the limit is 0.0005: nothing could be lost.
        (0.098, 0.0981, "undecided"),
    ],
)
def test_an_interval_beyond_both_limits_is_decided_whatever_their_order(baseline, reset, verdict):
    table = stats.classify(one_layer(baseline, reset, chance=0.1))
    assert table.attrs["critical"] < table.attrs["tolerance"]
    assert table.verdict.tolist() == [verdict]


def test_a_session_names_no_class_where_outputs_are_nan(pair):
    states = {0: state(0.0), 1: state(3.0)}
    out = logits(pair, 0.0)
    broken = out.isnan().any(1)
    with Session(Rooted(), pair, checkpoints=states, batch_size=50, device="cpu") as session:
        found = session.measure({"root": ("reinitialize", 0)})
    assert torch.equal(found.predicted == -1, broken)
    right = (out.argmax(1) == pair[1]) & ~broken
    assert found.mean("error") == 1 - float(right.double().mean())
    counts = torch.bincount(pair[1], minlength=3)
    hits = torch.bincount(pair[1][right], minlength=3)
    there = counts > 0
    np.testing.assert_allclose(found.class_accuracy()[there], (hits / counts)[there])
    assert found.confusion().sum() == int((~broken).sum())
    assert np.trace(found.confusion()) == int(right.sum())
