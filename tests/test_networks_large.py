"""Networks that are read once, tensor by tensor; those without values, and dispatched ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import layerscope
from layerscope import errors
from layerscope.base import tensors
from layerscope.core import lending, networks
from layerscope.core.checkpoints import Series, open_series
from layerscope.core.checkpoints._memory import InMemory

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "vocab_size": 61, "n_positions": 32}
KINDS = {
    "apart": ("llama", SMALL),
    "tied": ("llama", SMALL | {"tie_word_embeddings": True}),
    "gpt2": ("gpt2", GPT2),
}


def build(kind="apart", seed=0):
    torch.manual_seed(seed)
    name, options = KINDS[kind]
    config = transformers.AutoConfig.for_model(name, **options)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def held(net):
    return dict(net.named_parameters()) | dict(net.named_buffers())


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@pytest.fixture
def count(monkeypatch):
    """The bytes that are read of ``.safetensors`` files."""
    read = []
    real = tensors.fill

    def counted(tensor, file):
        read.append(tensor.numel() * tensor.element_size())
        return real(tensor, file)

    from layerscope.core.checkpoints import _safe
    from layerscope.core.networks import _settling

    for module in (_safe, _settling):
        monkeypatch.setattr(module, "fill", counted)
    return read


def bytes_of(found):
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in found.values()}.values())


# Folders.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["9KB", "1GB"])
def test_a_network_is_read_once_and_is_that_of_transformers(kind, dtype, size, tmp_path, count):
    build(kind).to(dtype).save_pretrained(tmp_path, max_shard_size=size)
    net = layerscope.open_network(tmp_path)
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert equal(held(net), held(expected))
    assert tensors.tied_names(net) == tensors.tied_names(expected)
    assert {t.dtype for t in net.parameters()} == {dtype}
    assert all(map(tensors.is_aligned, held(net).values()))
    assert sum(count) <= bytes_of(dict(net.named_parameters()))
    # And it no longer hangs on the file.
    for path in tmp_path.glob("*.safetensors"):
        with open(path, "r+b") as file:
            file.write(b"\0" * path.stat().st_size)
    assert equal(net.state_dict(), build(kind).to(dtype).state_dict())


def test_a_sharded_series_is_read_for_what_a_cell_needs(tmp_path, count):
    for step in (0, 5, 9):
        build("tied", step).save_pretrained(tmp_path / f"step{step}", max_shard_size="9KB")
    net = build("tied", 9)
    series = open_series([tmp_path / f"step{step}" for step in (0, 5, 9)]).fit(net)
    assert sum(count) == 0  # fitted by the headers alone
    name = "model.layers.1.mlp.down_proj.weight"
    found = series.read(5, [name])[name]
    assert torch.equal(found, net.state_dict()[name] * 0 + build("tied", 5).state_dict()[name])
    assert sum(count) == found.numel() * 4


def unaligned(tensor):
    memory = torch.empty(tensor.numel() * tensor.element_size() + 64, dtype=torch.uint8)
    lying = memory[8 : 8 + tensor.numel() * tensor.element_size()].view(tensor.dtype)
    return lying.view(tensor.shape).copy_(tensor)


def test_weights_are_lent_as_a_copy_lies_and_come_back_where_they_were():
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    net[0].weight.data = unaligned(net[0].weight.data)
    before = {name: p.data_ptr() for name, p in net.named_parameters()}
    expected = copy.deepcopy(net.state_dict())
    with lending.borrowed(net, torch.device("cpu")):
        lent = {name: p.data_ptr() for name, p in net.named_parameters()}
        assert all(tensors.is_aligned(p) for p in net.parameters())
        assert equal(net.state_dict(), expected)
    moved = {name for name in lent if lent[name] != before[name]}
    assert moved == {"0.weight"}  # all else is not copied
    assert {name: p.data_ptr() for name, p in net.named_parameters()} == before


# Networks without values.


def on_meta(kind):
    with torch.device("meta"):
        return build(kind)


def empty(kind):
    accelerate = pytest.importorskip("accelerate")
    with accelerate.init_empty_weights():
        return build(kind)


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(0, 61, (4, 10), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def sweep(model, data, **more):
    options = {"device": "cpu", "show_progress": False, "view": "block", "whole": False}
    return layerscope.sweep(model, data, **options | {"perturbations": ["reinitialize"]} | more)


@pytest.mark.parametrize("made", [on_meta, empty])
@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_is_filled_from_the_last_checkpoint(kind, made, tmp_path, count):
    for step in (0, 9):
        build(kind, step).save_pretrained(tmp_path / f"step{step}", max_shard_size="9KB")
    model = made(kind)
    state = torch.get_rng_state()
    net = networks.network_of(model, [tmp_path / "step0", tmp_path / "step9"])
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(held(net), held(build(kind, 9)))
    assert tensors.tied_names(net) == tensors.tied_names(build(kind, 9))
    assert sum(count) == bytes_of(dict(net.named_parameters()))
    assert all(p.is_meta for p in model.parameters())


def test_a_sweep_and_a_session_take_a_skeleton_and_give_it_back(tokens, tmp_path):
    for step in (0, 9):
        build("tied", step).save_pretrained(tmp_path / f"step{step}")
    series = {step: tmp_path / f"step{step}" for step in (0, 9)}
    model = on_meta("tied")
    found = sweep(model, tokens, checkpoints=series)
    expected = sweep(build("tied", 9), tokens, checkpoints=series)
    assert found["value"].equals(expected["value"])
    assert found.attrs["identity"] == expected.attrs["identity"]
    assert all(t.is_meta for t in held(model).values())
    with layerscope.Session(model, tokens, checkpoints=series, device="cpu") as session:
        assert session.measure({}).mean("loss") == expected["baseline"].sel(metric="loss").item()


class Loose(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("scale", torch.ones(2), persistent=False)


class Attribute(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.mask = torch.ones(2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Loose, "the buffer scale of model.*init_empty"), (Attribute, "the attribute mask of model")],
)
def test_what_no_checkpoint_holds_is_not_made_up(kind, words):
    pair = torch.ones(2, 2), torch.zeros(2, dtype=torch.long)
    with torch.device("meta"):
        net = kind()
    state = kind().state_dict()
    with pytest.raises(errors.OptionError, match=words):
        sweep(net, pair, checkpoints={0: state, 1: {n: t + 1 for n, t in state.items()}})


def test_a_skeleton_needs_checkpoints_that_fit(tokens):
    with pytest.raises(errors.OptionError, match=r"on the device meta.*give checkpoints="):
        sweep(on_meta("tied"), tokens, perturbations=["zero"])
    with pytest.raises(errors.CheckpointError, match="does not fit"):
        sweep(on_meta("tied"), tokens, checkpoints={0: build("gpt2").state_dict()})


# Accelerate.


def test_what_accelerate_offloads_is_refused_before_anything_is_read(tokens, tmp_path, count):
    accelerate = pytest.importorskip("accelerate")
    build("tied").save_pretrained(tmp_path / "step0")
    net = accelerate.cpu_offload(build("tied"), execution_device="cpu")
    for checkpoints in (None, {0: tmp_path / "step0"}):
        with pytest.raises(errors.OptionError, match=r"CPU or disk offload.*Give the folder"):
            sweep(net, tokens, checkpoints=checkpoints, perturbations=["zero"])
    assert not count


def test_hooks_for_another_device_are_refused(tokens):
    hooks = pytest.importorskip("accelerate.hooks")
    net = build("tied")
    hook = hooks.AlignDevicesHook(execution_device="cuda:1")
    net.lm_head._hf_hook = hooks.SequentialHook(hook)
    with pytest.raises(errors.OptionError, match=r"on cuda:1, and the sweep is to run on cpu"):
        sweep(net, tokens, perturbations=["zero"])
    net.model._hf_hook = hooks.AlignDevicesHook(execution_device="cuda:0")
    with pytest.raises(errors.OptionError, match=r"network on cuda:0, cuda:1"):
        networks.network_of(net)


def test_hooks_that_move_nothing_stay_and_passes_are_reused(tokens):
    accelerate = pytest.importorskip("accelerate")
    net = build("tied")
    net = accelerate.dispatch_model(net, {"": "cpu"}, force_hooks=True)
    assert net._hf_hook is not None
    found = sweep(net, tokens, perturbations=["zero"])
    assert found["value"].equals(sweep(build("tied"), tokens, perturbations=["zero"])["value"])
    assert '"replayed": 0' not in found.attrs["reuse"]
    assert net._hf_hook is not None


def test_weights_of_a_tied_network_are_compared_without_a_copy(monkeypatch):
    net = build("tied")
    with monkeypatch.context() as patch:
        patch.setattr(InMemory, "read", lambda *_: pytest.fail("it was copied"))
        series = Series.of(net)
        series.fit(net)
    assert torch.equal(series.read(series.last)["lm_head.weight"], net.lm_head.weight)
    state = copy.deepcopy(net.state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(errors.CheckpointError, match="different values for"):
        open_series({0: state}).fit(net)
