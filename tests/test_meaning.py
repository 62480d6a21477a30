"""A metric and a perturbation of one's own go everywhere as those that have a name do."""

from __future__ import annotations

import ast
import copy
import subprocess
import sys
from dataclasses import replace

import holoviews as hv
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

import layerscope
from layerscope import analyses, metrics, models, perturb, plots, report, results, stats, testing
from layerscope.cli import main
from layerscope.cli._showing import _result_tables
from layerscope.core.session import Session
from layerscope.errors import OptionError, ResultError
from layerscope.jupyter import LayerExplorer
from layerscope.report._findings import finding, verdict_table

pytestmark = pytest.mark.usefixtures("without_pictures")

SCALE = 3.0


def certainty(outputs, targets):
    """How probable the right class is said to be."""
    return outputs.softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


CERTAIN = metrics.Metric(
    "certainty",
    "probability of the right class",
    certainty,
    higher_is_better=True,
    bounds=(0, 1),
    unit="probability",
)


class Uniform:
    """Draws every parameter uniformly, and remembers what it drew of each layer."""

    def __init__(self):
        self.drawn = {}

    def __call__(self, site):
        values = {
            name: SCALE * (2 * torch.rand(site.trained[name].shape, generator=site.generator) - 1)
            for name in site.layer.parameters
        }
        self.drawn.setdefault(site.layer.name, []).append(values)
        return values

    def perturbation(self):
        return perturb.Perturbation(
            "mine(3)",
            self,
            stochastic=True,
            redraws=True,
            label="drawn uniformly",
            column="uniform",
            sign="U",
        )


@pytest.fixture(scope="module")
def uniform():
    return Uniform()


@pytest.fixture(scope="module")
def swept(trained, few_digits, uniform):
    return layerscope.sweep(
        models.rebuild(trained),
        few_digits.test,
        checkpoints=trained,
        metrics=[CERTAIN, "error"],
        perturbations=["reinitialize", "rerandomize", uniform.perturbation()],
        draws=2,
        device="cpu",
        show_progress=False,
    )


@pytest.fixture(scope="module", params=["as swept", "saved"])
def ds(request, swept, tmp_path_factory):
    if request.param == "as swept":
        return swept
    return results.open_dataset(results.save(swept, tmp_path_factory.mktemp("own") / "own.nc"))


def test_the_dataset_says_what_its_metrics_and_perturbations_mean(ds):
    info = results.metric(ds, "certainty")
    assert info == CERTAIN.info
    assert (info.higher_is_better, info.worse, info.fraction_of) == (True, -1, "")
    assert (info.lower_bound, info.upper_bound) == (0, 1)
    assert ds["metric_long_name"].sel(metric="certainty") == "probability of the right class"
    assert ds["redraws"].values.tolist() == [False, True, True]
    assert ds["stochastic"].values.tolist() == [False, True, True]
    assert ds["uses_checkpoint"].values.tolist() == [True, False, False]
    assert all(ds[n].dtype == bool for n in ("higher_is_better", "redraws", "uses_checkpoint"))
    for name in ("reinitialize", "rerandomize"):
        assert results.perturbation(ds, name) == perturb.PERTURBATIONS[name]().info


def test_verdicts_are_the_right_way_round(ds, trained, few_digits):
    model, test = models.rebuild(trained), few_digits.test
    start = copy.deepcopy(model)
    start.layer1.load_state_dict(
        {n.partition(".")[2]: t for n, t in trained.read(0, [*names(model, "layer1")]).items()}
    )
    inputs = next(test.batches(len(test)))[0]
    with torch.no_grad():
        now, then = (certainty(net(inputs), test.targets).double().mean() for net in (model, start))
    fell = float(now - then)
    assert fell > 0.01
    limits = {"critical": 0.005, "tolerance": 0.001}
    table = stats.classify(ds, "certainty", **limits).set_index("layer")
    assert table.loc["layer1", "degradation"] == pytest.approx(fell, abs=1e-6)
    assert table.loc["layer1", "lower"] < fell < table.loc["layer1", "upper"]
    assert table.loc["layer1", "verdict"] == "critical"
    assert stats.rank_correlation(ds, metric="certainty").n_layers == 3
    assert analyses.limits(ds, "certainty")["critical"] > 0


def names(model, layer):
    return [name for name in model.state_dict() if name.startswith(f"{layer}.")]


def test_what_redraws_has_distances_of_its_own(ds, trained, uniform):
    for layer in ("layer1", "layer2"):
        start = trained.read(0, names(models.rebuild(trained), layer))
        expected = {
            float(
                sum((values[n].double() - start[n].double()).square().sum() for n in start).sqrt()
            )
            for values in uniform.drawn[layer]
        }
        found = ds["draw_distance"].sel(layer=layer, perturbation="mine(3)", norm="l2")
        assert set(found.values) <= expected
        assert len(set(found.values)) == 2
    both = ds["draw_distance"].sel(norm="linf", layer=["layer1", "layer2", "layer3"])
    # Drawn from [-3, 3], far beyond any initialiser of this network.
    assert (both.sel(perturbation="mine(3)") > 2).all()
    assert (both.sel(perturbation="rerandomize") < 2).all()
    table = stats.distances(ds, "l2").set_index(["layer", "column"])["value"]
    drawn = ds["draw_distance"].sel(layer="layer1", norm="l2").mean("draw")
    assert table["layer1", "uniform"] == pytest.approx(float(drawn.sel(perturbation="mine(3)")))
    assert table["layer1", "rand"] == pytest.approx(float(drawn.sel(perturbation="rerandomize")))


def test_columns_have_the_name_that_was_given(ds):
    columns = stats.column_order(stats.summary(ds, "certainty"))
    assert columns == ["rand", "uniform", "0", "1", "2"]


def options_of(plot, kind="style"):
    return hv.Store.lookup_options("matplotlib", plot, kind).kwargs


def fallen(ds):
    """The cells that are worst and best for the network, by their values."""
    cells = stats.summary(ds, "certainty").dropna(subset="value")
    return cells.loc[cells["value"].idxmin()], cells.loc[cells["value"].idxmax()]


def lightness(colour):
    return sum(to_rgb(colour))


DRAWN = {
    "heatmap": lambda ds: plots.heatmap(ds, "certainty"),
    "overview": lambda ds: plots.overview(ds, "certainty"),
    "distances": lambda ds: plots.distances(ds, "l2"),
    "curves": lambda ds: plots.curves(ds, "certainty"),
    "compare": lambda ds: plots.compare({"a": ds, "b": ds}, "certainty", "uniform"),
    "points": lambda ds: plots.points(per_run(ds), "seed", "certainty"),
    "agreement": lambda ds: plots.agreement(with_measure(ds), "depth", "certainty"),
    "sensitivity": lambda ds: plots.sensitivity(
        ds, "certainty", tolerances=(0.001, 0.01), criticals=(0.005, 0.05)
    ),
}
NO_FIGURES = {"FORMULAS", "embed", "library", "save", "show"}
# Of ranges of blocks, several trained networks or tasks, the way to another or with fewer blocks:
# they have own tests.
OF_OTHER_DATASETS = {"barriers", "emergence", "pruning", "rankings", "tasks", "triangle"}


def per_run(ds):
    baseline = float(ds["baseline"].sel(metric="certainty"))
    return pd.DataFrame({"seed": [0, 1], "certainty": baseline})


def with_measure(ds):
    value = ("layer", "measure"), ds["depth"].values[:, None] * 1.0
    return ds.assign(measure_value=value).assign_coords(measure=["depth"])


def test_every_plot_is_tried():
    assert set(plots.__all__) - NO_FIGURES - OF_OTHER_DATASETS == set(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_draws_it_and_is_saved(ds, name, tmp_path):
    plot = DRAWN[name](ds)
    for suffix in ("html", "png"):
        assert plots.save(plot, tmp_path / f"{name}.{suffix}").stat().st_size > 1000
    page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    words = {"heatmap": "uniform", "overview": "uniform", "distances": "uniform"}
    words |= {"compare": "drawn uniformly", "curves": "certainty (probability)"}
    assert words.get(name, "certainty") in page
    assert "perturbed by" not in page


def test_dark_is_bad_in_every_plot(ds):
    worst, best = fallen(ds)
    assert worst["degradation"] < best["degradation"]  # it fell further
    for plot in (plots.heatmap(ds, "certainty"), plots.overview(ds, "certainty")[0]):
        (grid,) = plot.traverse(lambda each: each, [hv.HeatMap])
        colours = options_of(grid)["cmap"]
        assert lightness(colours[0]) < lightness(colours[-1])
    errors = options_of(plots.heatmap(ds, "error"))["cmap"]
    assert lightness(errors[0]) > lightness(errors[-1])
    assert lightness(colours_of_cells(ds)[key(worst)]) < lightness(colours_of_cells(ds)[key(best)])


def key(cell):
    return cell["layer"], cell["column"]


def colours_of_cells(ds):
    """As every figure colours the cells."""
    scale = plots.scale_of(stats.summary(ds, "certainty")["value"], results.metric(ds, "certainty"))
    table = stats.summary(ds, "certainty")
    return {key(cell): scale.colour(cell["value"]) for _, cell in table.iterrows()}


def test_intervals_end_where_the_metric_does(ds):
    table = stats.summary(ds, "certainty")
    assert table[["lower", "upper"]].stack().dropna().between(0, 1).all()
    wide = ds.assign(standard_error=ds["standard_error"] + 9.0).isel(draw=[0])
    table = stats.summary(wide, "certainty")
    assert {*table["lower"], *table["upper"]} == {0.0, 1.0}


def test_reports_say_it_in_the_right_words(ds):
    page = verdict_table(ds, "certainty", 0.1)
    assert "fall of test certainty when reset to checkpoint 0" in page
    assert "fall of test certainty when drawn uniformly" in page
    assert "rise of" not in page
    assert "perturbed by" not in page
    assert "certainty (probability): probability of the right class; higher is better." in page
    assert "critical when reset to checkpoint 0" in finding(ds, "certainty", 0.1)


def test_the_report_is_written_with_its_verdicts(ds, tmp_path):
    path = report.write({"own": ds}, tmp_path / "a.html", metric="certainty", critical=0.005)
    page = path.read_text(encoding="utf-8")
    table = stats.classify(ds, "certainty", critical=0.005)
    # Judged the wrong way round, what fell furthest would be robust.
    assert table.set_index("layer").loc["layer1", "verdict"] != "robust"
    for verdict in set(table["verdict"]):
        assert f'class="verdict {verdict.replace(" ", "-")}"' in page
    assert "drawn uniformly" in page


def test_the_command_line_shows_it_dark_where_it_is_bad(swept, tmp_path, capsys):
    path = results.save(swept, tmp_path / "own.nc")
    main(["show", str(path), "--metric", "certainty", "--png", str(tmp_path / "own.png")])
    shown = capsys.readouterr().out
    assert "uniform" in shown
    assert "higher is better" in shown
    page = tmp_path / "a.html"
    main(["report", str(path), "-o", str(page), "--metric", "certainty", "--critical", "0.005"])
    assert "fall of test certainty when drawn uniformly" in page.read_text(encoding="utf-8")
    for metric in ("certainty", "error"):
        cells = {
            float(str(cell)): cell.style.bgcolor.triplet.red
            for table in _result_tables(swept, metric)
            for column in table.columns[1:]
            for cell in column.cells
        }
        lowest, highest = cells[min(cells)], cells[max(cells)]
        assert (lowest < highest) == (metric == "certainty")


MINE = """
import torch
from layerscope import metrics, perturb


def certainty(outputs, targets):
    return outputs.softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def drawn(site):
    return {
        name: torch.rand(site.trained[name].shape, generator=site.generator)
        for name in site.layer.parameters
    }


certain = metrics.Metric("certainty", "probability", certainty, higher_is_better=True)
uniform = perturb.Perturbation("mine", drawn, stochastic=True, redraws=True, column="uniform")
"""


def test_the_command_line_sweeps_with_ones_own(trained, few_digits, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("layerscope.cli._sweeping.data_of", lambda *_: few_digits)
    given = ["--metrics", "my_own:certain", "error", "--draws", "2", "--device", "cpu"]
    given += ["--perturbations", "my_own:uniform", "reinitialize", "--out", str(tmp_path / "out")]
    main(["sweep", str(trained.folder), *given])
    assert "uniform" in capsys.readouterr().out
    found = results.open_dataset(tmp_path / "out")
    assert found["perturbation"].values.tolist() == ["mine", "reinitialize"]
    assert found["higher_is_better"].values.tolist() == [True, False]
    assert found["redraws"].values.tolist() == [True, False]
    for wrong in ("my_own:nothing", "nowhere:certain"):
        assert main(["sweep", str(trained.folder), "--metrics", wrong]) != 0
        assert f"{wrong} can't be imported" in capsys.readouterr().err


def test_a_dataset_in_the_explorer_has_its_words(ds):
    explorer = LayerExplorer(ds, metric="certainty")
    try:
        explorer._on_cell({"row": "layer1", "column": "uniform", "seq": 1})
        block = explorer.controls.strip.blocks[0]
        assert (block["state"], block["badge"]) == ("drawn uniformly", "U")
        assert explorer.state == {"layer1": "mine(3)"}
        assert explorer.controls.grid.marked == [["layer1", "uniform"]]
    finally:
        explorer.close()


def test_a_state_takes_a_perturbation_of_ones_own(swept, trained, few_digits, uniform):
    """And then a session and an explorer give what the sweep gave."""
    mine, test = uniform.perturbation(), few_digits.test
    expected = swept["value"].sel(layer="layer2", perturbation="mine(3)", draw=1, epoch=-1)
    options = {"metrics": [CERTAIN, "error"], "device": "cpu", "batch_size": 1000}
    with Session(models.rebuild(trained), test, checkpoints=trained, **options) as session:
        found = session.measure({"layer2": (mine, 1)})
    for name in ("certainty", "error"):
        assert found.mean(name) == expected.sel(metric=name)
    assert (found.is_fraction("error"), found.is_fraction("certainty")) == (True, False)
    explorer = LayerExplorer(trained, test, metric="certainty", **options)
    try:
        explorer.state = {"layer2": (mine, 1)}
        assert explorer.wait(60)
        assert explorer.controls.strip.blocks[1]["state"] == "drawn uniformly, draw 1"
        assert explorer.estimate.mean("certainty") == expected.sel(metric="certainty")
    finally:
        explorer.close()


# What is not written down.


def test_names_of_earlier_versions_mean_what_the_objects_say():
    # One by one: what is added later stands in no Dataset of an earlier version.
    for name in ("error", "accuracy", "loss", "perplexity", "agreement", "calibration_error"):
        assert results.metric(None, name) == metrics.METRICS[name].info
    for name in ("reinitialize", "rerandomize", "rerandomize_matched", "zero", "skip", "permute"):
        assert results.perturbation(None, name) == perturb.PERTURBATIONS[name]().info


def test_a_dataset_saved_before_opens_with_what_its_names_mean(trained, few_digits, tmp_path):
    names = ("error", "loss", "top3_error", "perplexity")
    known = layerscope.sweep(
        models.rebuild(trained), few_digits.test, checkpoints=trained, layers=["layer1"],
        whole=False, metrics=names, perturbations=["reinitialize", "zero"], device="cpu",
        show_progress=False,
    )  # fmt: skip
    said = [n for n, c in known.coords.items() if c.dims in (("metric",), ("perturbation",))]
    said = [name for name in said if name not in ("metric", "perturbation")]
    assert {"higher_is_better", "metric_unit", "redraws", "stochastic"} <= set(said)
    path = results.save(known.drop_vars(said), tmp_path / "old.nc")
    assert results.open_dataset(path).identical(known)
    # Of a name that nobody knows nothing is made up, and a coordinate that is there stays.
    renamed = known.assign_coords(metric=["error", "loss", "top3_error", "mine"])
    old = renamed.drop_vars(said[1:])
    found = results.open_dataset(results.save(old, tmp_path / "unknown.nc"))
    assert "higher_is_better" not in found.coords
    assert found["redraws"].values.tolist() == [False, False]
    assert found[said[0]].identical(old[said[0]])


def test_a_dataset_without_these_coordinates_is_judged_by_its_names(swept):
    said = [n for n, c in swept.coords.items() if c.dims in (("metric",), ("perturbation",))]
    bare = swept.drop_vars([name for name in said if name not in ("metric", "perturbation")])
    assert stats.classify(bare).equals(stats.classify(swept))
    assert results.perturbation(bare, "mine(3)").stochastic
    assert not results.perturbation(bare, "mine(3)").uses_checkpoint
    assert results.perturbation(bare, "reinitialize") == results.perturbation(swept, "reinitialize")
    # Nothing else is known of a metric of one's own than what is usual …
    assert results.metric(bare, "certainty").worse == 1
    # … but it can be said by hand.
    told = bare.assign_coords(higher_is_better=("metric", [True, False]))
    options = {"metric": "certainty", "critical": 0.1}
    assert stats.classify(told, **options).equals(stats.classify(swept, **options))


def test_old_distances_without_a_perturbation_are_of_rerandomised_layers():
    new = testing.dataset()
    old = new.assign(draw_distance=new["draw_distance"].sel(perturbation="rerandomize", drop=True))
    assert stats.distances(old).equals(stats.distances(new))


def test_runs_that_say_it_are_joined_with_runs_that_do_not(swept):
    said = [n for n, c in swept.coords.items() if c.dims in (("metric",), ("perturbation",))]
    bare = swept.drop_vars([name for name in said if name not in ("metric", "perturbation")])
    joined = results.concat([bare, swept], [0, 1])
    assert results.metric(joined, "certainty") == CERTAIN.info
    assert stats.classify(joined, "certainty", critical=0.1).verdict.notna().all()


def test_torch_is_not_needed_to_judge_what_was_saved(swept, tmp_path):
    path = results.save(swept, tmp_path / "own.nc")
    code = (
        "import sys\n"
        "from layerscope import results, stats\n"
        f"ds = results.open_dataset({str(path)!r})\n"
        "print(*stats.classify(ds, 'certainty', critical=.005, tolerance=.001).verdict)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, *_, loaded = done.stdout.split()
    assert (first, loaded) == ("critical", "False"), done.stderr


def test_what_can_not_be_meant_is_refused():
    with pytest.raises(OptionError, match="redraws a layer, so it must be stochastic"):
        perturb.Perturbation("x", lambda _: {}, redraws=True)
    with pytest.raises(OptionError, match="fraction_of='wrong'; give 'errors', 'hits'"):
        metrics.Metric("x", "", certainty, fraction_of="wrong")


def test_a_sweep_goes_on_only_with_what_means_the_same(trained, few_digits, tmp_path):
    """Else the Dataset of a finished one would be judged by what its metric meant before."""

    def swept(metric, perturbation):
        return layerscope.sweep(
            models.rebuild(trained),
            few_digits.test,
            checkpoints=trained,
            layers=["layer1"],
            whole=False,
            metrics=[metric],
            perturbations=[perturbation],
            device="cpu",
            out=tmp_path,
            show_progress=False,
        )

    def halve(site):
        return {name: tensor / 2 for name, tensor in site.trained.items()}

    mine = perturb.Perturbation("halve", halve)
    done = swept(CERTAIN, mine)
    assert swept(CERTAIN, halve).identical(done)
    with pytest.raises(ResultError):
        swept(replace(CERTAIN, higher_is_better=False), mine)
    with pytest.raises(ResultError):
        swept(CERTAIN, perturb.Perturbation("halve", halve, label="halved"))


DEFINED = {
    "results/_infos.py",  # what Datasets saved before do not say
    "stats/_paired.py",  # statistics of a bootstrap, by formula
    "report/_again.py",  # what sweeps of earlier versions recorded
    "jupyter/_display.py",  # "error" is a kind of message
    "jupyter/_explorer.py",  # what it computes unless told otherwise, as a sweep does
    "jupyter/_saving.py",  # "error" is a kind of message
}
"""Files that may name a metric or perturbation."""


def test_no_name_of_a_metric_or_perturbation_stands_where_datasets_are_read(repository):
    names = {*metrics.METRICS, *perturb.PERTURBATIONS, results.RAND}
    package = repository / "layerscope"
    found = {}
    for wing in ("results", "stats", "plots", "report", "jupyter", "cli"):
        for path in (package / wing).rglob("*.py"):
            texts = strings(path.read_text(encoding="utf-8"))
            found[str(path.relative_to(package))] = sorted(texts & names)
    assert {file for file, named in found.items() if named} <= DEFINED, found
    assert "reinitialize" in found["results/_infos.py"]  # it is looked for in the right way


def _public(assigned):
    return [getattr(target, "id", "") for target in assigned.targets] == ["__all__"]


def strings(source):
    """The texts of a module but those that say what it is or what it holds, or name arguments."""
    tree = ast.parse(source)
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    # A function may have the name of a metric.
    public = [n.value for n in tree.body if isinstance(n, ast.Assign) and _public(n)]
    said |= {id(node) for value in public for node in ast.walk(value)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    } - arguments
