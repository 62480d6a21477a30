"""A series is read lazily, fits its network or says why not, and notices what was changed."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn

from layerscope import checkpoints, models
from layerscope.core import sweep as engine
from layerscope.core.checkpoints import MANIFEST, Series, open_series
from layerscope.errors import CheckpointError
from layerscope.zoo.models._fcn import FCN


def net(seed: int = 0) -> FCN:
    return models.build("fcn-1x4", seed, inputs=(3,), classes=2)


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    return net(seed).state_dict()


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Epochs


def test_epochs_are_sorted_and_the_last_is_the_trained_one():
    series = open_series({10: state(1), 0: state(0), 3: state(2)})
    assert series.epochs == (0, 3, 10)
    assert series.last == 10
    assert equal(series.read(3), state(2))
    assert open_series(series) is series


@pytest.mark.parametrize("epoch", [-1, True, False, 1.0, "1", None])
def test_an_epoch_is_a_whole_number(epoch):
    with pytest.raises(CheckpointError, match=f"epoch {epoch!r}, of type .* is not a whole number"):
        Series({epoch: state()})


def test_an_epoch_that_was_not_recorded_is_answered_with_those_that_were():
    series = open_series({0: state(), 5: state(1)})
    with pytest.raises(CheckpointError, match="epoch 3 was not recorded; there is 0, 5"):
        series.read(3)
    with pytest.raises(CheckpointError, match="epoch 3, 4 was not recorded"):
        series.require([0, 3, 4, 5])
    series.require([0, 5])


def test_no_checkpoints_and_no_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        open_series({})
    with pytest.raises(CheckpointError, match="there is no folder"):
        open_series(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=f"neither a {MANIFEST} nor checkpoints"):
        open_series(tmp_path)


def test_a_loop_that_forgot_to_copy_is_found_out():
    model = net()
    kept = {}
    for epoch in range(2):
        kept[epoch] = model.state_dict()
        with torch.no_grad():
            model.layer1.weight += 1
    with pytest.raises(CheckpointError, match=r"epochs 0 and 1 are the same memory.*deepcopy"):
        open_series(kept)
    copied = {epoch: copy.deepcopy(found) for epoch, found in kept.items()}
    assert open_series(copied).epochs == (0, 1)
    frozen = {**copied[0], "layer1.weight": torch.zeros(4, 3)}
    assert open_series({0: copied[0], 1: frozen}).epochs == (0, 1)  # sharing some is fine


# Folders


def test_files_named_by_epoch_are_a_series(tmp_path):
    for epoch in (10, 2):
        torch.save(state(epoch), tmp_path / f"step-{epoch}.pt")
    save_file(state(7), tmp_path / "model_epoch=0007.safetensors")
    torch.save(state(3), tmp_path / "3.pth")
    (tmp_path / "notes1.txt").write_text("no checkpoint")
    series = open_series(str(tmp_path))
    assert series.epochs == (2, 3, 7, 10)
    for epoch in series.epochs:
        assert equal(series.read(epoch), state(epoch))


@pytest.mark.parametrize("odd", ["best.pt", "epoch_1_acc0.95.pt", "vgg16.safetensors", "init.pth"])
def test_a_file_that_does_not_say_its_epoch_is_refused_not_left_out(tmp_path, odd):
    for name in ("epoch-1.pt", odd):
        torch.save(state(), tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{odd} in .* does not say its epoch"):
        open_series(tmp_path)


def test_what_is_no_series_says_what_would_be(tmp_path):
    torch.save(state(), tmp_path / "epoch-1.pt")
    with pytest.raises(CheckpointError, match=r"epoch-1\.pt is one checkpoint; give a mapping"):
        open_series(tmp_path / "epoch-1.pt")
    with pytest.raises(CheckpointError, match="checkpoints is a list; give a series"):
        open_series([state()])


def test_two_files_of_one_epoch_are_refused(tmp_path):
    torch.save(state(), tmp_path / "step-3.pt")
    torch.save(state(), tmp_path / "step-03.pth")
    with pytest.raises(CheckpointError, match=r"step-03\.pth and step-3\.pt .*both say epoch 3"):
        open_series(tmp_path)


def test_a_recorded_series_knows_its_network(trained):
    series = open_series(trained.folder)
    assert series.epochs == (0, 1, 2)
    model = models.rebuild(series)
    assert model.config.name == "fcn-2x16"
    assert equal(model.state_dict(), series.read(2))
    assert len(series.digests()) == 3
    with pytest.raises(CheckpointError, match="does not say which network"):
        models.rebuild(open_series({0: state()}))


def test_a_flipped_byte_is_caught_by_the_manifest(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.folder, folder)
    path = folder / "epoch-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    series = open_series(folder)
    series.read(1)  # neither format notices
    with pytest.raises(CheckpointError, match=r"epoch-0001.* is not the file that was recorded"):
        series.digests()


def test_a_file_of_a_recorded_series_that_is_gone_is_named(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.folder, folder)
    (folder / "epoch-0001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"can't read .*epoch-0001\.safetensors"):
        open_series(folder)


GOOD = {"format": "layerscope-series", "version": 1, "epochs": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the manifest of a layerscope series"),
        ("[]", "is not the manifest"),
        ("3", "is not the manifest"),
        ('{"name": "webapp", "version": "1.0"}', "is not the manifest"),
        (json.dumps({**GOOD, "epochs": [0]}), "is not the manifest"),
        (json.dumps({**GOOD, "epochs": {"a": {"file": "x"}}}), "is not the manifest"),
        (json.dumps({**GOOD, "epochs": {"0": {}}}), "is not the manifest"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "version"}), "is not the manifest"),
        (json.dumps({**GOOD, "version": "x"}), "is not the manifest"),
        (json.dumps({**GOOD, "version": 2, "epochs": {"0": {}}}), "newer layerscope; upgrade"),
        (json.dumps(GOOD), "names no checkpoints"),
        ("\udcff", "is not the manifest"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / MANIFEST).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        open_series(tmp_path)


def test_what_a_writer_records_comes_back(tmp_path):
    writer = checkpoints.SeriesWriter(tmp_path, {"network": {"family": "fcn"}})
    writer.record(3, state(1), {"test_error": 0.5})
    again = checkpoints.SeriesWriter(tmp_path, {"seed": 1})  # goes on where the first stopped
    again.record(4, {"layer1.weight": state(2)["layer1.weight"].T}, {})
    series = open_series(tmp_path)
    assert series.epochs == (3, 4)
    assert equal(series.read(3), state(1))
    assert torch.equal(series.read(4)["layer1.weight"], state(2)["layer1.weight"].T)
    assert series.manifest["network"] == {"family": "fcn"}
    assert series.manifest["epochs"]["3"]["metrics"] == {"test_error": 0.5}
    recorded = {int(e): entry["sha256"] for e, entry in series.manifest["epochs"].items()}
    assert series.digests() == recorded
    assert {path.name for path in tmp_path.iterdir()} == {
        MANIFEST,
        "epoch-0003.safetensors",
        "epoch-0004.safetensors",
    }


# Does it fit?

PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_looked_through(prefix):
    wrapped = {prefix + name: tensor for name, tensor in state(3).items()}
    series = open_series({0: wrapped, 1: state(4)}).fit(net())
    assert equal(series.read(0), state(3))
    assert equal(series.read(1), state(4))
    assert equal(series.read(0, ["layer2.bias"]), {"layer2.bias": state(3)["layer2.bias"]})


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_wrapped_network_takes_every_form(prefix):
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = Wrapper(net())
    saved = {prefix + name: tensor for name, tensor in state(5).items()}
    found = open_series({0: saved}).fit(model).read(0)
    assert found.keys() == model.state_dict().keys()
    model.load_state_dict(found)
    assert equal(model.module.state_dict(), state(5))


def test_a_compiled_part_inside_is_looked_through():
    saved = {name.replace("layer1.", "layer1._orig_mod."): t for name, t in state(1).items()}
    assert equal(open_series({0: saved}).fit(net()).read(0), state(1))


@pytest.mark.parametrize(
    "saved",
    [
        {f"module.{name}": t for name, t in state().items() if name != "layer1.bias"},
        {f"module.{name}": t for name, t in state().items()} | {"module.extra": torch.ones(1)},
        {f"module.{name}": t for name, t in state().items()} | {"layer1.bias": torch.ones(4)},
        {f"other.{name}": t for name, t in state().items()},
    ],
)
def test_a_prefix_stays_where_not_every_name_would_match(saved):
    with pytest.raises(CheckpointError, match=r"epoch 0 does not fit.*(missing|unexpected): "):
        open_series({0: saved}).fit(net())


def test_another_architecture_is_shown_by_its_first_differences():
    other = models.build("fcn-2x4", inputs=(5,), classes=2).state_dict()
    del other["layer2.bias"]
    with pytest.raises(CheckpointError) as caught:
        open_series({0: state(), 7: other}).fit(net())
    text = str(caught.value)
    assert "the checkpoint of epoch 7 does not fit the network" in text
    assert "missing: layer2.bias;" in text
    assert "unexpected: layer3.bias and 1 more;" in text
    assert "of another shape: layer1.weight (4, 5), expected (4, 3) and 1 more" in text


def test_a_file_that_does_not_fit_is_named(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "epoch-0.pt")
    with pytest.raises(CheckpointError, match=r"epoch-0\.pt does not fit.*missing: layer1\.weight"):
        open_series(tmp_path).fit(net())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("lacking", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tied_weights_may_be_saved_under_one_name(lacking, prefix):
    model = Tied()
    saved = {prefix + n: t for n, t in copy.deepcopy(model.state_dict()).items() if n != lacking}
    found = open_series({0: saved}).fit(model).read(0)
    assert equal(found, model.state_dict())
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(5, 3))
    with pytest.raises(CheckpointError, match=f"missing: {lacking}"):
        open_series({0: saved}).fit(untied)


def test_non_persistent_buffers_are_not_asked_for():
    model = nn.BatchNorm1d(2)
    model.register_buffer("passing", torch.ones(1), persistent=False)
    assert "passing" not in open_series({0: nn.BatchNorm1d(2)}).fit(model).read(0)


def test_reading_what_is_not_there_is_refused():
    series = open_series({0: state()})
    for fitted in (series, series.fit(net())):
        with pytest.raises(CheckpointError, match=r"epoch 0 holds no tensor layer9\.weight"):
            fitted.read(0, ["layer1.bias", "layer9.weight"])


def test_reading_gives_copies():
    kept = state()
    series = open_series({0: kept}).fit(net())
    series.read(0)["layer1.weight"].fill_(9)
    assert equal(series.read(0), state())


# Values


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite_are_counted_and_named(bad, dtype):
    tensors = {"n": torch.tensor(3), "a": torch.ones(3, dtype=dtype), "b": torch.ones(4).to(dtype)}
    checkpoints.require_finite(tensors, "epoch 7")
    tensors["b"][1:3] = bad
    with pytest.raises(CheckpointError, match="epoch 7: b holds 2 values that are NaN or infinite"):
        checkpoints.require_finite(tensors, "epoch 7")


@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
)
def test_every_shape_and_type_goes_through_memory_and_file(tmp_path_factory, shape, dtype):
    values = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape).to(dtype)
    path = tmp_path_factory.getbasetemp() / "any-0.safetensors"
    save_file({"w": values}, path)
    for item in ({"w": values}, path):
        found = Series({0: item}).read(0)["w"]
        assert found.dtype == dtype
        assert torch.equal(found, values)


def test_memory_digests_see_one_bit():
    one, other = state(), state()
    other["layer1.bias"][0] = -0.0  # equal to 0.0, but other bits
    assert Series({0: one}).digests() == Series({0: state()}).digests()
    assert Series({0: one}).digests() != Series({0: other}).digests()


# What others wrote


def test_folders_named_by_step_are_a_series(tmp_path):
    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file(state(step), folder / "model.safetensors")
    (tmp_path / "runs").mkdir()
    (tmp_path / "2024").mkdir()
    series = open_series(tmp_path)
    assert (series.unit, series.epochs) == ("step", (500, 1000))
    assert equal(series.read(500), state(500))
    (tmp_path / "checkpoint-1500").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-1500 holds no weights"):
        open_series(tmp_path)


def test_what_checkpoints_are_counted_in_is_known(tmp_path):
    for name in ("step-1.pt", "net_step20.pth", "epoch=3-step=400.ckpt"):
        torch.save(state(), tmp_path / name)
    series = open_series(tmp_path)
    assert (series.unit, series.epochs) == ("step", (1, 20, 400))
    torch.save(state(), tmp_path / "epoch-2.pt")
    assert open_series(tmp_path).unit == "epoch"
    assert Series({0: state()}).unit == "epoch"
    assert "steps (0,)" in repr(Series({0: state()}, unit="step"))
    with pytest.raises(ValueError, match="no unit 'batch'"):
        Series({0: state()}, unit="batch")


@pytest.mark.parametrize("name", ["epoch=0.ckpt", "net-epoch=7.ckpt"])
def test_lightnings_count_from_0_is_not_taken_for_the_start(tmp_path, name):
    torch.save({"state_dict": state()}, tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} in .* Lightning counts epochs from 0"):
        open_series(tmp_path)


@pytest.mark.parametrize("holder", ["model.", "net.", "network.", "model._orig_mod."])
def test_the_attribute_that_held_the_network_is_looked_through(holder):
    saved = {holder + name: tensor for name, tensor in state(1).items()}
    assert equal(open_series({0: saved}).fit(net()).read(0), state(1))
    with pytest.raises(CheckpointError, match=f"unexpected: (loss.weight|{holder})"):
        open_series({0: {**saved, "loss.weight": torch.ones(2)}}).fit(net())
    del saved[f"{holder}layer1.bias"]
    with pytest.raises(CheckpointError, match=r"missing: layer1\.bias"):
        open_series({0: saved}).fit(net())


def test_a_network_whose_own_names_begin_like_that_keeps_them():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

    saved = {f"model.{name}": tensor for name, tensor in state(1).items()}
    assert equal(open_series({0: saved}).fit(Held()).read(0), saved)
    twice = {f"model.{name}": tensor for name, tensor in saved.items()}
    assert equal(open_series({0: twice}).fit(Held()).read(0), saved)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_buffers_that_are_no_longer_saved_may_be_there(prefix):
    model = net()
    model.layer1.register_buffer("mask", torch.ones(1), persistent=False)
    model._keys_to_ignore_on_load_unexpected = [r"\.masked_bias$"]
    extra = {"layer1.mask": torch.ones(1), "layer1.masked_bias": torch.tensor(-1e9)}
    saved = {prefix + name: tensor for name, tensor in {**state(1), **extra}.items()}
    assert equal(open_series({0: saved}).fit(model).read(0), state(1))
    with pytest.raises(CheckpointError, match=f"unexpected: {prefix}(other|layer1)"):
        open_series({0: {**saved, f"{prefix}other": torch.ones(1)}}).fit(model)


def test_another_number_of_classes_is_shown():
    other = models.build("fcn-1x4", inputs=(3,), classes=5).state_dict()
    with pytest.raises(CheckpointError, match=r"layer2\.weight \(5, 4\), expected \(2, 4\)"):
        open_series({0: other}).fit(net())


def test_without_the_start_layers_are_drawn_anew_but_not_set_back():
    data = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    options = {"checkpoints": {5: state(0), 9: state(1)}, "device": "cpu", "draws": 1}
    ds = engine.sweep(net(), data, perturbations=["rerandomize"], **options)
    assert bool(ds.value.notnull().any())
    with pytest.raises(CheckpointError, match=r"epoch 0 was not recorded; there is 5, 9\. Without"):
        engine.sweep(net(), data, perturbations=["reinitialize"], epochs=[0], **options)


def test_a_file_that_is_right_is_left_alone(tmp_path):
    writer = checkpoints.SeriesWriter(tmp_path, {"unit": "step"})
    writer.record(3, state(1), {})
    path = tmp_path / "step-0003.safetensors"
    before, content = path.stat().st_mtime_ns, path.read_bytes()
    reader = open_series(tmp_path)
    writer.record(3, state(1), {"test_error": 0.5})
    assert path.stat().st_mtime_ns == before
    assert equal(reader.read(3), state(1))
    path.write_bytes(content[:-1] + b"x")
    writer.record(3, state(1), {})
    assert path.read_bytes() == content
