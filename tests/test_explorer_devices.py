"""The explorer where there are several devices: one is chosen, and the session moves there."""

from __future__ import annotations

import pytest

from layerscope import results
from layerscope.base import devices
from layerscope.jupyter import LayerExplorer

ABSENT = "cuda:63"


@pytest.fixture
def opened(trained, few_digits, monkeypatch):
    """Explorers on the CPU of a machine that is said to have these devices."""
    made = []

    def on(*names):
        monkeypatch.setattr(devices, "present", lambda: list(names))
        made.append(LayerExplorer(trained, few_digits.test, device="cpu", batch_size=50))
        assert made[-1].wait(60)
        return made[-1]

    yield on
    for explorer in made:
        explorer.close()


def status(explorer):
    return explorer.controls.status.kind, explorer.controls.status.text


def test_a_single_device_is_no_choice(opened):
    explorer = opened("cpu")
    assert (explorer.controls.device.options, explorer.controls.device.disabled) == (("cpu",), True)


def test_choosing_a_device_moves_the_session(opened):
    # Another device, as far as torch tells: it has a number.
    explorer = opened("cpu:0", "cpu")
    assert explorer.controls.device.value == "cpu"
    assert set(explorer.controls.device.options) == {"cpu", "cpu:0"}
    assert not explorer.controls.device.disabled
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(60)
    before, left = explorer.estimate, explorer._backend.session
    explorer.controls.device.value = "cpu:0"
    assert explorer.wait(60)
    assert left.closed
    assert explorer._backend.session is not left
    assert explorer.estimate is not before
    assert explorer.estimate.tallies == before.tallies
    assert explorer.state == {"layer1": ("reinitialize", 0)}
    assert status(explorer)[0] == "info"
    explorer.controls.start.click()
    assert explorer.wait(120)
    assert results.settings(explorer.dataset)["device"] == "cpu"  # one and the same


def test_a_device_that_is_absent_is_told_and_the_session_stays(opened):
    explorer = opened(ABSENT, "cpu")
    explorer.state = {"layer2": "zero"}
    assert explorer.wait(60)
    before = explorer.estimate.tallies
    explorer.controls.device.value = ABSENT
    assert explorer.wait(60)
    kind, text = status(explorer)
    assert kind == "error"
    assert f"device '{ABSENT}' is not present" in text
    # What was asked is answered where the network still is.
    assert explorer.controls.device.value == "cpu"
    assert explorer.estimate.tallies == before
    explorer.state = {}
    assert explorer.wait(60)
    assert status(explorer)[0] == "info"
    assert explorer.estimate.change("error") == 0


def test_a_device_that_fails_only_once_it_is_used_is_told(opened, monkeypatch):
    explorer = opened("cpu:0", "cpu")
    resolve = devices.resolve

    def broken(device="auto"):
        if str(device) == "cpu:0":
            raise RuntimeError("CUDA error: <b>device-side assert triggered</b>")
        return resolve(device)

    monkeypatch.setattr(devices, "resolve", broken)
    explorer.controls.device.value = "cpu:0"
    assert explorer.wait(60)
    assert status(explorer) == (
        "error",
        "RuntimeError: CUDA error: <b>device-side assert triggered</b>",
    )
    assert explorer.controls.device.value == "cpu"
