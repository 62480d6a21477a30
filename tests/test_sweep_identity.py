"""A folder is gone on with by the same call alone: whatever its values depend on is compared."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import random
import subprocess
import sys
import threading
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import layerscope
from layerscope.base import devices
from layerscope.base.fingerprints import Fingerprint, fingerprint
from layerscope.core.layers import Norms
from layerscope.core.metrics import Metric
from layerscope.core.perturb import Perturbation, Redraw, parse
from layerscope.core.probe import CellTensors, Subject
from layerscope.core.sweep._differences import differences
from layerscope.core.sweep._grid import Grid, rows
from layerscope.core.sweep._identity import identify
from layerscope.core.sweep._plan import Plan
from layerscope.errors import ResultError

helpers = types.ModuleType("helpers")
helpers.__file__ = "/somewhere/helpers.py"
helpers.FACTOR = 2.0
SCALE = 1.5
TABLE = torch.ones(4)


def helper(values):
    return values * SCALE


class Network(nn.Module):
    """With what no checkpoint holds: a buffer, a scale, an object, a counter, a cache."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(5, 8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("shift", torch.zeros(8), persistent=False)
        self.temperature = 1.0
        self.config = types.SimpleNamespace(slope=0.1)
        self.calls = 0
        self.cache: dict[int, torch.Tensor] = {}
        self.last = None

    def forward(self, inputs):
        self.calls += 1
        self.last = inputs
        if len(inputs) not in self.cache:
            self.cache[len(inputs)] = torch.ones(1)
        hidden = nn.functional.leaky_relu(self.body(inputs) + self.shift, self.config.slope)
        return self.scaled(self.head(hidden)) * self.cache[len(inputs)]

    def scaled(self, values):
        return values / self.temperature

    def training_step(self):
        return TABLE


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 5, generator=generator), torch.randint(4, (30,), generator=generator)


STATES = {epoch: Network(epoch).state_dict() for epoch in (0, 1)}


def sweep(out, pair, model=None, **options):
    options = {"perturbations": ["reinitialize"], "device": "cpu", "batch_size": 20} | options
    return layerscope.sweep(
        Network(5) if model is None else model,
        pair,
        checkpoints=STATES,
        out=out,
        show_progress=False,
        **options,
    )


def built(seed):
    def fresh():
        made = Network(int(torch.randint(99, ())))
        with torch.no_grad():
            made.body.weight *= seed
        return made

    return fresh


def own_metric(function):
    return {"metrics": [Metric("mine", "mine", function)]}


def own_perturbation(function):
    return {"perturbations": [Perturbation("mine", function)]}


class Bound:
    def __init__(self, weight):
        self.weight = weight

    def measured(self, outputs, _):
        return outputs.sum(-1) * self.weight


def by_closure(value):
    return lambda outputs, _: outputs.sum(-1) * torch.as_tensor(value).sum()


def by_default(value):
    def mine(outputs, _, factor=value):
        return outputs.sum(-1) * torch.as_tensor(factor).sum()

    return mine


def by_partial(value):
    return functools.partial(
        lambda outputs, _, factor: outputs.sum(-1) * factor.sum(), factor=value
    )


def halved(site):
    return {name: helper(tensor) for name, tensor in site.trained.items()}


def from_a_module(outputs, _):
    return outputs.sum(-1) * helpers.FACTOR


def from_a_tensor(outputs, _):
    return (outputs * TABLE).sum(-1)


# Two calls each: what differs between them, and nothing else.
OPTIONS = {
    "fresh": [{"perturbations": ["rerandomize"], "fresh": built(n)} for n in (1, 3)],
    "tensor in a closure": [own_metric(by_closure(torch.full((3,), n))) for n in (1.0, 2.0)],
    "tensor in a default": [own_metric(by_default(torch.full((3,), n))) for n in (1.0, 2.0)],
    "one element of a column": [
        own_metric(by_closure(torch.full((1, 3), n)[:, 1])) for n in (1.0, 2.0)
    ],
    "tensor in a partial": [own_metric(by_partial(torch.full((3,), n))) for n in (1.0, 2.0)],
    "array in a closure": [own_metric(by_closure(np.full(3, n))) for n in (1.0, 2.0)],
    "object that it is bound to": [own_metric(Bound(n).measured) for n in (1.0, 2.0)],
    "tensor that it is bound to": [own_metric(Bound(torch.tensor(n)).measured) for n in (1.0, 2.0)],
    "what is made of the mean": [
        {"metrics": [Metric("mine", "mine", by_closure(1.0), finish=f)]}
        for f in (lambda mean: mean + 1, lambda mean: mean + 2)
    ],
    "tensor in a perturbation": [
        own_perturbation(lambda site, by=by: {n: t * by for n, t in site.trained.items()})
        for by in (torch.tensor(2.0), torch.tensor(3.0))
    ],
    "part of a joined perturbation": [
        {
            "perturbations": [
                Perturbation("mine", lambda s, by=by: {n: t * by for n, t in s.trained.items()})
                .then(Perturbation("more", halved))
            ]
        }
        for by in (torch.tensor(2.0), torch.tensor(3.0))
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", OPTIONS)
def test_another_function_is_another_sweep(pair, tmp_path, what):
    first, second = OPTIONS[what]
    ds = sweep(tmp_path, pair, **first)
    assert sweep(tmp_path, pair, **first).identical(layerscope.open_dataset(tmp_path / "sweep.nc"))
    with pytest.raises(ResultError, match="another sweep"):
        sweep(tmp_path, pair, **second)
    assert not np.array_equal(ds["value"], sweep(None, pair, **second)["value"], equal_nan=True)


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_functions_of_another_environments_packages_are_named_not_read(folder):
    # As in an environment that sees the system's packages: reading all of torch has no end.
    def of(body, folder):
        module = {"__name__": "theirs"}
        exec(compile(f"def f(x): {body}", f"/elsewhere/{folder}/theirs.py", "exec"), module)
        return fingerprint(module["f"])

    assert of("return x", folder) == of("return 2 * x", folder)
    assert of("return x", "src") != of("return 2 * x", "src")


@pytest.mark.parametrize(
    ("options", "place", "name", "value"),
    [
        (own_perturbation(halved), sys.modules[__name__], "SCALE", 2.5),
        (own_metric(from_a_tensor), sys.modules[__name__], "TABLE", torch.arange(4.0)),
        (own_metric(from_a_module), helpers, "FACTOR", 3.0),
        (own_perturbation(halved), sys.modules[__name__], "helper", lambda values: values + 1),
    ],
)
def test_globals_that_a_function_uses_are_compared(
    pair, tmp_path, monkeypatch, options, place, name, value
):
    sweep(tmp_path, pair, **options)
    monkeypatch.setattr(place, name, value)
    with pytest.raises(ResultError, match=r"(code of metrics|settings of perturbations) differ"):
        sweep(tmp_path, pair, **options)


def shifted(model):
    model.shift += 1


def hotter(model):
    model.temperature = 2.0


def steeper(model):
    model.config.slope = 0.5


def patched(model):
    model.forward = lambda inputs: Network.forward(model, inputs) * 2


def hooked(model):
    model.head.register_forward_hook(lambda *given: given[-1] + 1)


def reclassed(model):
    class Other(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * 1.0

    Other.__qualname__ = Other.__name__ = "Linear"
    model.body.__class__ = Other


CHANGES = [shifted, hotter, steeper, patched, hooked, reclassed]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_network_is_another_sweep(pair, tmp_path, change):
    sweep(tmp_path, pair)
    sweep(tmp_path, pair, Network(9))  # the weights are those of the checkpoints
    other = Network(5)
    change(other)
    with pytest.raises(ResultError, match="network_"):
        sweep(tmp_path, pair, other)


def test_an_edited_forward_is_another_sweep(pair, tmp_path, monkeypatch):
    sweep(tmp_path, pair)
    # Out of sight of the outputs: what a negative temperature would do.
    monkeypatch.setattr(
        Network, "scaled", lambda self, v: v / self.temperature if self.temperature > 0 else -v
    )
    with pytest.raises(ResultError, match="network_code"):
        sweep(tmp_path, pair)


def test_what_the_outputs_alone_show_is_another_sweep(pair, tmp_path, monkeypatch):
    class Hidden(Network):
        def forward(self, inputs):
            return super().forward(inputs) * float(os.environ.get("A_FACTOR", "1"))

    sweep(tmp_path, pair, Hidden(5))
    monkeypatch.setenv("A_FACTOR", "2")
    with pytest.raises(ResultError, match="network_outputs differ"):
        sweep(tmp_path, pair, Hidden(5))


def test_a_network_that_was_used_meanwhile_is_the_same(pair, tmp_path):
    model = Network(5)
    sweep(tmp_path, pair, model)
    for size in (2, 20, 10):
        model(pair[0][:size])
    model.last = None
    model.cache.pop(20), model.cache.pop(10)
    sweep(tmp_path, pair, model)


def test_a_network_that_is_compiled_again_is_the_same(pair, tmp_path):
    for _ in range(2):
        sweep(tmp_path, pair, torch.compile(Network(5), backend="eager"))


def test_what_only_training_uses_is_of_no_account(pair, tmp_path, monkeypatch):
    sweep(tmp_path, pair)
    monkeypatch.setattr(Network, "training_step", lambda _: None)
    monkeypatch.setattr(sys.modules[__name__], "TABLE", None)
    sweep(tmp_path, pair)


def test_a_function_that_holds_the_network_goes_by_the_checkpoints(pair, tmp_path):
    def options(model):
        return own_perturbation(
            lambda site: {n: t * len(list(model.children())) for n, t in site.trained.items()}
        )

    one, other = Network(7), Network(8)
    sweep(tmp_path, pair, one, **options(one))
    sweep(tmp_path, pair, other, **options(other))


SETTINGS = {
    "an autocast around": lambda: torch.autocast("cpu", torch.bfloat16),
    "another default type": lambda: _default_dtype(torch.float64),
    "matmul precision": lambda: _precision("medium"),
    "oneDNN off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "attention": lambda: sdpa_kernel(SDPBackend.MATH),
    "denormal numbers": lambda: _flushing(),
    "transformer layers": lambda: _fast_path(),
    "deterministic algorithms": lambda: _deterministic(),
}
NAMED = {
    "an autocast around": r"autocast \(torch\.bfloat16 here, off there\)",
    "another default type": r"default type \(torch\.float64 here, torch\.float32 there\)",
    "matmul precision": r"matmul precision \(medium here, highest there\)",
    "oneDNN off": r"torch\.backends\.mkldnn\.enabled \(False here, True there\)",
    "attention": r"attention by flash \(off here, on there\)",
    "denormal numbers": r"denormal numbers \(flushed to 0 here, kept there\)",
    "transformer layers": r"fast path of transformer layers \(off here, on there\)",
    "deterministic algorithms": r"deterministic algorithms \(on here, off there\)",
}


@contextmanager
def _flushing():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _fast_path():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class _default_dtype:  # noqa: N801
    def __init__(self, dtype):
        self.dtype = dtype

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_):
        torch.set_default_dtype(self.before)


class _precision(_default_dtype):  # noqa: N801
    def __enter__(self):
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.dtype)

    def __exit__(self, *_):
        torch.set_float32_matmul_precision(self.before)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("setting", SETTINGS)
def test_other_arithmetic_is_another_sweep(pair, tmp_path, setting):
    sweep(tmp_path, pair)
    model = Network(5)
    with SETTINGS[setting](), pytest.raises(ResultError, match=NAMED[setting]):
        sweep(tmp_path, pair, model)
    sweep(tmp_path, pair)


CHILD = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
import test_sweep_identity as t
if sys.argv[2] == "values":
    print(json.dumps([t.fingerprint(t.value(seed)) for seed in range(60)]))
elif sys.argv[2] == "half":
    t.half_a_sweep(sys.argv[3])
else:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 5, generator=generator)
    pair = inputs, torch.randint(4, (30,), generator=generator)
    for what, (first, _) in t.OPTIONS.items():
        t.sweep(sys.argv[2] + "/" + what, pair, **first)
"""


def child(*what, **environment):
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), *map(str, what)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return ran.stdout


def value(seed):
    """Something nested of all kinds; the same for the same seed."""
    chance = random.Random(seed)

    def made(depth):
        kind = chance.randrange(13 if depth else 6)
        inner = [made(depth - 1) for _ in range(chance.randrange(4))] if kind > 5 else []
        words = [f"word{chance.randrange(99)}" for _ in range(6)]
        return [
            lambda: chance.random(),
            lambda: words[0],
            lambda: torch.full((2, 3), chance.random()).to(torch.bfloat16),
            lambda: np.arange(chance.randrange(5)),
            lambda: set(words),
            lambda: frozenset((word, len(word)) for word in words),
            lambda: inner,
            lambda: tuple(inner),
            lambda: dict(zip(words, inner, strict=False)),
            lambda: functools.partial(helper, *inner),
            lambda: types.SimpleNamespace(inside=inner),
            lambda: lambda x: (inner, helper(x), words),
            lambda: Bound(inner).measured,
        ][kind]()

    return made(3)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_gives_the_same_digests(seed):
    found = json.loads(child("values", PYTHONHASHSEED=seed))
    assert found == [fingerprint(value(number)) for number in range(60)]
    assert len(set(found)) > 50


def test_another_process_goes_on_in_the_same_folder(tmp_path):
    for seed in ("3", "4"):
        child(tmp_path, PYTHONHASHSEED=seed)


def half_a_sweep(out):
    """Stop after the first batch, as Ctrl-C would."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 5, generator=generator)
    pair = inputs, torch.randint(4, (30,), generator=generator)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(out, pair, callback=stop)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this processor has no other"
)
def test_half_a_sweep_under_other_instructions_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as the child has
    child("half", tmp_path, ATEN_CPU_CAPABILITY="default")
    assert list(tmp_path.rglob("*.npz"))
    here = torch.backends.cpu.get_cpu_capability()
    # Not alone: what is drawn has other bits under them as well.
    told = rf"belongs to another sweep: .*processor instructions \({here} here, DEFAULT there\)"
    with pytest.raises(ResultError, match=told):
        half_a_sweep(tmp_path)


def test_precision_that_was_set_in_two_ways_is_told(monkeypatch):
    cpu = torch.device("cpu")

    def mixed():
        raise RuntimeError("PyTorch is checking whether allow_tf32_new is enabled ...")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert devices.arithmetic(cpu)["matmul precision"] == "set in two ways"


def test_cards_of_one_kind_share_a_folder(monkeypatch):
    cards = {"cuda": "H", "cuda:0": "H", "cuda:1": "H", "cuda:2": "A"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: cards[str(device)])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    told = {card: devices.arithmetic(torch.device(card)) for card in cards}
    assert told["cuda"] == told["cuda:0"] == told["cuda:1"]
    assert differences(told["cuda:1"], told["cuda:2"]) == ["card (H here, A there)"]
    # Kept out, since it is off while a network is lent.
    assert "torch.backends.cudnn.benchmark" not in told["cuda"]


def test_the_cpu_is_one_device_by_whatever_number(pair, tmp_path):
    ds = sweep(tmp_path, pair)
    assert sweep(tmp_path, pair, device="cpu:0").identical(ds)


def test_the_version_of_a_package_that_the_network_is_of_is_told(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.ops.MLP(5, [4])
    assert identity_of(model)["libraries"] == {"torchvision": torchvision.__version__}
    before = identity_of(model)
    monkeypatch.setattr(torchvision, "__version__", "0.1")
    named = differences(identity_of(model), before)
    assert f"torchvision (0.1 here, {before['libraries']['torchvision']} there)" in named


def identity_of(model):
    given = {"checkpoints": None, "metrics": ["error"], "batch_size": 4, "dtype": None}
    pair = torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)
    subject = Subject.of(model, pair, device="cpu", output=None, **given)
    found = rows(model, None, "leaf", Norms(), network=True)
    series = subject.series
    tensors = CellTensors(model, series, Redraw(model, series), 0, subject.device)
    plan = Plan(subject, Grid(found, parse(["skip"]), [], 1), tensors)
    return identify(plan, None)


def test_differences_are_told_as_far_as_they_can_be_read():
    one = {"seed": 1, "epochs": [0, 1, 5], "data": {"sha256": "0" * 64}, "output": "", "same": 3}
    other = {"seed": 0, "epochs": [0, 1, 4], "data": {"sha256": "1" * 64}, "same": 3}
    assert differences(one | {"code": "a" * 64}, other | {"code": "b" * 64}) == [
        "code",
        "data",
        "epochs (5 here only, 4 there only)",
        "output (none here, none there)",
        "seed (1 here, 0 there)",
    ]
    assert differences(one, one) == []


@given(st.integers(0, 10_000))
def test_equal_values_have_equal_digests(seed):
    assert fingerprint(value(seed)) == fingerprint(value(seed))
    assert fingerprint(copy.deepcopy(value(seed))) == fingerprint(value(seed))


LEAVES = st.one_of(
    st.integers(), st.floats(), st.text(), st.binary(), st.booleans(), st.none(),
    st.lists(st.floats(width=32), min_size=1).map(torch.tensor),
    st.lists(st.integers(-99, 99)).map(np.array),
)  # fmt: skip
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(NESTED, NESTED)
def test_what_differs_has_another_digest(one, other):
    told = [repr(each).replace("tensor", "") for each in (one, other)]
    same = fingerprint(one) == fingerprint(other)
    if same:
        assert told[0] == told[1]


def test_what_can_not_be_described_is_named(pair, tmp_path):
    lock, file = threading.Lock(), io.StringIO()
    options = own_metric(lambda outputs, _: (lock, outputs.sum(-1))[1])
    with pytest.warns(UserWarning, match=r"the metric 'mine' uses a _thread\.lock: that can't be"):
        ds = sweep(tmp_path, pair, **options)
    assert json.loads(ds.attrs["not_described"]) == ["the metric 'mine' uses a _thread.lock"]
    assert Fingerprint([lock, lock]).opaque == ["_thread.lock"]
    assert not Fingerprint(file).opaque
    assert sweep(tmp_path / "other", pair).attrs["not_described"] in ("[]", [])
