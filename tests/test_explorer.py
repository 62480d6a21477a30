"""The explorer without a browser: what it sets, asks, shows and leaves behind."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import layers, metrics, models, perturb, results, stats, testing
from layerscope.core.session import Change, Session
from layerscope.errors import LayerscopeError, OptionError
from layerscope.jupyter import LayerExplorer, _drawing as drawing, _heat as heat, _words as words
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._worker import Worker


def status(explorer):
    return explorer.controls.status.kind, explorer.controls.status.text


def click(explorer, name, kind="toggle"):
    explorer._on_strip({"kind": kind, "name": name, "seq": 1})
    assert explorer.wait(60)


def shown(explorer):
    return {block["name"]: block["state"] for block in explorer.controls.strip.blocks}


def test_a_click_shows_what_a_session_measures(explorer, trained, few_digits):
    with Session(
        models.rebuild(trained), few_digits.test, checkpoints=trained, batch_size=50, device="cpu"
    ) as plain:
        assert explorer.estimate.tallies == plain.measure({}).tallies
        click(explorer, "layer1")
        assert explorer.state == {"layer1": ("reinitialize", 0)}
        assert explorer.estimate.tallies == plain.measure(explorer.state).tallies
        assert f'data-value="{explorer.estimate.mean("error")!r}"' in explorer.controls.cards.value
        explorer.controls.kind.value = "zero"  # goes to the selection
        assert explorer.state == {"layer1": "zero"}
        click(explorer, "layer3", "range")
        assert shown(explorer) == dict.fromkeys(["layer1", "layer2", "layer3"], "set to zero")
        assert explorer.estimate.tallies == plain.measure(explorer.state).tallies
        click(explorer, "layer2")
        assert explorer.state == {"layer1": "zero", "layer3": "zero"}


def test_the_slider_moves_the_selection_and_undo_goes_back(explorer):
    click(explorer, "layer2", "select")
    assert explorer.state == {}
    explorer.controls.epoch.value = 1
    assert explorer.state == {"layer2": ("reinitialize", 1)}
    explorer.controls.epoch.value = 2
    explorer.controls.undo.click()
    assert explorer.state == {"layer2": ("reinitialize", 1)}
    explorer.controls.undo.click()
    assert explorer.state == {}
    assert explorer.controls.undo.disabled
    explorer.controls.redo.click()
    assert explorer.state == {"layer2": ("reinitialize", 1)}


def test_a_sweep_in_the_background_is_the_sweep(explorer, trained, few_digits):
    explorer.controls.start.click()
    explorer.state = {"layer1": "zero"}
    assert explorer.wait(120)
    expected = layerscope.sweep(
        models.rebuild(trained), few_digits.test, checkpoints=trained, batch_size=50, device="cpu",
        show_progress=False,
    )  # fmt: skip
    assert explorer.dataset.drop_attrs().identical(expected.drop_attrs())
    grid = explorer.controls.grid
    assert (grid.rows[0], grid.columns) == ("layer1", ["rand", "0", "1", "2"])
    assert "parameters" in grid.cells[0][1]["tip"]
    assert "distance" in grid.cells[0][1]["tip"]
    explorer._on_cell({"kind": "cell", "row": "layer2", "column": "0", "seq": 1})
    explorer.wait(60)
    assert explorer.state == {"layer2": ("reinitialize", 0)}
    cell = expected.value.sel(layer="layer2", epoch=0, perturbation="reinitialize", draw=0)
    assert explorer.estimate.mean("error") == float(cell.sel(metric="error"))
    assert grid.marked == [["layer2", "0"]]
    explorer._on_cell({"kind": "cell", "row": "fullmodel", "column": "rand", "seq": 2})
    assert set(explorer.state.values()) == {"rerandomize"}
    explorer.wait(60)
    explorer.keep("random")
    assert list(explorer.dataset.scenario.values) == ["random"]
    assert explorer.dataset.drop_dims("scenario").drop_attrs().identical(expected.drop_attrs())


def test_presets_need_a_sweep_and_follow_its_verdicts(trained, few_digits):
    ds = testing.dataset(layers=4)
    explorer = LayerExplorer(ds)
    explorer.controls.preset.value = "reset all but the critical ones"
    verdicts = layerscope.stats.classify(ds).set_index("layer").verdict
    assert set(explorer.state) == {row for row in explorer.layers if verdicts[row] != "critical"}
    explorer.controls.start.click()
    assert status(explorer) == (
        "error",
        "a Dataset alone can't be swept; give the network, too.",
    )
    explorer.close()
    live = LayerExplorer(trained, few_digits.test, device="cpu")
    live.controls.preset.value = "reset all robust layers"
    assert "start a sweep first" in status(live)[1]
    live.controls.preset.value = "reset all layers"
    assert set(live.state) == {"layer1", "layer2", "layer3"}
    live.close()


def test_scenarios_are_kept_in_the_dataset(explorer):
    with pytest.raises(OptionError, match="no name"):
        explorer.keep(" ")
    click(explorer, "layer1")
    value = explorer.estimate.mean("error")
    explorer.keep("first")
    click(explorer, "layer2")
    explorer.keep("two")
    explorer.keep("two")
    ds = explorer.dataset
    assert list(ds.scenario.values) == ["first", "two"]
    assert float(ds.scenario_value.sel(scenario="first", metric="error")) == value
    assert "layer1" in str(ds.scenario_state.sel(scenario="two").item())
    assert ds.scenario_value.attrs["long_name"]


def test_the_code_that_is_copied_gives_the_same(trained):
    explorer = LayerExplorer(trained.folder, device="cpu")
    click(explorer, "layer1")
    click(explorer, "layer3")
    names = {}
    exec(explorer.code, names)
    assert names["estimate"].tallies == explorer.estimate.tallies
    explorer.close()


def test_the_type_of_number_is_passed_on_and_stands_in_the_code(trained):
    losses = {}
    for dtype in (None, "bfloat16"):
        explorer = LayerExplorer(trained.folder, device="cpu", dtype=dtype)
        explorer.wait(60)
        names = {}
        exec(explorer.code, names)
        losses[dtype] = names["estimate"].mean("loss")
        assert losses[dtype] == explorer.estimate.mean("loss")
        explorer.close()
    assert losses[None] != losses["bfloat16"]


def test_the_code_has_every_option_and_what_only_the_user_has(trained, few_digits):
    def fresh():
        return models.rebuild(trained)

    options = {"fresh": fresh, "output": lambda out: -out, "metrics": ["loss", CERTAIN]}
    options |= {"norms": "kept", "batch_size": 30, "seed": 3, "device": "cpu", "dtype": "bfloat16"}
    explorer = LayerExplorer(
        trained, few_digits.test, perturbations=[HALVE, "noise(0.1)"], **options
    )
    explorer.state = {"layer1": "halve", "layer2": ("noise(0.1)", 2), "layer3": ("reinitialize", 1)}
    assert explorer.wait(60)
    assert f"batch_size=30,\n{' ' * 4}device='cpu'" in explorer.code
    assert "# halve: your own halve, pass the same" in explorer.code
    names = {"halve": HALVE, "certain": CERTAIN, "fresh": fresh, "mine": options["output"]}
    exec(explorer.code, names | {"data": few_digits.test}, names)
    assert names["estimate"].tallies == explorer.estimate.tallies
    explorer.state = explorer.state
    assert explorer.wait(60)
    assert explorer.estimate.tallies == names["estimate"].tallies
    explorer.close()


# What can be done to a layer.


def halve(site):
    return {name: value / 2 for name, value in site.trained.items()}


HALVE = perturb.Perturbation("halve", halve, label="halved", sign="½")
CERTAIN = metrics.Metric("certain", "largest", lambda logits, _: logits.softmax(-1).amax(-1))


def test_whatever_is_registered_or_given_can_be_clicked(trained, few_digits):
    given = [HALVE, "interpolate(0.5)", "zero"]
    explorer = LayerExplorer(trained, few_digits.test, perturbations=given, device="cpu")
    kind = explorer.controls.kind
    offered = {name: words for words, name in kind.options}
    assert list(offered)[:3] == ["halve", "interpolate(0.5)", "zero"]
    simple = {n for n, make in perturb.PERTURBATIONS.items() if not signature(make).parameters}
    assert simple < set(offered)
    assert "permute" in simple
    assert (offered["halve"], offered["zero"]) == ("halved", "set to zero")
    assert offered["reinitialize"] == "reset to checkpoint"
    click(explorer, "layer2")
    assert explorer.state == {"layer2": "halve"}
    assert explorer.controls.strip.blocks[1]["badge"] == "½"
    explorer.controls.epoch.value = 1
    kind.value = "interpolate(0.5)"
    assert explorer.wait(60)
    assert explorer.state == {"layer2": ("interpolate(0.5)", 1)}
    with Session(models.rebuild(trained), few_digits.test, checkpoints=trained) as plain:
        assert explorer.estimate.tallies == plain.measure(explorer.state).tallies
    explorer.controls.preset.value = "reset all layers"
    assert set(explorer.state.values()) == {("reinitialize", 0)}
    explorer.close()


def test_a_dataset_offers_what_it_holds():
    ds = testing.dataset(layers=2)
    explorer = LayerExplorer(ds)
    assert [name for _, name in explorer.controls.kind.options] == list(ds.perturbation.values)
    explorer.close()


def test_the_sweep_takes_whatever_a_sweep_takes(trained, few_digits):
    seen = []
    more = {"perturbations": [HALVE, "noise(0.1)"], "draws": 2, "layers": ["layer[12]"]}
    more |= {"whole": False, "tolerance": 0.2, "epochs": [0, 2], "callback": seen.append}
    shared = {"device": "cpu", "batch_size": 50, "seed": 4, "metrics": ["accuracy", "error"]}
    explorer = LayerExplorer(trained, few_digits.test, **shared, **more)
    explorer.controls.start.click()
    assert explorer.wait(120)
    assert explorer.controls.progress.value == 1
    expected = layerscope.sweep(
        models.rebuild(trained), few_digits.test, checkpoints=trained, show_progress=False,
        **shared, **more | {"callback": None},
    )  # fmt: skip
    assert explorer.dataset.drop_attrs().identical(expected.drop_attrs())
    assert seen[-1].drop_attrs().identical(expected.drop_attrs())
    # A cell of the user's own, clicked.
    explorer._on_cell({"kind": "cell", "row": "layer2", "column": "halve", "seq": 1})
    assert explorer.wait(60)
    assert explorer.state == {"layer2": "halve"}
    assert explorer.estimate is not None
    explorer.close()
    with pytest.raises(OptionError, match="Did you mean 'draws'"):
        LayerExplorer(trained, few_digits.test, drawz=3)


def test_views_carry_what_is_changed(pair_of_networks):
    net, states, pair = pair_of_networks
    explorer = LayerExplorer(net, pair, states, device="cpu", batch_size=8)
    block = next(row for row in layers.find(net, view="block") if len(row.members) > 1)
    explorer.controls.view.value = "block"
    assert block.name in explorer.layers
    explorer.state = {block.name: "zero"}
    explorer.wait(60)
    value = explorer.estimate.tallies
    explorer.controls.view.value = "leaf"
    explorer.wait(60)
    assert explorer.state == dict.fromkeys(block.members, "zero")
    assert explorer.estimate.tallies == value
    explorer.controls.view.value = "block"
    assert explorer.state == {block.name: "zero"}
    explorer.controls.view.value = "leaf"
    explorer.state = {block.members[0]: "zero"}
    explorer.controls.view.value = "block"
    assert explorer.wait(60)
    assert explorer.state == {}
    assert status(explorer)[1].endswith(
        f"Not carried over: {block.members[0]} set to zero; rows of the view block hold other "
        "layers, too."
    )
    explorer.close()


@pytest.fixture
def pair_of_networks():
    nets = [models.build("resnet18", seed=n, inputs=(3, 16, 16), classes=3) for n in (0, 1)]
    states = {epoch: copy.deepcopy(net.state_dict()) for epoch, net in enumerate(nets)}
    return nets[1], states, (torch.randn(8, 3, 16, 16), torch.arange(8) % 3)


def test_the_users_network_is_never_touched(pair_of_networks):
    net, states, pair = pair_of_networks
    net.train()
    before = {n: (t, t._version, t.data_ptr()) for n, t in net.state_dict(keep_vars=True).items()}
    explorer = LayerExplorer(net, pair, states, device="cpu")
    explorer.state = {explorer.layers[0]: "zero"}
    explorer.wait(60)
    now = net.state_dict(keep_vars=True)
    assert before == {n: (t, t._version, t.data_ptr()) for n, t in now.items()}
    assert all(module.training for module in net.modules())
    explorer.close()


def test_names_from_files_are_shown_as_text():
    evil = "<img src=x onerror=alert(1)>"
    net = nn.Sequential()
    net.add_module(evil, nn.Linear(4, 2))
    states = {
        0: copy.deepcopy(net.state_dict()),
        1: {n: t + 1 for n, t in net.state_dict().items()},
    }
    pair = torch.randn(8, 4), torch.arange(8) % 2
    explorer = LayerExplorer(net, pair, states, device="cpu")
    click(explorer, evil)
    explorer.controls.copy.click()
    told = [part.value for part in explorer.controls.parts() if hasattr(part, "value")]
    page = explorer._repr_mimebundle_()
    told.append((page[0] if isinstance(page, tuple) else page)["text/html"])
    assert "&lt;img src=x" in "".join(map(str, told))
    assert not [text for text in told if "<img src=x" in str(text)]
    explorer.state = {"</div><b>": "zero"}
    explorer.close()


def test_errors_are_told_and_the_numbers_of_another_state_go(explorer):
    explorer.state = {"layer1": "skip"}
    explorer.wait(60)
    kind, text = status(explorer)
    assert kind == "error"
    assert "layer1 turns" in text
    assert explorer.estimate is None
    assert 'data-value="nan"' in explorer.controls.cards.value
    with pytest.raises(OptionError, match="not measured yet"):
        explorer.keep("x")
    explorer.controls.save.click()
    assert "not measured yet" in status(explorer)[1]
    click(explorer, "layer1")
    assert status(explorer)[0] == "info"


def test_what_stands_in_place_of_the_explorer_asks_for_nothing_outside(explorer):
    click(explorer, "layer1")
    explorer.controls.start.click()
    explorer.wait(120)
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    page = data["text/html"]
    assert page.count("background-color: #") == 4 * 4
    assert not re.search(r"https?://|<svg|<script", page)
    assert words.readings(explorer.estimate)[0].value in page
    assert "layer1 initial" in page


@pytest.mark.parametrize(
    ("source", "match"),
    [(nn.Linear(2, 2), "came alone"), (3, "can't be explored"), ("nowhere.nc", "no Dataset")],
)
def test_what_cannot_be_opened_is_refused(source, match):
    with pytest.raises(LayerscopeError, match=match):
        LayerExplorer(source)


def test_history():
    history = History(Scene())
    zero = Change("zero")
    history.add(Scene().having({"a": zero}))
    history.add(history.now.having({"b": zero, "a": None}))
    history.add(history.now)
    assert history.now.state == {"b": zero}
    assert history.undo().state == {"a": zero}
    history.add(Scene("block"))
    assert not history.can_redo
    assert [history.undo().state, history.undo().state, history.undo().state] == [
        {"a": zero},
        {},
        {},
    ]


def test_a_worker_answers_the_last_question_and_goes_on_with_its_task():
    log, failed, gate = [], [], threading.Event()
    worker = Worker(failed.append)

    def question(name, steps=2):
        def ask():
            for step in range(steps):
                log.append(f"{name}{step}")
                yield

        return ask

    def first():
        log.append("first")
        gate.wait(30)
        yield
        log.append("never")

    def task(between):
        between()
        log.append("task")
        worker.ask(question("mid", 1))
        between()
        worker.cancel()
        between()
        log.append("never")

    def broken():
        raise ValueError("broken")

    worker.ask(first)
    while not log:
        pass
    worker.ask(question("b"))
    worker.ask(question("c"))
    gate.set()
    assert worker.wait(30)
    assert log == ["first", "c0", "c1"]
    worker.start(task)
    assert worker.wait(30)
    assert log[3:] == ["task", "mid0"]
    worker.ask(broken)
    assert worker.wait(30)
    assert [str(error) for error in failed] == ["broken"]
    worker.close()
    worker.close()
    worker.ask(broken)
    assert not [t for t in threading.enumerate() if t.name == "layerscope"]


def test_measures_of_one_pass_stand_in_the_tooltips():
    made = testing.dataset(layers=2)
    held = ("layer", "measure"), np.array([[0.25], [np.nan], [np.nan]])
    made = made.assign(measure_value=held).assign_coords(measure=["block_influence"])
    table = stats.summary(made, "error")
    _, _, cells = heat.cells(made, table, "error", ["layer1", "layer2"])
    assert cells[0][0]["tip"].endswith("block influence: 0.25")
    assert "influence" not in cells[1][0]["tip"]
    rows = layers.find(models.build("fcn-1x4", inputs=(4,), classes=2))
    info = results.metric(made, "error")
    shown = drawing.blocks(rows, {}, table, {}, info, None, drawing.measured_rows(made))
    assert "block influence: 0.25" in shown[0]["tip"]
    assert "influence" not in shown[1]["tip"]


# Several data sets.


def small(seed=0):
    return models.build("fcn-1x8", seed=seed, inputs=(4,), classes=2)


STATES = {epoch: small(epoch + 1).state_dict() for epoch in (0, 5)}


def pair(seed, count):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, torch.randint(0, 2, (count,), generator=generator)


TASKS = {"news": pair(0, 30), "code": pair(1, 17)}


def of_tasks(**options):
    given = {"batch_size": 8, "device": "cpu", "draws": 1} | options
    return LayerExplorer(small(), TASKS, STATES, **given)


def test_a_task_is_chosen_and_the_state_stays():
    alone = {}
    for name, data in TASKS.items():
        with Session(small(), data, checkpoints=STATES, batch_size=8, device="cpu") as single:
            alone[name] = single.measure({"layer1": ("reinitialize", 0)}).tallies
    explorer = of_tasks()
    try:
        assert explorer.controls.task.options == ("news", "code")
        click(explorer, "layer1")
        assert explorer.estimate.tallies == alone["news"]
        explorer.controls.task.value = "code"
        assert explorer.wait(60)
        assert explorer.task == "code"
        assert explorer.state == {"layer1": ("reinitialize", 0)}
        assert explorer.estimate.tallies == alone["code"]
        assert "of 17 examples" in explorer.controls.cards.value
        assert "task='code'" in explorer.code
        assert "code" in explorer.controls.title.value
        explorer.task = "news"
        assert explorer.wait(60)
        assert explorer.estimate.tallies == alone["news"]
        with pytest.raises(OptionError, match="no task 'prose'"):
            explorer.task = "prose"
    finally:
        explorer.close()


def test_numbers_of_two_tasks_are_never_mixed():
    both = layerscope.sweep(small(), TASKS, checkpoints=STATES, draws=1, device="cpu",
                            batch_size=8, show_progress=False)  # fmt: skip
    explorer = of_tasks()
    try:
        explorer.controls.start.click()
        assert explorer.wait(60)
        explorer.keep("as it is")
        assert explorer.dataset.scenario.values.tolist() == ["as it is"]
        assert explorer.dataset.value.equals(both.value.sel(task="news", drop=True))
        assert explorer.controls.grid.rows
        explorer.task = "code"
        assert explorer.wait(60)
        # Nothing was swept of it, and nothing kept.
        assert explorer.dataset is None
        assert not explorer.controls.grid.rows
        explorer.controls.start.click()
        assert explorer.wait(60)
        assert explorer.dataset.value.equals(both.value.sel(task="code", drop=True))
        assert "scenario" not in explorer.dataset
        explorer.task = "news"
        assert explorer.dataset.value.equals(both.value.sel(task="news", drop=True))
        assert explorer.wait(60)
    finally:
        explorer.close()
    known = LayerExplorer(both)
    try:
        cells = {}
        for name in TASKS:
            known.task = name
            assert known.dataset.value.equals(both.value.sel(task=name, drop=True))
            cells[name] = known.controls.grid.cells
        assert cells["news"] != cells["code"]
    finally:
        known.close()


def test_what_a_sweep_began_to_draw_does_not_stand_over_another_task(monkeypatch):
    explorer = of_tasks()
    try:
        assert explorer.wait(60)
        draw, began = explorer._display.draw, threading.Event()

        def slowly(scene, layers, ds, metric):
            if threading.current_thread() is not threading.main_thread():
                began.set()
                time.sleep(0.3)
            draw(scene, layers, ds, metric)

        monkeypatch.setattr(explorer._display, "draw", slowly)
        explorer.controls.start.click()
        assert began.wait(60)
        explorer.task = "code"
        assert explorer.wait(60)
        assert not explorer.controls.grid.rows
    finally:
        explorer.close()


def test_a_sweep_of_other_data_sets_is_refused():
    others = {"prose": TASKS["news"], "verse": TASKS["code"]}
    options = {"checkpoints": STATES, "draws": 1, "device": "cpu", "show_progress": False}
    both = layerscope.sweep(small(), others, **options)
    for dataset in (both, both.isel(task=0, drop=True)):
        with pytest.raises(OptionError, match="the data are news, code"):
            of_tasks(dataset=dataset)


# A Dataset beside checkpoints


def test_a_dataset_of_other_checkpoints_is_said_to_be_one(trained, few_digits):
    ds = layerscope.sweep(
        models.rebuild(trained), few_digits.test, checkpoints=trained, layers=["layer1"],
        epochs=[0], show_progress=False, device="cpu",
    )  # fmt: skip
    recorded = results.settings(ds)["checkpoints"]
    other = ds.assign_attrs(checkpoints=json.dumps({**recorded, "1": "0" * 64, "7": "1" * 64}))
    for dataset, told in ((ds, False), (other, True)):
        explorer = LayerExplorer(trained, few_digits.test, dataset=dataset, device="cpu")
        try:
            assert explorer.wait(60)
            title = explorer.controls.title.value
            assert ("epoch 1 (SHA-256 000000000000… then, " in title) is told
            assert "epoch 0 (" not in title
            click(explorer, "layer1")
            # It stays, whatever is clicked.
            assert ("swept of other files" in explorer.controls.title.value) is told
        finally:
            explorer.close()
