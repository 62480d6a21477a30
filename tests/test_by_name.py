"""A perturbation, or a metric, by name is added in one place: no list of names is elsewhere."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys

import layerscope
from layerscope import metrics, perturb

PERTURBATION = '''

__all__ += ["halve"]


def halve() -> Perturbation:
    """Halve every parameter."""
    return Perturbation(
        "halve",
        lambda site: {name: tensor / 2 for name, tensor in _parameters(site).items()},
        settings={},
        label="halved",
        column="half",
        sign="H",
    )
'''

METRIC = """
        Metric(
            "margin",
            "largest logit",
            lambda outputs, _: outputs.amax(-1),
            needs_targets=False,
            higher_is_better=True,
        ),
"""

SWEEP = """
import copy, json, torch
import layerscope
from layerscope import metrics, perturb
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
inputs = torch.randn(20, 4)
ds = layerscope.sweep(
    net, (inputs, None), checkpoints={1: net}, perturbations=["halve", "halve + zero"],
    metrics=["margin"], device="cpu", show_progress=False,
)
half = copy.deepcopy(net)
with torch.no_grad():
    for parameter in half[0].parameters():
        parameter /= 2
    expected = half(inputs).amax(-1).double().mean().item()
print(json.dumps({
    "value": ds.value.sel(layer="0", perturbation="halve").values[ds.value.sel(
        layer="0", perturbation="halve").notnull().values].tolist() == [expected],
    "joined": str(ds.perturbation.values[1]),
    "label": str(ds.perturbation_label.values[0]),
    "column": str(ds.perturbation_column.values[0]),
    "better": bool(ds.higher_is_better.values[0]),
    "state": layerscope.session.Change.of("halve").words,
    "public": "halve" in perturb.__all__ and perturb.PERTURBATIONS["halve"] is perturb.halve,
    "from": layerscope.__file__,
}))
"""


def test_a_perturbation_and_a_metric_by_name_are_added_in_one_place_each(tmp_path, repository):
    package = tmp_path / "layerscope"
    shutil.copytree(repository / "layerscope", package, ignore=shutil.ignore_patterns("*.pyc"))
    named = package / "core" / "perturb" / "_named.py"
    named.write_text(named.read_text(encoding="utf-8") + PERTURBATION, encoding="utf-8")
    measured = package / "core" / "metrics" / "_named.py"
    text = measured.read_text(encoding="utf-8")
    last = '        Metric("mse",'
    assert text.count(last) == 1
    measured.write_text(text.replace(last, f"{METRIC.lstrip()}{last}"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "value": True,
        "joined": "halve+zero",
        "label": "halved",
        "column": "half",
        "better": True,
        "state": "halved",
        "public": True,
        "from": str(package / "__init__.py"),
    }


def constants(tree):
    """Constants in code, without docstrings and default arguments, which may name what is usual."""
    passed_over = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            passed_over.add(node.value)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            passed_over |= {each for default in defaults for each in ast.walk(default)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in passed_over:
            yield node.value


def test_the_core_names_a_perturbation_where_it_is_defined_alone(repository):
    core = repository / "layerscope" / "core"
    found = {
        (str(path.relative_to(core)), text)
        for path in core.rglob("*.py")
        for text in constants(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(text, str) and text in perturb.PERTURBATIONS
    }
    defined = {"_named.py", "_exchanging.py", "_permuting.py", "_parsing.py", "_weights.py",
               "_parts.py", "_routes.py", "__init__.py"}  # fmt: skip
    assert {each for each in found if each[0].removeprefix("perturb/") not in defined} == set()


def test_what_goes_by_name_goes_by_its_own():
    assert all(name == metric.name for name, metric in metrics.METRICS.items())
    assert all(name == make.__name__ for name, make in perturb.PERTURBATIONS.items())
    assert layerscope.perturb is perturb
