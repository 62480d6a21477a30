"""The Dataset goes to disk and back unchanged, opens without layerscope, and is checked."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from layerscope import results, testing
from layerscope.base.writing import write_bytes
from layerscope.errors import ResultError
from layerscope.results._meaning import fill_in


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    # As a sweep returns it, with what its metrics and perturbations mean.
    return fill_in(testing.dataset(layers=3, epochs=(0, 1, 8), draws=2))


def test_it_comes_back_identical(ds, tmp_path):
    path = results.save(ds, tmp_path / "new" / "folder" / "sweep.nc")
    found = results.open_dataset(path)
    assert found.identical(ds)
    assert found.value.values.tobytes() == ds.value.values.tobytes()
    assert results.settings(found) == results.settings(ds)
    assert results.open_dataset(path.parent).identical(ds)  # the one Dataset of a folder
    path.unlink()  # the file was left closed, the values are in memory
    assert found.identical(ds)
    assert list(path.parent.iterdir()) == []


def test_it_opens_with_plain_xarray(ds, tmp_path):
    path = results.save(ds, tmp_path / "sweep.nc")
    code = (
        "import sys, xarray; ds = xarray.open_dataset(sys.argv[1]); "
        "print(float(ds.value.sel(layer='layer2', epoch=1, perturbation='reinitialize', draw=0, "
        "metric='error'))); assert 'layerscope' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ds.value.sel(
        layer="layer2", epoch=1, perturbation="reinitialize", draw=0, metric="error"
    )
    assert float(done.stdout) == float(expected)


def test_names_and_units_are_on_everything(ds):
    for name, variable in ds.variables.items():
        assert variable.attrs["long_name"], name
    assert ds.epoch.attrs["flag_values"] == results.NO_EPOCH
    bare = results.build({}, {"epoch": [0, 1]}, {})
    assert "flag_values" not in bare.epoch.attrs


def test_settings_survive_a_file(tmp_path):
    about = {
        "torch": torch.__version__,  # a subclass of str
        "seed": 3,
        "wall_time_s": 1.5,
        "network": {"depth": 3, "inputs": [1, 28], "none": None, "flag": True},
        "layers": ["a", "b"],
        "note": "[not JSON",
        "empty": "",
    }
    path = results.save(results.build({"n_examples": ([], 3)}, {}, about), tmp_path / "a.nc")
    found = results.settings(results.open_dataset(path))
    assert found == {**about, "torch": str(torch.__version__)}
    assert type(found["seed"]) is int


# Opening


def test_missing_and_wrong_files_are_named(tmp_path, ds):
    with pytest.raises(ResultError, match=r"there is no Dataset at .*gone\.nc"):
        results.open_dataset(tmp_path / "gone.nc")
    with pytest.raises(ResultError, match=r"holds no Dataset .* goes on"):
        results.open_dataset(tmp_path)
    (tmp_path / "text.nc").write_text("no Dataset")
    with pytest.raises(ResultError, match=r"text\.nc \(10 bytes\) is no Dataset"):
        results.open_dataset(tmp_path / "text.nc")
    (tmp_path / "empty.nc").touch()
    with pytest.raises(ResultError, match=r"empty\.nc \(0 bytes\) is no Dataset"):
        results.open_dataset(tmp_path / "empty.nc")
    with pytest.raises(ResultError, match="holds 2 Datasets"):
        results.open_dataset(tmp_path)
    results.save(ds, tmp_path / "text.nc")
    assert results.open_dataset(tmp_path / "text.nc").identical(ds)


# A damaged file also makes h5netcdf complain when it is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_is_refused_or_read_and_never_anything_else(ds, tmp_path):
    path = results.save(ds, tmp_path / "sweep.nc")
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(40):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at])
        with pytest.raises(ResultError, match=r"sweep\.nc"):
            results.open_dataset(path)
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            found = results.open_dataset(path)
        except ResultError as error:
            said = str(error)
        else:
            said = str(path)
            assert found.identical(ds)
        assert str(path) in said


def test_a_cut_file_leaves_no_complaints(ds, tmp_path, capfd):
    path = results.save(ds, tmp_path / "sweep.nc")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ResultError):
        results.open_dataset(path)
    assert capfd.readouterr().err == ""


# Writing


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, stop):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def failing(*_args, **_kwargs):
        raise stop

    monkeypatch.setattr(call, failing)
    with pytest.raises((ResultError, KeyboardInterrupt), match=r"(No space|^$)"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_place_that_can_not_be_written_to_is_named(ds, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match=r"can't write .*sweep\.nc.*--out"):
        results.save(ds, tmp_path / "file" / "sweep.nc")
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(ResultError, match=r"can't write .*folder\.nc: it is a folder"):
        results.save(ds, tmp_path / "folder.nc")


# Checks


def test_require_gives_the_variable_or_says_what_is_missing(ds):
    assert results.require(ds, "layer", "epoch").identical(ds.value)
    assert results.require(ds, "norm", variable="distance").identical(ds.distance)
    with pytest.raises(ResultError, match="has no variable 'values'; it has value, standard_error"):
        results.require(ds, variable="values")
    with pytest.raises(ResultError, match=r"not norm, seed\. If one was selected away"):
        results.require(ds, "layer", "norm", "seed")
    with pytest.raises(ResultError, match="not draw"):
        results.require(ds.sel(draw=0), "draw")
    with pytest.raises(ResultError, match="expected an xarray Dataset, got a DataArray"):
        results.require(ds.value, "layer")
    with pytest.raises(ResultError, match="it has none"):
        results.require(xr.Dataset())


# Joining runs


def test_runs_are_joined_along_seed(ds, tmp_path):
    other = ds.assign(value=ds.value + 1).assign_attrs(wall_time_s=9.0)
    joined = results.concat([ds.assign_attrs(wall_time_s=8.0), other], [4, 7])
    assert joined.value.sel(seed=4, drop=True).identical(ds.value)
    assert joined.value.sel(seed=7, drop=True).identical(other.value)
    assert joined.baseline.dims == ("seed", "metric")
    assert joined.module_type.dims == ("layer",)
    assert [run.get("wall_time_s") for run in results.settings(joined)["runs"]] == [8.0, 9.0]
    assert results.settings(joined)["network"] == results.settings(ds)["network"]
    assert "wall_time_s" not in joined.attrs
    path = results.save(joined, tmp_path / "joined.nc")
    assert results.open_dataset(path).identical(joined)


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.isel(epoch=slice(1)),
        lambda ds: ds.isel(layer=slice(None, None, -1)),
        lambda ds: ds.assign_coords(metric=["error", "accuracy"]),
        lambda ds: ds.assign_coords(parameters=ds.parameters + 1),
        lambda ds: ds.drop_vars("distance"),
    ],
)
def test_runs_that_differ_are_not_filled_up_with_nan(ds, change):
    with pytest.raises(ResultError, match="can't be joined along seed"):
        results.concat([ds, change(ds)], [0, 1])


@pytest.mark.parametrize(("count", "seeds"), [(1, [0, 1]), (2, [0]), (0, [])])
def test_each_run_has_one_seed(ds, count, seeds):
    with pytest.raises(ResultError, match=f"{count} Datasets came with {len(seeds)} seeds"):
        results.concat([ds] * count, seeds)


def test_the_synthetic_dataset_has_no_gaps_but_those_it_should(ds):
    value = ds.value.transpose("perturbation", "epoch", "draw", "layer", "metric").values
    expected = np.zeros(value.shape[:3], dtype=bool)
    expected[0, 1:, 0] = True  # re-initialised: at every epoch, without chance
    expected[1, 0] = True  # re-randomised: at no epoch, at every draw
    assert np.array_equal(~np.isnan(value).all((3, 4)), expected)
    assert np.array_equal(~np.isnan(value).any((3, 4)), expected)


def test_runs_from_before_places_were_recorded_join_with_later_ones(ds):
    placed = ds.assign_coords(block=("layer", [str(name) for name in ds.layer.values]))
    joined = results.concat([ds, placed], [0, 1])
    assert "block" not in joined.coords
    assert joined.value.sel(seed=1, drop=True).identical(ds.value)
    assert results.concat([placed, placed], [0, 1]).block.dims == ("layer",)
