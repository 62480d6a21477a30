"""The terminal: help of every command, and results in terminals of any width."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from layerscope import testing
from layerscope.cli import EXAMPLES, _parser, main
from layerscope.core import metrics, perturb


def commands():
    (found,) = [each for each in _parser()._actions if each.dest == "==SUPPRESS=="]
    return found.choices


def test_every_command_has_a_sentence_and_an_example_that_is_right():
    assert set(EXAMPLES) == set(commands())
    for name, parser in commands().items():
        program, command, *_ = words = shlex.split(EXAMPLES[name])
        assert (program, command) == ("layerscope", name)
        _parser().parse_args(words[1:])
        said = parser.format_help()
        assert EXAMPLES[name] in said
        assert re.search(r"^[A-Z][^\n]+", said, re.MULTILINE), name


def test_the_bare_command_shows_its_help(capsys):
    assert main([]) == 0
    assert "sweep" in capsys.readouterr().out
    ran = subprocess.run(
        [sys.executable, "-m", "layerscope", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("layerscope ")


def test_help_of_sweep_names_perturbations_and_metrics(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name in {*perturb.PERTURBATIONS, *metrics.METRICS} - {"together", "top5_error"}:
        assert re.search(rf"\b{name}\b", said.partition("Perturbations that go")[2]), name


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_show_keeps_numbers_whole_and_ends_with_verdicts(columns, tmp_path, monkeypatch, capsys):
    ds = testing.dataset(layers=3, epochs=(0, 1, 2, 3, 8, 40, 90, 100))
    front = "encoder.a_block_with_a_long_name."
    names = [f"{front}{name}" for name in ds["layer"].values[:-1]]
    ds = ds.assign_coords(layer=[*names, "fullmodel"])
    ds.to_netcdf(tmp_path / "sweep.nc")
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["show", str(tmp_path / "sweep.nc")]) == 0
    said = capsys.readouterr().out
    shown = [line for line in said.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, shown)) <= columns
    cells = {cell.strip() for line in shown for cell in re.split("[│┃]", line)}
    assert {"0.900", "0.950", "rand", "100"} <= cells
    assert not {cell for cell in cells if re.fullmatch(r"\d?\.\d{0,2}", cell)}
    last = said.splitlines()[-1]
    assert last.startswith("2 of 3 layers are critical")
    assert "95 % interval" in last
    assert re.search(r"\+88\.0 points", said)


def test_show_passes_the_options_of_plots_on(tmp_path, capsys):
    testing.dataset(layers=2, epochs=(0, 5)).to_netcdf(tmp_path / "sweep.nc")
    picture = tmp_path / "figure.svg"
    asked = ["show", str(tmp_path / "sweep.nc"), "--png", str(picture), "--plot", "heatmap"]
    given = ["--columns", "rand", "0", "--relative", "damage", "--limits", "0", "0.5"]
    assert main([*asked, *given, "--cmap", "magma", "--width", "column"]) == 0
    said = picture.read_text("utf-8")
    assert re.search("<!-- damage", said)
    assert 'width="234pt"' in said or re.search(r'width="23\d', said)
    assert main([*asked[:4], "--plot", "curves", "--columns", "0"]) == 1
    assert "--columns is not of the plot 'curves'" in capsys.readouterr().err
