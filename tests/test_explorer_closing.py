"""What a closed explorer leaves behind: nothing."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from ipywidgets.widgets import widget as widgets
from torch import nn

from layerscope.jupyter import LayerExplorer, _closing

ROOT = Path(__file__).parents[1]


def network(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def opened(net, sweep=True):
    pair = torch.randn(30, 4), torch.arange(30) % 2
    states = {0: copy.deepcopy(net.state_dict()), 1: net.state_dict()}
    explorer = LayerExplorer(net, pair, states, device="cpu")
    explorer.state = {"0": ("reinitialize", 0)}
    if sweep:
        explorer.sweep()
    assert explorer.wait(600)
    return explorer


def threads():
    return [each for each in threading.enumerate() if each.name == "layerscope"]


def test_a_closed_explorer_leaves_no_network_thread_or_widget():
    before, running = set(widgets._instances), len(threads())
    explorer = opened(network(8))
    held = weakref.ref(explorer._source.model), weakref.ref(explorer._backend.session)
    assert set(widgets._instances) > before
    layers, swept = explorer.layers, explorer.dataset
    explorer.close()
    gc.collect()
    # Though the explorer itself is still held, as Jupyter holds what a cell has shown.
    assert [each() for each in held] == [None, None]
    assert set(widgets._instances) == before
    assert len(threads()) == running
    assert (explorer.layers, explorer.state) == (layers, {"0": ("reinitialize", 0)})
    assert explorer.dataset.identical(swept)
    explorer.close()  # again does nothing
    gone = weakref.ref(explorer)
    del explorer
    gc.collect()
    assert gone() is None


def test_a_cell_that_is_run_again_closes_what_it_made(monkeypatch):
    runs = [("a", "1"), ("a", "1"), ("b", "2"), ("a", "3")]
    made = []
    for run in runs:
        monkeypatch.setattr(_closing, "_running", lambda run=run: run)
        made.append(opened(network(8)))
    assert [each._backend is None for each in made] == [True, True, False, False]
    for each in made:
        each.close()


ROUNDS = """
import gc, sys, threading
sys.path.insert(0, {root!r})
import torch
from ipywidgets.widgets import widget
from tests.test_explorer_closing import network, opened
torch.set_num_threads(1)

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

net = network(2_500_000)
sizes = []
for _ in range(20):
    opened(net, sweep=False).close()
    sizes.append(resident())
print(sizes)
print(len(widget._instances), [t.name for t in threading.enumerate()])
"""


# The C library gives back what was freed: what it would keep for later is nothing that is held.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_ten_more_rounds_of_a_large_network_take_no_more_memory_than_ten():
    """Network of 70 MB; in a process of its own, whose memory is that of these alone.

    From round to round it goes up and down by what threads of MKL and oneDNN keep between calls, 60
    to 140 MB, whatever Python holds; of that nothing adds up.
    """
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS.format(root=str(ROOT))],
        capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | AT_ONCE,
    )  # fmt: skip
    sizes, left = done.stdout.splitlines()
    sizes = [float(size) for size in sizes.strip("[]").split(",")]
    assert max(sizes[10:]) < max(sizes[:10]) + 10, sizes
    assert left == "0 ['MainThread']"
