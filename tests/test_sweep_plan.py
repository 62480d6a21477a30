"""What a sweep will take, told before anything is swept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import layerscope
from layerscope import models, perturb
from layerscope.cli import main
from layerscope.core.checkpoints import Series
from layerscope.core.probe import CellTensors, _cell as cells
from layerscope.core.sweep import (
    Forecast,
    _costing as costing,
    _crew as crews,
    _estimate as estimates,
    connect,
)
from layerscope.core.sweep._estimate import Estimate
from layerscope.core.sweep._forecast import duration
from layerscope.core.sweep._fragments import Fragment
from layerscope.errors import OptionError, ResultError

EPOCHS = (0, 3, 5)
PAIR = torch.randn(21, 4), torch.randint(0, 2, (21,))


def network(seed=0):
    return models.build("fcn-2x8", seed=seed, inputs=(4,), classes=2)


STATES = {epoch: network(epoch + 1).state_dict() for epoch in EPOCHS}


def sweep(data=PAIR, **options):
    usual = {"checkpoints": STATES, "draws": 2, "device": "cpu", "show_progress": False}
    return layerscope.sweep(network(), data, **(usual | {"batch_size": 8} | options))


def counted(monkeypatch):
    """Counts the bytes that are read of checkpoints."""
    read, own = [0], Series.read

    def counting(self, *given, **named):
        found = own(self, *given, **named)
        read[0] += sum(t.numel() * t.element_size() for t in found.values())
        return found

    monkeypatch.setattr(Series, "read", counting)
    return read


def test_a_plan_counts_cells_and_names_those_that_cannot_be():
    kinds = ["reinitialize", "rerandomize", "skip"]
    plan, ds = sweep(perturbations=kinds, plan=True), sweep(perturbations=kinds)
    assert isinstance(plan, Forecast)
    value = ds["value"].isel(metric=0).notnull()
    assert plan.cells == {name: int(value.sel(perturbation=name).sum()) for name in kinds}
    assert {f"{row} {kind}" for row, kind in plan.refused} == set(json.loads(ds.attrs["refused"]))


def test_nothing_is_swept_nor_written(tmp_path, monkeypatch):
    from layerscope.core import probe

    asked = []
    monkeypatch.setattr(probe.Probe, "ask", lambda _, __, question: asked.append(question.label))
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plan = layerscope.sweep(
        model, PAIR, checkpoints=STATES, out=tmp_path / "out", device="cpu", plan=True
    )
    assert sum(plan.cells.values()) == 4 * (3 + 3)
    assert set(asked) <= {"a trial"}
    assert not (tmp_path / "out").exists()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training


def test_operations_are_those_that_the_sweep_does():
    """Each pass of the sweep, watched by torch's own counter."""
    kinds, data = ["zero"], (PAIR[0][:16], PAIR[1][:16])
    plan = sweep(data, perturbations=kinds, whole=False, plan=True)
    per_layer = [2 * 16 * each for each in (4 * 8, 8 * 8, 8 * 2)]
    whole = sum(per_layer)
    # Recorded once; then what each layer's change reaches.
    suffixes = [sum(per_layer[row:]) for row in range(3)]
    assert plan.flops == whole + sum(suffixes)
    with FlopCounterMode(display=False) as counter:
        network()(data[0])
    assert counter.get_total_flops() == whole


def files(folder):
    """The checkpoints as files."""
    found = {epoch: folder / f"epoch-{epoch}.safetensors" for epoch in STATES}
    for epoch, path in found.items():
        save_file(STATES[epoch], path)
    return found


def test_bytes_read_are_those_that_the_sweep_reads(tmp_path, monkeypatch):
    stored = files(tmp_path)
    told = sum(sweep(checkpoints=stored, plan=True).read.values())
    read = counted(monkeypatch)
    sweep(checkpoints=stored)
    assert read[0] / 1.5 <= told <= read[0] * 1.5


def test_a_folder_has_checkpoints_read_for_their_digests_too(tmp_path):
    stored = files(tmp_path)
    without = sweep(checkpoints=stored, plan=True).read
    kept = sweep(checkpoints=stored, out=tmp_path / "out", plan=True).read
    size = sum(4 * t.numel() for state in STATES.values() for t in state.values())
    assert kept["before the first cell"] - without["before the first cell"] == size


def test_values_in_memory_are_read_from_nowhere():
    plan = sweep(plan=True)
    assert not any(plan.read.values())
    assert "no files are read" in repr(plan)


def stopped(folder, cells, **options):
    """Start a sweep and stop it after some cells."""
    left = iter(range(cells))

    def between():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(out=folder, between=between, **options)


def test_what_a_folder_holds_is_told_and_not_counted(tmp_path):
    folder, options = tmp_path / "out", {"perturbations": ["zero"], "whole": False}
    whole = sweep(plan=True, **options)
    assert sweep(out=folder, plan=True, **options).done == 0
    assert not folder.exists()
    # Three rows on three batches; the last row of the second batch is what it was stopped in.
    stopped(folder, 5, **options)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    plan = sweep(out=folder, plan=True, **options)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    names = {path.stem for path in folder.rglob("*.npz")}
    recorded = [Fragment.of(name) for name in names]
    known = {(each.batch, part) for each in recorded for part in each.parts}
    assert 0 < len(known) < 9
    assert plan.done == pytest.approx(len(known) / 9)
    assert plan.cells == whole.cells
    assert f"{plan.done:.0%} of the evaluations" in repr(plan)
    # By layer, 16 examples in the first two batches and 5 in the last.
    per_layer, lengths = [2 * each for each in (4 * 8, 8 * 8, 8 * 2)], (8, 8, 5)
    left = [
        lengths[batch] * sum(per_layer[row:])
        for batch in range(3)
        for row in range(3)
        if (batch, row) not in known
    ]
    wanted = {batch for batch in range(3) for row in range(3) if (batch, row) not in known}
    recorded_again = sum(lengths[batch] for batch in wanted) * sum(per_layer)
    assert plan.flops == pytest.approx(sum(left) + recorded_again)
    sweep(out=folder, **options)
    done = sweep(out=folder, plan=True, **options)
    assert (done.done, done.flops, sum(done.read.values())) == (1, 0, 0)
    assert plan.parts[0][1].saving > 0 == done.parts[0][1].saving == whole.parts[0][1].saving
    assert "opens the finished Dataset" in repr(done)


def test_a_plan_is_refused_where_the_sweep_would_be(tmp_path):
    sweep(out=tmp_path / "out", perturbations=["zero"])
    with pytest.raises(ResultError, match="belongs to another sweep: seed"):
        sweep(out=tmp_path / "out", perturbations=["zero"], seed=1, plan=True)


def test_measures_are_counted_and_named(monkeypatch):
    monkeypatch.setattr(estimates, "time_measures", lambda *_: 500.0)
    without, plan = sweep(plan=True), sweep(measures=["spectral_exponent"], plan=True)
    assert without.measures == 0
    assert plan.measures == 500
    assert plan.seconds(1) > 500
    assert plan.seconds(4) > 500
    assert "8 min 20 s for measures" in plan.facts()["time"]
    assert "measures" not in without.facts()["time"]


def test_measures_are_timed_on_one_batch_and_one_matrix():
    from layerscope.core.measures import Measure

    seen = []

    def rows(matrix):
        seen.append(tuple(matrix.shape))
        return 1.0

    passes, model = [], network()
    model.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    own = Measure("rows", per_matrix=rows)
    options = {"checkpoints": STATES, "device": "cpu", "batch_size": 8, "plan": True}
    plan = layerscope.sweep(model, PAIR, measures=[own], **options)
    assert len(seen) == 1
    assert plan.measures > 0
    weights_only = len(passes)
    layerscope.sweep(model, PAIR, measures=[own, "block_influence"], **options)
    assert len(passes) == 2 * weights_only + 1


def makings(monkeypatch):
    """Counts how often the weights of each cell are made."""
    found, own = Counter(), CellTensors._perturbed

    def counting(self, cell, trained):
        found[cell.key] += 1
        return own(self, cell, trained)

    monkeypatch.setattr(CellTensors, "_perturbed", counting)
    return found


@pytest.mark.parametrize("options", [{}, {"decide": 0.2}])
def test_weights_that_are_not_kept_are_made_as_often_as_the_plan_says(monkeypatch, options):
    data = torch.randn(50, 4), torch.randint(0, 2, (50,))
    options = {"perturbations": ["zero"], "whole": False, "batch_size": 5} | options
    for module in (costing, cells):
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
    (_, plan), = sweep(data, plan=True, **options).parts  # fmt: skip
    assert plan.costs.together == (1 if "decide" in options else 8)
    made = makings(monkeypatch)
    if "decide" not in options:
        sweep(data, **options)
        assert {count - 1 for count in made.values()} == {plan.makings} == {1 + 2}  # once tried
    assert plan.makings == (10 if "decide" in options else 3)


def test_workers_that_are_not_there_can_be_planned_with(monkeypatch):
    import distributed

    monkeypatch.setattr(distributed, "LocalCluster", None)  # whoever starts one fails
    monkeypatch.setattr(crews, "_import_seconds", lambda names: 100.0 + len(names) * 0)
    monkeypatch.setattr(crews, "_cores", lambda: 2)
    before = torch.get_num_threads()
    with connect("local:4", start=False) as crew:
        assert (crew.count, crew.at_once, torch.get_num_threads()) == (4, 2, 1)
        plan = sweep(plan=True, client=crew)
        with pytest.raises(OptionError, match="client is"):
            sweep(client=crew)
    assert torch.get_num_threads() == before
    label, time, _, tile = plan.workers()[-1]
    assert label == "4 yours"
    # Four processes start on two cores, and then as many compute at a time as there are cores.
    assert plan.starting == 200
    assert time == duration(plan.seconds_of_crew())
    assert 200 < plan.seconds_of_crew() < 200 + 3 * plan.seconds(1) + plan.parts[0][1].costs.setup
    assert "3 min 20 s" in plan.facts()["workers"]
    assert "of which 2 compute at a time" in plan.facts()["workers"]
    assert tile


class Running:
    """A client of two workers, the second of which has imported nothing but some modules."""

    def __init__(self, *second):
        self._second = second

    def scheduler_info(self, **_):
        return {"workers": {at: {"host": "127.0.0.1"} for at in range(2)}}

    def run(self, function, *given, **_):
        first = function(*given)
        return {0: first, 1: [name for name in first if name in self._second]}


def test_workers_that_have_swept_before_need_no_time_to_start(monkeypatch):
    monkeypatch.setattr(crews, "_import_seconds", lambda names: 10.0 * (1 + names.count(",")))
    monkeypatch.setattr(crews, "_cores", lambda: 2)
    package, code = "layerscope.core.sweep", type(network()).__module__
    seconds = {(): 20, (package,): 10, (code,): 10, (package, code): 0}
    for imported, expected in seconds.items():
        client = Running(*imported)
        assert crews.Crew.of(client).import_for(network(), client).start() == expected
    ready = crews.Crew(2, 2, missing=())
    assert (
        "2; each opens the sweep in" in Forecast(sweep(plan=True).parts, ready).facts()["workers"]
    )
    planned = crews.Crew(2, 2).import_for(network(), None)
    assert planned.missing == ("distributed", package, code)


def test_one_worker_apart_takes_its_setup_beside():
    (_, plan), = sweep(plan=True).parts  # fmt: skip
    slow = dataclasses.replace(plan, costs=dataclasses.replace(plan.costs, setup=50.0))
    assert slow.seconds(1) == plan.seconds(1)
    assert slow.seconds(1, apart=True) > 50


def test_memory_is_that_of_tensors():
    plan = sweep(plan=True)
    network_bytes = 4 * sum(t.numel() for t in network().state_dict().values())
    assert plan.memory["network"] == plan.memory["second network"] == network_bytes
    assert plan.memory["weights of a row"] == 4 * (8 * 8 + 8)
    # Of a batch, what the layers after the first gave or were given.
    assert 0 < plan.memory["activations kept"] <= 4 * 8 * (4 + 4 * 8 + 2)
    assert "second network" not in sweep(whole=False, plan=True).memory


def test_time_is_made_of_what_was_measured(monkeypatch):
    own, found = estimates.time_batch, []

    def as_if(probe, groups):
        measured = own(probe, groups)
        passes = measured.passes
        slow = type(passes)(
            passes.whole._replace(seconds=60.0),
            {group: work._replace(seconds=10.0) for group, work in passes.groups.items()},
        )
        found.append(type(measured)(slow, scoring=1.0, asking=0.0))
        return found[-1]

    monkeypatch.setattr(estimates, "time_batch", as_if)
    plan = sweep(perturbations=["reinitialize"], whole=False, plan=True)
    # Two epochs beside the last, which is the baseline, of three rows; two batches and a part.
    loop = (21 / 8) * (60 + 1 + 2 * 3 * (10 + 1))
    assert plan.seconds() == pytest.approx(loop, rel=0.05)
    assert plan.seconds(3) < plan.seconds() / 1.3


def test_parts_are_summed():
    tasks = {"news": PAIR, "code": (PAIR[0][:7], PAIR[1][:7])}
    whole = sweep(tasks, model_epochs=[3, 5], plan=True)
    parts = [
        sweep(
            data,
            checkpoints={e: state for e, state in STATES.items() if e <= last},
            plan=True,
        )
        for data in tasks.values()
        for last in (3, 5)
    ]
    assert whole.cells == {name: sum(part.cells[name] for part in parts) for name in parts[0].cells}
    assert whole.flops == sum(part.flops for part in parts)
    assert whole.read == {when: sum(part.read[when] for part in parts) for when in parts[0].read}
    assert "in 4 parts" in repr(whole)
    assert "task code, model_epoch 3: 7 examples" in repr(whole)


def test_a_plan_of_a_sweep_that_may_stop_early_is_the_most():
    plan = sweep(decide=0.2, plan=True)
    assert "at most " in plan.facts()["time"]
    assert "at most " not in sweep(plan=True).facts()["time"]


def test_a_network_that_cannot_be_watched_has_a_plan():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(torch.as_tensor(x.numpy()))

    plan = layerscope.sweep(Odd(), PAIR, device="cpu", plan=True, perturbations=["zero"])
    # Every cell takes a pass of all modules.
    assert plan.flops == 0 or plan.flops == plan.parts[0][1].plain_flops


def test_a_plan_shows_itself():
    odd = perturb.Perturbation("<script>", lambda site: site.trained)
    plan = sweep(perturbations=[odd], plan=True)
    text, page = repr(plan), plan._repr_html_()
    for words in ("4 cells in 4 rows", "21 examples in 3 batches", "before the first cell"):
        assert words in text
        assert words in re.sub(r"<[^>]+>", "", page)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    first = plan.workers()[0]
    assert first[0] == "1"
    assert first[1] == duration(plan.seconds())


def test_a_plan_says_why_it_lists_no_more_workers(monkeypatch):
    plan = sweep(plan=True)
    monkeypatch.setattr(Estimate, "seconds", lambda _, workers=1: 100 / min(workers, 4))
    assert [count for count, *_ in plan.workers()] == ["1", "2", "4"]
    told = "Twice as many workers would save less than 10% of the time."
    assert told in repr(plan)
    assert told in plan._repr_html_()
    monkeypatch.setattr(Estimate, "seconds", lambda _, workers=1: 100 / workers)
    assert len(plan.workers()) == 7
    assert told not in repr(plan) + plan._repr_html_()


def test_a_plan_on_the_command_line(trained, few_digits, tmp_path, monkeypatch, capsys):
    from layerscope.cli import _sweeping as sweeping

    monkeypatch.setattr(sweeping, "data_of", lambda *_: few_digits)
    main(["sweep", str(trained.folder), "--out", str(tmp_path / "out"), "--plan"])
    assert "Plan of a sweep" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_plan_with_workers_of_this_machine_starts_none(
    trained, few_digits, tmp_path, monkeypatch, capsys
):
    import distributed

    from layerscope.cli import _sweeping as sweeping

    monkeypatch.setattr(distributed, "LocalCluster", None)
    monkeypatch.setattr(crews, "_import_seconds", lambda _: 3.0)
    monkeypatch.setattr(sweeping, "data_of", lambda *_: few_digits)
    given = ["sweep", str(trained.folder), "--out", str(tmp_path / "out"), "--plan"]
    assert main([*given, "--dask", "local:2"]) == 0
    assert re.search(r"^ +2 yours", capsys.readouterr().out, re.MULTILINE)


def test_a_plan_is_asked_for_by_yes_or_no():
    with pytest.raises(OptionError, match="plan is 3, an int; give True or False"):
        sweep(plan=3)


def test_a_plan_changes_nothing_that_the_dataset_tells_of_the_call():
    assert "plan" not in sweep(plan=False).attrs["call"]
