"""Sweeps over several data sets and several trained networks: an outer loop of the ordinary one."""

from __future__ import annotations

import copy

import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import metrics, models, open_dataset, plots, results, stats
from layerscope.base import progress
from layerscope.cli import main
from layerscope.core.sweep._tasks import tasks_of
from layerscope.errors import CheckpointError, DataError, OptionError, ResultError, SweepWarning

pytestmark = pytest.mark.usefixtures("without_pictures")

EPOCHS = (0, 3, 5)


def network(seed=0):
    return models.build("fcn-1x8", seed=seed, inputs=(4,), classes=2)


def pair(seed, count=10):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, torch.randint(0, 2, (count,), generator=generator)


STATES = {epoch: network(epoch + 1).state_dict() for epoch in EPOCHS}
TASKS = {"news": pair(0), "code": pair(1, 7)}


def sweep(data=None, **options):
    given = {"checkpoints": STATES, "draws": 2, "device": "cpu", "show_progress": False}
    return layerscope.sweep(network(), TASKS if data is None else data, **(given | options))


def same(part, alone):
    """Compare values and coordinates bit for bit, and attributes but for the time."""
    xr.testing.assert_identical(part.drop_attrs(), alone.drop_attrs())
    assert part.attrs.keys() == alone.attrs.keys()
    told, said = ({**ds.attrs, "reuse": reused(ds)} for ds in (part, alone))
    assert {name for name in told if told[name] != said[name]} <= {"wall_time_s"}


def reused(ds):
    """What was reused, but for what memory was free a moment before."""
    return {k: v for k, v in results.settings(ds)["reuse"].items() if k != "budget_bytes"}


def test_each_part_is_what_a_sweep_of_its_own_gives():
    ds = sweep(model_epochs=[5, 3])
    assert ds.value.dims[:2] == ("task", "model_epoch")
    assert ds.model_epoch.values.tolist() == [3, 5]
    parts = results.parts(ds)
    assert list(parts)[1] == "task news, model_epoch 5"
    for task, data in TASKS.items():
        same(parts[f"task {task}, model_epoch 5"], sweep(data))
        until = {epoch: state for epoch, state in STATES.items() if epoch <= 3}
        same(parts[f"task {task}, model_epoch 3"], sweep(data, checkpoints=until))


def test_what_depends_on_the_weights_alone_stands_once():
    ds = sweep(model_epochs=[3, 5])
    assert ds.distance.dims == ("layer", "epoch", "norm")
    assert bool(ds.distance.sel(epoch=[0, 3, 5]).notnull().all())
    assert ds.draw_distance.dims[0] == "model_epoch"
    assert {"task", "model_epoch"} <= set(ds.chance.dims) & set(ds.baseline.dims)


def test_layers_are_set_back_to_epochs_up_to_the_trained_one():
    ds = sweep(TASKS["news"], model_epochs=[3, 5], epochs=[0, 5])
    known = ds.value.sel(perturbation="reinitialize", draw=0, metric="error").notnull().all("layer")
    assert known.sel(model_epoch=3, epoch=[0, 5]).values.tolist() == [True, False]
    assert known.sel(model_epoch=5, epoch=[0, 5]).values.tolist() == [True, True]
    assert "task" not in ds.dims


def test_the_first_checkpoint_can_count_as_trained():
    ds = sweep(TASKS["news"], model_epochs=[0, 5])
    same(
        results.parts(ds)["model_epoch 0"],
        sweep(TASKS["news"], checkpoints={0: STATES[0]}),
    )
    back = ds.difference.sel(model_epoch=0, epoch=0, perturbation="reinitialize", draw=0)
    assert bool((back == 0).all())


class Brings:
    """Data with a metric of their own."""

    def __init__(self, data, name):
        self._data = data
        self.metrics = [metrics.Metric(name, "largest logit", lambda logits, _: logits.amax(-1))]

    def __iter__(self):
        yield self._data


def test_metrics_that_only_some_tasks_have():
    tasks = {"news": TASKS["news"], "scored": Brings(TASKS["code"], "margin")}
    ds = sweep(tasks)
    assert ds.metric.values.tolist() == ["error", "loss", "margin"]
    assert ds.baseline.notnull().values.tolist() == [[True, True, False], [False, False, True]]
    assert ds.metric_long_name.values.tolist()[-1] == "largest logit"
    assert ds.fraction_of.values.tolist() == ["errors", "", ""]
    parts = results.parts(ds)
    same(parts["task news"], sweep(tasks["news"]))
    assert parts["task scored"].metric.values.tolist() == ["margin"]
    chosen = sweep(tasks, metrics=["loss", "margin"])
    assert chosen.baseline.notnull().values.tolist() == [[True, False], [False, True]]
    with pytest.raises(OptionError, match="task 'scored' can't be measured by any of loss"):
        sweep(tasks, metrics=["loss"])


def test_metrics_of_one_name_must_mean_the_same():
    other = Brings(TASKS["code"], "margin")
    other.metrics = [metrics.Metric("margin", "another", lambda logits, _: logits.amin(-1))]
    with pytest.raises(ResultError, match="'margin' differs in metric_long_name"):
        sweep({"a": Brings(TASKS["news"], "margin"), "b": other})


# The folder.


def test_it_goes_on_where_it_was_stopped(tmp_path):
    whole = sweep(model_epochs=[3, 5])

    class Stop(Exception):  # noqa: N818
        pass

    def stop(ds):
        if "code" in ds.task and ds.sizes["model_epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        sweep(model_epochs=[3, 5], out=tmp_path, callback=stop)
    assert (tmp_path / "task-news" / "model_epoch-5" / "sweep.nc").is_file()
    assert not (tmp_path / "sweep.nc").exists()
    partial = open_dataset(tmp_path / "partial.nc")
    assert partial.task.values.tolist() == ["news"]
    finished = (tmp_path / "task-news" / "model_epoch-5" / "sweep.nc").stat().st_mtime_ns
    ds = sweep(model_epochs=[3, 5], out=tmp_path)
    xr.testing.assert_identical(ds.drop_attrs(), whole.drop_attrs())
    assert (tmp_path / "task-news" / "model_epoch-5" / "sweep.nc").stat().st_mtime_ns == finished
    xr.testing.assert_identical(open_dataset(tmp_path), ds)
    assert not (tmp_path / "partial.nc").exists()

    def never():
        raise AssertionError("computed again")

    xr.testing.assert_identical(sweep(model_epochs=[3, 5], out=tmp_path, between=never), ds)


def test_a_folder_of_another_sweep_is_left_alone(tmp_path):
    sweep(TASKS["news"], out=tmp_path / "plain")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResultError, match=r"belongs to another sweep: .*parts"):
        sweep(out=tmp_path / "plain")
    assert sorted(tmp_path.rglob("*")) == before
    sweep(out=tmp_path / "tasks")
    with pytest.raises(ResultError, match=r"belongs to another sweep: seed \("):
        sweep(out=tmp_path / "tasks", seed=1)


def test_outcomes_lie_with_the_parts(tmp_path):
    sweep(out=tmp_path, outcomes=True)
    each = [xr.open_dataset(tmp_path / f"task-{task}" / "outcomes.nc") for task in TASKS]
    assert [ds.sizes["example"] for ds in each] == [10, 7]
    assert not (tmp_path / "outcomes.nc").exists()


def test_names_of_tasks_are_no_paths(tmp_path):
    sweep({"../a b": TASKS["news"], ".._a_b": TASKS["code"]}, out=tmp_path / "out")
    folders = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


# What else a sweep takes.


def test_sequential_rules_settle_each_part_on_its_own():
    data = {"news": pair(0, 400), "code": pair(1, 300)}
    options = {"decide": {"robust": 0.2, "critical": 0.4}, "batch_size": 20, "metrics": ["error"]}
    ds = sweep(data, **options)
    assert ds.verdict.dims[0] == "task"
    same(results.parts(ds)["task code"], sweep(data["code"], **options))


def test_the_callback_sees_the_parts_that_have_begun():
    seen = []
    ds = sweep(callback=lambda known: seen.append(known.task.values.tolist()))
    assert seen[0] == ["news"]
    assert seen[-1] == ["news", "code"] == ds.task.values.tolist()


def test_one_bar_counts_all_parts(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.done = options, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, steps):
            assert steps >= 0
            self.done += steps

        def set_postfix(self, *_, **__):
            pass

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.delenv(progress.RELAY, raising=False)
    sweep(model_epochs=[3, 5], show_progress=True)
    (bar,) = bars
    # Epochs and draws of each of three rows.
    assert bar.done == bar.options["total"] == (10 + 7) * 3 * ((2 + 2) + (3 + 2))


def test_what_is_wrong_with_a_task_is_said_before_the_first_cell():
    def never():
        raise AssertionError("a cell was computed")

    inputs, targets = TASKS["code"]
    with pytest.raises(DataError, match=r"task 'code': 3 inputs came with 7 targets"):
        sweep({"news": TASKS["news"], "code": (inputs[:3], targets)}, between=never)
    with pytest.raises(DataError, match="task 'code': a target is class 10"):
        sweep({"news": TASKS["news"], "code": (inputs, targets + 9)}, between=never)


def test_epochs_that_can_not_be():
    with pytest.raises(CheckpointError, match="epoch 4 was not recorded"):
        sweep(model_epochs=[4])
    with pytest.raises(OptionError, match="model_epochs is empty"):
        sweep(model_epochs=[])
    with pytest.raises(OptionError, match=r"epoch 3 can't be set back to any of epochs=\[5\]"):
        sweep(model_epochs=[3, 5], epochs=[5])


def test_a_notice_says_of_which_part_it_is():
    states = STATES | {3: copy.deepcopy(STATES[0])}
    with pytest.warns(SweepWarning, match="^model_epoch 3: .* nothing moved"):
        sweep(TASKS["news"], checkpoints=states, model_epochs=[3, 5])


def test_runs_of_several_seeds_are_joined_with_their_parts():
    runs = [sweep(seed=seed) for seed in (0, 1)]
    ds = layerscope.concat(runs, seeds=[0, 1])
    part = results.parts(ds)["task code"]
    alone = layerscope.concat([results.parts(run)["task code"] for run in runs], seeds=[0, 1])
    xr.testing.assert_identical(part.drop_attrs(), alone.drop_attrs())
    assert len(results.settings(part)["runs"]) == 2
    assert results.settings(part)["runs"][1]["data"]["examples"] == 7


# Who reads it.


@pytest.fixture(scope="module")
def mixed():
    """Two tasks, of which one is measured by something else, and two trained networks."""
    return sweep(
        {"news": TASKS["news"], "own": Brings(TASKS["code"], "margin")}, model_epochs=[3, 5]
    )


def test_the_terminal_shows_every_part(mixed, tmp_path, capsys):
    path = layerscope.save(mixed, tmp_path / "sweep.nc")
    assert main(["show", str(path)]) == 0
    said = capsys.readouterr().out
    for words in results.parts(mixed):
        assert words in said
    assert main(["show", str(path), "--png", str(tmp_path / "a.png")]) == 1
    assert "--part: 'task news, model_epoch 3'" in " ".join(capsys.readouterr().err.split())
    part = ["--part", "task own, model_epoch 5"]
    assert main(["show", str(path), *part, "--html", str(tmp_path / "a.html")]) == 0
    said = capsys.readouterr().out
    assert "margin" in said
    assert "news" not in said
    assert main(["show", str(path), "--part", "task old"]) == 1
    assert main(["show", str(path), "--metric", "margi"]) == 1


def test_a_report_has_a_section_for_every_part(mixed):
    page = layerscope.report.page({"net": mixed})
    for words in results.parts(mixed):
        assert f"net, {words}" in page
    assert ", unperturbed" not in page  # a table of an error beside a margin
    alike = layerscope.report.page({"net": mixed.isel(task=[0])})
    assert "error, unperturbed" in alike


def test_what_reads_one_sweep_says_which_to_choose(mixed):
    for read in (stats.summary, stats.classify, plots.heatmap, plots.curves):
        with pytest.raises(ResultError, match=r"the dimension task, model_epoch; choose one"):
            read(mixed)
        one = mixed.sel(task="news", model_epoch=5)
        read(one)
    alone = results.parts(mixed)["task news, model_epoch 5"]
    one = stats.summary(mixed.sel(task="news", model_epoch=5), "error")
    other = stats.summary(alone, "error")
    assert one.equals(other)


# What counts as several data sets.


class Named(nn.Module):
    def forward(self, news, code):
        return news[0] + code[0]


class Anything(nn.Module):
    def forward(self, **given):
        return given["news"][0]


def test_arguments_of_a_network_stay_arguments():
    tensors = {"input_ids": torch.ones(2, 3).long(), "labels": torch.ones(2, 3).long()}
    words = {"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]}
    for data in (tensors, words, {}, TASKS["news"], [TASKS], {"x": TASKS["news"][0].numpy()}):
        assert tasks_of(nn.Linear(4, 2), data, None) is None
    assert tasks_of(Named(), TASKS, None) is None
    assert tasks_of(Anything(), TASKS, ["agreement"]) is None
    # Which would have needed labels.
    assert tasks_of(Anything(), TASKS, ["error"]) == TASKS


def test_data_sets_of_any_form_are_tasks():
    batches = [TASKS["news"]]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*TASKS["news"]), 4)
    arguments = {"inputs": TASKS["news"][0], "labels": TASKS["news"][1]}
    data = {"pair": TASKS["news"], "list": batches, "loader": loader, "by name": arguments}
    ds = sweep(data, metrics=["error"])
    values = ds.value.values
    assert ds.task.values.tolist() == list(data)
    assert abs(values - values[:1])[~torch.isnan(torch.tensor(values)).numpy()].max() < 1e-12
