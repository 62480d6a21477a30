"""JupyterLab opened on the explorer.

>>> from layerscope.jupyter import prepare, serve
>>> serve(prepare("series/fcn-3x256-mnist-5k-seed0"))                       # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from layerscope.base import notebooks
from layerscope.base.extras import require
from layerscope.base.validate import path
from layerscope.base.writing import write_bytes
from layerscope.errors import ResultError

__all__ = ["prepare", "serve"]

_NOTEBOOK = "explore.ipynb"


def prepare(
    run: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = ".",
    device: str = "auto",
    data_root: str | os.PathLike[str] | None = None,
) -> Path:
    """Put a copy of the explorer's notebook into a folder, set to a run.

    Parameters
    ----------
    run : path, optional
        Folder of a series; a small network is trained without one.
    out : path
        A notebook that is there already stays as it is.
    device, data_root
        As the notebook has them.

    Returns
    -------
    Path
        Of the notebook.

    Raises
    ------
    ResultError
        If there is no run, or the folder can't be written to.
    """
    folder = path(out, "out", "lab")
    given: dict[str, Any] = {"device": device, "out": str(folder.resolve() / "series")}
    name = _NOTEBOOK
    if data_root is not None:
        given["data_root"] = str(Path(data_root).resolve())
    if run is not None:
        place = path(run, "run", "series/RUN").resolve()
        if not place.is_dir():
            raise ResultError(f"there is no run at {run}; give the folder that train printed.")
        given["run"], name = str(place), f"explore-{place.name}.ipynb"
    target = folder / name
    if not target.exists():
        write_bytes(target, _fill(notebooks.find(_NOTEBOOK), given).encode())
    return target


def _fill(source: Path, given: dict[str, Any]) -> str:
    """Set parameters of a notebook, in the cell that declares them."""
    book = json.loads(source.read_text(encoding="utf-8"))
    (cell,) = (c for c in book["cells"] if "parameters" in c["metadata"].get("tags", ()))
    lines = []
    for line in "".join(cell["source"]).splitlines():
        name, _, rest = line.partition(" = ")
        _, hash_, remark = rest.partition("  #")
        changed = f"{name} = {given[name]!r}{hash_}{remark}" if name in given else line
        lines.append(f"{changed}\n")
    cell["source"] = lines
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def serve(notebook: Path, *, browser: bool = True) -> None:
    """Open JupyterLab on a notebook, for this machine alone and with a token, until Ctrl-C.

    Parameters
    ----------
    notebook : Path
    browser : bool
        Whether to open one; the address is printed in any case.

    Raises
    ------
    ExtraError
        If JupyterLab is not installed.
    """
    require("jupyterlab", "jupyter", "the explorer")
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        # In a file, where other users of the machine can't see it as they could an argument.
        settings = Path(folder) / "settings.json"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps(_settings(notebook.resolve(), browser)))
        command = [sys.executable, "-m", "jupyterlab", f"--config={settings}"]
        code = _wait(subprocess.Popen(command))  # noqa: S603 - our own interpreter
    if code:
        raise ResultError(f"JupyterLab ended with {code}; it says above why.")


def _wait(server: subprocess.Popen[bytes]) -> int:
    """Wait for a server that ends by Ctrl-C itself, and closes its kernels first."""
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            continue


def _settings(notebook: Path, browser: bool) -> dict[str, Any]:
    return {
        "ServerApp": {
            "ip": "127.0.0.1",
            "allow_remote_access": False,
            "open_browser": browser,
            "root_dir": str(notebook.parent),
            "answer_yes": True,  # Ctrl-C stops it without asking again
            "allow_root": hasattr(os, "geteuid") and os.geteuid() == 0,
        },
        "LabApp": {
            "default_url": f"/lab/tree/{notebook.name}",
            "open_browser": browser,
            "expose_app_in_browser": False,
        },
        "IdentityProvider": {"token": secrets.token_hex(24)},
    }
