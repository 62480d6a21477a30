"""What the numbers alone do not show is said once: by sweep, commands, reports and explorer."""

from __future__ import annotations

import html
import json
import shutil
import warnings

import pytest
import torch
from markupsafe import escape
from torch import nn

import layerscope
from layerscope import analyses, report, results, stats, testing
from layerscope.cli import main
from layerscope.errors import SweepWarning
from layerscope.jupyter import LayerExplorer

pytestmark = pytest.mark.usefixtures("without_pictures")


def fresh():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def network(seed):
    torch.manual_seed(seed)
    return fresh()


PAIR = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3


def sweep(model=None, epochs=(0, 2), **options):
    options = {"draws": 1, "device": "cpu", "show_progress": False, **options}
    states = {epoch: network(epoch).state_dict() for epoch in epochs}
    return layerscope.sweep(model or network(7), PAIR, checkpoints=states, **options)


def told(call):
    """What is said while a function runs, and what it returns."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ds = call()
    assert {each.category for each in said} <= {SweepWarning}
    assert {each.filename for each in said} <= {__file__}  # of whoever called the sweep
    return [str(each.message) for each in said], ds


def test_an_ordinary_sweep_says_nothing(tmp_path):
    for options in ({}, {"out": tmp_path}, {"out": tmp_path}, {"view": "component"}):
        said, ds = told(lambda options=options: sweep(**options))
        assert said == results.notices(ds) == []


def test_a_refused_cell_is_said_once_and_again_when_the_result_is_taken_up(tmp_path):
    options = {"perturbations": ["skip", "reinitialize"], "out": tmp_path}
    for _ in range(2):
        said, _ = told(lambda: sweep(**options))
        (one,) = said
        assert one.startswith("4 has no cells for 'skip': ")
        assert results.notices(results.open_dataset(tmp_path)) == said


def test_cells_refused_for_one_reason_are_said_together():
    refused = {f"layer{at} zero": "it is gone" for at in (1, 2, 3)} | {"layer3 skip": "too wide"}
    refused["fullmodel skip"] = results.NOTHING_LEFT
    ds = testing.dataset(layers=3).assign_attrs(refused=json.dumps(refused))
    assert results.notices(ds) == [
        "layer1, layer2, layer3 have no cells for 'zero': it is gone.",
        "layer3 has no cells for 'skip': too wide.",
    ]


def hooked():
    net = network(7)
    net[2].register_forward_hook(lambda _module, _given, out: out * 2)
    return net


def watched_by_python():
    class Counting(nn.Module):
        def forward(self, x):
            self.seen = getattr(self, "seen", 0) + 1
            return x

    net = network(7)
    net[1] = Counting()
    return net


@pytest.mark.parametrize(("build", "name"), [(hooked, "2"), (watched_by_python, "1")])
def test_a_module_that_runs_plainly_is_said(build, name):
    said, ds = told(lambda: sweep(build()))
    (one,) = said
    assert one.startswith(f"{name} could not be reused ({name}: ")
    assert one.endswith("slower and gives the same values.")
    assert results.settings(ds)["reuse"]["plain_modules"]


def test_the_root_has_a_name_where_it_runs_plainly():
    plain = {"": "returns an object of type Cache", "body": "contains '', which never ends"}
    ds = testing.dataset().assign_attrs(reuse=json.dumps({"plain_modules": plain}))
    (said,) = results.notices(ds)
    assert said.startswith("The network itself could not be reused (the network itself: never ends")


def test_no_room_to_reuse_anything_is_said(monkeypatch):
    monkeypatch.setattr(layerscope.base.devices, "spare_bytes", lambda _: 8)
    said, _ = told(lambda: sweep(whole=False))
    (one,) = said
    assert "2, 4 could not be reused (2: needs " in one


def test_an_initialiser_that_nothing_confirms_is_said():
    said, _ = told(lambda: sweep(epochs=(1, 2)))
    (one,) = said
    assert one.startswith("Random values of 0, 2, 4 are drawn by the modules' own methods")
    assert "the first checkpoint recorded is 1, not 0" in one
    assert "pass fresh=" in one
    for options in ({"perturbations": ["reinitialize"]}, {"fresh": fresh}):
        assert told(lambda options=options: sweep(epochs=(1, 2), **options))[0] == []


def test_random_values_that_are_not_like_the_first_ones_are_said():
    ds = testing.dataset(layers=2).assign_coords(
        initializer=("layer", ["empirical (not independent)", "empirical", ""])
    )
    (one,) = results.notices(ds)
    assert one.startswith("Random values of layer1 are drawn one by one from checkpoint 0")


def test_a_damaged_part_is_said():
    name = "batch-000001-rows-00000-00001"
    ds = testing.dataset(layers=1).assign_attrs(damaged_parts=json.dumps([name]))
    assert results.notices(ds) == [
        "Damaged parts were computed again: batch-000001-rows-00000-00001."
    ]


def test_runs_that_were_joined_say_it_once():
    runs = [sweep(hooked(), seed=seed) for seed in (0, 1)]
    (one,) = results.notices(results.concat(runs, [0, 1]))
    assert "2 could not be reused" in one


# Where it is said


def test_a_report_says_it_once_as_text():
    odd = '<img src=x onerror="alert(1)">'
    ds = testing.dataset(layers=2).assign_attrs(refused=f'{{"layer1 skip": "{odd[:9]}"}}')
    (notice,) = results.notices(ds)
    page = report.page({"net": ds})
    assert page.count(f'<p class="note">{escape(notice)}</p>') == 1
    assert odd[:9] not in page


def test_the_commands_say_it_as_a_line(trained, tmp_path, capsys):
    folder = tmp_path / trained.folder.name
    shutil.copytree(trained.folder, folder)
    command = [
        "sweep",
        str(folder),
        "--data",
        "mnist-5k",
        "--perturbations",
        "skip",
        "reinitialize",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(command) == 0
    assert warnings.showwarning.__module__ != "layerscope.cli"
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if "no cells" in line]
    assert [line.split(":")[0] for line in lines] == ["layerscope"] * len(lines)
    assert len(lines) == len(results.notices(results.open_dataset(folder / "sweep"))) > 0
    assert main(["show", str(folder / "sweep")]) == 0
    assert all(line.removeprefix("layerscope: ") in capsys.readouterr().out for line in lines[:1])


def test_the_explorer_says_it_when_its_sweep_is_done():
    states = {epoch: network(epoch).state_dict() for epoch in (1, 2)}
    explorer = LayerExplorer(network(7), PAIR, states, device="cpu", batch_size=10)
    assert explorer.wait(60)
    explorer.controls.start.click()
    assert explorer.wait(60)
    assert "Random values of 0, 2, 4 are drawn" in html.unescape(explorer.controls.status.text)
    explorer.close()


REASON = "it takes <b>two</b> tensors"


@pytest.fixture
def refusing():
    """A result of which one layer of three can't be perturbed in one way, nor the whole network."""
    ds = testing.dataset(layers=3)
    for name in ("value", "difference"):
        ds[name].loc[{"layer": ["layer2", "fullmodel"], "perturbation": "reinitialize"}] = float(
            "nan"
        )
    refused = {"layer2 reinitialize": REASON, "fullmodel reinitialize": results.NOTHING_LEFT}
    return ds.assign_attrs(refused=json.dumps(refused))


def test_statistics_say_over_how_many_layers_they_are(refusing):
    table = stats.classify(refusing)
    assert list(table["verdict"]) == ["critical", "refused", "intermediate"]
    assert (table.attrs["layers"], table.attrs["judged"]) == (3, 2)
    assert stats.classify(testing.dataset(layers=3)).attrs["judged"] == 3
    assert stats.summary(refusing).attrs["refused"] == {"reinitialize": 2}
    assert stats.summary(refusing).attrs["layers"] == 4
    assert int(stats.rank_correlation(testing.dataset(layers=3)).n_layers) == 3
    assert int(stats.rank_correlation(refusing).n_layers) == 2
    counts = analyses.verdict_counts(refusing)
    assert [int(counts[name][0]) for name in ("refused", "layers", "undecided")] == [1, 2, 0]
    assert "refused" not in analyses.verdict_counts(testing.dataset())


def test_a_refused_cell_that_was_computed_elsewhere_is_judged(refusing):
    """Of two runs that were joined, one may have what the other could not."""
    known = testing.dataset(layers=3).assign_attrs(refused=refusing.attrs["refused"])
    assert "refused" not in list(stats.classify(known)["verdict"])


def test_a_report_lists_what_can_not_be_computed(refusing):
    page = report.page({"fcn": refusing})
    said = report.finding(refusing)
    assert said.startswith("1 of 2 layers is critical when")
    assert "1 of all 3 layers is not among them: it can't be computed" in said
    table = page.split("What can't be computed</h3>")[1].split("</table>")[0]
    (row,) = [part for part in table.split("<tr>") if "layer2" in part]
    assert ">1 of 4<" in row
    assert str(escape(REASON)) in row.replace("<wbr>", "")
    assert "<b>two" not in page
    assert "What can't be computed" not in report.page({"fcn": testing.dataset(layers=3)})


def test_the_terminal_lists_what_can_not_be_computed(refusing, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["show", str(results.save(refusing, tmp_path / "ds.nc"))])
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "layer2" in line and "✕" in line]
    assert "✕ refused" in row
    assert "–" not in row  # which is said of what was not computed
    (why,) = [line for line in lines if REASON in line and "1 of 4" in line]
    assert "layer2" in why


def test_the_explorer_marks_what_can_not_be_computed(refusing):
    explorer = LayerExplorer(refusing)
    strip = {block["name"]: block for block in explorer.controls.strip.blocks}
    grid = explorer.controls.grid
    assert strip["layer2"]["badge"] == "⊘"
    assert strip["layer2"]["tip"].split("\n")[-2] == f"refused: {REASON}"
    assert strip["layer1"]["badge"] == "●"
    cell = grid.cells[grid.rows.index("layer2")][grid.columns.index("0")]
    assert cell == {"refused": "refused", "tip": f"layer2, 0: can't be computed: {REASON}"}
    assert "refused" not in grid.cells[grid.rows.index("layer1")][grid.columns.index("0")]
    assert {"kind": "sign", "text": "⊘ refused"} in explorer.controls.strip.legend
    explorer.close()
