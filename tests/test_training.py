"""Training is repeatable to the last bit, also when it was stopped in the middle."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save as serialise
from torch import nn

import layerscope
from layerscope import metrics, models
from layerscope.base import devices, seeds
from layerscope.core.checkpoints import open_series
from layerscope.errors import CheckpointError, LayerError, OptionError, TrainingError
from layerscope.zoo import training
from layerscope.zoo.data import Examples
from layerscope.zoo.training import Recipe, _data as training_data, _loop as loop

RESUME = "resume.safetensors"


def hashes(folder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }


def recorded(folder) -> dict:
    """What the manifest says of the checkpoints."""
    return json.loads((folder / "manifest.json").read_text())["epochs"]


def test_epoch_0_is_the_network_as_it_was_drawn(trained, few_digits):
    built = models.build("fcn-2x16", 0)
    for name, tensor in trained.read(0).items():
        assert torch.equal(tensor, built.state_dict()[name])
    about = trained.manifest
    assert about["seed"] == 0
    assert about["data"] == {"name": "mnist-5k", "sha256": few_digits.train.fingerprint}
    assert about["finished"] is True
    assert models.build(about["network"]).config == built.config
    assert not (trained.folder / RESUME).exists()


def test_the_manifest_holds_the_scores_of_each_checkpoint(trained, few_digits):
    model = models.build("fcn-2x16")
    for epoch in trained.epochs:
        model.load_state_dict(trained.read(epoch))
        tallies = metrics.evaluate(model, few_digits.test, device="cpu")
        scores = recorded(trained.folder)[str(epoch)]["metrics"]
        assert scores["test_error"] == tallies["error"].mean
        assert scores["test_loss"] == tallies["loss"].mean
        assert ("train_loss" in scores) == (epoch > 0)


def test_training_is_what_torch_does_step_by_step(few_digits, train_few, tmp_path):
    """The same recipe written plainly, with another optimiser implementation beside it."""
    series = train_few(tmp_path, epochs=3, lr=0.05, weight_decay=0.01, seed=3, batch_size=120)
    model = models.build("fcn-2x16", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    lrs = {1: 0.05, 2: 0.05 * 0.2, 3: 0.05 * 0.2**2}  # drops after 0.9 and 1.8 epochs
    for epoch in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = lrs[epoch]
        order = torch.randperm(500, generator=seeds.generator("order", 3, epoch))
        assert order.sort().values.equal(torch.arange(500))
        losses = []
        for batch in order.split(120):
            pixels = few_digits.train.inputs[batch].float() / 255
            outputs = model((pixels - 0.1307) / 0.3081)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(outputs, few_digits.train.targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()) * len(batch))
        scores = recorded(series.folder)[str(epoch)]["metrics"]
        assert scores["train_loss"] == pytest.approx(sum(losses) / 500, rel=1e-5)
        for name, tensor in series.read(epoch).items():
            assert torch.allclose(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-6), epoch


def test_learning_rate_drops_exactly_at_the_fractions():
    recipe = Recipe(epochs=100, lr=1.0, decay=0.5)
    rates = [recipe.lr_at(epoch) for epoch in range(1, 101)]
    assert rates == [1.0] * 30 + [0.5] * 30 + [0.25] * 30 + [0.125] * 10
    for epochs in range(10, 1001, 10):  # no product is carried past a whole number by rounding
        rates = [Recipe(epochs=epochs, lr=1.0).lr_at(e) for e in range(1, epochs + 1)]
        assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [
            0,
            3 * epochs // 10,
            6 * epochs // 10,
            9 * epochs // 10,
        ]


def test_first_last_and_wanted_epochs_are_recorded(few_digits, tmp_path):
    series = training.train(
        "fcn-1x4",
        few_digits,
        Recipe(epochs=4),
        out=tmp_path,
        record=(2, 2, 99, -1),
        device="cpu",
        show_progress=False,
    )
    assert series.epochs == (0, 2, 4)


def test_seed_and_recipe_decide_every_bit_and_the_folder(train_few, trained, tmp_path):
    again = train_few(tmp_path)
    assert hashes(again.folder) == hashes(trained.folder)
    assert again.folder.name == trained.folder.name
    others = [
        train_few(tmp_path, seed=1),
        train_few(tmp_path, lr=0.02),
        train_few(tmp_path, drops=()),
    ]
    assert len({again.folder, *(other.folder for other in others)}) == 4
    for other in others:
        assert not torch.equal(other.read(2)["layer1.weight"], again.read(2)["layer1.weight"])
    assert torch.equal(others[1].read(0)["layer1.weight"], again.read(0)["layer1.weight"])


def test_the_order_of_the_data_has_a_seed_apart_from_the_initial_weights(
    train_few, trained, tmp_path
):
    usual = trained.folder
    same, order, start = (
        train_few(tmp_path, order_seed=0),
        train_few(tmp_path, order_seed=1),
        train_few(tmp_path, seed=1, order_seed=0),
    )
    epochs = trained.epochs
    values = [[s.read(e)["layer1.weight"] for e in epochs] for s in (trained, same, order, start)]
    assert all(map(torch.equal, values[0], values[1]))
    assert len({usual, same.folder, order.folder, start.folder}) == 4
    assert torch.equal(values[0][0], values[2][0])
    assert not torch.equal(values[0][-1], values[2][-1])
    # Other initial weights in the same order, which is not that of the seed they are of.
    assert not torch.equal(values[0][0], values[3][0])
    both = train_few(tmp_path, seed=1)
    assert torch.equal(both.read(0)["layer1.weight"], values[3][0])
    assert not torch.equal(both.read(epochs[-1])["layer1.weight"], values[3][-1])


@pytest.mark.usefixtures("same_global_generator")
def test_global_generator_is_left_alone(train_few, tmp_path):
    train_few(tmp_path, network="fcn-1x4", epochs=1)


def test_a_numpy_seed_is_the_same_seed(train_few, trained, tmp_path):
    assert hashes(train_few(tmp_path, seed=np.int64(0)).folder) == hashes(trained.folder)


def test_a_finished_series_is_returned_at_once(train_few, tmp_path, monkeypatch):
    first = train_few(tmp_path, network="fcn-1x4", epochs=1)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a second training was begun")

    monkeypatch.setattr(torch.optim, "SGD", forbidden)
    monkeypatch.setattr(metrics, "evaluate", forbidden)
    second = train_few(tmp_path, network="fcn-1x4", epochs=1)
    assert second.epochs == first.epochs
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == stamps
    with pytest.raises(AssertionError, match="second training"):
        train_few(tmp_path, network="fcn-1x4", epochs=2)


KILLED = """
    import os, signal, sys
    import torch
    from layerscope import data
    from layerscope.zoo import training
    from layerscope.zoo.training import _loop as loop

    torch.set_num_threads(1)
    loop._SAVE_EVERY_S = 0
    place, when = sys.argv[2], int(sys.argv[3])
    whole = getattr(loop.Loop, place)
    calls = 0

    def fatal(self, *args):
        global calls
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *args)

    setattr(loop.Loop, place, fatal)
    images = torch.load(sys.argv[4])
    parts = [data.Examples(*images[part], 0.1307, 0.3081) for part in ("train", "test")]
    training.train(
        "fcn-2x16", data.ImageData("mnist-5k", *parts, 10, ""),
        training.Recipe(epochs=6, batch_size=100),
        out=sys.argv[1], record=(2, 4), device="cpu", show_progress=False,
    )
"""


@pytest.fixture(scope="module")
def undisturbed(few_digits, tmp_path_factory):
    return six_epochs(few_digits, tmp_path_factory.mktemp("undisturbed"))


def six_epochs(data, out):
    return training.train(
        "fcn-2x16",
        data,
        Recipe(epochs=6, batch_size=100),
        out=out,
        record=(2, 4),
        device="cpu",
        show_progress=False,
    )


# Before an epoch, within one, and between writing a checkpoint and saving where training stands.
@pytest.mark.parametrize(
    ("place", "when", "found"),
    [("_epoch", 4, ["0", "2"]), ("_step", 13, ["0", "2"]), ("_save", 20, ["0", "2", "4"])],
)
def test_killed_and_run_again_it_is_bit_for_bit_the_same(
    repository, few_digits, undisturbed, tmp_path, place, when, found
):
    images = tmp_path / "images.pt"  # quicker to load than where they come from
    parts = {"train": few_digits.train, "test": few_digits.test}
    torch.save({name: (part.inputs, part.targets) for name, part in parts.items()}, images)
    script = textwrap.dedent(KILLED)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), place, str(when), str(images)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / undisturbed.folder.name
    assert list(recorded(folder)) == found
    assert (folder / RESUME).exists()
    left = open_series(folder)
    assert "finished" not in left.manifest
    left.digests()
    resumed = six_epochs(few_digits, tmp_path)
    assert hashes(resumed.folder) == hashes(undisturbed.folder)
    assert recorded(resumed.folder) == recorded(undisturbed.folder)
    assert resumed.epochs == (0, 2, 4, 6)


# Where training stands is kept every few seconds, and with every checkpoint (here, 4) in any case.
@pytest.mark.parametrize(
    ("every", "stop", "rest"), [(0, 6, [6]), (1e9, 6, [5, 6]), (0, 2, [2, 3, 4, 5, 6])]
)
def test_a_resumed_training_does_not_begin_again(
    few_digits, undisturbed, tmp_path, monkeypatch, every, stop, rest
):
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", every)
    whole, ran = loop.Loop._epoch, []

    def stopping(self, epoch):
        if epoch == stop:
            raise KeyboardInterrupt
        return whole(self, epoch)

    monkeypatch.setattr(loop.Loop, "_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        six_epochs(few_digits, tmp_path)

    def counting(self, epoch):
        ran.append(epoch)
        return whole(self, epoch)

    monkeypatch.setattr(loop.Loop, "_epoch", counting)
    resumed = six_epochs(few_digits, tmp_path)
    assert ran == rest
    assert hashes(resumed.folder) == hashes(undisturbed.folder)
    assert recorded(resumed.folder) == recorded(undisturbed.folder)
    assert resumed.manifest["seconds"] > 0


@pytest.fixture(scope="module")
def stopped(few_digits, undisturbed, tmp_path_factory):
    """The folder of a training that was interrupted in its sixth epoch."""
    out = tmp_path_factory.mktemp("stopped")
    whole = loop.Loop._epoch

    def stopping(self, epoch):
        if epoch == 6:
            raise KeyboardInterrupt
        return whole(self, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_SAVE_EVERY_S", 0)
        patch.setattr(loop.Loop, "_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            six_epochs(few_digits, out)
    return out / undisturbed.folder.name


SET_ASIDE = r"resume\.safetensors is not what the interrupted training wrote.*set aside as resume"


@pytest.mark.parametrize("at", ["header", "first", "middle", "last", "position"])
def test_where_a_flipped_bit_is_it_goes_on_from_what_was_written_before(
    few_digits, undisturbed, stopped, tmp_path, at
):
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    path = folder / RESUME
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    places = {"header": 20, "first": start, "middle": (start + len(content)) // 2, "last": -1}
    places["position"] = content.index(b'"epoch":"5"') + len(b'"epoch":"')
    content[places[at]] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=SET_ASIDE + ".*goes on from epoch 4, step 4,"):
        again = six_epochs(few_digits, tmp_path)
    assert hashes(again.folder) == hashes(undisturbed.folder)
    assert recorded(again.folder) == recorded(undisturbed.folder)
    assert (folder / f"{RESUME}.damaged").read_bytes() == content


@pytest.mark.parametrize("harm", ["cut", "empty", "pipe", "other", "deep"])
def test_a_damaged_state_never_stops_a_training(few_digits, undisturbed, stopped, tmp_path, harm):
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    for name in (RESUME, "resume-before.safetensors"):
        path = folder / name
        if harm == "cut":
            os.truncate(path, 1000)
        elif harm == "empty":
            path.write_bytes(b"")
        elif harm == "pipe":
            path.unlink()
            os.mkfifo(path)
        elif harm == "other":
            content = {"model.weight": torch.zeros(3)}
            path.write_bytes(serialise(content, metadata={"sha256": "", "epoch": "1"}))
        else:
            header = b'{"a":' * 10_000
            path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.warns(UserWarning, match=SET_ASIDE + ".*goes on from the start, to the same"):
        again = six_epochs(few_digits, tmp_path)
    assert hashes(again.folder) == hashes(undisturbed.folder)
    assert not (folder / RESUME).exists()
    assert not (folder / "resume-before.safetensors").exists()


def test_killed_between_two_states_it_goes_on_from_the_first(
    few_digits, undisturbed, stopped, tmp_path
):
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    (folder / RESUME).unlink()  # the one before was moved away, and the next not yet written
    assert hashes(six_epochs(few_digits, tmp_path).folder) == hashes(undisturbed.folder)


# On what it runs, which its name does not say


def test_a_training_that_was_stopped_goes_on_with_its_number_of_threads(
    few_digits, undisturbed, stopped, tmp_path, monkeypatch
):
    shutil.copytree(stopped, tmp_path / stopped.name)
    seen, whole = set(), loop.Loop._epoch

    def watched(self, epoch):
        seen.add(torch.get_num_threads())
        return whole(self, epoch)

    monkeypatch.setattr(loop.Loop, "_epoch", watched)
    with devices.Threads(2):
        resumed = six_epochs(few_digits, tmp_path)
        assert torch.get_num_threads() == 2
        # A series that is whole is the same, with whatever number; its manifest says which.
        assert six_epochs(few_digits, tmp_path).folder == resumed.folder == tmp_path / stopped.name
    assert seen == {1}
    assert resumed.manifest["threads"] == 1
    assert hashes(resumed.folder) == hashes(undisturbed.folder)
    with devices.Threads(2):
        assert six_epochs(few_digits, tmp_path / "two").manifest["threads"] == 2


@pytest.mark.parametrize(("key", "value"), [("torch", "2.9.0"), ("device", "NVIDIA H100 (cuda:0)")])
def test_a_training_that_goes_on_elsewhere_says_so(few_digits, stopped, tmp_path, key, value):
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.warns(UserWarning, match=rf"was begun with {{'{key}': .*those of neither alone"):
        series = six_epochs(few_digits, tmp_path)
    assert series.manifest["begun_with"] == {key: value}


DIVERGED = r"in epoch 1, step \d of 5, at learning rate 1e\+06.*lr=200000.*clip=1"


def test_divergence_says_what_to_try_and_keeps_what_was_recorded(train_few, tmp_path):
    with pytest.raises(
        TrainingError, match=r"in epoch 1, step \d of 5, at learning rate 1e\+06.*lr=200000.*clip=1"
    ):
        train_few(tmp_path, lr=1e6, epochs=3)
    (folder,) = tmp_path.iterdir()
    series = open_series(folder)
    assert series.epochs == (0,)
    assert "finished" not in series.manifest
    series.digests()
    with pytest.raises(TrainingError):  # nor is it taken for finished the next time
        train_few(tmp_path, lr=1e6, epochs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be in"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"optimizer": "adamx"}, "no optimizer 'adamx'. Did you mean 'adam'"),
        ({"schedule": "step"}, "no schedule 'step'. Did you mean 'steps'"),
        ({"autocast": "float16"}, "no autocast type 'float16'"),
        ({"epochs": 2, "warmup": 2}, "warmup is 2 of 2 epochs"),
        ({"optimizer": "adam", "nesterov": True}, "nesterov is for optimizer='sgd'"),
        ({"order_seed": 1.5}, "order_seed is 1.5"),
        ({"frozen": "layer1"}, r"frozen is 'layer1'; give a tuple: \('layer1',\)"),
    ],
)
def test_a_recipe_that_can_not_work_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Recipe(**options)


# Recipes


def test_only_what_differs_is_said_so_that_older_series_keep_their_names():
    """A series is found by the name of its folder, and else trained again."""
    old = ["epochs", "lr", "batch_size", "momentum", "weight_decay", "drops", "decay"]
    assert list(Recipe(autocast="float32").describe()) == old
    recipe = Recipe(optimizer="adam", frozen=("layer1",), autocast="float32")
    said = recipe.describe()
    assert said.keys() - set(old) == {"optimizer", "frozen"}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    assert Recipe(**values, autocast="float32") == recipe


def test_the_folder_is_named_as_before(trained):
    assert trained.folder.name == "fcn-2x16-mnist-5k-seed0-531d07b7"


def test_cosine_and_constant_rates():
    recipe = Recipe(epochs=4, lr=2.0, schedule="cosine")
    rates = [recipe.lr_at(e, s, 5) for e in range(1, 5) for s in range(5)]
    expected = [2.0 * (1 + np.cos(np.pi * k / 20)) / 2 for k in range(20)]
    assert rates == pytest.approx(expected, rel=1e-12)
    flat = Recipe(epochs=4, lr=2.0, schedule="constant")
    assert {flat.lr_at(e, s, 5) for e in range(1, 5) for s in range(5)} == {2.0}


@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_warm_up_rises_in_equal_steps_to_the_rate_and_not_from_zero(schedule):
    recipe = Recipe(epochs=10, lr=1.0, schedule=schedule, warmup=1.5)
    rates = [recipe.lr_at(e, s, 4) for e in (1, 2) for s in range(4)]
    assert rates[:6] == pytest.approx([k / 6 for k in range(1, 7)], rel=1e-12)
    assert max(recipe.lr_at(e, s, 4) for e in range(1, 11) for s in range(4)) <= 1.0


class Small(nn.Module):
    """A convolution, BatchNorm and dropout, for inputs (1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, inputs):
        return self.head(self.drop(self.norm(self.conv(inputs)).relu().flatten(1)))


def small(seed: int = 0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small()


@dataclasses.dataclass(frozen=True)
class Shift:
    """Moves pictures sideways by up to `most` pixels."""

    most: int = 2

    def __call__(self, inputs, generator):
        by = int(torch.randint(-self.most, self.most + 1, (), generator=generator))
        return inputs.roll(by, -1)


class Stream:
    """Batches in an order that the epoch fixes, with noise from the global generator."""

    fingerprint = "stream"

    def __init__(self, examples, size=100, claimed=None) -> None:
        self.examples, self.size, self.claimed, self.epoch = examples, size, claimed, None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.claimed or -(-len(self.examples) // self.size)

    def __iter__(self):
        order = torch.randperm(len(self.examples), generator=seeds.generator("s", self.epoch))
        for inputs, targets in self.examples.batches(self.size, order):
            yield inputs + torch.randn(inputs.shape) / 10, targets


def few_steps(data, out, *, model=None, epochs=2, stream=False, steps=(), **options):
    options = {"batch_size": 100, "lr": 0.01, "autocast": "float32", **options}
    augment = options.pop("augment", None)
    if stream:
        data = dataclasses.replace(data, train=Stream(data.train))
    return training.train(
        model or small(),
        data,
        Recipe(epochs=epochs, **options),
        seed=3,
        out=out,
        record=(1,),
        record_steps=steps,
        augment=augment,
        device="cpu",
        show_progress=False,
    )


OPTIONS = [
    {},
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 0.7},
    {"nesterov": True, "clip": 0.1, "label_smoothing": 0.1},
    {"autocast": "bfloat16"},
    {"augment": Shift(), "frozen": ("norm",)},
    {"stream": True},
    {"steps": (2, 7)},
]


# After each of these steps of ten, five to an epoch.
@pytest.mark.parametrize("stop", [2, 7])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options))
def test_stopped_within_an_epoch_it_goes_on_bit_for_bit(
    few_digits, tmp_path, monkeypatch, options, stop
):
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0)
    whole = few_steps(few_digits, tmp_path / "whole", **options)
    step, ran = loop.Loop._step, []

    def stopping(self, *args):
        if len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(None)
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            few_steps(few_digits, tmp_path / "cut", **options)
    (folder,) = (tmp_path / "cut").iterdir()
    open_series(folder).digests()

    def counting(self, *args):
        ran.append(None)
        step(self, *args)

    monkeypatch.setattr(loop.Loop, "_step", counting)
    resumed = few_steps(few_digits, tmp_path / "cut", **options)
    assert len(ran) == 10  # nothing was done twice
    assert hashes(resumed.folder) == hashes(whole.folder)
    assert recorded(resumed.folder) == recorded(whole.folder)
    moved = whole.read(whole.last)["head.weight"]
    assert not torch.equal(moved, whole.read(0)["head.weight"])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimiser_does_what_torch_does_step_by_step(few_digits, tmp_path, name):
    """The same training written plainly, unfused, in double precision."""
    inputs, targets = few_digits.train.inputs.double() / 255, few_digits.train.targets
    data = dataclasses.replace(few_digits, train=Examples(inputs, targets), test=(inputs, targets))
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double()
    recipe = {"lr": 0.003, "weight_decay": 0.1, "label_smoothing": 0.2, "clip": 0.5}
    series = few_steps(
        data, tmp_path, model=model, epochs=1, optimizer=name, schedule="cosine", **recipe
    )
    weight, bias = model.parameters()
    optimizer = {
        "sgd": lambda: torch.optim.SGD([weight, bias], momentum=0.9, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam([weight, bias], weight_decay=0.1),
        "adamw": lambda: torch.optim.AdamW(
            [{"params": [weight]}, {"params": [bias], "weight_decay": 0}], weight_decay=0.1
        ),
    }[name]()
    order = torch.randperm(500, generator=seeds.generator("order", 3, 1))
    for step, batch in enumerate(order.split(100)):
        for group in optimizer.param_groups:
            group["lr"] = 0.003 * (1 + np.cos(np.pi * step / 5)) / 2
        logs = model(inputs[batch]).log_softmax(1)
        optimizer.zero_grad()
        (-0.8 * logs.gather(1, targets[batch, None]).mean() - 0.2 * logs.mean()).backward()
        norm = torch.cat([weight.grad.flatten(), bias.grad]).norm()
        for parameter in (weight, bias):
            parameter.grad *= min(1.0, 0.5 / (float(norm) + 1e-6))
        optimizer.step()
    for key, tensor in series.read(1).items():
        assert torch.allclose(tensor, model.state_dict()[key], rtol=1e-9, atol=1e-12), key


def test_frozen_layers_stay_and_their_statistics_too(few_digits, tmp_path):
    free = few_steps(few_digits, tmp_path, weight_decay=0.1)
    series = few_steps(few_digits, tmp_path, weight_decay=0.1, frozen=("conv", "norm"))
    start, end = series.read(0), series.read(2)
    for name in start:
        assert torch.equal(start[name], end[name]) == (not name.startswith("head")), name
        assert not torch.equal(free.read(2)[name], start[name]), name
    with pytest.raises(OptionError, match="matches every layer"):
        few_steps(few_digits, tmp_path, frozen=("*",))
    with pytest.raises(LayerError, match="no layer that matches 'cnov'"):
        few_steps(few_digits, tmp_path, frozen=("cnov",))


@pytest.mark.usefixtures("same_global_generator")
def test_a_module_of_ones_own_is_copied_and_named_by_its_weights(few_digits, tmp_path):
    model = small()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    series = few_steps(few_digits, tmp_path, model=model)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert not model.training
    assert all(torch.equal(series.read(0)[name], t) for name, t in before.items())
    assert series.folder.name.startswith("small-mnist-5k-seed3-")
    again = few_steps(few_digits, tmp_path, model=small())
    assert again.folder == series.folder
    assert few_steps(few_digits, tmp_path, model=small(1)).folder != series.folder
    with pytest.raises(CheckpointError, match="does not say which network"):
        models.rebuild(series)


def test_chosen_steps_make_a_series_that_is_counted_in_steps(few_digits, tmp_path):
    series = few_steps(few_digits, tmp_path, steps=(1, 3, 5))
    assert series.unit == "step"
    assert series.epochs == (0, 1, 3, 5, 10)
    assert series.manifest["steps_per_epoch"] == 5
    assert (series.folder / "step-0003.safetensors").is_file()
    plain = few_steps(few_digits, tmp_path)
    assert (plain.unit, plain.epochs) == ("epoch", (0, 1, 2))
    for name, tensor in plain.read(1).items():
        assert torch.equal(series.read(5)[name], tensor)
    with pytest.raises(CheckpointError, match="step 4 was not recorded; there is 0, 1, 3, 5, 10"):
        series.read(4)
    with pytest.raises(OptionError, match="record_steps has 11; this training has 10 steps"):
        few_steps(few_digits, tmp_path, steps=(11,))


@pytest.mark.parametrize("native", [True, False])
def test_auto_trains_convolutions_in_half_precision_where_the_device_can(
    few_digits, tmp_path, monkeypatch, native
):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda *_: native)
    meant = "bfloat16" if native else "float32"
    chosen = few_steps(few_digits, tmp_path, autocast="auto")
    # The same series: it is not trained twice under two names.
    assert few_steps(few_digits, tmp_path, autocast=meant).folder == chosen.folder
    assert chosen.manifest["recipe"].get("autocast", "float32") == meant
    dense = layerscope.train(
        "fcn-1x8", few_digits, Recipe(epochs=1), out=tmp_path, device="cpu", show_progress=False
    )
    assert "autocast" not in dense.manifest["recipe"]


@pytest.mark.parametrize(
    ("network", "meant"),
    [
        ("transformer-16x1", "bfloat16"),
        ("lstm-16x1", "float32"),
        (nn.Sequential(nn.Embedding(9, 4), nn.RMSNorm(4)), "bfloat16"),
        (nn.Linear(4, 4), "float32"),
    ],
)
def test_auto_trains_transformers_in_half_precision_too(monkeypatch, network, meant):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda *_: True)
    if isinstance(network, str):
        network = layerscope.models.build(network, inputs=(8,), classes=32)
    assert Recipe().resolved(network, torch.device("cpu")).autocast == meant


@pytest.mark.parametrize(
    ("inputs", "few"),
    [
        (torch.zeros(1, 3, 8, 8), True),
        (torch.zeros(1, 512, dtype=torch.int64), True),
        (torch.zeros(1, 513, dtype=torch.int64), False),
        ({"input_ids": torch.zeros(1, 8, dtype=torch.int64)}, False),
    ],
)
def test_short_inputs_are_known(inputs, few):
    assert training_data.few_tokens(inputs) is few


def test_half_precision_is_close_and_leaves_weights_in_single(few_digits, tmp_path):
    half = few_steps(few_digits, tmp_path, autocast="bfloat16")
    full = few_steps(few_digits, tmp_path)
    tensors = half.read(2)
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}
    assert all(t.is_contiguous() for t in tensors.values())
    weights = [series.read(2)["conv.weight"] for series in (half, full)]
    assert not torch.equal(*weights)
    assert torch.allclose(*weights, atol=0.02)


def test_augmentation_is_seen_by_training_alone_and_says_what_it_is(few_digits, tmp_path):
    plain = few_steps(few_digits, tmp_path)
    series = few_steps(few_digits, tmp_path, augment=Shift())
    assert series.manifest["augment"] == "Shift(most=2)"
    assert not torch.equal(series.read(2)["head.weight"], plain.read(2)["head.weight"])
    first = [recorded(one.folder)["0"]["metrics"] for one in (plain, series)]
    assert first[0] == first[1]
    still = few_steps(few_digits, tmp_path, augment=Shift(0))
    assert torch.equal(still.read(2)["head.weight"], plain.read(2)["head.weight"])
    with pytest.raises(OptionError, match="does not say what it does"):
        few_steps(few_digits, tmp_path, augment=lambda inputs, _: inputs)


class Ours:
    """Training data of a class of one's own, which is cut into batches in any order."""

    def __init__(self, examples):
        self.inner, self.targets, self.fingerprint = examples, examples.targets, "ours"

    def __len__(self):
        return len(self.inner)

    def batches(self, size, order=None):
        return self.inner.batches(size, order)


def test_training_data_are_known_by_what_they_can_do(few_digits, tmp_path):
    ours = types.SimpleNamespace(
        name="ours", train=Ours(few_digits.train), test=few_digits.test, shape=few_digits.shape,
        classes=10,
    )  # fmt: skip
    recipe = Recipe(epochs=2, batch_size=150)
    series, plain = (
        training.train("fcn-1x8", data, recipe, out=tmp_path, device="cpu")
        for data in (ours, few_digits)
    )
    assert series.folder != plain.folder
    assert hashes(series.folder) == hashes(plain.folder)
    del ours.train.fingerprint
    with pytest.raises(OptionError, match="are a Ours without fingerprint; give Examples"):
        training.train("fcn-1x8", ours, recipe, out=tmp_path, device="cpu")


def test_a_stream_must_fix_its_order_and_keep_its_length(few_digits, tmp_path):
    loader = list(few_digits.train.batches(100))
    data = dataclasses.replace(few_digits, train=loader)
    with pytest.raises(OptionError, match="a list without set_epoch, fingerprint; give Examples"):
        few_steps(data, tmp_path)
    data = dataclasses.replace(few_digits, train=Stream(few_digits.train, claimed=7))
    with pytest.raises(TrainingError, match="gave 5 batches in epoch 1; its length says 7"):
        few_steps(data, tmp_path)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_in_sequences_what_is_ignored_counts_for_nothing(smoothing):
    chance = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 5, 7, generator=chance)
    targets = torch.randint(7, (3, 5), generator=chance)
    targets[0, 3:] = targets[2] = -100
    kept = targets != -100
    expected = loop.loss_of(outputs[kept], targets[kept], smoothing)
    assert torch.allclose(loop.loss_of(outputs, targets, smoothing), expected, rtol=1e-6)
    assert loop.loss_of(outputs, torch.full_like(targets, -100), smoothing) == 0
    with pytest.raises(TrainingError, match=r"\(3, 5, 7\) came with targets of shape \(3, 4\)"):
        loop.loss_of(outputs, targets[:, :4])


def test_the_folder_can_be_read_while_it_is_written(few_digits, tmp_path, monkeypatch):
    seen = []
    whole = loop.Loop._save

    def reading(self):
        whole(self)
        series = open_series(self.writer.folder)
        series.digests()
        seen.append(series)

    monkeypatch.setattr(loop.Loop, "_save", reading)
    few_steps(few_digits, tmp_path)
    assert [series.epochs for series in seen] == [(0, 1), (0, 1, 2)]
    seen[0].read(1)  # opened long ago, and still whole


def test_progress_tells_loss_error_and_speed(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SHOW_EVERY_S", 0)
    said = []

    @contextlib.contextmanager
    def bar(total, _, unit, start, **__):
        assert (total, unit, start) == (10, "step", 0)
        yield lambda steps, **shown: said.append((steps, shown))

    monkeypatch.setattr(loop.progress, "bar", bar)
    series = few_steps(few_digits, tmp_path)
    assert sum(steps for steps, _ in said) == 10
    last = said[-1][1]
    assert last["epoch"] == "2/2"
    train_loss = recorded(series.folder)["2"]["metrics"]["train_loss"]
    assert last["loss"] == f"{train_loss:.4f}"
    assert 0 <= float(last["error"]) <= 1
    assert last["speed"].endswith("/s")
