"""Readers of weights: torch, safetensors, folders of Hugging Face, series, trainings."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from torch import nn

import layerscope
from layerscope.zoo import data as data_, training
from layerscope.zoo.data import ImageData
from layerscope.zoo.training import _loop as loop
from malformed._case import CANARY, Case, Reader
from malformed._spoiling import DEEP, damage, replaced, spoil_json, wild_json

__all__ = ["READERS", "evil_pickle"]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3))


def _state(scale: float = 1.0) -> dict[str, torch.Tensor]:
    held = _network().state_dict()
    return {name: t * scale if t.is_floating_point() else t for name, t in held.items()}


def _open(paths: Any) -> Any:
    """Read every tensor of a series of the small network, and what its files are."""
    series = layerscope.open_series(paths).fit(_network())
    names = list(_state())
    return [[epoch, series.read(epoch, names)] for epoch in series.epochs], len(series.digests())


# One file of torch


class _Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str, by: Callable[..., Any] = os.system) -> None:
        self.made = by, (command,)

    def __reduce__(self) -> Any:
        return self.made


def evil_pickle(folder: Path, protocol: int = 2) -> Iterator[tuple[str, bytes]]:
    """Pickles that make the canary, by several ways."""
    canary = folder.parent / CANARY
    touch = f"touch {canary}"
    yield "os.system", pickle.dumps({"state_dict": _Evil(touch)}, protocol)
    yield "exec", pickle.dumps(_Evil(f"open({str(canary)!r}, 'w')", exec), protocol)
    yield "eval", pickle.dumps([_Evil(f"open({str(canary)!r}, 'w')", eval)], protocol)
    hidden = f"c__builtin__\neval\n(S\"open({str(canary)!r}, 'w')\"\ntR.".encode()
    yield "a global of Python 2", hidden
    twice = f"cos\nsystem\n(S'{touch}'\ntR0".encode() + pickle.dumps({}, protocol)
    yield "a call before the weights", twice


def _torch_bytes(what: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(what, content, **options)
    return content.getvalue()


def _in_zip(content: bytes, change: Callable[[str, bytes], bytes | None], how: int = 0) -> bytes:
    """Write a zip anew, each record changed, or left out for None."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", how) as new:
        for info in old.infolist():
            record = change(info.filename, old.read(info))
            if record is not None:
                new.writestr(info.filename, record)
    return made.getvalue()


def _build_torch(folder: Path) -> None:
    torch.save(_state(), folder / "a.pt")


def _torch_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    whole = (folder / "a.pt").read_bytes()
    put = partial(replaced, "a.pt")
    yield from damage(folder, "a.pt", chance, each)
    for how, content in evil_pickle(folder):
        yield Case(f"a pickle: {how}", put(content))

        def inside(name: str, record: bytes, content: bytes = content) -> bytes:
            return content if name.endswith("data.pkl") else record

        yield Case(f"a pickle in the zip: {how}", put(_in_zip(whole, inside)))
    for how, what in _ODD_STATES.items():
        yield Case(f"holds {how}", _late("a.pt", partial(_odd, what)))
    yield Case("of the old form, cut", put(_old()[:300]))
    for at in chance.sample(range(len(_old())), 4 * each):
        flipped = bytearray(_old())
        flipped[at] ^= 1 << chance.randrange(8)
        yield Case(f"of the old form, byte {at} flipped", put(bytes(flipped)))
    yield Case("a script of TorchScript", put(_script()))
    yield from _zips(whole)


def _odd(what: Callable[[], Any]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of some kinds that they are new, or old
        return _torch_bytes(what())


def _old() -> bytes:
    return _torch_bytes(_state(), _use_new_zipfile_serialization=False)


def _script() -> bytes:
    return _in_zip(
        _torch_bytes(_state()),
        lambda name, record: record if "data.pkl" not in name else b"\x80\x02}q\x00.",
    )


_ODD_STATES: dict[str, Callable[[], Any]] = {
    "nothing": dict,
    "a number": lambda: 3,
    "None": lambda: None,
    "a list": lambda: [_state()],
    "texts": lambda: dict.fromkeys(_state(), "text"),
    "numbers for names": lambda: dict(enumerate(_state().values())),
    "a tensor": lambda: torch.zeros(3),
    "sparse weights": lambda: {n: t.to_sparse() if t.ndim else t for n, t in _state().items()},
    "CSR weights": lambda: _state() | {"0.weight": torch.zeros(5, 6).to_sparse_csr()},
    "meta weights": lambda: {n: t.to("meta") for n, t in _state().items()},
    "fp8 weights": lambda: {
        n: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for n, t in _state().items()
    },
    "complex weights": lambda: {n: t.to(torch.complex64) for n, t in _state().items()},
    "bool weights": lambda: {n: t.bool() for n, t in _state().items()},
    "quantised weights": lambda: (
        _state() | {"0.weight": torch.quantize_per_tensor(torch.zeros(5, 6), 0.1, 0, torch.qint8)}
    ),
    "weights of another shape": lambda: _state() | {"0.weight": torch.zeros(7, 7)},
    "one weight too few": lambda: {n: t for n, t in _state().items() if n != "0.bias"},
    "a name of 300 letters": lambda: _state() | {"x" * 300: torch.zeros(1)},
    "a name with NUL": lambda: _state() | {"a\0b": torch.zeros(1)},
    "nested weights": lambda: {"state_dict": {"state_dict": {"model": _state()}}},
    "weights within themselves": lambda: _within_itself(),
    "one value seen as many": lambda: (
        _state() | {"0.weight": torch.zeros(1).as_strided((5, 6), (0, 0))}
    ),
    "one value seen as a trillion": lambda: (
        _state() | {"big": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}
    ),
    "one value seen as a trillion, as weight": lambda: (
        _state() | {"0.weight": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}
    ),
    "empty weights": lambda: {n: torch.zeros(0) for n in _state()},
    "nested tensors": lambda: _state() | {"0.weight": [torch.zeros(5, 6)]},
}


def _within_itself() -> dict[str, Any]:
    held: dict[str, Any] = {**_state()}
    held["state_dict"] = held
    return held


def _zips(whole: bytes) -> Iterator[Case]:
    put = partial(replaced, "a.pt")
    packed = _in_zip(whole, lambda _, record: record, zipfile.ZIP_DEFLATED)
    yield Case("packed", put(packed))

    def larger(name: str, record: bytes) -> bytes:
        return bytes(1_500_000_000) if name.endswith("/data/0") else record

    yield Case("a record of 1.5 GB packed into 1.5 MB", _late("a.pt", lambda: _in_zip(
        whole, larger, zipfile.ZIP_DEFLATED)))  # fmt: skip

    def pickled(name: str, record: bytes) -> bytes:
        return record + bytes(1_500_000_000) if name.endswith("data.pkl") else record

    yield Case("a pickle of 1.5 GB packed", _late("a.pt", lambda: _in_zip(
        whole, pickled, zipfile.ZIP_DEFLATED)))  # fmt: skip
    deep = b"\x80\x02" + b"]" * 1 + b"(" * DEEP + b"t" * DEEP + b"."
    for how, content in {
        "marks without end": deep,
        "a pickle that stores a million texts": b"\x80\x02" + b"X\x01\0\0\0a" * 10**6 + b".",
        "a text that says it is 2 GB": b"\x80\x02X\xff\xff\xff\x7fab.",
        "bytes that say they are 8 EB": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        "a list of 40 doublings": b"\x80\x02]" + b"q\0(h\0h\0e" * 40 + b".",
    }.items():
        yield Case(f"pickle: {how}", put(content))
        yield Case(
            f"pickle in the zip: {how}",
            put(_in_zip(whole, lambda n, r, c=content: c if n.endswith("data.pkl") else r)),  # type: ignore[misc]
        )
    for name in ("version", "byteorder", "data/0", "data.pkl"):
        gone = _in_zip(whole, lambda n, r, name=name: None if n.endswith(name) else r)  # type: ignore[misc]
        yield Case(f"without {name}", put(gone))
        none = _in_zip(whole, lambda n, r, name=name: b"" if n.endswith(name) else r)  # type: ignore[misc]
        yield Case(f"{name} empty", put(none))
    other = _in_zip(whole, lambda n, r: b"big" if n.endswith("byteorder") else r)
    yield Case("of another byte order", put(other))
    yield Case("a zip of nothing", put(_empty_zip()))


def _empty_zip() -> bytes:
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    return content.getvalue()


def _late(name: str, make: Callable[[], bytes]) -> Callable[[Path], None]:
    """Make a large content only when it is its turn."""
    return lambda folder: replaced(name, make())(folder)


def _read_torch(folder: Path) -> Any:
    return _open({0: folder / "a.pt"})


def _torch_oracle(folder: Path) -> Any:
    found = torch.load(folder / "a.pt", map_location="cpu", weights_only=True, mmap=False)
    while isinstance(found, dict) and not all(map(torch.is_tensor, found.values())):
        found = next(v for v in found.values() if isinstance(v, dict))
    network = _network()
    network.load_state_dict(found)
    return [[0, {name: found[name] for name in network.state_dict()}]], 1


# safetensors, alone and with an index


def _header(content: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length].decode(), content[8 + length :]


def _with_header(rest: bytes, text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + rest


def _build_safe(folder: Path) -> None:
    safetensors.torch.save_file(_state(), folder / "a.safetensors")


def _safe_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    name = "a.safetensors"
    whole = (folder / name).read_bytes()
    text, rest = _header(whole)
    around = partial(_with_header, rest)
    yield from damage(folder, name, chance, each)
    yield from wild_json(name, around)
    yield from spoil_json(folder, name, chance, 12 * each, around, text)
    for length in (0, 1, 10**3, 10**8, 10**10, 2**63 - 1, 2**63, 2**64 - 1):
        forged = struct.pack("<Q", length) + whole[8:]
        yield Case(f"{name}: a header of {length} bytes", replaced(name, forged))

        def holes(copy: Path, forged: bytes = forged, length: int = length) -> None:
            replaced(name, forged)(copy)
            os.truncate(copy / name, min(length + 1000, 12 * 10**9))

        yield Case(f"{name}: a header of {length} bytes, in a hole", holes)
    yield Case(f"{name}: a tensor of 9.8 GB in a hole", _sparse_tensor)


def _sparse_tensor(folder: Path) -> None:
    entry = {
        "0.weight": {"dtype": "F32", "shape": [5, 490_000_000], "data_offsets": [0, 98 * 10**8]}
    }
    content = _with_header(b"", json.dumps(entry).encode())
    replaced("a.safetensors", content)(folder)
    os.truncate(folder / "a.safetensors", len(content) + 98 * 10**8)


def _read_safe(folder: Path) -> Any:
    return _open({0: folder / "a.safetensors"})


def _safe_oracle(folder: Path) -> Any:
    found = safetensors.torch.load_file(folder / "a.safetensors")
    return [[0, {name: found[name] for name in _state()}]], 1


_INDEX = "model.safetensors.index.json"


def _build_index(folder: Path) -> None:
    state = _state()
    halves = {"a.safetensors": list(state)[:3], "b.safetensors": list(state)[3:]}
    for file, names in halves.items():
        safetensors.torch.save_file({name: state[name] for name in names}, folder / file)
    where = {name: file for file, names in halves.items() for name in names}
    about = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / _INDEX).write_text(json.dumps(about))


def _index_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    yield from wild_json(_INDEX)
    yield from spoil_json(folder, _INDEX, chance, 16 * each)
    yield from damage(folder, _INDEX, chance, max(1, each // 2))
    yield from damage(folder, "a.safetensors", chance, 1)


def _index_oracle(folder: Path) -> Any:
    found: dict[str, torch.Tensor] = {}
    for name in ("a.safetensors", "b.safetensors"):
        found |= safetensors.torch.load_file(folder / name)
    return [[0, {name: found[name] for name in _state()}]], 1


# A folder of Hugging Face


def _build_pretrained(folder: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def _pretrained_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    for name in ("config.json", "generation_config.json"):
        yield from wild_json(name)
        yield from spoil_json(folder, name, chance, (16 if name == "config.json" else 4) * each)
    yield from damage(folder, "config.json", chance, 1)
    yield from damage(folder, "model.safetensors", chance, max(1, each // 2))
    content = json.loads((folder / "config.json").read_text())
    code = f"open({str(folder.parent / CANARY)!r}, 'w')\nclass A: pass\n"
    for kind in ("llama", "own"):
        classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
        own = content | {"model_type": kind, "auto_map": dict.fromkeys(classes, "own.A")}

        def bring(copy: Path, own: Any = own) -> None:
            replaced("config.json", json.dumps(own).encode())(copy)
            (copy / "own.py").write_text(code)

        yield Case(f"brings code, as {kind}", bring)
    for how, more in {
        "a vocabulary of ten million": {"vocab_size": 10**7},
        "100,000 layers": {"num_hidden_layers": 10**5},
        "of a width of a million": {"hidden_size": 10**6},
        "ten billion positions": {"max_position_embeddings": 10**10},
        "of no kind": {"model_type": "nothing"},
        "of another kind": {"model_type": "gpt2"},
        "a class of torch": {"architectures": ["torch.nn.Linear"]},
        "a class by a dunder": {"architectures": ["__builtins__"]},
        "packed in 4 bits": {"quantization_config": {"quant_method": "bitsandbytes"}},
        "packed in no way": {"quantization_config": {"quant_method": "x" * 300}},
    }.items():
        yield Case(how, replaced("config.json", json.dumps(content | more).encode()))
    for how, pickled in evil_pickle(folder):

        def pickles(copy: Path, pickled: bytes = pickled) -> None:
            (copy / "model.safetensors").unlink()
            (copy / "pytorch_model.bin").write_bytes(pickled)

        yield Case(f"pytorch_model.bin: {how}", pickles)


def _read_pretrained(folder: Path) -> Any:
    return layerscope.open_network(folder).state_dict()


def _pretrained_oracle(folder: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0])
    return kind.from_pretrained(folder, dtype="auto").state_dict()


# A series


def _build_series(folder: Path) -> None:
    from layerscope.core.checkpoints import SeriesWriter

    writer = SeriesWriter(
        folder, {"recipe": {"batch_size": 10}, "data": {"name": "x", "sha256": "0" * 64}}
    )
    for epoch in (0, 1, 2):
        writer.record(epoch, _state(1 + epoch), {"test_error": 0.5})


def _series_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    yield from wild_json("manifest.json")
    yield from spoil_json(folder, "manifest.json", chance, 32 * each)
    yield from damage(folder, "manifest.json", chance, max(1, each // 2))
    yield from damage(folder, "epoch-0001.safetensors", chance, 1)
    content = json.loads((folder / "manifest.json").read_text())
    for epoch in ("-1", "1.5", "", "٣", "9" * 5000, "9" * 300, "1_0", " 1", "a\0", "0x1", "²"):
        epochs = {**content["epochs"], epoch: content["epochs"]["1"]}
        changed = json.dumps({**content, "epochs": epochs}).encode()
        yield Case(f"an epoch called {epoch[:20]!r}", replaced("manifest.json", changed))

    def outside(copy: Path) -> None:
        kept = copy.parent / f"{copy.name}-outside.safetensors"
        shutil.copy(copy / "epoch-0001.safetensors", kept)
        epochs = {**content["epochs"], "1": {**content["epochs"]["1"], "file": f"../{kept.name}"}}
        replaced("manifest.json", json.dumps({**content, "epochs": epochs}).encode())(copy)

    yield Case("a file outside its folder", outside)


def _read_series(folder: Path) -> Any:
    return _open(folder)


# A training that was interrupted


def _few() -> ImageData:
    whole = data_.load("mnist-5k")
    assert isinstance(whole, ImageData)
    train, test = (
        data_.Examples(part.inputs[::40], part.targets[::40], part.mean, part.std)
        for part in (whole.train, whole.test)
    )
    return ImageData(whole.name, train, test, whole.classes, whole.origin)


def _train(out: Path) -> Any:
    recipe = training.Recipe(epochs=2, batch_size=20)
    series = training.train("fcn-1x8", _few(), recipe, out=out, device="cpu", show_progress=False)
    recorded = series.manifest["epochs"]
    return series.epochs, [recorded[str(epoch)]["sha256"] for epoch in series.epochs]


def _build_training(folder: Path) -> None:
    """Leave a training that was stopped in its second epoch."""
    whole = loop.Loop._epoch

    def stopping(self: Any, epoch: int) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return whole(self, epoch)

    with mock.patch.object(loop.Loop, "_epoch", stopping), suppress(KeyboardInterrupt):
        _train(folder)


def _training_cases(folder: Path, chance: random.Random, each: int) -> Iterator[Case]:
    (state,) = folder.glob("*/resume.safetensors")
    name = str(state.relative_to(folder))
    text, rest = _header(state.read_bytes())
    around = partial(_with_header, rest)
    yield from damage(folder, name, chance, each)
    yield from wild_json(name, around)
    yield from spoil_json(folder, name, chance, 8 * each, around, text)
    for manifest in folder.glob("*/manifest.json"):
        yield from spoil_json(folder, str(manifest.relative_to(folder)), chance, 8 * each)


READERS = (
    Reader(".pt", _build_torch, _read_torch, _torch_cases, _torch_oracle),
    Reader("safetensors", _build_safe, _read_safe, _safe_cases, _safe_oracle),
    Reader("index", _build_index, lambda f: _open({0: f}), _index_cases, _index_oracle),
    Reader("Hugging Face folder", _build_pretrained, _read_pretrained, _pretrained_cases,
           _pretrained_oracle),
    Reader("series manifest", _build_series, _read_series, _series_cases),
    Reader("training state", _build_training, _train, _training_cases),
)  # fmt: skip
