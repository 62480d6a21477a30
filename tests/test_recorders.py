"""Other people's loops leave a series, from the initialisation on, and are not disturbed by it."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from layerscope import checkpoints
from layerscope.errors import OptionError
from layerscope.zoo.recorders import CheckpointRecorder


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


DATA = [(torch.randn(4, generator=torch.Generator().manual_seed(i)), i % 3) for i in range(12)]


# The plain loop


def test_the_start_is_recorded_at_once_and_the_rest_as_wanted(tmp_path):
    model, states = net(), {}
    states[0] = copy.deepcopy(model.state_dict())
    recorder = CheckpointRecorder(tmp_path / "run", model, epochs=(1, 3))
    assert recorder.series().epochs == (0,)
    for epoch in (1, 2, 3):
        change(model)
        states[epoch] = copy.deepcopy(model.state_dict())
        assert recorder.step(epoch, error=1 / epoch) == (epoch != 2)
    series = checkpoints.open_series(tmp_path / "run").fit(net(1))
    assert series.epochs == (0, 1, 3)
    assert all(same(series.read(epoch), states[epoch]) for epoch in series.epochs)
    assert series.manifest["epochs"]["3"]["metrics"] == {"error": 1 / 3}
    series.digests()


def test_two_runs_are_not_mixed_but_one_goes_on(tmp_path):
    model = net()
    CheckpointRecorder(tmp_path, model).step(1)
    change(model)
    with pytest.raises(OptionError, match=r"holds a series already.*resume=True"):
        CheckpointRecorder(tmp_path, model)
    recorder = CheckpointRecorder(tmp_path, model, resume=True)
    recorder.step(2)
    series = recorder.series()
    assert series.epochs == (0, 1, 2)
    assert same(series.read(0), net().state_dict())  # not the network as it is now
    fresh = CheckpointRecorder(tmp_path / "new", model, unit="step", resume=True)
    assert (fresh.series().epochs, fresh.series().unit) == ((0,), "step")


@pytest.mark.parametrize("epoch", [0, -1])
def test_epochs_are_counted_when_they_are_finished(tmp_path, epoch):
    recorder = CheckpointRecorder(tmp_path, net())
    with pytest.raises(OptionError, match=f"epoch is {epoch}; count those that are finished"):
        recorder.step(epoch)


def test_a_unit_that_is_not_known_leaves_nothing_behind(tmp_path):
    with pytest.raises(OptionError, match=r"no unit 'steps'\. Did you mean 'step'"):
        CheckpointRecorder(tmp_path / "run", net(), unit="steps")
    assert not (tmp_path / "run").exists()


class Tied(nn.Module):
    """Two names for one tensor, a view of another, and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.register_buffer("first", self.head.bias.detach()[:2])

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        del state


def test_tied_weights_and_views_are_recorded_under_every_name(tmp_path):
    model = Tied()
    series = CheckpointRecorder(tmp_path, model).series().fit(Tied())
    for name in ("embed.weight", "head.weight", "head.bias", "first"):
        assert torch.equal(series.read(0)[name], model.state_dict()[name])


def test_importing_layerscope_imports_no_library_of_others(repository):
    code = (
        "import sys; from layerscope.core import checkpoints; from layerscope.zoo import recorders;"
        "from layerscope.zoo import training;"
        "print(*{'lightning', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# Lightning


def fit(folder, out, model, epochs, resume=None):
    lightning = pytest.importorskip("lightning.pytorch")
    from layerscope.zoo.recorders.lightning import LightningRecorder

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch):
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on workers and loggers
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LightningRecorder(folder)],
        )
        loader = torch.utils.data.DataLoader(DATA, batch_size=4)
        trainer.fit(Task(), loader, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(out)


@pytest.fixture
def quiet():
    """Lightning and transformers say on the way what machine they run on."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_lightning_leaves_a_series_that_fits_the_network(tmp_path):
    model = net()
    fit(tmp_path / "run", tmp_path / "epoch=0-step=3.ckpt", model, 1)
    fit(tmp_path / "run", tmp_path / "step=6.ckpt", model, 2, tmp_path / "epoch=0-step=3.ckpt")
    series = checkpoints.open_series(tmp_path / "run").fit(net(1))
    assert series.epochs == (0, 1, 2)
    assert same(series.read(0), net().state_dict())
    assert same(series.read(2), model.state_dict())
    assert series.manifest["epochs"]["1"]["metrics"]["loss"] > 0


@pytest.mark.usefixtures("quiet")
def test_lightnings_own_checkpoints_are_a_series_by_step(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    model = net()
    fit(tmp_path / "run", own / "epoch=0-step=3.ckpt", model, 1)
    series = checkpoints.open_series(own).fit(net(1))
    assert (series.unit, series.epochs) == ("step", (3,))
    assert same(series.read(3), model.state_dict())


# transformers


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, inputs, labels):
        logits = self.body(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def run_trainer(out, callback, model):
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=str(out),
                num_train_epochs=2,
                per_device_train_batch_size=4,
                use_cpu=True,
                disable_tqdm=True,
                report_to=[],
                save_strategy="epoch",
                logging_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=[{"inputs": x, "labels": y} for x, y in DATA],
            callbacks=[callback],
        )
        with torch.random.fork_rng():
            trainer.train()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("options", "unit", "found"),
    [({}, "epoch", (0, 1, 2)), ({"steps": [1, 6]}, "step", (0, 1, 6))],
)
def test_transformers_leaves_a_series(tmp_path, options, unit, found):
    pytest.importorskip("transformers")
    from layerscope.zoo.recorders.huggingface import TrainerRecorder

    model = Classifier()
    run_trainer(tmp_path / "own", TrainerRecorder(tmp_path / "run", **options), model)
    series = checkpoints.open_series(tmp_path / "run").fit(Classifier())
    assert (series.unit, series.epochs) == (unit, found)
    assert same(series.read(0), Classifier().state_dict())
    assert same(series.read(found[-1]), model.state_dict())
    # The trainer's own folders, checkpoint-3 and checkpoint-6, are a series too.
    own = checkpoints.open_series(tmp_path / "own").fit(Classifier())
    assert (own.unit, own.epochs) == ("step", (3, 6))
    assert same(own.read(6), model.state_dict())
