"""One experiment on the workers of a cluster: networks are trained at once, to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
import xarray as xr

from layerscope import data, reproduce
from layerscope.cli import main
from layerscope.errors import ClusterError, OptionError, TrainingError
from layerscope.paper import experiments
from layerscope.paper.experiments import _spreading as spreading
from layerscope.zoo import training

distributed = pytest.importorskip("distributed", reason="distributed is an extra")

RECIPE = training.Recipe(epochs=2)
NETS = ["fcn-1x8", "fcn-2x8"]


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist-5k", size=100, test_size=60)


def probe(network, digits, seeds, folder):
    options = {"draws": 1, "device": "cpu", "folder": folder, "record": [1]}
    return experiments.probe(network, digits, RECIPE, seeds, **options)


class Future:
    def __init__(self, function, given):
        given = [each.value if isinstance(each, Future) else each for each in given]
        self.value = function(*given)

    def done(self):
        return True

    def result(self):
        return self.value


class Client:
    """A cluster with one worker, which is this process."""

    status = "running"

    def __init__(self, sees=True):
        self.trained, self._sees = 0, sees

    def submit(self, function, *given, **_):
        self.trained += function is spreading._beside
        return Future(function, given)

    def run(self, function, *given, **_):
        return {"tcp://10.0.0.2:4000": function(*given) and self._sees}

    def scheduler_info(self, **_):
        return {"workers": {"tcp://10.0.0.2:4000": {}}}

    def cancel(self, *_, **__):
        pass


@pytest.fixture
def client(monkeypatch):
    made = Client()
    monkeypatch.setattr(spreading, "cluster", lambda: made)
    return made


def test_a_rehearsal_notes_each_training_once_and_does_none(digits, tmp_path, monkeypatch):
    noted = tmp_path / "noted"
    noted.mkdir()
    monkeypatch.setenv(experiments.REHEARSAL_VARIABLE, str(noted))
    swept = {net: probe(net, digits, range(2), tmp_path / "series") for net in NETS}
    probe(NETS[0], digits, [1], tmp_path / "series")
    kinds = experiments.generalisation(NETS[0], digits, RECIPE, [2], folder=tmp_path / "series")
    experiments.retrain(NETS[0], digits, RECIPE, [0], ["layer1"], folder=tmp_path / "series")
    for each in (*swept.values(), kinds):
        with pytest.raises(RuntimeError, match="the rehearsal is over"):
            _ = each.attrs
    found = experiments.noted(noted)
    # Of the retrainings, one is what was noted before but for the epochs that are recorded.
    assert len(found) == 4 + 1 + 2
    assert len({each.data for each in found}) == 1
    assert not (tmp_path / "series").exists()


def test_a_worker_trains_what_this_process_would(digits, tmp_path, client):
    one = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (here,) = [spreading.Training(NETS[0], digits, RECIPE, 3, "cpu").run(tmp_path / "here")]
        (there,) = experiments.trained(
            NETS[0], digits, RECIPE, [3], device="cpu", folder=tmp_path / "there"
        )
    finally:
        torch.set_num_threads(one)
    assert here.epochs == there.epochs
    assert there.folder == tmp_path / "there" / here.folder.name
    for epoch in here.epochs:
        mine, theirs = (each.read(epoch) for each in (here, there))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not list((tmp_path / "there").glob(".seen*"))
    # What is there is not trained again, and nobody is asked to.
    experiments.trained(NETS[0], digits, RECIPE, [3], device="cpu", folder=tmp_path / "there")
    assert client.trained == 1


def test_workers_that_see_another_folder_are_refused(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(spreading, "cluster", lambda: Client(sees=False))
    said = rf"tcp://10\.0\.0\.2:4000 does not see {tmp_path}, .*--out that all workers see"
    with pytest.raises(ClusterError, match=said):
        experiments.trained(NETS[0], digits, RECIPE, [3], device="cpu", folder=tmp_path)


@pytest.mark.usefixtures("client")
def test_a_training_that_fails_says_so_as_it_does_here(digits, tmp_path, monkeypatch):
    failed = {"error": "TrainingError", "message": "the loss is no longer finite"}
    monkeypatch.setattr(spreading, "_beside", lambda *_: failed)
    with pytest.raises(TrainingError, match="no longer finite"):
        experiments.trained(NETS[0], digits, RECIPE, [3], device="cpu", folder=tmp_path)
    monkeypatch.setattr(spreading, "_beside", lambda *_: {"error": "status -9", "message": "gone"})
    with pytest.raises(ClusterError, match="failed at its worker: status -9: gone"):
        experiments.trained(NETS[0], digits, RECIPE, [3], device="cpu", folder=tmp_path)


def test_workers_inside_this_process_are_refused(monkeypatch):
    from layerscope.core import sweep as engine

    monkeypatch.setattr(engine, "require_client", lambda client: client)
    monkeypatch.setattr(engine, "address_of", lambda _: "inproc://10.0.0.1/1")
    with pytest.raises(OptionError, match="threads of this process"):
        reproduce._spreading.agree(Client(), "cpu", False)


# Processes

BOOK = """
dataset = "mnist-5k"
size = 100
test_size = 60
seeds = 2
epochs = 2
device = "auto"
out = None
"""
SCALES = """
title = "Tiny"
scales = {"smoke": {}}
"""
WORK = """
from layerscope import Recipe, experiments, load_data
digits = load_data(dataset, size=size, test_size=test_size)
runs = {
    network: experiments.probe(network, digits, Recipe(epochs=epochs), range(seeds), device=device)
    for network in ("fcn-1x8", "fcn-2x8")
}
"""
KEEP = """
_ = experiments.keep(out, title="Tiny", datasets=runs)
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment of two networks and two seeds."""
    cell = nbformat.v4.new_code_cell
    marked = [({"tags": ["parameters"]}, BOOK), ({"tags": ["scales"]}, SCALES)]
    cells = [cell(text, metadata=about) for about, text in marked] + [cell(WORK), cell(KEEP)]
    about = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), tmp_path / "tiny.ipynb")
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_an_experiment_has_the_bits_of_one_process(tmp_path, monkeypatch):
    asked = experiments._spreading.spread
    together = []

    def spread(client, trainings, place):
        together.append(len(trainings))
        return asked(client, trainings, place)

    monkeypatch.setattr(experiments, "spread", spread)
    words = ["reproduce", "tiny", "--scale", "smoke", "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "cluster"), "--dask", "local:2"]) == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*words, str(tmp_path / "alone")]) == 0
    assert together == [4], "all networks are trained at once"
    for name in ("fcn-1x8.nc", "fcn-2x8.nc"):
        found = [
            xr.load_dataset(tmp_path / at / "tiny/smoke" / name) for at in ("cluster", "alone")
        ]
        xr.testing.assert_equal(*found)
    series = [tmp_path / at / "series" for at in ("cluster", "alone")]
    folders = [sorted(path.name for path in place.iterdir()) for place in series]
    assert folders[0] == folders[1]
    assert len(folders[0]) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_ctrl_c_keeps_what_is_trained_and_ends_what_trains(tmp_path):
    words = ["tiny", "--scale", "smoke", "--device", "cpu", "--out", str(tmp_path / "runs")]
    more = ["-p", "epochs=100000", "--dask", "local:2"]
    command = [sys.executable, "-m", "layerscope.cli", "reproduce", *words, *more]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 240
    while not list((tmp_path / "runs" / "series").glob("*/*.safetensors")):
        assert time.monotonic() < until
        assert running.poll() is None
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, said = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "Traceback" not in said
    until = time.monotonic() + 30
    while _training_in(str(tmp_path)):
        assert time.monotonic() < until
        time.sleep(0.5)
    assert list((tmp_path / "runs" / "series").glob("*/*.safetensors"))


def _training_in(folder):
    """Processes that train into a folder."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if "child()" in line and folder in line]
