"""Evaluation gives what a plain computation gives, and leaves the network as it was."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from layerscope import metrics, models
from layerscope.core.metrics import Metric, Tally
from layerscope.core.running import find_logits, run_network
from layerscope.errors import DataError, OptionError


@pytest.mark.parametrize("batch_size", [1, 7, 125, 1000])
def test_scores_equal_a_plain_computation_to_the_last_bit(trained, few_digits, batch_size):
    model = models.rebuild(trained)
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


def tally(*values, dtype=torch.float32) -> Tally:
    """Add up one value per example through a metric that returns its outputs."""
    column = torch.tensor(values, dtype=dtype).unsqueeze(1)
    return Tally.of(metrics.measure([FIRST], column, None)["first"])


FIRST = Metric("first", "first output", lambda outputs, _: outputs[..., 0], needs_targets=False)


@given(values=hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(-1e3, 1e3, width=32)))
def test_standard_error_equals_numpy(values):
    found = Tally()
    for part in np.array_split(values, 3):
        found += tally(*part.tolist())
    exact = values.astype(float)
    assert found.count == len(values)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-12)
    # The variance is a difference: its error is that of the sum of squares.
    variance = found.standard_error**2 * len(values)
    assert variance == pytest.approx(exact.var(ddof=1), rel=1e-12, abs=1e-13 * (exact**2).sum())


def test_tallies_of_parts_add_up():
    parts = [tally(1.0, 2.5), tally(4.0), tally()]
    total = Tally()
    for part in parts:
        total += part
    assert total == Tally(3, 7.5, 1 + 2.5**2 + 16, 3.0, 7.5, 3.0)
    assert parts[0] == Tally(2, 3.5, 1 + 2.5**2, 2.0, 3.5, 2.0)


@given(hnp.arrays(np.float32, st.integers(2, 300), elements=st.floats(0, 100, width=32)))
def test_without_weights_mean_and_error_have_the_bits_of_the_plain_formulas(values):
    exact = torch.from_numpy(values).double()
    total, squares = float(exact.sum()), float((exact * exact).sum())
    variance = max((squares - total**2 / len(values)) / (len(values) - 1), 0.0)
    found = tally(*values.tolist())
    assert found.mean == total / len(values)
    assert found.standard_error == math.sqrt(variance) / math.sqrt(len(values))


def test_standard_error_of_a_rate_is_the_binomial_one():
    found = tally(*[1.0] * 3, *[0.0] * 7)
    assert found.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 9), rel=1e-14)


def test_too_few_and_equal_examples_and_nan():
    assert math.isnan(Tally().mean)
    assert math.isnan(Tally().standard_error)
    one = tally(2.0)
    assert one.mean == 2.0
    assert math.isnan(one.standard_error)
    same = tally(*[0.1] * 1000)  # rounding carries the variance below 0
    assert 0 <= same.standard_error < 1e-9
    for bad in (math.nan, math.inf):
        found = tally(1.0, bad)
        found += tally(1.0, 2.0)
        assert not math.isfinite(found.mean)
        assert math.isnan(found.standard_error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_double(dtype):
    assert tally(*[1.5] * 3000, dtype=dtype).total == 4500.0  # a bfloat16 sum would stop near 512


# Metrics against NumPy


LABEL_FREE = ("agreement", "cosine")


def scored(
    shape: tuple[int, ...], seed: int, missing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs, targets of which a share is not counted, and the outputs of a reference."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(shape, generator=generator)
    reference = outputs + torch.randn(shape, generator=generator)
    targets = torch.randint(shape[-1], shape[:-1], generator=generator)
    targets[torch.rand(shape[:-1], generator=generator) < missing] = -100
    return outputs, targets, reference


def by_hand(name: str, outputs, targets, reference) -> np.ndarray:
    """One value per position, in double precision."""
    z, z0, y = (np.asarray(each, np.float64) for each in (outputs, reference, targets))
    y = y.astype(int)
    p, p0 = scipy.special.softmax(z, -1), scipy.special.softmax(z0, -1)
    own = np.take_along_axis(z, np.maximum(y, 0)[..., None], -1)
    return {
        "error": z.argmax(-1) != y,
        "accuracy": z.argmax(-1) == y,
        "loss": scipy.special.logsumexp(z, -1) - own[..., 0],
        "perplexity": scipy.special.logsumexp(z, -1) - own[..., 0],
        "top2_error": (z > own).sum(-1) >= 2,
        "agreement": z.argmax(-1) == z0.argmax(-1),
        "cosine": (p * p0).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(p0, axis=-1),
    }[name].astype(float)


NAMES = ("error", "accuracy", "loss", "perplexity", "top2_error", "agreement", "cosine")


@pytest.mark.parametrize("shape", [(40, 6), (20, 7, 6), (9, 2, 4, 6), (5, 1, 6), (0, 3, 6)])
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
def test_outcomes_are_sums_over_the_counted_positions(shape, missing):
    outputs, targets, reference = scored(shape, 3, missing)
    counted = (targets != -100).numpy()
    found = metrics.measure(metrics.parse(NAMES), outputs, targets, reference)
    assert list(found) == list(NAMES)
    for name, outcome in found.items():
        assert outcome.values.dtype == outcome.weights.dtype == torch.double
        assert outcome.values.shape == outcome.weights.shape == shape[:1]
        per_position = np.where(counted, by_hand(name, outputs, targets, reference), 0)
        axes = tuple(range(1, counted.ndim))
        np.testing.assert_allclose(outcome.values, per_position.sum(axes), atol=2e-5)
        np.testing.assert_array_equal(outcome.weights, counted.sum(axes))
        tally = Tally.of(outcome)
        assert tally.count == counted.reshape(shape[0], int(np.prod(shape[1:-1]))).any(1).sum()
        if counted.any():
            mean = per_position.sum() / counted.sum()
            expected = np.exp(mean) if name == "perplexity" else mean
            assert tally.mean == pytest.approx(expected, rel=2e-6)
        else:
            assert math.isnan(tally.mean)
            assert math.isnan(tally.standard_error)


def calibration_by_hand(outputs, targets) -> float:
    """Guo et al. (2017), equation 5, over the counted positions."""
    counted = targets.numpy() != -100
    p = outputs.softmax(-1).double().numpy()[counted]
    right, confidence = p.argmax(-1) == targets.numpy()[counted], p.max(-1)
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("shape", [(300, 4), (60, 5, 4)])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_calibration_error_is_that_of_its_definition(shape, seed):
    outputs, targets, _ = scored(shape, seed, missing=0.2)
    found = Tally()
    for part, wanted in zip(outputs.split(70), targets.split(70), strict=True):
        found += Tally.of(metrics.measure(metrics.parse("calibration_error"), part, wanted)[CE])
    assert found.mean == pytest.approx(calibration_by_hand(outputs, targets), rel=1e-12)


CE = "calibration_error"


def test_calibration_error_at_the_edges_of_bins_and_of_nan():
    # Sure and right: no error. Half sure of two, wrong: 0.5, in the bin that is closed at 8/15.
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    ends = metrics.measure(metrics.parse(CE), sure, torch.tensor([0, 1]))[CE]
    assert Tally.of(ends).mean == 0.0
    even = metrics.measure(metrics.parse(CE), torch.zeros(1, 2), torch.tensor([1]))[CE]
    assert even.bins[0].nonzero().item() == 7
    assert Tally.of(even).mean == 0.5
    strange = metrics.measure(metrics.parse(CE), sure * math.nan, torch.tensor([0, 1]))[CE]
    assert math.isnan(Tally.of(strange).mean)
    # A confidence that is an edge belongs to the bin below it; 0 to the first.
    edges = torch.linspace(0, 1, 5, dtype=torch.double)
    both = lambda z, _: torch.stack([z[:, 0] * 0, z[:, 0]])  # noqa: E731 - in one line
    quarters = Metric("q", "", both, needs_targets=False, bins=4)
    bins = metrics.measure([quarters], edges.unsqueeze(1), None)["q"].bins
    np.testing.assert_array_equal(-bins.sum(0), [0.25, 0.5, 0.75, 1.0])


def test_top_k_takes_any_k_and_no_more_than_there_are_classes():
    outputs, targets, _ = scored((50, 6), 1)
    found = metrics.measure(
        metrics.parse(["error", *(f"top{k}_error" for k in range(1, 7))]), outputs, targets
    )
    rates = [Tally.of(outcome).mean for outcome in found.values()]
    assert rates[0] == rates[1]
    assert sorted(rates[1:], reverse=True) == rates[1:]
    assert rates[-1] == 0.0
    with pytest.raises(DataError, match=r"top7_error came with 6 classes.*smaller"):
        metrics.measure(metrics.parse("top7_error"), outputs, targets)
    ties = torch.zeros(3, 6)
    kept = ties.topk(2, -1).indices
    missed = metrics.measure(metrics.parse("top2_error"), ties, kept[:, 1])["top2_error"]
    assert missed.values.tolist() == [0.0] * 3
    for name in ("top0_error", "top_error", "top-1_error", "top5_accuracy", "top05_error"):
        with pytest.raises(OptionError, match=f"no metric '{name}'"):
            metrics.parse(name)


def test_agreement_and_cosine_with_itself_are_one():
    outputs, _, _ = scored((500, 10), 2)
    for form in (outputs, outputs.half(), outputs.bfloat16(), outputs.double()):
        found = metrics.measure(metrics.parse(LABEL_FREE), form, None, form)
        assert set(found["agreement"].values.tolist()) == {1.0}
        assert 1 - 1e-6 < found["cosine"].values.min() <= found["cosine"].values.max() <= 1


@pytest.mark.parametrize(
    "name",
    [name for name, metric in metrics.METRICS.items() if metric.classes and name != "top5_error"],
)
def test_bounds_hold_for_every_position(name):
    (metric,) = metrics.parse(name)
    outputs, targets, reference = scored((2000, 3), 5)
    values = metrics.measure([metric], 9 * outputs, targets, reference)[name].values
    if metric.bounds:
        assert metric.bounds[0] <= values.min() <= values.max() <= metric.bounds[1]
    else:
        assert values.max() > 1 or metric.bins


@pytest.mark.parametrize("name", [*NAMES, CE])
def test_values_do_not_depend_on_what_else_is_measured(name):
    outputs, targets, reference = scored((30, 4, 6), 8, 0.3)
    alone = metrics.measure(metrics.parse(name), outputs, targets, reference)[name]
    others = [*NAMES, CE, "top5_error", Metric("int", "", lambda z, _: z[..., 0].long())]
    among = metrics.measure(metrics.parse(others), outputs, targets, reference)[name]
    assert torch.equal(alone.values, among.values)
    assert torch.equal(alone.weights, among.weights)
    assert Tally.of(alone) == Tally.of(among)


def test_whole_numbers_are_not_rounded_beside_others():
    large = 2**24 + 1  # no float32
    big = Metric("big", "", lambda z, _: torch.full(z.shape[:-1], large))
    outputs, targets, _ = scored((4, 3), 0)
    found = metrics.measure([*metrics.parse(["error", "loss"]), big], outputs, targets)
    assert found["big"].values.tolist() == [large] * 4


# Weights, standard errors and differences


@given(seed=st.integers(0, 10_000), name=st.sampled_from(["error", "loss", "perplexity", CE]))
@settings(max_examples=25)
def test_standard_errors_of_sequences_are_those_of_the_jackknife(seed, name):
    outputs, targets, _ = scored((400, 5, 4), seed, 0.5)
    (metric,) = metrics.parse(name)
    outcome = metrics.measure([metric], outputs, targets)[name]
    weights = outcome.weights.numpy()
    parts = (outcome.values[:, None] if outcome.bins is None else outcome.bins).numpy()
    left = (parts.sum(0) - parts) / (weights.sum() - weights)[:, None]
    means = np.abs(left).sum(1) if metric.bins else left[:, 0]
    means = np.exp(means) if name == "perplexity" else means
    n = len(weights)
    jackknife = np.sqrt((n - 1) / n * ((means - means.mean()) ** 2).sum())
    assert Tally.of(outcome).standard_error == pytest.approx(jackknife, rel=0.03)


def test_standard_error_of_the_calibration_error_of_single_positions():
    outputs, targets, _ = scored((3000, 4), 6)
    found = Tally.of(metrics.measure(metrics.parse(CE), outputs, targets)[CE])
    gaps = (outputs.argmax(-1) == targets).double() - outputs.softmax(-1).amax(-1).double()
    expected = math.sqrt((float((gaps**2).mean()) - found.mean**2) / 2999)
    assert found.standard_error == pytest.approx(expected, rel=1e-9)


def test_examples_without_a_target_are_as_if_they_were_not_there():
    outputs, targets, reference = scored((90, 5), 4, 0.3)
    known = targets != -100
    wanted = metrics.parse([*NAMES, CE])
    some = metrics.measure(wanted, outputs, targets, reference)
    rest = metrics.measure(wanted, outputs[known], targets[known], reference[known])
    for name in some:
        mine, other = Tally.of(some[name]), Tally.of(rest[name])
        assert mine.count == other.count == int(known.sum())
        assert mine.mean == pytest.approx(other.mean, rel=1e-12)
        assert mine.standard_error == pytest.approx(other.standard_error, rel=1e-9)


def test_perplexity_weighs_tokens_and_not_sequences():
    outputs, targets, _ = scored((3, 4, 5), 0)
    targets[0, 1:] = -100
    found = metrics.evaluate(nn.Identity(), [(outputs, targets)], "perplexity", device="cpu")
    kept = targets != -100
    expected = nn.functional.cross_entropy(outputs[kept].double(), targets[kept]).exp()
    assert found["perplexity"].mean == pytest.approx(float(expected), rel=1e-6)
    huge = metrics.measure(metrics.parse("perplexity"), 5e3 * torch.eye(2), torch.tensor([1, 0]))
    assert Tally.of(huge["perplexity"]).mean == math.inf
    assert math.isnan(Tally.of(huge["perplexity"]).standard_error)


def test_a_metric_of_ones_own_may_finish_its_mean():
    root = Metric("rms", "", lambda z, _: z[:, 0] ** 2, finish=math.sqrt)
    values = torch.tensor([[1.0], [2.0], [3.0]])
    found = Tally.of(metrics.measure([root], values, torch.zeros(3).long())["rms"])
    assert found.mean == math.sqrt(14 / 3)
    assert math.isnan(found.standard_error)
    sloped = dataclasses.replace(root, slope=lambda mean: -0.5 / math.sqrt(mean))
    found = Tally.of(metrics.measure([sloped], values, torch.zeros(3).long())["rms"])
    spread = np.std([1, 4, 9], ddof=1) / math.sqrt(3)
    assert found.standard_error == pytest.approx(0.5 / math.sqrt(14 / 3) * spread, rel=1e-12)


@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(60, 5), (30, 4, 5)]))
def test_differences_are_paired(seed, shape):
    outputs, targets, reference = scored(shape, seed, 0.2)
    wanted = metrics.parse([*NAMES, CE])
    ours = metrics.measure(wanted, outputs, targets, reference)
    theirs = metrics.measure(wanted, reference, targets, reference)
    for name in NAMES:
        paired = Tally.of_difference(ours[name], theirs[name])
        if name == "perplexity":
            assert paired is None
            continue
        w, d = ours[name].weights.numpy(), (ours[name].values - theirs[name].values).numpy()
        mean = d.sum() / w.sum()
        assert paired.mean == pytest.approx(mean, rel=1e-12, abs=1e-15)
        separate = Tally.of(ours[name]).mean - Tally.of(theirs[name]).mean
        assert paired.mean == pytest.approx(separate, abs=1e-12)
        n = (w > 0).sum()
        variance = ((d - mean * w) ** 2).sum() / (n - 1) * n / w.sum() ** 2
        assert paired.standard_error == pytest.approx(math.sqrt(variance), rel=1e-6, abs=1e-9)
    assert Tally.of_difference(ours[CE], theirs[CE]) is None


def test_the_difference_from_itself_is_nil():
    outputs, targets, _ = scored((60, 5), 0, 0.1)
    outcome = metrics.measure(metrics.parse("loss"), outputs, targets)["loss"]
    paired = Tally.of_difference(outcome, outcome)
    assert (paired.mean, paired.standard_error, paired.count) == (0.0, 0.0, Tally.of(outcome).count)


def test_differences_over_other_examples_are_refused():
    outputs, targets, _ = scored((6, 5), 0)
    mine = metrics.measure(metrics.parse("error"), outputs, targets)["error"]
    for other in (targets.where(torch.arange(6) > 0, -100), targets[1:]):
        theirs = metrics.measure(metrics.parse("error"), outputs[-len(other) :], other)["error"]
        with pytest.raises(DataError, match=r"6 positions of 6 examples and 5 .*same examples"):
            Tally.of_difference(mine, theirs)


@pytest.mark.parametrize("name", [*NAMES, CE])
def test_the_plain_form_loses_nothing(name):
    outputs, targets, reference = scored((60, 3, 5), 1, 0.2)
    (metric,) = metrics.parse(name)
    kept = Tally.of(metrics.measure([metric], outputs, targets, reference)[name])
    numbers = json.loads(json.dumps(kept.to_list()))
    assert all(type(number) is float for number in kept.to_list())
    again = Tally.from_list(numbers, metric)
    assert again == kept
    assert (again.mean, again.standard_error) == (kept.mean, kept.standard_error)
    with pytest.raises(OptionError, match=f"{len(numbers) - 1} numbers came for a tally"):
        Tally.from_list(numbers[1:])
    with pytest.raises(OptionError, match="3 numbers came for a tally"):
        Tally.from_list([1.0, 2.0, 3.0])


# What is refused


def test_targets_and_references_are_asked_for_by_name():
    outputs, targets, reference = scored((6, 5), 0)
    wanted = metrics.parse(["error", "agreement", "loss", "cosine"])
    with pytest.raises(OptionError, match=r"^error, loss can't be measured without targets"):
        metrics.measure(wanted, outputs, None, reference)
    with pytest.raises(OptionError, match=r"^agreement, cosine can't .* the unperturbed"):
        metrics.measure(wanted, outputs, targets)
    found = metrics.measure(metrics.parse(LABEL_FREE), {"logits": outputs}, None, (reference,))
    assert found["cosine"].weights.tolist() == [1.0] * 6
    with pytest.raises(DataError, match=r"reference of shape \(5, 5\)"):
        metrics.measure(wanted, outputs, targets, reference[1:])
    with pytest.raises(DataError, match="came with none"):
        metrics.measure(metrics.parse("agreement"), outputs[:, 0], None, reference[:, 0])


@pytest.mark.parametrize(
    "returned", [torch.zeros(()), torch.zeros(6, 4, 5), torch.zeros(5), torch.zeros(6, 1)]
)
def test_a_metric_that_returns_the_wrong_shape_is_named(returned):
    odd = Metric("odd", "", lambda *_: returned)
    with pytest.raises(
        DataError, match=r"the metric 'odd' returned shape .*per position, \(6, 4\)"
    ):
        metrics.measure([odd], torch.zeros(6, 4, 5), torch.zeros(6, 4).long())


def test_a_metric_may_give_one_value_per_sequence():
    whole = Metric("whole", "", lambda z, y: (z.argmax(-1) == y).all(1))
    outputs, targets, _ = scored((8, 2, 3), 0)
    targets[0] = -100
    targets[1] = outputs[1].argmax(-1)
    found = metrics.measure([whole, *metrics.parse("error")], outputs, targets)
    assert found["whole"].weights.tolist() == [0.0] + [1.0] * 7
    assert found["whole"].values[:2].tolist() == [0.0, 1.0]
    assert found["error"].weights.tolist() == [0.0] + [2.0] * 7


def test_real_valued_targets_count_whatever_they_are():
    square = Metric("square", "", lambda z, y: (z[:, 0] - y) ** 2)
    found = metrics.measure([square], torch.zeros(2, 1), torch.tensor([-100.0, 1.0]))["square"]
    assert (found.values.tolist(), found.weights.tolist()) == ([1e4, 1.0], [1.0, 1.0])


def test_a_reference_network_is_run_and_left_as_it_was():
    model, reference = Mixed(), Mixed()
    before = [module.training for module in reference.modules()]
    found = metrics.evaluate(model, PAIR, ["agreement", "loss"], device="cpu", reference=reference)
    with torch.no_grad():
        named = [net.eval()(PAIR[0]).argmax(-1) for net in (model, reference)]
    assert found["agreement"].mean == (named[0] == named[1]).double().mean()
    assert not any(reference.modes)
    assert before != [False] * len(before)
    other = Mixed(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        metrics.evaluate(Mixed(), PAIR, "agreement", device="cpu", reference=other)
    assert [module.training for module in other.modules()] == before
    with pytest.raises(OptionError, match="reference="):
        metrics.evaluate(model, PAIR, "agreement", device="cpu")


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
        with pytest.raises(DataError if stop is RuntimeError else stop):
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
    assert find_logits(wrap(z)) is z


@pytest.mark.parametrize(
    "outputs", [None, {}, {"out": torch.ones(1)}, (), ("a",), 3, {"logits": 3}]
)
def test_outputs_without_logits_are_refused(outputs):
    with pytest.raises(DataError, match=f"returned a {type(outputs).__name__}.* no logits"):
        find_logits(outputs)


@pytest.mark.parametrize("wrap", [lambda z: z.mean(), lambda z: (z.mean(), z)])
def test_a_loss_in_place_of_logits_is_refused(wrap):
    with pytest.raises(DataError, match=r"returned a (single number|tuple of 2), and no logits"):
        find_logits(wrap(torch.randn(3, 2)))


def test_inputs_may_be_arguments_and_keywords():
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - 2 * b

    a, b, y = torch.eye(3), torch.zeros(3, 3), torch.arange(3)
    for inputs in ((a, b), [a, b], {"b": b, "a": a}):
        assert torch.equal(run_network(Two(), inputs), a)
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
    assert [m.name for m in metrics.parse(["loss", margin])] == ["loss", "margin"]
    assert [m.name for m in metrics.parse("loss")] == ["loss"]
    model = models.build("fcn-1x4", inputs=(3,), classes=2)
    found = metrics.evaluate(model, PAIR, margin, device="cpu")
    assert found["margin"].mean == float(model(PAIR[0])[0].max().detach().double())
    with pytest.raises(OptionError, match=r"no metric 'eror'.*Did you mean 'error'"):
        metrics.parse(["eror"])
