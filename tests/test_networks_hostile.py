"""Tokenizers and folders of networks that were made to do harm end in our error."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from layerscope.core import networks
from layerscope.core.networks._tokenizers import require_tame
from layerscope.errors import CheckpointError, DataError
from layerscope.jupyter._reader import reader_of
from layerscope.zoo.data import Tokenizer

LINES = ["a dog, a cat", "a dog"]


@pytest.fixture(scope="module")
def sound():
    """JSON of a small tokenizer, as a mapping."""
    return json.loads(Tokenizer.train(LINES, 260).json)


def replace(content, **pattern):
    kind, text = next(iter(pattern.items()))
    return {"type": "Replace", "pattern": {kind: text}, "content": content}


def sequence(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(text):
    table = struct.pack("<L", 4) + bytes(4) + text + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def template(count, ids):
    piece = {"SpecialToken": {"id": "x", "type_id": 0}}
    special = {"x": {"id": "x", "ids": [0] * ids, "tokens": ["<eol>"] * ids}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [*[piece] * count, text],
            "pair": [], "special_tokens": special}  # fmt: skip


def added(text, count, number="{}"):
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 260 + n, "content": number.format(n) + text, **rest} for n in range(count)]


def prepend(text):
    return {"type": "Prepend", "prepend": text}


def unigram(vocab):
    return {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": vocab}


DOUBLE = replace("aa", String="a")

WILD = {
    # Doubled 33 times, a letter is 8 GB.
    "normaliser": ({"normalizer": sequence(*[DOUBLE] * 33)}, "8,589,934,592 times"),
    "normaliser-regex": ({"normalizer": replace("x" * 100, Regex="")}, "101 times"),
    "normaliser-long": ({"normalizer": prepend("x" * 10**6)}, "1,000,000 times"),
    "normaliser-nested": (
        {"normalizer": sequence(sequence(*[DOUBLE] * 4),
                                sequence(*[DOUBLE] * 4))},
        "256 times",
    ),
    "normaliser-steps": ({"normalizer": sequence(*[{"type": "NFKC"}] * 1000)}, "1,001 steps"),
    "charsmap": ({"normalizer": charsmap(b"x" * 10**6)}, "times as long"),
    "decoder": (
        {"decoder": {"type": "Sequence", "decoders": [DOUBLE] * 33}},
        "8,589,934,592 times",
    ),
    "pattern": ({"pre_tokenizer": split("(a+)+$")}, "may take for ever"),
    "pattern-choice": ({"pre_tokenizer": split("(?:a|aa)*b")}, "may take for ever"),
    "template": ({"post_processor": template(200, 10_000)}, "tokens around a text"),
    "added": ({"added_tokens": added("x" * 1000, 600)}, "added tokens have"),
    "unigram": ({"model": unigram([["x" * 2**22, 0.0]])}, "4,194,304 branches"),
    # No two evaluations would see the same tokens.
    "dropout": ({"model": {"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []}},
                r"merges at random \(dropout 0.1\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WILD)
def test_a_tokenizer_that_would_blow_up_is_refused(kind, sound, tmp_path):
    change, words = WILD[kind]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(sound | change))
    for read in (Tokenizer.load, reader_of):
        with pytest.raises(DataError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


BROKEN = {
    "nothing": {"model": None},
    "model": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
    "prefix": {"model": {"type": "BPE", "vocab": {"a": 0, "é": 1}, "merges": [["a", "é"]],
                         "continuing_subword_prefix": "xyz"}},
    "unigram": {"model": {"type": "Unigram", "unk_id": 7, "vocab": []}},
    "normaliser": {"normalizer": {"type": "None such"}},
    "charsmap": {"normalizer": charsmap(b"")},
    "no charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "short charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////////"}},
    "pattern": {"pre_tokenizer": split("(")},
    "numbers": {"added_tokens": [{"id": 2**70, "content": "x"}]},
    "list": {"added_tokens": 3},
    "truncation": {"truncation": {"direction": "Right", "max_length": 2, "stride": 5,
                                  "strategy": "LongestFirst"}},
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_tokenizer_that_is_broken_is_refused_or_works(kind, sound, tmp_path):
    """Also where Rust panics, whose exception is no `Exception`."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(sound | BROKEN[kind]))
    if kind == "truncation":  # which does no harm here
        found = Tokenizer.load(path).encode(LINES)
        assert found.tolist() == Tokenizer(json.dumps(sound)).encode(LINES).tolist()
        return
    with pytest.raises(DataError) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b'{"model": ' * 10**5, b'{"a": 1}', b"[]"])
def test_json_that_is_no_tokenizer(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    for read in (Tokenizer.load, reader_of):
        with pytest.raises(DataError, match=r"tokenizer\.json"):
            read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="named pipe"):
        Tokenizer.load(path)


def test_padding_and_cutting_that_a_file_asks_for_are_left_out(sound, tmp_path):
    path = tmp_path / "tokenizer.json"
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
               "pad_id": 0, "pad_type_id": 0, "pad_token": "<eol>"}  # fmt: skip
    cut = {"direction": "Right", "max_length": 1, "stride": 0, "strategy": "LongestFirst"}
    path.write_text(json.dumps(sound | {"padding": padding, "truncation": cut}))
    plain = Tokenizer(json.dumps(sound))
    assert Tokenizer.load(path).encode(LINES).tolist() == plain.encode(LINES).tolist()
    assert reader_of(path).tokens("a dog") == plain.encode(["a dog"])[:-1].tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": sequence({"type": "NFKC"}, replace(" ", Regex=" {2,}"))},
        {"normalizer": sequence(prepend("▁"), replace("▁", String=" "))},
        {"pre_tokenizer": split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")},
        {"pre_tokenizer": split(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\s+")},
        {"post_processor": template(2, 1)},
    ],
)  # fmt: skip
def test_what_tokenizers_in_use_have_is_not_refused(change, sound):
    require_tame(json.dumps(sound | change).encode(), "here", DataError)


def test_tokenizers_take_little_memory(sound, tmp_path):
    """The largest that is let through, of each kind."""
    words = [["<eol>", 0.0], *([f"{n:07d}" * 10, -1.0] for n in range(22_000))]
    largest = {
        "added": {"added_tokens": sound["added_tokens"] + added("x" * 90, 5000, "{:07d}")},
        "unigram": {"model": unigram(words)},
    }
    paths = []
    for name, change in largest.items():
        paths.append(str(tmp_path / f"{name}.json"))
        (tmp_path / f"{name}.json").write_text(json.dumps(sound | change))
    code = """
        import json, sys, resource
        from layerscope.errors import LayerscopeError
        from layerscope.zoo.data import Tokenizer
        Tokenizer.train(["a"], 260)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in json.load(sys.stdin):
            try:
                Tokenizer.load(path).encode(["a dog"])
            except LayerscopeError as error:
                print(error, file=sys.stderr)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], input=json.dumps(paths),
                          capture_output=True, text=True, timeout=300, check=True)  # fmt: skip
    assert int(done.stdout) < 500, done.stderr
    assert done.stderr == ""


# Folders as Hugging Face writes them


@pytest.fixture
def folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    place = tmp_path / "net"
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    return place


def changed(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def test_a_sound_folder_opens(folder):
    assert networks.open_network(folder).config.num_hidden_layers == 2


CONFIGS = {
    "layers": ({"num_hidden_layers": 10**9}, "says num_hidden_layers = 1,000,000,000"),
    "width": ({"hidden_size": 2**40}, "says hidden_size"),
    "vocabulary": ({"vocab_size": 2**31}, "says vocab_size"),
    "much wider": ({"hidden_size": 10**6}, "describes a network of"),
    "many more words": ({"vocab_size": 10**7}, "describes a network of 160,"),
    "type": ({"model_type": 3}, r"expected `str \| null`, got `int` - at `\$\.model_type`"),
    "unknown": ({"model_type": "no-such"}, "can't open"),
    "classes": ({"architectures": [3]}, r"`\$\.architectures\[0\]`"),
    "heads": ({"num_attention_heads": 0}, "can't open"),
    "negative": ({"hidden_size": -8}, "can't open"),
    "text": ({"hidden_size": "eight"}, "can't open"),
    "rope": ({"rope_parameters": [1]}, "can't open"),
    "other": ({"intermediate_size": 64}, "can't open|lacks"),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_a_configuration_that_can_not_be(kind, folder):
    change, words = CONFIGS[kind]
    with pytest.raises(CheckpointError, match=words) as caught:
        networks.open_network(changed(folder, **change))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("harm", ["pipe", "deep", "empty", "binary"])
def test_a_file_of_a_folder_that_is_none(name, harm, folder):
    path = folder / name
    path.unlink(missing_ok=True)
    if harm == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({"deep": b'{"a":' * 10**5, "empty": b"", "binary": b"\xff\0"}[harm])
    with pytest.raises(CheckpointError) as caught:
        networks.open_network(folder)
    assert str(folder) in str(caught.value)


def test_weights_that_lie_elsewhere(folder, tmp_path):
    (folder / "model.safetensors").replace(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to("../elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="out of its folder"):
        networks.open_network(folder)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "~nobody-of-this-name/net", "./" + "y" * 300])
def test_names_of_no_network(name):
    with pytest.raises(CheckpointError, match="there is no network"):
        networks.open_network(name)
    assert not networks.is_network(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": sequence(*[DOUBLE] * 33)}, "8,589,934,592 times"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "can't open"),
    ],
)
def test_the_tokenizer_of_a_folder(change, words, sound, folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(sound | change))
    about = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    for use in (networks.open_tokenizer, reader_of):
        with pytest.raises(CheckpointError, match=words) as caught:
            use(folder)
        assert str(folder) in str(caught.value)
    path.write_text(json.dumps(sound))
    assert networks.open_tokenizer(folder).encode("a dog") == reader_of(folder).tokens("a dog")


def test_a_network_of_eight_bits_is_none_of_more(folder):
    state = {"w": torch.ones(2).to(torch.float8_e4m3fn)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=str(folder)):
        networks.open_network(folder)
