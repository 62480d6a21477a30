"""JupyterLab opened on the explorer.

>>> from layerscope.jupyter import prepare, serve
>>> serve(prepare("series/fcn-3x256-mnist-5k-seed0"))                       # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from layerscope.base import notebooks
from layerscope.base.extras import extra, require
from layerscope.base.owners import make_temporary
from layerscope.base.validate import path, resolve
from layerscope.base.writing import write_bytes
from layerscope.core.checkpoints import open_series
from layerscope.errors import ResultError

__all__ = ["prepare", "serve"]

_NOTEBOOK = "explore.ipynb"

_WATCHED = """
import os, runpy, signal, sys, threading

def end_with(parent):
    os.read(parent, 1)  # returns when nobody has the other end any more
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with, args=(int(sys.argv.pop(1)),), daemon=True).start()
runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
"""
"""JupyterLab with a watch on its parent, which may be killed before it can end anybody."""

_EXPLORER = "explorer"
"""Tag of the cell that shows the explorer."""

_LOOK_EVERY_S = 0.2
_ENDING_S = 15.0


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
        A notebook that is there stays as it is, and is the one to open if it is set to this run,
        device and, where one is given, data root; else one more is put beside it.
    device, data_root
        As the notebook has them.

    Returns
    -------
    Path
        Of the notebook.

    Raises
    ------
    CheckpointError, ResultError
        If there is no run, or the folder can't be written to.
    """
    folder = path(out, "out", "lab")
    asked: dict[str, Any] = {"run": None, "device": device}
    name = _NOTEBOOK
    if data_root is not None:
        asked["data_root"] = str(resolve(path(data_root, "data_root", "data")))
    if run is not None:
        place = resolve(path(run, "run", "series/RUN"))
        _require_run(place, run)
        asked["run"], name = str(place), f"explore-{place.name}.ipynb"
    target = next(each for each in _names(folder / name) if _is_for(each, asked))
    if not target.exists():
        given = {**asked, "out": str(resolve(folder) / "series")}
        write_bytes(target, _fill(notebooks.find(_NOTEBOOK), given).encode())
    return target


def _require_run(place: Path, given: str | os.PathLike[str]) -> None:
    if not place.is_dir():
        raise ResultError(f"there is no run at {given}; give the folder that train printed.")
    if open_series(place, damaged="leave out").data_name is None:
        raise ResultError(
            f"{given} is no run of layerscope: there is nothing in it that says which network was "
            "trained on which data. Give the folder that train printed; for other checkpoints, "
            "layerscope.LayerExplorer(network, data, checkpoints) in a notebook."
        )


def _names(first: Path) -> Iterator[Path]:
    """Yield names for notebooks that are set to different things."""
    yield first
    yield from (first.with_stem(f"{first.stem}-{number}") for number in count(2))


def _is_for(book: Path, asked: Mapping[str, Any]) -> bool:
    """Tell whether a notebook is still to be made, or is set to what is asked for."""
    if not os.path.lexists(book):
        return True
    try:
        known = notebooks.parameters(book)
    except ResultError:
        return False  # somebody made something else of it
    return all(known.get(name) == value for name, value in asked.items())


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


def _is_ours(book: Path) -> bool:
    """Tell whether the code up to the explorer is what the package has: no stranger's is run."""
    try:
        notebooks.parameters(book)  # literals alone
        return _leading(book) == _leading(notebooks.find(_NOTEBOOK))
    except (OSError, ValueError, KeyError, TypeError, ResultError):
        return False


def _leading(book: Path) -> list[str]:
    """List the code up to the explorer, but for the parameters."""
    code = []
    for cell in json.loads(book.read_text(encoding="utf-8"))["cells"]:
        tags = cell["metadata"].get("tags", ())
        if cell["cell_type"] == "code" and "parameters" not in tags:
            code.append("".join(cell["source"]))
        if _EXPLORER in tags:
            return code
    raise ResultError(f"{book} has no cell tagged {_EXPLORER!r}.")


def serve(notebook: Path, *, browser: bool = True) -> None:
    """Open JupyterLab on a notebook, for this machine alone and with a token, until Ctrl-C.

    The notebook runs by itself up to the explorer, where its code is still the package's own.

    The address, with the token, is printed once. SIGTERM and SIGHUP end JupyterLab as well, and so
    does, but on Windows, a kill of this process.

    Parameters
    ----------
    notebook : Path
    browser : bool
        Whether to open one; the address is printed in any case.

    Raises
    ------
    ExtraError
        If JupyterLab is not installed.
    ResultError
        If it ends with an error.
    """
    require("jupyterlab", "jupyter", "the explorer")
    token = secrets.token_hex(24)
    settings = _settings(notebook.resolve(), browser, token)
    with _ended_by_signals(), _settings_file(settings) as file, _running(file) as server:
        address = _wait(server, lambda: _address(server.pid, notebook, token))
        # It was read; whatever ends this process from here on leaves none behind.
        shutil.rmtree(file.parent, ignore_errors=True)
        if address:
            print(address, flush=True)
        _wait(server, lambda: "")
    if server.returncode:
        raise ResultError(f"JupyterLab ended with {server.returncode}; it says above why.")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals that ask this process to end do so as an exception does, which cleans up."""

    def end(number: int, _: object) -> None:
        for each in asking:
            signal.signal(each, signal.SIG_IGN)  # it ends already
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    asking = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(each, signal.signal(each, end)) for each in asking]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


@contextmanager
def _settings_file(settings: Mapping[str, Any]) -> Iterator[Path]:
    """Keep settings where other users of the machine can't see them, as they could an argument."""
    folder = make_temporary()
    try:
        file = folder / "settings.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(settings))
        yield file
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(settings: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that does not outlive the block, and closes its kernels before it ends."""
    with _started(f"--config={settings}") as server:
        try:
            yield server
        finally:
            _end(server)


@contextmanager
def _started(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start JupyterLab; where a process can hand on a pipe, so that it ends if this one is killed.

    The pipe's other end is closed by the system when this process ends, in whatever way.
    """
    if os.name != "posix":
        yield subprocess.Popen([sys.executable, "-m", "jupyterlab", *options])  # noqa: S603
        return
    parent, alive = os.pipe()
    command = [sys.executable, "-c", _WATCHED, str(parent), *options]
    try:
        try:
            server = subprocess.Popen(command, pass_fds=[parent])  # noqa: S603 - our interpreter
        finally:
            os.close(parent)
        yield server
    finally:
        os.close(alive)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait(server: subprocess.Popen[bytes], until: Callable[[], str]) -> str:
    """Wait until something is known, or for a server that ends by Ctrl-C itself."""
    while server.poll() is None:
        try:
            if said := until():
                return said
            with suppress(subprocess.TimeoutExpired):
                server.wait(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            continue
    return ""


def _address(pid: int, notebook: Path, token: str) -> str:
    """Return where a server shows a notebook, as soon as it says where it listens."""
    with extra("jupyter", "the explorer"):
        from jupyter_core.paths import jupyter_runtime_dir

    try:
        about = json.loads((Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json").read_text())
        # One that was killed may have left such a file of the same number.
        if about["token"] != token:
            return ""
        return f"{about['url'].rstrip('/')}/lab/tree/{quote(notebook.name)}?token={token}"
    except (OSError, ValueError):
        return ""  # not written yet, or not to its end


def _settings(notebook: Path, browser: bool, token: str) -> dict[str, Any]:
    return {
        # It would print an address without the token, which leads nowhere.
        "Application": {"log_level": "WARN"},
        "ServerApp": {
            "ip": "127.0.0.1",
            "allow_remote_access": False,
            "open_browser": browser,
            "root_dir": str(notebook.parent),
            "answer_yes": True,  # Ctrl-C stops it without asking again
            "tornado_settings": {"page_config_data": _page(notebook)},
            "allow_root": hasattr(os, "geteuid") and os.geteuid() == 0,
        },
        "LabApp": {
            "default_url": f"/lab/tree/{notebook.name}",
            "open_browser": browser,
            "expose_app_in_browser": False,
            "extra_labextensions_path": [str(Path(__file__).parent / "static" / "lab")],
        },
        "IdentityProvider": {"token": token},
    }


def _page(notebook: Path) -> dict[str, str]:
    """Tell the page which notebook to run, if any is to run by itself."""
    return {"layerscopeNotebook": notebook.name} if _is_ours(notebook) else {}
