"""JupyterLab opened on the explorer: a notebook set to a run, for this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from layerscope.base import notebooks
from layerscope.errors import LayerscopeError, ResultError
from layerscope.jupyter import _lab as explore

ROOT = Path(__file__).parents[1]


def test_the_notebook_is_set_to_the_run(trained, tmp_path):
    book = explore.prepare(trained.folder, tmp_path, device="cpu")
    assert book.name == f"explore-{trained.folder.name}.ipynb"
    nbformat.validate(nbformat.read(book, as_version=4))
    given = notebooks.parameters(book)
    source = notebooks.parameters(notebooks.find("explore.ipynb"))
    expected = {"run": str(trained.folder), "device": "cpu", "out": str(tmp_path / "series")}
    assert given == source | expected
    again = explore.prepare(trained.folder, tmp_path, device="cpu")
    assert again == book
    assert explore.prepare(None, tmp_path).name == "explore.ipynb"
    with pytest.raises(ResultError, match="no run at"):
        explore.prepare(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayerscopeError):
        explore.prepare(tmp_path / "empty", tmp_path)
    shutil.copy(
        next(Path(trained.folder).glob("*1.safetensors")), tmp_path / "empty" / "1.safetensors"
    )
    with pytest.raises(ResultError, match="is no run of layerscope"):
        explore.prepare(tmp_path / "empty", tmp_path)


def test_another_run_or_device_is_opened_as_it_was_asked_for(trained, tmp_path):
    """Also where the folder of the run has the name of another's."""
    other = tmp_path / "other" / trained.folder.name
    shutil.copytree(trained.folder, other)
    asked = [(trained.folder, "auto"), (trained.folder, "cpu"), (other, "auto"), (None, "auto")]
    books = [explore.prepare(run, tmp_path, device) for run, device in asked]
    assert len(set(books)) == 4
    for book, (run, device) in zip(books, asked, strict=True):
        given = notebooks.parameters(book)
        assert (given["run"], given["device"]) == (run and str(run), device)
    assert [explore.prepare(run, tmp_path, device) for run, device in asked] == books


def test_a_notebook_that_somebody_changed_stays(trained, tmp_path):
    book = explore.prepare(trained.folder, tmp_path, device="cpu")
    about = nbformat.read(book, as_version=4)
    about.cells.append(nbformat.v4.new_code_cell("# mine"))
    nbformat.write(about, book)
    kept = book.read_text()
    assert explore.prepare(trained.folder, tmp_path, device="cpu") == book
    assert book.read_text() == kept
    book.write_text("mine")
    other = explore.prepare(trained.folder, tmp_path, device="cpu")
    assert (other.name, book.read_text()) == (f"{book.stem}-2.ipynb", "mine")


def test_a_notebook_runs_by_itself_only_as_the_package_has_it(trained, tmp_path):
    """What a folder from elsewhere brings is opened, and not executed."""
    book = explore.prepare(trained.folder, tmp_path, device="cpu")
    assert explore._page(book) == {"layerscopeNotebook": book.name}
    about = nbformat.read(book, as_version=4)
    about.cells.append(nbformat.v4.new_code_cell("# mine"))
    nbformat.write(about, book)
    assert explore._page(book)  # what comes after the explorer is not run
    first = next(cell for cell in about.cells if cell.cell_type == "code")
    for at, source in [(about.cells.index(first) + 1, "import os"), (0, "import os")]:
        other = nbformat.from_dict(about)
        other.cells.insert(at, nbformat.v4.new_code_cell(source))
        nbformat.write(other, book)
        assert explore._page(book) == {}
        other.cells.pop(at)
    first.source += "\nos.system('true')"
    nbformat.write(about, book)
    assert explore._page(book) == {}


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Something in JupyterLab's place that writes down its number and never ends of itself."""
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").touch()
    note = tmp_path / "started"
    (tmp_path / "jupyterlab" / "__main__.py").write_text(
        "import os, pathlib, sys, time\n"
        f"note = pathlib.Path({str(note)!r})\n"
        "note.with_suffix('.tmp').write_text(f'{os.getpid()} {sys.argv[1:]}')\n"
        "note.with_suffix('.tmp').rename(note)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return note


def _until(is_so):
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.02)


def _gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")  # one that nobody waits for has ended as well
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_server_whose_command_was_killed_ends(pretended):
    command = os.fork()
    if command == 0:
        try:
            with explore._running(Path("settings.json")):
                signal.pause()
        finally:
            os._exit(1)
    server = None
    try:
        _until(pretended.exists)
        pid, _, options = pretended.read_text().partition(" ")
        server = int(pid)
        assert options == "['--config=settings.json']"
        assert not _gone(server)
        os.kill(command, signal.SIGKILL)
        _until(lambda: _gone(server))
    finally:
        with suppress(ProcessLookupError):
            os.kill(command, signal.SIGKILL)
        os.waitpid(command, 0)
        if server is not None and not _gone(server):
            os.kill(server, signal.SIGKILL)


def test_it_listens_to_this_machine_alone_and_asks_for_a_token(tmp_path):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    # Somebody who has switched the token off for himself still gets one here.
    (tmp_path / "config").mkdir()
    careless = {"IdentityProvider": {"token": ""}, "ServerApp": {"ip": "0.0.0.0"}}
    (tmp_path / "config" / "jupyter_server_config.json").write_text(json.dumps(careless))
    (tmp_path / "config" / "jupyter_lab_config.json").write_text(json.dumps(careless))
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    folders = {f"JUPYTER_{n}": str(tmp_path / n.split("_")[0].lower()) for n in names}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "layerscope.cli", "explore", "--no-browser", "--out", str(tmp_path)],
        env=os.environ | folders | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        book, address = (process.stdout.readline().strip() for _ in range(2))
        assert book == str(tmp_path / "explore.ipynb"), process.stderr.read()
        (found,) = (tmp_path / "runtime").glob("jpserver-*.json")
        about = json.loads(found.read_text())
        assert about["hostname"] == "127.0.0.1"
        assert len(about["token"]) >= 32
        assert address == f"{about['url']}lab/tree/explore.ipynb?token={about['token']}"
        assert not list((tmp_path / "tmp").glob("layerscope-*")), "its settings lie about"
        # The file is there a moment before the server answers.
        until = time.monotonic() + 120
        while _refused(f"{about['url']}api/contents") and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{about['url']}api/contents")
        listed = urllib.request.urlopen(f"{about['url']}api/contents?token={about['token']}")
        assert "explore.ipynb" in {each["name"] for each in json.load(listed)["content"]}
        listed.close()
        # To the command alone: JupyterLab ends with it.
        process.terminate()
        said, complaint = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert about["token"] not in said + complaint
        assert _refused(about["url"])
        assert not list((tmp_path / "runtime").glob("jpserver-*"))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        process.stderr.close()


def _refused(url: str) -> bool:
    """Whether nobody listens at `url` yet."""
    try:
        urllib.request.urlopen(url).close()
    except urllib.error.HTTPError:
        return False
    except urllib.error.URLError:
        return True
    return False
