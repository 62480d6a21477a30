"""Who sweeps a network of one's own loads nothing of the networks, data sets and notebooks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from layerscope import results, testing

WINGS = ("layerscope.zoo", "layerscope.jupyter", "layerscope.paper", "layerscope.testing")

LIBRARIES = (
    "timm", "torchvision", "mlxtend", "papermill", "tokenizers", "nbformat", "nbclient",
    "ipykernel", "ipywidgets", "anywidget", "jupyterlab", "lightning", "transformers", "datasets",
    "pyarrow", "huggingface_hub",
)  # fmt: skip

OWN_NETWORK = """
import json, sys
import layerscope
layerscope.sweep
loaded_by_import = sorted(sys.modules)

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
start = {name: value.clone() for name, value in net.state_dict().items()}
with torch.no_grad():
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter))
data = torch.randn(50, 4), torch.randint(0, 3, (50,))
ds = layerscope.sweep(
    net, data, checkpoints={0: start, 2: net}, out="swept",
    perturbations=["reinitialize", "rerandomize", "zero"], draws=2, device="cpu",
)
layerscope.save(ds, "kept.nc")
ds = layerscope.open_dataset("kept.nc")
from layerscope import plots, report, stats
assert set(stats.classify(ds).values.ravel().tolist())
plots.save(plots.heatmap(ds), "grid.png")
report.write({"own": ds}, "report.html")
from layerscope import Session
with Session(net, data, checkpoints={0: start, 2: net}, device="cpu") as session:
    session.measure({"0": ("reinitialize", 0)})
print(json.dumps([loaded_by_import, sorted(sys.modules)]))
"""


# Not only unloaded: other libraries, as pandas, load some of these by themselves where they are.
NOT_INSTALLED = """
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, NotInstalled())
"""


def run(code, folder, absent=LIBRARIES):
    """Run code in a process of its own where libraries are absent; return what it printed last."""
    blocked = NOT_INSTALLED.replace("{absent}", repr(absent))
    done = subprocess.run(
        [sys.executable, "-c", blocked + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def among(loaded, names):
    return [name for name in loaded if any(f"{name}.".startswith(f"{each}.") for each in names)]


def test_a_network_of_ones_own_is_swept_drawn_and_reported_with_the_core_alone(tmp_path):
    by_import, by_all = run(OWN_NETWORK, tmp_path)
    assert among(by_import, (*WINGS, "matplotlib", "holoviews")) == []
    assert "layerscope.core.sweep" in by_import
    assert "layerscope.report" in by_all
    assert among(by_all, WINGS) == []


@pytest.mark.parametrize(
    "code",
    [
        "import layerscope.results, layerscope.stats",
        "import layerscope; ds = layerscope.open_dataset('kept.nc'); "
        "layerscope.stats.classify(ds); layerscope.stats.summary(ds)",
    ],
)
def test_a_dataset_is_read_and_judged_without_torch(code, tmp_path):
    results.save(testing.dataset(), tmp_path / "kept.nc")
    code = f"import json, sys; {code}; print(json.dumps(sorted(sys.modules)))"
    loaded = run(code, tmp_path, ("torch", *LIBRARIES))
    assert "layerscope.stats" in loaded
    assert among(loaded, ("torch", "layerscope.core", *WINGS)) == []
