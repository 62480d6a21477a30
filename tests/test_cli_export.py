"""Pruning and exporting a language model on the command line."""

from __future__ import annotations

import json

import pytest
import torch

import layerscope
from layerscope.cli import main

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.errors.SweepWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama of four blocks with a tokenizer of letters."""
    path = tmp_path_factory.mktemp("networks") / "tiny"
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=128, max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    letters = {chr(code): code for code in range(128)}
    model = tokenizers.models.WordLevel(letters, unk_token="?")
    letterwise = tokenizers.Tokenizer(model)
    letterwise.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letterwise, unk_token="?", eos_token="\n"
    )
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """What names a few lines of text."""
    root = tmp_path_factory.mktemp("data")
    (root / "news").mkdir()
    for part in ("train", "valid", "test"):
        (root / "news" / f"{part}.txt").write_text("Some words.\nAnd some more.\nEnough.\n")
    return ["--data", "news", "--data-root", str(root), "--data-option", "length=16"]


def test_what_was_pruned_is_exported(folder, texts, tmp_path, capsys):
    out = tmp_path / "path"
    command = [
        "prune", str(folder), *texts, "--out", str(out), "--blocks", "2", "--metrics", "loss",
        "--no-show-progress", "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    path = layerscope.open_dataset(out)
    first, second = path.removed.values[1:].tolist()
    assert f"{float(path.value[2, 0]):.4g}" in shown
    assert first in shown
    small = tmp_path / "small"
    export = ["export", str(folder), str(small), *texts, "--device", "cpu", "--metrics", "loss"]
    assert main([*export, "--result", str(out)]) == 0
    shown = capsys.readouterr().out
    record = json.loads((small / "layerscope.json").read_text())
    assert {*record["removed"]} == {first, second}
    assert record["measured"]["loss"] == record["of_the_sweep"]["loss"] == float(path.value[2, 0])
    assert f"{record['measured']['loss']:.6g}" in shown
    assert "tokens a second" in shown
    assert transformers.AutoModelForCausalLM.from_pretrained(small).config.num_hidden_layers == 2
    assert record["tokenizer"]
    export[2] = str(tmp_path / "one")
    assert main([*export, "--result", str(out), "--steps", "1"]) == 0
    assert json.loads((tmp_path / "one" / "layerscope.json").read_text())["removed"] == [first]


def test_a_path_fits_a_terminal_of_eighty_columns(folder, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    metrics = ["error", "loss", "perplexity"]
    command = [
        "prune", str(folder), *texts, "--out", str(tmp_path / "path"), "--blocks", "1", "--metrics",
        *metrics, "--no-show-progress", "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    path = layerscope.open_dataset(tmp_path / "path")
    assert max(map(len, lines[1:])) <= 80
    rows = [line for line in lines if str(path.removed.values[1]) in line]
    assert len(rows) == len(metrics)
    for metric, row in zip(metrics, rows, strict=True):
        at = path.sel(step=1, metric=metric)
        assert f"{float(at.value):.4g}" in row
        assert f"{float(at.lower):.2g} to {float(at.upper):.2g}" in row


def test_of_many_ranges_the_nearest_are_named(folder, texts, tmp_path, capsys):
    export = ["export", str(folder), str(tmp_path / "no"), *texts, "--device", "cpu", "--without"]
    for name, words in (("nope", "There are 4 blocks"), ("model.layer.2", "'model.layers.2'")):
        assert main([*export, name]) == 1
        told = capsys.readouterr().err
        assert words in told
        assert "model.layers.1-2," not in told


def test_blocks_go_by_number_and_mistakes_get_an_answer(folder, texts, tmp_path, capsys):
    export = ["export", str(folder), str(tmp_path / "few"), *texts, "--device", "cpu"]
    assert main([*export, "--without", "0", "2-3"]) == 0
    record = json.loads((tmp_path / "few" / "layerscope.json").read_text())
    assert record["kept"] == ["model.layers.1"]
    capsys.readouterr()
    export[2] = str(tmp_path / "no")
    for more, words in (
        (["--without", "7"], "block or range"),
        (["--without", "1", "--margin", "0.1"], "margin goes with a Dataset"),
        (["--without", "1", "--steps", "2"], "--steps goes with --result"),
        (["--result", str(tmp_path / "few")], "no Dataset"),
    ):
        assert main([*export, *more]) == 1
        assert words in capsys.readouterr().err
    assert main(["export", str(folder), str(tmp_path / "no"), "--without", "1"]) == 1
    assert "name it: --data" in capsys.readouterr().err
