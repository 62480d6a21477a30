"""What the report shows under "How to compute it again" is run, and gives the same Dataset."""

from __future__ import annotations

import inspect
import json
import shlex

import nbformat
import numpy as np
import pytest
import torch
import xarray as xr
from nbformat import v4
from torch import nn

import layerscope
from layerscope import data, experiments, metrics, perturb, report, reproduce, results
from layerscope.cli import main
from layerscope.core import sweep as engine
from layerscope.core.sweep._call import called
from layerscope.report._again import again
from layerscope.zoo import training

pytestmark = pytest.mark.usefixtures("without_pictures")


def fresh():
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def network(seed):
    torch.manual_seed(seed)
    return fresh()


def halve(site):
    return {name: value / 2 for name, value in site.trained.items()}


def confident(logits, targets):  # noqa: ARG001
    return logits.softmax(-1).amax(-1)


HALVE = perturb.Perturbation("halve", halve)
CONFIDENT = metrics.Metric("confident", "mean of the largest share", confident)
ZERO = perturb.Perturbation("zero", halve)  # not what goes by this name
PAIR = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
OWN = [(PAIR[0][:7], PAIR[1][:7]), (PAIR[0][7:30], PAIR[1][7:30]), (PAIR[0][30:], PAIR[1][30:])]
KINDS = {
    "nothing": {},
    "patterns": {"layers": ["0", "[35]"]},
    "groups": {"layers": {"ends": ["0", "5"], "middle": "3"}},
    "a function of leaves": {"layers": lambda name, _: "first" if name in "01" else None},
    "not whole": {"whole": False, "layers": ["3"]},
    "a view": {"view": "block"},
    "norms": {"norms": {"parameters": "with", "statistics": "kept"}},
    "norms as an object": {"norms": layerscope.layers.Norms("kept", "kept")},
    "epochs": {"epochs": range(2)},
    "epochs of numpy": {"epochs": np.array([0, 2])},
    "decide": {"decide": {"robust": 0.1, "critical": 0.2}, "batch_size": 8},
    "decide by default": {"decide": True, "metrics": ["error"], "batch_size": 8, "seed": 3},
    "tolerance": {"tolerance": 0.3, "batch_size": 4},
    "a rule": {"tolerance": layerscope.core.stopping.Tolerance(0.25, 0.9), "batch_size": 4},
    "dtype": {"dtype": torch.bfloat16},
    "outcomes": {"outcomes": True, "batch_size": 16},
    "joined": {"perturbations": ["zero", "reinitialize + noise(0.5)", "together({'*': 'zero'})"]},
    "objects": {"perturbations": (perturb.noise(0.5), perturb.zero()), "draws": 2},
    "metrics": {"metrics": ["top2_error", "accuracy", metrics.METRICS["loss"]]},
    "a metric's name": {"metrics": "accuracy"},
    "your own": {"perturbations": [HALVE, "zero"], "metrics": ["loss", CONFIDENT]},
    "your own of a known name": {"perturbations": [ZERO, "reinitialize"]},
    "fresh": {"fresh": lambda: fresh()},
    "own batches": {"data": OWN},
    "own batches, another size": {"data": OWN[:1], "batch_size": 3},
    "all at once": {
        "layers": ["0", "3"], "whole": False, "norms": "kept", "epochs": [0, 2], "draws": 2,
        "seed": 5, "batch_size": 9, "metrics": ["error", CONFIDENT], "decide": 0.3,
        "perturbations": ["reinitialize", HALVE, "rerandomize"], "device": torch.device("cpu"),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_call_gives_the_same_dataset(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = {epoch: network(epoch).state_dict() for epoch in (0, 1, 2)}
    given = {"data": PAIR, "out": tmp_path / "first", "device": "cpu", **KINDS[kind]}
    layerscope.sweep(network(7), checkpoints=states, show_progress=False, **given)
    found = results.open_dataset(tmp_path / "first")
    shown = again(found)
    scope = {"network": network(8), "data": given["data"], "checkpoints": states}
    # What the comments ask for.
    scope |= {"halve": HALVE, "zero": ZERO, "confident": CONFIDENT}
    scope |= {"mine": given.get("fresh") or given.get("layers")}
    exec(compile(shown, "again", "exec"), scope)
    # Without a folder an identity has no digests of files, as the call that is written has none.
    alone = {name: each for name, each in given.items() if name != "out" or "outcomes" in given}
    told = layerscope.sweep(network(7), checkpoints=states, show_progress=False, **alone)
    same, about = (results.settings(ds) for ds in (scope["ds"], told))
    xr.testing.assert_equal(scope["ds"], found)
    assert same["identity"] == about["identity"] or about["batch_size"] != given.get("batch_size")
    if given.get("outcomes"):
        kept = (xr.load_dataset(tmp_path / name / "outcomes.nc") for name in ("again", "first"))
        xr.testing.assert_equal(*kept)


def test_what_only_the_user_has_is_said_in_words():
    states = {epoch: network(epoch).state_dict() for epoch in (0, 2)}
    given = KINDS["your own"] | {"fresh": lambda: fresh()}
    shown = again(layerscope.sweep(network(7), PAIR, checkpoints=states, **given))
    assert "perturbations=[halve, 'zero'],  # halve: your own halve, pass the same" in shown
    assert "metrics=['loss', confident],  # confident: your own confident, pass the same" in shown
    assert "fresh=mine,  # mine: your own <lambda>, pass the same" in shown


def test_no_argument_is_left_out():
    """One that is added to `sweep` is recorded and written without further ado."""

    def f(model, data, *, checkpoints, out=None, callback=None, between=None,
          show_progress=True, draws=3, later="no", evenlater=None): ...  # fmt: skip

    names = inspect.signature(f).parameters
    given = called(f, dict.fromkeys(names, "given") | {"model": None})
    assert given == {"draws": "given", "later": "given", "evenlater": "given"}
    ds = xr.Dataset(attrs={"call": json.dumps(given)})
    for name in given:
        assert f"    {name}='given'," in again(ds)
    every = set(inspect.signature(engine.sweep).parameters)
    told = set(called(engine.sweep, dict.fromkeys(every, "given") | {"model": None}))
    left = {"model", "data", "checkpoints", "out", "callback", "between", "show_progress"}
    left |= {"plan", "client"}
    assert every - told == left


def test_names_from_a_file_end_no_line():
    call = {"fresh": {results.YOURS: "x\nimport os"}, "layers": ["a\nb"], "seed": 1}
    about = {"network": {"class": "A\rB"}, "data": {"name": "c\u2028d", "sha256": "e\nf"}}
    about |= {"call": call, "checkpoints": {"0\n": "x"}}
    shown = again(xr.Dataset(attrs={key: json.dumps(value) for key, value in about.items()}))
    assert compile(shown, "again", "exec")
    assert len(shown.splitlines()) == 10


def test_a_sweep_that_did_not_record_its_call_is_written_from_what_it_did():
    states = {epoch: network(epoch).state_dict() for epoch in (0, 1, 2)}
    options = {"device": "cpu", "show_progress": False, "batch_size": 16}
    for given in (
        {"layers": ["3", "5"], "whole": False},
        {"layers": {"ends": ["0", "5"], "middle": "3"}},
        {"norms": "kept", "epochs": [0, 2], "draws": 2},
        {"tolerance": 0.3},
    ):
        found = layerscope.sweep(network(7), PAIR, checkpoints=states, **options, **given)
        del found.attrs["call"]
        scope = {"network": network(8), "data": PAIR, "checkpoints": states}
        exec(compile(again(found), "again", "exec"), scope)
        xr.testing.assert_equal(scope["ds"], found)


def test_a_study_is_computed_again_with_its_options(tmp_path):
    part = data.load("mnist-5k", size=60, test_size=50)
    recipe = training.Recipe(epochs=2, batch_size=20)
    options = {"record": [0, 2], "metrics": ["error"], "whole": False, "draws": 1}
    options |= {"layers": ["layer1"], "batch_size": 17, "perturbations": ["zero", "reinitialize"]}
    options |= {"part": "train", "device": "cpu"}
    found = experiments.probe("fcn-1x4", part, recipe, [3, 4], folder=tmp_path / "a", **options)
    call = again(found).replace("ds = experiments.probe(", f"ds = probe({str(tmp_path / 'b')!r},")

    def probe(folder, *given, **more):
        return experiments.probe(*given, folder=folder, **more)

    scope = {"probe": probe}
    exec(compile(call, "again", "exec"), scope)
    xr.testing.assert_equal(scope["ds"], found)


PROBE = """
from layerscope import Recipe, experiments, load_data, save
part = load_data(dataset, size=60, test_size=50)
ds = experiments.probe(
    f"fcn-1x{width}", part, Recipe(epochs=1, batch_size=20), range(seeds), folder=f"{out}/series",
    record=[0, 1], metrics=metrics, draws=1, device=device,
)
_ = save(ds, f"{out}/probe.nc")
"""


def test_the_command_of_a_report_is_run_and_gives_the_same_dataset(tmp_path, monkeypatch):
    declared = "dataset = 'mnist-5k'\nseeds = 1\nwidth = 4\nmetrics = ['error', 'loss']\n"
    declared += "device = 'auto'\nout = None"
    scales = "title = 'Probe'\nscales = {'smoke': {}}"
    cells = [
        v4.new_code_cell(declared, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(scales, metadata={"tags": ["scales"]}),
        v4.new_code_cell(PROBE),
    ]
    book = v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, tmp_path / "probe.ipynb")
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(tmp_path))
    given = {"width": 3, "metrics": ["accuracy"]}
    options = {"seeds": 2, "overrides": given, "device": "cpu", "show_progress": False}
    done = reproduce.run("probe", "smoke", out=tmp_path / "first", **options)
    (found,) = report.read([done.folder / "probe.nc"]).values()
    words = shlex.split(again(found))
    assert words[0] == "layerscope"
    # Into its own place, since what is finished is not computed again.
    assert main([*words[1:], "--out", str(tmp_path / "second"), "--device", "cpu"]) == 0
    same = tmp_path / "second" / done.folder.relative_to(tmp_path / "first") / "probe.nc"
    (same,) = report.read([same]).values()
    xr.testing.assert_equal(same, found)
    assert same.attrs["command"] == found.attrs["command"]
    assert dict(found.sizes)["seed"] == 2


# In how many examples batches came


@pytest.mark.parametrize(
    ("lengths", "size", "said"),
    [
        ([40], 1000, 1000),
        ([16, 16, 8], 16, 16),
        ([16, 16, 8], 1000, 16),
        ([7, 23, 10], 1000, "7 to 23, as given"),
        ([10, 30], 20, "10 to 30, as given"),
        ([40], 16, 40),
    ],
)
def test_the_batch_size_is_that_of_the_users_own_batches(lengths, size, said):
    ends = np.cumsum(lengths)
    cut = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    own = [(PAIR[0][where], PAIR[1][where]) for where in cut]
    states = {epoch: network(epoch).state_dict() for epoch in (0, 2)}
    options = {"layers": ["3"], "whole": False, "batch_size": size, "device": "cpu"}
    ds = layerscope.sweep(network(7), own, checkpoints=states, **options)
    assert ds.attrs["batch_size"] == said
    if isinstance(said, int):
        options["batch_size"] = said
        pair = layerscope.sweep(network(7), PAIR, checkpoints=states, **options)
        xr.testing.assert_equal(pair, ds)
