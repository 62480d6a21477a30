"""All experiments by a plan: failures are collected, nothing that is finished is done again."""

from __future__ import annotations

import sys
import time

import pytest

from layerscope import cli
from layerscope.errors import OptionError
from layerscope.paper import batch

# Stands for `layerscope reproduce NAME …`: what it is asked for decides how it ends.
CHILD = """
import os, sys, time
name = sys.argv[1]
with open(os.environ["SEEN"], "a") as file:
    file.write(" ".join([*sys.argv[1:], os.environ.get("OMP_NUM_THREADS", "-")]) + "\\n")
if name == "vgg-cifar10":
    print("vgg-cifar10 (smoke), 20 s: train", file=sys.stderr)
    print("layerscope: cell 5 of 03_vgg_cifar10.ipynb failed: ValueError: as it should",
          "(it is in X)", sep="\\n", file=sys.stderr)
    sys.exit(1)
if name == "vit":
    os.kill(os.getpid(), 9)
if name == "mixer":
    time.sleep(600)
print("finished before (in 3 s), nothing to do" if name == "joint" else "finished in 3 s")
"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Let another program stand for the experiments; return the file that it writes to."""
    monkeypatch.setattr(batch, "_COMMAND", (sys.executable, "-c", CHILD))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path / "seen"


NAMES = ["fcn-cifar10", "vgg-cifar10", "vit", "joint"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_failures_are_told_with_cell_and_message_and_the_others_go_on(seen, tmp_path, jobs):
    order: list[str] = []
    outcomes = batch.run_all(
        "smoke",
        names=NAMES,
        jobs=jobs,
        out=tmp_path / "runs",
        data_root="here",
        device="cpu",
        resume=False,
        started=order.append,
        ended=lambda outcome: order.append(f"{outcome.name} ended"),
    )
    assert [outcome.name for outcome in outcomes] == NAMES
    assert {*NAMES, *(f"{name} ended" for name in NAMES)} == set(order)
    fine, failed, killed, before = outcomes
    assert (fine.error, fine.reused) == ("", False)
    assert failed.error == (
        "cell 5 of 03_vgg_cifar10.ipynb failed: ValueError: as it should\n(it is in X)"
    )
    assert killed.error == "its process ended with status -9"
    assert (before.error, before.reused) == ("", True)
    lines = seen.read_text().splitlines()
    given = f"--scale smoke --out {tmp_path / 'runs'} --device cpu --data-root here --no-resume"
    assert sorted(line.rsplit(" ", 1)[0] for line in lines) == sorted(
        f"{name} {given}" for name in NAMES
    )
    shared = {line.rsplit(" ", 1)[1] for line in lines}
    assert (shared == {"-"}) == (jobs == 1), "several at once share the cores"


@pytest.mark.slow
def test_experiments_run_on_the_workers_of_a_cluster(seen, tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    order: list[str] = []
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        outcomes = batch.run_all(
            "smoke",
            names=NAMES,
            out=tmp_path / "runs",
            device="cpu",
            started=order.append,
            ended=lambda outcome: order.append(f"{outcome.name} ended"),
            client=client,
        )

        def stop(_):
            raise KeyboardInterrupt

        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            batch.run_all("smoke", names=["joint", "mixer"], ended=stop, client=client)
        assert time.monotonic() - began < 60
        # The cluster is free for the next.
        assert client.submit(abs, -3).result(timeout=30) == 3
    fine, failed, killed, before = outcomes
    assert (fine.error, fine.reused, before.reused) == ("", False, True)
    assert failed.error.startswith("cell 5 of 03_vgg_cifar10.ipynb failed: ValueError")
    assert killed.error == "its process ended with status -9"
    assert {*NAMES, *(f"{name} ended" for name in NAMES)} == set(order)
    lines = seen.read_text().splitlines()
    given = f"--scale smoke --out {tmp_path / 'runs'} --device cpu"
    assert {line.rsplit(" ", 1)[0] for line in lines} >= {f"{name} {given}" for name in NAMES}


@pytest.mark.usefixtures("seen")
def test_ctrl_c_stops_what_runs():
    def stop(_):
        raise KeyboardInterrupt

    began = time.monotonic()
    # The one ends at once, the other would run for ten minutes.
    with pytest.raises(KeyboardInterrupt):
        batch.run_all("smoke", names=["joint", "mixer"], jobs=2, ended=stop)
    assert time.monotonic() - began < 60


def test_the_plan_knows_what_is_there_and_refuses_what_is_not(tmp_path):
    folder = tmp_path / "joint" / "smoke"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    planned = batch.plan("smoke", out=tmp_path)
    assert len(planned) == 19
    assert [each.name for each in planned if each.there] == ["joint"]
    assert sum(each.minutes for each in planned) < 8
    with pytest.raises(OptionError, match=r"no scale 'smal'.*'small'"):
        batch.plan("smal")
    with pytest.raises(OptionError, match="jobs is 0"):
        batch.run_all("smoke", jobs=0)


@pytest.mark.usefixtures("seen")
def test_the_command_shows_the_plan_first_and_the_failures_last(monkeypatch, capsys, tmp_path):
    four = {name: batch.experiments.EXPERIMENTS[name] for name in NAMES}
    monkeypatch.setattr(batch.experiments, "EXPERIMENTS", four)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["reproduce", "--all", "--scale", "smoke", "--out", str(tmp_path / "o")]) == 1
    told = capsys.readouterr()
    assert told.out.index("Plan, scale smoke") < told.out.index("fcn-cifar10: started")
    assert "vgg-cifar10: failed after" in told.out
    assert "joint: there after" in told.out
    assert told.err.startswith("layerscope: 2 of 4 experiments failed:\n  vgg-cifar10: cell 5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the name of one experiment, or --all"),
        (["--all", "joint"], "the name of one experiment, or --all"),
        (["--all", "--seeds", "2"], "leave them out with --all"),
        (["--all", "-p", "lr=0.1"], "leave them out with --all"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, capsys):
    assert cli.main(["reproduce", *words]) == 1
    assert message in capsys.readouterr().err
