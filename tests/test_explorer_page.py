"""What the explorer draws by JavaScript, in a browser with no Jupyter around it."""

from __future__ import annotations

import base64
import shutil

import pytest

from layerscope import LayerExplorer, testing
from layerscope.errors import OptionError
from layerscope.jupyter import _saving, _strip

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


def mount(window, widget, **traits):
    source = base64.b64encode(str(widget._esm).encode()).decode()
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


def deep(blocks_=30, stages=3):
    look = {"state": "trained", "colour": "#ffeecc", "ink": "#000", "share": 0.5, "badge": ""}
    made = []
    for at in range(blocks_):
        group = f"layer{at * stages // blocks_}.{at}"
        for short, kind in [("conv", "Conv2d, 90 parameters"), ("bn", "BatchNorm2d, 8 parameters")]:
            name = f"{group}.{short}"
            made.append({**look, "name": name, "short": short, "stage": group.split(".")[0],
                         "block": group, "group": group, "tip": f"{name}\n{kind}"})  # fmt: skip
    return made


def visible(window):
    return window.evaluate(
        """[...document.querySelectorAll(".ls-block")]
        .filter(each => each.offsetParent).map(each => each.dataset.name)"""
    )


def test_layers_of_a_long_network_are_found_by_name_and_type(window):
    mount(window, _strip.Strip, blocks=deep(), selected=[], legend=[])
    assert len(visible(window)) == 60
    window.fill(".ls-search", "layer1 batchnorm")
    names = visible(window)
    assert names == [f"layer1.{at}.bn" for at in range(10, 20)]
    assert window.inner_text(".ls-count") == "10 of 60"
    window.fill(".ls-search", "layer1 conv2d")
    assert visible(window) == [f"layer1.{at}.conv" for at in range(10, 20)]
    window.fill(".ls-search", "layer1 conv2")  # which might be a name
    assert visible(window) == []
    window.fill(".ls-search", "layer1 batchnorm")
    window.press(".ls-search", "Enter")
    window.keyboard.press("Enter")
    assert [each["name"] for each in sent(window)] == ["layer1.10.bn"]
    window.fill(".ls-search", "")
    assert len(visible(window)) == 60


def test_stages_and_blocks_are_folded_and_show_all_the_same_what_is_found(window):
    mount(window, _strip.Strip, blocks=deep(), selected=[], legend=[])
    window.click('[data-fold="stage:layer0"]')
    assert len(visible(window)) == 40
    assert window.get_attribute('[data-fold="stage:layer0"]', "aria-expanded") == "false"
    window.fill(".ls-search", "layer0.3.")
    assert visible(window) == ["layer0.3.conv", "layer0.3.bn"]
    window.fill(".ls-search", "")
    window.click("text=Fold all")
    assert visible(window) == []
    window.click("text=Unfold all")
    assert len(visible(window)) == 60


def test_arrow_keys_go_through_the_grid_in_one_tab_stop_and_reach_nobody_else(window):
    cells = [[{"text": f"{row}{column}", "tip": ""} for column in "01"] for row in "abc"]
    mount(window, _strip.Grid, rows=[*"abc"], columns=["0", "1"], cells=cells, marked=[], legend=[])
    window.evaluate(
        "window.heard = []; document.addEventListener('keydown', e => heard.push(e.key))"
    )
    assert window.locator('.ls-grid [tabindex="0"]').count() == 1
    window.focus('.ls-grid [tabindex="0"]')
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp", "d", "d"):
        window.keyboard.press(key)
    assert window.evaluate("document.activeElement.textContent") == "b1"
    assert window.locator('.ls-grid [tabindex="0"]').count() == 1
    # Jupyter Notebook hears of keys first, and leaves those alone where this attribute is.
    assert window.locator("[data-lm-suppress-shortcuts]:focus").count() == 1
    window.keyboard.press("Control+s")
    assert window.locator("[data-lm-suppress-shortcuts]:focus").count() == 0
    assert window.evaluate("window.heard") == ["Control", "s"]
    window.keyboard.press("Enter")
    assert [(each["row"], each["column"]) for each in sent(window)] == [("b", "1")]


def test_an_exported_page_asks_for_nothing_and_tells_of_every_cell(window, tmp_path):
    ds = testing.dataset(layers=3)
    evil = "</script><img src=x onerror=window.evil=1>"
    names = [evil if name == "layer2" else str(name) for name in ds.layer.values]
    explorer = LayerExplorer(ds.assign_coords(layer=names))
    explorer.state = {"layer3": ("reinitialize", 0)}
    path = explorer.export_page(tmp_path / "page.html")
    shown = explorer.controls.grid.cells
    with pytest.raises(OptionError, match=r"page\.html"):
        explorer.export_page(tmp_path / "page.png")
    explorer.close()
    context = window.context.browser.new_context(offline=True)
    page, errors, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    cells = page.locator(".ls-grid button")
    assert cells.all_inner_texts() == [cell["text"] for row in shown for cell in row]
    assert page.get_attribute('[data-name="layer3"]', "data-state") == "initial"
    cells.nth(1).click()
    assert "layer1, 0" in page.inner_text("#picked")
    page.locator(".ls-block").nth(1).click()
    assert evil in page.inner_text("#picked")
    assert page.evaluate("window.evil") is None
    assert (errors, [url for url in asked if not url.startswith(("file:", "data:"))]) == ([], [])
    context.close()


def test_python_and_paths_are_copied_by_a_button_that_says_so(window):
    text = "state = {'<b>': 1}\nprint(1 < 2)"
    mount(window, _saving.Code, text="")
    assert window.locator("#here").is_hidden()
    put(window, text=text)
    window.focus(".ls-code")
    window.keyboard.press("Tab")  # from the text to its button
    window.evaluate(
        "document.addEventListener('copy', () => { window.copied = `${getSelection()}`; })"
    )
    button = window.get_by_role("button", name="Copy Python")
    sync_api.expect(button).to_be_focused()
    window.keyboard.press("Enter")
    sync_api.expect(window.get_by_role("status")).to_have_text("Python copied")
    assert window.evaluate("window.copied") == text
    sync_api.expect(button).to_be_focused()
    mount(window, _saving.Saved, text="saving a.png …", path="", kind="busy")
    assert window.locator("progress").is_visible()
    assert window.get_by_role("button").count() == 0
    put(window, text="Saved /x/<b>a</b>.png", path="/x/<b>a</b>.png", kind="info")
    window.get_by_role("button", name="Copy path").click()
    sync_api.expect(window.locator(".ls-saved")).to_contain_text("Saved /x/<b>a</b>.png")
    sync_api.expect(window.get_by_text("path copied")).to_be_attached()
    assert window.evaluate("window.copied") == "/x/<b>a</b>.png"


def test_what_is_measured_is_shown_and_only_its_result_is_announced(window):
    mount(window, _strip.Status, text="measuring layer1 initial, 40 %", kind="busy", share=0.4)
    aloud = window.locator("[role=status]")
    assert aloud.get_attribute("aria-live") == "polite"
    assert aloud.inner_text() == "measuring"
    assert window.locator(".ls-status progress").evaluate("bar => bar.value") == 0.4
    held = aloud.element_handle()
    put(window, text="layer1 initial: error 31.0 %, +24.7 points", kind="info", share=-1)
    assert held.inner_text() == "layer1 initial: error 31.0 %, +24.7 points"
    assert window.locator(".ls-status progress").is_hidden()


def test_kept_states_are_returned_to_compared_and_deleted(window):
    rows = [
        {"name": name, "value": "31.00 %", "change": "+24.70 points", "share": 0.5,
         "state": "layer1 initial", "now": name == "two"}
        for name in ("<b>one</b>", "two")
    ]  # fmt: skip
    mount(window, _strip.Kept, rows=rows, metric="error", chosen=["two"], comparison={})
    assert window.locator(".ls-kept b").count() == 0
    window.get_by_role("button", name="return to <b>one</b>").click()
    window.get_by_label("compare <b>one</b>").click()
    window.get_by_role("button", name="delete two").click()
    assert [(each["kind"], each["name"]) for each in sent(window)] == [
        ("return", "<b>one</b>"), ("choose", "<b>one</b>"), ("delete", "two"),
    ]  # fmt: skip
    put(window, comparison={"names": ["a", "two"], "rows": [["error", "1 %", "2 %", "+1 points"]]})
    assert window.locator(".ls-compared td").all_inner_texts() == [
        "error",
        "1 %",
        "2 %",
        "+1 points",
    ]
