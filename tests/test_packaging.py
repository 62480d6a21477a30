"""Packages: what the conda recipe says, and that a tag names the version."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

import layerscope

ROOT = Path(__file__).parents[1]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.fixture(scope="module")
def dist():
    sys.path.insert(0, str(ROOT / "packaging"))
    import dist

    yield dist
    sys.path.remove(str(ROOT / "packaging"))


def test_the_recipe_has_the_version_and_bounds_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    recipe = yaml.safe_load((ROOT / "packaging" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == layerscope.__version__
    wanted = {line.replace(">=", " >=") for line in project["project"]["dependencies"]}
    wanted = {" ".join((CONDA.get(name, name), bound)) for name, bound in map(str.split, wanted)}
    python = f"python {project['project']['requires-python']}"
    assert set(recipe["requirements"]["run"]) == wanted | {python}
    build = {line.replace(">=", " >=") for line in project["build-system"]["requires"]}
    assert set(recipe["requirements"]["host"]) == build | {python, "pip"}
    ((name, entry),) = project["project"]["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [f"{name} = {entry}"]


def git(folder, *command):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *name, *command], check=True, capture_output=True)


@pytest.mark.parametrize(("tag", "refused"), [(None, False), ("v1.2", False), ("v1.3", True)])
def test_a_tag_has_to_name_the_version(dist, tmp_path, tag, refused):
    (tmp_path / "layerscope").mkdir()
    (tmp_path / "layerscope" / "_version.py").write_text('__version__ = "1.2"\n')
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a")
    if tag:
        git(tmp_path, "tag", tag)
    if refused:
        with pytest.raises(SystemExit, match=r"says 1\.2; the commit is tagged \['v1\.3'\]"):
            dist.require_tag(tmp_path)
    else:
        assert dist.require_tag(tmp_path) == "1.2"


def test_without_a_repository_no_tag_is_asked_for(dist, tmp_path):
    (tmp_path / "layerscope").mkdir()
    (tmp_path / "layerscope" / "_version.py").write_text('__version__ = "1.2"\n')
    assert dist.require_tag(tmp_path) == "1.2"


@pytest.mark.slow
def test_wheel_and_sdist_are_built_checked_and_run(dist, tmp_path, monkeypatch):
    pytest.importorskip("build", reason="the extra dev is not installed")
    monkeypatch.setattr(dist, "DIST", tmp_path)
    dist.main()
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {Path(name).parts[1] for name in file.getnames() if "/" in name}
    assert {"layerscope", "notebooks", "tests", "LICENSE", "README.md", "PKG-INFO"} <= names
    assert "papermill_runs" not in names
