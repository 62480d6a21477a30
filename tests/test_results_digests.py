"""A Dataset that is damaged on disk is told from one that a user changed, and from an older one."""

from __future__ import annotations

import random

import h5py
import numpy as np
import pytest
import xarray as xr

from layerscope import results, testing
from layerscope.errors import ResultError
from layerscope.results._digests import GROUP
from layerscope.results._meaning import fill_in


@pytest.fixture
def ds() -> xr.Dataset:
    return fill_in(testing.dataset(layers=3, epochs=(0, 1, 8), draws=2))


@pytest.fixture
def saved(ds, tmp_path):
    return results.save(ds, tmp_path / "sweep.nc")


# A damaged file also makes h5netcdf complain when it is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("count", "seed"), [(15, 0), pytest.param(400, 1, marks=pytest.mark.slow)])
def test_no_flipped_bit_gives_other_numbers(ds, saved, count, seed):
    whole, chance = saved.read_bytes(), random.Random(seed)
    refused = 0
    for _ in range(count):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        saved.write_bytes(flipped)
        try:
            found = results.open_dataset(saved)
        except ResultError:
            refused += 1
        else:
            assert found.identical(ds)
    assert refused > count / 10


def changed(path, change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def one_bit(file) -> None:
    values = file["value"][...]
    values.view(np.uint64).flat[7] ^= 1
    file["value"][...] = values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_bit, "the variable 'value' is not what was saved"),
        (lambda file: file["layer"].__setitem__(0, "layer9"), "the variable 'layer' is not"),
        (lambda file: file["value"].attrs.__setitem__("units", "x"), "the variable 'value' is not"),
        (lambda file: file.attrs.__setitem__("network", "{}"), "its attributes are not what was"),
        (lambda file: file.move("baseline", "baseline2"), "the variable 'baseline', which was"),
        (lambda file: file.create_dataset("more", data=3.0), "the variable 'more' was not saved"),
        (lambda file: file[GROUP]["sha256"].__setitem__(0, "0" * 64), "is not what was saved"),
        (lambda file: file[GROUP].__delitem__("variable"), "its digests can't be read"),
        (lambda file: file[GROUP].attrs.__setitem__("scheme", 2), "newer layerscope"),
    ],
)  # fmt: skip
def test_what_is_other_than_was_saved_is_named(saved, change, said):
    changed(saved, change)
    with pytest.raises(ResultError, match=said) as error:
        results.open_dataset(saved)
    assert str(saved) in str(error.value)


def test_settings_are_compared_without_reading_values(saved):
    expected = results.read_settings(saved)
    changed(saved, one_bit)
    assert results.read_settings(saved) == expected
    changed(saved, lambda file: file.attrs.__setitem__("network", "{}"))
    with pytest.raises(ResultError, match="its attributes"):
        results.read_settings(saved)


def test_what_a_user_changed_through_xarray_is_no_damage(ds, saved, tmp_path):
    with xr.open_dataset(saved) as plain:
        assert fill_in(plain.load()).identical(ds)  # with nothing of ours in it
    other = plain.assign(value=plain.value + 1)
    other.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    assert results.open_dataset(tmp_path / "other.nc").value.identical(other.value)


def test_what_was_changed_in_place_is_cured_as_the_message_says(saved):
    edit = xr.Dataset({"chance": ((), 0.25)})
    edit.to_netcdf(saved, mode="a", engine="h5netcdf")
    with pytest.raises(ResultError, match=r"layerscope\.save\(xarray\.load_dataset\('") as error:
        results.open_dataset(saved)
    code = str(error.value).rpartition("save it anew: ")[2].rstrip(".")
    exec(f"import layerscope, xarray; {code}")
    assert float(results.open_dataset(saved).chance) == 0.25


def test_files_of_before_open_as_before(ds, tmp_path):
    ds.to_netcdf(tmp_path / "earlier.nc", engine="h5netcdf")
    assert results.open_dataset(tmp_path / "earlier.nc").identical(ds)
    assert results.read_settings(tmp_path / "earlier.nc") == results.settings(ds)


def test_a_large_variable_is_compared_piece_by_piece(tmp_path, monkeypatch):
    from layerscope.results import _digests

    ds = xr.Dataset({"x": (("a", "b"), np.arange(3000.0).reshape(300, 10))})
    path = results.save(ds, tmp_path / "a.nc")
    monkeypatch.setattr(_digests, "_BLOCK", 1000)
    assert results.open_dataset(path).identical(ds)
    changed(path, lambda file: file["x"].__setitem__((299, 9), 0.0))
    with pytest.raises(ResultError, match="'x' is not"):
        results.open_dataset(path)
