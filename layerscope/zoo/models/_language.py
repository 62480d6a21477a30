"""Language models: a decoder-only Transformer and an LSTM, from token ids to logits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerscope.errors import OptionError
from layerscope.zoo.models._family import Config, Family, Place
from layerscope.zoo.models._initializers import (
    ZERO,
    Initializer,
    Normal,
    Rule,
    Uniform,
    expand_rules,
    scale,
)
from layerscope.zoo.models._patches import check_heads, default_heads

__all__ = [
    "LSTM",
    "LSTMLM",
    "TRANSFORMER",
    "LSTMConfig",
    "TransformerConfig",
    "TransformerLM",
]


class _Language(Config):
    """Checks of the configurations of both families."""

    width: int
    depth: int
    dropout: float

    def _check(self) -> None:
        self._check_positive("width", "depth")
        self._check_fraction("dropout")
        self._check_tokens()

    def example(self) -> Tensor:
        """Two sequences of token 0."""
        return torch.zeros(2, *self.inputs, dtype=torch.long)


@dataclass(frozen=True)
class TransformerConfig(_Language):
    """A decoder-only Transformer, normalised before each sub-layer (Radford et al. 2019).

    Parameters
    ----------
    width : int
        Numbers in each token; the MLPs have four times as many hidden units.
    depth : int
        Blocks.
    heads : int, optional
        Heads of attention, which divide the width; by default one for every 64 of it.
    tied : bool
        Whether the head's weights are those of the embedding.
    dropout : float
        Share that is dropped of embedded tokens, attention, and what blocks add, in [0, 1).
    inputs : tuple of int
        Length of the longest sequence, which decides the number of learned positions.
    classes : int
        Size of the vocabulary.
    removed : tuple of str
        What `remove` has replaced by the identity.

    Notes
    -----
    Drawn as GPT-2: normal with σ = 0.02, projections onto the residual path 1/√(2 depth) as large,
    biases 0.
    """

    family: ClassVar[str] = "transformer"
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"transformer-(?P<width>\d+)x(?P<depth>\d+)(?:-h(?P<heads>\d+))?"
    )

    width: int = 128
    depth: int = 4
    heads: int | None = None
    tied: bool = False
    dropout: float = 0.0
    inputs: tuple[int, ...] = (128,)
    classes: int = 10_000
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check()
        check_heads(self.heads, self.width)

    @property
    def name(self) -> str:
        """The short name, such as ``"transformer-128x4"``."""
        heads = "" if self.heads is None else f"-h{self.heads}"
        return f"transformer-{self.width}x{self.depth}{heads}"


@dataclass(frozen=True)
class LSTMConfig(_Language):
    """An LSTM language model (Zaremba et al. 2014).

    Parameters
    ----------
    width : int
        Units of each LSTM layer, and numbers in each embedded token.
    depth : int
        LSTM layers.
    tied : bool
        Whether the head's weights are those of the embedding.
    dropout : float
        Share that is dropped of what goes into each LSTM layer and into the head, in [0, 1).
    inputs : tuple of int
        Length of the sequences; any other length may come too.
    classes : int
        Size of the vocabulary.
    removed : tuple of str
        What `remove` has replaced by the identity.

    Notes
    -----
    LSTM layers are drawn as torch draws them, uniform within ±1/√width; embedding and head
    uniform within ±0.1, the head's bias 0.
    """

    family: ClassVar[str] = "lstm"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"lstm-(?P<width>\d+)x(?P<depth>\d+)")

    width: int = 256
    depth: int = 2
    tied: bool = False
    dropout: float = 0.0
    inputs: tuple[int, ...] = (128,)
    classes: int = 10_000
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check()

    @property
    def name(self) -> str:
        """The short name, such as ``"lstm-256x2"``."""
        return f"lstm-{self.width}x{self.depth}"


class TransformerLM(nn.Module):
    """Layers embedding (token and position), block1 … blockN, norm and head.

    A block has norm1, q, k, v, out, norm2, mlp_in and mlp_out, each a layer of its own.

    Parameters
    ----------
    config : TransformerConfig
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.depth = config.depth
        self.embedding = _Embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        for index in range(1, config.depth + 1):
            self.add_module(f"block{index}", _Block(config))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes, bias=False)
        if config.tied:
            self.head.weight = self.embedding.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, T, vocabulary)`` for token ids of shape ``(n, T)``.

        Raises
        ------
        OptionError
            If the sequences are longer than those that the network was built for.
        """
        values = self.dropout(self.embedding(tokens))
        for index in range(1, self.depth + 1):
            values = self.get_submodule(f"block{index}")(values)
        output: Tensor = self.head(self.norm(values))
        return output


class _Embedding(nn.Module):
    """Sum of what a token is and where it stands."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.classes, config.width)
        self.position = nn.Embedding(config.inputs[0], config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        length, most = tokens.shape[1], self.position.num_embeddings
        if length > most:
            raise OptionError(
                f"the sequences have {length} tokens, but the network has {most} positions; "
                f"cut them, or build it with inputs=({length},)."
            )
        positions = torch.arange(length, device=tokens.device)
        values: Tensor = self.token(tokens) + self.position(positions)
        return values


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads or default_heads(width)
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.dropout(self.out(self._attend(self.norm1(values))))
        inner = functional.gelu(self.mlp_in(self.norm2(values)))
        result: Tensor = values + self.dropout(self.mlp_out(inner))
        return result

    def _attend(self, values: Tensor) -> Tensor:
        q, k, v = (
            layer(values).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        dropped = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


class LSTMLM(nn.Module):
    """Layers embedding, lstm1 … lstmN and head.

    Parameters
    ----------
    config : LSTMConfig
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.depth = config.depth
        self.embedding = nn.Embedding(config.classes, config.width)
        for index in range(1, config.depth + 1):
            self.add_module(f"lstm{index}", _LSTMLayer(config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, config.classes)
        if config.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, T, vocabulary)`` for token ids of shape ``(n, T)``."""
        values = self.embedding(tokens)
        for index in range(1, self.depth + 1):
            values = self.get_submodule(f"lstm{index}")(self.dropout(values))
        output: Tensor = self.head(self.dropout(values))
        return output


class _LSTMLayer(nn.LSTM):
    """One layer that gives its outputs alone: a tensor in, a tensor out, like other layers."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:  # type: ignore[override]
        outputs: Tensor = super().forward(values)[0]
        return outputs


def _draw_transformer(model: nn.Module, config: TransformerConfig) -> dict[str, Initializer]:
    weight = Normal(0.02)
    residual = scale(weight, (2 * config.depth) ** -0.5)
    rules: dict[str, Rule] = {
        name: (residual if name.endswith((".out", ".mlp_out")) else weight, ZERO)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding))
    }
    return expand_rules(model, rules)


def _draw_lstm(model: nn.Module, config: LSTMConfig) -> dict[str, Initializer]:
    rules: dict[str, Rule] = {"embedding": (Uniform(0.1), ZERO), "head": (Uniform(0.1), ZERO)}
    own = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for index in range(1, config.depth + 1):
        rules[f"lstm{index}"] = dict.fromkeys(own, Uniform(config.width**-0.5))
    return expand_rules(model, rules)


def _place(_: nn.Module, leaf: str) -> Place:
    if leaf in ("norm", "head"):
        return leaf, leaf, leaf
    if leaf.startswith("embedding"):
        return "embedding", "embedding", "embedding"
    return leaf, leaf.partition(".")[0], "blocks"


TRANSFORMER = Family(
    config=TransformerConfig,
    form="transformer-WIDTHxDEPTH[-hHEADS]",
    example="transformer-128x4",
    about="Transformer language model: 4 blocks, tokens of 128",
    network=TransformerLM,
    initializers=_draw_transformer,
    place=_place,
)

LSTM = Family(
    config=LSTMConfig,
    form="lstm-WIDTHxDEPTH",
    example="lstm-256x2",
    about="LSTM language model: 2 layers of 256 units",
    network=LSTMLM,
    initializers=_draw_lstm,
    place=_place,
)
