"""Scale paper on ImageNet and LM1B goes from the files to the findings, here with tiny ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from torch import nn

from layerscope import data, experiments, metrics, models, reproduce
from layerscope.base import notebooks
from layerscope.core.sweep import sweep
from layerscope.errors import OptionError
from layerscope.paper.experiments import EXPERIMENTS
from layerscope.zoo import training

# The smallest images that take ImageNet's form of a network.
IMAGES = "imagenet+image_size=64"

# Everything else is as at scale paper.
SMALLER = {
    "resnet-imagenet": {"dataset": IMAGES, "networks": ["resnet18-w0.0625"]},
    "vit": {"dataset": IMAGES, "network": "vit-16x2-p16"},
    "mixer": {"dataset": IMAGES, "network": "mixer-16x2-p16"},
    "transformer-lm": {"network": "transformer-16x2", "vocab": 300, "length": 16},
    "lstm-lm": {"network": "lstm-16x2", "vocab": 300, "length": 16},
}
BRIEF = {"epochs": 1, "seeds": 1, "draws": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with ImageNet and LM1B as they are published, but for their size."""
    folder = tmp_path_factory.mktemp("root")
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        for number in range(count):
            place = folder / "imagenet" / part / f"n0{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(128, size=(80 + number, 90, 3), dtype=np.uint8)
            pixels[..., number % 2] += 127
            Image.fromarray(pixels).save(place / f"{number}.jpg")
    texts = folder / "1-billion-word-language-modeling-benchmark-r13output"
    kind = "monolingual.tokenized.shuffled"
    for part, name, count in (
        ("training", "news.en-00001-of-00100", 60),
        ("heldout", "news.en.heldout-00000-of-00050", 12),
        ("heldout", "news.en.heldout-00001-of-00050", 12),
    ):
        place = texts / f"{part}-{kind}"
        place.mkdir(parents=True, exist_ok=True)
        words = [" ".join(draw.choice(["the", "cat", "sat", "down"], 9)) for _ in range(count)]
        (place / name).write_text("\n".join(words))
    return folder


def _parameters(name):
    declared = notebooks.parameters(EXPERIMENTS[name].notebook)
    return {**declared, **EXPERIMENTS[name].scales["paper"].parameters, **SMALLER[name], **BRIEF}


def _loaded(values, root):
    options = {key: values[key] for key in ("vocab", "length", "lines") if key in values}
    return data.load(
        values["dataset"],
        root,
        size=values.get("size"),
        test_size=values["test_size"],
        **options,
    )


@pytest.mark.parametrize("name", SMALLER)
def test_from_the_files_through_a_training_to_a_cell(name, root, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", "off")
    values = _parameters(name)
    found = _loaded(values, root)
    assert found.name.split("+")[0] == EXPERIMENTS[name].scales["paper"].data
    network = values.get("network") or values["networks"][0]
    recipe = training.Recipe(epochs=values["epochs"], lr=values["lr"], **values["options"])
    ds = experiments.probe(
        network,
        found,
        experiments.fitted(network, recipe),
        range(values["seeds"]),
        draws=values["draws"],
        record=values["record"],
        augment=experiments.augmentation(found, values.get("augment", False)),
        device="cpu",
        folder=tmp_path,
        view="block",
    )
    assert {0, 1} <= set(ds["epoch"].values)
    again = ds["value"].sel(perturbation="reinitialize", draw=0)
    assert bool((again.sel(epoch=1) == ds["baseline"]).all())
    assert bool(np.isfinite(again.sel(epoch=0)).all())
    assert bool(np.isfinite(ds["value"].sel(perturbation="rerandomize", epoch=-1)).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_the_notebook_of_scale_paper_runs_on_such_files(name, root, tmp_path):
    done = reproduce.run(
        name,
        "paper",
        data_root=root,
        out=tmp_path,
        overrides={**SMALLER[name], **BRIEF},
        show_progress=False,
    )
    assert done.manifest["data"]["name"] == _parameters(name)["dataset"]
    assert {found["verdict"] for found in done.manifest["summary"]["findings"]} == {"undecided"}
    (first, *_) = sorted(done.folder.glob("*.nc"))
    assert bool(xr.open_dataset(first, engine="h5netcdf")["baseline"].notnull().all())


def _untrained(found):
    """A network with its first checkpoint, and another state in place of the trained one."""
    start, end = (
        models.build("resnet18-w0.0625", seed=seed, inputs=found.shape, classes=found.classes)
        for seed in (0, 1)
    )
    return end, {0: start.state_dict(), 1: end.state_dict()}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_sweep_over_files_is_that_over_the_same_pictures_in_memory(root, workers):
    found = data.load(IMAGES, root, workers=workers)
    model, series = _untrained(found)
    given = {"checkpoints": series, "view": "block", "metrics": ["error", "loss"], "batch_size": 4}
    given |= {"layers": ["stage0", "s2.1"], "draws": 2, "show_progress": False, "device": "cpu"}
    streamed = sweep(model, found.test, **given)
    held = sweep(model, found.test.in_memory(), **given)
    for name in ("value", "baseline", "standard_error", "difference"):
        xr.testing.assert_equal(streamed[name], held[name])
    plain = metrics.evaluate(model, found.test, ["loss"], batch_size=4, device="cpu")["loss"]
    assert float(streamed["baseline"].sel(metric="loss")) == plain.mean


def test_imagenets_form_has_a_stem_of_seven_and_pools(root):
    found = data.load(IMAGES, root)
    model, _ = _untrained(found)
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert (stem.kernel_size, stem.stride) == ((7, 7), (2, 2))
    assert any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    inputs, _ = next(found.test.batches(2))
    assert inputs.shape == (2, 3, 64, 64)


def test_pictures_in_files_are_cropped_and_images_in_memory_shifted(root, tmp_path):
    found = data.load(IMAGES, root)
    crop = experiments.augmentation(found)
    assert crop == data.RandomResizedCrop()
    assert experiments.augmentation(data.load("gratings")) == data.Augment()
    assert experiments.augmentation(found, False) is None
    recipe = training.Recipe(epochs=1, lr=1e-3, batch_size=5)
    given = {"device": "cpu", "show_progress": False}
    alone = dataclasses.replace(found, train=data.load(IMAGES, root, workers=1).train)
    kinds = {"cropped": (found, crop), "by one thread": (alone, crop), "centre": (found, None)}
    digests = {
        name: training.train(
            "resnet18-w0.0625", part, recipe, augment=change, out=tmp_path / name, **given
        ).digests()
        for name, (part, change) in kinds.items()
    }
    assert digests["cropped"] == digests["by one thread"]
    assert digests["cropped"] != digests["centre"]
    given["out"] = tmp_path
    with pytest.raises(OptionError, match=r"use RandomResizedCrop\(\)"):
        training.train("resnet18-w0.0625", found, recipe, augment=data.Augment(), **given)


def test_only_resnets_deeper_than_50_have_batches_of_64():
    plain = training.Recipe(lr=0.3)
    for network in ("resnet18", "resnet50", "resnet50-nonorm", "vgg19", "vit-768x12-p16"):
        assert experiments.fitted(network, plain) is plain
    for network in ("resnet101", "resnet152-nonorm-w0.5"):
        assert experiments.fitted(network, plain) == dataclasses.replace(plain, batch_size=64)
    few = training.Recipe(batch_size=16)
    assert experiments.fitted("resnet101", few) == few
    wanted = EXPERIMENTS["resnet-imagenet"].scales["paper"].parameters
    assert wanted["augment"] is True
    assert [experiments.fitted(n, plain).batch_size for n in wanted["networks"]] == [
        *(128, 128, 64, 64)
    ]
