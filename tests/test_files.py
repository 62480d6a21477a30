"""Files of strangers: what is no regular file, or over a limit, is refused with its path."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest

from layerscope.base import files
from layerscope.errors import CheckpointError, DataError

READERS = {
    "open": lambda path: files.open_file(path, error=DataError).close(),
    "bytes": lambda path: files.read_bytes(path, error=DataError),
    "text": lambda path: files.read_text(path, error=DataError),
    "json": lambda path: files.read_json(path, error=DataError),
    "zip": lambda path: files.zip_entries(path, error=DataError),
}
reading = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


class Series(files.Versioned, kw_only=True):
    FORMAT: ClassVar[str] = "series"
    VERSION: ClassVar[int] = 1

    epochs: list[Annotated[int, msgspec.Meta(ge=0)]]


def limited(code: str, mebibytes: int = 400) -> str:
    """Run code in a process that may take so much address space beyond what it begins with."""
    prelude = textwrap.dedent(f"""
        import resource
        from layerscope.base import files
        from layerscope.errors import DataError
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + {mebibytes} * 2**20,) * 2)
        def refused(read):
            try:
                read()
            except DataError as error:
                print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


@reading
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "loop", "absent"])
def test_what_is_no_regular_file_is_refused_at_once(read, kind, tmp_path):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    if kind in ("pipe", "socket", "device", "folder"):
        assert kind in str(caught.value)
        assert "regular file" in str(caught.value)


@reading
@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "\ud800"], ids=["nul", "long", "surrogate"])
def test_names_that_no_file_can_have(read, name, tmp_path):
    with pytest.raises(DataError, match="can't read"):
        read(tmp_path / name)
    assert not files.is_file(tmp_path / name)
    assert not files.is_folder(tmp_path / name)


def test_a_file_that_may_not_be_read(open_place, unprivileged):
    path = open_place / "secret"
    path.write_text("x")
    path.chmod(0)
    with (
        unprivileged(),
        pytest.raises(DataError, match=r"can't read .*secret: Permission denied\."),
    ):
        files.read_text(path, error=DataError)


def test_a_folder_that_other_processes_remove_is_empty_and_one_that_is_barred_is_told(
    open_place, unprivileged
):
    folder = open_place / "parts"
    assert files.list_folder(folder, error=DataError) == []
    folder.mkdir()
    for name in ("a.npz", ".b.npz", "c.claim"):
        (folder / name).touch()
    assert files.list_folder(folder, "[!.]*.npz", error=DataError) == [folder / "a.npz"]
    assert len(files.list_folder(folder, error=DataError)) == 3
    assert files.list_folder(folder / "a.npz", error=DataError) == []
    folder.chmod(0o300)
    with unprivileged(), pytest.raises(DataError, match=r"can't read the folder .*parts: Perm"):
        files.list_folder(folder, error=DataError)


def test_a_file_is_left_closed_where_it_is_refused(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"x" * 100)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(DataError, match="100 bytes long; a file has at most 10"):
            files.open_file(path, error=DataError, most=10)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_file_that_says_it_is_empty_and_is_not():
    with pytest.raises(DataError, match="longer than its size says"):
        files.read_bytes("/proc/kallsyms", error=DataError)


def test_an_unfilled_file_is_refused_and_a_filled_one_is_not(tmp_path):
    path = tmp_path / "download"
    with open(path, "wb") as file:
        file.write(b"begun")
        file.truncate(2**33)
    with pytest.raises(DataError, match=r"download is 8,589,934,592 bytes long, of which [\d,]+ "):
        files.open_file(path, error=DataError)
    # A hole is nothing unusual: of a smaller part, or in a small file.
    with open(path, "r+b") as file:
        file.truncate(70 * 2**20)
        file.write(b"\1" * 5 * 2**20)
    with files.open_file(path, error=DataError) as file:
        assert file.read(1) == b"\1"
    os.truncate(path, 0)
    os.truncate(path, 2**20)
    assert files.read_bytes(path, error=DataError) == bytes(2**20)


def test_text_is_utf8(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"text is not a text: byte 3 is not UTF-8"):
        files.read_text(path, error=DataError)
    path.write_bytes("café".encode())
    assert files.read_text(path, error=DataError) == "café"


BROKEN = {
    "nothing": (b"", "no JSON"),
    "cut": (b'{"a": [1, 2', "no JSON"),
    "string": (b'["' + b'\\"' * 100_000, "no JSON"),
    "escape": (b'["\\', "no JSON"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
    "deep and cut": (b'{"a":' * 100_000, "nested more than 64 deep"),
    "mixed": (b'[{"a":' * 40 + b"1" + b"}]" * 40, "nested more than 64 deep"),
    "crossed": (b"[}" * 40, "nested more than 64 deep|no JSON"),
    "twice": (b'{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
    "many": (b"[" + b"0," * 1_000_001 + b"0]", "more than 1,000,000 values"),
    "digits": (b"1" * 5000, "Exceeds the limit"),
    "surrogate": (b'["\\ud800"]', "half of a character"),
    "latin": (b'["caf\xe9"]', "byte 5 is not UTF-8"),
    "utf-16": ('["a"]'.encode("utf-16"), "not UTF-8"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN)
def test_json_that_is_broken_or_over_a_limit(content, words, tmp_path):
    path = tmp_path / "about.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        files.read_json(path, error=DataError, what="a description")
    assert str(caught.value).startswith(f"{path} is not a description: ")


def test_json_as_it_is_written_is_read(tmp_path):
    path = tmp_path / "about.json"
    deep = json.loads("[" * 64 + "]" * 64)
    held = {"a": [1.5, float("inf"), None], "b[{": '\\"]}' * 99, "😀": [[]] * 70, "deep": deep[0]}
    path.write_text(json.dumps(held))  # escapes the pair of surrogates
    assert files.read_json(path, error=DataError) == held
    path.write_text(json.dumps(held, ensure_ascii=False), "utf-8")
    assert files.read_json(path, error=DataError) == held


def test_json_takes_little_memory(tmp_path):
    path = tmp_path / "about.json"
    path.write_bytes(b"[" + b'{"a":0},' * 450_000 + b"0]")  # just within the limits
    said = limited(f"print(len(files.read_json({str(path)!r}, error=DataError)))")
    assert said == "450001\n"
    with open(path, "wb") as file:
        file.truncate(2**40)
    said = limited(f"refused(lambda: files.read_json({str(path)!r}, error=DataError))")
    assert f"{path} is 1,099,511,627,776 bytes long" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "its format is not 'series'"),
        ({"format": "other", "version": 1}, "its format is not 'series'"),
        ({"format": "series", "version": 2, "epochs": 3}, "written by a newer layerscope"),
        ({"format": "series", "version": "1", "epochs": []}, r"got `str` - at `\$\.version`"),
        ({"format": "series", "version": 1}, "missing required field `epochs`"),
        ({"format": "series", "version": 1, "epochs": {}}, r"got `object` - at `\$\.epochs`"),
        ({"format": "series", "version": 1, "epochs": [0, "1"]}, r"at `\$\.epochs\[1\]`"),
        ({"format": "series", "version": 1, "epochs": [True]}, r"at `\$\.epochs\[0\]`"),
        ({"format": "series", "version": 1, "epochs": [-1]}, r"at `\$\.epochs\[0\]`"),
    ],
)
def test_a_manifest_that_does_not_fit_its_schema(content, words, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words) as caught:
        files.read_manifest(path, Series, error=CheckpointError, what="a manifest")
    assert str(path) in str(caught.value)


def test_a_manifest_that_fits_its_schema(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"format": "series", "version": 1, "epochs": [0, 3], "more": {}}')
    found = files.read_manifest(path, Series, error=CheckpointError, what="a manifest")
    assert found.epochs == [0, 3]


def test_a_file_beside(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    manifest = folder / "manifest.json"
    (folder / "inside").write_text("")
    (folder / "link").symlink_to("inside")
    (tmp_path / "outside").write_text("")
    (folder / "out").symlink_to("../outside")
    (folder / "sub").symlink_to("..")
    for name in ("inside", "link", "absent", "..."):
        assert files.file_beside(manifest, name, error=DataError) == folder / name
    for name in ("", ".", "..", "../outside", "/etc/passwd", "sub/outside", "a\\b", "C:x", "a\0b",
                 "x" * 256, "\ud800", 3, None):  # fmt: skip
        with pytest.raises(DataError, match=r"manifest\.json names .*, which is no file beside it"):
            files.file_beside(manifest, name, error=DataError)
    for name in ("out", "sub"):
        with pytest.raises(DataError, match=f"{name} is a link to .*, out of its folder"):
            files.file_beside(manifest, name, error=DataError)


def test_the_cache_of_the_hub_may_link_to_its_blobs(tmp_path):
    repo = tmp_path / "models--org--name"
    folder = repo / "snapshots" / "0123"
    for each in (folder, repo / "blobs"):
        each.mkdir(parents=True)
    (repo / "blobs" / "abcd").write_text("")
    (folder / "model.safetensors").symlink_to("../../blobs/abcd")
    (folder / "other").symlink_to("../../refs")
    index = folder / "model.safetensors.index.json"
    found = files.file_beside(index, "model.safetensors", error=DataError)
    assert found == folder / "model.safetensors"
    with pytest.raises(DataError, match="out of its folder"):
        files.file_beside(index, "other", error=DataError)


def zipped(**entries: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, held in entries.items():
            file.writestr(name, held)
    return content.getvalue()


def test_a_zip_that_expands_too_far(tmp_path):
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped(a=b"a" * 100, b=os.urandom(1000)))
    assert [each.file_size for each in files.zip_entries(path, error=DataError)] == [100, 1000]
    with pytest.raises(DataError, match=r"expands to 1,100 in 2 entries; .* at most 1,000"):
        files.zip_entries(path, error=DataError, most=1000)
    path.write_bytes(zipped(a=bytes(80 * 2**20)))
    with pytest.raises(DataError, match=r"bomb\.zip has [\d,]+ bytes, and expands to 83,886,080"):
        files.zip_entries(path, error=DataError)


def test_a_zip_whose_list_of_entries_is_said_to_be_long(tmp_path):
    whole = zipped(a=b"a")
    end = whole.rindex(b"PK\x05\x06")
    path = tmp_path / "long.zip"
    path.write_bytes(whole[: end + 12] + struct.pack("<L", 2**31) + whole[end + 16 :])
    with pytest.raises(DataError, match="list of entries is said to have 2,147,483,648 bytes"):
        files.zip_entries(path, error=DataError)
    # The longer form, for files of more than 4 GiB, which stands before the end.
    long = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    long += b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1)
    path.write_bytes(whole[:end] + long + whole[end:])
    with pytest.raises(DataError, match="is said to have 1,099,511,627,776 bytes"):
        files.zip_entries(path, error=DataError)


@pytest.mark.parametrize("cut", [0, 1, 21, 60])
def test_a_zip_that_is_cut(cut, tmp_path):
    path = tmp_path / "cut.zip"
    path.write_bytes(zipped(a=b"a")[:-cut] if cut else b"PK\x03\x04")
    with pytest.raises(DataError, match=r"cut\.zip \([\d,]+ bytes\) is damaged or not a zip file"):
        files.zip_entries(path, error=DataError)
