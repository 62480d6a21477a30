"""No serious fault that axe-core finds in what people see: WCAG 2.2, levels A and AA."""

from __future__ import annotations

import pytest

from layerscope import LayerExplorer, report, testing

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browsing import CHROMIUM, serious  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def faults(browser, axe, path, scheme, ready):
    """Say what is wrong with a page, which is offline."""
    context = browser.new_context(bypass_csp=True, offline=True, color_scheme=scheme)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector(ready)
    found = serious(page, axe)
    context.close()
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_exported_page_has_no_serious_fault(browser, axe, tmp_path, scheme):
    explorer = LayerExplorer(testing.dataset(layers=30))
    explorer.state = {"layer1": ("reinitialize", 0)}
    path = explorer.export_page(tmp_path / "page.html")
    explorer.close()
    assert faults(browser, axe, path, scheme, ".ls-grid button") == []


@pytest.mark.filterwarnings("ignore")  # as users run it
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_has_no_serious_fault(browser, axe, tmp_path, scheme):
    path = report.write({"run": testing.dataset(layers=4)}, tmp_path / "report.html")
    assert faults(browser, axe, path, scheme, "h1") == []
