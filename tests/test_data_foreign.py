"""Data of strangers: refused in words, without waiting, and before they take memory."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from layerscope import data
from layerscope.errors import DataError, LayerscopeError, OptionError
from layerscope.zoo.data import _images as images, _pictures as pictures

# Texts


@pytest.fixture
def text(tmp_path):
    return tmp_path / "a.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n" * 40 + b"b\0c\n", "holds a NUL"),
        ("a line\n".encode("utf-16"), "is not in utf-8: byte 0xff at offset 0"),
        (b"fine\n" * 300_000 + b"caf\xe9\n", r"byte 0xe9 at offset 1,500,003"),
        (b"caf\xc3", "byte 0xc3 at offset 3"),
        (b"", "holds no text"),
        (b"\n" * 1000, "holds no text"),
    ],
)
def test_what_is_no_text_is_refused(text, content, message):
    text.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        data.load(text, vocab=270)
    assert "a" in str(raised.value)


def test_a_line_without_end_is_refused_before_all_of_it_is_read(text, refused_cheaply):
    with open(text, "wb") as file:
        file.write(b"short\n")
        for _ in range(100):
            file.write(b"x" * 2**20)
    said = refused_cheaply(lambda: data.load(text))
    assert said.startswith(f"line 2 of {text} has over 1,048,576 characters")


def test_a_word_without_end_is_refused_before_it_is_learned_from(text, refused_cheaply):
    letters = np.random.default_rng(0).integers(97, 123, 1_000_000, np.uint8).tobytes()
    text.write_bytes(b"a line\n" * 40 + letters + b"\n" + b"b\n" * 10)
    assert f"line 41 of {text} has a word" in refused_cheaply(lambda: data.load(text))


def test_pieces_give_the_lines_that_the_whole_gives(text, monkeypatch):
    lines = ["ä €", " 𝄞 b", "", "c\u2028d", "\ufeffe", "end"]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1", "shift_jis"):
        kept = [each for each in lines if each.encode(encoding, "ignore").decode(encoding) == each]
        text.write_bytes("\n".join(kept).encode(encoding))
        for piece in (1, 3, 2**20):
            monkeypatch.setattr("layerscope.zoo.data._text._PIECE", piece)
            found = data._text.read_lines(text, encoding)
            assert found == [each.strip() for each in kept if each.strip()], (encoding, piece)


@pytest.mark.parametrize("encoding", ["zlib", "rot13", "nope", "a\0b", 3, None, "undefined"])
def test_what_is_no_encoding_of_text_is_refused(text, encoding):
    text.write_text("a\n" * 40)
    with pytest.raises((OptionError, DataError), match=r"encoding|is not in undefined"):
        data.load(text, encoding=encoding)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_not_waited_for(tmp_path, make):
    folder = tmp_path / "news"
    folder.mkdir()
    for name in ("train.txt", "valid.txt", "test.txt"):
        make(folder / name)
    for name, root in ((folder / "train.txt", None), (folder, None), ("news", tmp_path)):
        with pytest.raises(DataError, match=re.escape(str(folder))):
            data.load(name, root)


# LM1B as datasets saves it


def write_saved(
    root, texts=("a", "b", "c"), column="text", name="data-00000-of-00001.arrow", **how
):
    pa = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow (extra data)")
    folder = root / "lm1b"
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        about = {"_data_files": [{"filename": name}]}
        (folder / part / "state.json").write_text(json.dumps(about))
        table = pa.table({column: pa.array(texts)})
        file = folder / part / "data-00000-of-00001.arrow"
        with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(**how)) as stream:
            stream.write_table(table)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return folder / "train"


def test_saved_texts_come_in_their_order(tmp_path):
    write_saved(tmp_path, ["a", "", "b", None, "c d"] * 20)
    saved = data._arrow.SavedTexts(tmp_path / "lm1b", "train")
    assert len(saved) == 100
    assert saved.lines(90) == ["a", "b", "c d"] * 2
    assert saved.lines(0, 4) == ["a", "b"]
    assert saved.lines(5, 3) == []


def damaged_offsets(train):
    path = train / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    at = content.index(struct.pack("<4I", 0, 1, 2, 3))
    path.write_bytes(content[: at + 8] + struct.pack("<2I", 2**30, 2**31 - 1) + content[at + 16 :])


BROKEN = {
    "a name that leads out": (
        lambda train: (train / "state.json").write_text(
            '{"_data_files": [{"filename": "../../../x"}]}'
        ),
        "no file beside it",
    ),
    "a state of another type": (
        lambda train: (train / "state.json").write_text('{"_data_files": 3}'), "state.json is not",
    ),
    "nested": (lambda train: (train / "state.json").write_text("[" * 99_999), "nested"),
    "no splits": (lambda train: (train.parent / "dataset_dict.json").write_text("{}"), "splits"),
    "no train": (
        lambda train: (train.parent / "dataset_dict.json").write_text('{"splits": ["test"]}'),
        "names no part 'train'",
    ),
    "offsets beyond the file": (damaged_offsets, "arrow is damaged"),
    "cut": (
        lambda train: os.truncate(train / "data-00000-of-00001.arrow", 300), "arrow is damaged",
    ),
    "empty": (
        lambda train: (train / "data-00000-of-00001.arrow").write_bytes(b""), "arrow is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN)
def test_damaged_saved_texts_are_refused(tmp_path, break_it, message):
    break_it(write_saved(tmp_path))
    with pytest.raises(DataError, match=message) as raised:
        data.load("lm1b", tmp_path, vocab=270)
    assert str(tmp_path) in str(raised.value)


def test_saved_texts_that_are_packed_or_have_no_text_are_refused(tmp_path):
    write_saved(tmp_path / "a", ["x" * 1000] * 100, compression="zstd")
    write_saved(tmp_path / "b", column="body")
    for name, message in (("a", "it is packed"), ("b", "columns body: string, and not text")):
        with pytest.raises(DataError, match=message):
            data.load("lm1b", tmp_path / name, vocab=270)


# MNIST and CIFAR-10


def write_mnist(root, **changed):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, size in images._MNIST_SIZES.items():
        shape = (size // 784, 28, 28) if "images" in name else (size - 8,)
        header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
        with open(raw / name, "wb") as file:
            file.write(changed.get(name.split("-")[0] + "_" + name.split("-")[1], header))
            file.truncate(size)
            file.seek(size - 1)
            file.write(b"\x07")
    return raw


def test_mnist_of_the_right_length_and_other_content_is_refused(tmp_path):
    raw = write_mnist(tmp_path, train_images=struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte .* begins with .* expected") as e:
        data.load("mnist", tmp_path)
    assert str(raw) in str(e.value)


def test_mnist_is_not_taken_from_elsewhere_in_its_folder(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.ones(9, 28, 28), torch.ones(9)), tmp_path / "MNIST" / "processed" / name)
    found = data.load("mnist", tmp_path)
    assert len(found.train) == 60_000
    assert int(found.train.inputs.max()) == int(found.train.targets[-1]) == 7


def test_labels_of_no_digit_are_refused(tmp_path):
    raw = write_mnist(tmp_path)
    with open(raw / "t10k-labels-idx1-ubyte", "r+b") as file:
        file.seek(100)
        file.write(b"\x0a")
    with pytest.raises(DataError, match="the label 10, expected 0 to 9"):
        data.load("mnist", tmp_path)


def test_cifar10_of_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    os.mkfifo(tmp_path / "cifar-10-batches-py" / "data_batch_1")
    with pytest.raises(DataError, match="data_batch_1: it is a named pipe"):
        data.load("cifar10", tmp_path)


# Pictures


def png(width, height):
    """A PNG of zeros that is made without as much memory."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(
            ">I", zlib.crc32(kind + content)
        )  # fmt: skip

    packer, row = zlib.compressobj(9), bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def folders(root, content, count=4):
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True)
        for number in range(count):
            (root / part / "cat" / f"{number}.png").write_bytes(content)
    return root


def saved(**how):
    content = io.BytesIO()
    Image.new(how.pop("mode", "RGB"), (40, 30), 90).save(content, **how)
    return content.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 13_000])
def test_large_pictures_are_refused_before_they_are_decoded(tmp_path, refused_cheaply, side):
    folders(tmp_path, png(side, side))
    load = lambda: data.load(tmp_path, image_size=8, workers=4, stream=False)  # noqa: E731
    said = refused_cheaply(load)
    assert re.match(rf".*\d\.png has {side:,}×{side:,} pixels .*smaller", said)
    assert str(tmp_path) in said


def test_pictures_wait_for_each_other_where_they_are_large(tmp_path, refused_cheaply):
    folders(tmp_path, png(6_000, 6_000), 3)
    (tmp_path / "val" / "cat" / "0.png").write_bytes(b"broken")
    load = lambda: data.load(tmp_path, image_size=8, workers=4, stream=False)  # noqa: E731
    assert "1 of 3 pictures" in refused_cheaply(load)


def test_eps_is_no_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def ghostscript(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    folders(tmp_path, saved(format="EPS"), 1)
    with pytest.raises(DataError, match="1 of 1 pictures"):
        data.load(tmp_path, image_size=8, stream=False)


def many_scans():
    whole = saved(format="JPEG", progressive=True)
    at = whole.index(b"\xff\xda")
    scan = whole[at : whole.index(b"\xff\xda", at + 2)]
    size = whole.index(b"\xff\xc2") + 5
    large = whole[:size] + struct.pack(">2H", 8_000, 8_000) + whole[size + 4 :]
    return large.replace(scan, scan * 500, 1)


@pytest.mark.parametrize("content", [many_scans, lambda: png(4, 4)[:40], lambda: b"GIF89a",
                                     lambda: saved(format="TIFF")[:-100]])  # fmt: skip
def test_broken_pictures_are_named(tmp_path, content, refused_cheaply):
    folders(tmp_path, content(), 1)
    said = refused_cheaply(lambda: data.load(tmp_path, image_size=8, stream=False))
    assert str(tmp_path) in said
    assert "0.png" in said


def test_a_folder_that_holds_itself_is_searched_once(tmp_path):
    folders(tmp_path, png(4, 4), 2)
    for part in ("train", "val"):
        (tmp_path / part / "cat" / "again").symlink_to(tmp_path / part / "cat")
        (tmp_path / part / "cat" / "too").symlink_to(tmp_path / part / "cat")
        os.mkfifo(tmp_path / part / "cat" / "pipe.png")
    found = data.load(tmp_path, image_size=8, skip_unreadable=True)
    assert [len(part) for part in (found.train, found.test)] == [2, 2]


def test_pictures_are_found_in_the_order_of_torchvision(tmp_path):
    from torchvision.datasets.folder import make_dataset

    for name in ("b/2.png", "b/a/1.PNG", "b-c/1.jpg", "a/1.png", "a/.x.png", "a/1.txt", "B/1.png"):
        (tmp_path / "k" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "9.png").touch()
    (tmp_path / "k" / "link").symlink_to(tmp_path / "elsewhere")
    theirs = make_dataset(tmp_path, {"k": 0}, pictures._ENDINGS)
    ours = data.Pictures.from_folder(tmp_path)
    listed = [str(tmp_path / name) for name in ours.files if name.startswith("k")]
    assert listed == [path for path, _ in theirs]


# Parquet


def write_parquet(path, rows=100, labels=None, content=None, **how):
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (extra data)")
    pq = pytest.importorskip("pyarrow.parquet")
    content = content or png(4, 4)
    kept = pa.array([{"bytes": content, "path": "x"}] * rows)
    numbers = pa.array(labels if labels is not None else [1] * rows, pa.int64())
    pq.write_table(pa.table({"image": kept, "label": numbers}), path, **how)
    return path


def both(root, **how):
    for part in ("train", "test"):
        write_parquet(root / f"{part}.parquet", **how)
    return root


@pytest.mark.parametrize("how", [
    {}, {"compression": "none"}, {"compression": "zstd"}, {"use_dictionary": False},
    {"data_page_version": "2.0"}, {"data_page_size": 100, "use_dictionary": False},
    {"row_group_size": 7}, {"version": "1.0"}, {"write_page_index": True},
    {"write_page_checksum": True},
])  # fmt: skip
def test_parquet_of_every_layout_is_read(tmp_path, how):
    found = data.load(both(tmp_path, labels=[n % 3 for n in range(100)], **how))
    assert found.train.targets.tolist() == [n % 3 for n in range(100)]
    assert found.train.inputs.shape == (100, 3, 4, 4)


def varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def page(unpacked):
    """The beginning of a page's header: its kind and its length, each zigzag behind its type."""
    return b"\x15\x00\x15" + varint(2 * unpacked)


def test_a_page_that_says_to_unfold_without_end_is_refused(tmp_path, refused_cheaply):
    both(tmp_path, rows=1, content=bytes(2**21), compression="zstd", use_dictionary=False)
    path = tmp_path / "train.parquet"
    content = path.read_bytes()
    lengths = (2**21 + more for more in range(100))
    true = next(page(length) for length in lengths if page(length) in content)
    path.write_bytes(content.replace(true, page(2**27 - 1)))
    said = refused_cheaply(lambda: data.load(tmp_path))
    assert re.search(r"train\.parquet .* unfolds to 134,217,727", said)


def test_one_picture_in_a_million_rows_is_refused(tmp_path, refused_cheaply):
    both(tmp_path, rows=70, content=png(4, 4) + bytes(2**20), compression="zstd")
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    said = refused_cheaply(lambda: data.load(tmp_path))
    assert "train.parquet" in said
    assert "the same ones again and again" in said


def test_packed_pages_that_images_never_are_refused(tmp_path, refused_cheaply):
    both(tmp_path, rows=1, content=bytes(70 * 2**20), compression="zstd", use_dictionary=False)
    assert "unfolds to" in refused_cheaply(lambda: data.load(tmp_path))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: os.truncate(path, 50), "can't be read as a Parquet file"),
        (lambda path: path.write_bytes(b"PAR1" * 4), "can't be read as a Parquet file"),
        (lambda path: path.write_bytes(b"PAR1" + bytes(8) + b"\xff\xff\xff\x7fPAR1"), "its end"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a named pipe"),
        (lambda path: write_parquet(path, labels=[2**40] * 100), "the label 1,099,511,627,776"),
        (lambda path: write_parquet(path, labels=[None] * 100), "without a label"),
    ],
)
def test_a_damaged_parquet_file_is_named(tmp_path, break_it, message):
    both(tmp_path)
    break_it(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message) as raised:
        data.load(tmp_path)
    assert "train.parquet" in str(raised.value)


def test_any_flipped_byte_of_a_parquet_file_is_refused_or_read(tmp_path):
    both(tmp_path, rows=5)
    path = tmp_path / "train.parquet"
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    for at in chance.integers(len(whole), size=150):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.integers(8)
        path.write_bytes(flipped)
        with suppress(LayerscopeError):
            data.load(tmp_path)
