"""Commands that write one output, told to end at any call that writes: it is the old or the new.

A child process runs the command and sends itself SIGKILL, SIGTERM or SIGINT at its n-th point (see
`test_killed`). Whatever n: what was there before is there whole, or what was to come is; the status
says how it ended; and once the command was run again nothing is there that does not belong.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from test_killed import Points, names

from layerscope import report, results, testing
from layerscope.cli import _exporting, main
from layerscope.core.export import _measuring as measuring

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}
"""What a command ends with: by the signal itself, or as Ctrl-C is answered."""

TINY = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
SPEED = {"unit": "tokens a second", "before": 1.0, "after": 1.0, "ratio": 1.0}
SPEED |= {"ratio_range": [1.0, 1.0], "rounds": 7, "batch": [4, 7], "device": "cpu"}


@pytest.fixture(autouse=True)
def _collecting_garbage_again():
    yield
    gc.unfreeze()


class Output:
    """A command, and what it writes."""

    written: str

    def before(self, place: Path) -> None:
        """Make what the command reads, and what it is to replace."""
        raise NotImplementedError

    def do(self) -> int:
        """Write it, and return the status."""
        raise NotImplementedError


class Report(Output):
    """In place of another page."""

    written = "report.html"

    def before(self, place):
        results.save(testing.dataset(layers=2), place / "sweep.nc")
        (place / self.written).write_text("the page that was there")

    def do(self):
        return main(["report", "sweep.nc", "-o", self.written])


class Gallery(Output):
    """In place of another page, with small pictures beside it."""

    written = "gallery.md"

    def before(self, place):
        run = place / "runs" / "fcn-mnist" / "small"
        run.mkdir(parents=True)
        picture = Path(__file__).parents[1] / "papermill_runs" / "fcn-mnist" / "small"
        (figure,) = sorted(picture.glob("*.png"))[:1]
        shutil.copy(figure, run)
        digest = hashlib.sha256(figure.read_bytes()).hexdigest()
        about = {"experiment": "fcn-mnist", "parameters": {}, "seconds": 1.0}
        about["files"] = {figure.name: {"bytes": figure.stat().st_size, "sha256": digest}}
        (run / "manifest.json").write_text(json.dumps(about))
        (place / self.written).write_text("the page that was there")

    def do(self):
        return main(["gallery", "runs", "-o", self.written])


class Export(Output):
    """A new folder for transformers; whoever finds it there does not ask again."""

    written = "smaller"

    def before(self, _):
        transformers = pytest.importorskip("transformers")
        self.network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).eval()
        self.texts = torch.randint(97, (4, 9), generator=torch.Generator().manual_seed(0))

    def do(self):
        if Path(self.written).is_dir():
            return 0
        tokens = self.texts[:, :-1], self.texts[:, 1:]
        subject = _exporting._Subject(self.network, tokens, None, None, 4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_exporting, "_subject", lambda _: subject)
            return main(["export", "tiny", self.written, "--without", "1", "--device", "cpu"])


def run(place: Path, output: Output, fatal: int = 0, how: int = signal.SIGKILL) -> int:
    """Write an output in a process of its own, which is told to end at one of its points."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            # What a shell puts into the background has it ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(place)
            tempfile.tempdir = str(place / "tmp")
            points = Points(fatal, how)
            count, opened = os.open(place / "tmp" / "count", os.O_WRONLY | os.O_CREAT), os.write
            points.install()
            status = output.do()
            opened(count, str(points.count).encode())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(path: Path) -> object:
    """What is under a name, in a folder by its names; None where nothing is."""
    if path.is_dir():
        return {each.name: content(each) for each in path.iterdir()}
    return path.read_bytes() if path.is_file() else None


def wrong(output: Output, place: Path, cases) -> list[str]:
    """End a command at some points by some signals; say what is wrong afterwards."""
    before, whole = place / "before", place / "whole"
    (before / "tmp").mkdir(parents=True)
    output.before(before)
    old = content(before / output.written)
    shutil.copytree(before, whole)
    gc.collect()
    gc.freeze()
    assert run(whole, output) == 0
    new, left = content(whole / output.written), names(whole)
    assert new not in (None, old)
    count = int((whole / "tmp" / "count").read_text())
    found = []
    for at, how in cases(count):
        folder = place / f"{at}-{how}"
        shutil.copytree(before, folder)
        status = run(folder, output, at, how)
        if status != STATUS[how]:
            found.append(f"{at}, {how!r}: ends with {status}")
        if content(folder / output.written) not in (old, new):
            found.append(f"{at}, {how!r}: {output.written} is neither the old nor the new")
        if run(folder, output) != 0 or content(folder / output.written) != new:
            found.append(f"{at}, {how!r}: the next one does not do it")
        if more := set(names(folder)) ^ set(left):
            found.append(f"{at}, {how!r}: {sorted(more)} is too much or too little")
        shutil.rmtree(folder)
    print(f"{type(output).__name__}: {count} points")
    return found


OUTPUTS = [Report(), Gallery(), Export()]


@pytest.fixture
def output(request, monkeypatch):
    # What takes long to draw.
    monkeypatch.setattr(report, "page", lambda *_, **__: "the page that is new")
    # What no two runs measure alike.
    monkeypatch.setattr(measuring, "speeds", lambda *_: SPEED)
    return request.param


def three(count):
    return zip((2, count // 2, count - 1), STATUS, strict=True)


def every(count):
    return itertools.product(range(1, count + 1), STATUS)


@pytest.mark.parametrize("output", OUTPUTS, indirect=True, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("cases", [three, pytest.param(every, marks=pytest.mark.slow)])
def test_an_output_is_the_old_one_or_the_new_whenever_its_command_is_told_to_end(
    tmp_path, output, cases
):
    assert wrong(output, tmp_path, cases) == []
