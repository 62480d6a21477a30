"""Files of strangers opened as Datasets: refused in words, before they take memory."""

from __future__ import annotations

import json
import os
import re
import struct
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


GIGABYTES = 2**31
TEXT = h5py.string_dtype()


def forged(count=4):
    """Strings that say they are long, as they stand in a file."""
    return struct.pack("<IQI", GIGABYTES, 0, 1) * count


def shuffled(content):
    return np.frombuffer(content, np.uint8).reshape(-1, 16).T.tobytes()


def in_chunk(content, mask=0, **how):
    def change(file):
        made = file.create_dataset("more", (4,), TEXT, chunks=(4,), **how)
        made.id.write_direct_chunk((0,), content, mask)

    return change


def beside_its_description(file):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple((2,)), h5py.h5t.py_create(TEXT, logical=True)
    h5py.h5d.create(file.id, b"more", kind, space, made)


def with_members(file):
    kind = np.dtype([("a", "i4"), ("b", TEXT)])
    file.attrs.create("more", np.array([(1, "x")], kind), dtype=kind)


LONG = {
    "packed": in_chunk(zlib.compress(forged()), compression="gzip"),
    "shuffled and packed": in_chunk(
        zlib.compress(shuffled(forged())), compression="gzip", shuffle=True
    ),
    "packed by what was passed over": in_chunk(forged(), 1, compression="gzip"),
    "beside its description": beside_its_description,
    "where nothing is written": create(shape=(10,), dtype=TEXT, chunks=(5,), fillvalue=b"x" * 999),
    "members of an attribute": with_members,
}


@pytest.mark.parametrize("change", LONG.values(), ids=LONG)
def test_strings_say_how_long_they_are_before_they_are_read(path, refused_cheaply, change):
    said = refused_cheaply(lambda: results.open_dataset(changed(path, change)))
    assert re.search(f"more .*string|string of {GIGABYTES:,} bytes", said), said


def claim(path, said, what):
    """Let all texts of a length say that they are of another, and lie elsewhere or not."""
    content = path.read_bytes()
    heaps = [found.start() for found in re.finditer(b"GCOL", content)]
    for heap in heaps:
        old, new = struct.pack("<IQ", said, heap), struct.pack("<IQ", what[0], what[1] or heap)
        if (count := content.count(old)) == 1:
            path.write_bytes(content.replace(old, new))
            return
        assert not count
    pytest.fail("the text was not found")


@pytest.mark.parametrize("place", [None, 7, 2**40], ids=["there", "anywhere", "beyond the end"])
@pytest.mark.parametrize("others", [0, 30])
@pytest.mark.parametrize("of", ["/", "more", "group"])
def test_an_attribute_that_says_it_is_longer_than_the_file_is_refused(
    tmp_path, refused_cheaply, of, others, place
):
    path = tmp_path / "sweep.nc"
    with h5py.File(path, "w") as file:
        file.create_dataset("more", data=1.0)
        file.create_group("group")
        for number in range(others):
            file[of].attrs[f"other{number}"] = "x" * number
        file[of].attrs["units"] = "d" * 1009
    assert results.read_settings(path).get("units") == (None if of != "/" else "d" * 1009)
    claim(path, 1009, (GIGABYTES, place))
    for read in (results.read_settings, results.open_dataset):
        said = refused_cheaply(lambda read=read: read(path))
        assert f"the attribute units holds a string of {GIGABYTES:,} bytes" in said
        assert str(path) in said


def test_attributes_that_all_lead_to_one_long_text_are_refused(tmp_path, refused_cheaply):
    path = tmp_path / "sweep.nc"
    with h5py.File(path, "w") as file:
        for number in range(60):
            file.attrs[f"other{number:02}"] = "d" * (10_000 + number)
        file.attrs["units"] = "x" * 2**23
    content = path.read_bytes()
    entry = re.escape(struct.pack("<I", 2**23)) + b".{8}\x01\0\0\0"
    (long,) = re.findall(entry, content, re.DOTALL)
    for number in range(60):
        content = re.sub(
            re.escape(struct.pack("<I", 10_000 + number)) + b".{8}.\0\0\0",
            lambda _: long, content, flags=re.DOTALL,
        )  # fmt: skip
    path.write_bytes(content)
    said = refused_cheaply(lambda: results.read_settings(path))
    assert "its attributes hold over" in said


def test_texts_of_every_layout_are_read(tmp_path):
    """Many, packed, in chunks, of no length; attributes with names and values of any length."""
    path = tmp_path / "sweep.nc"
    texts = np.array(["ä" * (each % 7) for each in range(3000)], object)
    testing.dataset(layers=3).to_netcdf(path, engine="h5netcdf")
    packed = {"chunks": (1000,), "compression": "gzip", "shuffle": True}
    with h5py.File(path, "r+") as file:
        for at, how in enumerate(({}, {"chunks": (3000,)}, packed)):
            file.create_dataset(f"group/{at}", data=texts, dtype=TEXT, **how)
        for at in (1, 7, 8, 9, 200):
            file["group"].attrs["n" * at] = "v" * at
        file["group"].attrs["several"] = np.array(["a", "", "ccc"], object)
        lists = np.empty(1, object)
        lists[0] = np.arange(3, dtype="i4")
        file["group"].attrs.create("lists", lists, dtype=h5py.vlen_dtype("i4"), shape=(1,))
        file["group"].attrs["empty"] = h5py.Empty(TEXT)
    assert results.open_dataset(path).sizes["layer"] == 4


def test_what_was_removed_from_a_file_does_not_spoil_it(tmp_path):
    """HDF5 leaves descriptions of what was there, also where the file has become short."""
    path = tmp_path / "sweep.nc"
    testing.dataset(layers=3).to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "r+") as file:
        file.attrs["mine"] = "x" * 10**6
    with h5py.File(path, "r+") as file:
        del file.attrs["mine"]
        file.attrs["mine"] = "y"
    assert results.settings(results.open_dataset(path))["mine"] == "y"


def test_a_dataset_is_one_file_also_where_another_takes_its_name_meanwhile(tmp_path, monkeypatch):
    """As `partial.nc` is replaced by a process that is stopped while another one begins."""
    from layerscope.results import _layout as layout

    path, check, marks = tmp_path / "partial.nc", layout.check, ["a", "a much longer mark" * 9]
    held = [testing.dataset(layers=3).assign_attrs(mark=mark) for mark in marks]
    results.save(held[0], path)

    def meanwhile(*given):
        results.save(held[1], path)
        return check(*given)

    monkeypatch.setattr(layout, "check", meanwhile)
    assert results.open_dataset(path).attrs["mark"] == marks[0]
    assert results.read_settings(path)["mark"] == marks[1]
