"""Tasks of lm-evaluation-harness as data: its own numbers, document by document."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

import layerscope
from layerscope import data, results, stats
from layerscope.core import plain
from layerscope.core.layers import find
from layerscope.errors import DataError, OptionError

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is an extra")
transformers = pytest.importorskip("transformers", reason="transformers is an extra")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is an extra")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WORDS = [*"abcdefgh.?:", "red", "green", "blue", "sky", "grass", "is", "the", "of", "colour"]
WORDS += ["what", "not", "yes", "no"]
MAX_LENGTH = 24

QUESTIONS = [
    {"q": "what colour is the sky ?", "choices": ["blue", "red", "green"], "gold": 0},
    {"q": "what is the colour of grass ?", "choices": ["green", "red", "blue"], "gold": 0},
    {"q": "is grass red ?", "choices": ["yes", "no", "the sky"], "gold": 1},
    {"q": "a b c d e f", "choices": ["g h", "a", "a b c"], "gold": 0},
    {"q": "the sky is", "choices": ["not green", "the grass", "blue ."], "gold": 2},
    {"q": "what is not the colour of the sky ?", "choices": ["red .", "blue", "e"], "gold": 1},
    {"q": "c", "choices": ["d e f g", "b a", "c c"], "gold": 0},
]  # fmt: skip
TEXTS = [
    "the sky is blue . the grass is green .",
    "a b c d e f g h",
    "what colour is the sky ? blue . is grass red ? no",
    "c d",
    "the colour of the sky is not the colour of the grass : the sky is blue . " * 2 + "c d",
]


@pytest.fixture(autouse=True)
def without_the_machine(monkeypatch):
    """lm-eval asks pip and git about the machine, which takes longer than all else."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)


@pytest.fixture(scope="module")
def network():
    vocabulary = {word: index for index, word in enumerate(["<s>", "<unk>", *WORDS])}
    plain_tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    )
    plain_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain_tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    )
    config = transformers.AutoConfig.for_model(
        "llama", vocab_size=len(vocabulary), hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that documents differ
    return model, tokenizer


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    """Three small tasks in files of their own."""
    folder = tmp_path_factory.mktemp("tasks")

    def written(name, rows):
        path = folder / f"{name}.json"
        path.write_text("\n".join(map(json.dumps, rows)))
        cache = str(folder / "cache")
        return {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": cache},
            "test_split": "test",
        }

    choice = written("colours", QUESTIONS) | {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    single = choice | written("letters", [q | {"choices": ["a", "b", "c"]} for q in QUESTIONS])
    rolling = written("texts", [{"text": text} for text in TEXTS]) | {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity"},
            {"metric": "byte_perplexity"},
            {"metric": "bits_per_byte"},
        ],
    }
    cloze = written("cloze", [{"q": q["q"], "a": q["choices"][q["gold"]]} for q in QUESTIONS]) | {
        "output_type": "loglikelihood",
        "doc_to_text": "{{q}}",
        "doc_to_target": " {{a}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }
    return {"colours": choice, "letters": single, "texts": rolling, "cloze": cloze}


def theirs(network, configuration, batch_size):
    """Results of lm-eval itself: of all, and of each document by its number."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = network
    wrapped = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu",
        max_length=MAX_LENGTH,
    )  # fmt: skip
    task = lm_eval.api.task.ConfigurableTask(config=dict(configuration))
    found = lm_eval.simple_evaluate(
        wrapped, tasks=[task], log_samples=True, bootstrap_iters=0,
        # An index of its thousands of own tasks is not needed.
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )  # fmt: skip
    name = configuration["task"]
    return found["results"][name], {each["doc_id"]: each for each in found["samples"][name]}


def ours(network, configuration, **options):
    return data.harness_task(configuration, network[1], max_length=MAX_LENGTH, **options)


def answered(network, task, batch_size):
    """Scores and log-likelihoods of each document, by lm-eval's number of it."""
    scores, answers = [], []
    with torch.no_grad():
        for inputs, documents in task.batches(batch_size):
            outputs = network[0](inputs).logits
            answers += documents.log_likelihoods(outputs)
            scores += documents.scores(outputs)
    return {
        doc_id: (score, answer)
        for doc_id, score, answer in zip(task.doc_ids, scores, answers, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "batch_size", "exact"),
    [
        # Where each document has one row, or all are in one batch, batches are lm-eval's own.
        ("letters", 3, True),
        ("cloze", 3, True),
        ("texts", 1, True),
        ("colours", 64, True),
        ("colours", 2, False),
    ],
)
def test_every_document_scores_as_lm_eval_says(network, configurations, name, batch_size, exact):
    task = ours(network, configurations[name])
    whole, samples = theirs(network, configurations[name], batch_size)
    found = answered(network, task, batch_size)
    assert found.keys() == samples.keys()
    for doc_id, (scores, answers) in found.items():
        sample = samples[doc_id]
        said = sample["filtered_resps"]
        mine = answers
        if name == "texts":
            mine, said = [sum(value for value, _ in answers)], [np.ravel(said[0])[0]]
        else:
            said = [(value, bool(greedy)) for value, greedy in said]
        if exact:
            assert mine == said
        np.testing.assert_allclose(np.array(mine, float), np.array(said, float), rtol=1e-5)
        for metric in task.metrics:
            np.testing.assert_allclose(scores[metric.name], sample[metric.name], rtol=1e-5)
    tallies = plain.evaluate(network[0], task.batches(batch_size), task.metrics)
    for metric in task.metrics:
        aggregate = tallies[metric.name].mean
        assert aggregate == pytest.approx(whole[f"{metric.name},none"], rel=1e-6)


def test_a_sweep_over_tasks_is_bit_for_bit_the_plain_way(network, configurations, tmp_path):
    model, _ = network
    tasks = {name: ours(network, configurations[name]) for name in ("colours", "texts")}
    given = {"perturbations": ["zero"], "view": "leaf", "batch_size": 3, "device": "cpu"}
    ds = layerscope.sweep(
        model, tasks, whole=False, out=tmp_path, outcomes=True, show_progress=False, **given
    )
    assert ds.metric.values.tolist() == [
        "acc", "acc_norm", "word_perplexity", "byte_perplexity", "bits_per_byte",
    ]  # fmt: skip
    rows = {row.name: row for row in find(model)}
    for task, part in zip(tasks.values(), results.parts(ds).values(), strict=True):
        for name in ("model.layers.1.mlp.down_proj", "lm_head"):
            values = {tensor: torch.zeros_like(model.state_dict()[tensor]) for tensor in
                      rows[name].tensors}  # fmt: skip
            changed = plain.copy_with(model, values)
            expected = plain.evaluate(changed, task.batches(3), task.metrics)
            found = part.value.sel(layer=name).squeeze(drop=True)
            for metric in task.metrics:
                assert found.sel(metric=metric.name).item() == expected[metric.name].mean
    colours = results.parts(ds)["task colours"]
    assert float(colours.chance) == pytest.approx(2 / 3)
    table = stats.classify(colours, "acc", perturbation="zero")
    assert set(table.interval_kind) == {"examples"}
    kept = xr.load_dataset(tmp_path / "task-texts" / "outcomes.nc")
    words = kept.weight.sel(metric="word_perplexity").values
    lengths = {n: len(text.split()) for n, text in enumerate(TEXTS)}
    assert words.tolist() == [lengths[doc_id] for doc_id in tasks["texts"].doc_ids]


def test_documents_in_random_order_settle_a_verdict(network, configurations):
    task = ours(network, configurations["letters"])
    ds = layerscope.sweep(
        network[0], task, perturbations=["zero"], layers=["lm_head"], whole=False, batch_size=2,
        decide={"robust": 0.9, "critical": 0.95}, device="cpu", show_progress=False,
    )  # fmt: skip
    assert ds.attrs["data"].count("shuffled")
    assert ds.verdict.item(0) in ("robust", "intermediate", "critical")


def test_what_is_no_mean_of_log_likelihoods_is_refused(network, configurations):
    generating = configurations["cloze"] | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["."]},
        "metric_list": [{"metric": "exact_match"}],
    }
    with pytest.raises(DataError, match=r"scored by what a network generates \(generate_until\)"):
        ours(network, generating)
    unspaced = configurations["cloze"] | {"doc_to_target": "{{a}}"}
    with pytest.raises(DataError, match="document 0 of the task cloze asks for no token"):
        ours(network, unspaced)
    with pytest.raises(OptionError, match="task is 3"):
        ours(network, 3)
    other = configurations["colours"] | {"metric_list": [{"metric": "f1"}, {"metric": "acc"}]}
    task = ours(network, other)
    assert [metric.name for metric in task.metrics] == ["acc"]
    assert "no mean over documents" in task.left_out["f1"]


def test_a_task_is_known_by_its_content(network, configurations):
    task = ours(network, configurations["colours"])
    assert task.fingerprint == ours(network, configurations["colours"]).fingerprint
    fewer = ours(network, configurations["colours"], limit=3)
    assert len(fewer) == 3
    assert sorted(fewer.doc_ids) == [0, 1, 2]
    assert task.fingerprint != fewer.fingerprint


# Anything else that gives a score per example.


class Speaker(torch.nn.Module):
    """A network that goes on with what it is given, the likeliest token first."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        for _ in range(3):
            following = self.model(input_ids, use_cache=False).logits[:, -1].argmax(-1)
            input_ids = torch.cat([input_ids, following.unsqueeze(1)], 1)
        return input_ids


def test_a_score_from_generated_text_goes_as_a_task(network):
    """What the network says after each prompt is held against what it should say."""
    model, tokenizer = network
    speaker = Speaker(model)
    prompts = torch.tensor([tokenizer.encode("the sky is"), tokenizer.encode("a b c")])
    with torch.no_grad():
        wanted = [tokenizer.decode(speaker(prompts)[0, 3:]), "d e f"]

    def matches(tokens, targets):
        said = [tokenizer.decode(row[3:]) for row in tokens]
        return torch.tensor([float(a == b) for a, b in zip(said, targets, strict=True)])

    score = layerscope.metrics.Metric(
        "exact match", "of three words said", matches, higher_is_better=True, bounds=(0.0, 1.0),
        fraction_of="examples",
    )  # fmt: skip
    task = data.Task([(prompts, wanted)], [score], name="prompts")
    ds = layerscope.sweep(
        speaker, {"prompts": task}, perturbations=["zero"], whole=False, device="cpu",
        show_progress=False,
    )  # fmt: skip
    assert ds.baseline.item() == 0.5
    values = {"model.lm_head.weight": torch.zeros_like(model.lm_head.weight)}
    changed = plain.copy_with(speaker, values)
    expected = plain.evaluate(changed, task.data, [score])["exact match"].mean
    assert ds.value.sel(layer="model.lm_head").item() == expected == 0
    assert json.loads(results.parts(ds)["task prompts"].attrs["data"])["name"] == "prompts"
