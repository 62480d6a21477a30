"""JupyterLab and a browser for the tests of what people click."""

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
from typing import Any, NamedTuple

import nbformat
from nbformat import v4
from playwright import sync_api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 90_000  # milliseconds that a page may take where other processes share the machine
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WINDOW = {"width": 1400, "height": 1250}
ROOT = Path(__file__).parents[1]


class Server(NamedTuple):
    """A Jupyter server, with one kernel for all notebooks: to start one takes seconds each."""

    address: str
    token: str
    root: Path
    run: str
    kernel: str

    def post(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/{path}",
            json.dumps(content).encode(),
            {"Authorization": f"token {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def write(self, name: str, source: str, own_kernel: bool = False) -> str:
        """Write a notebook of one cell; return the name of its file."""
        book = v4.new_notebook(cells=[v4.new_code_cell(source)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(book, self.root / f"{name}.ipynb")
        if not own_kernel:
            where = {"name": name, "path": f"{name}.ipynb", "type": "notebook"}
            self.post("sessions", where | {"kernel": {"id": self.kernel}})
        return f"{name}.ipynb"


def serve(home: Path, root: Path, run: str) -> Any:
    """Start JupyterLab in a home of its own; a generator that gives it once, then ends it."""
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
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ],
        env=environment, cwd=root, stdout=log, stderr=log,  # where a kernel begins
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
        server = Server(address, token, root, run, "")
        yield server._replace(kernel=server.post("kernels", {"name": "python3"})["id"])
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def offline(context: Any) -> None:
    """Let pages of this machine through alone."""
    own = ("http://127.0.0.1", "file://")
    context.route(
        "**/*",
        lambda route: route.continue_() if route.request.url.startswith(own) else route.abort(),
    )


def serious(page: Any, axe: str, where: str = "html") -> list[tuple[Any, ...]]:
    """List the serious faults that axe-core, whose source is given, finds in a page."""
    page.evaluate(axe)
    found = page.evaluate("where => axe.run(where, {resultTypes: ['violations']})", where)
    return [
        (each["id"], each["nodes"][0]["target"], each["nodes"][0].get("failureSummary"))
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


class Page:
    """A page with an explorer in it, and what there is to see of it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE)

    def layer(self, name: str) -> Any:
        return self.page.locator(f'.ls-block[data-name="{name}"]')

    def state(self, name: str) -> Any:
        return self.layer(name).get_attribute("data-state")

    def has_state(self, name: str, state: str) -> None:
        sync_api.expect(self.layer(name)).to_have_attribute("data-state", state, timeout=PATIENCE)

    def settled(self, after: int = 0, patience: int = PATIENCE) -> tuple[int, float]:
        """Wait for the whole answer to a question later than this; return its number and value."""
        self.page.wait_for_function(
            """after => { const cards = document.querySelector(".ls-cards");
            return cards && +cards.dataset.seq > after && cards.dataset.final === "true"; }""",
            arg=after,
            timeout=patience,
        )
        return self.seq, float(self.page.get_attribute(".ls-cards", "data-value"))

    def shows(self, value: float) -> None:
        """Wait for the whole answer that is this."""
        self.page.wait_for_function(
            """value => { const cards = document.querySelector(".ls-cards");
            return +cards.dataset.value === value && cards.dataset.final === "true"; }""",
            arg=value,
        )

    @property
    def seq(self) -> int:
        return int(self.page.get_attribute(".ls-cards", "data-seq"))

    def asking(self, act: Any) -> float:
        """Do something that asks the network; return the value that is shown then."""
        before = self.seq
        act()
        return self.settled(before)[1]

    def press(self, text: str) -> None:
        self.page.locator(".ls-explorer button.jupyter-button", has_text=text).click()

    def tool(self, text: str) -> None:
        self.page.locator(".widget-toggle-button", has_text=text).click()

    def says(self, text: str, kind: str = "info") -> None:
        line = self.page.locator(f'.ls-status[data-kind="{kind}"]')
        sync_api.expect(line).to_contain_text(text, timeout=PATIENCE)

    def picture(self, name: str) -> None:
        """Keep a picture of the explorer where somebody wants to look at it."""
        if folder := os.environ.get("LAYERSCOPE_PICTURES"):
            self.page.locator(".ls-explorer").first.screenshot(path=f"{folder}/{name}.png")

    def run_all(self) -> None:
        """Run the notebook that is shown."""
        ready = "window.jupyterapp?.shell.currentWidget?.sessionContext"
        self.page.wait_for_function(ready)
        ran = self.page.evaluate(
            f"""async () => {{
                await {ready}.ready;
                return window.jupyterapp.commands.execute("notebook:run-all-cells");
            }}"""
        )
        assert ran is not False, self.page.inner_text(".jp-NotebookPanel")
        self.settled()


class Lab(Page):
    """JupyterLab, with one notebook."""

    def open(self, server: Server, name: str, source: str) -> None:
        """Write a notebook, open it and run it."""
        self.show(server, server.write(name, source))
        self.run_all()

    def show(self, server: Server, file: str) -> None:
        """Open a notebook."""
        where = f"lab/workspaces/{Path(file).stem}/tree/{file}"
        self.page.goto(f"{server.address}/{where}?reset&token={server.token}")

    def python(self, code: str) -> None:
        """Run Python in the kernel of the notebook."""
        self.page.evaluate(
            """async code => {
                const kernel = jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
                await kernel?.requestExecute({ code, store_history: false }).done;
            }""",
            code,
        )

    def save(self) -> None:
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")

    def theme(self, name: str) -> None:
        """Choose how JupyterLab looks: light or dark."""
        self.page.evaluate(
            """async theme => {
                const { commands } = window.jupyterapp;
                await commands.execute("apputils:change-theme", { theme });
            }""",
            f"JupyterLab {name.capitalize()}",
        )
        light = str(name == "light").lower()
        self.page.wait_for_selector(f'[data-jp-theme-light="{light}"]', state="attached")

    def close(self) -> None:
        """Close the page, and the explorer, whose kernel goes on."""
        self.python("'explorer' in globals() and explorer.close()")
        self.page.close()
