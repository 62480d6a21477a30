"""The recipes of docs/clusters.md, run as they stand where that can be here."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr

import layerscope
from layerscope import open_dataset
from layerscope.cli import main
from layerscope.core.checkpoints import open_series
from layerscope.zoo import models

pytest.importorskip("distributed", reason="dask is not installed")

# Of Dask's dashboard, where another cluster runs on this machine.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Port 8787 is already in use"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
]

DOCS = Path(__file__).parents[1] / "docs" / "clusters.md"

SBATCH = """#!/bin/bash
# Stands in for SLURM: starts the job on this machine and answers as sbatch does.
echo $$ >> "$STAND_IN/submitted"
cp "$1" "$STAND_IN/$$.sh"  # as SLURM does: it is removed once this has answered
setsid bash "$STAND_IN/$$.sh" > "$STAND_IN/$$.log" 2>&1 &
echo $! > "$STAND_IN/job-$$"
echo "Submitted batch job $$"
"""

SCANCEL = """#!/bin/bash
for job in "$@"; do
    [ -f "$STAND_IN/job-$job" ] && kill -- -"$(cat "$STAND_IN/job-$job")" 2> /dev/null
    echo "$job" >> "$STAND_IN/cancelled"
done
exit 0
"""


def recipe(title: str, language: str = "python", place: int = 0) -> str:
    """The code under a heading."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[place]


@pytest.fixture(scope="module")
def names(trained, few_digits):
    """What the recipes take for granted."""
    series = open_series(trained.folder)
    usual = {"network": models.rebuild(series), "data": few_digits.test, "series": series}
    return usual | {"layerscope": layerscope}


@pytest.fixture(scope="module")
def serial(names):
    """The Dataset of one process."""
    return layerscope.sweep(
        names["network"], names["data"], checkpoints=names["series"], show_progress=False
    )


def run(code: str, names: dict) -> dict:
    known = dict(names)
    exec(compile(code, str(DOCS), "exec"), known)
    return known


def test_the_plan_of_the_first_recipe_is_printed(names, capsys):
    text = DOCS.read_text(encoding="utf-8").split("\n## ")[0]
    run(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    assert "Plan of a sweep" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_on_this_machine(names, serial):
    found = run(recipe("On one machine"), names)
    xr.testing.assert_identical(found["ds"].drop_attrs(), serial.drop_attrs())


@pytest.mark.slow
def test_a_sweep_by_jobs_of_a_stand_in_for_slurm(names, serial, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    out = tmp_path / "out"
    found = run(recipe("SLURM"), names | {"out": out})
    xr.testing.assert_identical(found["ds"].drop_attrs(), serial.drop_attrs())
    xr.testing.assert_identical(open_dataset(out).drop_attrs(), serial.drop_attrs())
    # Two jobs were asked for, and none is left.
    submitted = (tmp_path / "submitted").read_text().split()
    assert len(submitted) == 2
    assert set((tmp_path / "cancelled").read_text().split()) == set(submitted)


@pytest.mark.slow
def test_each_worker_sees_a_card_of_its_own(names, monkeypatch):
    from dask.distributed import Client

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cluster = run(recipe("One GPU for each worker"), names)["cluster"]
    with cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        seen = client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(seen.values()) == ["0", "1"]
        about = client.scheduler_info()["workers"].values()
        assert all(each["resources"] == {"GPU": 1} and each["nthreads"] == 1 for each in about)


@pytest.mark.slow
def test_a_job_array_on_one_folder(trained, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(recipe("A job array, without Dask", "bash"))
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    known = os.environ | {"SERIES": str(trained.folder), "OUT": str(tmp_path / "out"), "PATH": path}
    known |= {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    more = ["--data", "mnist-5k", "--device", "cpu"]
    jobs = [subprocess.Popen(["bash", script, *more], env=known, cwd=tmp_path) for _ in range(2)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    main(["sweep", str(trained.folder), *more, "--out", str(tmp_path / "alone")])
    alone, shared = (open_dataset(tmp_path / name) for name in ("alone", "out"))
    xr.testing.assert_identical(shared.drop_attrs(), alone.drop_attrs())


def test_what_is_not_run_says_so():
    """A recipe that no test runs is marked, in the page and in its words."""
    text = DOCS.read_text(encoding="utf-8")
    blocks = len(re.findall(r"```(?:python|bash|yaml)\n", text))
    assert text.count("<!-- not run -->") == 2
    assert "Not tested\nhere" in text
    assert text.count("**not run here**") == 2
    assert blocks == 7
