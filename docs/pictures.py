"""Draw the pictures of the documentation: ``make pictures``.

Plots and the report are drawn from results in ``papermill_runs/``; the explorer is opened in
Chromium, on a network that is trained for it. Pages are taken in a light and in a dark theme.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

import layerscope
from layerscope import plots, report, results
from layerscope.jupyter import prepare

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "papermill_runs"
OUT = ROOT / "docs" / "pictures"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")


def main() -> None:
    """Draw them all."""
    OUT.mkdir(exist_ok=True)
    draw_plots()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for theme in THEMES:
            picture_report(browser, Path(made), theme)
            picture_explorer(browser, Path(made), theme)
        browser.close()


def draw_plots() -> None:
    """Draw every kind of plot once, as for a paper."""
    three, five = (
        results.open_dataset(RUNS / "fcn-mnist" / name / "fcn_mnist.nc")
        for name in ("paper", "paper+network=fcn-5x256+seeds=3")
    )
    figures = {
        "overview": plots.overview(three),
        "distances": plots.distances(three),
        "curves": plots.curves(three),
        "compare": plots.compare({"3 hidden layers": three, "5 hidden layers": five}),
    }
    for name, figure in figures.items():
        width = "page" if name in ("overview", "compare") else None
        plots.save(figure, OUT / f"{name}.png", width=width)


def picture_report(browser: Browser, folder: Path, theme: Theme) -> None:
    """Open a report."""
    run = results.open_dataset(RUNS / "fcn-mnist" / "paper" / "fcn_mnist.nc")
    path = report.write({"fcn-3x256 on MNIST": run}, folder / "report.html")
    page = opened(browser, theme, height=1080)
    page.goto(path.as_uri())
    page.wait_for_function("Bokeh.documents.every(each => each.is_idle)")
    page.screenshot(path=OUT / f"report-{theme}.png")
    page.close()


def picture_explorer(browser: Browser, folder: Path, theme: Theme) -> None:
    """Open the explorer, sweep, and reset the first layer."""
    digits = layerscope.load_data("mnist-5k")
    series = layerscope.train("fcn-5x256", digits, out=folder / "series")
    notebook = prepare(series.folder, folder)
    with served(notebook, theme) as address:
        page = opened(browser, theme, height=1500)
        page.goto(address)
        explorer = page.locator(".ls-explorer")
        explorer.wait_for()
        answered(page)
        explorer.locator("button", has_text="Sweep").click()
        page.locator('.ls-grid button[data-known="true"]').first.wait_for()
        explorer.locator("button:not([disabled])", has_text="Sweep").wait_for()
        # A cell sets what it says, whatever the notebook ended with; a layer would be switched.
        page.locator('.ls-grid button[data-known="true"]').nth(1).click()
        answered(page)
        explorer.screenshot(path=OUT / f"explorer-{theme}.png")
        page.close()


def opened(browser: Browser, theme: Theme, height: int) -> Page:
    """Open a page that is sharper than a screen, where expressions can be waited for."""
    return browser.new_page(
        viewport={"width": 1400, "height": height},
        color_scheme=theme,
        device_scale_factor=1.5,
        bypass_csp=True,  # a report's policy forbids to evaluate any
    )


def answered(page: Page) -> None:
    """Wait until the whole answer is shown."""
    page.wait_for_function("document.querySelector('.ls-cards')?.dataset.final === 'true'")


@contextmanager
def served(notebook: Path, theme: Theme) -> Iterator[str]:
    """Serve a notebook as a page, for this machine alone; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "voila", str(notebook), "--no-browser", "--Voila.ip=127.0.0.1",
            f"--port={port}", f"--theme={theme}", "--Application.log_level=ERROR",
        ]
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    try:
        while not _listens(port):
            if process.poll() is not None:
                raise SystemExit("Voilà ended; it says above why.")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
