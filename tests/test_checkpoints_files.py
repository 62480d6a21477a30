"""Checkpoint files come back bit for bit, or are refused by name; none of them runs code."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import sys
import types
import warnings
import zipfile

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save
from torch import nn

from layerscope.base.tensors import fill
from layerscope.core.checkpoints import _safe, _source as files
from layerscope.errors import CheckpointError, ExtraError

STATE = {
    "a.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "a.bias": torch.tensor([0.0, -0.0, float("nan")]),
    "half": torch.tensor([1.5, -2.25], dtype=torch.float16),
    "brain": torch.tensor([[1.5], [3e38]], dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "count": torch.tensor(7),
}


def write(path, state, kind):
    if kind == "safetensors":
        path = path / "state.safetensors"
        path.write_bytes(save(state, metadata={"epoch": "3"}))
    else:
        path = path / "state.pt"
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ("safetensors", "zip", "legacy")


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def opened(path):
    """Everything that a user of the file would do with it."""
    source = files.open_checkpoint(path, "here")
    found = source.signature()
    source.digest()
    return source.read(list(found))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_and_type_comes_back(tmp_path, kind):
    source = files.open_checkpoint(write(tmp_path, STATE, kind), "here")
    assert source.signature() == {n: (tuple(t.shape), t.dtype) for n, t in STATE.items()}
    found = source.read(list(STATE))
    assert list(found) == list(STATE)
    assert all(same(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_is_a_copy(tmp_path, kind):
    source = files.open_checkpoint(write(tmp_path, STATE, kind), "here")
    digest = source.digest()
    first = source.read(["a.weight"])["a.weight"]
    first.zero_()
    assert same(source.read(["a.weight"])["a.weight"], STATE["a.weight"])
    assert source.digest() == digest
    held = files.InMemory(STATE, "here")
    held.read(["a.weight"])["a.weight"].zero_()
    assert STATE["a.weight"].any()


def test_what_was_read_lies_in_memory_as_torch_lays_it(tmp_path):
    """Inside a file nothing is aligned, and the last bits of a matrix product depend on that."""
    state = {f"w{index}": torch.ones(index, dtype=torch.uint8) for index in range(1, 20)}
    found = opened(write(tmp_path, state, "safetensors"))
    assert {tensor.data_ptr() % 64 for tensor in found.values()} == {0}


def test_one_layer_is_read_without_the_rest(tmp_path, monkeypatch):
    read = []

    def counted(tensor, file):
        read.append(tensor.numel() * tensor.element_size())
        return fill(tensor, file)

    source = files.open_checkpoint(write(tmp_path, STATE, "safetensors"), "here")
    monkeypatch.setattr(_safe, "fill", counted)
    source.signature()
    assert read == []  # a signature is that of the header
    source.read(["half"])
    assert read == [STATE["half"].numel() * STATE["half"].element_size()]


def test_tensors_that_overlap_are_refused(tmp_path):
    part = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": part, "b": part}).encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match="its tensors overlap"):
        files.open_checkpoint(path, "here")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_length_it_is_refused_by_name(tmp_path, kind):
    path = write(tmp_path, {"w": torch.ones(2, 3), "n": torch.tensor(1)}, kind)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            opened(path)
        assert str(path) in str(caught.value), length
        assert "weights_only" not in str(caught.value), length


def test_a_cut_file_says_how_long_it_should_be(tmp_path):
    path = write(tmp_path, STATE, "safetensors")
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(CheckpointError, match=f"is {size - 1:,} bytes long, expected {size:,}"):
        files.open_checkpoint(path, "here")


@pytest.mark.parametrize("kind", KINDS)
def test_with_any_bit_flipped_it_is_refused_or_read(tmp_path, kind):
    path = write(tmp_path, {"w": torch.ones(2, 3), "n": torch.tensor(1)}, kind)
    whole = path.read_bytes()
    digest = files.open_checkpoint(path, "here").digest()
    chance = random.Random(0)
    for at in range(0, len(whole), 1 + len(whole) // 700):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with warnings.catch_warnings():
            # torch warns of another pickle protocol, and reads on.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            try:
                opened(path)
            except CheckpointError as error:
                said = str(error)
            else:
                said = ""
                assert files.open_checkpoint(path, "here").digest() != digest
        assert not said or str(path) in said
        assert "weights_only" not in said


@given(content=st.binary(min_size=1, max_size=200), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_noise_is_refused_by_name(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"noise{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        with pytest.raises(CheckpointError, match="noise"):
            opened(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"w": 1}',
        b'{"w": {"data_offsets": []}}',
        b'{"w": {"data_offsets": [0.24]}}',
        b'{"w": {"data_offsets": [0, "24"]}}',
        b'{"w": {"data_offsets": [0, null]}}',
        b'{"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}',
        b"\xff" * 20,
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        opened(path)


def test_a_header_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match=r"huge\.safetensors \(10 bytes\) is truncated"):
        files.open_checkpoint(path, "here")


def test_a_type_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(save({"w": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(CheckpointError, match="type C64; layerscope reads BOOL"):
        opened(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"<HTML><head>", "an HTML page"),
    ],
)
def test_what_is_no_checkpoint_at_all_is_recognised(tmp_path, suffix, content, message):
    path = tmp_path / f"download{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"download\{suffix} is.*{message}|{message}"):
        files.open_checkpoint(path, "here")


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=f"the folder {tmp_path} holds no weights; .*model.safet"
    ):
        files.open_checkpoint(tmp_path, "here")
    with pytest.raises(CheckpointError, match=r"can't read .*gone\.pt: No such file"):
        files.open_checkpoint(tmp_path / "gone.pt", "here")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("how", ["pickle", "zip", "legacy", "beside weights"])
def test_code_in_a_file_is_never_run(tmp_path, how):
    marker, path = tmp_path / "executed", tmp_path / "trap.pt"
    content = {"w": torch.ones(1), "x": Trap(marker)} if how == "beside weights" else Trap(marker)
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None  # torch's advice is not shown above ours
    assert caught.value.__suppress_context__
    # The trap is a real one:
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"holds more than weights.*state_dict") as caught:
        opened(tmp_path / "whole.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_may_stand_under_a_key_beside_other_tensors(tmp_path, key):
    path = tmp_path / "training.pt"
    torch.save({"epoch": 3, "rng": torch.get_rng_state(), key: STATE}, path)
    assert opened(path).keys() == STATE.keys()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(1)], torch.ones(1), {}, 3])
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pt holds .* and no state dict"):
        opened(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["shorter", "rewritten", "gone"])
def test_a_file_that_changes_while_open_is_refused(tmp_path, kind, change):
    path = write(tmp_path, STATE, kind)
    source = files.open_checkpoint(path, "here")
    source.read(["half"])
    if change == "shorter":
        os.truncate(path, path.stat().st_size // 2)
    elif change == "rewritten":
        os.utime(path, ns=(0, 0))
    else:
        path.unlink()
    # A mapped file that was cut short would kill the process here.
    for use in (lambda: source.read(["half"]), source.signature, source.digest):
        with pytest.raises(CheckpointError, match=r"changed while it was in use|can't read"):
            use()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, "here is a int; give a state dict"),
        ({}, "here holds nothing, and no state dict; save or give"),
        ({"state_dict": {"w": 1}}, "here holds state_dict, and no state dict"),
        (None, "here is a NoneType"),
    ],
)
def test_what_is_no_source_is_refused(item, message):
    with pytest.raises(CheckpointError, match=message):
        files.open_checkpoint(item, "here")


def test_sources_of_all_kinds_agree(tmp_path):
    net = nn.Linear(3, 2)
    a = files.open_checkpoint(net, "here")
    b = files.open_checkpoint(net.state_dict(), "here")
    c = files.open_checkpoint(str(write(tmp_path, net.state_dict(), "zip")), "here")
    assert files.open_checkpoint(c, "elsewhere") is c
    assert a.signature() == b.signature() == c.signature()
    assert a.digest() == b.digest()


# Records of a zip, which may be packed, or shorter than what lies in them


def rewritten(path, change):
    """Write the zip of a .pt file anew, each record as `change(name, content)` gives it."""
    with zipfile.ZipFile(path) as file:
        records = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            kind, changed = change(name, content)
            file.writestr(name, changed, kind)
    return path


LARGE = {
    "first": torch.randn(64, 64, generator=torch.Generator().manual_seed(1)),
    # Room behind it, in which a map would go on reading.
    "second": torch.arange(40_000.0),
}


@pytest.mark.parametrize("packed", ["data/0", "data/1", "data.pkl", "data/"])
def test_packed_records_are_unpacked(tmp_path, packed):
    def pack(name, content):
        return zipfile.ZIP_DEFLATED if packed in name else zipfile.ZIP_STORED, content

    torch.save(LARGE, tmp_path / "a.pt")
    found = opened(rewritten(tmp_path / "a.pt", pack))
    assert all(same(found[name], LARGE[name]) for name in LARGE)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_record_that_is_too_short_is_refused(tmp_path, kind, share):
    def cut(name, content):
        return kind, content[: int(share * len(content))] if name.endswith("data/0") else content

    torch.save(LARGE, tmp_path / "a.pt")
    path = rewritten(tmp_path / "a.pt", cut)
    message = rf"a\.pt is damaged: its record a/data/0 holds {int(share * 16384):,} bytes of 16,384"
    with pytest.raises(CheckpointError, match=message):
        opened(path)


TYPES = [torch.float64, torch.bfloat16, torch.complex64, torch.int16, torch.bool, torch.uint8]


@pytest.mark.parametrize("dtype", TYPES)
def test_whole_records_of_any_type_are_mapped(tmp_path, dtype, monkeypatch):
    seen, load = [], torch.load

    def watched(*args, **options):
        seen.append(options["mmap"])
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    state = {"w": torch.arange(20).to(dtype).reshape(4, 5).T, "tied": torch.ones(3, dtype=dtype)}
    state["again"] = state["tied"][1:]
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    path = tmp_path / "a.pt"
    torch.save({"model": state, "optimizer": optimizer, "shape": torch.Size([2])}, path)
    found = opened(path)
    assert all(same(found[name], state[name]) for name in state)
    assert set(seen) == {True}


# Several files, folders, and the hub


def shard(folder, kind="safetensors", files=2):
    """Write STATE over several files with an index, as Hugging Face does; return the index."""
    folder.mkdir(exist_ok=True)
    stem, suffix = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    where = {}
    for number in range(files):
        part = dict(list(STATE.items())[number::files])
        name = f"{stem}-{number + 1:05d}-of-{files:05d}.{suffix}"
        where |= dict.fromkeys(part, name)
        if kind == "bin":
            torch.save(part, folder / name)
        else:
            (folder / name).write_bytes(save(part))
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["folder", "index"])
def test_weights_in_several_files_are_one_checkpoint(tmp_path, kind, given):
    index = shard(tmp_path, kind)
    source = files.open_checkpoint(tmp_path if given == "folder" else index, "here")
    assert source.signature().keys() == STATE.keys()
    found = source.read(list(STATE))
    assert all(same(found[name], STATE[name]) for name in STATE)
    assert list(source.read(["half", "a.bias"])) == ["half", "a.bias"]
    digest = source.digest()
    one = sorted(tmp_path.glob("*-00002-*"))[0]
    content = bytearray(one.read_bytes())
    content[-1] ^= 1
    one.write_bytes(content)
    assert files.open_checkpoint(index, "here").digest() != digest


def test_one_layer_of_several_files_is_read_from_its_own_alone(tmp_path):
    source = files.open_checkpoint(shard(tmp_path), "here")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert same(source.read(["a.weight"])["a.weight"], STATE["a.weight"])
    with pytest.raises(CheckpointError, match=r"can't read .*model-00002-of-00002"):
        source.read(["a.bias"])


def test_an_index_that_does_not_hold_is_refused(tmp_path):
    index = shard(tmp_path)
    entries = json.loads(index.read_text())["weight_map"]
    for name in ("../model-00001-of-00002.safetensors", "/etc/passwd", index.name, ".."):
        index.write_text(json.dumps({"weight_map": {"a.weight": name}}))
        with pytest.raises(CheckpointError, match=r"no file beside it|is one itself"):
            files.open_checkpoint(index, "here")
    for content in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\xff"):
        index.write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError, match="is not an index of weights"):
            files.open_checkpoint(index, "here")
    index.write_text(json.dumps({"weight_map": entries | {"b": "model-3.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"3 files, of which 1 are missing.*model-3\."):
        files.open_checkpoint(index, "here")
    index.write_text(json.dumps({"weight_map": entries | {"b": entries["half"]}}))
    with pytest.raises(CheckpointError, match=r"says that b is in model-00001.*it is not"):
        files.open_checkpoint(index, "here").signature()


def test_the_safe_form_in_a_folder_comes_first(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert opened(tmp_path)["w"] == 0
    (tmp_path / "model.safetensors").write_bytes(save({"w": torch.ones(1)}))
    assert opened(tmp_path)["w"] == 1


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub without a network: what is asked of it, and what it answers with."""
    asked = []

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        folder = tmp_path / "cache" / repo / revision
        if not folder.is_dir():
            raise FileNotFoundError(f"Revision Not Found for {revision}.\nURL: …")
        return str(folder)

    stub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return asked


def test_a_revision_is_fetched_in_the_safe_form_where_there_is_one(tmp_path, hub):
    for step in (0, 1000):
        folder = tmp_path / "cache" / "EleutherAI" / "pythia-70m" / f"step{step}"
        folder.mkdir(parents=True)
        if step:
            torch.save({"w": torch.full((1,), step)}, folder / "pytorch_model.bin")
        else:
            (folder / "model.safetensors").write_bytes(save({"w": torch.zeros(1)}))
        assert opened(f"EleutherAI/pythia-70m@step{step}")["w"] == step
    assert [revision for _, revision, _ in hub] == ["step0", "step1000", "step1000"]
    assert "model.safetensors" in hub[1][2]
    assert all("*" not in pattern.partition("-")[0] for _, _, wanted in hub for pattern in wanted)


def test_a_revision_that_is_not_there_is_named(tmp_path, hub):
    with pytest.raises(CheckpointError, match=r"can't fetch org/net@main: Revision Not Found") as e:
        files.open_checkpoint("org/net@main", "here")
    assert "URL" not in str(e.value)
    (tmp_path / "cache" / "org" / "net" / "main").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="org/net@main holds no weights"):
        files.open_checkpoint("org/net@main", "here")
    assert len(hub) == 3


def test_without_the_hubs_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExtraError, match=r'install "layerscope\[huggingface\]"'):
        files.open_checkpoint("org/net@step1", "here")


def test_a_file_that_is_there_comes_before_the_hub(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    torch.save(STATE, tmp_path / "org" / "net@2")
    assert opened("org/net@2").keys() == STATE.keys()
    assert hub == []
