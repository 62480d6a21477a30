"""Whatever call fails while a run is kept, it is whole, or it says so and is there later."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import nbformat
import papermill
import pytest
from faults import a_few_and_all, ends_of, fail_at, never, writing_calls

from layerscope import reproduce, results, testing
from layerscope.errors import LayerscopeError
from layerscope.paper import experiments
from layerscope.paper.reproduce._folder import finished

PARAMETERS = 'label = "x"\ndevice = "auto"\nout = None\n'
SCALES = 'title = "Tiny"\nscales = {"smoke": {}}\n'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an experiment whose notebook is not executed, but leaves what one leaves."""
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(SCALES, metadata={"tags": ["scales"]}),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    source = tmp_path / "books" / "tiny.ipynb"
    source.parent.mkdir()
    nbformat.write(book, source)
    monkeypatch.setenv("LAYERSCOPE_NOTEBOOKS", str(source.parent))
    ds = testing.dataset(layers=2)

    def execute(given, target, _, *, cwd, **__):
        book = nbformat.read(given, as_version=4)
        for _cell in book.cells:  # after each of them, as papermill does
            with open(target, "w", encoding="utf-8") as file:
                file.write(nbformat.writes(book))
        experiments.keep(cwd, title="it works", datasets={"ds": ds})

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return lambda out, **more: reproduce.run("tiny", "smoke", out=out, show_progress=False, **more)


def attempt(out: Path, run, fails, resume):
    """Let something fail in a run, over one that is there if it is not resumed; then run again."""
    found, ended = [], "finished"
    if not resume:
        (run(out).folder / "mine.txt").write_text("mine")
    with writing_calls(out, fails) as calls:
        try:
            done = run(out, resume=resume)
        except LayerscopeError as error:
            ended = "told"
            if str(out) not in str(error):
                found.append(f"{calls.failed}: {error}")
        else:
            found += wrong(done, calls)
    if not resume and ended == "told" and (out / "tiny" / "smoke" / "manifest.json").exists():
        found += wrong(run(out), calls)
    found += wrong(run(out), calls)
    if not resume and not list((out / "tiny" / "smoke").glob("mine.txt*")):
        found.append(f"{calls.failed}: a file of the user's is gone")
    return calls, ended, found


def wrong(done, calls):
    about = json.loads((done.folder / "manifest.json").read_text())
    if finished(done.folder, {"experiment": "tiny"}, ()) != about:
        yield f"{calls.failed}: it is not whole"
    if not results.open_dataset(done.folder / "ds.nc").sizes["layer"]:
        yield f"{calls.failed}: it has no layers"


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("number", "choice"),
    [
        *a_few_and_all(errno.EIO, errno.ENOSPC, few=30),
        *a_few_and_all(errno.EROFS, errno.EACCES, few=30),
    ],
)
def test_a_call_that_fails_costs_no_run(tmp_path, run, number, choice, resume):
    calls, ended, found = attempt(tmp_path / "count", run, never, resume)
    assert (ended, found) == ("finished", [])
    ends = ends_of(
        choice.of(len(calls.seen)),
        lambda at: attempt(tmp_path / str(at), run, fail_at(at, number), resume),
    )
    print(len(calls.seen), ends)
