"""Networks of transformers without some of their blocks, written as transformers reads them."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.core.checkpoints import quietly
from layerscope.core.export._blocks import BlockList
from layerscope.core.networks import is_network, open_tokenizer
from layerscope.errors import CheckpointError, LayerError

__all__ = ["is_pretrained", "load", "same_tokens", "save", "save_tokenizer", "without_blocks"]

_PER_LAYER = re.compile("layer|block|window|pattern")
"""Names of lists in a configuration that hold one entry for each block, if they are as long."""

_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
              "*.model", "spiece.*", "chat_template*")  # fmt: skip


def is_pretrained(model: nn.Module) -> bool:
    """Recognise a network of transformers, without importing it for one that is not."""
    library: Any = sys.modules.get("transformers")
    return library is not None and isinstance(model, library.PreTrainedModel)


def without_blocks(
    model: Any, blocks: BlockList, kept: Sequence[int], state: Mapping[str, Tensor]
) -> Any:
    """Build the network anew from a configuration that has fewer blocks, with these weights.

    So every block learns its new place from the constructor, as caches of keys and values need it.
    Of buffers that are not saved it has no values: it is to be saved, not run.

    Raises
    ------
    LayerError
        If the smaller configuration makes another network than that without the blocks.
    """
    config = _config(model.config, blocks, kept)
    try:
        with torch.device("meta"):
            network = type(model)(config)
        held = {new: t for name, t in state.items() if (new := blocks.renamed(name, kept))}
        network.load_state_dict(held, assign=True)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise LayerError(
            f"a {type(model).__name__} of {len(kept)} blocks can't be built with the weights of "
            f"those that stay ({str(error).splitlines()[0]}); its configuration says something of "
            "its blocks that can't be cut to fewer. Leave out others, or a whole period of them."
        ) from error
    network.tie_weights()
    return network


def save(network: Any, model: Any, folder: Path) -> None:
    """Write a network, with the generation settings of the one that it was made from."""
    with quietly():
        network.save_pretrained(folder)
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        # As they are: transformers refuses to save some that it loads and that networks come with.
        settings.to_json_file(folder / "generation_config.json")


def _config(config: Any, blocks: BlockList, kept: Sequence[int]) -> Any:
    """Cut what a configuration says of every block to those that stay."""
    total = len(blocks.names)
    smaller = copy.deepcopy(config)
    # What the weights were quantised with once says nothing of those that are written.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(smaller, name):
            delattr(smaller, name)
    inner = smaller.get_text_config()
    if getattr(inner, "num_hidden_layers", None) != total:
        raise LayerError(
            f"the configuration {type(config).__name__} says that there are "
            f"{getattr(inner, 'num_hidden_layers', None)} blocks, but the network has {total}; "
            "export is for networks with one row of blocks, such as decoders."
        )
    for name, value in list(vars(inner).items()):
        if isinstance(value, (list, tuple)) and len(value) == total and _PER_LAYER.search(name):
            setattr(inner, name, [value[at] for at in kept])
    for name, renumbered in _BY_PLACE.items():
        if getattr(inner, name, None) is not None:
            setattr(inner, name, renumbered(getattr(inner, name), kept))
    inner.num_hidden_layers = len(kept)
    return smaller


_BY_PLACE: Mapping[str, Callable[[Any, Sequence[int]], Any]] = {
    # Which blocks have a plain MLP; how many at the start have one.
    "mlp_only_layers": lambda places, kept: [new for new, old in enumerate(kept) if old in places],
    "first_k_dense_replace": lambda count, kept: sum(old < count for old in kept),
}
"""What a configuration says of blocks by their places."""


def save_tokenizer(model: Any, tokenizer: Any, folder: Path) -> bool:
    """Write the tokenizer beside a network: the one given, else the files of its own folder."""
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
        return True
    source = Path(tokenizer or getattr(model.config, "_name_or_path", "") or "-")
    found = {path for pattern in _TOKENIZER for path in source.glob(pattern) if path.is_file()}
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    if not found and source.is_dir() and is_network(source):
        return _save_opened(source, folder)
    return bool(found)


def _save_opened(source: Path, folder: Path) -> bool:
    """Write the tokenizer that is inside a network's own file, as in a GGUF."""
    try:
        opened = open_tokenizer(source)
    except CheckpointError:
        return False  # a network need not have one
    opened.save_pretrained(folder)
    return True


def same_tokens(network: Any, prompt: Tensor, count: int = 16) -> bool:
    """Check that a network goes on with the same tokens with a cache of keys and values as without.

    What differs in the last bits may tip the scales where two tokens are equally likely.
    """
    said = [
        network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            num_beams=1,
            use_cache=cached,
            pad_token_id=0,
        )
        for cached in (True, False)
    ]
    return torch.equal(*said)


def load(folder: Path, kind: Any, config: Any, auto: Any) -> Any:
    """Load what was written in the plainest way, with the kind of attention that the other has."""
    attention = getattr(config, "_attn_implementation", None)
    chosen = {"attn_implementation": attention} if attention else {}
    loader = auto if "CausalLM" in kind.__name__ or "LMHead" in kind.__name__ else kind
    with quietly():
        return loader.from_pretrained(folder, **chosen)
