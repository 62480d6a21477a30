"""The sweep equals the plain way bit for bit, and leaves nothing behind."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torchvision
import xarray as xr
from torch import nn
from torch.nn.utils import parametrizations

import layerscope
from layerscope import layers, metrics, perturb, results
from layerscope.base import seeds
from layerscope.core import batches as batches_, plain, sweep as engine
from layerscope.core.checkpoints import open_series
from layerscope.core.perturb import Perturbation
from layerscope.errors import (
    CheckpointError,
    DataError,
    LayerError,
    LayerscopeError,
    OptionError,
    ResultError,
)


class Nasty(nn.Module):
    """In place, tied, called twice, normalised, with dropout and control flow on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.twice = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(12, 8, bias=False)
        self.head.weight = self.embed.weight
        self.out = nn.Linear(8, 5)

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        values = torch.relu_(self.embed(inputs))
        values = self.twice(self.twice(values)) * self.scale
        values += self.head(inputs)
        if values.mean() > 0:
            values = -values
        tokens = self.drop(self.norm(values)).unsqueeze(1)
        values = values + self.attend(tokens, tokens, tokens, need_weights=False)[0][:, 0]
        return {"logits": self.out(values)}


def nasty(seed: int) -> Nasty:
    torch.manual_seed(seed)
    model = Nasty()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(70, 12, generator=generator), torch.randint(5, (70,), generator=generator)


@pytest.fixture
def states() -> dict[int, dict[str, torch.Tensor]]:
    return {epoch: nasty(epoch).state_dict() for epoch in (0, 2, 5)}


def specified(model, pair, batch_size, **changed):
    """Error and loss of a copy with changed weights."""
    batches = list(zip(*(each.split(batch_size) for each in pair), strict=True))
    found = plain.evaluate(plain.copy_with(model, changed), batches)
    return np.array([tally.mean for tally in found.values()])


@pytest.mark.parametrize("batch_size", [7, 32, 100])
def test_every_reinitialised_cell_equals_the_plain_way(pair, states, batch_size):
    model = nasty(1)
    ds = layerscope.sweep(model, pair, checkpoints=states, batch_size=batch_size)
    trained = plain.copy_with(model, states[5])
    assert (ds.baseline.values == specified(trained, pair, batch_size)).all()
    rows = {layer.name: layer.tensors for layer in layers.find(model)}
    rows[results.FULL_MODEL] = tuple(states[0])
    moved = 0
    for name, held in rows.items():
        for epoch in (0, 2, 5):
            changed = {key: states[epoch][key] for key in held}
            cell = ds.value.sel(layer=name, epoch=epoch, perturbation="reinitialize", draw=0)
            expected = specified(trained, pair, batch_size, **changed)
            assert (cell.values == expected).all(), (name, epoch)
            moved += (expected != ds.baseline.values).any()
    assert moved > len(rows)


def test_every_redrawn_cell_equals_the_plain_way(pair, states):
    model = nasty(1)
    ds = layerscope.sweep(model, pair, checkpoints=states, draws=2, seed=3, batch_size=70)
    trained = plain.copy_with(model, states[5])
    fresh = perturb.Redraw(model, open_series(states).fit(model))
    for layer in layers.find(model):
        for draw in range(2):
            source = seeds.generator(3, layer.name, "rerandomize", results.NO_EPOCH, draw)
            changed = fresh.draw(layer, source)
            cell = ds.value.sel(
                layer=layer.name, epoch=results.NO_EPOCH, perturbation="rerandomize", draw=draw
            )
            assert (cell.values == specified(trained, pair, 70, **changed)).all(), layer.name


def test_only_what_was_not_computed_is_nan(pair, states):
    ds = layerscope.sweep(nasty(1), pair, checkpoints=states, draws=2)
    known = ds.value.notnull().all("metric")
    from_none = ds.epoch == results.NO_EPOCH
    redrawn = ds.perturbation == "rerandomize"
    expected = (redrawn & from_none) | (~redrawn & ~from_none & (ds.draw == 0))
    assert bool((known == expected).all())
    assert ds.distance.sel(epoch=[0, 2, 5]).notnull().all()
    assert ds.draw_distance.sel(perturbation="rerandomize").notnull().all()
    assert ds.draw_distance.sel(perturbation="reinitialize").isnull().all()


def snapshot(model):
    """Everything that a sweep must leave alone, by value and by identity."""
    own = [*model.parameters(), *model.buffers()]
    return (
        [(id(t), t.data_ptr(), t.requires_grad, t.grad, t.clone()) for t in own],
        [
            (name, m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks), set(m.__dict__))
            for name, m in model.named_modules()
        ],
    )


def assert_untouched(model, before):
    after = snapshot(model)
    for (*ids, bits), (*ids_after, bits_after) in zip(before[0], after[0], strict=True):
        assert ids == ids_after
        assert torch.equal(bits, bits_after)
    assert before[1] == after[1]


class Stop(nn.Module):
    """Raises once there were enough passes; counted outside, as a user's Ctrl-C is."""

    error: type[BaseException] = RuntimeError
    left = 0

    def forward(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        Stop.left -= 1
        if Stop.left < 0:
            raise Stop.error
        return values


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 2, 5, 11])
def test_the_network_comes_back_as_it_was(pair, states, error, after):
    model = nn.Sequential(nasty(1).train(), Stop())
    Stop.error, Stop.left = error, 10_000
    model[0].norm.eval()
    model[0].out.weight.requires_grad_(False)
    before = snapshot(model)
    named = {epoch: {f"0.{k}": v for k, v in state.items()} for epoch, state in states.items()}
    layerscope.sweep(Logits(model), pair, checkpoints=wrapped(named), layers=["*out*"])
    assert_untouched(model, before)
    Stop.left = after
    # In the first pass it is the network that can't take the data.
    with pytest.raises((error, DataError) if error is RuntimeError else error):
        layerscope.sweep(Logits(model), pair, checkpoints=wrapped(named))
    assert_untouched(model, before)


class Logits(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs)["logits"]


def wrapped(states):
    return {e: {f"inner.{k}": v for k, v in state.items()} for e, state in states.items()}


def test_streaming_gives_the_same_bits(pair, states, monkeypatch):
    batches = [(pair[0][i : i + 10], pair[1][i : i + 10]) for i in range(0, 70, 10)]
    whole = layerscope.sweep(nasty(1), batches, checkpoints=states)
    fixed = batches_.FixedBatches
    monkeypatch.setattr(
        batches_, "FixedBatches", lambda *given, **more: fixed(*given, **more | {"limit": 1200})
    )
    assert batches_.FixedBatches(batches, 1, torch.device("cpu"))._held is None
    parts = layerscope.sweep(nasty(1), batches, checkpoints=states)
    assert whole.value.identical(parts.value)
    assert whole.baseline.identical(parts.baseline)
    once = layerscope.sweep(nasty(1), iter(batches), checkpoints=states)
    assert whole.value.identical(once.value)


KILLED = """
import os, signal, torch, layerscope
from layerscope import metrics, models
from layerscope.core.sweep import _loop as loop
from layerscope.core.sweep._store import Parts

torch.set_num_threads(1)
write, outcomes = Parts.write, metrics.score

def sweep(folder, kill_after):
    def counted(self, name, arrays):
        nonlocal kill_after
        write(self, name, arrays)
        kill_after -= 1
        if kill_after == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def logged(wanted, outputs, targets, reference=None):
        if outputs is not reference:
            open(folder + ".log", "a").write(f"{targets[0]} ")
        return outcomes(wanted, outputs, targets, reference)

    Parts.write, metrics.score = counted, logged
    nets = [models.build("fcn-2x8", seed=s, inputs=(6,), classes=7) for s in (0, 1, 2)]
    images = torch.randn(35, 6, generator=torch.Generator().manual_seed(0))
    batches = [(images[i::7], torch.full((5,), i)) for i in range(7)]
    states = {epoch: net.state_dict() for epoch, net in enumerate(nets)}
    layerscope.sweep(nets[-1], batches, checkpoints=states, out=folder, draws=2, device="cpu")

for folder, kill_after in (("whole", 0), ("killed", 3), ("killed", 6), ("killed", 0)):
    # Forked, so that what takes longest, importing torch, is done once.
    child = os.fork()
    if child == 0:
        sweep(folder, kill_after)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_killed_sweep_goes_on_to_the_same_dataset(tmp_path):
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "-9", "-9", "0"], done.stderr
    whole, resumed = (xr.load_dataset(tmp_path / name / "sweep.nc") for name in ("whole", "killed"))
    xr.testing.assert_equal(whole, resumed)
    # No cell was evaluated on a batch twice; what equals the trained network never is.
    once, again = ((tmp_path / f"{name}.log").read_text() for name in ("whole", "killed"))
    assert once == again
    assert len(once.split()) == 7 * 4 * (2 + 2)
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == ["sweep.json", "sweep.nc"]


def test_ctrl_c_keeps_finished_parts_and_goes_on(pair, states, tmp_path, monkeypatch):
    batches = [(pair[0][i : i + 10], pair[1][i : i + 10]) for i in range(0, 70, 10)]
    outcomes, left = metrics.score, [200]

    def interrupted(*given):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return outcomes(*given)

    monkeypatch.setattr(metrics, "score", interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        layerscope.sweep(nasty(1), batches, checkpoints=states, out=tmp_path / "run")
    done = len(list((tmp_path / "run").glob("parts-*/*.npz")))
    assert 0 < done < 7 * 8
    assert f"{done} finished parts are safe" in stop.value.__notes__[0]
    partial = results.open_dataset(tmp_path / "run" / "partial.nc")
    assert 0 < int(partial.n_examples.max()) < 70
    left[0] = 100_000
    resumed = layerscope.sweep(nasty(1), batches, checkpoints=states, out=tmp_path / "run")
    xr.testing.assert_equal(resumed, layerscope.sweep(nasty(1), batches, checkpoints=states))


def test_a_finished_sweep_is_not_run_again(pair, states, tmp_path, monkeypatch):
    first = layerscope.sweep(nasty(1), pair, checkpoints=states, out=tmp_path)
    monkeypatch.setattr(
        engine._single, "measure", lambda *_, **__: pytest.fail("it was measured again")
    )
    again = layerscope.sweep(nasty(1), pair, checkpoints=states, out=tmp_path)
    xr.testing.assert_identical(first, again)


def test_another_sweep_may_not_use_the_folder(pair, states, tmp_path):
    layerscope.sweep(nasty(1), pair, checkpoints=states, out=tmp_path, epochs=[0])
    for other in ({"seed": 1}, {"draws": 2}, {"batch_size": 8}):
        with pytest.raises(ResultError, match="belongs to another sweep"):
            layerscope.sweep(nasty(1), pair, checkpoints=states, out=tmp_path, epochs=[0], **other)


def test_layers_come_in_execution_order_and_groups_move_together(pair, states):
    model = nasty(1)
    ds = layerscope.sweep(model, pair, checkpoints=states, epochs=[0])
    order = list(ds.layer.values)
    assert order[0] == "(root)"  # the network itself is called first
    assert order[1:3] == ["embed", "twice"]
    assert order[-2:] == ["out", "fullmodel"]
    joint = layerscope.sweep(
        model, pair, checkpoints=states, epochs=[0], layers={"ends": ["embed", "out"]}
    )
    assert list(joint.layer.values) == ["ends", "fullmodel"]
    trained = plain.copy_with(model, states[5])
    keys = [*layers.find(model)[1].tensors, "out.weight", "out.bias"]
    changed = {key: states[0][key] for key in keys}
    cell = joint.value.sel(layer="ends", epoch=0, perturbation="reinitialize", draw=0)
    assert (cell.values == specified(trained, pair, 1000, **changed)).all()


def test_the_whole_network_takes_buffers_that_belong_to_no_layer(pair):
    def network(seed):
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(8, affine=False)
        norm.running_mean.normal_()
        return nn.Sequential(nn.Linear(12, 8), norm, nn.Linear(8, 5))

    states = {epoch: network(epoch).state_dict() for epoch in (0, 1)}
    ds = layerscope.sweep(network(2), pair, checkpoints=states, metrics=["loss"])
    start = network(0)
    expected = layerscope.evaluate(start, pair, ["loss"], device="cpu")["loss"].mean
    cell = ds.value.sel(layer="fullmodel", epoch=0, perturbation="reinitialize", draw=0)
    assert cell.item() == expected
    redrawn = ds.value.sel(layer="fullmodel", perturbation="rerandomize", epoch=results.NO_EPOCH)
    assert redrawn.notnull().all()


def test_a_perturbation_and_a_metric_of_ones_own(pair, states):
    halve = Perturbation("halve", lambda site: {n: t / 2 for n, t in site.trained.items()})
    sure = metrics.Metric("sure", "largest logit", lambda logits, _: logits.amax(-1))
    ds = layerscope.sweep(
        nasty(1), pair, checkpoints=states, layers=["out"], perturbations=[halve], metrics=[sure]
    )
    cell = ds.value.sel(layer="out", perturbation="halve", epoch=results.NO_EPOCH).values.item()
    assert cell == pytest.approx(ds.baseline.item() / 2, rel=1e-6)


def test_the_dataset_says_how_to_compute_it_again(pair, states, tmp_path):
    ds = layerscope.sweep(nasty(1), pair, checkpoints=states, out=tmp_path, batch_size=16, seed=4)
    found = xr.open_dataset(tmp_path / "sweep.nc", engine="h5netcdf").load()
    about = {key: found.attrs[key] for key in ("layerscope", "torch", "batch_size", "seed")}
    assert about == {
        "layerscope": layerscope.__version__,
        "torch": str(torch.__version__),
        "batch_size": 16,
        "seed": 4,
    }
    assert set(json.loads(found.attrs["checkpoints"])) == {"0", "2", "5"}
    assert json.loads(found.attrs["data"])["examples"] == 70
    assert all("long_name" in ds[name].attrs for name in ds.data_vars)


class Sampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.functional.dropout(inputs, 0.5, training=True))


def test_bad_input_is_refused_before_the_first_cell(pair, states, tmp_path):
    model = nasty(1)
    good = {"checkpoints": states}

    def refused(error, match, model=model, data=pair, **given):
        with pytest.raises(error, match=match):
            layerscope.sweep(model, data, **{**good, **given})

    refused(LayerError, r"no layer that matches 'ot'.*Did you mean 'out'", layers=["ot"])
    refused(CheckpointError, "epoch 3 was not recorded; there is 0, 2, 5", epochs=[0, 3])
    refused(
        OptionError,
        "no perturbation 'reinitialise'.*'reinitialize'",
        perturbations=["reinitialise"],
    )
    refused(OptionError, "no metric 'eror'", metrics=["eror"])
    refused(LayerError, "layers is empty", layers=[])
    refused(LayerError, "the group 'a' holds no layers", layers={"a": []})
    refused(OptionError, "can't be called 'fullmodel'", layers={"fullmodel": ["out"]})
    refused(OptionError, "epochs is 0; give whole numbers", epochs=0)
    refused(OptionError, "epochs is empty", epochs=[])
    refused(OptionError, "model is the class Nasty, not an nn.Module", model=Nasty)
    refused(OptionError, "draws is 0", draws=0)
    refused(OptionError, "batch_size is 0", batch_size=0)
    refused(OptionError, "not a device", device="gpu")
    refused(DataError, "a pair of tensors", data=pair[0])
    refused(DataError, r"targets of shape \(70, 1\)", data=(pair[0], pair[1][:, None]))
    refused(CheckpointError, "missing: ", checkpoints={0: {"weight": torch.ones(2)}})
    broken = {**states, 2: {**states[2], "out.bias": torch.full((5,), torch.nan)}}
    refused(CheckpointError, "epoch 2: out.bias holds 5 values", checkpoints=broken)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    refused(ResultError, "can't write", out=blocked / "run")
    sampling = Sampling()
    refused(
        LayerscopeError,
        "different outputs for the same batch",
        model=sampling,
        checkpoints={0: Sampling().state_dict(), 1: sampling.state_dict()},
    )
    strange = Perturbation("strange", lambda _: {"nowhere": torch.ones(1)})
    refused(OptionError, "returned 'nowhere'", perturbations=[strange])


def test_the_global_generator_is_left_alone(pair, states):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    layerscope.sweep(nasty_without_seed(), pair, checkpoints=states, epochs=[0])
    assert torch.equal(before, torch.get_rng_state())


def nasty_without_seed() -> Nasty:
    state = torch.get_rng_state()
    model = Nasty()
    torch.set_rng_state(state)
    return model


def test_a_folder_of_files_named_by_epoch_is_a_series(tmp_path, pair, states):
    for epoch, state in states.items():
        torch.save(state, tmp_path / f"step-{epoch}.pt")
    folder = layerscope.sweep(nasty(1), pair, checkpoints=tmp_path)
    memory = layerscope.sweep(nasty(1), pair, checkpoints=states)
    xr.testing.assert_equal(folder, memory)


class Seen(nn.Module):
    """Two blocks with normalisation, and a head on the memory of the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 8, bias=False)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.back = nn.Linear(8, 12, bias=False)
        self.back.weight = nn.Parameter(self.stem.weight.detach().T)
        self.head = nn.Linear(12, 5)

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self.stem(inputs)
        for block in self.blocks:
            values = values + block(values)
        return {"logits": self.head(torch.tanh(self.back(values)))}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(values))))


def seen(seed: int) -> Seen:
    torch.manual_seed(seed)
    model = Seen()
    with torch.no_grad():
        for block in model.blocks:
            block.norm.weight.normal_()
            block.norm.running_mean.normal_()
            block.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("view", layers.VIEWS)
@pytest.mark.parametrize("norms", ["own", {"parameters": "with", "statistics": "kept"}, "kept"])
def test_every_view_and_rule_equals_the_plain_way(pair, view, norms):
    states = {epoch: copy.deepcopy(seen(epoch).state_dict()) for epoch in (0, 3)}
    model = seen(1)
    ds = layerscope.sweep(
        model, pair, checkpoints=states, batch_size=32, view=view, norms=norms, draws=1
    )
    trained = seen(3)
    rows = layers.find(model, view, norms)
    assert sorted(ds.layer.values) == sorted([*(row.name for row in rows), results.FULL_MODEL])
    moved = 0
    for row in [*rows, layers.whole_network(model, results.FULL_MODEL, norms)]:
        changed = {name: states[0][name] for name in row.tensors}
        if "stem.weight" in changed:  # tied by memory, which a deep copy unties
            changed["back.weight"] = states[0]["stem.weight"].T
        cell = ds.value.sel(layer=row.name, epoch=0, perturbation="reinitialize", draw=0)
        expected = specified(trained, pair, 32, **changed)
        assert (cell.values == expected).all(), row.name
        moved += (expected != ds.baseline.values).any()
        fresh = ds.value.sel(layer=row.name, epoch=results.NO_EPOCH, perturbation="rerandomize")
        assert fresh.notnull().all()
    assert moved > len(rows) / 2


def test_the_dataset_says_where_layers_lie_and_what_is_tied(pair):
    states = {epoch: copy.deepcopy(seen(epoch).state_dict()) for epoch in (0, 3)}
    given = {"checkpoints": states, "perturbations": ["reinitialize"], "epochs": [0]}
    ds = layerscope.sweep(seen(1), pair, norms={"statistics": "kept"}, **given)
    placed = ds.sel(layer="blocks.1.norm")
    assert (placed.component.item(), placed.block.item()) == ("blocks.1.norm", "blocks.1")
    assert ds.stage.sel(layer=["stem", "blocks.0.last", "fullmodel"]).values.tolist() == [
        "stem", "stage1", "",
    ]  # fmt: skip
    about = results.settings(ds)
    assert about["tied"] == {"stem.weight": ["back.weight"]}
    assert about["norms"] == {"parameters": "own", "statistics": "kept"}
    assert (about["view"], about["groups"]) == ("leaf", {})
    blocks = layerscope.sweep(seen(1), pair, view="block", **given)
    assert list(blocks.layer.values) == ["stem", "blocks.0", "blocks.1", "head", "fullmodel"]
    assert results.settings(blocks)["groups"]["blocks.0"] == [
        f"blocks.0.{name}" for name in ("first", "norm", "last")
    ]


def test_groups_of_another_content_are_another_sweep(pair, tmp_path):
    states = {epoch: copy.deepcopy(seen(epoch).state_dict()) for epoch in (0, 3)}
    given = {"checkpoints": states, "perturbations": ["reinitialize"], "out": tmp_path}
    layerscope.sweep(seen(1), pair, layers=lambda name, _: name[:6], **given)
    with pytest.raises(ResultError, match="belongs to another sweep"):
        layerscope.sweep(seen(1), pair, layers=lambda name, _: name[:6], norms="kept", **given)
    with pytest.raises(ResultError, match="belongs to another sweep"):
        layerscope.sweep(
            seen(1), pair, layers={"stem": "stem", "blocks": "blocks.1.*", "head": "head"}, **given
        )


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


@pytest.mark.parametrize(
    "normalise", [parametrizations.weight_norm, parametrizations.spectral_norm, old_weight_norm]
)
def test_parametrised_layers_equal_the_plain_way(pair, normalise):
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), normalise(nn.Linear(8, 5)))
        with torch.no_grad():
            model(torch.zeros(1, 12))  # PyTorch copies no computed weight that has a gradient
        return model

    states = {epoch: copy.deepcopy(network(epoch).state_dict()) for epoch in (0, 3)}
    model = network(1)
    before = {name: (t.data_ptr(), t.tolist()) for name, t in model.state_dict().items()}
    ds = layerscope.sweep(model, pair, checkpoints=states, batch_size=32, draws=2)
    assert list(ds.layer.values) == ["0", "2", "fullmodel"]
    assert {name: (t.data_ptr(), t.tolist()) for name, t in model.state_dict().items()} == before
    trained = network(3)
    for row in layers.find(model):
        changed = {name: states[0][name] for name in row.tensors}
        cell = ds.value.sel(layer=row.name, epoch=0, perturbation="reinitialize", draw=0)
        assert (cell.values == specified(trained, pair, 32, **changed)).all()
    # reset_parameters would leave what is drawn as it is.
    assert ds.initializer.sel(layer="2").item() == "empirical"
    drawn = ds.draw_distance.sel(layer="2", perturbation="rerandomize", norm="l2")
    assert (drawn > 0).all()
    assert drawn[0] != drawn[1]


def test_skipped_blocks_equal_a_network_without_them():
    torch.manual_seed(0)
    data = torch.randn(20, 3, 16, 16), torch.arange(20) % 4

    def network(seed):
        torch.manual_seed(seed)
        return torchvision.models.resnet18(num_classes=4)

    states = {epoch: network(epoch).state_dict() for epoch in (0, 1)}
    ds = layerscope.sweep(
        network(2),
        data,
        checkpoints=states,
        view="block",
        layers=["layer1.*", "layer2.*"],
        perturbations=["skip", "zero"],
        metrics=["loss"],
    )
    skipped = ds.value.sel(perturbation="skip", epoch=results.NO_EPOCH, draw=0, metric="loss")
    for name in ("layer1.0", "layer1.1", "layer2.1"):
        other = network(2)
        other.load_state_dict(states[1])
        parent, _, child = name.rpartition(".")
        other.get_submodule(parent)[int(child)] = nn.Identity()
        expected = layerscope.evaluate(other, data, ["loss"], device="cpu")["loss"].mean
        assert skipped.sel(layer=name).item() == expected
    # The block that halves the picture can't be passed over, and says why.
    assert skipped.sel(layer=["layer2.0", "fullmodel"]).isnull().all()
    refused = results.settings(ds)["refused"]
    assert "(n, 64, 4, 4)" in refused["layer2.0 skip"]
    assert ds.value.sel(perturbation="zero", epoch=results.NO_EPOCH, draw=0).notnull().all()
    with pytest.raises(LayerError, match=r"'skip' fits no layer; layer2\.0, for example"):
        layerscope.sweep(
            network(2),
            data,
            checkpoints=states,
            view="block",
            layers=["layer2.0"],
            perturbations=["skip"],
        )
