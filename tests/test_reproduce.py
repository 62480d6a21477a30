"""Batch runs: strict about parameters, complete or not at all, never repeated."""

from __future__ import annotations

import hashlib
import json
import re
import shlex

import nbformat
import pytest
import xarray as xr

import layerscope
from layerscope import data, reproduce, results, testing
from layerscope.base import notebooks
from layerscope.cli import main
from layerscope.cli._options import assignments
from layerscope.errors import DataError, OptionError, ResultError
from layerscope.paper.experiments import EXPERIMENTS
from layerscope.paper.reproduce import _about, _folder

BOOK = """
dataset = "mnist-5k"
size = None
test_size = 300
seeds = 1
rate = 0.5
names = ["a"]
label = "x"
flag = False
free = None
device = "auto"
out = None
"""
SCALES = """
title = "Tiny"
scales = {"smoke": {"rate": 0.1}}
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment whose notebook writes its parameters into a file, or fails."""
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(BOOK, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(SCALES, metadata={"tags": ["scales"]}),
            nbformat.v4.new_code_cell(
                "import json, os\n"
                "assert label != 'fail', 'as it should'\n"
                "print(os.environ['LAYERSCOPE_STILL'])\n"
                "open(f'{out}/found.json', 'w').write(json.dumps([seeds, rate, names, label]))\n"
                "from layerscope import analyses, experiments\n"
                "found = analyses.finding('yes', 'no', [1.0, 1.0, 1.1], below=0)\n"
                "_ = experiments.keep(out, title='it works', findings=[found])"
            ),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    path = tmp_path / "tiny.ipynb"
    nbformat.write(book, path)
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(tmp_path))
    return path


def run(tmp_path, **given):
    return reproduce.run("tiny", "smoke", out=tmp_path / "runs", show_progress=False, **given)


@pytest.mark.usefixtures("tiny")
def test_the_manifest_names_the_very_data_that_were_used(tmp_path):
    about = run(tmp_path, overrides={"size": 100}).manifest["data"]
    part = data.load("mnist-5k", size=100, test_size=300)
    assert about == {
        "name": "mnist-5k",
        "train": part.train.fingerprint,
        "test": part.test.fingerprint,
    }
    assert run(tmp_path).manifest["data"]["train"] != about["train"]
    whole = run(tmp_path, overrides={"test_size": None}).manifest["data"]
    assert whole["test"] == data.load("mnist-5k").test.fingerprint


@pytest.mark.usefixtures("tiny")
def test_what_is_the_scales_own_or_the_notebooks_makes_no_other_run(tmp_path):
    done = run(tmp_path, seeds=1, overrides={"rate": 0.1, "names": ["a"], "size": None})
    assert done.folder.name == "smoke"
    assert done.manifest["command"] == "layerscope reproduce tiny --scale smoke"
    assert run(tmp_path).reused


@pytest.mark.usefixtures("tiny")
def test_a_run_is_kept_with_its_manifest_and_not_repeated(tmp_path, capsys):
    done = run(tmp_path, seeds=2, overrides={"names": ["b", "c"], "rate": 1})
    assert done.folder == tmp_path / "runs" / "tiny" / "smoke+names=b,c+rate=1+seeds=2"
    assert json.loads((done.folder / "found.json").read_text()) == [2, 1, ["b", "c"], "x"]
    about = json.loads((done.folder / "manifest.json").read_text())
    assert about == done.manifest
    assert about["parameters"]["seeds"] == 2
    assert list(about["files"]) == ["tiny.ipynb", "found.json"]
    told = about["summary"]
    assert told["finding"] == "it works. Disagrees: yes."
    assert [(claim["paper"], claim["agrees"]) for claim in told["claims"]] == [("yes", False)]
    for name, entry in about["files"].items():
        assert hashlib.sha256((done.folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert not list(done.folder.parent.glob(".*")), "no draft is left"
    assert str(tmp_path) not in (done.folder / "tiny.ipynb").read_text()

    again = run(tmp_path, seeds=2, overrides={"names": ["b", "c"], "rate": 1})
    assert (again.reused, again.manifest) == (True, about)
    given = ["--seeds", "2", "-p", 'names=["b","c"]', "-p", "rate=1"]
    command = ["reproduce", "tiny", "--scale", "smoke", "--out", str(tmp_path / "runs"), *given]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing to do" in printed
    assert told["finding"] in printed
    assert re.search(r"agrees\?.*the paper says.*we measured.* no .*yes", printed)
    (done.folder / "found.json").write_text("altered")
    assert not run(tmp_path, seeds=2, overrides={"names": ["b", "c"], "rate": 1}).reused


def test_every_committed_run_is_of_the_notebook_that_is_there(repository):
    found = sorted((repository / "papermill_runs").glob("*/*/manifest.json"))
    assert len(found) >= 19
    for path in found:
        about = json.loads(path.read_text("utf-8"))
        experiment = EXPERIMENTS[about["experiment"]]
        identity = {
            "scale": about["scale"],
            "parameters": _usual(experiment, about["scale"]) | _changed(about["command"]),
            "notebook_sha256": notebooks.digest(experiment.notebook),
            "layerscope": layerscope.__version__,
        }
        assert _folder.finished(path.parent, identity, experiment.same_as), path.parent


def _usual(experiment, scale):
    declared = notebooks.parameters(experiment.notebook)
    return declared | dict(experiment.scales[scale].parameters)


def _changed(command):
    words = [word for word in shlex.split(command)[5:] if word != "-p"]
    if "--seeds" in words:
        at = words.index("--seeds")
        words[at : at + 2] = [f"seeds={words[at + 1]}"]
    return assignments(words, "-p")


@pytest.mark.parametrize(
    ("declare", "count"),
    [
        pytest.param('{"smoke": {"rate": 0.1}, "paper": {}}', 1, marks=pytest.mark.slow),
        ('{"smoke": {"rate": 0.1}}\nsame_as = []\nminutes = {"smoke": 1}', 1),
        ('{"smoke": {"rate": 0.2}}', 2),
    ],
)
def test_a_scale_is_run_again_only_where_its_own_parameters_change(
    tiny, tmp_path, monkeypatch, declare, count
):
    ran = []
    execute = reproduce.execute
    monkeypatch.setattr(reproduce, "execute", lambda *all_: (ran.append(1), execute(*all_)))
    run(tmp_path)
    _put(tiny, 1, f'title = "Tiny"\nscales = {declare}')
    run(tmp_path)
    assert len(ran) == count


def test_a_notebook_that_computes_the_same_says_so(tiny, tmp_path):
    before = run(tmp_path).manifest["notebook_sha256"]
    renamed = nbformat.read(tiny, 4).cells[2].source.replace("found", "result")
    _put(tiny, 2, renamed)
    _put(tiny, 1, f"{SCALES}same_as = [{before[:12]!r}]")
    assert run(tmp_path).reused
    _put(tiny, 1, SCALES)
    assert not run(tmp_path).reused


def _put(path, at, source):
    book = nbformat.read(path, 4)
    book.cells[at].source = source
    nbformat.write(book, path)


@pytest.mark.usefixtures("tiny")
def test_a_failing_cell_is_named_and_leaves_the_old_run_alone(tmp_path):
    with pytest.raises(reproduce.NotebookError, match=r"cell 4 of tiny.ipynb.*as it should"):
        run(tmp_path, overrides={"label": "fail"})
    left = [path.name for path in (tmp_path / "runs" / "tiny").iterdir()]
    assert left == ["smoke+label=fail.failed.ipynb"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"overrides": {"sedes": 1}},
            r"no parameter .* called 'sedes'.*Did you mean 'seeds'",
        ),
        ({"overrides": {"seeds": "2"}}, r"seeds is '2', of type str; expected int, such as 1"),
        ({"overrides": {"rate": True}}, r"rate is True, of type bool; expected float"),
        ({"overrides": {"out": "elsewhere"}}, r"no parameter of tiny.ipynb called 'out'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"overrides": {"dataset": "minst"}}, "no data set 'minst'.*Did you mean 'mnist'"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, given, message):
    with pytest.raises(OptionError, match=message):
        run(tmp_path, **given)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("tiny")
def test_wrong_names_and_places_are_refused(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match=r"no experiment 'tinny'.*Did you mean 'tiny'"):
        reproduce.run("tinny", "smoke")
    with pytest.raises(OptionError, match=r"no scale 'smoek'.*Did you mean 'smoke'"):
        reproduce.run("tiny", "smoek")
    monkeypatch.delenv("LAYERSCOPE_DATA", raising=False)
    with pytest.raises(DataError, match=r"mnist needs a data root.*--data-root"):
        run(tmp_path, overrides={"dataset": "mnist"})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="can't write"):
        reproduce.run("tiny", "smoke", out=tmp_path / "file" / "runs")


def test_a_training_that_was_swept_twice_is_counted_once(tmp_path):
    ds = testing.dataset(layers=2)
    for name, seeds in (("blocks", (0, 1)), ("components", (0, 1)), ("single", (2,))):
        runs = [{"training": {"seed": seed, "seconds": 60.0}} for seed in seeds]
        ds.attrs["runs"] = json.dumps(runs)
        results.save(ds, tmp_path / f"{name}.nc")
    assert _about.training_seconds(tmp_path) == [60.0, 60.0, 60.0]


def test_experiment_1_at_scale_smoke(tmp_path):
    done = reproduce.run("fcn-mnist", "smoke", out=tmp_path, show_progress=False)
    ds = xr.open_dataset(done.folder / "fcn_mnist.nc", engine="h5netcdf")
    assert list(ds.layer.values) == ["layer1", "layer2", "layer3", "layer4", "fullmodel"]
    assert list(ds.epoch.values) == [results.NO_EPOCH, 0, 1, 2, 3]
    assert dict(ds.value.sizes)["seed"] == 2
    error = ds.value.sel(metric="error")
    trained = error.sel(perturbation="reinitialize", epoch=3, draw=0)
    assert bool((trained == ds.baseline.sel(metric="error")).all())
    start = error.sel(perturbation="reinitialize", epoch=0, draw=0).mean("seed")
    assert float(start.sel(layer="layer1")) > float(start.sel(layer="layer3")) + 0.05
    assert float(error.sel(perturbation="rerandomize", epoch=results.NO_EPOCH).min()) > 0.6
    assert (ds.distance.sel(epoch=0) == 0).all()
    names = {path.name for path in done.files}
    assert {"01_fcn_mnist.ipynb", *(f"figure1.{s}" for s in ("html", "png", "svg", "pdf"))} <= names
    assert {"heatmap.png", "curves.png"} <= names
    summary = done.manifest["summary"]
    assert summary["figure"] == "heatmap.png"
    assert [found["claim"].split()[0] for found in summary["findings"]] == [
        *("re-randomising", "the", "upper", "no", "the", "the")
    ]
    assert all(found["runs"] == 2 for found in summary["findings"])
    # Numbers of all of MNIST are compared with those of 4,000 digits as well, and it says so.
    numbers = summary["claims"][len(summary["findings"]) :]
    assert len(numbers) == len(summary["comparisons"]) == 3
    assert {claim["reduced"] for claim in numbers} == {"mnist-5k instead of mnist"}
    text = (done.folder / "01_fcn_mnist.ipynb").read_text()
    assert "cells agree" in text
    assert not re.search(r'"name": "stderr"|<script|Traceback', text)
    assert len(text) < 500_000
    series = sorted((tmp_path / "series").glob("[!.]*"))
    assert len(series) == 2


@pytest.mark.smoke
def test_the_recipe_comparison_at_scale_smoke(tmp_path):
    done = reproduce.run("fcn-mnist-recipe", "smoke", out=tmp_path, show_progress=False)
    table = (done.folder / "recipes.csv").read_text().splitlines()
    assert len(table) == 4
    assert table[0].startswith("lr,initializer,final,errors,linf rand,linf")


def test_a_new_run_keeps_what_the_user_put_beside_the_old_one(tmp_path):
    real, link = tmp_path / "real", tmp_path / "small"
    link.symlink_to(real)
    real.mkdir()

    def run(table):
        with _folder.draft(link) as draft:
            for name, text in {"book.ipynb": "{}", "table.csv": table}.items():
                (draft / name).write_text(text)
            listed = _folder.list_files(draft, "book.ipynb")
            about = {"experiment": "x", "parameters": {}, "seconds": 1, "files": listed}
            (draft / "manifest.json").write_text(json.dumps(about))

    run("1")
    (real / "notes").mkdir()
    (real / "notes" / "mine.txt").write_text("mine")
    (real / "notes" / "data").symlink_to(tmp_path)
    (real / "book.ipynb").write_text("edited")
    for table in ("2", "3"):
        run(table)
        assert link.is_symlink()
        assert {path.relative_to(real).as_posix() for path in real.rglob("*")} == {
            *("book.ipynb", "book.ipynb.kept", "manifest.json", "table.csv"),
            *("notes", "notes/mine.txt", "notes/data"),
        }
        assert (real / "table.csv").read_text() == table
        assert (real / "book.ipynb.kept").read_text() == "edited"
        assert (real / "notes" / "data").resolve() == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real", "small"]


def test_a_folder_that_is_no_run_is_kept_as_it_is(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("manifest.json", "table.csv"):
        (folder / name).write_text("mine")
    with _folder.draft(folder) as draft:
        for name in ("manifest.json", "table.csv"):
            (draft / name).write_text("{}")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "manifest.json": "{}", "table.csv": "{}",
        "manifest.json.kept": "mine", "table.csv.kept": "mine",
    }  # fmt: skip
