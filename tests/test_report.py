"""Reports: self-contained, escaped, small, and right about what they say."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from layerscope import plots, report, results, stats, testing
from layerscope.cli import main
from layerscope.errors import OptionError, ResultError
from layerscope.report._again import again
from layerscope.report._findings import verdict_table

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</style>{x}", "a'b & $c$"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def ds():
    return testing.dataset(epochs=(0, 1, 5))


@pytest.fixture(scope="module")
def one(ds):
    return report.page({"fcn": ds})


@pytest.fixture(scope="module")
def evil(ds):
    odd = ds.assign_coords(layer=[*EVIL, "fullmodel"], module_type=("layer", [EVIL[1]] * 5))
    odd = odd.assign_attrs(network=EVIL[1], command=EVIL[0], refused=f'{{"{EVIL[0]} zero": "x"}}')
    shallow = testing.dataset(layers=2, epochs=(0, 1, 5))
    return report.page({EVIL[1]: odd, "other": shallow}, title=EVIL[0])


class Page(HTMLParser):
    """What a page loads and links to, its elements, and the text outside scripts and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.hidden = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.hidden = tag in ("script", "style")
        found = dict(attrs)
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [
            value
            for name, value in attrs
            if name in ("src", "data", "srcset", "href", "action") and tag != "a"
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):  # noqa: ARG002
        self.hidden = False

    def handle_data(self, data):
        self.text += "" if self.hidden else data


def test_nothing_is_asked_of_the_network(one, evil):
    for text in (one, evil):
        page = Page(text)
        assert page.loads
        assert all(value.startswith("data:") for value in page.loads)
        assert all(value.startswith("#") for value in page.links)
        assert "default-src 'none'" in text
        assert not re.search(r"url\((?!data:)", text[: text.index("<script>")])
        assert text.count("Bokeh.version") <= one.count("Bokeh.version")  # the library stands once


def test_one_experiment_is_small(one):
    assert len(one.encode()) < 2_000_000


@pytest.mark.slow
def test_two_hundred_layers_are_small_too():
    names = [f"vision.encoder.layers.{at}.self_attention.out_proj" for at in range(200)]
    many = testing.dataset(layers=200).assign_coords(layer=[*names, "fullmodel"])
    assert len(report.page({"many": many}).encode()) < 5_000_000


def test_names_from_files_stand_as_text(evil):
    page = Page(evil)
    for name in EVIL:
        assert name in page.text
    assert not {"iframe", "object", "embed"} & set(page.tags)
    pictures = page.tags.count("img")
    assert pictures == 5  # a comparison, and two figures each
    assert "<script>alert" not in evil
    assert "<img src=x" not in evil


def test_the_table_holds_what_classify_says(ds, one):
    table = stats.classify(ds)
    text = Page(one).text
    for row in table.itertuples():
        assert f"{100 * row.degradation:+.1f} points" in text
        assert f"{100 * row.lower:+.1f} to {100 * row.upper:+.1f}, over examples" in text
    chips = re.findall(r'<span class="verdict \w+">(\w+)</span>', one)
    random = stats.classify(ds, perturbation="rerandomize")
    assert chips == [*table["verdict"], *random["verdict"]]
    assert "Critical: at or above 21.7 points" in text


@pytest.mark.usefixtures("without_pictures")
def test_the_finding_counts_and_names_the_worst_first():
    ds = testing.dataset(layers=12)
    said = report.finding(ds)
    table = stats.classify(ds)
    critical = table[table["verdict"] == "critical"]["layer"]
    assert said.startswith(f"{len(critical)} of 12 layers are critical when reset to checkpoint 0")
    assert [said.index(f"{name} (") for name in critical] == sorted(
        said.index(f"{name} (") for name in critical
    )
    robust = ds.copy(deep=True)
    robust["difference"][:] = 0.0
    robust["difference_standard_error"][:] = 0.0
    assert report.finding(robust).startswith("None of 12 layers is critical")


def test_undecided_layers_are_named_changes_have_one_unit_and_figures_are_counted(ds, monkeypatch):
    counted: dict[str, list[int]] = {}

    @contextmanager
    def bar(total, what, unit, show):
        assert show
        steps = counted[f"{what}, {unit}"] = [total, 0]

        def advance():
            steps[1] += 1

        yield advance

    monkeypatch.setattr(report, "bar", bar)
    monkeypatch.setattr(plots, "embed", lambda _: "<figure></figure>")
    unsure = ds.copy(deep=True)
    unsure["difference_standard_error"].loc[{"layer": ["layer2", "layer3"]}] = 0.4
    assert "2 are undecided (layer2, layer3)" in report.finding(unsure)
    page = report.page({"a": unsure, "b": ds})
    assert "2: layer2, layer3" in Page(page).text
    assert counted == {"judge the layers, result": [2, 2], "draw the report, figure": [5, 5]}
    assert page.count("<figure") == 5
    hover = plots.heatmap(ds).dframe().set_index(["layer", "column"])["hover change"]
    for row in stats.classify(ds).itertuples():
        assert hover[row.layer, "0"] == f"{100 * row.degradation:+.1f} points"
    assert report.finding(ds, "loss").endswith(" the test loss is 0.08 nats.")
    assert " nats</td>" in verdict_table(ds, "loss", 1.0)


@pytest.mark.usefixtures("without_pictures")
def test_a_metric_without_known_chance_has_values_and_no_verdicts_unless_told(ds):
    assert report.finding(ds, "loss").startswith("No verdicts: what chance gives is not known")
    table = verdict_table(ds, "loss", None)
    assert 'class="verdict' not in table
    values = stats.summary(ds, "loss").query("column == '0' and layer != 'fullmodel'")["value"]
    assert len(values) == 4
    for value in values:
        assert f"<td>{value:.4g}</td>" in table
    assert 'class="verdict critical"' in verdict_table(ds, "loss", 1.0)


@pytest.mark.usefixtures("without_pictures")
def test_cells_that_are_not_there_are_told_apart(ds):
    partial = ds.copy(deep=True)
    for name in ("value", "difference"):
        partial[name].loc[{"layer": ["layer2", "layer3"]}] = np.nan
    partial = partial.assign_attrs(refused='{"layer3 reinitialize": "it has no weights"}')
    rows = verdict_table(partial, "error", None).split("<details>")[0].split("<tr>")
    (second,) = (row for row in rows if "<td>layer2</td>" in row)
    (third,) = (row for row in rows if "<td>layer3</td>" in row)
    assert "<td>not computed</td>" in second
    assert "<td>can&#39;t be computed: it has no weights</td>" in third
    partial["value"][:] = np.nan
    with pytest.raises(ResultError, match="nothing was computed"):
        report.page({"fcn": partial})


def test_several_results_come_with_a_comparison(evil):
    page = Page(evil)
    assert page.links == ["#run0", "#run1"]
    for anchor in page.links:
        assert evil.count(f'id="{anchor[1:]}"') == 1
    assert page.text.count("Side by side") == 1


@pytest.mark.usefixtures("without_pictures")
def test_results_are_judged_by_a_metric_that_they_share(ds):
    loss = testing.dataset(layers=2).sel(metric=["loss"])
    with pytest.raises(OptionError, match="no metric in all of these results 'error'"):
        report.page({"a": ds, "b": loss}, metric="error")
    other = loss.assign_coords(metric=["perplexity"])
    with pytest.raises(OptionError, match="no metric in common"):
        report.page({"a": loss, "b": other})


@pytest.mark.parametrize(
    "wrong", [{}, [], testing.dataset(layers=1), testing.dataset(layers=1).value]
)
def test_what_is_no_mapping_of_results_is_refused(wrong):
    with pytest.raises(OptionError, match=r"such as \{'fcn': ds\}"):
        report.page(wrong)


# How to compute it again


@pytest.mark.usefixtures("without_pictures")
def test_the_call_that_is_shown_gives_the_same_result(tmp_path):
    import torch
    from torch import nn

    import layerscope

    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    start = {name: torch.randn_like(value) for name, value in network.state_dict().items()}
    checkpoints = {0: start, 3: network.state_dict()}
    data = torch.randn(40, 4), torch.arange(40) % 3
    chosen = {
        "perturbations": ["zero", "noise(0.5)", "reinitialize"],
        "draws": 2,
        "batch_size": 16,
        "seed": 7,
        "metrics": ["error"],
        "decide": {"robust": 0.1, "critical": 0.2},
    }
    found = layerscope.sweep(
        network, data, checkpoints=checkpoints, device="cpu", show_progress=False, **chosen
    )
    results.save(found, tmp_path / "sweep.nc")
    shown = again(results.open_dataset(tmp_path / "sweep.nc"))
    assert "40 examples" in shown
    assert "66" not in shown.split("#")[0]
    scope = {"network": network, "data": data, "checkpoints": checkpoints}
    quiet = shown.replace("\n)", "\n    show_progress=False,\n)")
    exec(compile(quiet, "again", "exec"), scope)
    for name in ("value", "verdict", "n_examples"):
        assert scope["ds"][name].identical(found[name])


@pytest.mark.usefixtures("without_pictures")
def test_the_call_of_a_study_names_data_recipe_and_seeds(repository):
    run = repository / "papermill_runs" / "fcn-mnist" / "paper"
    call = again(results.open_dataset(run))
    tree = compile(call, "again", "exec")
    assert tree
    for part in ("load_data('mnist')", "lr=0.01", "'depth': 3", "seeds=[0, 1, 2, 3, 4]", "draws=3"):
        assert part in call
    (name,), (read,) = zip(*report.read([run]).items(), strict=True)
    assert name == "fcn-mnist/paper"
    assert again(read) == "layerscope reproduce fcn-mnist --scale paper"


# Files


@pytest.mark.usefixtures("without_pictures")
def test_results_are_told_apart_by_their_folders(tmp_path, ds):
    for folder in ("x/a", "y/a"):
        results.save(ds, tmp_path / folder / "sweep.nc")
    assert list(report.read([tmp_path / "x" / "a", tmp_path / "y" / "a" / "sweep.nc"])) == [
        "x/a",
        "a/sweep",
    ]
    both = [tmp_path / "x" / "a" / "sweep.nc", tmp_path / "y" / "a" / "sweep.nc"]
    assert list(report.read(both)) == ["x/a/sweep", "y/a/sweep"]
    with pytest.raises(OptionError, match="more than once"):
        report.read([both[0], both[0]])
    with pytest.raises(ResultError, match="there is no Dataset"):
        report.read([tmp_path / "none.nc"])
    (tmp_path / "x" / "a" / "manifest.json").write_text("[not a manifest")
    with pytest.raises(ResultError, match=r"manifest\.json is not the manifest of a run"):
        report.read(both)


@pytest.mark.usefixtures("without_pictures")
def test_the_command_writes_a_page_and_says_where(tmp_path, capsys, ds):
    results.save(ds, tmp_path / "sweep.nc")
    out = tmp_path / "out" / "report.html"
    assert main(["report", str(tmp_path / "sweep.nc"), "-o", str(out), "--title", "Mine"]) == 0
    assert str(out) in capsys.readouterr().out
    assert "<title>Mine</title>" in out.read_text("utf-8")
    assert main(["report", str(tmp_path / "none.nc")]) == 1
    assert "there is no Dataset" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "sweep.nc"), "--metric", "eror"]) == 1
    assert "Did you mean 'error'" in capsys.readouterr().err


# In a browser


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def opened(browser, path: Path, said: list[str], **context):
    page = browser.new_context(viewport={"width": 1400, "height": 900}, **context).new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda each: said.append(each.text) if each.type != "info" else None)
    page.on("pageerror", lambda each: said.append(str(each)))
    page.on("request", lambda each: said.append(each.url) if each.url[:4] == "http" else None)
    page.on("dialog", lambda each: said.append(f"dialog {each.message}"))
    page.goto(path.as_uri())
    return page


def test_the_figures_hover_and_no_name_runs(browser, tmp_path, evil):
    path, said = tmp_path / "report.html", []
    path.write_text(evil, "utf-8")
    page = opened(browser, path, said, offline=True)
    live = page.locator(".layerscope-live")
    # Drawn, once the canvas is there and Bokeh is idle.
    page.wait_for_function("Bokeh.documents.length == 5 && Bokeh.documents.every(d => d.is_idle)")
    assert live.count() == 5
    assert page.locator(".layerscope-still").first.is_hidden()
    overview = live.nth(1)
    overview.scroll_into_view_if_needed()
    box = overview.locator(".bk-Canvas").first.bounding_box()
    # Some cell lies there, whatever the widths of the names: the middle of the first heat map.
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.2)
    tip = page.locator(".bk-Tooltip").first
    tip.wait_for()
    shown = tip.evaluate("each => each.shadowRoot.textContent")
    assert "95 % interval" in shown
    assert any(name in shown for name in EVIL)
    assert said == []


def test_in_the_dark_figures_stay_on_white_paper(browser, tmp_path, one):
    path = tmp_path / "report.html"
    path.write_text(one, "utf-8")
    back = "name => getComputedStyle(document.querySelector(name)).backgroundColor"
    for scheme, dark in (("light", False), ("dark", True)):
        page = opened(browser, path, [], color_scheme=scheme)
        assert (page.evaluate(back, "body") != "rgb(255, 255, 255)") is dark
        if dark:
            assert page.evaluate(back, "figure") == "rgb(255, 255, 255)"
        page.emulate_media(media="print")
        assert page.evaluate(back, "body") == "rgb(255, 255, 255)"


def test_a_page_never_scrolls_sideways_and_its_figures_have_names(browser, tmp_path):
    names = [f"vision.encoder.layers.{at // 4}.attention.part_{at % 4}" for at in range(12)]
    long = testing.dataset(layers=12).assign_coords(layer=[*names, "fullmodel"])
    path = report.write({"of long names": long}, tmp_path / "report.html")
    for width in (1280, 390):
        page = opened(browser, path, [], bypass_csp=True)
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("[...document.images].every(each => each.complete)")
        if width > 390:  # there Bokeh does not draw what is not shown
            page.wait_for_function("Bokeh.documents.every(each => each.is_idle)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        figures = page.locator("figure").all()
        assert len(figures) == 2
        for figure in figures:
            assert figure.get_attribute("aria-label").startswith("Test error")
            assert figure.locator(".layerscope-still").is_visible() is (width == 390)
            if width == 390:  # a picture made for it, which fills it
                assert 300 < figure.locator("img").bounding_box()["width"] <= width
            else:
                assert figure.evaluate("each => each.scrollWidth <= each.clientWidth")
    assert page.locator(".wide[tabindex]").count() > 0  # a table scrolls in its box


def test_without_scripts_and_on_paper_there_are_pictures(browser, tmp_path, one):
    path, said = tmp_path / "report.html", []
    path.write_text(one, "utf-8")
    page = opened(browser, path, said, java_script_enabled=False)
    pictures = page.locator(".layerscope-still img")
    assert pictures.count() == 2
    assert all(picture.is_visible() for picture in pictures.all())
    assert page.locator(".layerscope-live").first.is_hidden()
    page = opened(browser, path, said)
    page.wait_for_function("Bokeh.documents.length == 2 && Bokeh.documents.every(d => d.is_idle)")
    page.emulate_media(media="print")
    assert page.locator(".layerscope-still").first.is_visible()
    assert page.locator(".layerscope-live").first.is_hidden()
    widths = page.evaluate(
        "[...document.images].map(i => [i.naturalWidth > 0, i.getBoundingClientRect().right])"
    )
    assert all(drawn and right <= 1400 for drawn, right in widths)
    content = page.pdf(prefer_css_page_size=True)
    sheets = len(re.findall(rb"/Type /Page\b", content))
    assert 2 <= sheets <= 5
    assert said == []


def test_a_figure_goes_into_a_page_of_ones_own(browser, tmp_path, ds):
    path, said = tmp_path / "mine.html", []
    figure = plots.heatmap(ds)
    path.write_text("<h1>My report</h1>" + plots.library() + plots.embed(figure), "utf-8")
    page = opened(browser, path, said)
    page.wait_for_function("Bokeh.documents.length == 1 && Bokeh.documents[0].is_idle")
    assert page.locator(".bk-Canvas").first.is_visible()
    assert said == []


def measured(layers: int = 6):
    made = testing.dataset(layers=layers)
    values = np.stack([np.arange(layers + 1.0), np.arange(layers + 1.0) ** 0.5], axis=1)
    values[-1] = np.nan
    held = ("layer", "measure"), values
    return made.assign(measure_value=held).assign_coords(measure=["<i>odd</i>", "block_influence"])


@pytest.mark.usefixtures("without_pictures")
def test_measures_stand_beside_the_exact_effect_with_their_agreement():
    made = measured()
    text = report.page({"one": made})
    row = stats.agreement(made, "block_influence", repeats=400).set_index("statistic")
    assert f"Spearman&#39;s correlation {row.value['spearman']:.2f}" in text
    assert "<td>block influence</td>" in text
    assert "&lt;i&gt;odd&lt;/i&gt;" in text
    assert "<i>odd" not in text
    assert f"<td>{5**0.5:.4g}</td>" in text
    assert "Cheap measures" not in report.page({"one": testing.dataset(layers=2)})


@pytest.mark.usefixtures("without_pictures")
def test_measures_of_too_few_layers_are_told_without_an_agreement():
    assert "can&#39;t be said" in report.page({"one": measured(2)})
