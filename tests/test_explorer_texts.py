"""The explorer on texts: tokens are shown as what they say, and never as HTML."""

from __future__ import annotations

import html
import re

import pytest
import torch
from torch import nn

from layerscope import data
from layerscope.core.metrics import Tally
from layerscope.core.session import Estimate
from layerscope.jupyter import LayerExplorer, _words as words
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
    for number, shown in ((escape, "␛"), (end, "↵"), (int(half), f"#{int(half)}"), (9999, "#9999")):
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
        shown.append(explorer.controls.changed.value)
        explorer.close()
    assert 'class="ls-token"' in shown[0]
    assert 'class="ls-picture"' in shown[1]
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
    assert " cat" in explorer.controls.changed.value
    assert "tokenizer.json" in explorer.code
    inputs = explorer._backend.session.inputs([0, 1])
    assert torch.equal(torch.stack(inputs), news.test.inputs[:2])
    explorer.close()
