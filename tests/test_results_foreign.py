"""Files of strangers opened as Datasets: refused in words, before they take memory."""

from __future__ import annotations

import json
import os
import re
import zlib

import h5py
import numpy as np
import pytest

from layerscope import results, testing
from layerscope.cli import main
from layerscope.errors import ResultError


@pytest.fixture
def path(tmp_path):
    """A sound Dataset, whose file says nothing of digests."""
    place = tmp_path / "sweep.nc"
    testing.dataset(layers=3, epochs=(0, 1, 8), draws=2).to_netcdf(place, engine="h5netcdf")
    return place


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def create(name="more", **how):
    return lambda file: file.create_dataset(name, **how)


def packed(**how):
    numbers = np.arange(10**6) % 7
    return create("group/more", data=numbers, chunks=(10**5,), compression="gzip", **how)


def attribute(name, value, of="/"):
    def change(file):
        file[of].attrs[name] = value

    return change


def swapped(name, make):
    def change(file):
        del file[name]
        file[name] = make(file)

    return change


def outside(file):
    del file["baseline"]
    file.create_dataset("baseline", (2,), "f8", external=[("/etc/passwd", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "value", (2,))
    file.create_virtual_dataset("more", layout)


def inflating(file):
    """A chunk of 1,024 bytes that deflate makes a gigabyte of."""
    made = file.create_dataset("more", (1024,), "u1", chunks=(1024,), compression="gzip")
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    content = b"".join(packer.compress(zeros) for _ in range(80)) + packer.flush()
    made.id.write_direct_chunk((0,), content)


def inflating_whole(file):
    """A chunk that is stored in as many bytes as it has, and unfolds to a thousand times these."""
    made = file.create_dataset("more", (2**17,), "u1", chunks=(2**17,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(100 * 2**20), 9))


def shared_string(file):
    """A long string in one place, to which many values lead."""
    made = file.create_dataset("more", (40,), h5py.string_dtype())
    made[0] = "x" * 2**23


MALFORMED = {
    "chunks never written": (
        create(shape=(10**6, 10**6), dtype="f8", chunks=(1000, 1000)), "declares .* more",
    ),
    "a long chunk": (create(shape=(10,), maxshape=(None,), dtype="f8", chunks=(10**8,)), "chunks"),
    "many chunks": (create(shape=(10**6,), dtype="f8", chunks=(1,)), "1,000,000 chunks"),
    "never written": (create(shape=(10**9,), dtype="f8"), "declares 8,000"),
    "inflating": (inflating, "a chunk of /more is .* long, for 1,024"),
    "inflating whole": (inflating_whole, "a chunk of /more unfolds to more"),
    "a long dimension": (
        lambda file: attribute(
            "NAME", np.bytes_(b"This is a netCDF dimension but not a netCDF variable"), "more"
        )(create(shape=(10**9,), dtype="f4")(file).file),
        "declares 8,000",
    ),
    "a long string": (shared_string, "40 strings of up to 8,388,608 bytes"),
    "another filter": (
        create(shape=(10,), dtype="f8", chunks=(10,), compression="lzf"), "filters that are not",
    ),
    "an external link": (
        swapped("value", lambda _: h5py.ExternalLink("/etc/passwd", "/value")), "is a link to",
    ),
    "a soft link": (swapped("value", lambda _: h5py.SoftLink("/value")), "is a link to"),
    "external storage": (outside, "/baseline lies in other files"),
    "a virtual variable": (virtual, "/more lies in other files"),
    "a compound": (create(data=np.zeros(3, [("a", "i4")])), "neither numbers nor strings"),
    "references": (create(shape=(3,), dtype=h5py.ref_dtype), "neither numbers nor strings"),
    "no layers": (lambda file: file.__delitem__("layer"), ""),
    "a layer twice": (
        lambda file: file["layer"].__setitem__(1, file["layer"][0]), "'layer1' twice along layer",
    ),
    "times": (attribute("units", "days since 2000-01-01", "epoch"), "'epoch' holds datetime"),
    "no times": (attribute("units", "days since never", "epoch"), "is no Dataset"),
    "runs that are no list": (attribute("runs", "{}"), r"runs"),
    "a fault that is a number": (attribute("audit", "[3]"), r"audit\[0\]"),
    "a metric that is a number": (attribute("metrics", "[3]"), r"metrics\[0\]"),
    "a rule of texts": (attribute("stopping", '{"confidence": "x"}'), r"stopping\.confidence"),
    "a checkpoint of no number": (attribute("checkpoints", '{"last": ""}'), "checkpoints"),
    "a reason that is a list": (
        attribute("reuse", '{"plain_modules": {"a": []}}'), r"reuse\.plain_modules",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_dataset_is_refused_in_words_and_takes_nothing(
    path, refused_cheaply, change, message
):
    changed(path, change)
    said = refused_cheaply(lambda: results.notices(results.open_dataset(path)))
    assert str(path) in said
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("name", "values"),
    [("layer", np.arange(4.0)), ("epoch", list("abcd")), ("higher_is_better", ["yes", "no"])],
)
def test_a_variable_of_another_kind_is_refused(path, name, values):
    ds = results.open_dataset(path)
    ds.assign_coords({name: (ds[name].dims, values)}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match=rf"sweep\.nc .* variable '{name}' holds .*, not "):
        results.open_dataset(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.__setitem__("again", file["/"]),
        attribute("network", "[" * 60_000),
        attribute("mine", "[1, 2"),
        attribute("data", "mnist"),
        attribute("mine", np.bytes_(b"\xff\xfe")),
        packed(shuffle=True),
        packed(fletcher32=True),
    ],
    ids=["a group in itself", "deep", "no JSON", "text", "bytes", "packed", "packed and summed"],
)
def test_what_is_odd_and_harmless_is_opened(path, change):
    ds = results.open_dataset(path)
    found = results.open_dataset(changed(path, change))
    assert found.value.equals(ds.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, capsys, make):
    make(tmp_path / "sweep.nc")
    assert main(["show", str(tmp_path / "sweep.nc")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("layerscope: ")
    assert str(tmp_path / "sweep.nc") in line


def test_a_file_of_nothing_but_a_hole_is_refused(tmp_path, refused_cheaply):
    with open(tmp_path / "sweep.nc", "wb") as file:
        file.truncate(2**33)
    assert "hole" in refused_cheaply(lambda: results.open_dataset(tmp_path / "sweep.nc"))


def test_outcomes_that_are_much_alike_open(tmp_path):
    path = tmp_path / "outcomes.nc"
    ds = testing.dataset().assign(
        outcome=(("cell", "example"), np.full((40, 50_000), np.nan, "f4"))
    )
    packed = {"chunksizes": (1, 50_000), "compression": "gzip", "compression_opts": 1}
    results.save(ds, path, {"outcome": packed})
    assert path.stat().st_size * 10 < ds.outcome.nbytes
    assert results.open_dataset(path).outcome.equals(ds.outcome)


def test_settings_of_every_kind_that_we_write_are_read(tmp_path):
    about = {
        "network": {"class": "a.B"}, "checkpoints": {"0": "a", "-1": None}, "stopping": None,
        "runs": [{"training": {"seconds": 1.5}, "runs": [{"view": "leaf"}]}],
        "groups": {"a": ["b"]},
    }  # fmt: skip
    attrs = {name: json.dumps(value) for name, value in about.items()}
    path = results.save(testing.dataset().assign_attrs(attrs), tmp_path / "a.nc")
    assert results.settings(results.open_dataset(path))["runs"] == about["runs"]


def test_read_settings_is_as_careful(path):
    changed(path, create(shape=(10**9,), dtype="f8"))
    with pytest.raises(ResultError, match="declares"):
        results.read_settings(path)


@pytest.mark.parametrize("chunks", [None, (2,)])
def test_a_string_that_says_it_is_longer_than_the_file_is_refused(path, refused_cheaply, chunks):
    with h5py.File(path, "r+") as file:
        names = file.create_dataset(
            "names", data=["abc", "d" * 20, "ef"], dtype=h5py.string_dtype(), chunks=chunks
        )
        place = names.id.get_offset() if chunks is None else names.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(place + 16)
        assert file.read(4) == (20).to_bytes(4, "little")
        file.seek(place + 16)
        file.write((20 + 2**31).to_bytes(4, "little"))
    said = refused_cheaply(lambda: results.open_dataset(path))
    assert "names holds a string of 2,147,483,668 bytes" in said
    assert str(path) in said
