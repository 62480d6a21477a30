"""What is kept survives, what is half-written does not count, and no sweep takes another's."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerscope import metrics, testing
from layerscope.errors import ResultError
from layerscope.metrics import Tally
from layerscope.store import Store

IDENTITY = {"seed": 0, "layers": ["a", "b"], "data": {"sha256": "ab", "examples": 3}}


def sums(count: int = 3, total: float = 0.1 + 0.2, squares: float = 1e-300) -> Tally:
    return Tally(count, total, squares, float(count), -total, 0.1)


def test_sums_survive_bit_for_bit(tmp_path):
    kept = {"k1": {"loss": sums(), "error": sums(2, math.inf, math.nan)}, "k2": {"loss": sums(5)}}
    store = Store(tmp_path / "new" / "sweep", IDENTITY)
    assert store.partial() == (0, {})
    store.keep(7, kept)
    batches, found = Store(tmp_path / "new" / "sweep", IDENTITY).partial()
    assert batches == 7
    assert list(found) == ["k1", "k2"]
    assert found["k1"]["loss"] == kept["k1"]["loss"]
    assert found["k1"]["loss"].total == 0.30000000000000004
    assert found["k1"]["error"].total == math.inf
    assert math.isnan(found["k1"]["error"].squares)
    store.keep(8, {"k2": {"loss": sums(6)}})
    assert store.partial() == (8, {"k2": {"loss": sums(6)}})


def test_sums_know_their_metric_again(tmp_path):
    wanted = metrics.chosen(["perplexity", "calibration_error", "error"])
    outputs, targets = torch.eye(4) * 3, torch.tensor([0, 1, 1, 2])
    found = metrics.outcomes(wanted, outputs, targets)
    kept = {name: Tally.of(outcome) for name, outcome in found.items()}
    store = Store(tmp_path, IDENTITY)
    store.keep(1, {"k": kept})
    again = store.partial(wanted)[1]["k"]
    assert again == kept
    for name, tally in kept.items():
        assert (again[name].mean, again[name].standard_error) == (tally.mean, tally.standard_error)
    # A name that means nothing here is a plain mean.
    assert store.partial()[1]["k"]["perplexity"].mean == kept["perplexity"].total / 4


@given(totals=st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=5))
def test_every_sum_survives(tmp_path_factory, totals):
    store = Store(tmp_path_factory.mktemp("sweep"), IDENTITY)
    kept = {str(i): {"loss": sums(i, total, -total)} for i, total in enumerate(totals)}
    store.keep(1, kept)
    assert store.partial() == (1, kept)


def test_the_same_sweep_in_another_order_of_keys_is_the_same(tmp_path):
    Store(tmp_path, IDENTITY)
    Store(tmp_path, {**dict(reversed(IDENTITY.items())), "layers": ("a", "b")})


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({**IDENTITY, "seed": 1}, "seed differ"),
        ({**IDENTITY, "data": {"sha256": "ac", "examples": 3}}, "data differ"),
        ({**IDENTITY, "layers": ["b", "a"], "seed": 1}, "layers, seed differ"),
        ({"seed": 0, "layers": ["a", "b"]}, "data differ"),
        ({**IDENTITY, "epochs": [1]}, "epochs differ"),
    ],
)
def test_a_folder_of_another_sweep_is_refused_naming_what_differs(tmp_path, other, named):
    Store(tmp_path, IDENTITY).keep(3, {"k": {"loss": sums()}})
    with pytest.raises(ResultError, match=rf"belongs to another sweep: {named}.*--out"):
        Store(tmp_path, other)
    assert Store(tmp_path, IDENTITY).partial() == (3, {"k": {"loss": sums()}})


def test_a_write_that_was_cut_short_does_not_count(tmp_path, monkeypatch):
    store = Store(tmp_path, IDENTITY)
    store.keep(1, {"k": {"loss": sums()}})
    # What a kill between writing and renaming leaves:
    (tmp_path / ".partial.json.123.tmp").write_text('{"batches": 2, "tal')

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultError, match="No space left on device"):
        store.keep(2, {"k": {"loss": sums(9)}})
    monkeypatch.undo()
    assert Store(tmp_path, IDENTITY).partial() == (1, {"k": {"loss": sums()}})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".partial.json.123.tmp", "partial.json", "sweep.json"]


def test_a_place_that_can_not_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "sweep"):
        with pytest.raises(ResultError, match=rf"can't write {folder}.*Choose another folder"):
            Store(folder, IDENTITY)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "\udcff"])
def test_what_can_not_be_read_is_refused(tmp_path, content):
    (tmp_path / "sweep.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ResultError, match=r"sweep\.json is damaged or not layerscope's.*--out"):
        Store(tmp_path, IDENTITY)
    (tmp_path / "sweep.json").unlink()
    store = Store(tmp_path, IDENTITY)
    (tmp_path / "partial.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ResultError, match=r"partial\.json is damaged or not layerscope's.*--out"):
        store.partial()


def test_the_finished_dataset_is_there_or_not(tmp_path):
    store = Store(tmp_path, IDENTITY)
    assert store.finished() is None
    store.keep(1, {"k": {"loss": sums()}})
    ds = testing.dataset(layers=2, epochs=(0, 1), draws=2)
    assert store.finish(ds) == tmp_path / "sweep.nc"
    assert Store(tmp_path, IDENTITY).finished().identical(ds)
    assert store.partial() == (0, {})  # nothing is left to go on with
    assert json.loads((tmp_path / "sweep.json").read_text()) == IDENTITY
