"""The explorer in a real browser: JupyterLab, clicked through."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from layerscope import report, testing

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

from browsing import CHROMIUM, FLAGS, PATIENCE, WINDOW, Lab, Page, offline, serious, serve  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def server(tmp_path_factory, train_few):
    """JupyterLab in a home of its own, in a folder with a run."""
    root = tmp_path_factory.mktemp("root")
    run = train_few(root / "series").folder
    yield from serve(tmp_path_factory.mktemp("home"), root, str(run))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser):
    """A window that asks for nothing outside, and keeps what it loaded from the server."""
    made = browser.new_context(viewport=WINDOW)
    offline(made)
    yield made
    made.close()


@pytest.fixture
def lab(context):
    page = Lab(context.new_page())
    yield page
    page.close()
    assert page.errors == []


@pytest.fixture
def tab(context):
    """A page beside JupyterLab."""
    page = Page(context.new_page())
    yield page
    page.page.close()
    assert page.errors == []


OPEN = """
from layerscope import LayerExplorer
explorer = LayerExplorer({run!r}, device="cpu", batch_size=50)
explorer
"""


LANGUAGE = """
import torch, transformers, warnings
from layerscope import LayerExplorer, data
warnings.simplefilter("ignore")  # of transformers, about the tiny configuration
lines = ["the cat sat on the mat", "the <b>dog</b> sat & ran, the cat sat"]
tokenizer = data.Tokenizer.train(lines, vocab=280)
tokenizer.save("tokenizer.json")
torch.manual_seed(0)
net = transformers.LlamaForCausalLM(transformers.LlamaConfig(
    vocab_size=280, hidden_size=16, intermediate_size=24, num_hidden_layers=4,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    initializer_range=0.5))
ids = tokenizer.encode(lines * 8)[:160].reshape(8, 20)
explorer = LayerExplorer(net, {"input_ids": ids, "labels": ids}, tokenizer="tokenizer.json",
                         view="block", device="cpu", batch_size=4, perturbations=["skip"])
explorer
"""


def test_a_language_model_is_read_token_by_token(server, lab):
    lab.open(server, "language", LANGUAGE)
    texts, said = lab.page.locator(".ls-text .ls-tok"), lab.page.locator(".ls-said")
    lab.page.locator(".ls-explorer textarea").fill("the cat")
    lab.page.locator(".ls-explorer textarea").blur()
    lab.press("Continue")
    sync_api.expect(said).to_have_attribute("data-final", "true", timeout=PATIENCE)
    sync_api.expect(said).to_contain_text("the same 24 tokens")
    lab.tool("skipped")
    lab.asking(lambda: lab.layer("model.layers.1").click())
    lab.has_state("model.layers.1", "skipped")
    sync_api.expect(said.locator("mark")).to_have_count(2, timeout=PATIENCE)
    moved = lab.page.locator(".ls-tok.ls-moved")
    moved.first.hover()
    assert "nats\npredicted" in moved.first.get_attribute("title")
    assert texts.count() > 40
    assert lab.page.locator(".ls-text b").count() == 0  # what texts hold never becomes HTML
    # Rows that can't be skipped are marked, in the strip and the heat map, with the reason.
    lab.press("Sweep")
    cell = lab.page.locator('.ls-grid button[data-column="skip"].ls-refused')
    cell.first.wait_for()
    assert "can't be computed: " in cell.first.get_attribute("title")
    lab.picture("language")


TASKS = """
import torch
from layerscope import LayerExplorer, models
net, start = (models.build("fcn-2x8", seed=n, inputs=(4,), classes=2) for n in (0, 1))
data = {"news": (torch.randn(30, 4), torch.arange(30) % 2),
        "code": (torch.randn(17, 4), torch.arange(17) % 2)}
explorer = LayerExplorer(net, data, {0: start.state_dict(), 1: net.state_dict()}, device="cpu")
explorer
"""


def test_another_task_is_measured_with_the_layers_as_they_are(server, lab):
    lab.open(server, "tasks", TASKS)
    lab.asking(lambda: lab.layer("layer1").click())
    lab.press("Sweep")
    cell = lab.page.locator(".ls-grid button[data-column]")
    cell.first.wait_for()
    before = lab.seq
    chosen = lab.page.locator(".widget-dropdown", has_text="task").locator("select")
    chosen.select_option("code")
    lab.settled(before)
    sync_api.expect(lab.page.locator(".ls-cards")).to_contain_text("17 of 17 examples")
    lab.has_state("layer1", "initial")
    sync_api.expect(cell).to_have_count(0)  # that of the other task
    lab.picture("tasks")


def test_clicking_through_a_run(server, lab):
    run = Path(server.run)
    lab.open(server, "run", OPEN.format(run=str(run)))
    trained = lab.settled()[1]

    # One layer, several, and back.
    one = lab.asking(lambda: lab.layer("layer1").click())
    lab.has_state("layer1", "initial")
    assert one > trained
    two = lab.asking(lambda: lab.layer("layer2").click())
    lab.has_state("layer2", "initial")
    assert two != one
    assert lab.asking(lambda: lab.press("Undo")) == one
    assert lab.asking(lambda: lab.press("Redo")) == two
    lab.asking(lambda: lab.layer("layer1").click())
    assert lab.asking(lambda: lab.layer("layer2").click()) == trained

    # The keyboard.
    lab.layer("layer1").focus()
    lab.page.keyboard.press("ArrowRight")
    lab.asking(lambda: lab.page.keyboard.press("Enter"))
    lab.has_state("layer2", "initial")
    assert lab.asking(lambda: lab.page.keyboard.press("Delete")) == trained

    # Dragging through the checkpoints, to the trained weights at the end.
    lab.asking(lambda: lab.layer("layer1").click())
    handle = lab.page.locator(".ls-explorer .noUi-handle").first
    track = lab.page.locator(".ls-explorer .noUi-target").first.bounding_box()
    handle.hover()
    lab.page.mouse.down()
    middle = track["y"] + track["height"] / 2
    lab.page.mouse.move(track["x"] + track["width"] / 2, middle, steps=4)
    lab.has_state("layer1", "checkpoint 1")
    lab.page.mouse.move(track["x"] + track["width"], middle, steps=4)
    lab.page.mouse.up()
    lab.has_state("layer1", "checkpoint 2")
    # The answer on the way, of checkpoint 1, may be whole before the last one is there.
    lab.shows(trained)

    # What else can be done to a layer, and what can't.
    lab.asking(lambda: lab.tool("zero"))
    lab.has_state("layer1", "set to zero")
    lab.tool("skipped")
    lab.says("layer1 can't be skipped: layer1 turns", "error")
    lab.asking(lambda: lab.press("Undo"))

    # A sweep fills the heat map; a cell of it sets that state.
    lab.press("Sweep")
    cell = lab.page.locator(
        '.ls-grid button[data-row="layer1"][data-column="0"][data-known="true"]'
    )
    cell.wait_for()
    lab.page.wait_for_function(
        """() => ![...document.querySelectorAll(".ls-explorer button.jupyter-button")]
        .find(b => b.textContent.includes("Sweep")).disabled"""
    )
    assert lab.asking(cell.click) == one
    lab.has_state("layer1", "initial")
    assert "parameters" in cell.get_attribute("title")
    sync_api.expect(cell).to_have_class("ls-marked")
    lab.picture("explorer")

    # A scenario.
    name = lab.page.locator(".ls-explorer input[type=text]").first
    name.fill("without <b>the first</b>")
    name.blur()
    lab.press("Keep")
    lab.says("Kept as 'without <b>the first</b>'")

    # The state as a figure, beside the notebook.
    lab.press("Save figure")
    sync_api.expect(lab.page.locator(".ls-saved")).to_contain_text("layers.png", timeout=PATIENCE)
    lab.page.get_by_role("button", name="Copy path").click()
    sync_api.expect(lab.page.locator(".ls-saved")).to_contain_text("path copied")
    assert f"Saved {server.root / 'layers.png'}" in lab.page.inner_text(".ls-saved")
    assert (server.root / "layers.png").read_bytes().startswith(b"\x89PNG")

    # Python.
    lab.press("Python")
    sync_api.expect(lab.page.locator(".ls-code")).to_contain_text("'layer1': ('reinitialize', 0)")

    # A file that goes missing meanwhile.
    lab.asking(lambda: lab.layer("layer1").click())
    lost = next(run.glob("*1.safetensors"))
    kept = lost.read_bytes()
    lost.unlink()
    try:
        lab.tool("checkpoint")
        lab.asking(lambda: lab.layer("layer3").click())
        # The slider followed the cell of the heat map to checkpoint 0.
        lab.page.locator(".ls-explorer .noUi-handle").first.focus()
        lab.page.keyboard.press("ArrowRight")
        lab.says(lost.name, "error")
        lab.picture("error")
    finally:
        lost.write_bytes(kept)
    assert lab.asking(lambda: lab.layer("layer3").click()) == trained


def test_no_theme_of_jupyterlab_has_a_serious_fault(server, lab, axe):
    lab.open(server, "themes", OPEN.format(run=server.run))
    lab.asking(lambda: lab.layer("layer1").click())
    lab.page.locator(".ls-explorer input[type=text]").first.fill("kept")
    lab.page.locator(".ls-explorer input[type=text]").first.blur()
    lab.press("Keep")
    lab.says("Kept as ")
    lab.press("Python")
    lab.press("Sweep")
    cell = lab.page.locator('.ls-grid button[data-row="fullmodel"][data-column="2"]')
    sync_api.expect(cell).to_have_attribute("data-known", "true", timeout=PATIENCE)
    try:
        for theme in ("dark", "light"):
            lab.theme(theme)
            assert serious(lab.page, axe, ".ls-explorer") == []
            lab.picture(theme)
        # What is said in red is read in both, too.
        lab.tool("skipped")
        lab.says("layer1 can't be skipped: layer1 turns", "error")
        for theme in ("dark", "light"):
            lab.theme(theme)
            assert serious(lab.page, axe, ".ls-explorer") == []
            lab.picture(f"error-{theme}")
    finally:
        lab.theme("light")


def test_a_notebook_without_its_kernel_shows_what_was_found_and_no_error(
    server, context, lab, tmp_path
):
    lab.open(server, "saved", OPEN.format(run=server.run))
    one = lab.asking(lambda: lab.layer("layer1").click())
    lab.page.locator(".ls-still").wait_for(state="attached")
    sync_api.expect(lab.page.locator(".ls-still")).to_contain_text("layer1 initial")
    lab.save()
    lab.python("explorer.close()")
    # Opened another day: with a kernel that knows nothing of it.
    shutil.copy(server.root / "saved.ipynb", server.root / "next.ipynb")
    lab.show(server, "next.ipynb")
    sync_api.expect(lab.page.get_by_text("model not found")).to_be_attached(timeout=PATIENCE)
    sync_api.expect(lab.page.get_by_text("model not found")).to_be_hidden()
    still = lab.page.locator(".ls-still")
    sync_api.expect(still).to_be_visible()
    assert f"{100 * one:.2f} %" in still.inner_text()
    # And made into a page, with nothing to be had from the network.
    exporter = pytest.importorskip("nbconvert", reason="nbconvert is not installed").HTMLExporter()
    html, _ = exporter.from_filename(server.root / "saved.ipynb")
    (tmp_path / "saved.html").write_text(html)
    plain = Page(context.new_page())
    plain.page.goto((tmp_path / "saved.html").as_uri())
    assert "layer1 initial" in plain.page.inner_text(".ls-still")
    assert f"{100 * one:.2f} %" in plain.page.inner_text(".ls-still")
    assert "model not found" not in plain.page.inner_text("body")
    plain.page.close()
    assert plain.errors == []


def test_a_truncated_checkpoint_is_marked_and_everything_else_works(server, lab):
    root, run = server.root, Path(server.run)
    torn = shutil.copytree(run, root / "torn" / run.name) / "epoch-0001.safetensors"
    os.truncate(torn, torn.stat().st_size // 2)
    lab.open(server, "torn", OPEN.format(run=str(torn.parent)))
    trained = lab.settled()[1]
    note = lab.page.locator('.ls-status[role="note"]')
    sync_api.expect(note).to_contain_text("1 of 3 checkpoints can't be read, and is left out")
    sync_api.expect(note).to_contain_text(str(torn))
    lab.press("Sweep")
    broken = lab.page.locator('.ls-grid button[data-row="layer1"][data-column="1"]')
    sync_api.expect(broken).to_have_class("ls-refused", timeout=PATIENCE)
    head = lab.page.locator(".ls-grid th.ls-torn")
    sync_api.expect(head).to_have_text("⊘ 1")
    assert str(torn) in head.get_attribute("aria-label")
    broken.click()
    lab.says("the checkpoint of epoch 1 can't be read: ", "error")
    sync_api.expect(lab.page.locator(".ls-cards")).to_contain_text("could not be measured")
    aloud = lab.page.locator('.ls-explorer [role="status"][aria-live="polite"]')
    sync_api.expect(aloud).to_contain_text(str(torn))
    lab.picture("torn")
    sound = lab.page.locator('.ls-grid button[data-row="layer1"][data-column="0"]')
    assert lab.asking(sound.click) > trained
    # The selector says it, too.
    lab.page.locator(".ls-explorer .noUi-handle").first.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.says("the checkpoint of epoch 1 can't be read: ", "error")
    readout = lab.page.locator(".ls-explorer .widget-readout").first
    sync_api.expect(readout).to_have_text("1 (can't be read)")
    assert lab.asking(lambda: lab.press("Undo")) > trained


SLOW = """
import torch
from layerscope import models
from layerscope import LayerExplorer
net, start = (models.build("fcn-24x16", seed=n, inputs=(16,), classes=4) for n in (0, 1))
states = {{0: start.state_dict(), 1: net.state_dict()}}
pair = torch.randn(8_000, 16), torch.arange(8_000) % 4
explorer = LayerExplorer(net, pair, states, device="cpu", batch_size=50)
explorer
"""


DEEP = """
import torch
from torch import nn
from layerscope import LayerExplorer
torch.manual_seed(0)
net = nn.Sequential(*[nn.Sequential(*[nn.Linear(4, 4) for _ in range(10)]) for _ in range(30)])
pair = torch.randn(20, 4), torch.arange(20) % 4
explorer = LayerExplorer(net, pair, {0: net.state_dict()}, device="cpu", perturbations=["zero"])
explorer
"""


def test_the_answer_stays_in_view_whatever_is_scrolled_to(server, lab):
    lab.page.set_viewport_size({"width": 1280, "height": 800})
    lab.open(server, "deep", DEEP)
    inside = """() => {
        const [answer, room] = [".ls-answer", ".jp-WindowedPanel-outer"].map(
            name => document.querySelector(name).getBoundingClientRect());
        return answer.top >= room.top - 2 && answer.bottom <= room.bottom + 2;
    }"""
    for place in (0, 300, 700):
        lab.page.locator(".jp-WindowedPanel-outer").evaluate("(e, at) => e.scrollTo(0, at)", place)
        lab.page.wait_for_function(inside)
    # And by keyboard nothing is gone to that it covers.
    lab.page.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollTo(0, 0)")
    lab.layer("0.0").focus()
    for key, name in (("End", "29.9"), ("ArrowLeft", "29.8"), ("Home", "0.0")):
        lab.page.keyboard.press(key)
        at = lab.page.evaluate(
            """() => {
                const part = document.activeElement, box = part.getBoundingClientRect();
                const top = document.elementFromPoint(box.x + box.width / 2, box.bottom - 4);
                return [part.contains(top), part.dataset.name ?? null];
            }"""
        )
        assert at == [True, name]
    lab.asking(lambda: lab.layer("15.5").click())
    lab.has_state("15.5", "set to zero")
    assert lab.page.evaluate(inside)


def test_a_sweep_is_cancelled_and_clicks_come_first(server, lab):
    lab.open(server, "slow", SLOW.format())
    lab.press("Sweep")
    lab.page.wait_for_function(
        """() => [...document.querySelectorAll(".ls-explorer .widget-label")]
        .some(label => label.textContent.includes("s left"))"""
    )
    lab.asking(lambda: lab.layer("layer3").click())  # answered while the sweep goes on
    lab.page.locator(
        ".ls-explorer button.jupyter-button:not([disabled])", has_text="Cancel"
    ).click()
    sync_api.expect(
        lab.page.locator(".ls-explorer .widget-label", has_text="stopped")
    ).to_be_visible(timeout=PATIENCE)
    # One whose neighbour is drawn anew between mouse-down and mouse-up counts as well.
    lab.layer("layer4").hover()
    lab.page.mouse.down()
    lab.layer("layer2").evaluate("button => button.click()")
    lab.has_state("layer2", "initial")
    lab.page.mouse.up()
    lab.has_state("layer4", "initial")
    lab.settled()
    # Clicks faster than answers: the last one counts, none is lost.
    before = lab.seq
    for number in range(5, 11):
        lab.layer(f"layer{number}").click()
    lab.settled(before + 5)
    assert [lab.state(f"layer{number}") for number in range(5, 11)] == ["initial"] * 6
    lab.picture("slow")


def test_the_same_explorer_without_a_notebook_around_it(server, tab):
    pytest.importorskip("voila", reason="Voilà is not installed")
    name = server.write("page", OPEN.format(run=server.run), own_kernel=True)
    tab.page.goto(f"{server.address}/voila/render/{name}?token={server.token}")
    try:
        tab.settled(patience=30_000)
    except sync_api.TimeoutError:
        # The first answer gets lost at times, where it comes while the page connects to the kernel.
        tab.page.reload()
    trained = tab.settled()[1]
    one = tab.asking(lambda: tab.layer("layer1").click())
    tab.has_state("layer1", "initial")
    assert one > trained
    assert tab.asking(lambda: tab.press("Undo")) == trained
    tab.picture("voila")


def test_the_same_explorer_in_the_other_notebook_application(server, tab):
    pytest.importorskip("notebook", reason="Jupyter Notebook is not installed")
    name = server.write("seven", OPEN.format(run=server.run))
    tab.page.goto(f"{server.address}/notebooks/{name}?token={server.token}")
    tab.run_all()
    tab.errors.clear()  # Jupyter Notebook's own, of settings that are not there yet as it begins
    trained = tab.settled()[1]
    one = tab.asking(lambda: tab.layer("layer1").click())
    tab.has_state("layer1", "initial")
    assert one > trained
    tab.press("Sweep")
    cell = tab.page.locator('.ls-grid button[data-row="layer1"][data-column="0"]')
    sync_api.expect(cell).to_have_attribute("data-known", "true", timeout=PATIENCE)
    assert tab.asking(lambda: tab.press("Undo")) == trained
    # In the notebook `d d` deletes a cell, `a` adds one, and `m` makes it text.
    cell.focus()
    for key in "ddam":
        tab.page.keyboard.press(key)
    assert tab.asking(lambda: tab.page.keyboard.press("Enter")) == one
    sync_api.expect(tab.page.locator(".jp-Cell")).to_have_count(1)
    sync_api.expect(tab.page.locator(".jp-CodeCell")).to_have_count(1)
    tab.picture("notebook")


# Pages of one result are opened by the tests of reports.
@pytest.mark.slow
# As users run it: where a hook fails, here for a warning, HoloViews leaves out what it draws.
@pytest.mark.filterwarnings("ignore")
def test_every_figure_of_a_report_is_drawn(browser, tmp_path):
    ds = testing.dataset()
    path = report.write({"a": ds, "b": ds}, tmp_path / "report.html")
    page, errors = browser.new_page(bypass_csp=True), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("Bokeh.documents.some(each => each.is_idle)", timeout=PATIENCE)
    page.wait_for_timeout(1000)
    states = page.evaluate("Bokeh.documents.map(each => each.is_idle)")
    page.close()
    # The comparison, and of each run the overview and the curves.
    assert (errors, states) == ([], [True] * 5)
