"""A sweep on an accelerator waits for it once in a batch, however many cells there are.

There is none here, so one is pretended: real tensors that say they are elsewhere, among operators
that refuse to mix them with others, and every look at a value is noted.
"""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import layerscope
from layerscope.base import devices
from layerscope.core import metrics
from layerscope.core.batches import Grouped
from layerscope.core.metrics import Metric
from layerscope.errors import LayerscopeError

AWAY = torch.device("cuda:0")
_LOOKS = {
    "item", "tolist", "numpy", "equal", "nonzero", "__bool__", "__float__", "__int__", "__index__",
    "__array__", "__contains__", "unique", "masked_select", "is_nonzero", "allclose",
}  # fmt: skip


class PretendedDevice(TorchFunctionMode):
    """Let tensors that were moved to a GPU, and all that comes of them, say that they are there."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, StorageWeakRef] = {}
        self.waits: Counter[str] = Counter()

    def is_away(self, tensor: object) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._held

    def _send(self, tree):
        for tensor in (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            self._held[storage._cdata] = StorageWeakRef(storage)
        return tree

    def _note(self, name: str) -> None:
        ours = [f for f in traceback.extract_stack() if "/layerscope/" in f.filename]
        where = f" in {Path(ours[-1].filename).name}: {ours[-1].line}" if ours else ""
        self.waits[name + where] += 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [tensor for tensor in tensors if self.is_away(tensor)]
        if name == "__get__" and away and func.__self__ in (Tensor.device, Tensor.is_cpu):
            return AWAY if func.__self__ is Tensor.device else False
        wanted = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
        to = wanted[0] if wanted else None
        args, kwargs = tree_map(_local, args), tree_map(_local, kwargs)
        pinned = kwargs.pop("pin_memory", False)
        assert not pinned or to is None or to.type == "cpu"
        if name == "pin_memory":
            return args[0].clone()
        if name == "cpu" or (to is not None and away and to.type == "cpu"):
            if not away:
                return func(*args, **kwargs)
            self._note("a transfer")
            return func(*args, **kwargs).clone()
        if to is not None and to.type != "cpu":
            if tensors and not away and not kwargs.get("non_blocking"):
                self._note("a copy")
            out = func(*args, **kwargs)
            return self._send(out.clone() if tensors and not away else out)
        if name == "copy_" and len(tensors) == 2 and len(away) == 1:
            if not kwargs.get("non_blocking"):
                self._note("a copy" if self.is_away(args[0]) else "a transfer")
            return func(*args, **kwargs)
        if away and name in _LOOKS:
            self._note(name)
            return func(*args, **kwargs)
        if away and name == "__getitem__" and _is_mask(args[1]):
            self._note("a mask")
        others = [t for t in tensors if not self.is_away(t) and t.ndim]
        assert not away or not others or name in _MIXING, f"{name} of several devices"
        out = func(*args, **kwargs)
        return self._send(out) if away else out


_MIXING = {"__getitem__", "__setitem__", "__set__", "index_put_"}


def _local(leaf):
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _is_mask(index) -> bool:
    given = [leaf for leaf in tree_leaves(index) if isinstance(leaf, Tensor)]
    return any(each.dtype == torch.bool for each in given)


class Network(nn.Module):
    """With what a batch leaves behind in evaluation mode, and a head that is tied."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(7, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens):
        self.calls += 1
        return self.head(self.body(self.embedding(tokens)).relu())


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**30, 2**31))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return "cuda:0"


STATES = {epoch: Network(epoch).state_dict() for epoch in (0, 3)}
TOKENS = torch.randint(7, (12, 5), generator=torch.Generator().manual_seed(0))


def sweep(device, batches=3, **options):
    pair = TOKENS[:, :-1].contiguous(), TOKENS[:, 1:].contiguous()
    given = {"metrics": ["error", "loss", "agreement"], "perturbations": ["noise(0.1)", "skip"]}
    return layerscope.sweep(
        Network(3), pair, checkpoints=STATES, view="leaf", norms="with", device=device,
        batch_size=12 // batches, show_progress=False, **given | options,
    )  # fmt: skip


def waits(device, **options):
    with PretendedDevice() as seen:
        ds = sweep(device, **options)
    return seen.waits, ds


def test_a_sweep_waits_for_an_accelerator_once_in_a_batch(pretended):
    few, ds = waits(pretended, draws=1)
    many, more = waits(pretended, draws=4)
    assert more.sizes["draw"] == 4
    assert many == few  # not for any cell
    transfers = [said for said in many if said.startswith("a transfer in _per_example")]
    assert sum(many[said] for said in transfers) == 3
    # Nor for any batch, beyond that.
    longer, ds_of_six = waits(pretended, draws=1, batches=6)
    assert longer - few == Counter(dict.fromkeys(transfers, 3))
    for found, options in ((ds, {}), (more, {"draws": 4}), (ds_of_six, {"batches": 6})):
        xr.testing.assert_identical(found.value, sweep("cpu", **{"draws": 1} | options).value)


def test_what_was_kept_is_kept_in_parts(pretended, monkeypatch):
    monkeypatch.setattr("layerscope.core.sweep._sums._HELD_BYTES", 0)
    _, ds = waits(pretended, draws=2)
    xr.testing.assert_identical(ds.value, sweep("cpu", draws=2).value)


class Once(nn.Linear):
    """Sets its bias by the first batch that it sees."""

    def forward(self, inputs):
        if not bool(self.bias.any()):
            self.bias.data.copy_(-inputs.mean((0, 1)))
        return super().forward(inputs)


def test_a_cell_that_initialises_itself_is_refused_there_as_well(pretended, tmp_path):
    network, states = Network(3), copy.deepcopy(STATES)
    network.body[0] = Once(6, 6)
    states[0]["body.0.bias"] = torch.zeros(6)
    pair = TOKENS[:, :-1].contiguous(), TOKENS[:, 1:].contiguous()
    options = {"checkpoints": states, "perturbations": ["reinitialize"], "batch_size": 4}
    options |= {"layers": ["body.0"], "whole": False}
    with (
        PretendedDevice(),
        pytest.raises(LayerscopeError, match=r"body\.0 under reinitialize initialises itself"),
    ):
        layerscope.sweep(
            network, pair, device=pretended, out=tmp_path, show_progress=False, **options
        )
    assert not list(tmp_path.rglob("*.npz"))  # of nothing that can't be trusted


class Documents(Grouped):
    __slots__ = ("rows",)

    def __init__(self, rows):
        self.rows = rows


@pytest.mark.usefixtures("pretended")
def test_rows_of_an_example_are_added_in_one_order():
    own = Metric("mine", "mine", lambda outputs, _: outputs.exp(), classes=False)
    outputs, targets = torch.randn(6, 3), Documents([2, 1, 3])
    right = metrics.measure([own], outputs, targets)["mine"]
    with PretendedDevice() as seen:
        scores = metrics.score([own], outputs.to(AWAY, non_blocking=True), targets)
        assert not seen.waits
        found = metrics.collect([scores])[0]["mine"]
    assert sum(seen.waits.values()) == 1
    torch.testing.assert_close(found.values, right.values)
    assert torch.equal(found.weights, right.weights)


def test_scores_become_the_same_outcomes_together_as_alone():
    wanted = metrics.parse(["error", "loss", "agreement", "calibration_error"])
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (6, 3), generator=generator)
    given = [torch.randn(6, 3, 5, generator=generator) for _ in range(3)]
    scores = [metrics.score(wanted, outputs, targets, given[0]) for outputs in given]
    together = metrics.collect([scores[0], *scores, scores[1]])
    assert together[0] is together[1]
    assert together[2] is together[4]
    assert all(not each.packed for each in scores)
    for outputs, found in zip(given, together[1:4], strict=True):
        for name, alone in metrics.measure(wanted, outputs, targets, given[0]).items():
            assert torch.equal(found[name].values, alone.values)
            assert torch.equal(found[name].weights, alone.weights)


def test_what_a_card_has_free_may_be_filled_to_a_quarter(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * 2**30, 141 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 12 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 8 * 2**30)
    assert devices.spare_bytes(AWAY) == 21 * 2**30
    assert devices.spare_bytes(torch.device("cpu")) <= 4 * 2**30


def test_convolutions_are_not_chosen_by_trial_while_a_network_is_lent(pretended, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []
    with PretendedDevice():
        sweep(pretended, between=lambda: seen.append(torch.backends.cudnn.benchmark))
    assert set(seen) == {False}
    assert torch.backends.cudnn.benchmark
    sweep("cpu", between=lambda: seen.append(torch.backends.cudnn.benchmark))
    assert seen[-1]  # which has nothing to choose


VALUES = [
    torch.arange(6.0),
    torch.empty(0),
    torch.ones(2, 3)[:, 1],
    torch.arange(24.0).view(1, 3, 2, 4).contiguous(memory_format=torch.channels_last),
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.usefixtures("pretended")
def test_values_are_sent_and_may_be_changed_at_once(value):
    before = value.clone()
    with PretendedDevice() as seen:
        sent = devices.send(value, AWAY)
        assert sent.stride() == value.to(AWAY, non_blocking=True).stride()
        into = torch.empty(value.shape, device=AWAY)
        devices.write(into, value)
        value.zero_()
        assert seen.is_away(sent)
        assert seen.is_away(into)
        assert not seen.waits
        assert torch.equal(sent.cpu(), before)
        assert torch.equal(into.cpu(), before)
