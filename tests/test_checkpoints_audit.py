"""What should not be trusted in a series is found, and sound series are left alone."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import audit as cases
from layerscope import checkpoints
from layerscope.cli import main
from layerscope.core.checkpoints._trails import Trail, _ones
from layerscope.errors import CheckpointError

SIZES = {"a.weight": (64, 64), "b.weight": (200, 100), "c.weight": (48, 48), "d.weight": (64, 64),
         "c.bias": (48,), "norm.weight": (64,), "norm.running_mean": (64,),
         "norm.num_batches_tracked": ()}  # fmt: skip


def draw(name: str, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("tracked"):
        return torch.tensor(0)
    value = torch.randn(SIZES[name], generator=generator)
    return value if name.endswith("weight") and value.ndim > 1 else torch.ones(SIZES[name])


def walk(seed: int = 0, steps: int = 6, names=tuple(SIZES)) -> dict[int, dict[str, torch.Tensor]]:
    """A series whose tensors take steps of a tenth of their size."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: draw(name, generator) for name in names}
    series = {}
    for epoch in range(steps):
        series[epoch] = {name: tensor.clone() for name, tensor in state.items()}
        for name, tensor in state.items():
            noise = torch.randn(tensor.shape, generator=generator)
            state[name] = tensor + (1 if name.endswith("tracked") else 0.1 * noise)
    return series


def faults(series, **options):
    return checkpoints.audit(series, show_progress=False, **options).faults


def only(series):
    (found,) = faults(series)
    return found


def test_a_sound_series_has_no_faults_and_its_numbers_are_those_of_torch():
    series = walk()
    found = checkpoints.audit(series, show_progress=False)
    assert found.findings == []
    ds = found.dataset.sel(tensor="b.weight")  # longer than a sketch
    first, before, now, last = (series[e]["b.weight"].double() for e in (0, 2, 3, 5))
    at = ds.sel(epoch=3)
    assert float(at.norm) == pytest.approx(float(now.norm()), rel=1e-12)
    assert float(at.distance) == pytest.approx(float((now - first).norm()), rel=1e-12)
    assert float(at.step) == pytest.approx(float((now - before).norm()), rel=0.06)
    assert float(at.to_last) == pytest.approx(float((now - last).norm()), rel=0.06)
    centred = [t - t.mean() for t in (now, first)]
    cosine = (centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())
    assert float(at.cosine_first) == pytest.approx(float(cosine), rel=1e-9)
    small = found.dataset.sel(tensor="c.weight", epoch=3)
    step = (series[3]["c.weight"].double() - series[2]["c.weight"].double()).norm()
    assert float(small.step) == pytest.approx(float(step), rel=1e-12)  # exact up to 4,096 elements
    assert len({str(d) for d in ds.digest.values}) == 6


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 2**16 - 1, 2**16 + 5, 3 * 2**16])
def test_a_sketch_of_a_constant_is_that_of_ones(size):
    trail = Trail("x.weight")
    trail.add(torch.full((size,), 3.0), torch.full((size,), 3.0))
    assert torch.equal(trail._sketches[0], 3.0 * _ones(size))
    row = trail.finish()
    assert row["spread"] == [0.0]
    assert math.isnan(row["like_first"][0])  # a constant has no direction
    assert row["norm"][0] == pytest.approx(3 * math.sqrt(size))


def test_a_change_shows_in_the_sketch_wherever_it_is():
    before = torch.randn(300_000, generator=torch.Generator().manual_seed(1))
    for place in (0, 70_001, 299_999):
        after = before.clone()
        after[place] += 100
        trail = Trail("x.weight")
        for tensor in (before, after):
            trail.add(tensor, before)
        assert trail.finish()["step"][1] == pytest.approx(100, rel=1e-5)


# What is found


@pytest.mark.parametrize("middle", [0, 1, 3])
def test_a_copy_of_the_last_weights(middle):
    series = walk()
    series[middle] = {name: tensor.clone() for name, tensor in series[5].items()}
    series[middle]["norm.num_batches_tracked"] = torch.tensor(7)  # a counter is no weight
    found = only(series)
    assert (found.kind, found.epochs) == ("copy", (middle,))
    assert f"Epoch {middle} holds the very weights of the last, epoch 5" in found.sentence
    assert found.mark == "the same values as epoch 5"


def test_neighbours_that_are_the_same():
    series = walk()
    series[3] = {name: tensor.clone() for name, tensor in series[2].items()}
    found = only(series)
    assert (found.kind, found.epochs) == ("copy", (3,))
    assert found.sentence == "Epoch 2 and epoch 3 hold the same values."


def test_a_series_in_which_nothing_moved():
    series = walk()
    found = only({epoch: {n: t.clone() for n, t in series[5].items()} for epoch in range(3)})
    assert found.sentence == "All 3 checkpoints hold the same values: nothing moved."
    assert found.epochs == (0, 1)


def test_a_copy_in_another_precision():
    series = walk()
    series[0] = {name: t.bfloat16() for name, t in series[5].items()}
    assert [(f.kind, f.epochs) for f in faults(series)] == [("copy", (0,))]


@pytest.mark.parametrize("epoch", range(6))
def test_a_checkpoint_of_another_run(epoch):
    series = walk()
    series[epoch] = walk(seed=1)[epoch]
    found = only(series)
    assert found.kind == ("start" if epoch == 0 else "foreign")
    assert found.epochs == (tuple(range(6)) if epoch == 5 else (epoch,))


@pytest.mark.parametrize("epoch", range(6))
def test_a_shard_of_another_run(epoch):
    series = walk()
    other = walk(seed=1)[epoch]
    series[epoch] |= {name: other[name] for name in ("a.weight", "norm.weight")}
    found = only(series)
    assert found.kind == "foreign"
    assert found.tensors == ("a.weight",)
    assert epoch in found.epochs


def few_of_576(series, seed=0):
    """The series with five tensors more, each too small to tell a foreign one by itself."""
    generator = torch.Generator().manual_seed(seed)
    for at in range(5):
        value = torch.randn(24, 24, generator=generator)
        for state in series.values():
            state[f"small.{at}"] = value.clone()
            value += 0.1 * torch.randn(24, 24, generator=generator)
    return series


@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize(("planted", "told"), [(5, True), (2, False)])
def test_small_tensors_of_another_run_are_told_together(epoch, planted, told):
    series, other = few_of_576(walk()), few_of_576(walk(), seed=1)
    names = tuple(f"small.{at}" for at in range(planted))
    series[epoch] |= {name: other[epoch][name] for name in names}
    # Two of them have 1,152 elements: chance alone reaches 4/√1152 = 0.12 of what was left.
    found = [(f.kind, f.tensors) for f in faults(series)]
    assert found == ([("foreign", names)] if told else [])


def test_small_tensors_in_which_a_little_is_left_are_of_one_run():
    series = few_of_576(walk())
    generator = torch.Generator().manual_seed(2)
    for name in (f"small.{at}" for at in range(5)):
        start = series[0][name] - series[0][name].mean()
        new = torch.randn(24, 24, generator=generator)
        new -= (new * start).sum() / start.square().sum() * start
        for epoch in range(1, 6):
            series[epoch][name] += 0.12 * start + new - start
    found = checkpoints.audit(series, show_progress=False)
    left = found.dataset.cosine_before.sel(epoch=1)[-5:]
    assert (left < 4 / 24).all()  # within chance of each of them, but not, at 0.07, of all
    assert found.faults == []


def test_tied_tensors_are_no_evidence_twice():
    series, other = walk(names=("a.weight",)), walk(1, names=("a.weight",))
    for each in (series, other):
        for state in each.values():
            # Of 900 elements, 0.13 is chance; of 1,800 it would be 0.09.
            state["small"] = state["tied"] = state["a.weight"][:30, :30].clone()
    series[0] |= {name: other[0][name] for name in ("small", "tied")}
    assert faults(series) == []


def test_two_runs_in_one_series():
    found = only(walk() | {e: s for e, s in walk(seed=1).items() if e > 2})
    assert (found.kind, found.epochs) == ("foreign", (0, 1, 2))


@pytest.mark.parametrize("source", [0, 5])
def test_a_shard_that_was_served_again(source):
    series = walk()
    series[3]["a.weight"] = series[source]["a.weight"].clone()
    found = only(series)
    assert (found.kind, found.tensors) == ("copy", ("a.weight",))
    assert found.epochs == ((3,) if source == 5 else (0, 3))


def test_a_shard_that_was_served_twice():
    series = walk()
    series[3]["a.weight"] = series[2]["a.weight"].clone()
    found = only(series)
    assert (found.kind, found.epochs, found.tensors) == ("copy", (3,), ("a.weight",))


def test_a_tensor_that_jumps_away_and_back():
    series = walk()
    series[3]["a.weight"] *= 1.5  # still alike
    found = only(series)
    assert (found.kind, found.epochs, found.tensors) == ("jump", (3,), ("a.weight",))


def test_a_tensor_that_leaps():
    series = walk()
    for epoch in range(3, 6):
        series[epoch]["a.weight"] += 20.0
    found = only(series)
    assert (found.kind, found.epochs, found.tensors) == ("jump", (3,), ("a.weight",))


def test_a_frozen_tensor_that_is_another_at_one_checkpoint():
    series = walk()
    for epoch in series:
        series[epoch]["a.weight"] = series[0]["a.weight"].clone()
    series[3]["a.weight"] = series[0]["a.weight"].flip(0)
    kinds = {f.kind: f.epochs for f in faults(series) if "a.weight" in f.tensors}
    assert kinds
    assert set(kinds.values()) == {(3,)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers(value):
    series = walk()
    series[4]["b.weight"][7, 7] = value
    found = only(series)
    assert (found.kind, found.epochs, found.tensors) == ("not finite", (4,), ("b.weight",))


def test_a_checkpoint_with_other_tensors():
    series = walk()
    series[2]["e.weight"] = torch.zeros(3)
    series[4]["a.weight"] = series[4]["a.weight"][:5].clone()
    found = {f.epochs: f for f in faults(series)}
    assert found[2,].tensors == ("e.weight",)
    assert found[4,].tensors == ("a.weight",)
    assert {f.kind for f in found.values()} == {"other tensors"}


# What is left alone


def test_frozen_layers_are_said_and_are_no_fault():
    series = walk()
    for state in series.values():
        state |= {name: series[0][name].clone() for name in ("a.weight", "c.bias")}
    (found,) = checkpoints.audit(series, show_progress=False).findings
    assert (found.kind, found.fault, found.tensors) == ("not moved", False, ("a.weight", "c.bias"))


def test_layers_that_thaw_or_freeze_are_no_fault():
    series = walk()
    for epoch in (1, 2):
        series[epoch]["a.weight"] = series[0]["a.weight"].clone()
    for epoch in (4, 5):
        series[epoch]["b.weight"] = series[3]["b.weight"].clone()
    assert faults(series) == []


def test_a_bias_that_stays_zero_until_late_is_no_fault():
    series = walk()
    for epoch in range(4):
        series[epoch]["c.bias"] = torch.zeros(48)
    assert faults(series) == []


def test_steps_lost_in_rounding_are_no_fault():
    series = {e: {n: t.bfloat16() for n, t in s.items()} for e, s in walk().items()}
    series[3]["norm.weight"] = series[2]["norm.weight"].clone()
    assert faults(series) == []


def test_draws_that_have_nothing_in_common_say_nothing_of_one_another():
    series = {epoch: walk(seed=epoch, steps=1)[0] for epoch in range(4)}
    assert faults(series) == []


def test_one_long_step_may_forget_the_start():
    series = walk()
    # Weight decay for a hundred epochs; then five in which much stays.
    late = {e + 100: s for e, s in walk(seed=1).items()}
    assert faults({0: series[0]} | late) == []
    assert faults({0: series[0], 1: late[100]}) == []


def test_a_single_checkpoint():
    assert checkpoints.audit({7: walk()[0]}, show_progress=False).findings == []


# How it is read


@pytest.fixture
def sharded(tmp_path):
    """A series of folders with two files each, as Hugging Face writes large networks."""
    for epoch, state in walk(steps=4).items():
        folder = tmp_path / f"checkpoint-{epoch}"
        folder.mkdir()
        names = sorted(state)
        files = {n: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, n in enumerate(names)}
        for file in sorted(set(files.values())):
            save_file({n: state[n] for n in names if files[n] == file}, folder / file)
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_one_tensor_of_two_checkpoints_is_held(sharded):
    with cases.counted() as held:
        found = checkpoints.audit(sharded, show_progress=False)
    assert found.dataset.sizes == {"tensor": 8, "epoch": 4}
    assert held["most"] == 2 * 200 * 100 * 4
    assert held["now"] == 0


def test_every_tensor_is_read_once(sharded, monkeypatch):
    seen = []
    read = checkpoints.Series.read
    monkeypatch.setattr(
        checkpoints.Series, "read", lambda s, e, n=None: seen.append((e, *n)) or read(s, e, n)
    )
    checkpoints.audit(sharded, show_progress=False)
    assert sorted(seen) == sorted((e, n) for e in range(4) for n in SIZES)


def test_a_network_says_how_its_tensors_are_named():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    plain = {n: t.clone() for n, t in net.state_dict().items()}
    wrapped = {f"module.{n}": t + 1 for n, t in plain.items()}
    assert {f.kind for f in faults({0: plain, 1: wrapped})} == {"other tensors"}
    assert faults({0: plain, 1: wrapped}, model=net) == []


def test_nothing_to_audit_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="holds neither"):
        checkpoints.audit(tmp_path)


def test_it_says_itself_what_it_found():
    series = walk()
    series[0] = {name: t.clone() for name, t in series[5].items()}
    said = repr(checkpoints.audit(series, show_progress=False))
    assert said.startswith("<Audit of 8 tensors at 6 checkpoints: 1 fault>\n- Epoch 0 holds")


# Real trainings


QUICK = ["mlp adam, large rate", "vgg bn, cosine to 0", "llama frozen embedding"]


@pytest.mark.parametrize("name", QUICK)
def test_short_trainings(name, tmp_path):
    check(name, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", cases.CASES)
def test_all_trainings(name, seed, tmp_path):
    check(name, seed, tmp_path)


def check(name, seed, folder):
    found = cases.run(cases.CASES[name], seed, folder)
    assert found.pop("alarms") == []
    assert found.pop("held") == 2
    assert set(found.values()) == {"."}, found


# The command


def recorded(folder, series):
    writer = checkpoints.SeriesWriter(folder, {})
    folder.mkdir()
    for epoch, state in series.items():
        writer.record(epoch, state, {})
    return str(folder)


def test_the_command_prints_the_audit_and_its_status_says_if_faults_were_found(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    series = walk()
    assert main(["checkpoints", recorded(tmp_path / "sound", series)]) == 0
    assert "Nothing was found" in capsys.readouterr().out
    series[2]["a.weight"] = series[5]["a.weight"].clone()
    folder = recorded(tmp_path / "spoilt", series)
    assert main(["checkpoints", folder, "--tensors"]) == 3
    said = capsys.readouterr().out
    assert "✕ a.weight holds the same values in epoch 2 and epoch 5" in said
    assert "the same values as epoch 5" in said
    digest = checkpoints.audit(folder, show_progress=False).dataset.digest
    assert str(digest.sel(tensor="b.weight", epoch=3).values)[:12] in said
    assert main(["checkpoints", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err
