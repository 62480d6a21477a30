"""Metrics of language models: tokens counted rightly, positions, large vocabularies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import layerscope
from layerscope import metrics
from layerscope.core.metrics import Metric, Tally, _scores
from layerscope.errors import DataError, OptionError

VOCAB = 23


def told(names, outputs, targets, reference=None) -> dict[str, float]:
    found = metrics.measure(metrics.parse(names), outputs, targets, reference)
    return {name: Tally.of(outcome).mean for name, outcome in found.items()}


def scored(*shape: int, seed: int = 0):
    """Logits of a trained and a changed network, and targets of which some do not count."""
    draw = torch.Generator().manual_seed(seed)
    outputs, reference = (3 * torch.randn(*shape, generator=draw) for _ in range(2))
    targets = torch.randint(shape[-1], shape[:-1], generator=draw)
    targets[torch.rand(shape[:-1], generator=draw) < 0.3] = -100
    return outputs, targets, reference


# Divergence


def test_the_divergence_is_of_the_changed_network_from_the_unperturbed_one():
    outputs, targets, reference = scored(5, 7, VOCAB)
    p, q = (scipy.special.softmax(z.double().numpy(), -1) for z in (reference, outputs))
    counted = targets.numpy() != -100
    by_hand = scipy.special.rel_entr(p, q).sum(-1)[counted].mean()
    other_way = scipy.special.rel_entr(q, p).sum(-1)[counted].mean()
    found = told("kl_divergence", outputs, targets, reference)["kl_divergence"]
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert abs(other_way - by_hand) > 0.01 * by_hand
    (metric,) = metrics.parse("kl_divergence")
    assert (metric.unit, metric.higher_is_better) == ("nats", False)


def test_the_divergence_from_itself_is_nil_and_from_what_is_ruled_out_infinite():
    outputs, _, _ = scored(4, 3, VOCAB)
    assert told("kl_divergence", outputs, None, outputs)["kl_divergence"] == 0.0
    ruled_out = outputs.clone()
    ruled_out[..., 4] = -math.inf
    # What the unperturbed network rules out adds nothing.
    assert math.isfinite(told("kl_divergence", outputs, None, ruled_out)["kl_divergence"])
    assert told("kl_divergence", ruled_out, None, outputs)["kl_divergence"] == math.inf
    ruled_out[0, 0, 1] = math.nan
    assert math.isnan(told("kl_divergence", ruled_out, None, outputs)["kl_divergence"])


# Positions


def test_a_metric_of_some_positions_is_that_of_these_targets_alone():
    outputs, targets, reference = scored(6, 11, VOCAB)
    names = ["loss", "loss@0-3", "loss@4", "perplexity@4-99", "accuracy@2-5", "kl_divergence@0-1"]
    found = told(names, outputs, targets, reference)
    by_hand: dict[str, list[float]] = {name: [] for name in names}
    whole = {name: metrics.METRICS[name.split("@")[0]] for name in names}
    for row in range(6):
        number = 0
        for t in range(11):
            if targets[row, t] == -100:
                continue
            at = row, t
            given = outputs[at][None], targets[at][None], reference[at][None]
            for name in names:
                first, _, last = name.partition("@")[2].partition("-")
                if not first or int(first) <= number <= int(last or first):
                    metric = whole[name]
                    value = metric.per_example(*given[: 2 + metric.uses_reference])
                    by_hand[name].append(float(value.double()))
            number += 1
    for name in names:
        mean = np.mean(by_hand[name])
        expected = math.exp(mean) if name.startswith("perplexity") else mean
        assert found[name] == pytest.approx(expected, rel=1e-6), name


def test_padding_before_a_text_moves_no_position():
    outputs, targets, _ = scored(4, 6, VOCAB)
    padded = torch.cat([torch.zeros(4, 3, VOCAB), outputs], 1)
    filled = torch.cat([torch.full((4, 3), -100), targets], 1)
    assert told(["loss@1-2"], padded, filled) == told(["loss@1-2"], outputs, targets)


def test_positions_beyond_every_text_give_no_number():
    outputs, targets, _ = scored(4, 6, VOCAB)
    found = metrics.measure(metrics.parse("loss@6-9"), outputs, targets)["loss@6-9"]
    assert found.weights.tolist() == [0.0] * 4
    assert math.isnan(Tally.of(found).mean)


@pytest.mark.parametrize("name", ["loss@", "loss@3-1", "loss@a-b", "mse@0-3", "loss@0-3-5"])
def test_positions_that_can_not_be_are_refused(name):
    with pytest.raises(OptionError, match=r"'loss@0-31'"):
        metrics.parse(name)


def test_a_metric_of_ones_own_may_be_of_some_positions():
    outputs, targets, _ = scored(4, 6, VOCAB)
    first = Metric("first", "", lambda z, _: z[..., 0], positions=(0, 1))
    assert metrics.measure([first], outputs, targets)["first"].weights.max() == 2
    per_text = Metric("text", "", lambda z, _: z[:, 0, 0], positions=(0, 1))
    with pytest.raises(DataError, match="one per position"):
        metrics.measure([per_text], outputs, targets)
    with pytest.raises(OptionError, match="from 0 on"):
        Metric("first", "", lambda z, _: z[..., 0], positions=(3, 1))


# Tokens that count


@pytest.fixture(scope="module")
def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=VOCAB, pad_token_id=0, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = transformers.LlamaForCausalLM(config).eval()
        for parameter in net.parameters():
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.4)
    return net


LENGTHS = (9, 2, 5, 7, 3, 9, 4)  # in batches of three: 16, 19 and 4 tokens


def texts():
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(1, VOCAB, (length,), generator=draw) for length in LENGTHS]


def padded(side: str) -> dict[str, torch.Tensor]:
    """As tokenizers and collators make them; the first text begins with a prompt of four."""
    names = ("input_ids", "attention_mask", "labels", "position_ids")
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for index, text in enumerate(texts()):
        labels = text.clone()
        labels[: 4 * (index == 0)] = -100
        parts = text, torch.ones_like(text), labels, torch.arange(len(text))
        fill = 0, 0, -100, 0
        for name, part, value in zip(names, parts, fill, strict=True):
            empty = part.new_full((max(LENGTHS) - len(part),), value)
            rows[name].append(torch.cat([part, empty] if side == "right" else [empty, part]))
    return {name: torch.stack(row) for name, row in rows.items()}


@torch.no_grad()
def token_losses(net) -> list[list[float]]:
    """Of every text by itself, without padding: the loss of each token after the first."""
    found = []
    for index, text in enumerate(texts()):
        logits = net(input_ids=text[None]).logits[0].double().log_softmax(-1)
        skipped = 4 * (index == 0)
        found.append([-float(logits[t - 1, text[t]]) for t in range(1, len(text)) if t >= skipped])
    return found


@pytest.mark.parametrize("side", ["right", "left"])
def test_perplexity_counts_every_token_once_whatever_the_padding(llama, side):
    losses = token_losses(llama)
    count = sum(map(len, losses))
    mean = sum(map(sum, losses)) / count
    early = [each for text in losses for each in text[:3]]
    names = ["perplexity", "loss", "accuracy", "loss@0-2"]
    found = metrics.evaluate(llama, padded(side), names, batch_size=3, device="cpu")
    assert found["perplexity"].weight == count == 29
    assert found["perplexity"].mean == pytest.approx(math.exp(mean), rel=1e-5)
    assert found["loss"].mean == pytest.approx(mean, rel=1e-5)
    assert found["loss@0-2"].weight == len(early)
    assert found["loss@0-2"].mean == pytest.approx(np.mean(early), rel=1e-5)
    # The mean of the batches' means, as is often printed, is another number.
    means = [np.mean([x for text in losses[i : i + 3] for x in text]) for i in (0, 3, 6)]
    assert abs(np.mean(means) - mean) > 0.01


def test_a_sweep_measures_what_is_asked_of_tokens(llama):
    names = ["loss", "loss@0-2", "perplexity", "kl_divergence"]
    state = {0: llama.state_dict()}
    ds = layerscope.sweep(
        llama, padded("right"), checkpoints=state, layers=["model.layers.1.mlp.down_proj"],
        perturbations=["zero"], metrics=names, batch_size=3, whole=False, device="cpu",
        show_progress=False,
    )  # fmt: skip
    losses = token_losses(llama)
    early = [each for text in losses for each in text[:3]]
    assert float(ds.baseline.sel(metric="loss@0-2")) == pytest.approx(np.mean(early), rel=1e-5)
    assert float(ds.baseline.sel(metric="kl_divergence")) == 0.0
    value = ds.value.squeeze().isel(epoch=0)
    assert float(value.sel(metric="kl_divergence")) > 0
    assert float(value.sel(metric="loss@0-2")) != float(value.sel(metric="loss"))
    assert ds.first_target.values.tolist() == [0, 0, 0, 0]
    assert ds.last_target.values.tolist() == [-1, 2, -1, -1]


# Large vocabularies


CHUNKED = ["loss", "perplexity", "loss@1-2", "cosine", "kl_divergence", "calibration_error"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "shape", [(12, 1031), (3, 40, 1031), (2, 3, 5, 517), (40, 7, 65), (5, 0, 9)]
)
@pytest.mark.parametrize("laid_out", ["plainly", "classes first", "with gaps"])
@pytest.mark.parametrize("piece", [1500, 20_000])
def test_scoring_by_pieces_gives_the_bits_of_the_whole(shape, dtype, laid_out, piece, monkeypatch):
    outputs, targets, reference = scored(*shape)
    outputs, reference = outputs.to(dtype), reference.to(dtype)
    if laid_out == "classes first":
        outputs = outputs.movedim(-1, 1).contiguous().movedim(1, -1)
    elif laid_out == "with gaps":
        wide = torch.cat([outputs, outputs[:, :1]], 1)
        outputs = wide[:, :-1]
    monkeypatch.setattr(_scores, "_PIECE", outputs.numel() + 1)
    whole = metrics.measure(metrics.parse(CHUNKED), outputs, targets, reference)
    monkeypatch.setattr(_scores, "_PIECE", piece)
    by_pieces = metrics.measure(metrics.parse(CHUNKED), outputs, targets, reference)
    for name in CHUNKED:
        assert torch.equal(by_pieces[name].values, whole[name].values), name


class Largest(TorchDispatchMode):
    """The largest tensor that an operator gives, and how often cross-entropies are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.size = self.softmaxes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.is_tensor(out) and not func.is_view:
            self.size = max(self.size, out.numel())
        self.softmaxes += "log_softmax" in str(func)
        return out


class Calls(TorchDispatchMode):
    """The operators that run, and how large what they give is."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def of(self, name: str) -> int:
        return sum(made == name for made, _ in self.made)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.made.append((name, out.numel() if torch.is_tensor(out) else 0))
        return out


def test_no_softmax_of_the_whole_is_made_and_cross_entropy_is_computed_once(monkeypatch):
    outputs, targets, reference = scored(4, 64, 997)
    monkeypatch.setattr(_scores, "_PIECE", 16 * 997)
    names = ["loss", "perplexity", "loss@0-9", "perplexity@10-63"]
    with Largest() as once:
        metrics.measure(metrics.parse(["loss"]), outputs, targets)
    with Largest() as seen:
        metrics.measure(metrics.parse(names), outputs, targets)
    assert seen.softmaxes == once.softmaxes == 16
    with Largest() as all_of_them:
        metrics.measure(
            [*metrics.parse([*CHUNKED, "error", "accuracy", "agreement"]), metrics.NOT_FINITE],
            outputs, targets, reference,
        )  # fmt: skip
    assert all_of_them.size <= 16 * 997


def test_what_several_metrics_are_made_of_is_computed_once():
    outputs, targets, reference = scored(4, 64, 997)
    names = ["loss", "kl_divergence", "error", "accuracy", "agreement", "cosine", "perplexity@3-9"]
    wanted = [*metrics.parse([*names, "calibration_error"]), metrics.NOT_FINITE]
    with Calls() as calls:
        metrics.measure(wanted, outputs, targets, reference)
    # Of the changed network's outputs, and of the unperturbed one's.
    assert calls.of("_log_softmax") == calls.of("_softmax") == calls.of("argmax") == 2
    assert calls.of("amax") == 2


def test_outputs_in_half_precision_are_widened_once_and_never_as_a_whole(monkeypatch):
    outputs, targets, reference = scored(4, 64, 997)
    outputs, reference = outputs.bfloat16(), reference.bfloat16()
    monkeypatch.setattr(_scores, "_PIECE", 16 * 997)
    wanted = [*metrics.parse(["loss", "error", "kl_divergence", "cosine"]), metrics.NOT_FINITE]
    with Calls() as calls:
        metrics.measure(wanted, outputs, targets, reference)
    widened = [size for name, size in calls.made if name == "_to_copy" and size >= 16 * 997]
    assert widened == [16 * 997] * 32


def test_no_position_is_scored_alone_whose_sum_several_threads_would_share():
    # Of 7 positions in pieces of 3 one would be left over.
    outputs, targets, reference = scored(1, 7, 40_001)
    wanted = metrics.parse(["kl_divergence", "cosine"])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.MonkeyPatch.context() as patch:
            found = []
            for piece in (outputs.numel() + 1, 3 * 40_001):
                patch.setattr(_scores, "_PIECE", piece)
                found.append(metrics.measure(wanted, outputs, targets, reference))
    finally:
        torch.set_num_threads(before)
    for name in found[0]:
        assert torch.equal(found[0][name].values, found[1][name].values), name
