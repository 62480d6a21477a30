"""Names that wrappers change, names that are tied, and names of files as others give them."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import layerscope
from layerscope import models
from layerscope.checkpoints import open_series
from layerscope.errors import CheckpointError
from layerscope.session import Session

OPTIONS = {"device": "cpu", "draws": 2, "show_progress": False}


def built(seed=0):
    return models.build("fcn-2x8", seed=seed, inputs=(4,), classes=3)


def data():
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


# Wrappers


def parts_compiled(net):
    wrapped = copy.deepcopy(net)
    wrapped.layer2 = torch.compile(wrapped.layer2, backend="eager")
    return wrapped


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled, in DataParallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "a part compiled": parts_compiled,
}
KINDS = ["rerandomize", "noise(0.5)", "permute", "reinitialize"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_changes_no_draw(wrapper):
    series = {0: built(1).state_dict(), 5: built(0).state_dict()}
    plain = layerscope.sweep(built(2), data(), checkpoints=series, perturbations=KINDS, **OPTIONS)
    ds = layerscope.sweep(
        WRAPPERS[wrapper](built(2)), data(), checkpoints=series, perturbations=KINDS, **OPTIONS
    )
    for name in ("value", "draw_distance", "distance"):
        torch.testing.assert_close(
            torch.from_numpy(ds[name].values),
            torch.from_numpy(plain[name].values),
            rtol=0,
            atol=0,
            equal_nan=True,
        )
    assert list(ds.initializer.values) == list(plain.initializer.values) == ["declared"] * 4


def test_inside_of_data_parallel_layers_have_their_own_names():
    net = nn.DataParallel(built(2))
    before = {name: (t.data_ptr(), t.tolist()) for name, t in net.state_dict().items()}
    series = {0: built(1).state_dict(), 5: nn.DataParallel(built(0)).state_dict()}
    ds = layerscope.sweep(net, data(), checkpoints=series, layers=["layer1"], **OPTIONS)
    assert list(map(str, ds.layer.values)) == ["layer1", "fullmodel"]
    with Session(net, data(), checkpoints=series, device="cpu") as session:
        found = session.measure({"layer1": ("reinitialize", 0)})
    cell = ds.value.sel(layer="layer1", epoch=0, perturbation="reinitialize", draw=0, metric="loss")
    assert found.tallies["loss"].mean == pytest.approx(float(cell), rel=1e-6)
    assert before == {name: (t.data_ptr(), t.tolist()) for name, t in net.state_dict().items()}


# Tied weights


class Tied(nn.Module):
    def __init__(self, seed=0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.head.weight = self.embed.weight


class Turned(nn.Module):
    """An autoencoder whose second weight is the first one, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.up.weight = nn.Parameter(self.down.weight.detach().T)


def untied(state, name):
    return {**copy.deepcopy(state), name: state[name] + 1}


@pytest.mark.parametrize("form", ["dict", "pt", "safetensors"])
@pytest.mark.parametrize(("model", "name"), [(Tied, "head.weight"), (Turned, "up.weight")])
def test_two_values_for_one_tensor_are_refused(model, name, form, tmp_path):
    wrong = untied(model().state_dict(), name)
    path = tmp_path / f"epoch-0.{form}"
    if form == "pt":
        torch.save(wrong, path)
    elif form == "safetensors":
        save_file({n: t.contiguous() for n, t in wrong.items()}, path)
    with pytest.raises(
        CheckpointError, match=rf"different values for .* and {name}, which are one"
    ):
        open_series({0: wrong if form == "dict" else path}).fit(model())


@pytest.mark.parametrize("model", [Tied, Turned])
def test_one_value_under_several_names_is_taken(model):
    state = copy.deepcopy(model().state_dict())
    separate = {name: t.clone() for name, t in state.items()}
    half = {name: t.half() for name, t in state.items()}
    for held in (state, separate, half):
        found = open_series({0: held}).fit(model()).read(0)
        assert all(torch.equal(found[name], held[name]) for name in held)


def test_a_value_that_is_no_number_is_not_called_two_values():
    state = copy.deepcopy(Tied().state_dict())
    state["embed.weight"][0, 0] = float("nan")
    state["head.weight"] = state["embed.weight"].clone()
    open_series({0: state}).fit(Tied())
