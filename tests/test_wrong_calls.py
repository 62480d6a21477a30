"""Wrong calls of everything that is public: each gets an error of ours that says what came.

A call that only fails for Python's own reasons, such as an argument that does not exist, is none of
these. Each line is a call, and how the message starts that answers it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import (
    data,
    layers,
    metrics,
    models,
    perturb,
    plots,
    report,
    results,
    stats,
    testing,
)
from layerscope.cli import main
from layerscope.core import stopping as sequential
from layerscope.errors import LayerscopeError
from layerscope.jupyter import LayerExplorer, _lab as explore
from layerscope.paper import gallery

Recipe, Series, Session = layerscope.Recipe, layerscope.Series, layerscope.Session
evaluate, open_series, open_dataset = (
    layerscope.evaluate,
    layerscope.open_series,
    layerscope.open_dataset,
)
save, concat = layerscope.save, layerscope.concat


def Net(seed=0):  # noqa: N802 - a network
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


net, start = Net(1), Net(0)
X, Y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
pair = (X, Y)
S = {0: copy.deepcopy(start.state_dict()), 1: copy.deepcopy(net.state_dict())}
D = testing.dataset()
noerr = D.sel(metric=["loss"])
foreign = xr.Dataset({"temperature": ("time", [1.0, 2.0])})
used = iter([pair])
list(used)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LazyLinear(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x))


def inference_net():
    with torch.inference_mode():
        return Net(1)


def meta():
    with torch.device("meta"):
        return Net(1)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is old
        return torch.jit.script(Net(1))


def gen():
    yield pair


def W(m=net, d=pair, **more):  # noqa: N802 - the sweep, wrongly
    usual = {"checkpoints": S, "device": "cpu", "show_progress": False, "draws": 1}
    return layerscope.sweep(m, d, **(usual | {"batch_size": 30} | more))


def SS(m=net, d=pair, **more):  # noqa: N802 - a session, wrongly
    Session(m, d, **({"checkpoints": S, "device": "cpu"} | more)).close()


def sess(ask):
    with Session(net, pair, checkpoints=S, device="cpu") as session:
        return ask(session)


def measure(state, **more):
    return sess(lambda session: session.measure(state, **more))


def closed():
    session = Session(net, pair, checkpoints=S, device="cpu")
    session.close()
    return session.measure({})


def E(*given, **more):  # noqa: N802 - the explorer, wrongly
    LayerExplorer(*given, **({"device": "cpu"} | more)).close()


def ef(ask):
    explorer = LayerExplorer(net, pair, S, device="cpu")
    try:
        ask(explorer)
    finally:
        explorer.close()


def put(state):
    ef(lambda explorer: setattr(explorer, "state", state))


def cli(*words):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(word) for word in words])
    if code:
        raise LayerscopeError(said.getvalue().removeprefix("layerscope: "))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where calls find files: checkpoints, Datasets, and a file where a folder should be."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("calls"))
    torch.save(S[0], "start.pt")
    torch.save(S[1], "trained.pt")
    results.save(D, "ds.nc")
    foreign.to_netcdf("foreign.nc", engine="h5netcdf")
    Path("file").write_text("x")
    yield
    os.chdir(before)


# ruff: noqa: ARG005 - functions that are called wrongly need no bodies
WRONG = [
    # sweep: the network
    ("lazy", lambda: W(Lazy()), "a.weight of model has no shape yet, as in a lazy module"),
    (
        "meta",
        lambda: W(meta(), checkpoints=None, perturbations=["zero"]),
        "0.weight of model is on the device meta, which holds no va",
    ),
    (
        "scripted",
        lambda: W(scripted()),
        "model is scripted or traced (torch.jit), so that its layer",
    ),
    (
        "inference net",
        lambda: W(inference_net()),
        "0.weight of model was made in inference mode and can't be",
    ),
    ("model class", lambda: W(nn.Linear), "model is the class Linear, not an nn.Module"),
    ("model None", lambda: W(None), "model is None, not an nn.Module"),
    (
        "model state dict",
        lambda: W(net.state_dict()),
        "model is an OrderedDict of 4, not an nn.Module",
    ),
    ("model path", lambda: W("trained.pt"), "trained.pt is one file of weights"),
    ("model function", lambda: W(lambda x: x), "model is the function <lambda>, not an nn.Module"),
    (
        "model no params",
        lambda: W(nn.ReLU()),
        "the checkpoint of epoch 0 does not fit the network: unexpe",
    ),
    ("model sweeps name", lambda: W("fcn-1x8"), "there is no network 'fcn-1x8'"),
    ("args swapped", lambda: W(pair, net), "model is a tuple of 2, not an nn.Module"),
    (
        "int8 quantized params",
        lambda: W(Net(1).half()),
        "the network can't take the first batch, float32 of shape (",
    ),
    (
        "net double",
        lambda: W(Net(1).double()),
        "the network can't take the first batch, float32 of shape (",
    ),
    (
        "conv on vectors",
        lambda: W(nn.Sequential(nn.Linear(5, 3)), checkpoints={0: nn.Linear(5, 3).state_dict()}),
        "the network can't take the first batch, float32 of shape (",
    ),
    # sweep: data
    ("data None", lambda: W(d=None), "data is a NoneType"),
    ("data tensor", lambda: W(d=X), "data is a Tensor"),
    ("data numpy pair", lambda: W(d=(X.numpy(), Y.numpy())), "data holds NumPy arrays"),
    ("data numpy X", lambda: W(d=(X.numpy(), Y)), "data holds NumPy arrays"),
    ("data numpy Y", lambda: W(d=(X, Y.numpy())), "data holds NumPy arrays"),
    ("data list Y", lambda: W(d=(X, Y.tolist())), "a batch is a Tensor"),
    ("data path", lambda: W(d=Path("data")), "data is a PosixPath"),
    (
        "data Dataset tv",
        lambda: W(d=torch.utils.data.TensorDataset(X, Y)),
        "data is a TensorDataset",
    ),
    (
        "data loader of dicts",
        lambda: W(d=[{"x": X, "y": Y}]),
        "the network can't take the first batch, x: float32 of shap",
    ),
    ("data loader triple", lambda: W(d=[(X, Y, Y)]), "a batch is a tuple"),
    (
        "data single example items",
        lambda: W(d=[(x, y) for x, y in zip(X, Y, strict=True)]),
        "a batch has a single number as its targets",
    ),
    ("data empty list", lambda: W(d=[]), "data holds no examples"),
    ("data generator used", lambda: W(d=used), "data holds no examples"),
    ("data generator function", lambda: W(d=gen), "data is a function"),
    ("data empty tensors", lambda: W(d=(X[:0], Y[:0])), "data holds no examples"),
    ("data lengths differ", lambda: W(d=(X, Y[:50])), "60 inputs came with 50 targets"),
    (
        "data swapped",
        lambda: W(d=(Y, X)),
        "the network can't take the first batch, int64 of shape (",
    ),
    ("data int", lambda: W(d=3), "data is a int"),
    (
        "data half inputs",
        lambda: W(d=(X.double(), Y)),
        "the network can't take the first batch, float64 of shape (",
    ),
    (
        "data wrong width",
        lambda: W(d=(X[:, :3], Y)),
        "the network can't take the first batch, float32 of shape (",
    ),
    (
        "data extra dim",
        lambda: W(d=(X[:, None, None], Y)),
        "outputs of shape (30, 1, 1, 3) came with targets of shape",
    ),
    (
        "data int inputs",
        lambda: W(d=(X.long(), Y)),
        "the network can't take the first batch, int64 of shape (",
    ),
    (
        "data label too high",
        lambda: W(d=(X, Y + 5)),
        "a target is class 7, and the network has 3 outputs, classe",
    ),
    (
        "data label negative",
        lambda: W(d=(X, Y - 5)),
        "a target is class -3, and the network has 3 outputs, class",
    ),
    (
        "data all ignored",
        lambda: W(d=(X, Y * 0 - 100)),
        "all targets are -100, which stands for no target, or at pa",
    ),
    ("data loader class", lambda: W(d=torch.utils.data.DataLoader), "data is a type"),
    ("data loader no targets", lambda: W(d=[X]), "a batch is a Tensor"),
    (
        "data onehot",
        lambda: W(d=(X, torch.nn.functional.one_hot(Y, 3))),
        "outputs of shape (30, 3) came with targets of shape (30, 3",
    ),
    (
        "data Y (n,1)",
        lambda: W(d=(X, Y[:, None])),
        "outputs of shape (30, 3) came with targets of shape (30, 1",
    ),
    ("data batch loader None", lambda: W(d=[None]), "a batch is a NoneType"),
    # sweep: checkpoints
    (
        "cp None",
        lambda: W(checkpoints=None, perturbations=["reinitialize"]),
        "'reinitialize' takes values from a checkpoint, and there is nothing to go back to",
    ),
    ("cp list", lambda: W(checkpoints=[S[0], S[1]]), "checkpoints is a list"),
    (
        "cp list of paths",
        lambda: W(checkpoints=["start.pt", "trained.pt"]),
        "start.pt does not say its epoch",
    ),
    (
        "cp str epochs",
        lambda: W(checkpoints={"0": S[0], "1": S[1]}),
        "epoch '0', of type str, is not a whole number (int) from 0",
    ),
    (
        "cp names",
        lambda: W(checkpoints={"start": S[0], "end": S[1]}),
        "epoch 'start', of type str, is not a whole number (int) fr",
    ),
    (
        "cp float epochs",
        lambda: W(checkpoints={0.0: S[0], 1.0: S[1]}),
        "epoch 0.0, of type float, is not a whole number (int) from",
    ),
    (
        "cp numpy epochs",
        lambda: W(checkpoints={np.int64(0): S[0], np.int64(1): S[1]}),
        "epoch np.int64(0), of type int64, is not a whole number (i",
    ),
    (
        "cp negative",
        lambda: W(checkpoints={-1: S[0], 1: S[1]}),
        "epoch -1, of type int, is not a whole number (int) from 0",
    ),
    (
        "cp bool",
        lambda: W(checkpoints={False: S[0], True: S[1]}),
        "epoch False, of type bool, is not a whole number (int) fro",
    ),
    ("cp empty", lambda: W(checkpoints={}), "the series holds no checkpoints"),
    ("cp model", lambda: W(checkpoints=net), "checkpoints is a Sequential"),
    (
        "cp mapping params generator",
        lambda: W(checkpoints={0: start.parameters(), 1: net.parameters()}),
        "the checkpoint of epoch 0 is a generator",
    ),
    (
        "cp mapping numpy dict",
        lambda: W(checkpoints={0: {k: v.numpy() for k, v in S[0].items()}, 1: S[1]}),
        "the checkpoint of epoch 0 holds 0.bias, 0.weight, 2.bias,",
    ),
    (
        "cp mapping of None",
        lambda: W(checkpoints={0: None, 1: S[1]}),
        "the checkpoint of epoch 0 is a NoneType",
    ),
    (
        "cp missing file",
        lambda: W(checkpoints={0: "nowhere.pt", 1: S[1]}),
        "can't read nowhere.pt: No such file or directory.",
    ),
    (
        "cp not a checkpoint",
        lambda: W(checkpoints={0: "file", 1: S[1]}),
        "file is damaged or not a checkpoint: it does not begin as one",
    ),
    (
        "cp nc",
        lambda: W(checkpoints={0: "ds.nc", 1: S[1]}),
        "ds.nc is damaged or not a checkpoint: it does not begin as one",
    ),
    ("cp file path", lambda: W(checkpoints="trained.pt"), "trained.pt is one checkpoint"),
    ("cp missing folder", lambda: W(checkpoints="nowhere"), "there is no folder nowhere"),
    ("cp int", lambda: W(checkpoints=3), "checkpoints is a int"),
    (
        "cp other net",
        lambda: W(checkpoints={0: nn.Linear(2, 2).state_dict(), 1: S[1]}),
        "the checkpoint of epoch 0 does not fit the network: missin",
    ),
    (
        "cp other shape",
        lambda: W(
            checkpoints={
                0: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict(),
                1: S[1],
            }
        ),
        "the checkpoint of epoch 0 does not fit the network: of ano",
    ),
    (
        "cp nan",
        lambda: W(checkpoints={0: {k: v * float("nan") for k, v in S[0].items()}, 1: S[1]}),
        "the checkpoint of epoch 0: 0.weight holds 32 values that a",
    ),
    (
        "cp empty sd",
        lambda: W(checkpoints={0: {}, 1: S[1]}),
        "the checkpoint of epoch 0 holds nothing, and no state dict",
    ),
    ("cp tuple", lambda: W(checkpoints=((0, S[0]), (1, S[1]))), "checkpoints is a tuple"),
    (
        "cp generator",
        lambda: W(checkpoints=(x for x in (S[0], S[1]))),
        "checkpoints is a generator",
    ),
    (
        "cp optimizer",
        lambda: W(checkpoints={0: torch.optim.SGD(net.parameters(), lr=0.1).state_dict(), 1: S[1]}),
        "the checkpoint of epoch 0 holds param_groups, state, and n",
    ),
    # sweep: rows
    ("layers module", lambda: W(layers=[net[0]]), "layers holds a Linear"),
    ("layers one module", lambda: W(layers=net[0]), "layers holds a Linear"),
    ("layers int", lambda: W(layers=[0]), "layers holds 0"),
    ("layers int alone", lambda: W(layers=0), "layers holds 0"),
    ("layers empty", lambda: W(layers=[]), "layers is empty"),
    ("layers empty str", lambda: W(layers=""), "layers is empty"),
    ("layers unknown", lambda: W(layers=["9"]), "there is no layer that matches '9'"),
    ("layers None in list", lambda: W(layers=[None]), "layers holds None"),
    ("layers class", lambda: W(layers=nn.Linear), "layers holds the class Linear"),
    ("layers classes", lambda: W(layers=[nn.Linear]), "layers holds the class Linear"),
    ("layers regex", lambda: W(layers=[__import__("re").compile("0")]), "layers holds a Pattern"),
    ("layers nested", lambda: W(layers=[["0"], ["2"]]), "layers holds ['0']"),
    ("layers mapping int", lambda: W(layers={"a": 0}), "layers holds 0"),
    ("layers mapping module", lambda: W(layers={"a": [net[0]]}), "layers holds a Linear"),
    ("layers mapping key", lambda: W(layers={0: ["0"]}), "layers holds 0"),
    (
        "layers param names",
        lambda: W(layers=["0.weight"]),
        "there is no layer that matches '0.weight'",
    ),
    ("view unknown", lambda: W(view="leafs"), "there is no view 'leafs'"),
    ("view None", lambda: W(view=None), "there is no view None"),
    ("view int", lambda: W(view=1), "there is no view 1"),
    ("view list", lambda: W(view=["leaf"]), "there is no view ['leaf']"),
    ("norms unknown", lambda: W(norms="without"), "norms has 'without' for parameters"),
    ("norms None", lambda: W(norms=None), "norms is None"),
    ("norms bool", lambda: W(norms=True), "norms is True"),
    ("norms mapping", lambda: W(norms={"foo": "own"}), "norms is {'foo': 'own'}"),
    # sweep: perturbations
    ("pert unknown", lambda: W(perturbations=["reinit"]), "there is no perturbation 'reinit'"),
    ("pert number", lambda: W(perturbations=3), "perturbations came as"),
    (
        "pert function",
        lambda: W(perturbations=[lambda site: site.trained]),
        "a perturbation came as the function <lambda>",
    ),
    (
        "pert function alone",
        lambda: W(perturbations=lambda site: site.trained),
        "a perturbation came as the function <lambda>",
    ),
    ("pert int", lambda: W(perturbations=[0]), "a perturbation came as 0"),
    ("pert noise neg", lambda: W(perturbations=["noise(-1)"]), "noise got the scale -1"),
    ("pert noise str", lambda: W(perturbations=["noise('a')"]), "noise got 'a' as scale"),
    ("pert syntax", lambda: W(perturbations=["noise(0.1"]), "there is no perturbation 'noise(0.1'"),
    (
        "pert twice",
        lambda: W(perturbations=["zero", "zero"]),
        "two perturbations have the name 'zero'",
    ),
    (
        "pert class",
        lambda: W(perturbations=[perturb.Perturbation]),
        "a perturbation came as the class Perturbation",
    ),
    (
        "fresh net",
        lambda: W(fresh=net),
        "fresh is a Sequential, a network itself, but every draw ne",
    ),
    ("fresh returns None", lambda: W(fresh=lambda: None), "fresh= returned None"),
    ("fresh str", lambda: W(fresh="fcn"), "fresh is 'fcn'"),
    (
        "fresh other",
        lambda: W(fresh=lambda: nn.Linear(2, 2)),
        "the network that fresh= returned has no 0.weight",
    ),
    # sweep: metrics
    (
        "metrics fn",
        lambda: W(metrics=[lambda z, y: z.sum(-1)]),
        "metrics holds the function <lambda>",
    ),
    (
        "metrics fn alone",
        lambda: W(metrics=lambda z, y: z.sum(-1)),
        "metrics holds the function <lambda>",
    ),
    ("metrics unknown", lambda: W(metrics=["acc"]), "there is no metric 'acc'"),
    (
        "metrics F.ce",
        lambda: W(metrics=[nn.functional.cross_entropy]),
        "metrics holds the function cross_entropy",
    ),
    (
        "metrics module",
        lambda: W(metrics=[nn.CrossEntropyLoss()]),
        "metrics holds a CrossEntropyLoss",
    ),
    ("metrics class", lambda: W(metrics=metrics.Metric), "metrics holds the class Metric"),
    ("metrics empty", lambda: W(metrics=[]), "metrics is empty"),
    ("metrics int", lambda: W(metrics=[1]), "metrics holds 1"),
    ("metrics int alone", lambda: W(metrics=1), "metrics holds 1"),
    (
        "metrics dict own",
        lambda: W(metrics={"mine": lambda z, y: z.sum(-1)}),
        "there is no metric 'mine'",
    ),
    ("metrics empty str", lambda: W(metrics=""), "there is no metric ''"),
    (
        "metrics reduced",
        lambda: W(metrics=[metrics.Metric("m", "m", lambda z, y: z.mean())]),
        "the metric 'm' returned shape () for outputs of shape (30,",
    ),
    (
        "metrics returns float",
        lambda: W(metrics=[metrics.Metric("m", "m", lambda z, y: 1.0)]),
        "the metric 'm' returned 1.0 for outputs of shape (30, 3)",
    ),
    (
        "metrics returns numpy",
        lambda: W(metrics=[metrics.Metric("m", "m", lambda z, y: z.sum(-1).numpy())]),
        "the metric 'm' returned array([ 0.00319487, -0.25981575, -",
    ),
    (
        "metrics returns None",
        lambda: W(metrics=[metrics.Metric("m", "m", lambda z, y: None)]),
        "the metric 'm' returned None for outputs of shape (30, 3)",
    ),
    ("metrics topk", lambda: W(metrics=["top0_error"]), "there is no metric 'top0_error'"),
    ("metrics top9", lambda: W(metrics=["top9_error"]), "top9_error came with 3 classes"),
    # sweep: the rest
    ("epochs str", lambda: W(epochs="0"), "epochs is '0'"),
    ("epochs strs", lambda: W(epochs=["0"]), "epochs is ['0']"),
    ("epochs int", lambda: W(epochs=0), "epochs is 0"),
    ("epochs unknown", lambda: W(epochs=[7]), "epoch 7 was not recorded"),
    ("epochs empty", lambda: W(epochs=[]), "epochs is empty"),
    ("epochs float", lambda: W(epochs=[0.5]), "epochs is [0.5]"),
    ("epochs None in", lambda: W(epochs=[None]), "epochs is [None]"),
    ("epochs neg", lambda: W(epochs=[-1]), "epoch -1 was not recorded"),
    ("out file", lambda: W(out="file"), "can't write file/sweep.json: Not a directory"),
    ("out int", lambda: W(out=3), "out is 3, an int"),
    ("out list", lambda: W(out=["a"]), "out is ['a'], a list"),
    ("out True", lambda: W(out=True), "out is True, a bool"),
    (
        "out under file",
        lambda: W(out="file/sub"),
        "can't write file/sub/sweep.json: Not a directory",
    ),
    ("out nc", lambda: W(out="ds.nc"), "can't write ds.nc/sweep.json: Not a directory"),
    ("out empty", lambda: W(out=""), "out is '', a str"),
    (
        "out unwritable",
        lambda: W(out="/proc/x"),
        "can't write /proc/x/sweep.json: No such file or directory",
    ),
    (
        "decide loss only",
        lambda: W(decide=0.1, metrics=["loss"]),
        "loss is not between 0 and 1, so it can't be settled before",
    ),
    ("decide+tol", lambda: W(decide=0.1, tolerance=0.1), "decide= and tolerance= both came"),
    (
        "outcomes no out",
        lambda: W(outcomes=True),
        "outcomes=True keeps what every example gave in a folder",
    ),
    ("callback str", lambda: W(callback="show"), "callback is 'show', a str"),
    ("callback not callable", lambda: W(callback=3), "callback is 3, an int"),
    ("between str", lambda: W(between="x"), "between is 'x', a str"),
    ("whole str", lambda: W(whole="no"), "whole is 'no', a str"),
    ("whole None", lambda: W(whole=None), "whole is None"),
    # Session and evaluate
    ("S batch", lambda: SS(batch_size="64"), "batch_size is '64', a str"),
    ("S seed None", lambda: SS(seed=None), "seed is None"),
    ("S metrics None", lambda: SS(metrics=[None]), "metrics holds None"),
    ("S metrics fn", lambda: SS(metrics=[lambda z, y: z]), "metrics holds the function <lambda>"),
    ("S budget str", lambda: SS(budget="1GB"), "budget is '1GB', a str"),
    ("S budget neg", lambda: SS(budget=-1), "budget is -1"),
    ("S model None", lambda: SS(None), "model is None, not an nn.Module"),
    ("S model class", lambda: SS(nn.Linear), "model is the class Linear, not an nn.Module"),
    (
        "S inference",
        lambda: SS(inference_net()),
        "0.weight of model was made in inference mode and can't be",
    ),
    ("S device", lambda: SS(device="gpu"), "'gpu' is not a device"),
    ("S data None", lambda: SS(d=None), "data is a NoneType"),
    ("ev model", lambda: evaluate(None, pair), "model is None, not an nn.Module"),
    ("ev class", lambda: evaluate(nn.Linear, pair), "model is the class Linear, not an nn.Module"),
    ("ev metrics", lambda: evaluate(net, pair, metrics=["acc"]), "there is no metric 'acc'"),
    (
        "ev metrics fn",
        lambda: evaluate(net, pair, metrics=[lambda z, y: z]),
        "metrics holds the function <lambda>",
    ),
    ("ev metrics None", lambda: evaluate(net, pair, metrics=None), "metrics holds None"),
    ("ev batch", lambda: evaluate(net, pair, batch_size="64"), "batch_size is '64', a str"),
    (
        "ev ref",
        lambda: evaluate(net, pair, metrics=["agreement"]),
        "agreement can't be measured without the unperturbed networ",
    ),
    (
        "ev ref str",
        lambda: evaluate(net, pair, metrics=["agreement"], reference="x"),
        "reference is 'x', not an nn.Module",
    ),
    ("ev device", lambda: evaluate(net, pair, device="gpu"), "'gpu' is not a device"),
    ("ev np", lambda: evaluate(net, (X.numpy(), Y.numpy())), "data holds NumPy arrays"),
    (
        "ev lazy",
        lambda: evaluate(Lazy(), pair),
        "a.weight of model has no shape yet, as in a lazy module",
    ),
    (
        "ev meta",
        lambda: evaluate(meta(), pair),
        "0.weight of model is on the device meta, which holds no va",
    ),
    # stats
    ("summary metric", lambda: stats.summary(D, "acc"), "there is no metric 'acc'"),
    ("summary metric list", lambda: stats.summary(D, ["error"]), "metric is ['error']"),
    (
        "classify loss",
        lambda: stats.classify(D, "loss"),
        "what chance gives is not known for 'loss'",
    ),
    ("distances norm", lambda: stats.distances(D, "l3"), "there is no norm 'l3'"),
    ("distances norm None", lambda: stats.distances(D, None), "there is no norm None"),
    (
        "distances nodist",
        lambda: stats.distances(D.drop_vars("distance")),
        "the Dataset has no variable 'distance'",
    ),
    ("rank norm", lambda: stats.rank_correlation(D, "l3"), "there is no norm 'l3'"),
    ("wilson pct", lambda: stats.wilson(50, 10), "proportions from 50 to 50 came"),
    ("wilson n0", lambda: stats.wilson(0.5, 0), "n = 0 came"),
    ("wilson str", lambda: stats.wilson("a", 10), "errors is 'a', a str"),
    ("wilson None", lambda: stats.wilson(None, 10), "errors is None"),
    (
        "wilson shapes",
        lambda: stats.wilson([0.1, 0.2], [1, 2, 3]),
        "the shapes of errors (2,), n (3,) don't go together",
    ),
    ("newcombe str", lambda: stats.newcombe("a", 1, 2, 3), "p1 is 'a', a str"),
    ("student str", lambda: stats.student("a"), "samples is 'a', a str"),
    ("student axis", lambda: stats.student([1.0, 2.0], axis=3), "axis is 3"),
    ("student scalar", lambda: stats.student(3.0), "axis is -1"),
    ("mcnemar neg", lambda: stats.mcnemar(-1, 2), "worse or better is negative"),
    ("mcnemar str", lambda: stats.mcnemar("a", 2), "worse is 'a', a str"),
    ("paired str", lambda: stats.paired_proportions("a", 1, 2), "worse is 'a', a str"),
    (
        "paired shapes",
        lambda: stats.paired_proportions([1, 2], [1, 2, 3], 10),
        "the shapes of worse (2,), better (3,), n () don't go toget",
    ),
    ("discordant str", lambda: stats.discordant("a", 1, 1), "difference is 'a', a str"),
    (
        "bootstrap stat",
        lambda: stats.bootstrap([1.0], [1.0], statistic="median"),
        "there is no statistic 'median'",
    ),
    (
        "bootstrap repeats",
        lambda: stats.bootstrap([1.0, 2.0], [1.0, 2.0], repeats="9"),
        "repeats is '9', a str",
    ),
    (
        "bootstrap repeats f",
        lambda: stats.bootstrap([1.0, 2.0], [1.0, 2.0], repeats=1.5),
        "repeats is 1.5, a float",
    ),
    (
        "bootstrap seed None",
        lambda: stats.bootstrap([1.0, 2.0], [1.0, 2.0], seed=None),
        "seed is None",
    ),
    ("bootstrap seed neg", lambda: stats.bootstrap([1.0, 2.0], [1.0, 2.0], seed=-1), "seed is -1"),
    ("bootstrap str", lambda: stats.bootstrap("a", "b"), "outcomes is 'a', a str"),
    (
        "bootstrap shapes",
        lambda: stats.bootstrap([1.0, 2.0], [1.0]),
        "outcomes, baseline and weights of shape (2,), (1,) and (2,",
    ),
    ("column_order ds", lambda: stats.column_order(D), "table is a Dataset"),
    ("column_order list", lambda: stats.column_order([1]), "table is [1]"),
    # plots
    ("heatmap metric", lambda: plots.heatmap(D, "acc"), "there is no metric 'acc'"),
    (
        "heatmap columns unknown",
        lambda: plots.heatmap(D, columns=[7]),
        "of the columns asked for, 7 was not recorded, or not compu",
    ),
    (
        "heatmap columns empty",
        lambda: plots.heatmap(D, columns=[]),
        "of the columns asked for, none came",
    ),
    ("heatmap two ds", lambda: plots.heatmap(D, D), "metric is a Dataset"),
    (
        "compare paths",
        lambda: plots.compare({"a": "ds.nc", "b": "ds.nc"}),
        "expected an xarray Dataset, got a str.",
    ),
    (
        "compare metric",
        lambda: plots.compare({"a": D, "b": D}, metric="acc"),
        "there is no metric in all of these results 'acc'",
    ),
    ("save ds", lambda: plots.save(D, "a.png"), "plot is a Dataset, which is no plot"),
    ("save ds html", lambda: plots.save(D, "a.html"), "plot is a Dataset, which is no plot"),
    ("save None", lambda: plots.save(None, "a.png"), "plot is None, which is no plot"),
    ("save swapped", lambda: plots.save("a.png", plots.heatmap(D)), "path is a HeatMap"),
    (
        "save nosuffix",
        lambda: plots.save(plots.heatmap(D), "a"),
        "path is a, with the suffix ''; give one that ends in .html",
    ),
    (
        "save jpg",
        lambda: plots.save(plots.heatmap(D), "a.jpg"),
        "path is a.jpg, with the suffix '.jpg'; give one",
    ),
    ("save path None", lambda: plots.save(plots.heatmap(D), None), "path is None"),
    ("save path int", lambda: plots.save(plots.heatmap(D), 3), "path is 3, an int"),
    (
        "save width",
        lambda: plots.save(plots.heatmap(D), "a.png", width="3in"),
        "there is no width of paper called '3in'",
    ),
    ("save width list", lambda: plots.save(plots.heatmap(D), "a.png", width=[3]), "width is [3]"),
    ("save width 0", lambda: plots.save(plots.heatmap(D), "a.png", width=0), "width is 0"),
    (
        "save table",
        lambda: plots.save(stats.summary(D), "a.png"),
        "plot is a DataFrame, which is no plot",
    ),
    (
        "save list",
        lambda: plots.save([plots.heatmap(D)], "a.png"),
        "plot is a list of 1, which is no plot",
    ),
    (
        "save axes",
        lambda: plots.save(
            __import__("matplotlib.figure", fromlist=["Figure"]).Figure().add_subplot(), "a.png"
        ),
        "plot is an Axes, which is no plot",
    ),
    ("show ds", lambda: repr(plots.show(D)), "plot is a Dataset, which is no plot"),
    ("show None", lambda: repr(plots.show(None)), "plot is None, which is no plot"),
    ("show live", lambda: plots.show(plots.heatmap(D), live="yes"), "live is 'yes', a str"),
    ("embed ds", lambda: plots.embed(D), "plot is a Dataset, which is no plot"),
    (
        "points col",
        lambda: plots.points(pd.DataFrame({"a": [1]}), "b", "a"),
        "there is no column 'b'",
    ),
    ("points ds", lambda: plots.points(D, "a", "b"), "table is a Dataset"),
    ("points dict", lambda: plots.points({"a": [1]}, "a", "a"), "table is {'a': [1]}"),
    (
        "points text y",
        lambda: plots.points(pd.DataFrame({"a": [1], "b": ["x"]}), "a", "b"),
        "the column 'b' holds no numbers",
    ),
    (
        "overview nodist",
        lambda: plots.overview(D.drop_vars("distance")),
        "the Dataset has no variable 'distance'",
    ),
    (
        "curves no reinit",
        lambda: plots.curves(D.sel(perturbation=["rerandomize"])),
        "no layer was reset to a checkpoint here",
    ),
    ("save swapped r", lambda: save("x.nc", D), "path is a Dataset"),
    ("save None r", lambda: save(None, "x.nc"), "expected an xarray Dataset, got None."),
    ("save array", lambda: save(D.value, "x.nc"), "expected an xarray Dataset, got a DataArray."),
    ("save r path None", lambda: save(D, None), "path is None"),
    (
        "save r frame",
        lambda: save(pd.DataFrame(), "x.nc"),
        "expected an xarray Dataset, got a DataFrame.",
    ),
    # report and results
    (
        "report ds",
        lambda: report.write(D, "a.html"),
        "a report takes a mapping from names to Datasets",
    ),
    (
        "report path",
        lambda: report.write("ds.nc", "a.html"),
        "a report takes a mapping from names to Datasets",
    ),
    (
        "report mapping paths",
        lambda: report.write({"a": "ds.nc"}, "a.html"),
        "the result 'a' is 'ds.nc'",
    ),
    (
        "report foreign",
        lambda: report.write({"a": foreign}, "a.html"),
        "the Dataset has no variable 'value'",
    ),
    (
        "report None",
        lambda: report.write(None, "a.html"),
        "a report takes a mapping from names to Datasets",
    ),
    (
        "report empty",
        lambda: report.write({}, "a.html"),
        "a report takes a mapping from names to Datasets",
    ),
    ("report swapped", lambda: report.write("a.html", {"a": D}), "path is a dict of 1"),
    (
        "report metric",
        lambda: report.write({"a": D}, "a.html", metric="acc"),
        "there is no metric 'acc'",
    ),
    ("report path None", lambda: report.write({"a": D}, None), "path is None"),
    ("report path int", lambda: report.write({"a": D}, 3), "path is 3, an int"),
    ("read ds", lambda: report.read([D]), "a result is a Dataset"),
    ("read None", lambda: report.read(None), "paths is None"),
    ("read missing", lambda: report.read(["nowhere.nc"]), "there is no Dataset at nowhere.nc"),
    ("open missing", lambda: open_dataset("nowhere.nc"), "there is no Dataset at nowhere.nc"),
    ("open None", lambda: open_dataset(None), "path is None"),
    ("open ds", lambda: open_dataset(D), "path is a Dataset"),
    ("open int", lambda: open_dataset(3), "path is 3, an int"),
    (
        "open txt",
        lambda: open_dataset("file"),
        "file (1 bytes) is no Dataset: Unable to synchronously open",
    ),
    (
        "open pt",
        lambda: open_dataset("trained.pt"),
        "trained.pt (2,589 bytes) is no Dataset: Unable to synchron",
    ),
    ("open folder", lambda: open_dataset("."), ""),
    ("concat one", lambda: concat(D, [0]), "datasets is a Dataset"),
    ("concat counts", lambda: concat([D, D], [0]), "2 Datasets came with 1 seeds"),
    ("concat seeds int", lambda: concat([D], 0), "seeds is 0"),
    ("concat paths", lambda: concat(["ds.nc"], [0]), "datasets holds 'ds.nc'"),
    ("concat None", lambda: concat(None, [0]), "datasets is None"),
    ("concat dict", lambda: concat({"a": D}, [0]), "datasets is a dict of 1"),
    ("concat twice seed", lambda: concat([D, D], [0, 0]), "seeds is [0, 0]"),
    (
        "concat other",
        lambda: concat([D, testing.dataset(3)], [0, 1]),
        "these runs can't be joined along seed: cannot align object",
    ),
    ("concat seeds str", lambda: concat([D, D], ["a", "b"]), "seeds is ['a', 'b']"),
    ("settings None", lambda: results.settings(None), "expected an xarray Dataset, got None."),
    # checkpoints
    ("os list", lambda: open_series(["a"]), "a does not say its epoch"),
    ("os None", lambda: open_series(None), "checkpoints is a NoneType"),
    ("os fit None", lambda: open_series(S).fit(None), "model is None, not an nn.Module"),
    ("os read", lambda: open_series(S).read(7), "epoch 7 was not recorded"),
    ("os read str", lambda: open_series(S).read("0"), "epoch 0 was not recorded"),
    (
        "os read names",
        lambda: open_series(S).read(0, ["nope"]),
        "the checkpoint of epoch 0 holds no tensor nope.",
    ),
    (
        "os read name str",
        lambda: open_series(S).read(0, "0.weight"),
        "the checkpoint of epoch 0 holds no tensor 0.",
    ),
    ("os require str", lambda: open_series(S).require("0"), "epoch 0 was not recorded"),
    (
        "os build",
        lambda: models.rebuild(open_series(S)),
        "this series does not say which network it is of",
    ),
    ("Series unit", lambda: Series(S, unit="steps"), "there is no unit 'steps'"),
    # recipes, networks, data by name
    ("build opt", lambda: models.build("fcn-1x8", clases=3), "there is no network option 'clases'"),
    ("build classes str", lambda: models.build("fcn-1x8", classes="3"), "classes is '3', a str"),
    ("build classes 0", lambda: models.build("fcn-1x8", classes=0), "classes is 0"),
    ("build inputs int", lambda: models.build("fcn-1x8", inputs=4), "inputs is 4"),
    ("build inputs str", lambda: models.build("fcn-1x8", inputs="4"), "inputs is '4'"),
    ("build seed None", lambda: models.build("fcn-1x8", seed=None), "seed is None"),
    ("build seed str", lambda: models.build("fcn-1x8", seed="0"), "seed is '0', a str"),
    (
        "build init",
        lambda: models.build("fcn-1x8", initializer="he"),
        "there is no initializer 'he'",
    ),
    (
        "build removed str",
        lambda: models.build("fcn-2x8", removed="layer1"),
        "layer1 can't be removed: it turns (784,) into (8,), and th",
    ),
    (
        "build removed unknown",
        lambda: models.build("fcn-2x8", removed=["layer9"]),
        "there is no layer to remove 'layer9'",
    ),
    ("count None", lambda: models.count_parameters(None), "network is None"),
    ("Examples lens", lambda: data.Examples(X, Y[:3]), "60 inputs came with 3 targets"),
    # layers
    ("find None", lambda: layers.find(None), "model is None, not an nn.Module"),
    ("find class", lambda: layers.find(nn.Linear), "model is the class Linear, not an nn.Module"),
    ("find view", lambda: layers.find(net, "leafs"), "there is no view 'leafs'"),
    ("find str", lambda: layers.find("net"), "model is 'net', not an nn.Module"),
    # explorer
    ("E None", lambda: E(None), "a NoneType can't be explored"),
    ("E path", lambda: E("nowhere"), "there is no folder nowhere"),
    ("E net", lambda: E(net), "a network came alone"),
    (
        "E net data",
        lambda: E(net, pair, perturbations=["reinitialize"]),
        "'reinitialize' takes values from a checkpoint, and there is nothing to go back to",
    ),
    ("E class", lambda: E(nn.Linear, pair, S), "a type can't be explored"),
    ("E foreign", lambda: E(foreign), "the Dataset has no variable 'value'"),
    ("E frame", lambda: E(pd.DataFrame()), "a DataFrame can't be explored"),
    ("E int", lambda: E(3), "a int can't be explored"),
    ("E metric", lambda: E(net, pair, S, metric="acc"), "there is no metric 'acc'"),
    (
        "E metrics fn",
        lambda: E(net, pair, S, metrics=[lambda z, y: z]),
        "metrics holds the function <lambda>",
    ),
    ("E batch", lambda: E(net, pair, S, batch_size="64"), "batch_size is '64', a str"),
    (
        "E dataset path",
        lambda: E(net, pair, S, dataset="nowhere.nc"),
        "there is no Dataset at nowhere.nc",
    ),
    (
        "E dataset foreign",
        lambda: E(net, pair, S, dataset=foreign),
        "the Dataset has no variable 'value'",
    ),
    ("E ds metric", lambda: E(D, metric="acc"), "there is no metric 'acc'"),
    # experiments and commands
    (
        "gallery nowhere",
        lambda: gallery.write("nowhere", "a.html"),
        "there is no finished run in nowhere",
    ),
    ("explore run int", lambda: explore.prepare(3), "run is 3, an int"),
    (
        "explore out file",
        lambda: explore.prepare(None, "file"),
        "can't write file/explore.ipynb: Not a directory",
    ),
    ("decision str", lambda: sequential.Decision("a"), "robust is 'a'"),
    ("cli show foreign", lambda: cli("show", "foreign.nc"), "the Dataset has no variable 'value'"),
    ("cli show txt", lambda: cli("show", "file"), "file (1 bytes) is no Dataset: Unable to"),
    (
        "cli show metric",
        lambda: cli("show", "ds.nc", "--metric", "acc"),
        "there is no metric 'acc'",
    ),
    (
        "cli report foreign",
        lambda: cli("report", "foreign.nc"),
        "the Dataset has no variable 'value'",
    ),
    ("cli report dup", lambda: cli("report", "ds.nc", "ds.nc"), "ds.nc came more than once"),
    (
        "cli report metric",
        lambda: cli("report", "ds.nc", "--metric", "acc"),
        "there is no metric 'acc'",
    ),
    ("cli reproduce none", lambda: cli("reproduce"), "give the name of one experiment, or --a"),
    ("cli reproduce jobs", lambda: cli("reproduce", "--all", "--jobs", "0"), "jobs is 0"),
    ("cli gallery", lambda: cli("gallery", "nowhere"), "there is no finished run in nowhere"),
    ("cli gallery file", lambda: cli("gallery", "file"), "there is no finished run in file"),
    ("cli data", lambda: cli("data", "nope"), "there is no data set 'nope'"),
    (
        "cli explore",
        lambda: cli("explore", "nowhere", "--no-browser"),
        "there is no run at nowhere",
    ),
    ("data meta", lambda: W(d=(X.to("meta"), Y.to("meta"))), "on the device meta"),
    ("data sparse", lambda: W(d=(X.to_sparse(), Y)), "is sparse, or on the device meta"),
    (
        "checkpoints on meta",
        lambda: W(checkpoints={0: meta().state_dict(), 1: S[1]}),
        "on the device meta",
    ),
    (
        "a metric of one argument",
        lambda: metrics.Metric("m", "m", lambda z: z),
        "is called as per_example(outputs, targets)",
    ),
    (
        "a metric that wants a reference",
        lambda: metrics.Metric("m", "m", lambda z, y, r: z),
        "uses_reference=True",
    ),
    ("a metric's name", lambda: metrics.Metric(1, "a", lambda z, y: z), "name of a metric is 1"),
    ("a metric's function", lambda: metrics.Metric("m", "a", "error"), "per_example is 'error'"),
    (
        "a metric's bounds",
        lambda: metrics.Metric("m", "a", lambda z, y: z, bounds=(1, 0)),
        "has the bounds (1, 0)",
    ),
]

# With several wrong values each: what is called, and how the message starts for each value.
NUMBERS = {
    "draws": (["3", 0, -1, 1.5, None, True, [3], float("nan")], lambda v: W(draws=v)),
    "batch_size": (["64", 0, -1, 2.5, None, True, [64]], lambda v: W(batch_size=v)),
    "seed": ([None, "0", 1.5, True, [0], torch.Generator()], lambda v: W(seed=v)),
    "confidence": (
        [95, "0.95", 0, 1, None, float("nan")],
        lambda v: stats.summary(D, confidence=v),
    ),
    "tolerance": (["x", None, float("nan")], lambda v: stats.classify(D, tolerance=v)),
    "critical_share": (["x", 0, 2, None], lambda v: stats.classify(D, critical_share=v)),
    "critical": (["x", float("nan")], lambda v: stats.classify(D, critical=v)),
    "epochs": (["1", 0, 1.5, None, True], lambda v: Recipe(epochs=v)),
    "lr": (["x", 0, None, float("nan"), float("inf")], lambda v: Recipe(lr=v)),
    "momentum": (["x", None, -1], lambda v: Recipe(momentum=v)),
    "decay": (["x", None, -1], lambda v: Recipe(decay=v)),
    "drops": ([0.3, "x", None], lambda v: Recipe(drops=v)),
    "betas": ([0.9, None, (0.9,)], lambda v: Recipe(betas=v)),
    "frozen": (["layer1", None, 3], lambda v: Recipe(frozen=v)),
    "nesterov": (["x", None], lambda v: Recipe(nesterov=v)),
    "dtype": (["float32", torch.int8, 16, "half", True, [1]], lambda v: W(dtype=v)),
    "width": (["x", 0, [3]], lambda v: plots.save(plots.heatmap(D), "a.png", width=v)),
    "device": (["gpu", "cuda:99", 1.5, "", "meta", [1]], lambda v: W(device=v)),
    "tolerance of a sweep": ([0, 2, "x", True], lambda v: W(tolerance=v)),
    "decide of a sweep": ([2, "0.02", None, [1], {"foo": 1}], lambda v: W(decide=v)),
    "network": ([None, 3, "resnet", "", ["fcn-1x8"], nn.Linear], models.build),
}
NO_DATASET = [None, "ds.nc", D.value, pd.DataFrame({"a": [1]}), {"a": D}, [D], np.zeros(3), foreign]
READERS = [
    *(stats.summary, stats.classify, stats.degradation, stats.interval, stats.distances),
    *(stats.rank_correlation, plots.heatmap, plots.curves, plots.distances, plots.overview),
    *(report.finding, plots.compare),
]


def refused(call):
    """The message of an error of ours, which is short and says what to do."""
    with pytest.raises(LayerscopeError) as caught:
        call()
    message = str(caught.value).strip()
    assert len(message) < 1000, "nobody reads that"
    assert "tensor(" not in message, "values are no description"
    assert not re.search(r"<\w+ .* at 0x", message), "an address says nothing"
    return message


@pytest.mark.parametrize(("call", "start"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_call_gets_an_answer(call, start):
    assert start in refused(call)


@pytest.mark.parametrize("name", NUMBERS)
def test_wrong_numbers_get_an_answer(name):
    values, call = NUMBERS[name]
    for value in values:
        message = refused(lambda value=value: call(value))
        kind = "None" if value is None else type(value).__name__
        shown = str(value) if isinstance(value, (str, int, float)) else kind
        known = {name.split(" ")[0], shown, "Decision"} - {""}
        assert any(each in message for each in known), message


@pytest.mark.parametrize("read", READERS, ids=lambda read: f"{read.__module__}.{read.__name__}")
def test_what_is_no_result_is_named(read):
    for given in NO_DATASET:
        refused(lambda given=given: read(given))


def test_there_are_enough_of_them():
    listed = len(WRONG) + sum(len(values) for values, _ in NUMBERS.values())
    assert listed + len(READERS) * len(NO_DATASET) >= 300


def test_what_can_be_meant_is_taken():
    """A module's own names, any container of names or numbers, one column, a metric itself."""
    columns = ["0", "2", "fullmodel"]
    for wanted in (np.array(["0", "2"]), {"0", "2"}, (n for n in "02"), layers.find(net)):
        assert list(W(layers=wanted).layer.values) == columns
    for wanted in (range(2), np.array([0, 1]), torch.tensor([0, 1]), {0, 1}):
        assert list(W(epochs=wanted).epoch.values) == [-1, 0, 1]
    assert W(seed=np.int64(3)).attrs["seed"] == 3
    assert len(plots.heatmap(D, metrics.METRICS["error"], columns="rand")) == 5
    assert len(plots.heatmap(D, columns=0)) == 5
    assert plots.save(plots.show(plots.heatmap(D), live=False), "shown.png").is_file()


def test_without_an_error_the_first_metric_is_shown(capsys):
    assert stats.summary(noerr)["value"].equals(stats.summary(D, "loss")["value"])
    assert "loss" in str(plots.heatmap(noerr).opts.get("plot").kwargs["title"])
    assert len(plots.compare({"a": noerr, "b": noerr})) == 3
    save(noerr.drop_vars("distance"), "noerr.nc")
    assert main(["show", "noerr.nc", "--png", "noerr.png"]) == 0
    assert "loss with one layer reset" in capsys.readouterr().out
    E(noerr)
