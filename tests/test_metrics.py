"""Evaluation gives what a plain computation gives, and leaves the network as it was."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from layerscope import metrics, models
from layerscope.errors import DataError, OptionError
from layerscope.metrics import Metric, Tally


@pytest.mark.parametrize("batch_size", [1, 7, 125, 1000])
def test_scores_equal_a_plain_computation_to_the_last_bit(trained, few_digits, batch_size):
    model = trained.build()
    found = metrics.evaluate(
        model, few_digits.test, ["error", "loss", "accuracy"], batch_size, device="cpu"
    )
    pixels = (few_digits.test.inputs.float() / 255 - 0.1307) / 0.3081
    losses, wrong = [], 0
    with torch.no_grad():
        for x, y in zip(
            pixels.split(batch_size), few_digits.test.targets.split(batch_size), strict=True
        ):
            outputs = model(x)
            wrong += sum(int(row.argmax()) != int(t) for row, t in zip(outputs, y, strict=True))
            losses.append(nn.functional.cross_entropy(outputs, y, reduction="none").double())
    assert 0 < wrong < 125
    assert found["error"].mean == wrong / 125
    assert found["accuracy"].mean == (125 - wrong) / 125
    assert found["loss"].mean == sum(float(part.sum()) for part in losses) / 125
    assert found["loss"].count == 125
    # Against NumPy in double precision, without torch's own loss:
    z = torch.cat([model(x).detach() for x in pixels.split(batch_size)]).double().numpy()
    log_sum = np.log(np.exp(z).sum(1))
    plain = (log_sum - z[np.arange(125), few_digits.test.targets.numpy()]).mean()
    assert found["loss"].mean == pytest.approx(plain, rel=1e-6)


@given(values=hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(-1e3, 1e3, width=32)))
def test_standard_error_equals_numpy(values):
    tally = Tally()
    for part in np.array_split(values, 3):
        tally.add(torch.from_numpy(part))
    exact = values.astype(float)
    assert tally.count == len(values)
    assert tally.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-12)
    # The variance is a difference: its error is that of the sum of squares.
    variance = tally.standard_error**2 * len(values)
    assert variance == pytest.approx(exact.var(ddof=1), rel=1e-12, abs=1e-13 * (exact**2).sum())


def test_tallies_of_parts_add_up():
    parts = [Tally(), Tally(), Tally()]
    for part, values in zip(parts, ([1.0, 2.5], [4.0], []), strict=True):
        part.add(torch.tensor(values))
    total = Tally()
    for part in parts:
        total += part
    assert total == Tally(3, 7.5, 1 + 2.5**2 + 16)
    assert parts[0] == Tally(2, 3.5, 1 + 2.5**2)


def test_standard_error_of_a_rate_is_the_binomial_one():
    tally = Tally()
    tally.add(torch.tensor([1.0] * 3 + [0.0] * 7))
    assert tally.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 9), rel=1e-14)


def test_too_few_and_equal_examples_and_nan():
    assert math.isnan(Tally().mean)
    one = Tally()
    one.add(torch.tensor([2.0]))
    assert one.mean == 2.0
    assert math.isnan(one.standard_error)
    same = Tally()
    same.add(torch.full((1000,), 0.1))  # rounding carries the variance below 0
    assert 0 <= same.standard_error < 1e-9
    for bad in (math.nan, math.inf):
        tally = Tally()
        tally.add(torch.tensor([1.0, bad]))
        tally.add(torch.tensor([1.0, 2.0]))
        assert not math.isfinite(tally.mean)
        assert math.isnan(tally.standard_error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_double(dtype):
    tally = Tally()
    tally.add(torch.full((3000,), 1.5, dtype=dtype))
    assert tally.total == 4500.0  # a bfloat16 sum would stop near 512


# What comes back


class Mixed(nn.Module):
    """Submodules in different modes, one of which fails on demand."""

    def __init__(self, stop: type[BaseException] | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3).eval()
        self.drop = nn.Dropout(0.5)
        self.inner = nn.Sequential(nn.Dropout(0.1).eval(), nn.Linear(3, 2))
        self.stop = stop
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes = [module.training for module in self.modules()]
        assert not torch.is_grad_enabled()
        if self.stop:
            raise self.stop
        return self.inner(self.drop(self.norm(x)))


PAIR = torch.ones(6, 3), torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize("stop", [None, RuntimeError, KeyboardInterrupt])
def test_every_module_has_its_own_mode_again(stop):
    model = Mixed(stop)
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    if stop is None:
        metrics.evaluate(model, PAIR, device="cpu")
    else:
        with pytest.raises(stop):
            metrics.evaluate(model, PAIR, device="cpu")
    assert not any(model.modes)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
    assert model.norm.num_batches_tracked == 0


# Forms of outputs and inputs


class Outputs(dict):
    """What Hugging Face models return: a mapping with attributes."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: (z, "hidden"),
        lambda z: [z],
        lambda z: {"loss": z.sum(), "logits": z},
        lambda z: Outputs(loss=z.sum(), logits=z),
        lambda z: types.SimpleNamespace(logits=z),
    ],
)
def test_logits_are_found(wrap):
    z = torch.randn(3, 2)
    assert metrics.logits(wrap(z)) is z


@pytest.mark.parametrize(
    "outputs", [None, {}, {"out": torch.ones(1)}, (), ("a",), 3, {"logits": 3}]
)
def test_outputs_without_logits_are_refused(outputs):
    with pytest.raises(DataError, match=f"returned a {type(outputs).__name__} in which"):
        metrics.logits(outputs)


def test_inputs_may_be_arguments_and_keywords():
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - 2 * b

    a, b, y = torch.eye(3), torch.zeros(3, 3), torch.arange(3)
    for inputs in ((a, b), [a, b], {"b": b, "a": a}):
        assert torch.equal(metrics.call(Two(), inputs), a)
        tallies = metrics.evaluate(Two(), [(inputs, y), (inputs, y)], ["error"], device="cpu")
        assert (tallies["error"].mean, tallies["error"].count) == (0.0, 6)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4,), (4,)), ((4, 2), (3,)), ((4, 2), (4, 1)), ((4, 5, 2), (4,)), ((1, 2), (4,))],
)
def test_shapes_that_do_not_go_together_are_refused(outputs, targets):
    class Fixed(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return torch.zeros(outputs)

    data = [(torch.zeros(4, 3), torch.zeros(targets, dtype=torch.long))]
    with pytest.raises(DataError) as caught:
        metrics.evaluate(Fixed(), data, device="cpu")
    assert f"outputs of shape {outputs} came with targets of shape {targets}" in str(caught.value)


def test_metrics_by_name_and_ones_own():
    margin = Metric("margin", "largest logit", lambda z, _: z.max(-1).values)
    assert [m.name for m in metrics.chosen(["loss", margin])] == ["loss", "margin"]
    assert [m.name for m in metrics.chosen("loss")] == ["loss"]
    model = models.build("fcn-1x4", inputs=(3,), classes=2)
    found = metrics.evaluate(model, PAIR, margin, device="cpu")
    assert found["margin"].mean == float(model(PAIR[0])[0].max().detach().double())
    with pytest.raises(OptionError, match=r"no metric 'eror'.*Did you mean 'error'"):
        metrics.chosen(["eror"])
