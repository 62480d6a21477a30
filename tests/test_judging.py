"""Finished runs are judged again from what they left, and nothing is trained for it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import nbformat
import pandas as pd
import pytest
import xarray as xr

import layerscope
from layerscope import Recipe, experiments, models, reproduce, results
from layerscope.cli import main
from layerscope.errors import ResultError
from layerscope.paper import rules
from layerscope.paper.experiments import _saved

RECIPE = Recipe(epochs=1, lr=0.1)


@pytest.fixture(scope="module")
def left(tmp_path_factory, few_digits):
    """What a run of two networks and two views left."""
    place = tmp_path_factory.mktemp("judging")
    given = {"draws": 1, "record": [0, 1], "device": "cpu", "folder": place / "series"}
    runs = {
        "small": experiments.probe("fcn-1x8", few_digits, RECIPE, range(2), **given),
        "wide": experiments.probe("fcn-1x16", few_digits, RECIPE, range(2), **given),
        "start": experiments.probe("fcn-1x8", few_digits, RECIPE, range(2), epochs=[0], **given),
    }
    table = pd.DataFrame({"network": ["a", "b"], "random labels": [0.0, 0.5], "gap": [0.1, 1 / 3]})
    experiments.keep(place / "run", title="t", datasets=runs, tables={"generalisation": table})
    return place / "run", runs


@pytest.fixture
def again(left, monkeypatch):
    monkeypatch.setenv(experiments.SAVED_VARIABLE, str(left[0]))
    monkeypatch.setattr(_saved, "_datasets", _saved._datasets.__wrapped__)
    return left[1]


def ask(data, network="fcn-1x8", recipe=RECIPE, seeds=range(2), **sweep):
    return experiments.probe(network, data, recipe, seeds, draws=1, device="cpu", **sweep)


def test_each_sweep_is_found_by_what_its_dataset_says_of_itself(again, few_digits):
    for name, options in (
        ("small", {}), ("wide", {"network": "fcn-1x16"}), ("start", {"epochs": [0]}),
    ):  # fmt: skip
        found = ask(few_digits, **{"epochs": [0, 1], **options})
        xr.testing.assert_identical(found["value"], again[name]["value"])
        assert results.settings(found)["runs"] == results.settings(again[name])["runs"]


@pytest.mark.parametrize("other", [
    {"network": "fcn-1x32"}, {"recipe": dataclasses.replace(RECIPE, lr=0.2)}, {"seeds": range(3)},
    {"seeds": [1, 0]}, {"view": "block"}, {"epochs": [1]}, {"whole": False},
    {"layers": ["layer1"]}, {"perturbations": ["zero"]}, {"epochs": [0, 1], "kept_as": "wide"},
])  # fmt: skip
@pytest.mark.usefixtures("again")
def test_what_does_not_fit_is_refused(other, few_digits):
    with pytest.raises(ResultError, match=r"no Dataset fits .* run the experiment again"):
        ask(few_digits, **{"epochs": [0, 1], **other})


@pytest.mark.usefixtures("again")
def test_other_examples_and_several_that_fit_are_refused(few_digits):
    with pytest.raises(ResultError, match="no Dataset fits"):
        experiments.probe(
            "fcn-1x8", few_digits.with_random_labels(0.5), RECIPE, range(2), draws=1, epochs=[0]
        )
    with pytest.raises(ResultError, match="several Datasets that differ fit"):
        ask(few_digits)
    assert ask(few_digits, kept_as="start").sizes["epoch"] == 2  # 0, and none at fresh values


@pytest.mark.usefixtures("again")
def test_tables_come_back_to_the_bit(few_digits):
    found = experiments.generalisation("b", few_digits, RECIPE, [0], random_labels=0.5)
    assert found.to_dict("list") == {"gap": [1 / 3]}
    with pytest.raises(ResultError, match="has no rows"):
        experiments.generalisation("c", few_digits, RECIPE, [0], random_labels=0.5)


def test_a_network_that_holds_its_weights_is_found_by_them_alone(tmp_path, few_digits, monkeypatch):
    def ask(network, perturbations=("zero", "noise(0.1)"), **options):
        return experiments.sweep_network(
            network, few_digits, name="a", folder=tmp_path / "series", draws=1, whole=False,
            perturbations=list(perturbations), metrics=["error"], device="cpu", **options,
        )  # fmt: skip

    def halved(model, data, **options):
        return layerscope.sweep(model, data, **{**options, "perturbations": ["noise(0.5)"]})

    net, other = (models.build("fcn-1x8", seed=seed) for seed in (0, 1))
    both = {"all": ask(net), "single": ask(net, by=halved)}
    assert list(both["single"]["perturbation"].values) == ["noise(0.5)"]
    experiments.keep(tmp_path / "run", title="t", datasets=both)
    monkeypatch.setenv(experiments.SAVED_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setattr(_saved, "_datasets", _saved._datasets.__wrapped__)
    xr.testing.assert_identical(ask(net)["value"], both["all"]["value"])
    found = ask(net, by=halved, kept_as="single")
    xr.testing.assert_identical(found["value"], both["single"]["value"])
    for given in ((other,), (net, ["zero"]), (net, ["zero", "noise(0.2)"])):
        with pytest.raises(ResultError, match="no Dataset fits"):
            ask(*given)
    with pytest.raises(ResultError, match="several Datasets that differ fit"):
        ask(net, by=halved)


@pytest.mark.usefixtures("again")
def test_weights_that_a_run_did_not_keep_are_said_to_be_missing(few_digits):
    runs = experiments.trained("fcn-1x8", few_digits, RECIPE, [1], record=[0, 1], device="cpu")
    assert "are not kept" in experiments.audit(runs)
    with pytest.raises(ResultError, match=r"seed 1 are not among .* run the experiment again"):
        models.rebuild(runs[0])
    with pytest.raises(ResultError, match="from which training it came, they do not say"):
        experiments.trained(models.build("fcn-1x8"), few_digits, RECIPE, [1])


def test_series_that_are_there_are_looked_through(left, few_digits, monkeypatch):
    monkeypatch.delenv(experiments.SAVED_VARIABLE, raising=False)
    runs = experiments.trained(
        "fcn-1x8", few_digits, RECIPE, range(2), record=[0, 1], device="cpu",
        folder=left[0].parent / "series",
    )  # fmt: skip
    assert len(experiments.audit(runs).splitlines()) >= 2


def digests(folder, suffix):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob(f"*{suffix}")
    }


@pytest.mark.slow
def test_a_run_is_judged_again_without_its_series(tmp_path, capsys):
    done = reproduce.run("fcn-mnist", "smoke", out=tmp_path / "runs", show_progress=False)
    (tmp_path / "runs" / "series").rename(tmp_path / "away")
    before, kept = done.manifest, digests(done.folder, ".nc")
    damaged = json.loads((done.folder / "manifest.json").read_text())
    damaged["summary"]["findings"] = []
    damaged["summary"]["claims"] = []
    (done.folder / "manifest.json").write_text(json.dumps(damaged))
    assert main(["judge", str(tmp_path / "runs")]) == 0
    assert "judged in" in capsys.readouterr().out
    after = json.loads((done.folder / "manifest.json").read_text())
    assert digests(done.folder, ".nc") == kept
    assert after["summary"] == before["summary"]
    assert after["judged"]["rules"] == rules.digest()
    assert after["judged"]["at"] >= before["judged"]["at"]
    for fact in ("started", "training_seconds", "machine", "parameters", "data", "command"):
        assert after[fact] == before[fact]
    assert not (tmp_path / "runs" / "series").exists(), "nothing was trained"
    assert reproduce.run("fcn-mnist", "smoke", out=tmp_path / "runs", show_progress=False).reused
    book = nbformat.read(done.folder / "01_fcn_mnist.ipynb", 4)
    assert not [cell for cell in book.cells if "scales" in cell.metadata.get("tags", ())]
    folded = [c for c in book.cells if c.metadata.get("jupyter", {}).get("source_hidden")]
    assert "agrees?" in str(folded[-1].outputs)
    assert folded[-1] is book.cells[-1], "the conclusion comes last"


def test_what_is_no_run_or_was_changed_is_not_judged(tmp_path):
    with pytest.raises(ResultError, match="there is no finished run"):
        reproduce.find_runs(tmp_path)
    folder = tmp_path / "fcn-mnist" / "small"
    folder.mkdir(parents=True)
    (folder / "a.nc").write_bytes(b"changed")
    manifest = {"experiment": "fcn-mnist", "parameters": {}, "seconds": 1.0}
    manifest["files"] = {"a.nc": {"sha256": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert reproduce.find_runs(tmp_path) == reproduce.find_runs(folder) == [folder]
    with pytest.raises(ResultError, match="were changed since the run"):
        reproduce.judge(folder)
    assert (folder / "a.nc").read_bytes() == b"changed"
