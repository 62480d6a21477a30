"""The explorer in a real browser: JupyterLab, clicked through."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from layerscope import report, testing

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ROOT = Path(__file__).parents[1]
PATIENCE = 90_000  # milliseconds that a page may take where other processes share the machine
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory, train_few):
    """JupyterLab in a home of its own, in a folder with a run."""
    home = tmp_path_factory.mktemp("home")
    root = tmp_path_factory.mktemp("root")
    run = train_few(root / "series").folder
    news = home / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (news / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab" / "user-settings"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--allow-root",
            f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
        ],
        env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}").close()
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()
                time.sleep(0.1)
        yield address, token, root, run
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def written(path, source):
    """Write a notebook of one cell."""
    book = v4.new_notebook(cells=[v4.new_code_cell(source)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, path)


class Page:
    """A notebook in JupyterLab, with what there is to see of the explorer in it."""

    def __init__(self, page):
        self.page = page
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE)

    def open(self, server, name, source):
        address, token, root, _ = server
        written(root / f"{name}.ipynb", source)
        self.page.goto(f"{address}/lab/workspaces/{name}/tree/{name}.ipynb?reset&token={token}")
        self.page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
        ran = self.page.evaluate(
            """async () => {
                await window.jupyterapp.shell.currentWidget.sessionContext.ready;
                return window.jupyterapp.commands.execute("notebook:run-all-cells");
            }"""
        )
        assert ran is not False, self.page.inner_text(".jp-NotebookPanel")
        self.settled()

    def layer(self, name):
        return self.page.locator(f'.ls-block[data-name="{name}"]')

    def state(self, name):
        return self.layer(name).get_attribute("data-state")

    def has_state(self, name, state):
        sync_api.expect(self.layer(name)).to_have_attribute("data-state", state, timeout=PATIENCE)

    def settled(self, after=0, patience=PATIENCE):
        """Wait for the whole answer to a question later than this; return its number and value."""
        self.page.wait_for_function(
            """after => { const cards = document.querySelector(".ls-cards");
            return cards && +cards.dataset.seq > after && cards.dataset.final === "true"; }""",
            arg=after,
            timeout=patience,
        )
        return self.seq, float(self.page.get_attribute(".ls-cards", "data-value"))

    def shows(self, value):
        """Wait for the whole answer that is this."""
        self.page.wait_for_function(
            """value => { const cards = document.querySelector(".ls-cards");
            return +cards.dataset.value === value && cards.dataset.final === "true"; }""",
            arg=value,
        )

    @property
    def seq(self):
        return int(self.page.get_attribute(".ls-cards", "data-seq"))

    def asking(self, act):
        """Do something that asks the network; return the value that is shown then."""
        before = self.seq
        act()
        return self.settled(before)[1]

    def press(self, text):
        self.page.locator(".ls-explorer button.jupyter-button", has_text=text).click()

    def tool(self, text):
        self.page.locator(".widget-toggle-button", has_text=text).click()

    def says(self, text, kind="info"):
        line = self.page.locator(f'.ls-status[data-kind="{kind}"]')
        sync_api.expect(line).to_contain_text(text, timeout=PATIENCE)


@pytest.fixture
def lab(browser):
    context = browser.new_context(viewport={"width": 1400, "height": 1250})
    context.route(
        "**/*",
        lambda route: (
            route.continue_() if route.request.url.startswith("http://127.0.0.1") else route.abort()
        ),
    )
    page = Page(context.new_page())
    yield page
    context.close()
    assert page.errors == []


OPEN = """
from layerscope import LayerExplorer
explorer = LayerExplorer({run!r}, device="cpu", batch_size=20)
explorer
"""


def picture(lab, name):
    """Keep a picture of the page where somebody wants to look at it."""
    if folder := os.environ.get("LAYERSCOPE_PICTURES"):
        lab.page.locator(".ls-explorer").first.screenshot(path=f"{folder}/{name}.png")


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
    picture(lab, "language")


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
    picture(lab, "tasks")


def test_clicking_through_a_run(server, lab):
    run = Path(server[3])
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
    picture(lab, "explorer")

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
    assert f"Saved {server[2] / 'layers.png'}" in lab.page.inner_text(".ls-saved")
    assert (server[2] / "layers.png").read_bytes().startswith(b"\x89PNG")

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
        lab.page.locator(".ls-explorer .noUi-handle").first.focus()
        lab.page.keyboard.press("ArrowLeft")
        lab.says(lost.name, "error")
        picture(lab, "error")
    finally:
        lost.write_bytes(kept)
    assert lab.asking(lambda: lab.layer("layer3").click()) == trained


def test_a_notebook_without_its_kernel_shows_what_was_found_and_no_error(server, lab):
    lab.open(server, "saved", OPEN.format(run=str(server[3])))
    one = lab.asking(lambda: lab.layer("layer1").click())
    lab.page.locator(".ls-still").wait_for(state="attached")
    sync_api.expect(lab.page.locator(".ls-still")).to_contain_text("layer1 initial")
    lab.page.evaluate(
        """async () => {
            await window.jupyterapp.commands.execute("docmanager:save");
            await window.jupyterapp.shell.currentWidget.sessionContext.shutdown();
        }"""
    )
    lab.page.reload()
    sync_api.expect(lab.page.get_by_text("model not found")).to_be_attached(timeout=PATIENCE)
    sync_api.expect(lab.page.get_by_text("model not found")).to_be_hidden()
    still = lab.page.locator(".ls-still")
    sync_api.expect(still).to_be_visible()
    assert f"{100 * one:.2f} %" in still.inner_text()


def test_a_truncated_checkpoint_is_marked_and_everything_else_works(server, lab):
    root, run = server[2], Path(server[3])
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
    picture(lab, "torn")
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
pair = torch.randn(20_000, 16), torch.arange(20_000) % 4
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
    picture(lab, "slow")


def test_the_same_explorer_without_a_notebook_around_it(server, lab):
    pytest.importorskip("voila", reason="Voilà is not installed")
    address, token, root, run = server
    written(root / "page.ipynb", OPEN.format(run=str(run)))
    lab.page.goto(f"{address}/voila/render/page.ipynb?token={token}")
    try:
        lab.settled(patience=30_000)
    except sync_api.TimeoutError:
        # The first answer gets lost at times, where it comes while the page connects to the kernel.
        lab.page.reload()
    trained = lab.settled()[1]
    one = lab.asking(lambda: lab.layer("layer1").click())
    lab.has_state("layer1", "initial")
    assert one > trained
    assert lab.asking(lambda: lab.press("Undo")) == trained
    picture(lab, "voila")


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
