"""Texts in the Dataset and in reports: what becomes of them without a row, token by token."""

from __future__ import annotations

import html
import re
import warnings

import numpy as np
import pytest
import torch

import layerscope
from layerscope import report, results, session as sessions, testing
from layerscope.core.session import TextReader
from layerscope.errors import ResultError

pytestmark = pytest.mark.usefixtures("without_pictures")

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WORDS = ["<b>", " a", " cat", "\n", "é\ufffd", " &", " dog", " sat"]
OPTIONS = {"device": "cpu", "metrics": ["loss", "perplexity"], "batch_size": 2}


def decode(tokens):
    return "".join(WORDS[int(token)] for token in tokens)


@pytest.fixture(scope="module")
def parts():
    """A Llama of three blocks, texts, and its sweep over them."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        initializer_range=0.4,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config)
    ids = torch.randint(0, len(WORDS), (4, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[1, :5] = -100
    data = {"input_ids": ids, "labels": labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that can't be skipped
        ds = layerscope.sweep(
            net, data, perturbations=["skip"], view="block", show_progress=False, **OPTIONS
        )
    return net, data, ds


@pytest.fixture(scope="module")
def kept(parts):
    net, data, ds = parts
    with sessions.Session(net, data, **OPTIONS) as session:
        texts = list(TextReader(session).texts([1, 3], {"model.layers.0": "skip"}, "block"))
        return sessions.with_texts(ds, session, decode, places=[1, 3]), texts


def test_the_most_and_the_least_critical_rows_are_kept(parts, kept):
    *_, ds = parts
    value = ds["value"].sel(metric="loss", perturbation="skip").squeeze(drop=True)
    value = value.where(value["layer"] != "fullmodel").dropna("layer")
    found = value.argmax("layer"), value.argmin("layer")
    ends = [str(value["layer"][int(at)].values) for at in found]
    assert list(kept[0]["text_layer"].values) == ends
    assert "text_token" not in ds


def test_texts_are_kept_as_they_were_read(kept):
    ds, (first, _) = kept
    held = ds.sel(text=1)
    assert list(held["text_token"].values) == [
        "#4" if int(t) == 4 else WORDS[int(t)] for t in first.tokens
    ] + [""]
    losses = held["text_trained_loss"].values
    assert np.isnan(losses[:5]).all()  # the prompt does not count
    assert losses[5:12].tolist() == pytest.approx(first.trained_loss[4:11].tolist(), rel=1e-6)
    named = first.trained[4:11].tolist()
    assert list(held["text_trained_prediction"].values[5:12]) == [
        "#4" if t == 4 else WORDS[t] for t in named
    ]


def test_a_report_is_made_of_the_file_alone(kept, tmp_path):
    results.save(kept[0], tmp_path / "ds.nc")
    page = report.page(report.read([tmp_path / "ds.nc"]), metric="loss", critical=1.0)
    part = page.split("What it does to texts</h3>")[1].split("How it was computed")[0]
    assert part.count('class="ls-text"') == 4  # of two rows
    rows = kept[0]["text_layer"].values
    assert [str(row) in html.unescape(part) for row in rows] == [True, True]
    assert re.search(r"perplexity [\d.]+ → [\d.]+", part)
    assert re.search(r'class="ls-tok ls-moved"[^>]* title="loss [^"]*predicted', part)
    assert "<b>" not in part.replace('<b class="ls-rose">', "")
    assert "&lt;b&gt;" in part
    assert "What it does to texts" not in report.page({"x": testing.dataset(layers=2)})


def test_loss_by_position_stands_beside_the_texts(kept):
    ds = kept[0].assign_coords(
        first_target=("metric", [0, 0]), last_target=("metric", [-1, 3])
    )  # as if the second metric were of the first four targets alone
    page = report.page({"x": ds}, metric="loss", critical=1.0)
    part = page.split("What it does to texts</h3>")[1].split("How it was computed")[0]
    table = part.split("<table")[1]
    assert re.sub(r"<wbr>", "", table).count("without ") == 2
    assert "<td>trained</td>" in table


def test_texts_are_kept_once(parts, kept):
    net, data, _ = parts
    with sessions.Session(net, data, **OPTIONS) as session:
        again = sessions.with_texts(kept[0], session, decode, places=[0])
        empty = kept[0].copy(deep=True)
        empty["value"][:] = np.nan
        with pytest.raises(ResultError, match="no single row"):
            sessions.with_texts(empty, session, decode)
    assert list(again["text"].values) == [0]


def test_texts_are_read_without_a_range_of_blocks(parts):
    net, data, _ = parts
    options = {"view": "block", "show_progress": False, **OPTIONS}
    ranges = layerscope.layers.ranges(net, 2)
    ds = layerscope.sweep(net, data, layers=ranges, perturbations=["skip"], whole=False, **options)
    odd = layerscope.sweep(
        net, data, layers=ranges, perturbations=["reverse"], whole=False, **options
    )
    with sessions.Session(net, data, **OPTIONS) as session:
        kept = sessions.with_texts(ds, session, decode, places=[0])
        names = [str(name) for name in kept["text_layer"].values]
        assert set(names) == set(ranges)
        for name in names:
            state = dict.fromkeys(ranges[name], "skip")
            (text,) = TextReader(session).texts([0], state, "block")
            assert kept["text_loss"].sel(text_layer=name, text=0).values[1:12] == pytest.approx(
                text.loss[:11].tolist(), rel=1e-6
            )
        with pytest.raises(ResultError, match="not the same as of each"):
            sessions.with_texts(odd, session, decode)
        strange = ds.assign_coords(layer=["a", "b"])
        with pytest.raises(ResultError, match="no row of the session"):
            sessions.with_texts(strange, session, decode)
