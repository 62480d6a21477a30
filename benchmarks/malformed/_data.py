"""Readers of data sets: Parquet, pictures, texts, tokenizers, and sets by name."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import layerscope
from layerscope.zoo.data import Tokenizer
from malformed._case import Case, Reader
from malformed._running import SAME
from malformed._spoiling import damage, replaced, spoil_json, wild_json
from malformed._weights import evil_pickle

__all__ = ["READERS"]


def _png(value: int, size: int = 8) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (size, size), (value % 256, 7 * value % 256, 3)).save(content, "png")
    return content.getvalue()


def _parts(data: Any) -> Any:
    return [[part.inputs, part.targets] for part in (data.train, data.test)]


# Parquet


def _table(images: list[Any], labels: list[Any], image: str = "image", label: str = "label") -> Any:
    import pyarrow as pa

    return pa.table({image: images, label: labels})


def _parquet(table: Any, **options: Any) -> bytes:
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(table, content, **options)
    return content.getvalue()


def _some(count: int = 6) -> tuple[list[Any], list[int]]:
    return [{"bytes": _png(n), "path": f"{n}.png"} for n in range(count)], [
        n % 2 for n in range(count)
    ]


_TRAIN = "images/train-00000-of-00001.parquet"


def _build_parquet(folder: Path) -> None:
    (folder / "images").mkdir()
    for name in (_TRAIN, "images/test-00000-of-00001.parquet"):
        (folder / name).write_bytes(_parquet(_table(*_some())))


def _read_parquet(folder: Path) -> Any:
    return _parts(layerscope.load_data(folder / "images"))


def _parquet_oracle(folder: Path) -> Any:
    """Read whole by pyarrow and Pillow, which must find nothing wrong."""
    from PIL import Image
    from pyarrow import parquet

    for path in sorted((folder / "images").glob("*.parquet")):
        table = parquet.read_table(path)
        table.validate(full=True)
        (images,) = [n for n in table.column_names if "image" in n]
        for held in table[images].to_pylist():
            Image.open(io.BytesIO(held["bytes"] if isinstance(held, dict) else held)).load()
    return SAME


def _parquet_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    import pyarrow as pa

    yield from damage(folder, _TRAIN, chance, 2 * each)
    images, labels = _some()
    tables: dict[str, Callable[[], Any]] = {
        "no rows": lambda: _table([], []),
        "rows without bytes": lambda: _table([{"bytes": None, "path": "x"}] * 6, labels),
        "no images": lambda: pa.table({"label": labels}),
        "no labels": lambda: pa.table({"image": images}),
        "texts for labels": lambda: _table(images, ["a"] * 6),
        "missing labels": lambda: _table(images, [0, None, 1, 0, 1, 0]),
        "labels below 0": lambda: _table(images, [-1] * 6),
        "labels of 18 digits": lambda: _table(images, [10**18] * 6),
        "labels beyond 64 bits": lambda: pa.table(
            {"image": images, "label": pa.array([2**64 - 1] * 6, pa.uint64())}
        ),
        "columns of one name": lambda: pa.Table.from_arrays(
            [pa.array(images), pa.array(labels), pa.array(labels)], ["image", "label", "label"]
        ),
        "a column called by a dunder": lambda: _table(images, labels, "__class__"),
        "texts for images": lambda: _table(["x"] * 6, labels),
        "bytes that are no images": lambda: _table([b"x"] * 6, labels),
        "an image of 169 megapixels": lambda: _table([_huge_png(13_000)] * 6, labels),
        "an image of 4 gigapixels": lambda: _table([_huge_png(65_000)] * 6, labels),
        "images of two sizes": lambda: _table(
            [*images[:5], {"bytes": _png(1, 9), "path": ""}], labels
        ),
        "a nested column": lambda: _table([[[[{"bytes": b"x"}]]]] * 6, labels),
        "10,000 columns": lambda: pa.table(
            {"image": images, "label": labels, **{f"c{n}": labels for n in range(10_000)}}
        ),
    }
    for how, make in tables.items():
        yield Case(how, lambda copy, make=make: replaced(_TRAIN, _parquet(make()))(copy))  # type: ignore[misc]
    yield Case("200 million rows in a few bytes", _many_rows)
    yield Case("images of 1 GB in a few bytes", _much_image)
    yield Case(
        "a name that is no part", lambda copy: (copy / _TRAIN).rename(copy / "images/x.parquet")
    )


def _many_rows(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    step = 10_000_000
    path = folder / _TRAIN
    path.unlink()
    image = pa.array([None], pa.binary()).take(pa.array(np.zeros(step, np.int32)))
    table = pa.table({"image": image, "label": np.zeros(step, np.int64)})
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(table, row_group_size=step)


def _much_image(folder: Path) -> None:
    import pyarrow as pa

    one = pa.array([bytes(10**6)], pa.binary())
    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1500, np.int32)), one)
    table = pa.table({"image": images.cast(pa.binary()), "label": np.zeros(1500, np.int64)})
    replaced(_TRAIN, _parquet(table, compression="zstd"))(folder)


# Pictures in folders


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _huge_png(side: int, height: int = 0) -> bytes:
    """A PNG of few bytes that says it has side × side pixels, and has them, in one bit each."""
    rows = height or side
    about = struct.pack(">IIBBBBB", side, rows, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    some = row * min(rows, 1000)
    pixels = b"".join(packer.compress(some) for _ in range(-(-rows // 1000))) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", about)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _build_pictures(folder: Path) -> None:
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            place = folder / "pictures" / part / kind
            place.mkdir(parents=True)
            for n in range(2):
                (place / f"{n}.png").write_bytes(_png(n + len(kind + part), 40))


def _read_pictures(folder: Path) -> Any:
    found = layerscope.load_data(folder / "pictures", image_size=16, workers=2)
    return [list(part.batches(4)) for part in (found.train, found.test)]


def _pictures_oracle(folder: Path) -> Any:
    from PIL import Image

    for path in sorted((folder / "pictures").rglob("*.*")):
        with Image.open(path) as picture:
            picture.load()
    return SAME


def _pictures_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    name = "pictures/train/cat/0.png"
    yield from damage(folder, name, chance, 2 * each)
    for side in (5_000, 13_000, 65_000, 2**31 - 1):
        rows = 1 if side > 10**6 else 0
        yield Case(f"{side} pixels wide", lambda copy, side=side, rows=rows: replaced(  # type: ignore[misc]
            name, _huge_png(side, rows))(copy))  # fmt: skip
    yield Case("four of 169 megapixels", _four)
    for how, content in _PICTURES.items():
        yield Case(f"{name}: {how}", lambda copy, content=content: replaced(  # type: ignore[misc]
            name, content())(copy))  # fmt: skip
    for how, make in _FOLDERS.items():
        yield Case(how, lambda copy, make=make: make(copy / "pictures"))  # type: ignore[misc]


def _four(folder: Path) -> None:
    content = _huge_png(13_000)
    for path in list((folder / "pictures").rglob("*.png")):
        path.unlink()
        path.write_bytes(content)


def _saved(kind: str, mode: str = "RGB", size: int = 20, **options: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new(mode, (size, size)).save(content, kind, **options)
    return content.getvalue()


def _many_frames() -> bytes:
    from PIL import Image

    frames = [Image.new("P", (500, 500), n) for n in range(100)]
    return _saved_all(frames)


def _saved_all(frames: Any) -> bytes:
    content = io.BytesIO()
    frames[0].save(content, "gif", save_all=True, append_images=frames[1:])
    return content.getvalue()


_PICTURES: dict[str, Callable[[], bytes]] = {
    "a JPEG called .png": lambda: _saved("jpeg"),
    "TIFF with 32 bits": lambda: _saved("tiff", "F"),
    "TIFF with floats": lambda: _saved("tiff", "I"),
    "CMYK": lambda: _saved("jpeg", "CMYK"),
    "a GIF of 100 frames": _many_frames,
    "one pixel": lambda: _saved("png", size=1),
    "a picture of no pixels": lambda: _huge_png(0, 1),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "PPM of a trillion pixels": lambda: b"P6 1000000 1000000 255\n",
    "PPM of -1 pixels": lambda: b"P6 -1 -1 255\n",
    "BMP of 30,000 × 30,000": lambda: (
        b"BM"
        + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "a text of 100 MB in a chunk": lambda: _with_text(100_000_000),
}


def _with_text(size: int) -> bytes:
    whole = _png(1, 40)
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(size), 9))
    return whole[:33] + text + whole[33:]


_FOLDERS: dict[str, Callable[[Path], object]] = {
    "no classes": lambda f: list(map(Path.unlink, list(f.rglob("*.png")))),
    "no part to test": lambda f: (f / "val").rename(f / "validation"),
    "other classes": lambda f: (f / "val/dog").rename(f / "val/fox"),
    "a class that is a link to its parent": lambda f: (f / "train/loop").symlink_to(f / "train"),
    "a class that is a pipe": lambda f: os.mkfifo(f / "train/pipe"),
    "a class with a line break": lambda f: [
        (f / part / "dog").rename(f / part / "d\nog") for part in ("train", "val")
    ],
    "names that are no UTF-8": lambda f: (f / "train/cat/0.png").rename(
        os.fsdecode(os.fsencode(f / "train/cat") + b"/\xff.png")
    ),
    "names of 255 bytes": lambda f: (f / "train/cat/0.png").rename(
        f / "train/cat" / ("x" * 251 + ".png")
    ),
}


# Texts and their tokens


def _lines(seed: int, count: int = 60) -> str:
    words = ["a", "dog", "ran", "over", "the", "cat", "Ω", "and", "then", "slept"]
    chance = random.Random(seed)
    return "".join(" ".join(chance.choices(words, k=6)) + "\n" for _ in range(count))


def _build_text(folder: Path) -> None:
    (folder / "text").mkdir()
    for at, part in enumerate(("train", "valid", "test")):
        (folder / f"text/{part}.txt").write_text(_lines(at), encoding="utf-8")


def _read_text(folder: Path) -> Any:
    found = layerscope.load_data(folder / "text", vocab=280, length=8)
    return [_decoded(found, part) for part in (found.train, found.test)]


def _decoded(found: Any, part: Any) -> list[str]:
    tokens = part.targets[part.targets >= 0]
    return list(found.tokenizer.decode(tokens))


def _text_oracle(folder: Path) -> Any:
    found = []
    for part in ("train", "test"):
        text = (folder / f"text/{part}.txt").read_bytes().decode("utf-8-sig")
        found.append([line.strip() for line in text.split("\n") if line.strip()])
    return found


_TEXTS: dict[str, Callable[[], bytes]] = {
    "Latin-1": lambda: "é\n".encode("latin-1") * 50,
    "UTF-16": lambda: _lines(1).encode("utf-16"),
    "with a mark": lambda: _lines(1).encode("utf-8-sig"),
    "with NUL": lambda: b"a\0b\n" * 50,
    "no line": lambda: b"\n" * 1000,
    "one line": lambda: b"one line",
    "a line of 20 MB": lambda: b"ab " * 7_000_000 + b"\n",
    "a word of 3 MB": lambda: b"a" * 3_000_000 + b"\n",
    "other line ends": lambda: b"a dog\r\na cat\r" * 30,
    "signs beyond Unicode's first plane": lambda: "😀𝔘\n".encode() * 50,
    "the token that ends a line": lambda: b"<eol> a <eol>\n" * 50,
    "half a surrogate": lambda: b"\xed\xa0\x80\n" * 50,
    "Unicode's line ends": lambda: "a\u2028b\x85c\x0bd\n".encode() * 50,
}


def _text_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    for part in ("train", "test"):
        yield from damage(folder, f"text/{part}.txt", chance, each)
    for how, content in _TEXTS.items():
        yield Case(how, lambda copy, content=content: replaced(  # type: ignore[misc]
            "text/train.txt", content())(copy))  # fmt: skip


def _build_tokenizer(folder: Path) -> None:
    Tokenizer.train(_lines(0).splitlines(), 280).save(folder / "tokenizer.json")


_SAID = ["a dog ran", "Ω", "<eol> and"]


def _read_tokenizer(folder: Path) -> Any:
    found = Tokenizer.load(folder / "tokenizer.json")
    return found.encode(_SAID), found.vocab, found.end


def _tokenizer_oracle(folder: Path) -> Any:
    import tokenizers
    import torch

    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model.encode_special_tokens = True
    end = model.token_to_id("<eol>")
    found: list[Any] = []
    for line in model.encode_batch(_SAID, add_special_tokens=False):
        found += [*line.ids, end]
    return torch.tensor(found), model.get_vocab_size(), end


def _tokenizer_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    name = "tokenizer.json"
    yield from wild_json(name)
    yield from spoil_json(folder, name, chance, 24 * each)
    yield from damage(folder, name, chance, each)
    content = json.loads((folder / name).read_text("utf-8"))
    for how, more in _TOKENIZERS.items():
        yield Case(how, replaced(name, json.dumps(content | more).encode()))
    model = content["model"]
    for how, changed in {
        "numbers with gaps": {**model, "vocab": {k: 7 * v for k, v in model["vocab"].items()}},
        "numbers up to 4 billion": {**model, "vocab": {**model["vocab"], "zz": 2**32 - 1}},
        "numbers beyond 32 bits": {**model, "vocab": {**model["vocab"], "zz": 2**40}},
        "one number twice": {**model, "vocab": {**model["vocab"], "a": 1, "b": 1}},
        "merges of nothing": {**model, "merges": [["", ""]]},
        "merges of what is not there": {**model, "merges": [["qq", "zz"]]},
        "a dropout of 2": {**model, "dropout": 2.0},
        "a dropout": {**model, "dropout": 0.5},
        "another kind": {**model, "type": "WordPiece", "unk_token": "x"},
        "Unigram without tokens": {"type": "Unigram", "unk_id": 0, "vocab": []},
        "Unigram with NaN": {"type": "Unigram", "unk_id": 9, "vocab": [["a", float("nan")]]},
    }.items():
        yield Case(how, replaced(name, json.dumps({**content, "model": changed}).encode()))


def _padding(length: int, strategy: Any = None) -> dict[str, Any]:
    kind = {"Fixed": length} if strategy is None else strategy
    return {"padding": {"strategy": kind, "direction": "Right", "pad_to_multiple_of": None,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "<eol>"}}  # fmt: skip


def _replace(by: str, pattern: Any = None) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": by}


_TOKENIZERS: dict[str, dict[str, Any]] = {
    "padding to 2 billion": _padding(2 * 10**9),
    "padding to 200 million": _padding(2 * 10**8),
    "padding to 40": _padding(40),
    "padding to a multiple of a billion": {"padding": {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 10**9,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<eol>"}},
    "truncation to 2": {"truncation": {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
    "truncation with a stride as long": {"truncation": {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 2}},
    "truncation to nothing": {"truncation": {
        "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}},
    "a normaliser that makes much of little": {"normalizer": _replace("b" * 30_000_000)},
    "normalisers that double thirty times": {"normalizer": {
        "type": "Sequence", "normalizers": [_replace("aa")] * 30}},
    "a normaliser without end": {"normalizer": _replace("a", {"Regex": "(a*)*$"})},
    "a pattern that backtracks": {"normalizer": _replace("a", {"Regex": "((a|b|o|g| )+)+z"})},
    "a broken pattern": {"normalizer": _replace("a", {"Regex": "((("})},
    "a pattern of nothing": {"normalizer": _replace("b", {"String": ""})},
    "a prefix of 30 MB": {"normalizer": {"type": "Prepend", "prepend": "x" * 30_000_000}},
    "a charsmap that is none": {"normalizer": {
        "type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a charsmap that is cut": {"normalizer": {
        "type": "Precompiled", "precompiled_charsmap": "//////8AAAA="}},
    "normalisers nested 200 deep": {"normalizer": json.loads(
        '{"type":"Sequence","normalizers":[' * 200 + ']}' * 200)},
    "a post-processor that adds much": {"post_processor": {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<eol>", "type_id": 0}}] * 9,
        "special_tokens": {"<eol>": {"id": "<eol>", "ids": [0] * 10**6, "tokens": ["x"]}}}},
    "no token that ends a line": {"added_tokens": []},
    "a version to come": {"version": "99.0"},
}  # fmt: skip


# Sets by name

_RAW = "MNIST/raw"


def _build_mnist(folder: Path) -> None:
    raw = folder / _RAW
    raw.mkdir(parents=True)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)
        images = raw / f"{name}-images-idx3-ubyte"
        images.write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + bytes(range(200)))
        os.truncate(images, 16 + count * 784)


def _read_mnist(folder: Path) -> Any:
    found: Any = layerscope.load_data("mnist", folder)
    return [[p.inputs[::50], p.inputs.shape, p.targets] for p in (found.train, found.test)]


def _mnist_oracle(folder: Path) -> Any:
    import torch

    found = []
    for name in ("train", "t10k"):
        labels = (folder / _RAW / f"{name}-labels-idx1-ubyte").read_bytes()
        images = (folder / _RAW / f"{name}-images-idx3-ubyte").read_bytes()
        magic, count, height, width = struct.unpack(">IIII", images[:16])
        if (magic, *struct.unpack(">II", labels[:8])) != (2051, 2049, count) or count != len(
            labels
        ) - 8:
            raise ValueError("not what MNIST's files begin with")
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(count, 1, height, width)
        targets = torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
        if int(targets.max()) > 9 or pixels.shape[2:] != (28, 28):
            raise ValueError("no digits of 28 × 28")
        kept = torch.from_numpy(pixels.copy())
        found.append([kept[::50], kept.shape, targets])
    return found


def _mnist_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    labels = f"{_RAW}/t10k-labels-idx1-ubyte"
    yield from damage(folder, labels, chance, max(1, each // 2))
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        whole = (folder / _RAW / name).read_bytes()
        starts = [bytes(16), b"\xff" * 16, struct.pack(">IIII", 2051, 30_000, 56, 28),
                  struct.pack(">IIII", 2051, 60_000, 1, 784),
                  struct.pack(">IIII", 3331, 60_000, 28, 28),
                  struct.pack(">IIII", 2049, 10_000, 28, 28), b"\x1f\x8b" + bytes(14)]  # fmt: skip
        for at, start in enumerate(starts):
            forged = start[: 16 if "images" in name else 8]
            yield Case(f"{name}: another start, {at}", replaced(
                f"{_RAW}/{name}", forged + whole[len(forged):]))  # fmt: skip
    sixty = bytearray((folder / labels).read_bytes())
    sixty[500] = 250
    yield Case("a label of 250", replaced(labels, bytes(sixty)))
    yield Case("no folder", lambda copy: (copy / "MNIST").rename(copy / "mnist"))


_BATCHES = "cifar-10-batches-py"


def _build_cifar(folder: Path) -> None:
    """As Parquet: what the official files hold is told by MD5 that only they have."""
    (folder / "cifar10").mkdir()
    images = [{"bytes": _png(n, 32), "path": ""} for n in range(20)]
    content = _parquet(_table(images, [n % 10 for n in range(20)], "img"))
    for part in ("train", "test"):
        (folder / f"cifar10/{part}-00000-of-00001.parquet").write_bytes(content)


def _read_cifar(folder: Path) -> Any:
    return _parts(layerscope.load_data("cifar10", folder))


def _cifar_oracle(folder: Path) -> Any:
    from PIL import Image
    from pyarrow import parquet

    for path in sorted((folder / "cifar10").glob("*.parquet")):
        for held in parquet.read_table(path)["img"].to_pylist():
            Image.open(io.BytesIO(held["bytes"])).load()
    return SAME


def _cifar_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]
    for how, content in evil_pickle(folder):

        def bring(copy: Path, content: bytes = content) -> None:
            for name in names:
                replaced(f"{_BATCHES}/{name}", content)(copy)

        yield Case(f"pickles: {how}", bring)
    yield Case("a file for a folder", lambda copy: (copy / _BATCHES).write_bytes(b"x"))
    yield Case("an empty folder", lambda copy: (copy / _BATCHES).mkdir())
    for how, make in _OFFICIAL.items():

        def put(copy: Path, make: Callable[[Path], object] = make) -> None:
            (copy / _BATCHES).mkdir()
            for name in names:
                make(copy / _BATCHES / name)

        yield Case(f"official files: {how}", put)
    yield from damage(folder, "cifar10/train-00000-of-00001.parquet", chance, each)


def _hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 20 * 10**9)


_OFFICIAL: dict[str, Callable[[Path], object]] = {
    "pipes": os.mkfifo,
    "folders": Path.mkdir,
    "holes of 20 GB": _hole,
    "links to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
}


def _build_lm1b(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    made = {
        part: datasets.Dataset.from_dict({"text": _lines(at, count).splitlines()})
        for at, (part, count) in enumerate((("train", 120), ("test", 40)))
    }
    datasets.DatasetDict(made).save_to_disk(str(folder / "lm1b"))


def _read_lm1b(folder: Path) -> Any:
    found = layerscope.load_data("lm1b", folder, vocab=280, length=8)
    return [_decoded(found, part) for part in (found.train, found.test)]


def _lm1b_oracle(folder: Path) -> Any:
    import pyarrow as pa

    found = []
    if (folder / _ARCHIVE).exists():
        paths = [next((folder / _ARCHIVE / place).glob(name)) for place, name in _PLACES]
        return [path.read_text("utf-8").splitlines() for path in paths]
    for part in ("train", "test"):
        (path,) = (folder / "lm1b" / part).glob("*.arrow")
        table = pa.ipc.open_stream(path.read_bytes()).read_all()
        table.validate(full=True)
        found.append([line.strip() for line in table["text"].to_pylist() if line.strip()])
    held = len(found[1])
    return [found[0][: len(found[0]) - held], found[1]]


def _lm1b_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    arrow = str(next((folder / "lm1b/train").glob("*.arrow")).relative_to(folder))
    yield from damage(folder, arrow, chance, each)
    for name in ("lm1b/dataset_dict.json", "lm1b/train/dataset_info.json", "lm1b/train/state.json"):
        yield from wild_json(name)
        yield from spoil_json(folder, name, chance, 5 * each)
    for how in ("whole", "a pipe", "not UTF-8", "gone"):
        yield Case(f"official files: {how}", lambda copy, how=how: _official(copy, how))  # type: ignore[misc]


_ARCHIVE = "1-billion-word-language-modeling-benchmark-r13output"
_PLACES = (
    ("training-monolingual.tokenized.shuffled", "news.en-*"),
    ("heldout-monolingual.tokenized.shuffled", "*-00000-of-00050"),
)


def _official(folder: Path, how: str) -> None:
    (folder / "lm1b").rename(folder / "other")
    train, held = (folder / _ARCHIVE / place for place, _ in _PLACES)
    for place in (train, held):
        place.mkdir(parents=True)
    (train / "news.en-00001-of-00100").write_text(_lines(0, 20), encoding="utf-8")
    for n in (0, 1):
        (held / f"news.en.heldout-0000{n}-of-00050").write_text(_lines(1, 40), encoding="utf-8")
    last = held / "news.en.heldout-00000-of-00050"
    if how != "whole":
        last.unlink()
    if how == "a pipe":
        os.mkfifo(last)
    if how == "not UTF-8":
        last.write_bytes(b"\xff\xfe\n")


READERS = (
    Reader("Parquet", _build_parquet, _read_parquet, _parquet_cases, _parquet_oracle),
    Reader("pictures", _build_pictures, _read_pictures, _pictures_cases, _pictures_oracle),
    Reader("text", _build_text, _read_text, _text_cases, _text_oracle),
    Reader("tokenizer", _build_tokenizer, _read_tokenizer, _tokenizer_cases, _tokenizer_oracle),
    Reader("MNIST", _build_mnist, _read_mnist, _mnist_cases, _mnist_oracle),
    Reader("CIFAR", _build_cifar, _read_cifar, _cifar_cases, _cifar_oracle),
    Reader("LM1B", _build_lm1b, _read_lm1b, _lm1b_cases, _lm1b_oracle),
)
