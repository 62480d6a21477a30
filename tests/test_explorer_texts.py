"""The explorer on texts: tokens are shown as what they say, and never as HTML."""

from __future__ import annotations

import html
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from layerscope import data, stats
from layerscope.core.metrics import Tally
from layerscope.core.session import Continuation, Estimate, Text
from layerscope.errors import DataError, OptionError
from layerscope.jupyter import LayerExplorer, _texts as texts, _words as words
from layerscope.jupyter._reader import find_reader, reader_of
from layerscope.zoo import training

LINES = ["the cat sat on the mat", "the <b>dog</b> sat & ran, the cat sat", "a naïve \x1b mat"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Plain text below a root, as news."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "news").mkdir()
    for part, count in (("train", 20), ("valid", 1), ("test", 4)):
        text = "\n".join(LINES * count)
        (folder / "news" / f"{part}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def news(root):
    return data.load("news", root, vocab=290, length=24)


def estimate(news, named):
    """Of the text, as if the trained network were always right; now it names some otherwise."""
    targets = news.test.targets
    predicted = targets.clone()
    for (row, place), token in named.items():
        predicted[row, place] = token
    return Estimate(
        examples=len(targets),
        total=len(targets),
        tallies={"error": Tally()},
        baseline={"error": Tally()},
        differences={},
        predicted=predicted,
        trained=targets,
        targets=targets,
        classes=news.classes,
    )


def token(news, text):
    """The one token that a text is."""
    first, end = news.tokenizer.encode([text]).tolist()
    assert end == news.tokenizer.end
    return first


def told(news, found):
    places = words.sample(found)
    return words.changes(found, places, news.test.inputs[places], news.tokenizer)


def test_a_token_is_shown_with_what_stands_before_it(news):
    sign, (row, place) = token(news, "<"), (1, 20)
    right = news.tokenizer.decode(news.test.targets[row, [place]])[0]
    before = "↵".join(news.tokenizer.decode(news.test.inputs[row, place - 15 : place + 1]))
    page = told(news, estimate(news, {(row, place): sign}))
    line = re.search(r'<div class="ls-token" title="example 1, token 20">(.*?)</div>', page)[1]
    assert line == (
        f"<span>…{html.escape(before)}</span> <code>{html.escape(right)}</code> → "
        f"<code>&lt;</code> (<code>{html.escape(right)}</code>)"
    )
    assert "<b>" not in page


def test_the_first_change_with_something_to_read_before_it_is_shown(news):
    sign = token(news, "&")
    changes = [{(0, 2): sign}, {(0, 2): sign, (0, 17): sign, (0, 20): sign}, {(0, 0): sign}]
    shown = [
        re.search(r'title="example 0, token (\d+)"><span>(…?)', told(news, estimate(news, each)))
        for each in changes
    ]
    assert [(int(match[1]), match[2]) for match in shown] == [(2, ""), (17, "…"), (0, "")]


def test_positions_that_do_not_count_are_no_change(news):
    rows, places = torch.nonzero(news.test.targets == -100, as_tuple=True)
    assert len(rows)
    found = estimate(news, {(int(rows[0]), int(places[0])): 5})
    assert told(news, found) == '<div class="ls-head">no prediction changed</div>'
    found = estimate(news, {(int(rows[0]), int(places[0])): 5, (int(rows[0]), 1): 5})
    assert list(found.changed_at(int(rows[0]))) == [1]


def test_what_has_no_text_of_its_own_is_named_by_a_sign(news):
    escape, end = token(news, "\x1b"), news.tokenizer.end
    half = news.tokenizer.encode(["ï"])[0]
    for number, shown in ((escape, "␛"), (end, "↵"), (int(half), "&lt;0xC3&gt;"), (9999, "#9999")):
        page = told(news, estimate(news, {(0, 3): number}))
        assert f"→ <code>{shown}</code> (" in page


def test_classes_that_are_tokens_have_their_text(news):
    found = estimate(news, {(0, 3): token(news, "<")})
    for page in (words.classes(found, news.tokenizer), words.confusion(found, news.tokenizer)):
        assert "<code> cat</code>" in page
        assert "<b>" not in page
    assert f"<span>{token(news, ' cat')}</span>" in words.classes(found)


def test_a_text_given_whole_is_read(news):
    """A network of the user's own; of the Examples alone nobody knows what the tokens say."""
    nets = [nn.Sequential(nn.Embedding(290, 4), nn.Linear(4, 290)) for _ in range(2)]
    states = {epoch: net.state_dict() for epoch, net in enumerate(nets)}
    shown = []
    for given in (news, news.test):
        explorer = LayerExplorer(nets[1], given, states, device="cpu")
        explorer.state = {"0": ("reinitialize", 0)}
        assert explorer.wait(60)
        shown.append(explorer.texts.texts.value)
        assert explorer.controls.changed.value == ""  # the texts say it
        explorer.close()
    assert " cat" in shown[0]
    assert " cat" not in shown[1]
    assert "<b>" not in shown[0]


def test_a_run_is_read_in_the_tokens_that_it_was_trained_on(news, root, tmp_path):
    recipe = training.Recipe(epochs=1, batch_size=16)
    run = training.train(
        "lstm-4x1", news, recipe, out=tmp_path, device="cpu", show_progress=False
    ).folder
    # The text has changed since; tokens learned from it anew would be others.
    changed = root.parent / f"{root.name}-changed"
    (changed / "news").mkdir(parents=True)
    for file in (root / "news").iterdir():
        text = file.read_text(encoding="utf-8")
        new = text.replace("the", "eht") if file.name == "train.txt" else text
        (changed / "news" / file.name).write_text(new, encoding="utf-8")
    explorer = LayerExplorer(run, device="cpu", data_root=changed)
    explorer.state = {explorer.layers[-1]: "zero"}
    assert explorer.wait(60)
    assert " cat" in explorer.texts.texts.value
    assert "tokenizer.json" in explorer.code
    inputs = explorer._backend.session.inputs([0, 1])
    assert torch.equal(torch.stack(inputs), news.test.inputs[:2])
    explorer.close()


# Language models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama as transformers saves it, with a tokenizer beside it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    place = tmp_path_factory.mktemp("llama")
    tokenizer = data.Tokenizer.train(LINES * 3, vocab=290)
    tokenizer.save(place / "tokenizer.json")
    model = tokenizer._model
    transformers.PreTrainedTokenizerFast(tokenizer_object=model).save_pretrained(place)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=290, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        initializer_range=0.5,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    return place


@pytest.fixture
def explorer(folder, news):
    """Of texts in the form in which transformers' collators give them."""
    transformers = pytest.importorskip("transformers")
    net = transformers.LlamaForCausalLM.from_pretrained(folder)
    ids = news.test.inputs[:6]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    torch.manual_seed(1)
    start = transformers.LlamaForCausalLM(net.config).state_dict()
    explorer = LayerExplorer(net, given, {0: start, 1: net.state_dict()}, device="cpu",
                             batch_size=4)  # fmt: skip
    assert explorer.wait(60)
    yield explorer
    explorer.close()


ROW = "model.layers.1.mlp.down_proj"


def test_texts_are_shown_with_what_changed_in_them(explorer):
    assert explorer.texts.box.layout.display is None
    assert explorer.texts.texts.value == ""  # nothing has changed as trained
    explorer.state = {ROW: "zero"}
    assert explorer.wait(60)
    page = explorer.texts.texts.value
    assert page.count('class="ls-text"') == 3
    assert "<b>dog" not in page
    assert re.search(r'class="ls-tok ls-moved" style="background:rgba\([^"]*\)" title="', page)
    tip = html.unescape(re.search(r'ls-moved"[^>]* title="([^"]*)"', page)[1])
    line, predicted = tip.split("\n")
    assert re.fullmatch(r"'.*': loss [\d.]+ → [\d.]+ nats", line)
    assert re.fullmatch(r"predicted '.*' → '.*'", predicted)
    # The text itself is whole.
    place = int(re.search(r"example (\d+): ", page)[1])
    inline = re.search(r'class="ls-text" dir="auto">(.*?)</div>', page, re.DOTALL)[1]
    plain = html.unescape(re.sub(r"<[^>]*>", "", inline))
    (ids,) = TextIds(explorer, place)
    assert plain == "".join(texts._inline(int(t), explorer._source.tokenizer) for t in ids)


def TextIds(explorer, place):  # noqa: N802
    """The tokens of an example of a mapping."""
    start = 0
    for inputs, _ in explorer._backend.session.data:
        rows = inputs["input_ids"]
        if place < start + len(rows):
            return [rows[place - start]]
        start += len(rows)
    raise AssertionError(place)


def test_cards_count_tokens_and_say_what_was_as_trained(explorer):
    trained = explorer.estimate
    perplexity = f"{trained.mean('perplexity'):.4g}"
    assert "as trained" not in explorer.controls.cards.value
    explorer.state = {ROW: "zero"}
    assert explorer.wait(60)
    found, page = explorer.estimate, explorer.controls.cards.value
    counted = (found.targets != -100).sum()
    moved = ((found.predicted != found.trained) & (found.targets != -100)).sum()
    assert counted > found.examples
    assert found.predictions_changed() == (moved, counted)
    assert f"<b>{moved}</b><span>{moved / counted:.1%} of {counted:,} tokens seen</span>" in page
    assert f"<span>as trained {perplexity}</span>" in page
    assert f"as trained {trained.mean('loss'):.4g}" in page
    assert f"{moved:,} of {counted:,} tokens" in words.coverage(found)


def test_a_prompt_is_continued_as_trained_and_as_changed(explorer):
    explorer.texts.prompt.value, explorer.texts.count.value = "the <b>cat", 5
    explorer.texts.go.click()
    assert explorer.wait(60)
    same = explorer.texts.said.value
    assert 'data-final="true" data-count="5"' in same, explorer.controls.status.text
    assert "the same 5 tokens" in same
    explorer.state = {ROW: "zero"}
    assert explorer.wait(60)
    page = explorer.texts.said.value
    assert 'data-count="5"' in page
    assert "<mark>" in page
    assert "<b>" not in page
    assert explorer.texts.texts.value  # both are shown
    # Another prompt is asked about alone: the state was measured.
    before = explorer.estimate
    explorer.texts.prompt.value = ""
    explorer.texts.go.click()
    assert explorer.wait(60)
    assert explorer.texts.said.value == ""
    assert explorer.estimate is before


def test_without_a_tokenizer_tokens_are_numbers(news):
    nets = [nn.Sequential(nn.Embedding(290, 4), nn.Linear(4, 290)) for _ in range(2)]
    states = {epoch: net.state_dict() for epoch, net in enumerate(nets)}
    plain = LayerExplorer(nets[1], news.test, states, device="cpu")
    try:
        plain.texts.prompt.value, plain.texts.count.value = "12, 5 7", 3
        plain.state = {"0": ("reinitialize", 0)}
        assert plain.wait(60)
        assert re.search(r"as trained</div>.*?(\d+ ?){3}<", plain.texts.said.value)
        assert re.search(r">\d+ </span>", plain.texts.texts.value)
        plain.texts.prompt.value = "a cat"
        plain.texts.go.click()
        assert plain.wait(60)
        assert "without a tokenizer a prompt is numbers" in plain.controls.status.text
    finally:
        plain.close()


def test_networks_of_pictures_have_no_prompt():
    net = nn.Sequential(nn.Linear(4, 3))
    pair = torch.randn(6, 4), torch.arange(6) % 3
    explorer = LayerExplorer(net, pair, {0: net.state_dict()}, device="cpu")
    assert explorer.texts.box.layout.display == "none"
    explorer.close()


def test_any_tokenizer_is_read(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as Model

    fast = transformers.AutoTokenizer.from_pretrained(folder)
    own = data.Tokenizer.load(folder / "tokenizer.json")
    there = [fast, Model.from_file(str(folder / "tokenizer.json")), folder, str(folder), own,
             folder / "tokenizer.json"]  # fmt: skip
    for tokenizer in there:
        reader = reader_of(tokenizer)
        ids = reader.tokens("the cat sat")
        assert ids == own.encode(["the cat sat"])[:-1].tolist()
        assert reader.text(ids) == "the cat sat"
        assert reader.piece(ids[1]) == " cat"
        assert reader.piece(10**6) == ""
    assert reader_of(reader) is reader
    assert reader_of(None) is None
    net = transformers.LlamaForCausalLM.from_pretrained(folder)
    assert find_reader(net).tokens("the cat") == reader.tokens("the cat")
    assert find_reader(nn.Linear(2, 2)) is None
    with pytest.raises(OptionError, match=r"encode\(text\)"):
        reader_of(3)
    with pytest.raises(DataError, match="there is no tokenizer at"):
        reader_of(tmp_path)


SAID = "the cats sat, naïve 😀  on\na mat"


def trained_tokenizer(model, pre, decoder, **options):
    """A tokenizer of the package tokenizers, learned from a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre, decoder
    trainer = {"BPE": "BpeTrainer", "WordPiece": "WordPieceTrainer"}[type(model).__name__]
    learns = getattr(tokenizers.trainers, trainer)(show_progress=False, **options)
    made.train_from_iterator(["the cat sat on a mat", "the mats"] * 3, learns)
    return made


def byte_level():
    from tokenizers import decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained_tokenizer(
        models.BPE(), level, decoders.ByteLevel(), vocab_size=280, special_tokens=["<|end|>"],
        initial_alphabet=sorted(level.alphabet()),
    )  # fmt: skip


def byte_fallback():
    from tokenizers import decoders, models, pre_tokenizers, processors

    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
             decoders.Strip(" ", 1, 0)]  # fmt: skip
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = trained_tokenizer(
        models.BPE(unk_token="<unk>", byte_fallback=True), pre_tokenizers.Metaspace(),
        decoders.Sequence(steps), vocab_size=300, special_tokens=special,
    )  # fmt: skip
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return made


def word_pieces():
    from tokenizers import decoders, models, pre_tokenizers

    return trained_tokenizer(
        models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(), vocab_size=40, special_tokens=["[UNK]"],
    )  # fmt: skip


def whole_bytes():
    return pytest.importorskip("transformers").ByT5Tokenizer()


def shown(tokenizer, said):
    reader = reader_of(tokenizer)
    return [words.show_token(token, reader) for token in reader.tokens(said)]


@pytest.mark.parametrize("make", [byte_level, byte_fallback, whole_bytes])
def test_tokens_of_every_kind_are_the_text_that_they_stand_for(make):
    transformers = pytest.importorskip("transformers")
    made = make()
    kinds = [made]
    if make is not whole_bytes:
        kinds.append(transformers.PreTrainedTokenizerFast(tokenizer_object=made))
    for tokenizer in kinds:
        pieces = shown(tokenizer, SAID)
        plain = "".join(pieces).replace("↵", "\n").removeprefix("<s>").removeprefix(" ")
        # A part of a character is its bytes.
        whole = re.sub(
            "(<0x..>)+",
            lambda found: bytes.fromhex(re.sub("<0x|>", "", found[0])).decode("utf-8"),
            plain,
        )
        assert whole == SAID
        assert "</s>" not in pieces  # a prompt goes on
        assert not [piece for piece in pieces if piece.startswith("#")]


def test_the_parts_of_a_word_are_put_together():
    transformers = pytest.importorskip("transformers")
    made = word_pieces()
    for tokenizer in (made, transformers.PreTrainedTokenizerFast(tokenizer_object=made)):
        assert "".join(shown(tokenizer, "the mats sat on a cat")) == " the mats sat on a cat"


def test_special_tokens_have_their_names():
    transformers = pytest.importorskip("transformers")
    made = byte_level()
    end = made.token_to_id("<|end|>")
    for tokenizer in (made, transformers.PreTrainedTokenizerFast(tokenizer_object=made)):
        reader = reader_of(tokenizer)
        assert words.show_token(end, reader) == "<|end|>"
        assert reader.text([*reader.tokens("a cat"), end]) == "a cat<|end|>"
        assert words.show_token(10**6, reader) == "#1000000"


class Pieces:
    """A tokenizer of words as sentencepiece has it: blanks are part of the pieces."""

    names = ("\u2581a", "\u2581cat", "s", "\n")

    def convert_ids_to_tokens(self, token):
        return self.names[token]

    def decode(self, tokens):
        return "".join(self.names[t] for t in tokens).replace("\u2581", " ").lstrip(" ")

    def encode(self, text):
        return [self.names.index(f"\u2581{text}")]


def text_of(targets, tokens, trained, predicted, before, after):
    long = [torch.tensor(each) for each in (tokens, targets, trained, predicted)]
    return Text(*long, torch.tensor(before), torch.tensor(after))


def test_each_token_has_the_colour_of_its_loss():
    nan = float("nan")
    given = text_of(
        [1, -100, 2, 3],
        [0, 1, 1, 2],
        [1, 0, 0, 3],
        [1, 1, 2, 3],
        [1.0, nan, 2, 1],
        [5.0, nan, 1, 1],
    )
    reader = reader_of(Pieces())
    first, rose, out, fell, same = texts._tokens(given, reader)
    assert [token.text for token in (first, rose, out, fell, same)] == [
        " a",
        " cat",
        " cat",
        "s",
        "↵\n",
    ]
    assert [token.moved for token in (first, rose, out, fell, same)] == [False] * 3 + [True, False]
    assert rose.colour == "rgba(217,72,15,0.75)"
    assert fell.colour == "rgba(43,138,155,0.19)"
    assert (first.colour, out.colour, same.colour) == ("", "", "")
    assert out.tip == "does not count"
    assert fell.tip == "'s': loss 2 → 1 nats\npredicted ' a' → 's'"
    masked = text_of([0, -100, 2], [0, 1, 2], [0, 0, 0], [0, 0, 2], [1.0, nan, 2], [1.0, nan, 1])
    assert [token.text for token in texts._tokens(masked, reader)] == [" a", " cat", "s"]


def test_a_continuation_of_blanks_alone_is_seen():
    class Blanks(Pieces):
        names = (" ", "\u2581cat", "s")

        def decode(self, tokens):
            return "".join(self.names[t] for t in tokens).replace("\u2581", " ")

    reader = reader_of(Blanks())
    page = texts.continuation(Continuation((1, 2), (0, 0)), reader, True)
    assert "<mark> cats</mark>" in page
    assert "<mark>␣␣</mark>" in page


def test_the_few_layers_beside_the_blocks_are_told_by_their_end(explorer):
    explorer.controls.view.value = "block"
    assert explorer.wait(60)
    short = [block["short"] for block in explorer.controls.strip.blocks]
    assert short == ["embed_tokens", "0", "1", "2", "norm", "lm_head"]


def test_no_bound_of_a_perplexity_is_below_what_it_can_be(explorer):
    found = explorer.estimate
    of_loss = [math.exp(bound) for bound in found.interval("loss")]
    assert found.interval("perplexity") == pytest.approx(of_loss, rel=1e-9)
    explorer.sweep()
    assert explorer.wait(120)
    bounds = stats.interval(explorer.dataset)
    for bound in bounds.data_vars.values():
        of_loss, shown = (bound.sel(metric=name) for name in ("loss", "perplexity"))
        np.testing.assert_allclose(shown, np.exp(of_loss), rtol=1e-9)
