"""Checkpoints that were made to do harm end in our error, with their path, in little memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from layerscope.core import checkpoints
from layerscope.errors import CheckpointError, LayerscopeError

MEBIBYTES = 500


def opened(path):
    """Everything that a user of a checkpoint would do with it."""
    source = checkpoints.open_checkpoint(path, "here")
    found = source.signature()
    source.digest()
    return source.read(list(found))


def refused(path, match="", use=opened):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        with pytest.raises(CheckpointError, match=match) as caught:
            use(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_many_hostile_files_in_one_process_of_little_memory(tmp_path):
    """Each takes less than 500 MB, and all of them together a few seconds."""
    made = {name: make(tmp_path / name) for name, make in BOMBS.items()}
    code = """
        import json, resource, sys, time
        from layerscope.core import checkpoints
        from layerscope.errors import CheckpointError
        import torch
        checkpoints.open_checkpoint({"w": torch.ones(1)}, "warm").read(["w"])
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEBIBYTES * 2**20,) * 2)
        said = {}
        for name, path in json.load(sys.stdin).items():
            began = time.process_time()
            try:
                source = checkpoints.open_checkpoint(path, "here")
                source.read(list(source.signature()))
                said[name] = "accepted"
            except CheckpointError as error:
                said[name] = str(error) if path in str(error) else f"without its path: {error}"
            except BaseException as error:
                said[name] = f"foreign: {error!r}"
            if time.process_time() - began > 10:
                said[name] = "took too long"
        print(json.dumps(said))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code).replace("MEBIBYTES", str(MEBIBYTES))],
        input=json.dumps({name: str(path) for name, path in made.items()}),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    wrong = {name: words for name, words in said.items() if str(made[name]) not in words}
    assert wrong == {}


# Zips and pickles


def archive(path, index, records=(), kind=zipfile.ZIP_DEFLATED):
    """Write a .pt file of a pickle by hand."""
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("a/data.pkl", index)
        file.writestr("a/version", "3\n")
        for name, content in records:
            file.writestr(name, content)
    return path


def program(*instructions):
    return b"\x80\x02" + b"".join(instructions) + b"."


def call(name, *args):
    module, _, last = name.rpartition(".")
    return b"c" + f"{module}\n{last}\n".encode() + b"(" + b"".join(args) + b"tR"


def number(value):
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def doubled(times, pair=b"\x86"):
    """Tuples of the same tuple twice, in each other: 2^times elements to hash."""
    return b"K\x01\x85" + (b"q\x00h\x00" + pair) * times


def storage(key=b"0", count=1):
    kind = b"ctorch\nFloatStorage\n"
    text = b"X\x07\x00\x00\x00storage" + kind + b"X\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpu"
    return b"(" + text + number(count) + b"tQ"


def tensor(shape, stride, count=1):
    def dims(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    rest = storage(count=count) + b"K\x00" + dims(shape) + dims(stride) + b"\x89}"
    return call("torch._utils._rebuild_tensor_v2", rest)


def state(*items):
    return program(b"}(", *items, b"u")


def named(name, value):
    return b"X" + struct.pack("<L", len(name)) + name.encode() + value


def legacy(*pickles):
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in head) + b"".join(pickles)


def header(length, content, *, size=None):
    def make(path):
        path = path.with_suffix(".safetensors")
        path.write_bytes(struct.pack("<Q", length or len(content)) + content)
        if size is not None:
            os.truncate(path, size)
        return path

    return make


def pt(content):
    def make(path):
        path = path.with_suffix(".pt")
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        return path

    return make


def zeros(path, size):
    path.touch()
    os.truncate(path, size)


def one(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def told(**entries):
    return json.dumps(entries).encode()


MANY = b"".join(
    b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' % n for n in range(250_000)
)

ONE = [("a/data/0", bytes(4))]
LARGE = state(named("w", tensor((2**36,), (1,), 2**36)))

BOMBS = {
    # 6 GB of zeros would be 6 MB; the limit is a multiple of the file's length.
    "expands": pt(lambda p: archive(p, state(), [("a/data/0", bytes(300 * 2**20))])),
    "index-expands": pt(lambda p: archive(p, b"\x80\x02" + b"N0" * 50_000_000 + b"N.")),
    "beside-expands": pt(lambda p: archive(p, state(), [("a/byteorder", bytes(90 * 2**20))])),
    "lists": pt(lambda p: archive(p, b"\x80\x02" + b"]" * 30_000_000 + b".")),
    "old-lists": pt(legacy(b"\x80\x02" + b"]" * 20_000_000 + b".")),
    "memo": pt(lambda p: archive(p, program(b"Nr\xff\xff\xff\x7f0N"))),
    "hash": pt(lambda p: archive(p, program(b"}", doubled(40), b"K\x01s"))),
    "hash-of-set": pt(
        lambda p: archive(p, program(call("builtins.set", b"](", doubled(40), b"e")))
    ),
    "repr-of-function": pt(lambda p: archive(p, program(doubled(40), b")R"))),
    "repr-of-list": pt(lambda p: archive(p, program(b"](", doubled(40), b"e)R"))),
    "repr-of-class": pt(lambda p: archive(p, program(doubled(40), b")\x81"))),
    "deep-tuple": pt(lambda p: archive(p, program(b"}N", b"\x85" * 1_000_000, b"K\x01s"))),
    "bytearray": pt(lambda p: archive(p, program(call("builtins.bytearray", number(2**36))))),
    "constructor": pt(lambda p: archive(p, program(call("torch.FloatTensor", number(2**36))))),
    "spread": pt(
        lambda p: archive(p, state(named("w", tensor((2**18, 2**18), (0, 0)))), ONE)
    ),
    "claims": pt(
        lambda p: archive(p, LARGE, ONE)
    ),
    "old-claims": pt(legacy(LARGE, pickle.dumps(["0"], 2))),
    "frame": pt(lambda p: archive(p, b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.")),
    "bytes8": pt(lambda p: archive(p, program(b"\x96" + struct.pack("<Q", 2**40)))),
    "text": pt(lambda p: archive(p, program(b"X\xff\xff\xff\xff"))),
    "sparse-zip": pt(lambda p: (archive(p, state()), os.truncate(p, 2**33))),
    "sparse-zeros": pt(lambda p: zeros(p, 2**33)),
    "header-of-a-hole": header(2**33 - 8, b"", size=2**33),
    "header-of-100-mb": header(10**8, b"{", size=2**27),
    "header-is-full": header(0, b"{" + MANY[:-1] + b"}" + bytes(4)),
    "header-is-deep": header(0, b'{"a":' * 100_000),
    "tensor-of-a-hole": header(
        0, told(w=one(shape=(2**31,), offsets=(0, 2**33))), size=2**33 + 8 + 63
    ),
    "no-elements": header(0, told(w=one(shape=(0, 2**47, 2**47), offsets=(0, 0)))),
    "dimensions": header(0, told(w=one(shape=(1,) * 5000))),
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (program(b"}", doubled(8), b"K\x01s"), "no state dict"),
        (state(named("w", tensor((1,), (1,), -1))), "holds more than weights"),
        (program(call("os.system", b"X\x02\x00\x00\x00ls")), "holds more than weights"),
        (b"\x80\x02" + b"(" * 10, "damaged or not a checkpoint"),
        (b"", "damaged or not a checkpoint"),
    ],
)
def test_pickles_that_are_small(content, words, tmp_path):
    refused(archive(tmp_path / "a.pt", content), words)


def test_records_that_are_not_there_or_there_twice(tmp_path):
    content = state(named("w", tensor((1,), (1,))))
    refused(archive(tmp_path / "none.pt", content), "its record a/data/0 is missing")
    with warnings.catch_warnings(action="ignore"):
        twice = [("a/data/0", bytes(4)), ("a/Data/0", bytes(4))]
        refused(archive(tmp_path / "two.pt", content, twice), "have the same name")
    path = tmp_path / "whole.pt"
    archive(path, content, [("a/data/0", bytes(4))])
    assert opened(path)["w"].tolist() == [0.0]


def test_what_stands_before_a_record_is_looked_at(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(4.0), "v": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    at = content.index(b"a/data/1") - 30  # of the record's own header
    content[at : at + 30] = b"\xff" * 30
    path.write_bytes(content)
    refused(path, "damaged or not a checkpoint: Bad magic number for file header")


def test_a_record_that_was_changed_does_not_open_with_other_numbers(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(4.0), "v": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    at = content.index(torch.ones(4).numpy().tobytes())
    content[at + 5] ^= 1
    path.write_bytes(content)
    refused(path, "damaged: its record a/data/1 is other")


def test_a_file_without_checksums_opens(tmp_path):
    from torch.utils.serialization import config

    with config.patch("save.compute_crc32", False):
        torch.save({"w": torch.arange(4.0)}, tmp_path / "a.pt")
    assert torch.equal(opened(tmp_path / "a.pt")["w"], torch.arange(4.0))


def test_what_is_no_file_of_weights_is_called_by_its_name(tmp_path):
    with tarfile.open(tmp_path / "old.pt", "w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    refused(tmp_path / "old.pt", "is a tar archive")
    scripted = [("a/constants.pkl", pickle.dumps((), 2))]
    refused(archive(tmp_path / "script.pt", state(), scripted), "is an archive of TorchScript")
    (tmp_path / "text.pt").write_text("no checkpoint")
    refused(tmp_path / "text.pt", "damaged or not a checkpoint: it does not begin as one")


@pytest.mark.parametrize("name", ["pipe.pt", "pipe.safetensors", "pipe.gguf", "x.index.json"])
def test_a_pipe_is_refused_at_once(name, tmp_path):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "named pipe")


@pytest.mark.parametrize("name", ["a\0b.pt", "x" * 300 + ".pt", "org/name@" + "x" * 300])
def test_names_that_no_file_can_have(name):
    for use in (lambda: opened(name), lambda: checkpoints.open_series({0: name})):
        with pytest.raises(CheckpointError):
            use()
    with pytest.raises(CheckpointError, match="there is no folder"):
        checkpoints.open_series(name)


# Weights that are no row of numbers

ODD = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "layout sparse_coo"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), "layout sparse_csr"),
    "meta": (lambda: torch.empty(3, device="meta"), "on the device meta, such as odd"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8), "quantised"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "layout nested"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_weights_of_other_layouts_are_named(kind, tmp_path):
    make, words = ODD[kind]
    held = {"plain": torch.ones(2), "odd": make()}
    with pytest.raises(CheckpointError, match=f"here.*{words}"):
        checkpoints.open_checkpoint(held, "here")
    torch.save(held, tmp_path / "odd.pt")
    refused(tmp_path / "odd.pt", words)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_numbers_of_eight_bits_are_no_weights_of_a_network_of_more(kind, dtype, tmp_path):
    net = nn.Linear(2, 2)
    held = {name: value.detach().to(dtype) for name, value in net.state_dict().items()}
    path = tmp_path / f"packed.{kind}"
    torch.save(held, path) if kind == "pt" else path.write_bytes(save(held))
    refused(path, "packed into eight bits: weight", lambda p: open_in_series(p, net))
    # They are those of a network that holds such.
    for name, value in held.items():
        setattr(net, name, nn.Parameter(value, requires_grad=False))
    series = open_in_series(path, net)
    assert series.read(0)["weight"].dtype == dtype


def open_in_series(path, net):
    return checkpoints.open_series({0: path}).fit(net)


# safetensors and its index

HEADERS = {
    "cut": (b'{"w":', "no JSON"),
    "list": (b"[]", "expected `object`"),
    "empty": (b"{}", "truncated"),
    "twice": (b'{"w": 1, "w": 2}', "the key 'w' twice"),
    "wrong type": (told(w=one(dtype=3)), r"`\$\[\.\.\.\]\.dtype`"),
    "missing": (told(w={"dtype": "F32", "shape": [1]}), "missing required field `data_offsets`"),
    "flag": (told(w=one(shape=(True,))), "expected `int`"),
    "float": (told(w=one(shape=(1.5,))), "expected `int`"),
    "huge": (told(w=one(shape=(2**70,))), "expected `int`"),
    "negative": (told(w=one(offsets=(-4, 0))), "`int` >= 0"),
    "overlap": (told(a=one(offsets=(0, 4)), b=one(offsets=(0, 4))), "overlap"),
    "hole": (told(a=one(offsets=(0, 4)), b=one(offsets=(8, 12))), "overlap"),
    "overlap and hole": (
        told(a=one(shape=(2,), offsets=(0, 8)), b=one(offsets=(4, 8)), c=one(offsets=(12, 16))),
        "overlap",
    ),
    "behind": (told(a=one(offsets=(100, 104))), "truncated"),
    "backwards": (told(a=one(offsets=(4, 0))), "what can't be|truncated"),
    "metadata": (told(__metadata__=[1], w=one()), "expected `object`"),
    "surrogate": (b'{"\\ud800": ' + json.dumps(one()).encode() + b"}", "half of a character"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_can_not_be(kind, tmp_path):
    content, words = HEADERS[kind]
    path = tmp_path / "odd.safetensors"
    # As long as the offsets say, so that it is the header that is looked at.
    ends = [int(end) for end in re.findall(rb"(\d+)\]\}", content)]
    length = 0 if kind == "behind" else max([*ends, 4]) if kind != "empty" else 4
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(length))
    refused(path, words)


def folder_with(tmp_path, index):
    (tmp_path / "model-1.safetensors").write_bytes(save({"w": torch.ones(1)}))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    return tmp_path / "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[" * 100_000, "nested more than"),
        ('{"weight_map": {"w": 1}}', r"expected `str`, got `int` - at `\$\.weight_map"),
        ('{"weight_map": {"w": "a", "w": "b"}}', "'w' twice"),
        ('{"weight_map": {"w": "sub/model-1.safetensors"}}', "no file beside it"),
        ('{"weight_map": {"w": "/dev/zero"}}', "no file beside it"),
        ('{"weight_map": {"w": "model-1.safetensors\\u0000"}}', "no file beside it"),
        ('{"weight_map": {"w": "%s"}}' % ("x" * 300), "no file beside it"),
        ('{"weight_map": {"w": "out.safetensors"}}', "out of its folder"),
        ('{"weight_map": {"w": "model-2.safetensors"}}', "1 are missing"),
    ],
)  # fmt: skip
def test_an_index_leads_nowhere_else(index, words, tmp_path):
    folder = tmp_path / "network"
    folder.mkdir()
    (tmp_path / "outside.safetensors").write_bytes(save({"w": torch.ones(1)}))
    (folder / "out.safetensors").symlink_to("../outside.safetensors")
    path = folder_with(folder, index)
    for place in (path, folder):
        with pytest.raises(CheckpointError, match=words) as caught:
            opened(place)
        assert str(folder) in str(caught.value)


# Manifests of series


@pytest.fixture
def recorded(tmp_path):
    folder = tmp_path / "series"
    writer = checkpoints.SeriesWriter(folder, {"network": {"family": "fcn"}})
    writer.record(0, {"w": torch.zeros(2)}, {"loss": float("nan")})
    writer.record(3, {"w": torch.ones(2)}, {"loss": 0.5})
    assert checkpoints.open_series(folder).epochs == (0, 3)
    return folder


MANIFESTS = {
    "format": ({"format": "other"}, "its format is not"),
    "no format": ({"format": None}, "its format is not"),
    "newer": ({"version": 2, "epochs": []}, "newer layerscope; upgrade"),
    "version": ({"version": "1"}, r"`\$\.version`"),
    "epochs": ({"epochs": []}, r"expected `object`, got `array` - at `\$\.epochs`"),
    "word": ({"epochs": {"one": {"file": "x"}}}, "matching regex"),
    "signed": ({"epochs": {"-1": {"file": "x"}}}, "matching regex"),
    "twice": ({"epochs": {"0": {"file": "x"}, "00": {"file": "y"}}}, "matching regex"),
    "digits": ({"epochs": {"9" * 5000: {"file": "x"}}}, "matching regex"),
    "entry": ({"epochs": {"0": 3}}, r"expected `object`, got `int` - at `\$\.epochs\[\.\.\.\]`"),
    "no file": ({"epochs": {"0": {}}}, "missing required field `file`"),
    "file": ({"epochs": {"0": {"file": 3}}}, r"`\$\.epochs\[\.\.\.\]\.file`"),
    "sha256": ({"epochs": {"0": {"file": "x", "sha256": "ab"}}}, "matching regex"),
    "metrics": ({"epochs": {"0": {"file": "x", "metrics": {"loss": "low"}}}}, "got `str`"),
    "unit": ({"unit": "minute"}, r"`\$\.unit`"),
    "finished": ({"finished": "no"}, r"`\$\.finished`"),
    "threads": ({"threads": 0}, r"`\$\.threads`"),
    "data": ({"data": "mnist"}, r"`\$\.data`"),
    "network": ({"network": [1]}, r"`\$\.network`"),
    "recipe": ({"recipe": {"batch_size": "all"}}, r"`\$\.recipe\.batch_size`"),
    "parent": ({"epochs": {"0": {"file": "../outside.safetensors"}}}, "no file beside it"),
    "absolute": ({"epochs": {"0": {"file": "/etc/passwd"}}}, "no file beside it"),
    "link": ({"epochs": {"0": {"file": "link.safetensors"}}}, "out of its folder"),
    "no epochs": ({"epochs": {}}, "names no checkpoints"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_does_not_hold(kind, recorded):
    change, words = MANIFESTS[kind]
    outside = recorded.parent / "outside.safetensors"
    outside.write_bytes(save({"w": torch.ones(2)}))
    (recorded / "link.safetensors").symlink_to(outside)
    path = recorded / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.open_series(recorded)
    assert str(recorded) in str(caught.value) or kind == "no epochs"


@pytest.mark.parametrize("key", ["data", "network", "recipe", "threads", "finished", "unit"])
def test_nothing_of_a_manifest_is_null(key, recorded):
    path = recorded / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: None}))
    with pytest.raises(CheckpointError, match=rf"got `null` - at `\$\.{key}`"):
        checkpoints.open_series(recorded)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/b", "a\\b", "~", ".", "a\0b"])
def test_a_manifest_names_no_path_as_its_data(name, recorded):
    path = recorded / "manifest.json"
    data = {"name": name, "sha256": "ab"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
    series = checkpoints.open_series(recorded)
    with pytest.raises(CheckpointError, match="which is a path, and is not opened"):
        _ = series.data_name
    data["name"] = "cifar10+classes=0,1+size=5000@1"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
    assert checkpoints.open_series(recorded).data_name == data["name"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**6, b'{"format":' * 10**5])
def test_a_manifest_that_is_none(content, recorded):
    path = recorded / "manifest.json"
    path.write_bytes(content)
    for use in (checkpoints.open_series, lambda folder: checkpoints.SeriesWriter(folder, {})):
        with pytest.raises(CheckpointError, match="is not the manifest of a layerscope series"):
            use(recorded)


def test_a_manifest_that_is_a_pipe_or_a_folder(recorded):
    path = recorded / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="named pipe"):
        checkpoints.open_series(recorded)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="a folder"):
        checkpoints.open_series(recorded)


# Adapters


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "expected `object`"),
        ({}, "missing required field `peft_type`"),
        ({"peft_type": "LORA", "lora_alpha": "8"}, r"`\$\.lora_alpha`"),
        ({"peft_type": "LORA", "base_model_name_or_path": 3}, r"`\$\.base_model_name_or_path`"),
        ({"peft_type": "LORA"}, "does not say what it was trained on"),
        ({"peft_type": "LORA", "base_model_name_or_path": "SELF"}, "leads to no network"),
        ({"peft_type": "LORA", "base_model_name_or_path": "x" * 300}, "x{300}"),
    ],
)
def test_an_adapter_that_does_not_hold(config, words, tmp_path):
    said = json.dumps(config).replace("SELF", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(said)
    (tmp_path / "adapter_model.safetensors").write_bytes(save({"w": torch.ones(1)}))
    with pytest.raises(LayerscopeError, match=words):
        checkpoints.open_checkpoint(tmp_path, "here")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(", "(a|a)*b", ".*.*.*.*.*x"])
def test_patterns_of_an_adapter_that_would_take_for_ever(pattern, tmp_path):
    config = {"peft_type": "LORA", "alpha_pattern": {pattern: 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model." + "a" * 60
    parts = {f"{name}.lora_A.weight": torch.ones(1, 2), f"{name}.lora_B.weight": torch.ones(2, 1)}
    (tmp_path / "adapter_model.safetensors").write_bytes(save(parts))
    held = {f"{'a' * 60}.weight": torch.ones(2, 2)}
    base = checkpoints.open_checkpoint(held, "base")
    source = checkpoints.open_checkpoint(tmp_path, "here", base)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json has the pattern"):
        source.read(list(held))
