"""Arguments of every kind at the command line: one message and status 1 or 2, at once."""

from __future__ import annotations

import os

import pytest

from layerscope.base import literals, validate
from layerscope.cli import main
from layerscope.cli._options import parse
from layerscope.errors import OptionError

PATHS = ["pipe", "folder", "/dev/zero", "missing", "a\0b", "x" * 300, "d/" * 3000 + "x", "", "loop",
         "~nobody-at-all/x", "\udcff.nc", "file/below"]  # fmt: skip

# Commands with a path in each place that takes one.
COMMANDS = {
    "show": ["show", "{}"],
    "report": ["report", "{}"],
    "gallery": ["gallery", "{}"],
    "data": ["data", "./{}"],
    "data root": ["data", "mnist", "--data-root", "{}"],
    "reproduce": ["reproduce", "{}.ipynb"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    from layerscope import results, testing

    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("folder")  # noqa: PTH102
    os.symlink("loop", "loop")  # noqa: PTH211
    (tmp_path / "file").write_text("x")
    results.save(testing.dataset(layers=2), tmp_path / "sound.nc")
    return tmp_path


def status_of(command):
    try:
        return main(command)
    except SystemExit as end:
        return end.code


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("words", COMMANDS)
def test_a_path_that_is_none_ends_in_one_message(capsys, words):
    for path in PATHS:
        command = [each.format(path) for each in COMMANDS[words]]
        status = status_of(command)
        said = capsys.readouterr().err
        assert status in (1, 2), (path, status, said)
        assert "Nobody thought of this" not in said, (path, said)
        assert said.startswith("layerscope: "), (path, said)
        assert "Traceback" not in said


@pytest.mark.parametrize("value", [
    "[" * 10_000, "-" * 50_000 + "1", "(" * 300, "{[]: 1}", "a\0b", "9" * 5_000, "1e999", "b'x'",
    "{1, 2}", "1j", "...", "x" * 200_000, "{'a': nan}", "lambda: 1", "__import__('os')", "",
])  # fmt: skip
def test_a_parameter_of_any_form_is_refused_in_words(capsys, value):
    assert main(["reproduce", "fcn-mnist", "--scale", "smoke", "-p", f"epochs={value}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("layerscope: parameter epochs is "), said
    assert len(said) < 1_000


@pytest.mark.parametrize("text", ["=", "=1", " =1", "epochs"])
def test_a_parameter_without_a_name_or_a_value_is_repeated(capsys, text):
    assert main(["reproduce", "fcn-mnist", "--scale", "smoke", "-p", text]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"layerscope: -p {text!r} "), said
    assert "write -p name=value" in said


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "number", ["1e400", "9" * 5_000, "nan", "-1", "x", "1.5", "0x10", "\u0663.5"]
)
def test_numbers_of_any_form_are_refused_in_words(capsys, number):
    for option in ("--jobs", "--seeds"):
        command = ["reproduce", "--all", "--scale", "smoke", f"{option}={number}"]
        if option == "--seeds":
            command = ["reproduce", "fcn-mnist", "--scale", "smoke", f"{option}={number}"]
        assert status_of(command) in (1, 2)
        said = capsys.readouterr().err
        assert "Nobody thought of this" not in said, said
    assert status_of(["report", "sound.nc", f"--critical={number}"]) in (0, 1, 2)
    assert "Nobody thought of this" not in capsys.readouterr().err


def test_literals_are_read_or_refused_whatever_they_are():
    assert literals.read("{'a': [1, (2.5, None)]}") == {"a": [1, (2.5, None)]}
    for text in ("[" * 10_000, "-" * 99_000 + "1", "{[]: 1}", "a\0b", "x" * 200_000, "f()"):
        with pytest.raises(ValueError, match=r"."):
            literals.read(text)
        assert parse(text) == text


def test_paths_that_no_file_can_have_are_refused():
    for path in ("a\0b", "x" * 256, "ä" * 128, "d/" * 2048, "\ud800"):
        with pytest.raises(OptionError, match=r"^out "):
            validate.path(path, "out", "sweep")
        with pytest.raises(OptionError, match="the path"):
            validate.expand(path)
    assert validate.path("ä" * 127, "out", "sweep").name == "ä" * 127
    assert str(validate.expand("~nobody-at-all/x")) == "~nobody-at-all/x"


def test_an_error_that_nobody_thought_of_is_one_message(monkeypatch, capsys):
    def fail(_):
        raise KeyError("a\nb")

    monkeypatch.setattr("layerscope.cli._listing._run_models", fail)
    assert main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("layerscope: KeyError: 'a\\nb'. Nobody thought of this")
    monkeypatch.setenv("LAYERSCOPE_TRACEBACK", "1")
    assert main(["models"]) == 1
    assert "Traceback" in capsys.readouterr().err
