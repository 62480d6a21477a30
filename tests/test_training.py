"""Training is repeatable to the last bit, also when it was stopped in the middle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from layerscope import metrics, models, training
from layerscope.checkpoints import open_series
from layerscope.errors import OptionError, TrainingError
from layerscope.training import Recipe

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
    from layerscope import seeds

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
    from layerscope import data, training

    torch.set_num_threads(1)
    training._SAVE_EVERY_S = 0
    place, when = sys.argv[2], int(sys.argv[3])
    whole = getattr(training._Loop, place)
    calls = 0

    def fatal(self, *args):
        global calls
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *args)

    setattr(training._Loop, place, fatal)
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


# Before an epoch, and between writing a checkpoint and saving where training stands.
@pytest.mark.parametrize(
    ("place", "when", "found"), [("_epoch", 4, ["0", "2"]), ("_save", 4, ["0", "2", "4"])]
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
    monkeypatch.setattr(training, "_SAVE_EVERY_S", every)
    whole, ran = training._Loop._epoch, []

    def stopping(self, epoch):
        if epoch == stop:
            raise KeyboardInterrupt
        return whole(self, epoch)

    monkeypatch.setattr(training._Loop, "_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        six_epochs(few_digits, tmp_path)

    def counting(self, epoch):
        ran.append(epoch)
        return whole(self, epoch)

    monkeypatch.setattr(training._Loop, "_epoch", counting)
    resumed = six_epochs(few_digits, tmp_path)
    assert ran == rest
    assert hashes(resumed.folder) == hashes(undisturbed.folder)
    assert recorded(resumed.folder) == recorded(undisturbed.folder)
    assert resumed.manifest["seconds"] > 0


def test_divergence_says_what_to_try_and_keeps_what_was_recorded(train_few, tmp_path):
    with pytest.raises(TrainingError, match=r"in epoch 1 at learning rate 1e\+06.*lr=200000"):
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
    ],
)
def test_a_recipe_that_can_not_work_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Recipe(**options)
