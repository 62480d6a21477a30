"""Every input that a reader once failed on ends in an error of ours, or is read rightly.

`corpus/failed.json` lists them by reader and by how they are made, `corpus/failed-slow.json` those
that take long to make or are much like others; `benchmarks/hostile.py` makes them, many more at
random, and a table of what became of each.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from layerscope.errors import DataError

CORPUS = Path(__file__).parent / "corpus"
FAILED = json.loads((CORPUS / "failed.json").read_text("utf-8"))
FAILED_SLOW = json.loads((CORPUS / "failed-slow.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def malformed():
    """What makes malformed inputs, and runs them."""
    place = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, place)
    yield importlib.import_module("malformed")
    sys.path.remove(place)


def endings(malformed, reader, wanted, place):
    """How a reader ended on inputs, by how they are made."""
    sound, first = place / "sound", place / "first"
    sound.mkdir()
    reader.build(sound)
    shutil.copytree(sound, first)
    answer = malformed.answer_of(reader.read(first))
    for case in malformed.called(reader, sound, wanted):
        folder = place / "case"
        shutil.copytree(sound, folder)
        case.spoil(folder)
        yield case.how, malformed.run(reader, case, folder, answer)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", FAILED)
def test_no_input_that_failed_fails_again(malformed, name, tmp_path):
    check(malformed, name, set(FAILED[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILED_SLOW)
def test_nor_does_one_of_the_slow_ones(malformed, name, tmp_path):
    check(malformed, name, set(FAILED_SLOW[name]), tmp_path)


def check(malformed, name, wanted, place):
    """Every input is made, and ends rightly."""
    found = dict(endings(malformed, malformed.READERS[name], wanted, place))
    assert set(found) == wanted
    assert {how: end for how, end in found.items() if end.outcome not in malformed.RIGHT} == {}


def touch(path):
    (path.parent.parent / "executed-by-an-input").touch()
    raise DataError(f"{path} is broken.")


def fail(said):
    raise DataError(f"{said} is broken.")


def test_the_published_table_is_what_was_measured_and_shows_no_fault(malformed):
    top = Path(__file__).parents[1]
    kept = json.loads((top / "benchmarks/results/hostile.json").read_text("utf-8"))
    page = (top / "benchmarks/README.md").read_text("utf-8")
    ends = dict.fromkeys(malformed.OUTCOMES, 0)
    assert list(kept["readers"]) == list(malformed.READERS)
    for name, reader in kept["readers"].items():
        seen = [row[1] for row in reader["inputs"]]
        found = {end: seen.count(end) for end in malformed.OUTCOMES}
        assert found == reader["table"]
        assert f"| {name} | {' | '.join(map(str, [len(seen), *found.values()]))} |" in page
        ends = {end: count + found[end] for end, count in ends.items()}
    assert f"| all | {' | '.join(map(str, [sum(ends.values()), *ends.values()]))} |" in page
    assert sum(ends.values()) >= 1_000
    assert {end for end, count in ends.items() if count} == {*malformed.RIGHT}


FAULTS = {
    "own error with path": lambda path: fail(path),
    "foreign error": lambda path: fail(path.name),  # which folder?
    "accepted and right": lambda _: "sound",
    "accepted and wrong": Path.read_text,
    "executed": touch,
    "over 500 MB": lambda _: [b"x" * 50_000_000 + bytes(n) for n in range(100)],
}


@pytest.mark.parametrize("expected", FAULTS)
def test_every_fault_is_seen(malformed, tmp_path, expected):
    ending = ending_of(malformed, FAULTS[expected], tmp_path)
    assert ending.outcome == expected, ending


def test_a_process_that_dies_is_seen(malformed, tmp_path):
    ending = ending_of(malformed, lambda _: os.abort(), tmp_path)
    assert (ending.outcome, ending.told) == ("foreign error", "died of SIGABRT")


def test_one_that_hangs_is_ended(malformed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["malformed._running"], "_SECONDS", 0.2)
    assert ending_of(malformed, lambda _: time.sleep(60), tmp_path).outcome == "hung"


def ending_of(malformed, answer, place):
    """How a reader of one text ends that does this with its path."""
    folder = place / "case"
    folder.mkdir()
    (folder / "a.txt").write_text("spoilt")
    reader = malformed.Reader("text", None, lambda folder: answer(folder / "a.txt"), None)
    case = malformed.Case("spoilt", lambda _: None)
    return malformed.run(reader, case, folder, malformed.answer_of("sound"))
