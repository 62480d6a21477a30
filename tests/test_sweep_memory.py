"""What a sweep holds of a language model's logits, which are larger than all else."""

from __future__ import annotations

import json

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import layerscope
from layerscope.core.metrics import _scores

VOCAB, EXAMPLES, LENGTH = 4099, 16, 8
LOGITS = 4 * VOCAB * EXAMPLES * LENGTH  # bytes


class LogitsHeld(TorchDispatchMode):
    """The most bytes at a time in logits, and in what is as large as those of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(tensor) and not func.is_view and tensor.shape[-1:] == (VOCAB,):
                storage = tensor.untyped_storage()
                if storage.nbytes() >= LOGITS // EXAMPLES:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        gone = [key for key, (held, _) in self.alive.items() if held.expired()]
        for key in gone:
            del self.alive[key]
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize(
    ("wanted", "times"),
    [(["loss", "error", "perplexity"], 1), (["loss", "kl_divergence", "cosine"], 2)],
)
def test_logits_are_held_once_and_again_only_where_a_metric_compares(monkeypatch, wanted, times):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(_scores, "_PIECE", VOCAB * LENGTH // 2)
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=VOCAB, max_position_embeddings=32,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(VOCAB, (2 * EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    held = LogitsHeld()
    with held:
        ds = layerscope.sweep(
            net, (ids, targets), checkpoints={0: net.state_dict()}, layers=["model.layers.*"],
            perturbations=["zero"], metrics=wanted, batch_size=EXAMPLES, whole=False,
            device="cpu", show_progress=False,
        )  # fmt: skip
    assert json.loads(ds.attrs["reuse"])["passes"]["replayed"] > 10
    assert LOGITS * times <= held.most < LOGITS * (times + 0.5)
