"""Names that wrappers change, names that are tied, and names of files as others give them."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import layerscope
from layerscope import models
from layerscope.core.checkpoints import open_series
from layerscope.core.session import Session
from layerscope.errors import CheckpointError

OPTIONS = {"device": "cpu", "draws": 2, "show_progress": False}


def built(seed=0):
    return models.build("fcn-2x8", seed=seed, inputs=(4,), classes=3)


def data():
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


# Wrappers


def parts_compiled(net):
    wrapped = copy.deepcopy(net)
    wrapped.layer2 = torch.compile(wrapped.layer2, backend="eager")
    return wrapped


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled, in DataParallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "a part compiled": parts_compiled,
}
KINDS = ["rerandomize", "noise(0.5)", "permute", "reinitialize"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_changes_no_draw(wrapper):
    series = {0: built(1).state_dict(), 5: built(0).state_dict()}
    plain = layerscope.sweep(built(2), data(), checkpoints=series, perturbations=KINDS, **OPTIONS)
    ds = layerscope.sweep(
        WRAPPERS[wrapper](built(2)), data(), checkpoints=series, perturbations=KINDS, **OPTIONS
    )
    for name in ("value", "draw_distance", "distance"):
        torch.testing.assert_close(
            torch.from_numpy(ds[name].values),
            torch.from_numpy(plain[name].values),
            rtol=0,
            atol=0,
            equal_nan=True,
        )
    assert list(ds.initializer.values) == list(plain.initializer.values) == ["declared"] * 4


def test_inside_of_data_parallel_layers_have_their_own_names():
    net = nn.DataParallel(built(2))
    before = {name: (t.data_ptr(), t.tolist()) for name, t in net.state_dict().items()}
    series = {0: built(1).state_dict(), 5: nn.DataParallel(built(0)).state_dict()}
    ds = layerscope.sweep(net, data(), checkpoints=series, layers=["layer1"], **OPTIONS)
    assert list(map(str, ds.layer.values)) == ["layer1", "fullmodel"]
    with Session(net, data(), checkpoints=series, device="cpu") as session:
        found = session.measure({"layer1": ("reinitialize", 0)})
    cell = ds.value.sel(layer="layer1", epoch=0, perturbation="reinitialize", draw=0, metric="loss")
    assert found.tallies["loss"].mean == pytest.approx(float(cell), rel=1e-6)
    assert before == {name: (t.data_ptr(), t.tolist()) for name, t in net.state_dict().items()}


# Tied weights


class Tied(nn.Module):
    def __init__(self, seed=0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.head.weight = self.embed.weight


class Turned(nn.Module):
    """An autoencoder whose second weight is the first one, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.up.weight = nn.Parameter(self.down.weight.detach().T)


def untied(state, name):
    return {**copy.deepcopy(state), name: state[name] + 1}


@pytest.mark.parametrize("form", ["dict", "pt", "safetensors"])
@pytest.mark.parametrize(("model", "name"), [(Tied, "head.weight"), (Turned, "up.weight")])
def test_two_values_for_one_tensor_are_refused(model, name, form, tmp_path):
    wrong = untied(model().state_dict(), name)
    path = tmp_path / f"epoch-0.{form}"
    if form == "pt":
        torch.save(wrong, path)
    elif form == "safetensors":
        save_file({n: t.contiguous() for n, t in wrong.items()}, path)
    with pytest.raises(
        CheckpointError, match=rf"different values for .* and {name}, which are one"
    ):
        open_series({0: wrong if form == "dict" else path}).fit(model())


@pytest.mark.parametrize("model", [Tied, Turned])
def test_one_value_under_several_names_is_taken(model):
    state = copy.deepcopy(model().state_dict())
    separate = {name: t.clone() for name, t in state.items()}
    half = {name: t.half() for name, t in state.items()}
    for held in (state, separate, half):
        found = open_series({0: held}).fit(model()).read(0)
        assert all(torch.equal(found[name], held[name]) for name in held)


def test_a_value_that_is_no_number_is_not_called_two_values():
    state = copy.deepcopy(Tied().state_dict())
    state["embed.weight"][0, 0] = float("nan")
    state["head.weight"] = state["embed.weight"].clone()
    open_series({0: state}).fit(Tied())


# What newer code dropped


class Masked(nn.Module):
    """A layer as GPT-2 has it, which no longer saves its mask."""

    def __init__(self, bias=False) -> None:
        super().__init__()
        self.attn = nn.Linear(4, 4, bias=bias)
        self.out = nn.Linear(4, 3)


OLD = {
    "attn.masked_bias": torch.tensor(-1e4),
    "h.0.attn.bias": torch.ones(1, 1, 6, 6),
    "gpt.attention.bias": torch.ones(1, 1, 6, 6, dtype=torch.bool),
    "rotary_emb.inv_freq": torch.ones(2),
    "rotary_emb.cos_cached": torch.ones(1, 1, 6, 2),
    "embeddings.position_ids": torch.arange(6)[None],
}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_buffers_that_were_dropped_are_left_aside(prefix):
    state = copy.deepcopy(Masked().state_dict())
    saved = {prefix + name: t for name, t in {**state, **OLD}.items()}
    found = open_series({0: saved}).fit(Masked()).read(0)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("form", [torch.ones(4), torch.ones(4, 4)])
def test_a_bias_that_the_network_lacks_is_no_mask(form):
    saved = Masked().state_dict() | {"attn.bias": form}
    with pytest.raises(CheckpointError, match=r"unexpected: attn\.bias\. .*ignore="):
        open_series({0: saved}).fit(Masked())


def test_what_matches_a_pattern_is_left_aside_only_where_the_network_lacks_it(tmp_path):
    net = Masked(bias=True)
    saved = net.state_dict() | {"attn.scale": torch.ones(3), "old.table": torch.ones(2)}
    torch.save(saved, tmp_path / "epoch-0.pt")
    torch.save(net.state_dict(), tmp_path / "epoch-1.pt")
    with pytest.raises(CheckpointError, match=r"unexpected: attn\.scale and 1 more"):
        open_series(tmp_path).fit(net)
    for patterns in (["*.scale", "old.*"], ["attn.*", "old.table"]):
        series = open_series(tmp_path, ignore=patterns).fit(net)
        assert series.read(0).keys() == net.state_dict().keys()
        assert torch.equal(series.read(0)["attn.bias"], net.attn.bias)
    with pytest.raises(CheckpointError, match=r"unexpected: old\.table"):
        open_series(tmp_path, ignore="attn.*").fit(net)
    with pytest.raises(
        CheckpointError, match=r"ignore has '\*\.skale', which matches none of the 6"
    ):
        open_series(tmp_path, ignore=["*.skale"])


# A base model, an adapter, a nested dict


class Head(nn.Module):
    base_model_prefix = "transformer"

    def __init__(self, tied=True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(5, 3), "h": nn.Linear(3, 3)})
        self.lm_head = nn.Linear(3, 5, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight


def test_a_base_model_is_read_without_its_prefix_and_with_it():
    net = Head()
    base = {name: t.clone() for name, t in net.transformer.state_dict().items()}
    found = open_series({0: base}).fit(net).read(0)
    assert all(torch.equal(found[name], t) for name, t in net.state_dict().items())
    prefixed = {f"transformer.{name}": t for name, t in base.items()}
    alone = nn.ModuleDict({"wte": nn.Embedding(5, 3), "h": nn.Linear(3, 3)})
    alone.base_model_prefix = "transformer"
    assert open_series({0: prefixed}).fit(alone).read(0).keys() == base.keys()
    # What is not in it is not made up.
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        open_series({0: base}).fit(Head(tied=False))


def test_an_adapter_alone_is_called_one(tmp_path):
    names = ("lora_A.weight", "lora_B.weight")
    adapter = {f"base_model.model.out.{name}": torch.ones(2, 2) for name in names}
    with pytest.raises(CheckpointError, match=r"holds an adapter alone.*merge_and_unload"):
        open_series({0: adapter}).fit(Masked())
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(
        CheckpointError, match=r"an adapter without adapter_config.*merge_and_unload"
    ):
        open_series({0: tmp_path})


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_dict_is_understood_as_its_file_is(key, tmp_path):
    nested = {"epoch": 3, "rng": torch.get_rng_state(), key: built().state_dict()}
    torch.save(nested, tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    for item in (nested, loaded, tmp_path / "a.pt"):
        found = open_series({0: item}).fit(built(1)).read(0)
        assert all(torch.equal(found[name], t) for name, t in built().state_dict().items())
    net = built()
    series = open_series({0: {key: net.state_dict()}, 1: built(1).state_dict()})
    with pytest.raises(CheckpointError, match="shares memory with the network"):
        series.fit(net)


# Names of files


FILES = {
    "checkpoint-{}.pth.tar": "epoch",
    "model_{}.pth": "epoch",
    "resnet_model-{}.pt": "epoch",
    "iter_{:07d}.pt": "step",
    "run.iteration{}.pt": "step",
    "global_step{}.pt": "step",
    "{}.pt.tar": "epoch",
}


@pytest.mark.parametrize("form", FILES)
def test_files_named_as_others_name_them_are_a_series(form, tmp_path):
    for number in (0, 100):
        torch.save(built(number).state_dict(), tmp_path / form.format(number))
    series = open_series(tmp_path).fit(built())
    assert (series.unit, series.epochs) == (FILES[form], (0, 100))
    assert torch.equal(series.read(100)["layer1.weight"], built(100).layer1.weight)


def test_lightnings_files_are_placed_by_the_step_that_they_hold(tmp_path):
    for epoch, step in ((0, 50), (1, 100)):
        content = {"state_dict": built(step).state_dict(), "epoch": epoch, "global_step": step}
        torch.save(content, tmp_path / f"epoch={epoch}.ckpt")
    content = {"state_dict": built(150).state_dict(), "epoch": 2, "global_step": 150}
    torch.save(content, tmp_path / "epoch=2-step=150.ckpt")
    series = open_series(tmp_path).fit(built())
    assert (series.unit, series.epochs) == ("step", (50, 100, 150))
    assert torch.equal(series.read(50)["layer1.weight"], built(50).layer1.weight)


# What transformers writes under other names


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
FAMILIES = {
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "llama": {},
}


def of_transformers(family, seed):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **SMALL, **FAMILIES[family])
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_renames_is_read_through_its_own_conversion(
    family, tmp_path, capfd, same_global_generator
):
    del same_global_generator
    state = torch.get_rng_state()
    nets = {seed: of_transformers(family, seed) for seed in (0, 1)}
    for seed, net in nets.items():
        net.save_pretrained(tmp_path / f"checkpoint-{seed}")
    torch.set_rng_state(state)
    capfd.readouterr()
    series = open_series(tmp_path).fit(nets[0])
    assert capfd.readouterr() == ("", "")
    files_of = {seed: tmp_path / f"checkpoint-{seed}" / "model.safetensors" for seed in nets}
    for seed, net in nets.items():
        for name, tensor in net.state_dict().items():
            found = series.read(seed, [name])[name]
            assert torch.equal(found, tensor), name
            assert found.dtype == tensor.dtype
        digest = hashlib.sha256(files_of[seed].read_bytes()).hexdigest()
        assert series.digests()[seed] == digest
    assert series.fit(nets[1]).read(1).keys() == nets[1].state_dict().keys()


def test_what_the_conversion_does_not_find_is_not_made_up(tmp_path):
    net = of_transformers("gpt_neox", 0)
    net.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lacking = {n: t for n, t in state.items() if n != "gpt_neox.layers.0.mlp.dense_h_to_4h.bias"}
    with pytest.raises(CheckpointError, match=r"missing: gpt_neox\.layers\.0\.mlp\.dense_h_to_4h"):
        open_series({0: lacking}).fit(net)
    open_series({0: state}).fit(net)
