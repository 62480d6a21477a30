"""The specification itself, held against numbers by hand; and the page that quotes it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import layers, perturb, results
from layerscope.core import plain
from layerscope.core.checkpoints import open_series
from layerscope.core.running import PASSED


class Tied(nn.Module):
    """Normalised, with dropout, a tied weight, and a block that can be skipped."""

    layer_views = {"block": {"first": ["first", "norm"], "block": ["block.*"], "out": ["out"]}}  # noqa: RUF012

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5))
        self.again, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)
        self.again.weight = self.first.weight
        self.norm.running_mean.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.again(self.block(self.norm(self.first(x)))))


PAIR = torch.randn(23, 4, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 3
BATCHES = list(zip(*(each.split(8) for each in PAIR), strict=True))


def by_hand(net: Tied, inputs: torch.Tensor, *, skip: bool = False) -> torch.Tensor:
    """Logits, written out."""
    mean, var = net.norm.running_mean, net.norm.running_var
    z = nn.functional.linear(inputs, net.first.weight)
    z = (z - mean) / (var + net.norm.eps).sqrt() * net.norm.weight + net.norm.bias
    z = z if skip else (z @ net.block[0].weight.T + net.block[0].bias).tanh()
    return z @ net.again.weight.T @ net.out.weight.T + net.out.bias


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("rows", [(), ("first",), ("norm", "out")])
def test_a_copy_says_what_its_weights_say(rows, skip):
    net, other = Tied(0).train(), Tied(1)
    before = copy.deepcopy(net.state_dict())
    values = {n: t for n, t in other.state_dict().items() if n.startswith(rows)} if rows else {}
    changed = plain.copy_with(net, values, {"block": PASSED} if skip else {})
    assert net.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert changed.again.weight is changed.first.weight
    right = Tied(0)
    for name in rows:
        setattr(right, name, getattr(other, name))
    right.again.weight = right.first.weight
    with torch.no_grad():
        assert torch.allclose(changed(PAIR[0]), by_hand(right, PAIR[0], skip=skip), atol=1e-6)


def test_numbers_are_means_over_the_targets_that_count():
    net = Tied(0).eval()
    targets = PAIR[1].clone()
    targets[::5] = -100
    counted = targets >= 0
    batches = list(zip(PAIR[0].split(8), targets.split(8), strict=True))
    found = plain.evaluate(net, batches, ["error", "loss", "agreement"], reference=Tied(1).eval())
    with torch.no_grad():
        logits, others = by_hand(net, PAIR[0]), by_hand(Tied(1), PAIR[0])
    loss = nn.functional.cross_entropy(logits, targets, reduction="mean", ignore_index=-100)
    named, before = logits.argmax(1), others.argmax(1)
    assert found["error"].mean == float((named != targets)[counted].double().mean())
    assert found["agreement"].mean == float((named == before)[counted].double().mean())
    assert found["loss"].mean == pytest.approx(float(loss), rel=1e-6)
    assert found == layerscope.evaluate(
        net, batches, ["error", "loss", "agreement"], device="cpu", reference=Tied(1)
    )


def test_every_cell_of_a_sweep_is_what_the_specification_says():
    model, states = Tied(9), {epoch: Tied(epoch).state_dict() for epoch in (0, 1, 4)}
    kinds = ["reinitialize", "rerandomize", "zero", "reinitialize + noise(0.1)", "skip"]
    names = ["error", "loss", "agreement"]
    ds = layerscope.sweep(
        model, PAIR, checkpoints=states, perturbations=kinds, view="block", norms="with", seed=5,
        draws=2, batch_size=8, metrics=names, device="cpu", show_progress=False,
    )  # fmt: skip
    series, compared, refused = open_series(states).fit(model), 0, set()
    rows = [
        *layers.find(model, "block", "with"),
        layers.whole_network(model, "fullmodel", "with"),
    ]
    for row in rows:
        for kind in perturb.parse(kinds):
            for epoch in series.epochs if kind.uses_checkpoint else [results.NO_EPOCH]:
                for draw in range(2 if kind.stochastic else 1):
                    at = {"layer": row.name, "perturbation": kind.name}
                    found = ds.value.sel(epoch=epoch, draw=draw, **at).values
                    if kind.name == "skip" and np.isnan(found).all():
                        refused.add(row.name)
                        continue
                    right = plain.cell(
                        model, series, BATCHES, row, kind, epoch, draw, seed=5, wanted=names
                    )
                    assert found.tolist() == [tally.mean for tally in right.values()]
                    compared += 1
    assert refused == {"out", "fullmodel"}
    assert compared == int(ds.value.notnull().sum()) / len(names)
    assert len(np.unique(ds.value.sel(metric="loss"))) > 30


def test_the_page_quotes_the_specification_as_it_is(repository):
    page = (repository / "docs" / "exactness.md").read_text(encoding="utf-8")
    code = (repository / "layerscope" / "core" / "plain.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```\n" in page
    assert "docs/exactness.md" in (repository / "README.md").read_text(encoding="utf-8")
    for file in {word.strip("`.,;:()") for word in page.split() if "tests/test_" in word}:
        assert (repository / file).is_file(), file
