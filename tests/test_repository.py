"""What the repository says of itself is true."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
import types
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
    ours = sum(
        (extras[name] for name in ("zoo", "jupyter", "paper", "dask")), PROJECT["dependencies"]
    )
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


@pytest.mark.parametrize("goal", ["demo", "test", "smoke", "lint", "bench", "docs", "dist"])
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


def _examples(project, folder, monkeypatch):
    """The lines of Python in the README, which find `my_project` beside them."""
    (folder / "my_project.py").write_text(project)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "my_project", types.ModuleType("my_project"))
    del sys.modules["my_project"]  # whatever it becomes goes after the test
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_lines_in_the_readme_run_as_they_stand(tmp_path, monkeypatch, capsys):
    # What the example asks of its reader, as it is run from the wheel as well.
    project = runpy.run_path(str(ROOT / "packaging" / "dist.py"))["PROJECT"]
    example, _ = _examples(project, tmp_path, monkeypatch)
    exec(compile(example, "README.md", "exec"), {})
    assert "verdict" in capsys.readouterr().out
    assert b"<html" in (tmp_path / "layers.html").read_bytes()[:300]
    assert (tmp_path / "layers" / "sweep.nc").is_file()


LANGUAGE_PROJECT = """
import tokenizers
import torch
import transformers

texts = ["Every layer of a network was random once.", "Some layers hardly moved."] * 40
model = tokenizers.Tokenizer(tokenizers.models.BPE())
model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300, special_tokens=["<end>"], show_progress=False,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
)
model.train_from_iterator(texts, trainer)
fast = transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>")
fast.save_pretrained("SmolLM2-135M")
torch.manual_seed(0)
config = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=300, max_position_embeddings=256,
)
transformers.LlamaForCausalLM(config).save_pretrained("SmolLM2-135M")
"""


def test_the_lines_on_a_language_model_run_as_they_stand(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    _, example = _examples(LANGUAGE_PROJECT, tmp_path, monkeypatch)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(f"model.layers.{n}" in printed for n in range(3))
    assert b"<html" in (tmp_path / "blocks.html").read_bytes()[:300]


def test_commands_in_the_readme_exist():
    from layerscope.cli import _parser

    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    layerscope (.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        _parser().parse_args(command.split())
