"""Finished cells survive, half-written ones do not count, and no sweep takes another's folder."""

from __future__ import annotations

import json
import math

import pytest

from layerscope import testing
from layerscope.errors import ResultError
from layerscope.store import Store

IDENTITY = {"seed": 0, "layers": ["a", "b"], "data": {"sha256": "ab", "examples": 3}}


def test_cells_survive_bit_for_bit(tmp_path):
    content = {"value": {"loss": 0.1 + 0.2, "error": math.nan, "big": 1e308 * 10}, "distance": {}}
    store = Store(tmp_path / "new" / "sweep", IDENTITY)
    assert store.cells() == {}
    store.add("k1", content)
    store.add("k2", {"value": {}})
    found = Store(tmp_path / "new" / "sweep", IDENTITY).cells()
    assert list(found) == ["k1", "k2"]
    assert found["k1"]["value"]["loss"] == 0.30000000000000004
    assert math.isnan(found["k1"]["value"]["error"])
    assert found["k1"]["value"]["big"] == math.inf
    store.add("k1", {"value": {"loss": 1.0}})
    assert store.cells()["k1"] == {"value": {"loss": 1.0}}


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
    Store(tmp_path, IDENTITY).add("k", {})
    with pytest.raises(ResultError, match=rf"belongs to another sweep: {named}.*--out"):
        Store(tmp_path, other)
    assert Store(tmp_path, IDENTITY).cells() == {"k": {}}


def test_a_write_that_was_cut_short_does_not_count(tmp_path, monkeypatch):
    store = Store(tmp_path, IDENTITY)
    store.add("whole", {"value": {"loss": 1.0}})
    # What a kill between writing and renaming leaves:
    (tmp_path / "cells" / ".half.json.123.tmp").write_text('{"value": {"lo')
    assert Store(tmp_path, IDENTITY).cells().keys() == {"whole"}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for key in ("whole", "new"):
        with pytest.raises(ResultError, match="No space left on device"):
            store.add(key, {"value": {"loss": 2.0}})
    monkeypatch.undo()
    assert Store(tmp_path, IDENTITY).cells() == {"whole": {"value": {"loss": 1.0}}}
    left = [path.name for path in (tmp_path / "cells").iterdir()]
    assert sorted(left) == [".half.json.123.tmp", "whole.json"]


def test_a_place_that_can_not_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "sweep"):
        with pytest.raises(ResultError, match=rf"can't write {folder}.*Choose another folder"):
            Store(folder, IDENTITY)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "\udcff"])
def test_an_identity_that_can_not_be_read_is_refused(tmp_path, content):
    (tmp_path / "sweep.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ResultError, match=r"sweep\.json does not say which sweep"):
        Store(tmp_path, IDENTITY)


def test_the_finished_dataset_is_there_or_not(tmp_path):
    store = Store(tmp_path, IDENTITY)
    assert store.finished() is None
    ds = testing.dataset(layers=2, epochs=(0, 1), draws=2)
    assert store.finish(ds) == tmp_path / "sweep.nc"
    assert Store(tmp_path, IDENTITY).finished().identical(ds)
    assert json.loads((tmp_path / "sweep.json").read_text()) == IDENTITY
