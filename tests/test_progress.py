"""Progress is relayed where nobody looks on, and never stands in the way."""

from __future__ import annotations

import time

import pytest

from layerscope.base import progress


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.delenv(progress.RELAY, raising=False)
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "_DELAY_S", 0.0)


def test_a_relay_file_holds_the_last_line(tmp_path, monkeypatch, capfd):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.RELAY, str(path))
    assert progress.read_relay(path) == ""
    with progress.bar(10, "train fcn", "epoch", start=4) as advance:
        advance(2, loss="0.5")
        assert progress.read_relay(path).startswith("train fcn: 6/10 epochs, ")
        assert progress.read_relay(path).endswith(" s left, loss 0.5")
        advance(4)
    assert progress.read_relay(path) == "train fcn: 10/10 epochs, 0 s left"
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]
    assert capfd.readouterr() == ("", "")


def test_the_estimate_counts_only_what_was_done_here(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.RELAY, str(path))
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.bar(100, "x", "step", start=90) as advance:
        now[0] += 8
        advance(4)  # 2 s a step; 6 are left
    assert progress.read_relay(path) == "x: 94/100 steps, 12 s left"


def test_a_relay_is_written_a_few_times_a_second(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.RELAY, str(path))
    monkeypatch.setattr(progress, "_EVERY_S", 0.25)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.bar(100, "x", "step") as advance:
        seen = set()
        for _ in range(10):
            now[0] += 0.0625
            advance()
            seen.add(progress.read_relay(path))
    assert len(seen) == 3


def test_a_relay_that_is_gone_does_not_stop_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.RELAY, str(tmp_path / "gone" / "progress.json"))
    with progress.bar(2, "x", "step") as advance:
        advance()
    (tmp_path / "noise").write_text("{")
    assert progress.read_relay(tmp_path / "noise") == ""


@pytest.mark.parametrize("how", ["off", "argument"])
def test_it_can_be_switched_off(monkeypatch, capfd, how):
    if how == "off":
        monkeypatch.setenv(progress.RELAY, "off")
    with progress.bar(2, "x", "step", show=how == "off") as advance:
        advance(2, loss="1")
    assert capfd.readouterr() == ("", "")


def test_a_bar_counts_from_where_it_starts(capfd):
    with progress.bar(10, "train", "epoch", start=7) as advance:
        time.sleep(0.15)  # tqdm draws every tenth of a second
        advance(3, loss="0.25")
    shown = capfd.readouterr().err
    assert "train" in shown
    assert "7/10" in shown
    assert "10/10" in shown
