"""Batches that change between two passes are noticed before anything made of them is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import xarray as xr
from hypothesis import given, strategies as st
from torch import nn

import layerscope
from layerscope import core
from layerscope.errors import DataError

CPU = torch.device("cpu")


class Loader:
    """Six batches; from pass `since` on, `change` is done to batch `at`."""

    def __init__(self, change=None, at: int = 0, since: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(24, 5, generator=generator)
        targets = torch.randint(3, (24,), generator=generator)
        self.batches = list(zip(inputs.split(4), targets.split(4), strict=True))
        self.change, self.at, self.since, self.passes = change, at, since, 0

    def __iter__(self):
        changed = list(self.batches)
        if self.change and self.passes >= self.since:
            self.change(changed, self.at)
        self.passes += 1
        return iter(changed)


def shuffled(batches, at):
    inputs, targets = batches[at]
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
    batches[at] = inputs[order], targets[order]


def augmented(batches, at):
    inputs, targets = batches[at]
    batches[at] = inputs + 1e-6, targets


def relabelled(batches, at):
    inputs, targets = batches[at]
    batches[at] = inputs, (targets + 1) % 3


def swapped(batches, at):
    other = (at + 1) % len(batches)
    batches[at], batches[other] = batches[other], batches[at]


def ended(batches, at):
    del batches[at:]


def longer(batches, _):
    batches.append(batches[0])


@given(
    st.sampled_from([shuffled, augmented, relabelled, swapped, ended, longer]),
    st.integers(0, 4),
)
def test_no_batch_is_handed_out_that_is_not_what_it_was(change, at):
    loader = Loader(change, at)
    held = core.batches.FixedBatches(loader, 4, CPU, limit=0)
    seen = []
    with pytest.raises(DataError, match="batches changed between two passes"):
        seen.extend(held)
    right = [0, 1, 2, 3, 4, 5][: 6 if change is longer else at]
    assert len(seen) == len(right)
    assert all(torch.equal(seen[i][0], loader.batches[i][0]) for i in right)


def test_what_a_streaming_loader_gives_every_time_is_no_false_alarm():
    loader = Loader()
    held = core.batches.FixedBatches(loader, 4, CPU, limit=0)
    for _ in range(2):
        assert [len(targets) for _, targets in held] == [4] * 6
    assert loader.passes == 3


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("change", [shuffled, augmented, relabelled])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_no_part_of_wrong_data_is_kept(tmp_path, monkeypatch, change, at):
    states = {epoch: network(epoch).state_dict() for epoch in (0, 1)}
    held = core.batches.FixedBatches
    monkeypatch.setattr(
        core.batches, "FixedBatches", lambda *given, **more: held(*given, **more | {"limit": 0})
    )

    def sweep(batches, out: Path | None):
        return layerscope.sweep(
            network(2), batches, checkpoints=states, out=out, device="cpu", show_progress=False
        )

    # The first pass finds out what there is; the one that the sweep computes from comes later.
    loader, calm = Loader(), Loader()
    right = sweep(calm, None)
    loader.change, loader.at, loader.since = change, at, calm.passes - 1
    with pytest.raises(DataError, match=f"batch {at} is not what it was"):
        sweep(loader, tmp_path)
    kept = {path.name.split("-")[1] for path in tmp_path.glob("parts-*/*.npz")}
    assert kept == {f"{index:06d}" for index in range(at)}
    resumed = sweep(Loader(), tmp_path)
    xr.testing.assert_identical(resumed["value"], right["value"])
    xr.testing.assert_identical(resumed["baseline"], right["baseline"])


def test_a_sized_loader_that_holds_its_batches_is_taken_as_it_is():
    class Sized(Loader):
        def __len__(self):
            return len(self.batches)

    held = core.batches.FixedBatches(Sized(), 8, CPU)
    assert (held.count, held.lengths, held.cut) == (24, [4] * 6, False)
