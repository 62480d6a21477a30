"""Targets of language models stand where the network predicts them, whoever wrote them down."""

from __future__ import annotations

import copy
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import layerscope
from layerscope import metrics, models
from layerscope.core.batches import BatchReader, FixedBatches
from layerscope.core.running import infer_reader, run_network
from layerscope.core.session import Session
from layerscope.errors import DataError

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "intermediate_size": 16, "num_key_value_heads": 1}
END, VOCAB = 1, 32  # the end of a text, which also fills it up
WANTED = ["error", "loss"]

FAMILIES = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "Llama": LLAMA,
    "GPTNeoX": {**SMALL, "intermediate_size": 16},
    "Mistral": LLAMA,
    "Qwen2": LLAMA,
    "Olmo": LLAMA,
    "Gemma": {**LLAMA, "head_dim": 8},
    "OPT": {**SMALL, "ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
}


def made(name: str, seed: int = 0, kind: str = "ForCausalLM", **options):
    """A small network of random weights, large enough that every logit counts."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB, pad_token_id=END, bos_token_id=0, eos_token_id=END,
        **FAMILIES.get(name, {}), **options,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = "LMHeadModel" if name == "GPT2" and kind == "ForCausalLM" else kind
        net = getattr(transformers, f"{name}{kind}")(config).eval()
        for parameter in net.parameters():
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.3)
    return net


def texts(side: str = "right", n: int = 6, length: int = 9):
    """Tokens and attention mask of texts that end with the token which also fills them up."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(2, VOCAB, (n, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(n):
        fill = row % 6
        filled = slice(length - fill, None) if side == "right" else slice(0, fill)
        ids[row, filled], mask[row, filled] = END, 0
        if fill:
            ids[row, length - fill - 1 if side == "right" else -1] = END
    return ids, mask


@torch.no_grad()
def by_hand(net, ids, mask, ends=True) -> dict[str, float]:
    """Token by token: each real one is predicted from the real one before it, and nothing else."""
    logits = net(input_ids=ids, attention_mask=mask).logits.double()
    losses, wrong = [], []
    for row in range(len(ids)):
        for t in range(ids.shape[1] - 1):
            if mask[row, t] and mask[row, t + 1] and (ends or ids[row, t + 1] != END):
                losses.append(-float(logits[row, t].log_softmax(-1)[ids[row, t + 1]]))
                wrong.append(int(logits[row, t].argmax()) != int(ids[row, t + 1]))
    return {"error": float(np.mean(wrong)), "loss": float(np.mean(losses))}


def measured(net, given, **options) -> dict[str, float]:
    found = metrics.evaluate(net, given, WANTED, batch_size=4, device="cpu", **options)
    return {name: tally.mean for name, tally in found.items()}


def collated(ids, mask, size=4):
    """What a Trainer's collator makes of texts, with its own padding."""
    tokenizer = of_words()
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [
        {"input_ids": i[m.bool()].tolist(), "attention_mask": m[m.bool()].tolist()}
        for i, m in zip(ids, mask, strict=True)
    ]
    return DataLoader(rows, batch_size=size, collate_fn=collator)


def of_words(side="right"):
    import tokenizers

    words = {f"w{i}": i for i in range(VOCAB)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token=f"w{END}", eos_token=f"w{END}", padding_side=side
    )


def pair(ids, mask):
    return {"input_ids": ids, "attention_mask": mask}, ids


def ignoring(ids, mask):
    return ids.masked_fill(mask == 0, -100)


FORMS = {
    "pair": pair,
    "pair, -100": lambda i, m: (pair(i, m)[0], ignoring(i, m)),
    "batches": lambda i, m: [pair(*each) for each in zip(i.split(4), m.split(4), strict=True)],
    "mapping": lambda i, m: {**pair(i, m)[0], "labels": ignoring(i, m)},
    "encoding": lambda i, m: [transformers.BatchEncoding({**pair(i, m)[0], "labels": i})],
    "triples": lambda i, m: DataLoader(TensorDataset(i, m, ignoring(i, m)), batch_size=4),
    "triples, filled": lambda i, m: [(i, m, i)],
    "collator": collated,
}
SAID = {"pair", "pair, -100", "batches", "triples", "triples, filled"}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_labels_of_causal_networks_are_shifted(name, side):
    """Against the tokens one by one, and against the network's own loss."""
    net, (ids, mask) = made(name), texts(side)
    expected = by_hand(net, ids, mask)
    with pytest.warns(UserWarning, match="equal the tokens"):
        found = measured(net, [pair(ids, mask)])
    assert found == pytest.approx(expected, rel=1e-4)
    # What follows the padding on the left would be predicted from it.
    counted = ignoring(ids, mask).masked_fill(mask.roll(1, 1) == 0, -100)
    with torch.no_grad():
        own = net(input_ids=ids, attention_mask=mask, labels=counted).loss
    assert found["loss"] == pytest.approx(float(own), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_labels_gives_the_same(form, side):
    """Labels with the padding in them and with -100 for it, by name and by place."""
    net, (ids, mask) = made("Llama"), texts(side)
    if form == "collator":
        # Which fills up to the right, and ignores whatever has the number of what it fills with.
        ids, mask = texts("right")
        expected = by_hand(net, ids, mask, ends=False)
    else:
        expected = by_hand(net, ids, mask)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = measured(net, FORMS[form](ids, mask))
        ds = swept(net, FORMS[form](ids, mask))
    assert found == pytest.approx(expected, rel=1e-4)
    assert dict(zip(WANTED, ds["baseline"].values, strict=True)) == found
    assert [str(each.message)[:31] for each in told if "labels" in str(each.message)] == (
        ["targets equal the tokens, and t"] * 2 * (form in SAID)
    )
    read = layerscope.results.settings(ds)["data"]["targets"]
    assert read.startswith("targets equal" if form in SAID else "labels of the network, which")
    assert [each for each in layerscope.results.notices(ds) if each == read] == (
        [read] * (form in SAID)
    )


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX", "Gemma"])
def test_half_precision_says_the_same_of_labels(name, dtype):
    """Also of networks that were never trained, whose losses hardly differ, shifted or not."""
    ids, mask = texts()
    for net in (made(name).to(dtype), fresh(name).to(dtype)):
        assert measured(net, [pair(ids, mask)]) == pytest.approx(by_hand(net, ids, mask), rel=1e-2)
    ds = swept(made(name), [pair(ids, mask)], dtype=str(dtype).removeprefix("torch."))
    read = layerscope.results.settings(ds)["data"]["targets"]
    assert read.startswith("targets equal the tokens")


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
def test_compiled_and_distributed_networks_are_asked_what_is_in_them():
    net, (ids, mask) = made("GPT2"), texts()
    expected = measured(net, [pair(ids, mask)])
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net)):
        assert measured(wrapped, [pair(ids, mask)]) == expected


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
@pytest.mark.parametrize("form", ["pair", "mapping", "batches", "triples"])
def test_labels_are_shifted_in_another_order_too(form):
    """Under a rule that stops cells, examples come in random order."""
    net, (ids, mask) = made("GPT2"), texts(n=24)
    ds = swept(net, FORMS[form](ids, mask), metrics=["error"], decide=True)
    assert ds["baseline"].item() == pytest.approx(by_hand(net, ids, mask)["error"], rel=1e-12)
    assert "shuffled" in layerscope.results.settings(ds)["data"]["order"]


def fresh(name):
    """As its library draws it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(made(name))(made(name).config).eval()


def swept(net, given, **options):
    """Re-initialise every layer to another network's weights."""
    start = copy.deepcopy(net.state_dict())
    for tensor in start.values():
        tensor.mul_(0.5)
    series = {0: start, 1: copy.deepcopy(net.state_dict())}
    options = {"metrics": WANTED, "perturbations": ["reinitialize"], "batch_size": 4, **options}
    return layerscope.sweep(
        net, given, checkpoints=series, device="cpu", show_progress=False, **options
    )


def test_padding_that_ends_texts_too_is_not_taken_for_their_end():
    """The end of a text is a target where it is read, and none where it fills the text up."""
    net, (ids, mask) = made("GPT2"), texts()
    held = FixedBatches(
        [pair(ids, mask)],
        4,
        torch.device("cpu"),
        read=lambda *_: BatchReader(True, shifted=True),
    )
    _, targets = held.first
    for row in range(6):
        rest = [int(t) for t in ids[row, 1 : 9 - row]]
        assert targets[row].tolist() == rest + [-100] * (row + 1)
        assert rest[-1] == END or row == 0
    del net


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
def test_an_overfitted_network_knows_its_texts():
    """The wrong answer that this is about: .996 for .008 on a GPT-2 that knows its texts."""
    net, (ids, mask) = made("GPT2"), texts(n=60)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    start = copy.deepcopy(net.state_dict())
    for _ in range(120):
        optimizer.zero_grad()
        net(input_ids=ids, attention_mask=mask, labels=ignoring(ids, mask)).loss.backward()
        optimizer.step()
    ds = layerscope.sweep(
        net, pair(ids, mask), checkpoints={0: start, 80: net.state_dict()}, device="cpu",
        metrics=["error"], perturbations=["reinitialize"], show_progress=False,
    )  # fmt: skip
    assert ds["baseline"].item() < 0.15  # of the first tokens some are ambiguous
    worst = ds["value"].sel(epoch=0, perturbation="reinitialize", metric="error").max()
    assert float(worst) > 0.5
    guess = torch.stack([ids[:, 1:], mask[:, 1:] * mask[:, :-1]])[0][mask[:, 1:] == 1]
    assert float(ds["chance"]) == 1 - int(guess.bincount().max()) / len(guess)
    table = layerscope.stats.classify(ds)
    assert set(table["verdict"]) - {"undecided"}


@pytest.mark.parametrize("given", ["pair", "mapping"])
def test_labels_of_masked_networks_stay(given):
    """Also where they are all of the tokens, as of a masked network that is shown everything."""
    options = {**SMALL, "intermediate_size": 16}
    net = made("Bert", kind="ForMaskedLM", **options)
    ids, mask = texts()
    hidden = torch.arange(ids.numel()).reshape(ids.shape) % 4 == 0
    for inputs, labels in (
        (ids.masked_fill(hidden, 3), ids.masked_fill(~hidden, -100)),
        (ids, ids),
    ):
        named = {"input_ids": inputs, "attention_mask": mask}
        batch = (named, labels) if given == "pair" else {**named, "labels": labels}
        found = measured(net, [batch])
        with torch.no_grad():
            own = net(**named, labels=labels.masked_fill(mask == 0, -100)).loss
        assert found["loss"] == pytest.approx(float(own), rel=1e-5)


def of_t5():
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=END,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("given", ["pair", "mapping", "triple"])
def test_labels_of_two_sequences_stay(given):
    """Also where they have the length of what is read, whose padding is none of theirs."""
    with torch.random.fork_rng():
        net = of_t5()
    ids, mask = texts()
    for labels in (ids, ids.flip(1), ids[:, :5].contiguous()):
        named = {"input_ids": ids, "attention_mask": mask}
        batch = {
            "pair": (named, labels),
            "mapping": {**named, "labels": labels},
            "triple": (ids, mask, labels),
        }[given]
        with torch.no_grad():
            own = net(**named, labels=labels).loss
        assert measured(net, [batch])["loss"] == pytest.approx(float(own), rel=1e-5)
        assert float(swept(net, [batch])["baseline"].sel(metric="loss")) == pytest.approx(
            float(own), rel=1e-5
        )


def test_targets_that_follow_already_stay():
    net, (ids, mask) = made("GPTNeoX"), texts()
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ignoring(ids, mask)[:, 1:]
    for named in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids}):
        found = measured(net, [(named, targets)])
        assert found == pytest.approx(by_hand(net, ids, mask), rel=1e-4)
        assert measured(net, [{**named, "labels": targets}]) == found


class Wrapped(nn.Module):
    """Logits alone, of tokens by place."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens):
        return self.net(input_ids=tokens).logits


def test_where_nothing_says_what_labels_mean_they_are_refused():
    ids, _ = texts()
    causal, all_round = (
        Wrapped(made("GPT2")),
        Wrapped(made("Bert", kind="ForMaskedLM", **SMALL, intermediate_size=16)),
    )
    with pytest.raises(DataError, match=r"the very tokens .* torch\.cat\(\[input_ids"):
        measured(causal, (ids, ids))
    with pytest.raises(DataError, match="the very tokens"):
        swept(causal, (ids, ids))
    measured(all_round, (ids, ids))  # sees what comes after, and may well name what it sees
    own = metrics.Metric("mine", "", lambda z, y: (z.argmax(-1) == y).float().mean(1))
    metrics.evaluate(causal, (ids, ids), own, device="cpu")  # which says itself what it compares
    net = made("GPT2")
    with pytest.raises(DataError, match=r"neither its tokens nor those that follow.*'labels'"):
        measured(net, [({"input_ids": ids}, ids.flip(1))])
    first, later = pair(*texts()), ({"input_ids": ids}, ids.flip(1))
    with (
        pytest.warns(UserWarning, match="equal the tokens"),
        pytest.raises(DataError, match=r"the first batch .*those of a later one"),
    ):
        measured(net, [first, later])


def test_labels_among_the_arguments_are_the_network_s():
    """Such as those of an answer, after a question that is none of its targets."""
    net, (ids, mask) = made("Mistral"), texts()
    labels = ids.roll(1, 1)
    labels[:, :4] = -100
    with torch.no_grad():
        own = net(input_ids=ids, labels=labels).loss
    found = measured(net, [{"input_ids": ids, "labels": labels}])
    assert found["loss"] == pytest.approx(float(own), rel=1e-5)
    del mask


def test_texts_of_our_own_stay():
    """Whose targets are those that follow, in networks that have no loss of their own."""
    net = models.build("transformer-1x16", inputs=(8,), classes=VOCAB)
    ids = torch.randint(2, VOCAB, (40, 8), generator=torch.Generator().manual_seed(0))
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    held = FixedBatches((ids, targets), 8, torch.device("cpu"), read=read_for(net))
    assert all(torch.equal(a, b) for a, b in zip((ids[:8], targets[:8]), held.first, strict=True))


def read_for(net):
    return lambda i, t: infer_reader(net, run_network, i, t, metrics.parse("error"))


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
@pytest.mark.parametrize("form", ["pair", "collator", "triples"])
def test_sweep_session_and_plain_way_agree_to_the_bit(form):
    net, (ids, mask) = made("Qwen2"), texts()
    given = FORMS[form](ids, mask)
    ds = swept(net, given)
    row = "model.layers.0.mlp.up_proj"
    other = copy.deepcopy(net)
    other.get_submodule(row).weight.data.mul_(0.5)
    expected = measured(other, given)
    cell = ds["value"].sel(layer=row, epoch=0, perturbation="reinitialize", draw=0)
    assert dict(zip(WANTED, cell.values, strict=True)) == expected
    start = {n: t * 0.5 for n, t in net.state_dict().items()}
    series = {0: start, 1: copy.deepcopy(net.state_dict())}
    with Session(net, given, checkpoints=series, device="cpu", batch_size=4) as session:
        estimate = session.measure({row: ("reinitialize", 0)})
    assert {name: estimate.mean(name) for name in WANTED} == expected


def test_rows_of_datasets_are_cut_and_those_of_unequal_length_need_a_collator():
    datasets = pytest.importorskip("datasets")
    net, (ids, mask) = made("Olmo"), texts()
    rows = datasets.Dataset.from_dict(
        {
            "text": ["words"] * 6,
            "input_ids": ids.tolist(),
            "attention_mask": mask.tolist(),
            "labels": ids.tolist(),
        }
    )
    assert measured(net, rows) == pytest.approx(by_hand(net, ids, mask), rel=1e-4)
    loader = DataLoader(rows.with_format("torch"), batch_size=4)
    assert measured(net, loader) == measured(net, rows)
    ragged = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]})
    with pytest.raises(DataError, match="DataCollatorForLanguageModeling"):
        measured(net, ragged)
    with pytest.raises(DataError, match="return_tensors='pt'"):
        measured(net, [{"input_ids": [[1, 2]], "labels": [[1, 2]]}])


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
def test_nothing_to_predict_is_an_error():
    net, (ids, mask) = made("GPT2"), texts()
    nothing = torch.full_like(ids, -100)
    for given in ((ids, nothing), [{"input_ids": ids, "labels": nothing}]):
        with pytest.raises(DataError, match="-100"):
            measured(net, given)
        with pytest.raises(DataError, match="all targets are -100"):
            swept(net, given)
    del mask


class Stream:
    """The same batches in every epoch."""

    fingerprint = "stream"

    def __init__(self, *batches) -> None:
        self.batches = batches

    def set_epoch(self, epoch):
        pass

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.filterwarnings("ignore:targets equal the tokens")
def test_training_learns_what_its_scores_are_of(tmp_path):
    """Bit for bit the weights of a training on the tokens that follow."""
    ids, mask = texts()
    named = {"input_ids": ids, "attention_mask": mask}
    following = torch.full_like(ids, -100)
    following[:, :-1] = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    forms = {
        "following": (named, following),
        "labels": {**named, "labels": ids},
        "pair": (named, ids),
        "triple": (ids, mask, ids),
    }
    found = {}
    for form, batch in forms.items():
        series = layerscope.train(
            made("GPT2"), types.SimpleNamespace(name=form, train=Stream(batch), test=[batch]),
            layerscope.Recipe(epochs=3, lr=0.1), out=tmp_path / form, device="cpu",
            show_progress=False,
        )  # fmt: skip
        found[form] = series.read(3)
    plain = found.pop("following")
    assert any(not torch.equal(plain[n], t) for n, t in made("GPT2").state_dict().items())
    for tensors in found.values():
        assert all(torch.equal(plain[name], tensor) for name, tensor in tensors.items())
