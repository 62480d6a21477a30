"""What gone processes left is told from what is being written, here and elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import pytest

from layerscope.base import owners
from layerscope.base.owners import Owner
from layerscope.errors import ResultError

HERE = Owner.here()


def test_a_mark_names_this_process_and_reads_back():
    assert Owner.of(str(HERE)) == HERE
    assert HERE.pid == os.getpid()
    assert HERE.runs() is True
    said = subprocess.run(
        [sys.executable, "-c", "from layerscope.base.owners import Owner; print(Owner.here())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    other = Owner.of(said.stdout.strip())
    assert (other.machine, other.boot, other.space) == (HERE.machine, HERE.boot, HERE.space)
    assert other.pid != HERE.pid
    assert other.runs() is False


@pytest.mark.parametrize(
    "mark",
    ["", "1@host", f"{HERE}-", f" {HERE}", str(HERE).upper() + "Z"],
    ids=["empty", "host", "longer", "indented", "upper"],
)
def test_what_is_no_mark_names_nobody(mark):
    assert Owner.of(mark) is None


def test_of_another_boot_or_container_nothing_is_known():
    for other in (replace(HERE, boot="0" * 8), replace(HERE, space="0" * 8)):
        assert other.runs() is None
        assert not other.is_gone(time.time())
    assert replace(HERE, boot="0" * 8).is_gone(1e9), "this machine was started since"
    assert not replace(HERE, boot="0" * 8, machine="0" * 8).is_gone(1e9)


@pytest.mark.parametrize("name", ["sweep.nc", "ä" * 120, "x" * 255])
def test_a_draft_of_any_name_can_be_made_and_is_swept_once_its_process_is_gone(tmp_path, name):
    path = tmp_path / name
    gone = replace(HERE, start=HERE.start + 1)
    draft = owners.draft_of(path)
    left = draft.with_name(draft.name.replace(str(HERE), str(gone)))
    other = owners.draft_of(tmp_path / "other")
    draft.touch()
    left.mkdir()
    (left / "file").touch()
    other_left = other.with_name(other.name.replace(str(HERE), str(gone)))
    other_left.touch()
    (tmp_path / ".mine.tmp").touch()
    owners.sweep_drafts(tmp_path, [name])
    assert set(tmp_path.iterdir()) == {draft, other_left, tmp_path / ".mine.tmp"}
    owners.sweep_drafts(tmp_path)
    assert set(tmp_path.iterdir()) == {draft, tmp_path / ".mine.tmp"}
    owners.sweep_drafts(tmp_path / "missing")


def test_temporary_folders_of_gone_processes_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = owners.make_temporary()
    gone, elsewhere, silent = (
        tmp_path / f"layerscope-{owner}-{of}"
        for of, owner in (
            ("abc", replace(HERE, start=HERE.start + 1)),
            ("def", replace(HERE, machine="0" * 8, boot="0" * 8)),
            ("old", replace(HERE, machine="0" * 8, boot="0" * 8)),
        )
    )
    for path in (gone, elsewhere, silent, tmp_path / "layerscope-mine"):
        path.mkdir()
        (path / "file").touch()
    os.utime(silent, (time.time() - 700,) * 2)
    owners.sweep_temporary()
    assert set(tmp_path.iterdir()) == {mine, elsewhere, tmp_path / "layerscope-mine"}


def test_a_link_among_temporary_folders_leads_nobody_astray(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    link = tmp_path / "tmp" / f"layerscope-{replace(HERE, start=HERE.start + 1)}-abc"
    link.symlink_to(tmp_path / "kept")
    owners.sweep_temporary()
    assert (tmp_path / "kept" / "file").is_file()


def test_a_temporary_folder_that_is_missing_is_an_error_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ResultError, match=r"can't make a temporary folder.*TMPDIR"):
        owners.make_temporary()
