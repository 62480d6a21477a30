"""Readers of results: Datasets, and the gallery of runs."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

import layerscope
from layerscope import results, testing
from layerscope.paper import gallery
from malformed._case import CANARY, Case, Reader
from malformed._spoiling import damage, flipped, replaced, spoil_json, wild_json

__all__ = ["READERS"]

_FILE = "sweep.nc"


def _build_dataset(folder: Path) -> None:
    results.save(testing.dataset(layers=3, epochs=(0, 1, 8), draws=2), folder / _FILE)


def _read_dataset(folder: Path) -> Any:
    ds = layerscope.open_dataset(folder / _FILE)
    return ds, results.settings(ds), results.read_settings(folder / _FILE)


def _dataset_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    yield from damage(folder, _FILE, chance, each)
    size = (folder / _FILE).stat().st_size
    for _ in range(20 * each):  # most of the file is values
        yield flipped(_FILE, chance.randrange(size), chance.randrange(8))
    for how, change in _HDF5.items():
        yield Case(how, lambda copy, change=change: _changed(copy, change))  # type: ignore[misc]
    yield Case("an attribute that says it is of 2 GB", _claiming(0))
    yield Case("an attribute of many that says it is of 2 GB", _claiming(30))
    yield Case("no HDF5, but netCDF 3", replaced(_FILE, b"CDF\x01" + bytes(100)))


def _changed(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / _FILE
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        change(file)


def _value(index: int, to: float) -> Callable[[Any], object]:
    def change(file: Any) -> None:
        file["value"][0, index] = to

    return change


def _new(name: str, **how: Any) -> Callable[[Any], object]:
    return lambda file: file.create_dataset(name, **how)


def _swap(name: str, make: Callable[[Any], object]) -> Callable[[Any], object]:
    """Put something else in the place of what is called so."""

    def change(file: Any) -> None:
        del file[name]
        file[name] = make(file)

    return change


def _attribute(name: str, value: Any, at: str = "/") -> Callable[[Any], object]:
    def change(file: Any) -> None:
        file[at].attrs[name] = value

    return change


_TEXT = h5py.string_dtype()
_FORGED = struct.pack("<IQI", 2**31, 0, 1) * 4
"""Strings that say they are of 2 GB, as they stand in a file."""


def _strings(content: bytes, **how: Any) -> Callable[[Any], object]:
    def change(file: Any) -> None:
        made = file.create_dataset("more", (4,), _TEXT, chunks=(4,), **how)
        made.id.write_direct_chunk((0,), content)

    return change


def _compact(file: Any) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.COMPACT)
    kind = h5py.h5t.py_create(_TEXT, logical=True)
    h5py.h5d.create(file.id, b"more", kind, h5py.h5s.create_simple((2,)), made)


def _claiming(others: int) -> Callable[[Path], object]:
    """An attribute that says it is of 2 GB, beside others."""

    def spoil(folder: Path) -> None:
        def change(file: Any) -> None:
            more = file.create_dataset("more", data=1.0)
            more.attrs.update({f"other{number}": "x" * number for number in range(others)})
            more.attrs["units"] = "d" * 10_009

        _changed(folder, change)
        path = folder / _FILE
        said, claimed = (each.to_bytes(4, "little") for each in (10_009, 2**31))
        content = path.read_bytes()
        heaps = [found.start() for found in re.finditer(b"GCOL", content)]
        for heap in (each.to_bytes(8, "little") for each in heaps):
            content = content.replace(said + heap, claimed + heap)
        path.write_bytes(content)

    return spoil


def _passwd_outside(file: Any) -> None:
    shape = file["baseline"].shape
    del file["baseline"]
    file.create_dataset("baseline", shape, "f8", external=[("/etc/passwd", 0, 16)])


def _virtual(file: Any) -> None:
    shape = file["value"].shape
    layout = h5py.VirtualLayout(shape, "f8")
    layout[:] = h5py.VirtualSource(file.filename, "standard_error", shape)
    del file["value"]
    file.create_virtual_dataset("value", layout)


def _renamed(file: Any) -> None:
    file.move("value", "value2")


def _bomb(file: Any) -> None:
    del file["value"]
    file.create_dataset("value", (30_000, 30_000), "f8", chunks=(1000, 1000), compression="gzip")


_HDF5: dict[str, Callable[[Any], object]] = {
    "another value": _value(1, 0.123),
    "NaN for a value": _value(1, np.nan),
    "infinity for a value": _value(1, np.inf),
    "a variable that says it is 7.2 GB": _bomb,
    "a new variable that says it is 8 TB": _new(
        "more", shape=(10**6, 10**6), dtype="f8", chunks=(1000, 1000)
    ),
    "a variable of 800 MB, packed": _new(
        "more", shape=(10**8,), dtype="f8", chunks=(10**6,), compression="gzip", fillvalue=1.0
    ),
    "a variable that is a link to another file": _swap(
        "value", lambda _: h5py.ExternalLink("/etc/passwd", "/value")
    ),
    "a variable that is a link to itself": _swap("value", lambda _: h5py.SoftLink("/value")),
    "a group that holds itself": lambda file: file.__setitem__("again", file["/"]),
    "a variable whose values lie in another file": _passwd_outside,
    "a variable made of another": _virtual,
    "a variable under another name": _renamed,
    "no values": lambda file: file.__delitem__("value"),
    "no layers": lambda file: file.__delitem__("layer"),
    "strings that say they are of 2 GB, in a chunk": _strings(_FORGED),
    "strings that say they are of 2 GB, packed": _strings(
        zlib.compress(_FORGED), compression="gzip"
    ),
    "strings beside their description": _compact,
    "strings that are not written, of a megabyte each": _new(
        "more", shape=(500,), dtype=_TEXT, chunks=(5,), fillvalue=b"x" * 2**20
    ),
    "nothing but digests": lambda file: [
        file.__delitem__(name) for name in list(file) if "digests" not in name
    ],
    "a compound variable": _new("more", data=np.zeros(3, [("a", "i4"), ("b", "f8")])),
    "a variable of lists": _new("more", shape=(3,), dtype=h5py.vlen_dtype(np.int32)),
    "a variable of references": _new("more", shape=(3,), dtype=h5py.ref_dtype),
    "an opaque variable": _new("more", data=np.zeros(3, "V7")),
    "a variable of half precision": _new("more", data=np.zeros(3, "f2")),
    "a variable without dimensions' names": _new("more", data=np.zeros((2, 3))),
    "settings that are no JSON": _attribute("network", "{"),
    "settings nested deeply": _attribute("network", "[" * 60_000),
    "settings that are a number": _attribute("network", 3),
    "settings that are not UTF-8": _attribute("network", np.bytes_(b"\xff\xfe")),
    "settings that are empty": _attribute("network", h5py.Empty("S1")),
    "a scale that is a text": _attribute("scale_factor", "x", "value"),
    "a scale": _attribute("scale_factor", 2.0, "value"),
    "a fill value": _attribute("_FillValue", np.array([0.02]), "baseline"),
    "units of time": _attribute("units", "days since 2000-01-01", "epoch"),
    "units of no time": _attribute("units", "days since never", "epoch"),
    "a type that is none": _attribute("dtype", "bool", "value"),
    "coordinates that are not there": _attribute("coordinates", "nowhere value", "value"),
    "an attribute with NUL": _attribute("more", np.bytes_(b"a\0b")),
    "a name of 300 letters": _new("x" * 300, data=np.zeros(3)),
    "a name that leads out": _new("..", data=np.zeros(3)),
}


# The gallery


def _build_runs(folder: Path) -> None:
    from PIL import Image

    place = folder / "runs" / "fcn-mnist" / "small"
    place.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(place / "heatmap.png")
    (place / "table.csv").write_text("layer,error\nlayer1,0.5\n")
    (place / "fcn-mnist.ipynb").write_text("{}")
    about: dict[str, Any] = {
        "experiment": "fcn-mnist",
        "title": "Digits",
        "scale": "small",
        "parameters": {"network": "fcn-3x256", "dataset": "mnist-5k", "epochs": 3, "seeds": 2},
        "data": {"name": "mnist-5k", "train": "0" * 64, "test": "1" * 64},
        "notebook_sha256": "2" * 64,
        "layerscope": "0.1.0",
        "command": "layerscope reproduce fcn-mnist",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 40.5,
        "training_seconds": [1.5, 2.5],
        "software": {"python": "3.11"},
        "machine": {"device": "cpu"},
        "summary": {
            "title": "Digits",
            "finding": "The first layer is critical.",
            "claims": [{"paper": "chance", "measured": "0.9", "agrees": True}],
            "findings": [],
            "figure": "heatmap.png",
            "figures": ["heatmap.png"],
            "tables": ["table.csv"],
        },
    }
    held = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
    about["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in held.items()
    }
    (place / "manifest.json").write_text(json.dumps(about))


def _read_runs(folder: Path) -> Any:
    made = [gallery.write(folder / "runs", folder / f"gallery{end}") for end in (".html", ".md")]
    pages = [path.read_text("utf-8") for path in made]
    if any("<script>alert" in page or "<img src=x" in page for page in pages):
        (folder.parent / CANARY).touch()
    return pages


def _runs_oracle(folder: Path) -> Any:
    """Every page is right that shows what a manifest says, which nothing else tells."""
    found = json.loads((folder / "runs/fcn-mnist/small/manifest.json").read_text("utf-8"))
    if not isinstance(found["experiment"], str) or not isinstance(found["files"], dict):
        raise TypeError("a manifest without experiment and files was shown")
    from malformed._running import SAME

    return SAME


def _runs_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    place = "runs/fcn-mnist/small/"
    yield from wild_json(f"{place}manifest.json")
    yield from spoil_json(folder, f"{place}manifest.json", chance, 40 * each)
    yield from damage(folder, f"{place}manifest.json", chance, max(1, each // 2))
    yield from damage(folder, f"{place}heatmap.png", chance, 1)
    yield from damage(folder, f"{place}table.csv", chance, 1)
    content = json.loads((folder / place / "manifest.json").read_text())
    summary = content["summary"]
    del summary["claims"]
    bare = json.dumps({**content, "summary": summary}).encode()
    for how, table in _TABLES.items():

        def bring(copy: Path, table: bytes = table) -> None:
            replaced(f"{place}manifest.json", bare)(copy)
            replaced(f"{place}table.csv", table)(copy)

        yield Case(f"a table: {how}", bring)


_TABLES = {
    "empty": b"",
    "a header alone": b"a,b\n",
    "ragged": b"a,b\n1,2,3,4\n5\n",
    "not UTF-8": b"a,b\n\xff\xfe,1\n",
    "NUL": b"a,b\n\0,1\n",
    "an open quote": b'a,b\n"1,2\n3,4\n',
    "a field of 20 MB": b"a,b\n" + b"x" * 20_000_000 + b",1\n",
    "100,000 columns": b",".join([b"a"] * 100_000) + b"\n",
    "a million rows": b"a,b\n" + b"1,2\n" * 1_000_000,
    "a script": b"a,b\n<script>alert(1)</script>,<img src=x onerror=alert(1)>\n",
    "numbers without end": b"a,b\n1e999,-1e999\n" + b"9" * 400 + b",1\n",
}

READERS = (
    Reader("netCDF", _build_dataset, _read_dataset, _dataset_cases),
    Reader("gallery", _build_runs, _read_runs, _runs_cases, _runs_oracle),
)
