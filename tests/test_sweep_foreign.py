"""Sweeps of networks that nobody here wrote equal deep copies, bit for bit.

Families as their own libraries build them, tiny and with random weights. Every cell of a sweep is
done again in the plainest way there is: a deep copy of the network, the changed weights written
into it by name, evaluation mode, every batch. Compared are the bits of the logits and of the sums.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

import layerscope
from layerscope import layers, perturb, results
from layerscope.base import seeds
from layerscope.core import plain
from layerscope.core.checkpoints import open_series
from layerscope.core.metrics import Metric
from layerscope.core.running import PASSED

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
]

CLASSES = 7
TOKENS = 50


# The plain way


def bits_of(logits: Tensor, _: Any = None) -> Tensor:
    """A whole number for each position that differs where any bit of its logits does."""
    words = logits.detach().contiguous().view(torch.int32).long()
    odd = 2 * torch.arange(words.shape[-1]) + 1
    # A polynomial in an odd base over whole numbers: exact, and small enough for a double.
    mixed = (words ^ (words >> 15)) * 2654435761 + odd * 40503
    return ((mixed * odd).sum(-1) % (2**31 - 1)).double()


BITS = Metric("bits", "digest of the logits' bits", bits_of, needs_targets=False)


def logits_of(outputs: Any) -> Tensor:
    return outputs if torch.is_tensor(outputs) else outputs["logits"]


def called(net: nn.Module, inputs: Any) -> Tensor:
    if isinstance(inputs, dict):
        return logits_of(net(**inputs))
    return logits_of(net(*inputs) if isinstance(inputs, tuple) else net(inputs))


def by_hand(net: nn.Module, batches: list[tuple[Any, Tensor]]) -> np.ndarray:
    """Error, loss and the bits of the logits, batch by batch, summed in double precision."""
    sums, weight = np.zeros(3), 0.0
    for inputs, targets in batches:
        with torch.no_grad():
            z = called(net, inputs)
        losses = nn.functional.cross_entropy(z.flatten(0, -2), targets.flatten(), reduction="none")
        kept = targets != -100
        for place, values in enumerate(
            [(z.argmax(-1) != targets), losses.view(targets.shape), bits_of(z)]
        ):
            each = torch.where(kept, values.double(), 0.0)
            sums[place] += float((each.flatten(1).sum(1) if each.ndim > 1 else each).sum())
        weight += float(kept.sum())
    return sums / weight


def tensors(net: nn.Module) -> dict[str, Tensor]:
    parameters = dict(net.named_parameters(remove_duplicate=False))
    return parameters | dict(net.named_buffers(remove_duplicate=False))


# Networks


@dataclass
class Case:
    """A network of a family, and what it is given."""

    build: Callable[[], nn.Module]
    data: Callable[[], list[tuple[Any, Tensor]]]
    skips: bool = False
    most_rows: int = 24  # of those that take long, spread from first to last


def tokens(*shape: int, seed: int = 0, low: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, TOKENS, shape, generator=generator)


def padded(side: str = "right") -> list[tuple[Any, Tensor]]:
    """Two whole batches and a rest of sequences of different length; padding never counts."""
    found = []
    for seed, size in enumerate((3, 3, 1)):
        ids, mask = tokens(size, 9, seed=seed), torch.ones(size, 9, dtype=torch.long)
        for row, length in enumerate((9, 6, 7)[:size]):
            mask[row, length:] = 0
        mask = mask if side == "right" else mask.flip(1)
        following = torch.cat([ids[:, 1:], tokens(size, 1, seed=seed + 10)], 1)
        # A whole row's last token is followed by one that the network does not see.
        targets = following.masked_fill(torch.cat([mask[:, 1:], mask[:, -1:]], 1) == 0, -100)
        targets = targets.masked_fill(mask == 0, -100)
        found.append(({"input_ids": ids * mask, "attention_mask": mask}, targets))
    return found


def sentences() -> list[tuple[Any, Tensor]]:
    return [(inputs, ids[:, 0] % CLASSES) for inputs, ids in whole()]


def whole() -> list[tuple[Any, Tensor]]:
    """As `padded`, with a target where the padding is."""
    return [(inputs, targets.clamp(min=0)) for inputs, targets in padded()]


def translations() -> list[tuple[Any, Tensor]]:
    return [
        ({**inputs, "decoder_input_ids": tokens(len(targets), 5, seed=7)}, targets[:, :5])
        for inputs, targets in padded()
    ]


def pictures(side: int = 32, channels: int = 3) -> Callable[[], list[tuple[Any, Tensor]]]:
    def made() -> list[tuple[Any, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(5, channels, side, side, generator=generator)
        labels = torch.arange(5) % CLASSES
        return [(images[:3], labels[:3]), (images[3:], labels[3:])]

    return made


def sequences() -> list[tuple[Any, Tensor]]:
    return [(inputs["input_ids"], ids[:, 0] % CLASSES) for inputs, ids in whole()]


def texts() -> list[tuple[Any, Tensor]]:
    return [(inputs["input_ids"], targets) for inputs, targets in padded()]


SMALL = {
    "vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 1}
GPT = {
    "vocab_size": TOKENS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def auto(task: str, family: str, **config: Any) -> Callable[[], nn.Module]:
    kind = getattr(transformers, f"AutoModelFor{task}")
    return lambda: kind.from_config(transformers.AutoConfig.for_model(family, **config))


def decoder(family: str, skips: bool = False, side: str = "right", **config: Any) -> Case:
    return Case(auto("CausalLM", family, **config), lambda: padded(side), skips)


def classifier(family: str, **config: Any) -> Case:
    labelled = {**config, "num_labels": CLASSES}
    return Case(auto("SequenceClassification", family, **labelled), sentences)


DECODERS = {
    "gpt2": decoder("gpt2", **GPT),
    "gpt2, left padding": decoder("gpt2", side="left", **GPT),
    "gpt2, eager attention": decoder("gpt2", **GPT, attn_implementation="eager"),
    "gpt2, without cache": decoder("gpt2", **GPT, use_cache=False),
    "llama": decoder("llama", **GROUPED),
    "llama, tied": decoder("llama", **GROUPED, tie_word_embeddings=True),
    "gpt-neox": decoder("gpt_neox", **SMALL),
    "gpt-neo": decoder(
        "gpt_neo", vocab_size=TOKENS, hidden_size=16, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=32, window_size=4,
    ),
    "gpt-j": decoder("gptj", **{**GPT, "rotary_dim": 4}),
    "mistral": decoder("mistral", **GROUPED, sliding_window=4),
    "qwen2": decoder("qwen2", **GROUPED),
    "qwen3": decoder("qwen3", **GROUPED, head_dim=8),
    "gemma": decoder("gemma", **GROUPED, head_dim=8),
    "gemma2": decoder("gemma2", **GROUPED, head_dim=8, sliding_window=4),
    "olmo": decoder("olmo", **SMALL),
    "olmo2": decoder("olmo2", **SMALL),
    "mixtral": decoder("mixtral", **GROUPED, num_local_experts=3, num_experts_per_tok=2),
    "olmoe": decoder("olmoe", **GROUPED, num_experts=3, num_experts_per_tok=2),
    "falcon": decoder(
        "falcon", **{k: v for k, v in SMALL.items() if k != "intermediate_size"}
    ),
    "opt": decoder("opt", **{**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 8}),
    "bloom": decoder("bloom", vocab_size=TOKENS, hidden_size=16, n_layer=2, n_head=2),
    "phi": decoder("phi", **SMALL),
    "stablelm": decoder("stablelm", **GROUPED),
    "mpt": decoder("mpt", vocab_size=TOKENS, d_model=16, n_layers=2, n_heads=2, max_seq_len=32),
    "mamba": decoder(
        "mamba", vocab_size=TOKENS, hidden_size=16, num_hidden_layers=2, state_size=4,
    ),
    "rwkv": decoder(
        "rwkv", vocab_size=TOKENS, hidden_size=16, num_hidden_layers=2, context_length=32,
    ),
}  # fmt: skip

ENCODERS = {
    "bert": classifier("bert", **SMALL),
    "bert, masked tokens": Case(auto("MaskedLM", "bert", **SMALL), padded),
    "bert, token classes": Case(
        auto("TokenClassification", "bert", **SMALL, num_labels=TOKENS), padded
    ),
    "roberta": classifier("roberta", **{**SMALL, "pad_token_id": 0}),
    "distilbert": classifier(
        "distilbert", vocab_size=TOKENS, dim=16, hidden_dim=24, n_layers=2, n_heads=2,
    ),
    "deberta-v2": classifier(
        "deberta-v2", **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"],
        position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True,
        position_biased_input=False,
    ),
    "electra": classifier("electra", **SMALL, embedding_size=8),
    "albert": classifier("albert", **SMALL, embedding_size=8),
    "xlnet": classifier("xlnet", vocab_size=TOKENS, d_model=16, n_layer=2, n_head=2, d_inner=24),
    "modernbert": classifier(
        "modernbert", **SMALL, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2,
        local_attention=4,
    ),
}  # fmt: skip

VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
       "image_size": 32, "patch_size": 16, "num_labels": CLASSES}  # fmt: skip


def hugging_face_vision(family: str, **config: Any) -> Case:
    return Case(auto("ImageClassification", family, **config), pictures())


def clip() -> nn.Module:
    vision = {k: v for k, v in VIT.items() if k != "num_labels"}
    config = transformers.CLIPConfig(vision_config=vision, num_labels=CLASSES)
    return transformers.CLIPForImageClassification(config)


VISION = {
    "vit": hugging_face_vision("vit", **VIT),
    "clip": Case(clip, pictures()),
    "resnet": hugging_face_vision(
        "resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES,
    ),
    "convnextv2": hugging_face_vision(
        "convnextv2", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=CLASSES,
    ),
    "swin": hugging_face_vision(
        "swin", image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[1, 2],
        window_size=4, num_labels=CLASSES,
    ),
}  # fmt: skip


def from_timm(name: str, side: int = 32, skips: bool = False, **options: Any) -> Case:
    def build() -> nn.Module:
        return timm.create_model(name, num_classes=CLASSES, **options)

    return Case(build, pictures(side), skips, most_rows=12)


def timm_mixer(**options: Any) -> Case:
    def build() -> nn.Module:
        from timm.models.mlp_mixer import MlpMixer

        return MlpMixer(CLASSES, 32, patch_size=8, embed_dim=16, num_blocks=2, **options)

    return Case(build, pictures(), skips=True)


NARROW = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
WINDOWS = {
    "img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2),
}  # fmt: skip
POOLED = {"global_pool": "avg", "class_token": False, "fc_norm": True}

TIMM = {
    "vit": from_timm("vit_tiny_patch16_224", skips=True, **NARROW),
    "vit, average pool": from_timm("vit_tiny_patch16_224", skips=True, **NARROW, **POOLED),
    "vit, eva": from_timm("eva02_tiny_patch14_224", 28, **{**NARROW, "img_size": 28}),
    "deit3": from_timm("deit3_small_patch16_224", **NARROW),
    "beit": from_timm("beit_base_patch16_224", **NARROW),
    "xcit": from_timm("xcit_nano_12_p16_224", **NARROW),
    "mixer": timm_mixer(),
    "gmlp": timm_mixer(
        block_layer=timm.models.mlp_mixer.SpatialGatingBlock,
        mlp_ratio=4,
        mlp_layer=timm.layers.GatedMlp,
    ),
    "convnext": from_timm("convnext_atto", skips=True, depths=(1, 1, 1, 2), dims=(4, 8, 8, 16)),
    "swin": from_timm("swin_tiny_patch4_window7_224", **WINDOWS),
    "swin v2": from_timm("swinv2_tiny_window8_256", **WINDOWS),
    "densenet": from_timm("densenet121", growth_rate=4, block_config=(1, 2, 1, 1)),
    "byobnet": from_timm("test_byobnet"),
    "efficientnet": from_timm("test_efficientnet"),
    "efficientnet, evolved norms": from_timm("test_efficientnet_evos"),
    "nfnet": from_timm("test_nfnet"),
    "regnet": from_timm("regnetx_002"),
    "resnet": from_timm("test_resnet", skips=True),
    "mobilenet": from_timm("mobilenetv3_small_050"),
    "mobilevit": from_timm("mobilevit_xxs"),
}


def from_torchvision(name: str, side: int = 32, **options: Any) -> Case:
    def build() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)

    return Case(build, pictures(side), most_rows=8)


TORCHVISION = {
    "resnet": from_torchvision("resnet18"),
    "mobilenet v2": from_torchvision("mobilenet_v2", width_mult=0.1),
    "googlenet": from_torchvision("googlenet", init_weights=False, aux_logits=False),
    "shufflenet": from_torchvision("shufflenet_v2_x0_5"),
    "squeezenet": from_torchvision("squeezenet1_1"),
    "efficientnet": from_torchvision("efficientnet_b0"),
}


class Recurrent(nn.Module):
    """A classifier of token sequences, as tutorials have it."""

    def __init__(
        self, kind: type[nn.RNNBase], layers_: int = 2, both: bool = True, pack: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8, padding_idx=0)
        self.rnn = kind(8, 6, layers_, batch_first=True, bidirectional=both, dropout=0.2)
        self.head = nn.Linear(6 * (1 + both), CLASSES)
        self.pack = pack

    def forward(self, ids: Tensor) -> Tensor:
        values = self.embed(ids)
        if self.pack:
            lengths = (ids != 0).sum(1).clamp(min=1).cpu()
            values = rnn.pack_padded_sequence(
                values, lengths, batch_first=True, enforce_sorted=False
            )
        out, _ = self.rnn(values)
        if self.pack:
            out, _ = rnn.pad_packed_sequence(out, batch_first=True)
        return self.head(out.mean(1))


class TiedLM(nn.Module):
    """A recurrent language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8)
        self.rnn = nn.LSTM(8, 8, 2, batch_first=True)
        self.head = nn.Linear(8, TOKENS)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


class Cells(nn.Module):
    """A cell stepped through by hand, called once for every token."""

    def __init__(self, kind: type[nn.LSTMCell] | type[nn.GRUCell]) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(TOKENS, 8), kind(8, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        state: Any = None
        for token in self.embed(ids).unbind(1):
            state = self.cell(token, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


RECURRENT = {
    "lstm": Case(lambda: Recurrent(nn.LSTM), sequences),
    "gru": Case(lambda: Recurrent(nn.GRU), sequences),
    "plain rnn, one way": Case(lambda: Recurrent(nn.RNN, both=False), sequences),
    "lstm, packed": Case(lambda: Recurrent(nn.LSTM, pack=True), sequences),
    "gru, packed": Case(lambda: Recurrent(nn.GRU, pack=True), sequences),
    "lstm, projected": Case(lambda: Projected(), sequences),
    "lstm language model, tied": Case(TiedLM, texts),
    "lstm cell": Case(lambda: Cells(nn.LSTMCell), sequences),
    "gru cell": Case(lambda: Cells(nn.GRUCell), sequences),
}


class Projected(Recurrent):
    """With a projection of the hidden state."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM, both=False)
        self.rnn = nn.LSTM(8, 12, 2, batch_first=True, proj_size=6)


def adapted(inner: Case, targets: str | list[str], merged: bool = False, **config: Any) -> Case:
    """The network with adapters of peft."""

    def build() -> nn.Module:
        import peft

        made = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **config)
        net = peft.get_peft_model(inner.build(), made)
        return net.merge_and_unload() if merged else net

    return Case(build, inner.data)


def merged_in_place() -> nn.Module:
    """With the adapters' product added to the weights, and the adapters still there."""
    net = adapted(DECODERS["llama"], "all-linear").build()
    net.merge_adapter()
    return net


LORA = {
    "gpt2": adapted(DECODERS["gpt2"], ["c_attn"], fan_in_fan_out=True),
    "llama, every linear": adapted(DECODERS["llama"], "all-linear", lora_dropout=0.1),
    "llama, magnitudes": adapted(DECODERS["llama"], ["q_proj", "v_proj"], use_dora=True),
    "llama, merged and unloaded": adapted(DECODERS["llama"], "all-linear", merged=True),
    "llama, merged in place": Case(merged_in_place, padded),
    "bert": adapted(ENCODERS["bert"], ["query", "value"], modules_to_save=["classifier"]),
    "mixer": adapted(TIMM["mixer"], ["fc1", "fc2"], modules_to_save=["head"]),
}


def compiled(inner: Case, backend: str) -> Case:
    return Case(lambda: torch.compile(inner.build(), backend=backend), inner.data)


def in_place(inner: Case, backend: str) -> Case:
    def build() -> nn.Module:
        net = inner.build()
        net.compile(backend=backend)
        return net

    return Case(build, inner.data)


def with_compiled_blocks() -> nn.Module:
    net = DECODERS["llama"].build()
    for place, block in enumerate(net.model.layers):
        net.model.layers[place] = torch.compile(block, backend="eager")
    return net


COMPILED = {
    "gpt2, eager": compiled(DECODERS["gpt2"], "eager"),
    "gpt2, aot_eager": compiled(DECODERS["gpt2"], "aot_eager"),
    "bert, eager": compiled(ENCODERS["bert"], "eager"),
    "llama, blocks alone": Case(with_compiled_blocks, padded),
    "mixer, aot_eager": compiled(TIMM["mixer"], "aot_eager"),
    "mixer, in place": in_place(TIMM["mixer"], "eager"),
    "lstm, eager": compiled(RECURRENT["lstm"], "eager"),
    "mixer, inductor": replace(compiled(TIMM["mixer"], "inductor"), most_rows=3),
}


class Parametrised(nn.Module):
    """A small convolutional network that one parametrisation is put on."""

    def __init__(self, put_on: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.stem = put_on(nn.Conv2d(3, 4, 3, stride=4))
        self.norm = nn.BatchNorm2d(4)
        self.hidden = put_on(nn.Linear(4 * 64, 12))
        self.twice = put_on(nn.Linear(12, 12))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = self.norm(self.stem(images)).relu_().flatten(1)
        values = self.hidden(values).relu_()
        return self.head(self.twice(self.twice(values)))


def parametrised(put_on: Callable[[nn.Module], nn.Module]) -> Case:
    return Case(lambda: Parametrised(put_on), pictures())


class Squared(nn.Module):
    """A parametrisation of somebody's own."""

    def forward(self, values: Tensor) -> Tensor:
        return values * values.abs()


def squared(module: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(module, "weight", Squared())
    return module


def cayley(module: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(module, orthogonal_map="cayley")


def weight_norm_as_a_hook(module: nn.Module) -> nn.Module:
    # Else the weight hangs on to its gradient, and torch copies no such network.
    with torch.no_grad():
        return nn.utils.weight_norm(module)


def two(module: nn.Module) -> nn.Module:
    return squared(parametrizations.weight_norm(module))


PARAMETRISED = {
    "weight norm": parametrised(parametrizations.weight_norm),
    "spectral norm": parametrised(parametrizations.spectral_norm),
    "orthogonal": parametrised(parametrizations.orthogonal),
    "orthogonal, cayley": parametrised(cayley),
    "spectral norm as a hook": parametrised(nn.utils.spectral_norm),
    "weight norm as a hook": parametrised(weight_norm_as_a_hook),
    "of one's own": parametrised(squared),
    "two on one weight": parametrised(two),
}  # fmt: skip


class Shared(nn.Module):
    """One block that stands in two places, and one called in turn with another."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.embed = nn.Embedding(TOKENS, 8)
        self.blocks = nn.ModuleList([layer, nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)])
        self.blocks.append(layer)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        values = self.embed(ids)
        for block in self.blocks:
            values = block(values)
        return self.head(values[:, 0])


class Checkpointed(nn.Module):
    """Blocks that are computed again for the gradient, in both of torch's ways."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8)
        self.blocks = nn.ModuleList(
            [nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 8)]
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        values, _ = checkpoint(self.blocks[0], self.embed(ids), use_reentrant=False)
        values = checkpoint(self.blocks[1], values, use_reentrant=True).relu()
        return self.head(checkpoint(self.blocks[2], values, use_reentrant=False).mean(1))


def checkpointing() -> nn.Module:
    net = DECODERS["llama"].build()
    net.gradient_checkpointing_enable()
    return net


SHARED = {
    "transformer with a block in two places": Case(Shared, sequences),
    "nn.Transformer encoder": Case(lambda: torch_encoder(), sequences),
    "checkpointed blocks": Case(Checkpointed, sequences),
    "llama, gradient checkpointing": Case(checkpointing, padded),
}


def torch_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(TOKENS, 8), encoder, nn.Flatten(), nn.Linear(72, CLASSES))


TRANSLATORS = {
    "t5": Case(
        auto("Seq2SeqLM", "t5", vocab_size=TOKENS, d_model=16, d_kv=8, d_ff=24, num_layers=2,
             num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2),
        translations,
    ),
    "bart": Case(
        auto("Seq2SeqLM", "bart", vocab_size=TOKENS, d_model=16, encoder_layers=2, decoder_layers=2,
             encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
             decoder_ffn_dim=24, max_position_embeddings=32, pad_token_id=0, bos_token_id=1,
             eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2),
        translations,
    ),
}  # fmt: skip


# The check


def made(case: Case, seed: int) -> nn.Module:
    """A network from a seed, its running statistics such that they matter."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what they will rename
        torch.manual_seed(seed)
        net = case.build()
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return net


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def moved(state: dict[str, Tensor], net: nn.Module, seed: int) -> dict[str, Tensor]:
    """As if trained: every parameter went somewhere, tied ones together."""
    generator = torch.Generator().manual_seed(seed)
    steps: dict[int, Tensor] = {}
    held = dict(net.named_parameters(remove_duplicate=False))
    for parameter in held.values():
        step = torch.randn(parameter.shape, generator=generator) * 0.3
        steps.setdefault(id(parameter), step)
    return {
        name: value + steps[id(held[name])] if name in held else value.clone()
        for name, value in state.items()
    }


def trace_of(net: nn.Module) -> tuple[list[Any], list[Any]]:
    """Everything that a sweep must leave alone, by identity and by value."""
    own = [
        (name, id(t), t.data_ptr(), t.requires_grad, t.grad, t.clone())
        for name, t in tensors(net).items()
    ]
    kept = [
        (name, m.training, list(vars(m)), dict(m._forward_hooks), dict(m._forward_pre_hooks))
        for name, m in net.named_modules()
    ]
    return own, kept


def assert_untouched(net: nn.Module, before: tuple[list[Any], list[Any]]) -> None:
    own, kept = trace_of(net)
    for (*old, bits), (*new, bits_now) in zip(before[0], own, strict=True):
        assert old == new
        assert torch.equal(bits.nan_to_num(), bits_now.nan_to_num()), old[0]
    assert kept == before[1]


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Every number; where logits are not finite, as after a division by a norm of 0, their bits."""
    return bool((found == expected)[0 if np.isfinite(expected).all() else 2 :].all())


def check(case: Case, view: str, draws: int = 2) -> dict[str, Any]:
    """Sweep, and do every cell again by hand; return what the sweep says about itself."""
    start = made(case, 0)
    states = {0: state_of(start)}
    states |= {epoch: moved(states[0], start, epoch) for epoch in (1, 3)}
    net = made(case, 5).train()
    lent = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    for module in lent[:1]:
        module.eval()
    next(iter(net.parameters())).requires_grad_(False)
    net.register_forward_hook(seen := lambda *_: None)
    assert seen in net._forward_hooks.values()
    batches, before = case.data(), trace_of(net)
    perturbations = ["reinitialize", "rerandomize", "zero", *(["skip"] * case.skips)]
    rows = layers.find(net, view)
    rows = rows[:: math.ceil(len(rows) / case.most_rows)]
    ds = layerscope.sweep(
        net, batches, checkpoints=states, view=view, layers=[row.name for row in rows],
        perturbations=perturbations,
        metrics=["error", "loss", BITS], draws=draws, seed=3, device="cpu", show_progress=False,
    )  # fmt: skip
    assert_untouched(net, before)
    trained = plain.copy_with(net, states[3])
    expected = by_hand(trained, batches)
    assert same(ds.baseline.values, expected)
    rows.append(layers.whole_network(net, results.FULL_MODEL, layers.Norms()))
    assert {row.name for row in rows} == set(ds.layer.values)
    differing = 0
    for row in rows:
        for at, values in changes(net, row, states, draws):
            found = ds.value.sel(layer=row.name, **at).values
            other = plain.copy_with(trained, values)
            assert same(found, by_hand(other, batches)), (row.name, at)
            differing += found[2] != expected[2]
    assert differing > 2 * len(rows)
    if case.skips and view == "block":
        check_skipped(ds, rows, trained, batches)
    return ds.attrs["reuse"]


def changes(net, row, states, draws):
    """What each cell of a row writes, with where the cell stands in the Dataset."""
    for epoch, state in states.items():
        values = {name: state[name] for name in row.tensors if name in state}
        yield {"perturbation": "reinitialize", "epoch": epoch, "draw": 0}, values
    nowhere = {"epoch": results.NO_EPOCH}
    fresh = perturb.Redraw(net, open_series(states).fit(net))
    # A compiled network is drawn as what it was compiled from.
    bare = ".".join(part for part in row.name.split(".") if part != "_orig_mod")
    for draw in range(draws):
        source = seeds.generator(3, bare, "rerandomize", results.NO_EPOCH, draw)
        yield {"perturbation": "rerandomize", "draw": draw} | nowhere, fresh.draw(row, source)
    zeros = {name: torch.zeros_like(states[3][name]) for name in row.parameters}
    yield {"perturbation": "zero", "draw": 0} | nowhere, zeros


def check_skipped(ds, rows, trained, batches):
    """Cells that pass a block over; those that can't be stand empty."""
    cells = ds.value.sel(perturbation="skip", epoch=results.NO_EPOCH, draw=0)
    done = [row for row in rows if not np.isnan(cells.sel(layer=row.name).values).any()]
    assert done
    for row in done:
        other = plain.copy_with(trained, {}, dict.fromkeys(row.modules, PASSED))
        assert same(cells.sel(layer=row.name).values, by_hand(other, batches)), row.name


FAMILIES = {
    "decoder": DECODERS,
    "encoder": ENCODERS,
    "translator": TRANSLATORS,
    "hugging face vision": VISION,
    "timm": TIMM,
    "torchvision": TORCHVISION,
    "recurrent": RECURRENT,
    "lora": LORA,
    "compiled": COMPILED,
    "parametrised": PARAMETRISED,
    "shared": SHARED,
}
EVERY = [
    (family, name, view)
    for family, cases in FAMILIES.items()
    for name in cases
    for view in ("leaf", "block")
]
QUICK = [
    ("decoder", "gpt2", "block"),
    ("encoder", "bert", "block"),
    ("timm", "vit", "block"),
    ("recurrent", "lstm", "leaf"),
    ("parametrised", "weight norm", "leaf"),
    ("shared", "transformer with a block in two places", "block"),
]


@pytest.mark.parametrize(("family", "name", "view"), QUICK)
def test_sweeps_equal_deep_copies(family, name, view):
    check(FAMILIES[family][name], view)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name", "view"), [one for one in EVERY if one not in QUICK])
def test_sweeps_of_every_family_equal_deep_copies(family, name, view):
    check(FAMILIES[family][name], view)
