"""Texts as rows of tokens, in a tokenizer of layerscope's own or one of transformers'."""

from __future__ import annotations

import pytest
import torch

import layerscope
from layerscope import data, errors
from layerscope.zoo.data import Tokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["a dog, a cat", "", "a dog", "the cat sat on the mat and saw a dog and a cat"]


@pytest.fixture(scope="module")
def fast():
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<end>"],
        show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    model.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>")


def test_documents_are_put_one_after_the_other_and_cut(fast):
    rows = data.tokenize(TEXTS, fast, length=7)
    written = rows["input_ids"][rows["attention_mask"].bool()].tolist()
    expected = [[*fast(text)["input_ids"], fast.eos_token_id] for text in TEXTS if text]
    assert written == [token for tokens in expected for token in tokens]
    assert rows["input_ids"].shape[1] == 7
    assert rows["attention_mask"][:-1].all()
    filled = rows["attention_mask"] == 0
    assert (rows["labels"][filled] == -100).all()
    assert torch.equal(rows["labels"][~filled], rows["input_ids"][~filled])


def test_each_document_may_be_a_row_of_its_own(fast):
    rows = data.tokenize(TEXTS, fast, length=5, pack=False)
    assert len(rows["input_ids"]) == 3  # one is empty
    assert rows["input_ids"][0].tolist() == fast(TEXTS[0])["input_ids"][:5]
    assert rows["attention_mask"][1].sum() == min(len(fast("a dog")["input_ids"]), 5)


def test_a_tokenizer_of_ones_own_gives_the_same_rows():
    own = Tokenizer.train(TEXTS, vocab=280)
    rows = data.tokenize(TEXTS, own, length=6)
    assert (
        rows["input_ids"].flatten()[: len(own.encode(TEXTS))].tolist() == own.encode(TEXTS).tolist()
    )


def test_rows_are_swept_and_the_loss_is_the_networks_own(fast):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=len(fast), max_position_embeddings=64,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config).eval()
    rows = data.tokenize(TEXTS, fast, length=16)
    ds = layerscope.sweep(
        net, rows, device="cpu", perturbations=["zero"], layers=["lm_head"], show_progress=False
    )
    with torch.no_grad():
        own = net(**rows).loss.item()
    assert ds["baseline"].sel(metric="loss").item() == pytest.approx(own, rel=1e-6)


def test_data_by_name_come_in_the_tokens_of_a_network(fast):
    found = layerscope.load_data("python-docs", tokenizer=fast, length=32)
    assert found.classes == len(fast)
    assert found.tokenizer.end == fast.eos_token_id
    assert found.tokenizer.encode(["a dog"]).tolist() == [
        *fast("a dog")["input_ids"], fast.eos_token_id,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda fast: data.tokenize("a dog", fast), errors.DataError, "a list of texts"),
        (lambda fast: data.tokenize([3], fast), errors.DataError, "a text came as"),
        (lambda fast: data.tokenize([""], fast), errors.DataError, "hold no tokens"),
        (lambda _: data.tokenize(["a"], "gpt2"), errors.OptionError, "open_tokenizer"),
        (lambda fast: data.tokenize(["a"], fast, length=1), errors.OptionError, "length"),
        (lambda _: Tokenizer.of(object()), errors.OptionError, "a fast tokenizer"),
    ],
)
def test_what_is_no_text_or_tokenizer_is_refused(call, kind, words, fast):
    with pytest.raises(kind, match=words):
        call(fast)


def test_a_language_model_is_swept_from_the_command_line(fast, tmp_path, monkeypatch, capsys):
    from layerscope.cli import main

    monkeypatch.chdir(tmp_path)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=len(fast), max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained("net")
    fast.save_pretrained("net")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 20))
    words = "--data ./text.txt --data-option length=16 --view block --perturbations skip --no-whole"
    main(["sweep", "net", *words.split(), "--device", "cpu", "--no-show-progress"])
    ds = layerscope.open_dataset(tmp_path / "net-sweep" / "sweep.nc")
    assert "model.layers.1" in capsys.readouterr().out
    assert ds["value"].sel(layer="model.layers.0", metric="loss").notnull().all()
    assert layerscope.results.settings(ds)["call"]["model"] == "net"
    assert main(["sweep", "net"]) != 0
    assert "name it: --data NAME" in capsys.readouterr().err


def test_a_tokenizer_without_an_end_is_told_how_to_get_one(fast):
    backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    without = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(errors.OptionError, match=r"tokenizer\.eos_token = ") as refused:
        Tokenizer.of(without)
    assert "fast" not in str(refused.value).replace("Fast", "")
    without.eos_token = "<end>"
    assert Tokenizer.of(without).end == fast.eos_token_id
