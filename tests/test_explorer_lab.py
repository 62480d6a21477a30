"""JupyterLab opened on the explorer: a notebook set to a run, for this machine alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from layerscope.base import notebooks
from layerscope.errors import ResultError
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
    book.write_text("mine")
    assert explore.prepare(trained.folder, tmp_path).read_text() == "mine"
    assert explore.prepare(None, tmp_path).name == "explore.ipynb"
    with pytest.raises(ResultError, match="no run at"):
        explore.prepare(tmp_path / "nowhere", tmp_path)


def test_it_listens_to_this_machine_alone_and_asks_for_a_token(tmp_path):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    # Somebody who has switched the token off for himself still gets one here.
    (tmp_path / "config").mkdir()
    careless = {"IdentityProvider": {"token": ""}, "ServerApp": {"ip": "0.0.0.0"}}
    (tmp_path / "config" / "jupyter_server_config.json").write_text(json.dumps(careless))
    (tmp_path / "config" / "jupyter_lab_config.json").write_text(json.dumps(careless))
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    folders = {f"JUPYTER_{n}": str(tmp_path / n.split("_")[0].lower()) for n in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "layerscope.cli", "explore", "--no-browser", "--out", str(tmp_path)],
        env=os.environ | folders | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        running = tmp_path / "runtime"
        until = time.monotonic() + 120
        while not (found := list(running.glob("jpserver-*.json"))) and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        about = json.loads(found[0].read_text())
        assert about["hostname"] == "127.0.0.1"
        assert len(about["token"]) >= 32
        # The file is there a moment before the server answers.
        while _refused(f"{about['url']}api/contents") and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{about['url']}api/contents")
        listed = urllib.request.urlopen(f"{about['url']}api/contents?token={about['token']}")
        assert "explore.ipynb" in {each["name"] for each in json.load(listed)["content"]}
        listed.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
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
