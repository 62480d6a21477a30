"""Several processes with the same training: one series, whole, whatever becomes of one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from layerscope import checkpoints
from layerscope.core.checkpoints import MANIFEST, open_series
from layerscope.errors import ResultError
from layerscope.zoo.training import _lock as lock

EPOCHS = 12
EACH = [str(epoch) for epoch in range(1, EPOCHS + 1)]

# Forked, so that what takes longest, importing torch, is done once.
ROUNDS = """
    import json, os, signal, sys, time, warnings
    import torch
    from layerscope import data
    from layerscope.zoo import training
    from layerscope.zoo.training import _loop as loop

    torch.set_num_threads(1)
    few = data.load("mnist-5k")
    part = lambda e: data.Examples(e.inputs[::16], e.targets[::16], e.mean, e.std)
    few = data.ImageData(few.name, part(few.train), part(few.test), few.classes, few.origin)
    epoch = loop.Loop._epoch

    loop._SAVE_EVERY_S = 0  # where it stands is kept all the time, for the others to go on from

    restore = loop.state.restore

    def slowly(*given):
        time.sleep(0.3)  # as a large network takes, and its epochs
        return restore(*given)

    loop.state.restore = slowly

    def begun(out):
        return len(open(out + ".log").read().split()) if os.path.exists(out + ".log") else 0

    def child(number, out, killed, epochs, tell):
        # Each begins while the one before is at it.
        until = time.monotonic() + 60
        while begun(out) < 2 * number and time.monotonic() < until:
            time.sleep(0.001)

        def logged(self, number):
            if number == killed and not os.path.exists(out + ".killed"):
                open(out + ".killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            with open(out + ".log", "a") as log:
                log.write(f"{number} ")
            time.sleep(0.1)
            epoch(self, number)

        loop.Loop._epoch = logged
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            series = training.train(
                "fcn-1x8", few, training.Recipe(epochs=epochs, batch_size=100), out=out,
                record=range(epochs + 1), device="cpu", show_progress=False,
            )
        found = [len(series.epochs), [str(w.message) for w in said]]
        os.write(tell, (json.dumps(found) + "\\n").encode())

    def together(out, count, killed, epochs):
        told, tell = os.pipe()
        children = []
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    child(number, out, killed, epochs, tell)
                finally:
                    os._exit(0)
            children.append(pid)
        os.close(tell)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        with os.fdopen(told) as lines:
            return ends, [json.loads(line) for line in lines]

    print(json.dumps([together(*each) for each in json.loads(sys.argv[1])]))
"""


def rounds_of(rounds):
    """Train one series in several processes at once, again and again.

    Of each round a tuple: the folder, how many processes, and in which epoch the first to get there
    is killed.
    """
    given = [[str(out), count, killed, EPOCHS] for out, count, killed in rounds]
    command = [sys.executable, "-c", textwrap.dedent(ROUNDS), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("rounds", [2, pytest.param(17, marks=pytest.mark.slow)])
def test_processes_that_train_one_series_at_once_make_it_whole(tmp_path, rounds):
    """Also where the one that all others wait for is killed."""
    plan = [(tmp_path / "alone", 1, 0), (tmp_path / "killed", 3, 8)]
    plan += [(tmp_path / str(number), 3, 0) for number in range(rounds)]
    digests = []
    for (out, count, killed), (ends, said) in zip(plan, rounds_of(plan), strict=True):
        assert sorted(ends) == [-9] * (killed > 0) + [0] * (count - (killed > 0))
        assert [epochs for epochs, _ in said] == [EPOCHS + 1] * ends.count(0)
        (folder,) = out.iterdir()
        series = open_series(folder)
        assert series.manifest["finished"] is True
        assert series.epochs == tuple(range(EPOCHS + 1))
        digests.append(series.digests())
        # While one trained, the others waited, and said so.
        if not killed:
            assert (tmp_path / f"{out.name}.log").read_text().split() == EACH
        assert all(
            "another process trains this series in" in words[0] for _, words in said if words
        )
        assert sum(bool(words) for _, words in said) <= count - 1
    assert all(each == digests[0] for each in digests)


def test_a_series_that_is_finished_with_epochs_missing_is_made_whole(train_few, tmp_path):
    """As two trainings at once left it, before one waited for the other."""
    series = train_few(tmp_path, network="fcn-1x4", epochs=3)
    path = series.folder / MANIFEST
    manifest = json.loads(path.read_text())
    before = series.digests()
    del manifest["epochs"]["1"]
    path.write_text(json.dumps(manifest))
    assert open_series(series.folder).epochs == (0, 2, 3)
    again = train_few(tmp_path, network="fcn-1x4", epochs=3)
    assert again.epochs == (0, 1, 2, 3)
    assert again.digests() == before


def test_writers_of_one_folder_keep_what_the_other_recorded(tmp_path):
    one, other = (checkpoints.SeriesWriter(tmp_path, {"unit": "step"}) for _ in range(2))
    one.record(0, {"w": torch.zeros(2)}, {"test_error": 0.5})
    other.record(1, {"w": torch.ones(2)}, {})
    one.record(2, {"w": torch.ones(2)}, {})
    series = open_series(tmp_path)
    assert series.epochs == (0, 1, 2)
    assert series.manifest["epochs"]["0"]["metrics"] == {"test_error": 0.5}


def test_a_folder_that_cant_be_locked_is_said_to_be_so(train_few, tmp_path, monkeypatch):
    def without(*_args, **_kwargs):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.FileLock, "acquire", without)
    with pytest.raises(ResultError, match=r"can't write .*\.lock: Function not implemented"):
        train_few(tmp_path, network="fcn-1x4", epochs=1)
    assert not list(tmp_path.glob("*/*.safetensors"))
