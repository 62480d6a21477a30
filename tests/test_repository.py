"""What the repository says of itself is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import layerscope

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# conda's names where they differ from the package index's.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def bounds(requirements):
    return dict(re.fullmatch(r"([\w-]+)(>=[\d.]+)", line).groups() for line in requirements)


def test_conda_environment_has_the_same_packages_and_bounds():
    extras = PROJECT["optional-dependencies"]
    ours = sum((extras[name] for name in ("zoo", "jupyter", "paper")), PROJECT["dependencies"])
    wanted = bounds(line for line in ours if not line.startswith("layerscope["))
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [line for line in environment["dependencies"] if isinstance(line, str)]
    found = bounds(line for line in plain if line != "pip")
    assert found.pop("python") == PROJECT["requires-python"]
    assert found == {CONDA.get(name, name): bound for name, bound in wanted.items()}


def test_every_dependency_has_its_reason():
    reasons = (ROOT / "CONTRIBUTING.md").read_text()
    table = reasons[reasons.index("## Why each dependency is here") :]
    for line in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]):
        name = re.match(r"[\w-]+", line)[0]
        if name != "layerscope" and not name.startswith("types-") and not name.endswith("-stubs"):
            assert re.search(rf"\| .*\b{name}\b.* \|", table), name


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == layerscope.__version__


def test_modules_in_contributing_are_those_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    text = text[text.index("| module |") : text.index("## What a change")]
    wings, rooms = text.split("| room |")
    for table, folder in ((wings, ROOT / "layerscope"), (rooms, ROOT / "layerscope" / "core")):
        named = set(
            re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
        )
        there = {path.stem for path in folder.iterdir() if not path.name.startswith("_")}
        assert named == there - {"py"}, folder


@pytest.mark.parametrize("goal", ["demo", "test", "smoke", "lint", "bench"])
def test_every_make_goal_makes_the_environment_first(goal):
    rules = (ROOT / "Makefile").read_text()
    prerequisites = re.search(rf"^{goal}:(.*)$", rules, re.MULTILINE)[1].split()
    assert "$(STAMP)" in prerequisites or prerequisites == ["lint"]


def test_readme_names_the_two_commands_and_pictures_that_exist():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


PROJECT_OF_ONES_OWN = """
import torch

def Network():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

for seed, name in enumerate(["start.pt", "epoch-1.pt", "trained.pt"]):
    torch.manual_seed(seed)
    torch.save(Network().state_dict(), name)
images, labels = torch.randn(60, 4), torch.arange(60) % 3
"""


def test_the_lines_in_the_readme_run_as_they_stand(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_project.py").write_text(PROJECT_OF_ONES_OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "verdict" in capsys.readouterr().out
    assert b"<html" in (tmp_path / "layers.html").read_bytes()[:300]
    assert (tmp_path / "layers" / "sweep.nc").is_file()


def test_commands_in_the_readme_exist():
    from layerscope.cli import _parser

    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    layerscope (.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        _parser().parse_args(command.split())
