"""Places to write to that were mistyped: one message that names them, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from layerscope import results, testing
from layerscope.cli import main

SLOW = pytest.mark.slow

FILES = {
    "a folder": "folder{end}",
    "a folder, by its slash": "folder{end}/",
    "below a file": "file/x{end}",
    "below a file, by two": "file/more/x{end}",
    "a link to itself": "loop{end}",
    "below a link to itself": "loop{end}/x{end}",
    "300 letters": "x" * 300 + "{end}",
    "letters of two bytes": "ä" * 127 + "{end}",
    "a folder of 300 letters": "x" * 300 + "/x{end}",
    "a path of 6,000 letters": "d/" * 3000 + "x{end}",
    "NUL": "a\0b{end}",
    "half a surrogate": "\ud800{end}",
    "this folder": ".",
    "the one above": "..",
}
"""Of a file; `end` is its suffix."""

COMMANDS = {
    "show html": (["show", "sweep.nc", "--html", "{}"], ".html"),
    "show png": (["show", "sweep.nc", "--png", "{}"], ".png"),
    "report": (["report", "sweep.nc", "-o", "{}"], ".html"),
    "gallery html": (["gallery", "runs", "-o", "{}"], ".html"),
    "gallery md": (["gallery", "runs", "-o", "{}"], ".md"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with what may be in the way."""
    monkeypatch.chdir(tmp_path)
    for end in (".html", ".png", ".md", ""):
        (tmp_path / f"folder{end}").mkdir()
        (tmp_path / f"folder{end}" / "kept.txt").write_text("mine")
        (tmp_path / f"loop{end}").symlink_to(f"loop{end}")
    (tmp_path / "file").write_text("mine")
    results.save(testing.dataset(layers=2), tmp_path / "sweep.nc")
    run = tmp_path / "runs" / "fcn-mnist" / "small"
    run.mkdir(parents=True)
    about = {"experiment": "fcn-mnist", "parameters": {}, "files": {}, "seconds": 1.0}
    (run / "manifest.json").write_text(json.dumps(about))
    return tmp_path


def contents(place):
    """All that lies below a folder, with what is in it."""
    found = {}
    for top, folders, names in os.walk(place):
        found |= {os.path.join(top, name): None for name in folders}  # noqa: PTH118
        for name in names:
            path = Path(top, name)
            if not path.is_symlink():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = str(path.readlink())
    return found


def refused(capsys, command):
    """What the command line says where it refuses."""
    capsys.readouterr()
    status = main(command)
    said = capsys.readouterr().err
    assert status == 1, (command, status, said)
    assert "Nobody thought of this" not in said, said
    return said


def named(path, said):
    """Whether a message shows a path, or the start of a long one."""
    start = path[:30].rstrip("/")
    return any(each in said for each in (start, ascii(start)[1:-1], repr(start)[1:-1]))


def cases(commands, kinds, light):
    """Every command with every kind; those that are not light are slow together, but for one."""
    some = [(command, "below a file") for command in ("show png", "export", "prune")]
    return [
        pytest.param(
            command, kind, marks=() if command in light or (command, kind) in some else SLOW
        )
        for command in commands
        for kind in kinds
    ]


@pytest.mark.parametrize(
    ("command", "kind"), cases(COMMANDS, FILES, {"gallery html", "gallery md"})
)
def test_a_file_that_can_not_be_written_is_told_and_nothing_is_half_written(
    place, capsys, command, kind
):
    words, end = COMMANDS[command]
    path = FILES[kind].format(end=end)
    before = contents(place)
    said = refused(capsys, [word.format(path) for word in words])
    assert named(path, said), said
    assert contents(place) == before


FOLDERS = {
    "a file": "file",
    "a file, by its slash": "file/",
    "below a file": "file/x",
    "below a file, by two": "file/more/x",
    "a link to itself": "loop",
    "below a link to itself": "loop/x",
    "300 letters": "x" * 300,
    "a folder of 300 letters": "x" * 300 + "/x",
    "a path of 6,000 letters": "d/" * 3000 + "x",
    "NUL": "a\0b",
    "half a surrogate": "\ud800",
}
"""Of a folder."""

TINY = ["--data", "news", "--data-root", ".", "--data-option", "length=16", "--device", "cpu"]
MAKERS = {
    "prune": ["prune", "tiny", *TINY, "--blocks", "1", "--metrics", "loss", "--out", "{}"],
    "export": ["export", "tiny", "{}", *TINY, "--without", "1"],
    "sweep": ["sweep", "tiny", *TINY, "--out", "{}"],
    "explore out": ["explore", "--out", "{}"],
    "explore": ["explore", "{}"],
    "train": ["train", "fcn-1x8", "--data", "mnist-5k", "--epochs", "1", "--out", "{}"],
    "reproduce": ["reproduce", "fcn-mnist", "--scale", "smoke", "--out", "{}"],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny Llama of two blocks with a tokenizer of letters, and a few lines of text."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    top = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=128, max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(top / "tiny")
    letters = {chr(code): code for code in range(128)}
    letterwise = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    letterwise.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=letterwise, unk_token="?", eos_token="\n"
    ).save_pretrained(top / "tiny")
    (top / "news").mkdir()
    for part in ("train", "valid", "test"):
        (top / "news" / f"{part}.txt").write_text("Some words.\nAnd some more.\nEnough.\n")
    return top


@pytest.mark.parametrize(("command", "kind"), cases(MAKERS, FOLDERS, {"explore", "explore out"}))
def test_a_folder_that_can_not_be_made_is_told_and_nothing_is_half_written(
    place, tiny, capsys, command, kind, monkeypatch
):
    monkeypatch.setattr("layerscope.jupyter.serve", lambda *_, **__: pytest.fail("it was opened"))
    for name in ("tiny", "news"):
        (place / name).symlink_to(tiny / name)
    path = FOLDERS[kind]
    before = contents(place)
    said = refused(capsys, [word.format(path) for word in MAKERS[command]])
    assert named(path, said), said
    assert contents(place) == before
