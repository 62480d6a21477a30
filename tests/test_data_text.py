"""Text: nothing is lost on the way to tokens, and every token is predicted once."""

from __future__ import annotations

import functools
import math
import os
import sys

import pytest
import torch
from hypothesis import given, strategies as st

from layerscope import data
from layerscope.base import memory
from layerscope.core.batches import FixedBatches
from layerscope.errors import DataError, ExtraError, OptionError
from layerscope.zoo.data import _text as text

LINES = ["the cat sat on the mat", "the dog sat on the cat", "a mat, a cat, a dog: naïve"]


@pytest.fixture
def root(tmp_path):
    """Plain text below a root, as news."""
    folder = tmp_path / "news"
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(LINES * 20) + "\n", encoding="utf-8")
    (folder / "valid.txt").write_text("the dog sat\n\n  on the mat  \n", encoding="utf-8")
    (folder / "test.txt").write_bytes("\ufeffa naïve cat\r\nthe mat\r\n".encode())
    return tmp_path


# Tokens


@functools.cache
def trained():
    return data.Tokenizer.train(LINES, 300)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)))
def test_any_text_comes_back_as_it_was(lines):
    tokenizer = trained()
    tokens = tokenizer.encode(lines)
    assert tokens.dtype == torch.int64
    assert int((tokens == tokenizer.end).sum()) == len(lines)
    assert tokenizer.decode(tokens) == lines


def test_letters_of_the_line_end_are_text_like_any_other():
    tokenizer = data.Tokenizer.train(LINES, 300)
    tokens = tokenizer.encode(["a <eol> b"])
    assert (tokens == tokenizer.end).nonzero().flatten().tolist() == [len(tokens) - 1]
    assert tokenizer.decode(tokens) == ["a <eol> b"]


def test_the_same_lines_give_the_same_tokenizer(tmp_path):
    made = [data.Tokenizer.train(iter(LINES * 50), 275) for _ in range(3)]
    assert len({tokenizer.sha256 for tokenizer in made}) == 1
    assert made[0].vocab == 275
    assert data.Tokenizer.train(LINES * 50, 274).sha256 != made[0].sha256
    again = data.Tokenizer.load(made[0].save(tmp_path / "tokenizer.json"))
    assert again.sha256 == made[0].sha256
    assert torch.equal(again.encode(LINES), made[0].encode(LINES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "tokenizer.json is no tokenizer"),
        (b"\xff\xfe", "is not a tokenizer: byte 0 is not UTF-8"),
        (None, r"can't read .*tokenizer\.json: No such file"),
    ],
)
def test_a_broken_tokenizer_is_named(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        data.Tokenizer.load(path)


def test_a_tokenizer_of_others_needs_a_line_end(tmp_path):
    made = data.Tokenizer.train(LINES, 260)
    path = tmp_path / "other.json"
    path.write_text(made.json.replace("<eol>", "<sep>"))
    with pytest.raises(DataError, match=r"other.json is a tokenizer without the token <eol>"):
        data.Tokenizer.load(path)


def test_a_network_of_another_vocabulary_is_refused():
    tokenizer = data.Tokenizer.train(LINES, 260)
    tokenizer.check(260)
    with pytest.raises(DataError, match=r"my-lm knows 1,000 tokens and the tokenizer 260"):
        tokenizer.check(1000, "my-lm")


@pytest.mark.parametrize("vocab", [0, 256])
def test_every_byte_has_its_token(vocab):
    with pytest.raises(OptionError, match=f"vocab is {vocab}; it must be at least 257"):
        data.Tokenizer.train(LINES, vocab)


# Sequences


@given(count=st.integers(0, 40), length=st.integers(1, 12))
def test_every_token_is_a_target_once_after_the_one_before_it(count, length):
    tokens = torch.arange(1, count + 1)
    inputs, targets = text.pack(tokens, length, 0)
    assert inputs.shape == targets.shape == (math.ceil(count / length), length)
    known = targets.flatten() != -100
    assert torch.equal(targets.flatten()[:count], tokens)
    assert int(known.sum()) == count
    before = torch.cat([torch.zeros(1, dtype=torch.int64), tokens])[:count]
    assert torch.equal(inputs.flatten()[:count], before)
    assert (inputs.flatten()[count:] == 0).all()


def test_sequences_hold_the_text(root):
    news = data.load("news", root, vocab=270, length=7)
    for part, lines in (("train", LINES * 20), ("valid", ["the dog sat", "on the mat"])):
        targets = getattr(news, part).targets
        assert news.tokenizer.decode(targets[targets != -100]) == lines
    test = news.test.targets[news.test.targets != -100]
    assert news.tokenizer.decode(test) == ["a naïve cat", "the mat"]  # no mark, no \r
    assert news.shape == (7,)
    assert news.train.inputs.dtype == news.train.targets.dtype == torch.int64
    assert news.classes == news.tokenizer.vocab == 270
    assert news.name == "news+vocab=270+length=7"
    assert data.load(news.name, root).train.fingerprint == news.train.fingerprint
    held = FixedBatches(news.test, 2, torch.device("cpu"))
    assert held.count == len(news.test)
    counted = news.test.targets[news.test.targets != -100]
    assert held.chance == 1 - int(counted.bincount().max()) / len(counted)


def test_the_tokenizer_is_part_of_the_fingerprint(root, tmp_path):
    news = data.load("news", root, vocab=270, length=7)
    kept = news.tokenizer.save(tmp_path / "tokenizer.json")
    same = data.load("news", root, tokenizer=kept, length=7)
    assert same.test.fingerprint == news.test.fingerprint
    bare = data.Examples(news.test.inputs, news.test.targets)
    assert bare.fingerprint != news.test.fingerprint


def test_unigram_perplexity_is_that_of_the_frequencies(root):
    news = data.load("news", root, vocab=270, length=7)
    seen = news.train.targets[news.train.targets != -100].tolist()
    for part in ("train", "test"):
        wanted = getattr(news, part).targets.flatten().tolist()
        costs = [
            -math.log((seen.count(token) + 1) / (len(seen) + 270)) for token in wanted if token >= 0
        ]
        found = news.unigram_perplexity(part)
        assert found == pytest.approx(math.exp(sum(costs) / len(costs)), rel=1e-12)
    with pytest.raises(OptionError, match="Did you mean 'test'"):
        news.unigram_perplexity("tset")


def test_subsets_of_sequences_can_be_taken_but_labels_not_drawn(root):
    news = data.load("news", root, vocab=270, length=7, size=5, seed=1)
    assert (len(news.train), news.name) == (5, "news+vocab=270+length=7+size=5@1")
    with pytest.raises(OptionError, match="random labels can't be set"):
        news.with_random_labels(0.5)
    with pytest.raises(OptionError, match="classes can't be set"):
        news.of_classes([0, 1])


# Files


def test_python_docs_need_no_file():
    docs = data.load("python-docs", vocab=300)
    sizes = [docs.tokens(part) for part in ("train", "valid", "test")]
    assert min(sizes) > 10_000
    assert 0.6 < sizes[0] / sum(sizes) < 0.95
    assert 1 < docs.unigram_perplexity() < 300


def test_a_text_file_by_path_is_divided_by_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"line {n}" for n in range(40)))
    book = data.load(path, vocab=270, length=4)
    assert book.name == "book+vocab=270+length=4"
    parts = [book.tokenizer.decode(p.targets[p.targets >= 0]) for p in (book.valid, book.test)]
    assert parts == [["line 36", "line 37"], ["line 38", "line 39"]]


def test_another_encoding_is_named_with_its_place(root):
    path = root / "news" / "valid.txt"
    path.write_bytes("so\nnaïve".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"valid.txt is not in utf-8: byte 0xef at offset 5\. .*enc"
    ):
        data.load("news", root, vocab=270)
    path.write_bytes(b"\xff\xfea\0")
    with pytest.raises(DataError, match=r"byte 0xff at offset 0"):
        data.load("news", root, vocab=270)
    with pytest.raises(OptionError, match="no encoding 'latin-0'"):
        data.load("news", root, vocab=270, encoding="latin-0")
    for part in ("train", "valid", "test"):
        (root / "news" / f"{part}.txt").write_bytes("naïve\n".encode("latin-1"))
    news = data.load("news", root, vocab=270, encoding="latin-1")
    assert news.tokenizer.decode(news.test.targets[0][news.test.targets[0] >= 0]) == ["naïve"]


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(path, where):
    path.unlink()
    path.symlink_to(where)


@pytest.mark.parametrize("gone", ["train", "valid", "test"])
def test_a_folder_with_one_of_the_three_texts_is_no_folder_of_pictures(root, gone):
    (root / "news" / f"{gone}.txt").unlink()
    with pytest.raises(DataError, match=f"news/{gone}.txt is missing; a text needs"):
        data.load(root / "news", vocab=270)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: (p / "test.txt").unlink(), "test.txt is missing; a text needs"),
        (
            lambda p: (p / "valid.txt").write_text(" \n\n"),
            r"of news \(plain text in .*news\) holds no",
        ),
        (lambda p: pipe(p / "test.txt"), r"news/test.txt: it is a named pipe"),
        (lambda p: link(p / "test.txt", "nowhere"), r"read .*news/test.txt: No such file"),
    ],
)
def test_missing_and_empty_texts_are_named(root, break_it, message):
    break_it(root / "news")
    with pytest.raises(DataError, match=message):
        data.load("news", root, vocab=270)


@pytest.mark.parametrize(
    ("options", "message"), [({"length": 0}, "length is 0"), ({"lines": 0}, "lines is 0")]
)
def test_options_of_texts_are_checked(root, options, message):
    with pytest.raises(OptionError, match=message):
        data.load("news", root, vocab=270, **options)


def test_a_text_that_would_not_fit_names_the_option(root, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 100)
    with pytest.raises(DataError, match=r"news: .* are available\. Give lines="):
        data.load("news", root, vocab=270)
    few = data.load("news", root, vocab=270, lines=2)
    assert few.tokenizer.decode(few.train.targets[few.train.targets >= 0]) == LINES[:2]
    assert few.name == "news+vocab=270+lines=2"


# LM1B


def write_official(root):
    folder = root / "1-billion-word-language-modeling-benchmark-r13output"
    train = folder / "training-monolingual.tokenized.shuffled"
    held = folder / "heldout-monolingual.tokenized.shuffled"
    train.mkdir(parents=True)
    held.mkdir()
    for number in (2, 1):
        (train / f"news.en-0000{number}-of-00100").write_text(f"train {number}\n" * 3)
    for number in (0, 1):
        (held / f"news.en.heldout-0000{number}-of-00050").write_text(f"held {number}\n")


def decoded(part, tokenizer):
    return tokenizer.decode(part.targets[part.targets >= 0])


def test_lm1b_from_its_official_files(tmp_path):
    write_official(tmp_path)
    lm1b = data.load("lm1b", tmp_path, vocab=270, length=5)
    assert decoded(lm1b.train, lm1b.tokenizer) == ["train 1"] * 3 + ["train 2"] * 3
    assert decoded(lm1b.valid, lm1b.tokenizer) == ["held 1"]
    assert decoded(lm1b.test, lm1b.tokenizer) == ["held 0"]
    few = data.load("lm1b", tmp_path, vocab=270, lines=4)
    assert decoded(few.train, few.tokenizer) == ["train 1"] * 3 + ["train 2"]


def test_lm1b_as_datasets_saves_it(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datasets (extra data)")
    made = {
        part: datasets.Dataset.from_dict({"text": [f"{part} {n}" for n in range(count)]})
        for part, count in (("train", 9), ("test", 2))
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "lm1b")
    lm1b = data.load("lm1b", tmp_path, vocab=270, length=5)
    assert decoded(lm1b.train, lm1b.tokenizer) == [f"train {n}" for n in range(7)]
    assert decoded(lm1b.valid, lm1b.tokenizer) == ["train 7", "train 8"]
    assert decoded(lm1b.test, lm1b.tokenizer) == ["test 0", "test 1"]
    assert len(decoded(data.load("lm1b+vocab=270+lines=3", tmp_path).train, lm1b.tokenizer)) == 3


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "lm1b").mkdir()
    (tmp_path / "lm1b" / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExtraError, match=r'pip install "layerscope\[data\]"'):
        data.load("lm1b", tmp_path)


def test_long_lines_are_divided_by_themselves_to_the_same_tokens(monkeypatch):
    lines = ["a dog ran", "", "Ω and", "the cat slept"] * 5
    tokenizer = data.Tokenizer.train(lines, 280)
    whole = tokenizer.encode(lines)
    sizes = []
    divide = data.Tokenizer._encode
    monkeypatch.setattr("layerscope.zoo.data._tokens._LETTERS", 12)
    monkeypatch.setattr(
        data.Tokenizer, "_encode", lambda self, b: (sizes.append(len(b)), divide(self, b))[1]
    )
    assert torch.equal(tokenizer.encode(lines), whole)
    assert sum(sizes) == len(lines)
    assert 1 < max(sizes) <= 3
