"""The arguments of `sweep` and `train`: the same wherever they can be given."""

from __future__ import annotations

import collections
import inspect
import operator
import re

import pytest

import layerscope
from layerscope import errors
from layerscope.cli import _options as options, _sweeping as sweeping, main
from layerscope.cli._signature import arguments
from layerscope.core import sweep as engine
from layerscope.jupyter._backend import sweep_only
from layerscope.zoo import training

COMMANDS = {
    "sweep": (options.SWEEP, layerscope.sweep),
    "train": (options.TRAIN, layerscope.train),
    "Recipe": (options.RECIPE, layerscope.Recipe),
}


class Reached(BaseException):
    """Ends a command where its work would begin; an error would be told in a line of its own."""


def reach():
    raise Reached


# The command line.


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_read_from_the_source_is_the_signature(command):
    place, function = COMMANDS[command]
    signature, read = inspect.signature(function).parameters, arguments(place.room, place.name)
    assert list(read) == list(signature)
    for name, parameter in signature.items():
        required = parameter.default is inspect.Parameter.empty
        default = None if read[name].default is None else options.parse(read[name].default)
        assert (read[name].default is None) == required, name
        assert required or default == parameter.default, name
        assert read[name].kind, f"{name} has no type in the docstring of {command}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_is_an_option_or_there_is_a_reason(command, capsys):
    place, function = COMMANDS[command]
    without = place.without
    with pytest.raises(SystemExit):
        main(["sweep" if command == "sweep" else "train", "--help"])
    words = capsys.readouterr().out
    signature = inspect.signature(function).parameters
    assert set(without) <= set(signature)
    for name in set(signature) - set(without):
        flag = f"--{name.replace('_', '-')}"
        assert f"  {flag}" in words, f"{flag} is no option of the command line"


GIVEN = {
    "--layers 0 fc*": {"layers": ["0", "fc*"]},
    "--layers {'ends':['0','5']}": {"layers": {"ends": ["0", "5"]}},
    "--view block": {"view": "block"},
    "--norms kept": {"norms": "kept"},
    "--norms {'parameters':'with','statistics':'kept'}": {
        "norms": {"parameters": "with", "statistics": "kept"}
    },
    "--perturbations zero noise(0.1)": {"perturbations": ["zero", "noise(0.1)"]},
    "--metrics accuracy": {"metrics": ["accuracy"]},
    "--measures block_influence variance": {"measures": ["block_influence", "variance"]},
    "--draws 5 --seed 3": {"draws": 5, "seed": 3},
    "--batch-size 7": {"batch_size": 7},
    "--device cpu": {"device": "cpu"},
    "--dtype bfloat16": {"dtype": "bfloat16"},
    "--epochs 0 2": {"epochs": [0, 2]},
    "--model-epochs 2 5": {"model_epochs": [2, 5]},
    "--output logits": {"output": "logits"},
    "--output 0": {"output": 0},
    "--output operator:neg": {"output": operator.neg},
    "--fresh collections:OrderedDict": {"fresh": collections.OrderedDict},
    "--whole": {"whole": True},
    "--no-whole --outcomes": {"whole": False, "outcomes": True},
    "--decide": {"decide": True},
    "--decide 0.2": {"decide": 0.2},
    "--decide {'robust':0.1,'critical':0.2}": {"decide": {"robust": 0.1, "critical": 0.2}},
    "--tolerance 0.02": {"tolerance": 0.02},
    "--no-show-progress": {"show_progress": False},
    "--plan": {"plan": True},
    "": {},
}


@pytest.mark.parametrize("text", GIVEN)
def test_what_is_given_as_text_reaches_the_sweep(text, trained, few_digits, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sweeping, "data_of", lambda *_: few_digits)
    monkeypatch.setattr(engine, "sweep", lambda *_, **came: calls.append(came) or reach())
    with pytest.raises(Reached):
        main(["sweep", str(trained.folder), "--out", str(tmp_path), *text.split()])
    (came,) = calls
    # What the command has of its own.
    assert came.pop("out") == tmp_path
    assert came.pop("checkpoints").folder == trained.folder
    # A default of its own, which of small pictures is the same.
    usual = inspect.signature(COMMANDS["sweep"][1]).parameters["batch_size"].default
    assert came == {"batch_size": usual} | GIVEN[text]


def test_every_option_of_the_sweep_is_tried():
    tried = {name for given in GIVEN.values() for name in given}
    assert tried == set(options.SWEEP.options())


def test_what_is_given_as_text_reaches_the_training(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training, "train", lambda *given, **more: calls.append((given, more)) or reach()
    )
    words = "--epochs 4 --drops 0.5 0.75 --betas 0.8 0.9 --nesterov --clip 1 --frozen layer1"
    words += " --record 0 2 --record-steps 5 --seed 3 --augment shift --device cpu"
    with pytest.raises(Reached):
        main(["train", "fcn-1x4", "--out", str(tmp_path), *words.split()])
    (((_, _, recipe), more),) = calls
    assert recipe == layerscope.Recipe(
        epochs=4, drops=(0.5, 0.75), betas=(0.8, 0.9), nesterov=True, clip=1.0, frozen=("layer1",)
    )
    assert more == {
        "out": str(tmp_path), "record": [0, 2], "record_steps": [5], "seed": 3,
        "augment": "shift", "device": "cpu",
    }  # fmt: skip


# A session.


def shared(function):
    """The arguments of a function that `sweep` has too, here and there."""
    mine, theirs = (inspect.signature(each).parameters for each in (function, layerscope.sweep))
    return {name: (mine[name], theirs[name]) for name in mine if name in theirs}


def test_a_session_has_the_arguments_of_a_sweep():
    for name, (mine, theirs) in shared(layerscope.Session).items():
        assert mine == theirs, name  # kind, default and annotation
    # What a sweep has besides is about all cells, which a session does not go through.
    left = set(inspect.signature(layerscope.sweep).parameters) - set(shared(layerscope.Session))
    assert left == {
        "layers", "view", "perturbations", "measures", "draws", "out", "epochs", "model_epochs",
        "whole", "decide", "tolerance", "outcomes", "callback", "between", "show_progress",
        "plan", "client",
    }  # fmt: skip


def test_an_explorer_has_the_arguments_of_a_session_and_a_sweep():
    arguments_of_run = {"data", "checkpoints"}  # which a run has itself
    mine = shared(layerscope.LayerExplorer)
    for name in set(mine) - arguments_of_run:
        assert mine[name][0] == mine[name][1], name
    assert set(shared(layerscope.Session)) - {"model"} <= set(mine)
    # With a plan nothing is swept that could be shown.
    without = {"model", "plan"}
    left = set(inspect.signature(layerscope.sweep).parameters) - set(mine) - without
    assert set(sweep_only(dict.fromkeys(left, 1))) == left
    for name in without:
        with pytest.raises(errors.OptionError, match="no argument of sweep"):
            sweep_only({name: 1})


@pytest.mark.parametrize("function", [layerscope.Session, layerscope.LayerExplorer])
def test_what_is_shared_is_documented_once(function):
    words = inspect.getdoc(function)
    same = re.search(r"^(\w[\w, ]+)\n +As for `layerscope.sweep`", words, re.MULTILINE)
    said = set(same[1].split(", ")) | set(re.findall(r"^(\w+) : ", words, re.MULTILINE))
    assert set(shared(function)) <= said


WRONG = {
    "checkpoints": 3, "norms": "on", "metrics": ["eror"], "batch_size": 0, "device": "gpu",
    "dtype": "int8", "seed": -1.5, "fresh": "x", "output": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_a_sweep_refuses_is_refused_in_the_same_words(name, trained, few_digits):
    from layerscope import models

    options = {"device": "cpu", "checkpoints": trained, name: WRONG[name]}
    said = set()
    for function in (layerscope.sweep, layerscope.Session, layerscope.LayerExplorer):
        with pytest.raises(errors.LayerscopeError) as refused:
            function(models.rebuild(trained), few_digits.test, **options)
        said.add(str(refused.value))
    assert len(said) == 1, said
