"""What the explorer draws by JavaScript, in a browser with no Jupyter around it."""

from __future__ import annotations

import base64
import shutil

import pytest

from layerscope.jupyter import _strip

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

# Stands for anywidget's model: traits, and what was sent to Python.
MODEL = """
window.make = async ([source, traits]) => {
  const widget = (await import("data:text/javascript;base64," + source)).default;
  const handlers = [];
  const model = {
    sent: [],
    get: (name) => traits[name],
    set: (name, value) => { model.put({ [name]: value }); },
    save_changes: () => {},
    send: (message) => model.sent.push(message),
    on: (names, handler) => handlers.push([names.split(" "), handler]),
    off: () => { handlers.length = 0; },
    put: (values) => {
      Object.assign(traits, values);
      for (const name of Object.keys(values)) {
        for (const [names, handler] of [...handlers]) {
          if (names.includes(`change:${name}`)) handler();
        }
      }
    },
  };
  window.model = model;
  const el = document.getElementById("here");
  el.replaceChildren();
  widget.render({ model, el });
};
"""


@pytest.fixture(scope="module")
def window():
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = chromium.new_page()
        page.set_default_timeout(60_000)
        page.set_content(f"<style>{_strip.Strip._css}</style><div id=here class=ls-explorer></div>")
        page.add_script_tag(content=MODEL)
        yield page
        chromium.close()


def mount(window, kind, **traits):
    source = base64.b64encode(str(kind._esm).encode()).decode()
    given = {"label": "", "acknowledged": 0, **traits}
    window.evaluate("window.make", [source, given])


def put(window, **traits):
    window.evaluate("values => window.model.put(values)", traits)


def sent(window):
    return window.evaluate("window.model.sent")


def blocks(*changed):
    look = {"short": "", "stage": "", "block": "", "colour": "#fff", "ink": "#000", "share": 0.5,
            "badge": "", "tip": "tip"}  # fmt: skip
    names = ("one", "two", "three")
    return [{**look, "name": n, "state": "initial" if n in changed else "trained"} for n in names]


def test_a_click_counts_though_the_strip_is_drawn_anew_under_it(window):
    mount(window, _strip.Strip, blocks=blocks(), selected=[])
    window.locator('[data-name="two"]').hover()
    window.mouse.down()
    put(window, blocks=blocks("one"), selected=["one"])
    window.mouse.up()
    assert [(each["kind"], each["name"]) for each in sent(window)] == [("toggle", "two")]
    assert window.get_attribute('[data-name="one"]', "data-state") == "initial"
    put(window, blocks=blocks()[:2])  # of another view
    assert window.locator(".ls-block").count() == 2


def test_a_click_counts_though_a_sweep_fills_its_neighbour(window):
    cells = [[{}, {}], [{}, {}]]
    known = [[{}, {"text": "0.3", "tip": "t", "colour": "#123456", "ink": "#fff"}], [{}, {}]]
    mount(window, _strip.Grid, rows=["a", "b"], columns=["0", "1"], cells=cells, marked=[])
    window.locator('[data-row="b"][data-column="0"]').hover()
    window.mouse.down()
    put(window, cells=known, marked=[["b", "0"]])
    window.mouse.up()
    (told,) = sent(window)
    assert (told["row"], told["column"]) == ("b", "0")
    there = window.locator('[data-row="a"][data-column="1"]')
    assert (there.inner_text(), there.get_attribute("data-known")) == ("0.3", "true")
    put(window, rows=["c"], columns=["0"], cells=[[{}]])
    assert window.locator(".ls-grid button").count() == 1
