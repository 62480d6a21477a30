"""A device is there or refused; and nothing stays on the CPU when the network is elsewhere.

The second is checked without a GPU: fake tensors carry a device, and operators refuse to mix.
"""

from __future__ import annotations

import ast
import ctypes
import platform
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope import data, metrics, models
from layerscope.base import devices
from layerscope.core import batches as batching, lending as borrow
from layerscope.core.probe import CellTensors
from layerscope.core.running import run_network
from layerscope.errors import OptionError


def test_auto_takes_what_is_there(monkeypatch):
    for cuda, mps, expected in ((False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert str(devices.resolve()) == expected


@pytest.mark.parametrize(
    ("kind", "known", "expected"),
    [
        ("cpu", {"avx2": True, "avx512_bf16": False}, False),
        ("cpu", {"avx512_bf16": True}, True),
        ("cpu", {"neon": True, "bf16": True}, True),
        ("cuda", (7, 5), False),
        ("cuda", (8, 0), True),
        ("mps", {"bf16": True}, False),
    ],
)
def test_bfloat16_is_for_devices_that_have_instructions_for_it(monkeypatch, kind, known, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: known)
    assert devices.multiplies_bfloat16(torch.device(kind)) is expected


def test_a_device_that_is_absent_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(
            OptionError, match=r"'cuda.*' is not present on this machine; use 'auto'"
        ):
            devices.resolve(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(devices.resolve("cuda:0")) == "cuda:0"
    with pytest.raises(OptionError, match=r"this machine has 1 CUDA device\(s\), counted from 0"):
        devices.resolve("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "CPU ", None])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(OptionError, match="is not a device; use 'auto', 'cpu', 'cuda'"):
        devices.resolve(name)


def test_a_device_without_values_is_refused():
    with pytest.raises(OptionError, match="'meta' is not present"):
        devices.resolve("meta")


def test_the_cpu_is_described_with_its_threads():
    assert devices.resolve("cpu") == torch.device("cpu")
    assert devices.describe(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"


# Everything on one device

CUDA = torch.device("cuda:0")


@pytest.fixture
def fake():
    with FakeTensorMode() as mode:
        yield mode


def elsewhere(mode: FakeTensorMode, model: torch.nn.Module) -> torch.nn.Module:
    """Let every parameter say that it is on a GPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            fake = mode.from_tensor(parameter).detach().to(CUDA)
            module._parameters[name] = torch.nn.Parameter(fake)
    return model


@pytest.fixture
def network():
    model = models.build("fcn-2x8", inputs=(3, 4), classes=5)
    with FakeTensorMode() as mode:
        yield elsewhere(mode, model)


def examples() -> data.Examples:
    return data.Examples(
        torch.zeros(10, 3, 4, dtype=torch.uint8), torch.zeros(10, dtype=torch.long), 0.1, 0.3
    )


OF_CLASSES = [m for m in metrics.METRICS.values() if m.classes or not m.needs_targets]


def test_a_mix_of_devices_is_noticed_here(network):
    """Without this the tests below would show nothing."""
    with pytest.raises(RuntimeError, match=r"found.*(two|different) devices"):
        network(torch.zeros(2, 3, 4))
    outputs = network(torch.zeros(2, 3, 4, device=CUDA))
    with pytest.raises(RuntimeError, match=r"found.*(two|different) devices"):
        metrics.METRICS["loss"].per_example(outputs, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("order", [None, "cpu", "cuda"])
def test_batches_and_metrics_stay_where_the_network_is(network, order):
    there = examples().to(CUDA)
    shuffle = None if order is None else torch.arange(10, device=order)
    sizes = []
    for inputs, targets in there.batches(4, shuffle):
        assert inputs.device == targets.device == CUDA
        outputs = run_network(network, inputs)
        assert outputs.device == CUDA
        for metric in OF_CLASSES:
            given = (outputs, targets, outputs)[: 2 + metric.uses_reference]
            assert metric.per_example(*given).device == CUDA
        sizes.append(len(targets))
    assert sizes == [4, 4, 2]


@pytest.mark.usefixtures("fake")
def test_images_are_augmented_where_they_are():
    there = data.Examples(
        torch.zeros(10, 2, 3, 4, dtype=torch.uint8), torch.zeros(10), (0.1, 0.2), (0.3, 0.4)
    ).to(CUDA)
    for inputs, _ in there.batches(4, augment=data.Augment().at(0, 1)):
        assert inputs.device == CUDA
        assert inputs.shape[1:] == (2, 3, 4)


@pytest.mark.usefixtures("fake")
def test_inputs_of_every_form_are_moved():
    moved = batching.move({"a": torch.zeros(2), "b": [torch.zeros(2), (torch.zeros(2), 3)]}, CUDA)
    assert moved["a"].device == moved["b"][0].device == moved["b"][1][0].device == CUDA


def test_swapped_values_come_to_the_device_of_the_network(network):
    values = {"layer2.weight": torch.ones(8, 8), "layer2.bias": torch.ones(8)}
    batch = torch.zeros(2, 3, 4, device=CUDA)
    # A fake tensor keeps its device when its data are replaced, so they are looked at before.
    assert borrow.like(network.layer2.weight.data, values["layer2.weight"]).device == CUDA
    with borrow.swapped(network, values):
        assert network(batch).device == CUDA


def test_buffers_of_a_borrowed_network_come_along():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    model.register_buffer("passing", torch.zeros(3), persistent=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # the buffers are real
        elsewhere(mode, model)
        with borrow.borrowed(model, CUDA) as lent:
            assert len(list(lent.buffers())) == 4
            assert {t.device for t in lent.buffers()} == {CUDA}
            assert lent(torch.zeros(2, 4, device=CUDA)).device == CUDA
    assert {t.device.type for t in model.buffers()} == {"cpu"}


class NoDouble(TorchDispatchMode):
    """Refuse what mps can't do: double precision anywhere but on the CPU. Count transfers."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if torch.is_tensor(found):
            assert found.device != CUDA or found.dtype != torch.double, func
            left = args and torch.is_tensor(args[0]) and args[0].device == CUDA
            self.transfers += bool(left and found.device.type == "cpu")
        return found


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5)])
def test_outcomes_come_to_the_cpu_first_and_together(shape):
    """mps has no double precision, and every transfer waits for the accelerator."""
    outputs = torch.zeros(shape, device=CUDA)
    targets = torch.zeros(shape[:-1], dtype=torch.long, device=CUDA)
    with NoDouble() as seen:
        with pytest.raises(AssertionError):
            outputs.double()
        wanted = OF_CLASSES
        found = metrics.measure(wanted, outputs, targets, outputs)
    for outcome in found.values():
        assert outcome.values.device.type == outcome.weights.device.type == "cpu"
        assert outcome.values.dtype == torch.double
    assert seen.transfers == 1


@pytest.mark.usefixtures("fake")
def test_outcomes_of_numbers_come_to_the_cpu_together():
    outputs, targets = torch.zeros(6, 2, device=CUDA), torch.ones(6, 2, device=CUDA)
    wanted = [m for m in metrics.METRICS.values() if m not in OF_CLASSES]
    with NoDouble() as seen:
        found = metrics.measure(wanted, outputs, targets, outputs)
    assert found.keys() == {"mse", "bce"}
    assert seen.transfers == 1


def test_a_whole_cell_stays_on_the_device(network, monkeypatch):
    """What is kept and swapped in, the passes, and the outcomes beside the reference."""
    batch = torch.zeros(6, 3, 4, device=CUDA)
    targets = torch.zeros(6, dtype=torch.long, device=CUDA)
    values = {"layer2.weight": torch.ones(8, 8), "layer2.bias": torch.ones(8)}
    tensors, cell = CellTensors(network, None, None, 0, CUDA), SimpleNamespace(key="", layer="")
    monkeypatch.setattr(tensors, "computed", lambda _: values)
    kept = tensors.of(cell)
    assert tensors.of(cell) is kept
    assert {t.device for t in kept.values()} == {CUDA}
    swapper = borrow.Swapper(network)
    wanted = OF_CLASSES
    # A recorder runs the network plainly here: it trusts no tensors of other classes.
    reference = network(batch)
    monkeypatch.setattr(torch, "equal", None)  # comparing would wait for the accelerator
    with NoDouble() as seen:
        with swapper.swapped(kept):
            outputs = network(batch)
        assert seen.transfers == 0
        found = metrics.measure(wanted, outputs, targets, reference)
        assert seen.transfers == 1
    assert reference.device == outputs.device == CUDA
    for outcome in found.values():
        assert outcome.values.device.type == outcome.weights.device.type == "cpu"


NAMED = re.compile(r"(cuda|mps|xpu|hip|npu|hpu)(:\d+)?")


def named_in(source: str) -> list[str]:
    """Accelerators that code names, by a text that is nothing else or as a part of torch."""
    words = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.append(node.value)
        elif isinstance(node, ast.Attribute):
            words.append(node.attr)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            words += [part for alias in node.names for part in alias.name.split(".")]
            words += (getattr(node, "module", None) or "").split(".")
    return [word for word in words if NAMED.fullmatch(word)]


def test_accelerators_are_named_in_one_place(repository):
    for line in ("torch.cuda.synchronize()", "x.to('cuda:1')", "from torch import mps", "x.cuda()"):
        assert named_in(line), line
    assert not named_in("'auto takes the first of cuda, mps and cpu that is present'")
    files = set((repository / "layerscope").rglob("*.py"))
    here = set((repository / "layerscope" / "base" / "devices").glob("*.py"))
    assert any(named_in(path.read_text(encoding="utf-8")) for path in here)
    assert {
        str(path): words
        for path in files - here
        if (words := named_in(path.read_text(encoding="utf-8")))
    } == {}


def test_a_draw_is_noticed():
    before = devices.random_states()
    assert devices.same_states(before, devices.random_states())
    with torch.random.fork_rng(devices=[]):
        torch.rand(1)
        assert not devices.same_states(before, devices.random_states())


def test_freed_memory_can_be_given_back_anywhere(monkeypatch):
    devices.trim()

    def nothing_there(_: object) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", nothing_there)
    devices.trim()


FAULTS = """
import resource, torch
from layerscope.base import devices

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

plain, at_first = faults(), held()
with devices.KeepMemory(torch.device("cpu")) as keep:
    asked = faults()
    keep.fit(2**26)
    faults()
    kept = faults()
print(min(plain, asked), kept, held() - at_first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_kept_for_the_next_tensor_and_then_returned():
    said = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    plain, kept, left, afterwards = map(float, said.stdout.split())
    assert plain > 10 * kept
    assert left < 16  # MiB, of 64
    assert afterwards > 10 * kept


HOLES = """
import sys, torch
from layerscope.base import devices

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

with devices.KeepMemory(torch.device("cpu")) as keep:
    keep.fit(2**28 if sys.argv[1] == "large" else 0)
    large = torch.ones(2**26)  # 256 MiB
    settled = [torch.ones(2**22)]  # 16 MiB, more than is free anywhere else: so behind it
    before = held()
    for _ in range(3):
        del large
        settled.append(torch.ones(2**22))
        large = torch.ones(2**26)
    grown = held() - before
    pieces = [torch.ones(2**21) for _ in range(32)]  # 8 MiB each
    settled.append(torch.ones(2**18))  # behind them
    before = held()
    del pieces
    keep.settle()
    print(grown, before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize("what", ["large", "small"])
def test_nothing_settles_where_a_large_tensor_was(what):
    said = subprocess.run(
        [sys.executable, "-c", HOLES, what], capture_output=True, text=True, check=True
    )
    grown, returned = map(float, said.stdout.split())
    assert (grown < 100) == (returned > 200) == (what == "large")  # MiB


@pytest.mark.parametrize(
    ("kind", "dtype", "plainly"),
    [
        ("cpu", torch.bfloat16, True),
        ("cpu", None, False),
        ("cuda", torch.bfloat16, False),
        ("mps", torch.bfloat16, False),
    ],
)
def test_attention_is_trained_plainly_where_that_is_faster(kind, dtype, plainly):
    before = torch.backends.cuda.flash_sdp_enabled()
    with devices.short_attention(torch.device(kind), dtype):
        assert torch.backends.cuda.flash_sdp_enabled() == (before and not plainly)
        assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == before
