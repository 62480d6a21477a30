"""Texts read with a session: token by token, as trained and as changed; prompts continued."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from layerscope.core.session import Session, TextReader
from layerscope.errors import DataError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

VOCAB, LENGTH = 61, 12
STATE = {"model.layers.1.mlp.down_proj": "zero"}


def llama(seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        initializer_range=0.5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def net():
    return llama(0)


@pytest.fixture(scope="module")
def changed(net):
    """By hand: a copy with one projection set to zero."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.zero_()
    return other


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, VOCAB, (5, LENGTH), generator=torch.Generator().manual_seed(3))


def opened(net, data):
    series = {0: llama(1).state_dict(), 1: net.state_dict()}
    return Session(net, data, checkpoints=series, device="cpu", batch_size=2)


def logits(net, row):
    with torch.no_grad():
        return net(input_ids=row[None], use_cache=False).logits[0]


def test_texts_are_scored_token_by_token_as_by_hand(net, changed, ids):
    labels = ids.clone()
    labels[2, :4] = -100  # a prompt that does not count
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with opened(net, data) as session:
        first, second = TextReader(session).texts([4, 2], STATE)
        again = session.measure({})
    assert again.change("loss") == 0  # the next question is answered as if nothing had been
    for text, row in ((first, 4), (second, 2)):
        assert text.tokens.equal(ids[row])
        wanted = torch.cat([labels[row, 1:], torch.tensor([-100])])
        assert text.targets.equal(wanted)
        kept = wanted != -100
        assert text.counted.equal(kept)
        for model, named, losses in (
            (net, text.trained, text.trained_loss),
            (changed, text.predicted, text.loss),
        ):
            out = logits(model, ids[row])
            assert named.equal(out.argmax(-1))
            expected = cross_entropy(out, wanted, ignore_index=-100, reduction="none")
            assert losses[kept].equal(expected[kept])
            assert losses[~kept].isnan().all()
    assert bool(second.changed.any())
    assert not second.changed[:3].any()  # where nothing counts


def greedy(model, tokens, count):
    row = list(tokens)
    for _ in range(count):
        row.append(int(logits(model, torch.tensor(row))[-1].argmax()))
    return tuple(row[len(tokens) :])


@pytest.mark.parametrize("named", [True, False])
def test_prompts_are_continued_as_by_hand(net, changed, ids, named):
    data = {"input_ids": ids, "labels": ids} if named else (ids, ids.roll(-1, 1))
    with opened(net, data) as session:
        steps = list(TextReader(session).continuations([5, 9, 2], 8, STATE))
        same = list(TextReader(session).continuations([5, 9, 2], 8, {}))
    assert [len(step.changed) for step in steps] == list(range(1, 9))
    assert steps[-1].trained == greedy(net, [5, 9, 2], 8)
    assert steps[-1].changed == greedy(changed, [5, 9, 2], 8)
    assert steps[-1].trained != steps[-1].changed
    assert same[-1].changed == same[-1].trained == steps[-1].trained
    assert net.config.use_cache


def test_what_is_no_text_is_refused():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3))
    pair = torch.randn(6, 4), torch.arange(6) % 3
    with Session(plain, pair, checkpoints={0: plain.state_dict()}, device="cpu") as session:
        with pytest.raises(DataError, match="no texts"):
            list(TextReader(session).texts([0], {}))
        with pytest.raises(DataError, match="not given tokens"):
            list(TextReader(session).continuations([1], 2, {}))
        with pytest.raises(DataError, match="no tokens"):
            list(TextReader(session).continuations([], 2, {}))


def test_a_network_that_outputs_nan_ends_the_continuation(net, ids):
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight.fill_(1e38)
    with opened(broken, (ids, ids.roll(-1, 1))) as session:
        assert list(TextReader(session).continuations([5], 3, {})) == []
