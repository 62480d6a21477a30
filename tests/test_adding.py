"""Adding an experiment is adding a notebook, as CONTRIBUTING.md goes through it."""

from __future__ import annotations

import json
import re

import pytest
import xarray as xr

from layerscope.cli import main
from layerscope.errors import LayerscopeError, OptionError, ResultError
from layerscope.paper import batch, experiments, gallery, reproduce

DECLARED = {"parameters": "seeds = 1\nout = None", "scales": 'title = "T"\nscales = {"smoke": {}}'}


def write(path, *cells):
    """Write a notebook; the first two cells are tagged."""
    tags = [["parameters"], ["scales"], *[[]] * len(cells)]
    book = {
        "cells": [
            {"cell_type": "code", "metadata": {"tags": tag}, "source": source, "id": f"c{at}"}
            | {"outputs": [], "execution_count": None}
            for at, (source, tag) in enumerate(zip(cells, tags, strict=False))
        ],
        "metadata": {},  # a notebook need not say that it is in Python
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(book))
    return path


def declare(path, **changed):
    return write(path, *(DECLARED | changed).values())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of notebooks of one's own, in place of the package's."""
    place = tmp_path / "mine"
    place.mkdir()
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(place))
    return place


def test_the_notebook_of_contributing_is_listed_and_run(
    repository, folder, tmp_path, monkeypatch, capsys
):
    text = (repository / "CONTRIBUTING.md").read_text("utf-8")
    section = re.search(r"\n## Adding an experiment\n(.*?)\n## ", text, re.DOTALL).group(1)
    cells = re.findall(r"```python\n(.*?)\n```", section, re.DOTALL)
    path = write(folder / "16_sixteen_units.ipynb", *cells)
    assert list(experiments.EXPERIMENTS) == ["sixteen-units"]
    assert main(["experiments"]) == 0
    listed = capsys.readouterr().out
    assert "sixteen-units" in listed
    assert "mnist-5k" in listed
    (planned,) = batch.plan("smoke", out=tmp_path / "runs")
    assert (planned.name, planned.expected) == ("sixteen-units", "12 s")
    # Run from where the file lies, whether or not that is the folder of the catalogue.
    command = ["reproduce", str(path), "--scale", "smoke", "--out", str(tmp_path / "runs")]
    assert main(command) == 0
    run = tmp_path / "runs" / "sixteen-units" / "smoke"
    names = {file.name for file in run.iterdir()}
    assert {"16_sixteen_units.ipynb", "sweep.nc", "heatmap.png", "manifest.json"} <= names
    assert xr.open_dataset(run / "sweep.nc", engine="h5netcdf").sizes["seed"] == 2
    (only,) = gallery.read(tmp_path / "runs")
    assert only.title == "Do layers of sixteen units matter?"
    assert len(only.claims) == 2
    assert reproduce.run("sixteen-units", "smoke", out=tmp_path / "runs").reused
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    # A page of runs has the question of one whose notebook is not in the catalogue, too.
    monkeypatch.delenv("LAYERSCOPE_NOTEBOOKS")
    assert gallery.read(tmp_path / "runs")[0].title == only.title


def test_a_notebook_is_read_again_where_it_was_changed(folder):
    assert list(experiments.EXPERIMENTS) == []
    path = declare(folder / "02_b.ipynb")
    assert experiments.EXPERIMENTS["b"].title == "T"
    declare(path, scales='title = "Another"\nscales = {"small": {"seeds": 3}}')
    assert experiments.find("b").title == "Another"
    declare(folder / "01_a_c.ipynb")
    write(folder / "00_none.ipynb", "device = 1")  # without scales it is no experiment
    assert list(experiments.EXPERIMENTS) == ["a-c", "b"]
    assert [each.name for each in batch.plan("smoke")] == ["a-c"], "b has no such scale"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scales": 'title = "T"\nscale = {}'}, r"called 'scale'.*Did you mean 'scales'"),
        ({"scales": 'title = "T"'}, r"x\.ipynb needs a title and scales"),
        ({"scales": 'title = "T"\nscales = {"smal": {}}'}, r"'smal'.*Did you mean 'small'"),
        (
            {"scales": 'title = "T"\nscales = {"small": {"seed": 2}}'},
            r"no parameter of .*x\.ipynb called 'seed'.*Did you mean 'seeds'",
        ),
        ({"scales": 'title = 3\nscales = {"small": {}}'}, r"title is 3; expected str"),
        ({"scales": 'title = "T"\nscales = {"small": 3}'}, r"scale small is 3; expected dict"),
        (
            {"scales": 'title = "T"\nscales = {"small": {}}\nminutes = {"smoke": 1}'},
            r"no scale, for minutes in .*x\.ipynb, 'smoke'",
        ),
        ({"parameters": "seeds = 1\ntitle = 2"}, r"assigns title, which is a parameter"),
        ({"scales": "import os"}, r"'scales' of .*x\.ipynb can't be read: line 1 is no assign"),
        ({"scales": 'title = print("x")'}, r"'scales' of .*x\.ipynb can't be read"),
        ({"scales": "title = ("}, r"'scales' of .*x\.ipynb can't be read"),
    ],
)
def test_what_a_notebook_declares_is_checked_and_never_executed(folder, changed, message):
    path = declare(folder / "x.ipynb", **changed)
    with pytest.raises(LayerscopeError, match=message):
        list(experiments.EXPERIMENTS)
    with pytest.raises(LayerscopeError, match=message):
        reproduce.run(path, "small")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"cells": [{}]}'])
def test_a_file_that_is_no_notebook_is_named(folder, content):
    (folder / "x.ipynb").write_text(content)
    with pytest.raises(ResultError, match=r"x\.ipynb is not a notebook of format 4"):
        list(experiments.EXPERIMENTS)


def test_no_notebook_takes_the_place_of_another(folder, tmp_path, monkeypatch):
    declare(folder / "01_a.ipynb")
    with pytest.raises(OptionError, match=r"take the place of the experiment a; give the file"):
        experiments.find(declare(tmp_path / "a.ipynb"))
    assert experiments.find(folder / "01_a.ipynb").name == "a"
    declare(folder / "02_a.ipynb")
    with pytest.raises(ResultError, match=r"01_a.ipynb and .*02_a.ipynb are both called a"):
        list(experiments.EXPERIMENTS)
    with pytest.raises(ResultError, match=r"none.ipynb is no file"):
        experiments.find(tmp_path / "none.ipynb")
    with pytest.raises(ResultError, match=r"has no cell tagged 'scales'"):
        experiments.find(write(tmp_path / "b.ipynb", "seeds = 1"))
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(tmp_path / "nowhere"))
    with pytest.raises(ResultError, match=r"LAYERSCOPE_NOTEBOOKS is .*nowhere, which is no folder"):
        list(experiments.EXPERIMENTS)
