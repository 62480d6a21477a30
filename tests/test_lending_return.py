"""What is lent comes back: every bit, pointer, mode, hook and buffer, whatever happens."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from layerscope.base import devices
from layerscope.base.tensors import storage_id, tied_names
from layerscope.core.lending import Swapper, borrowed, like, swapped
from layerscope.errors import LayerError

CPU = torch.device("cpu")


class Restless(nn.Module):
    """Tied, partly frozen, in mixed modes, with hooks; writes to, replaces and adds buffers."""

    def __init__(self, stop: type[BaseException] | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.still = nn.BatchNorm1d(4).eval()
        self.head = nn.Linear(4, 4)
        self.head.weight = self.embed.weight
        self.head.bias.requires_grad_(requires_grad=False)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.ones(2), persistent=False)
        self.register_buffer("cache", None)
        self.register_buffer("shared", self.still.running_mean)
        self.head.register_forward_pre_hook(lambda *_: None)
        self.embed.weight.grad = torch.full((4, 4), 2.0)
        self.stop = stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.last = torch.full((2,), 9.0)
        self.cache = x
        self.register_buffer("new", x)
        self.norm.running_mean.add_(1)
        del self.norm.num_batches_tracked
        if self.stop:
            raise self.stop
        return self.head(self.still(self.embed(x)))


def picture(model: nn.Module):
    """Everything that must be the same afterwards, bits by value and tensors by identity."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {n: (id(t), t.data_ptr(), t.stride(), t.requires_grad) for n, t in tensors.items()},
        {n: t.detach().clone().reshape(-1).view(torch.uint8).tolist() for n, t in tensors.items()},
        {n: (p.grad.data_ptr(), p.grad.tolist()) for n, p in tensors.items() if p.grad is not None},
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(list(module._buffers), list(module._parameters)) for module in model.modules()],
        [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in model.modules()],
        list(model.state_dict()),
        model.head.weight is model.embed.weight,
        model.shared is model.still.running_mean,
    )


@pytest.mark.parametrize("stop", [None, RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("where", ["forward", "body"])
def test_everything_comes_back(stop, where):
    model = Restless(stop if where == "forward" else None)
    before = picture(model)

    def use() -> None:
        with (
            borrowed(model, CPU) as lent,
            swapped(lent, {"embed.weight": torch.zeros(4, 4), "norm.running_mean": torch.ones(4)}),
            swapped(lent, {"head.weight": torch.eye(4), "head.bias": torch.ones(4)}),
        ):
            assert lent is model
            assert not any(module.training for module in model.modules())
            assert torch.is_grad_enabled()  # the caller's, and none of the network's
            assert torch.equal(lent.embed.weight, torch.eye(4))  # tied to the head
            with torch.no_grad():
                lent(torch.ones(3, 4))
            assert model.count == 1  # what it wrote is there while it is lent
            if stop and where == "body":
                raise stop

    if stop is None:
        use()
    else:
        with pytest.raises(stop):
            use()
    assert picture(model) == before
    assert torch.is_grad_enabled()


def test_a_failure_on_the_way_in_leaves_nothing_behind(monkeypatch):
    model = Restless()
    before = picture(model)
    real, calls = torch.Tensor.to, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("out of memory")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", failing)
    with pytest.raises(RuntimeError, match="out of memory"), borrowed(model, CPU):
        pass
    monkeypatch.undo()
    assert len(calls) == 8
    assert picture(model) == before


def test_swapped_alone_is_undone_and_copies_its_values():
    model = Restless()
    before = picture(model)
    value = torch.full((4,), 3.0)
    with swapped(model, {"head.bias": value}):
        value.zero_()
        assert model.head.bias.tolist() == [3.0] * 4
        assert isinstance(model.head.bias, nn.Parameter)
        model.head.bias.data.fill_(7)  # writes into the lent memory
    assert value.tolist() == [0.0] * 4
    assert picture(model) == before


def test_swaps_nest():
    model = nn.Linear(2, 1, bias=False)
    own = model.weight.detach().clone()
    with swapped(model, {"weight": torch.ones(1, 2)}):
        with swapped(model, {"weight": torch.zeros(1, 2)}):
            assert model.weight.tolist() == [[0, 0]]
        assert model.weight.tolist() == [[1, 1]]
    assert torch.equal(model.weight, own)


def test_a_buffer_that_two_modules_share_stays_shared():
    model = Restless()
    with borrowed(model, CPU) as lent, swapped(lent, {"still.running_mean": torch.full((4,), 5.0)}):
        assert lent.shared.tolist() == [5.0] * 4


@pytest.mark.parametrize("shape", [(), (1,), (1, 4), (4, 1), (16,), (5, 4)])
def test_another_shape_is_refused_also_where_it_would_stretch(shape):
    model = Restless()
    before = picture(model)
    with (
        pytest.raises(LayerError, match=r"embed\.weight has the shape \(4, 4\) and can't hold"),
        swapped(model, {"head.bias": torch.zeros(4), "embed.weight": torch.zeros(shape)}),
    ):
        pass
    assert picture(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_laid_out_as_in_the_network(dtype):
    conv = nn.Conv2d(3, 4, 2).to(dtype=dtype, memory_format=torch.channels_last)
    value = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    copied = like(conv.weight.data, value)
    assert copied.stride() == conv.weight.stride() != value.stride()
    assert copied.dtype == dtype
    assert torch.equal(copied, value.to(dtype))
    assert copied.data_ptr() != conv.weight.data_ptr()
    with swapped(conv, {"weight": value}):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)


class Views(nn.Module):
    """Parameters and a buffer that are other objects on one memory, beside lone ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(5, 3, bias=False)
        self.head.weight = nn.Parameter(self.table.weight.detach().T)
        self.register_buffer("row", self.table.weight.detach()[2])
        self.out = nn.Linear(3, 5)
        self.out.weight = nn.Parameter(self.table.weight.detach().view(5, 3))
        joint = torch.randn(4, 3)
        self.left, self.right = nn.Parameter(joint[:, :2]), nn.Parameter(joint[:, 2:])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.table(tokens)
        values = values + self.head(self.out(values)) * self.row
        return values @ self.left[:3] + values @ self.right[:3]


def picture_of_views(model: nn.Module):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {n: (id(t), t.data_ptr(), t.stride(), t.tolist()) for n, t in tensors.items()}


@pytest.mark.parametrize("name", ["table.weight", "head.weight", "out.weight"])
def test_what_is_tied_by_memory_changes_together(name):
    model, tokens = Views(), torch.tensor([0, 2, 4])
    before = picture_of_views(model)
    value = torch.randn(model.get_parameter(name).shape)
    table = value.T if name == "head.weight" else value
    plain = copy.deepcopy(model)  # which unties them, so each is changed by hand
    with torch.no_grad():
        plain.table.weight.copy_(table)
        plain.head.weight.copy_(table.T)
        plain.out.weight.copy_(table)
        plain.row.copy_(table[2])
        expected = plain(tokens)
        with borrowed(model, CPU) as lent, swapped(lent, {name: value}):
            assert torch.equal(lent(tokens), expected)
            assert lent.head.weight.stride() == before["head.weight"][2]
            assert len({storage_id(t) for t in (*lent.table.parameters(), lent.row)}) == 1
    assert picture_of_views(model) == before


def test_a_change_of_a_part_reaches_the_whole_and_nothing_beside_it():
    model = Views()
    before = picture_of_views(model)
    own = model.table.weight.detach().clone()
    with swapped(model, {"row": torch.full((3,), 7.0)}):
        assert model.table.weight[2].tolist() == [7.0] * 3
        assert torch.equal(model.head.weight[:, 2], torch.full((3,), 7.0))
        assert torch.equal(model.table.weight[3:], own[3:])
    with swapped(model, {"left": torch.zeros(4, 2)}):
        assert model.left.tolist() == [[0, 0]] * 4
        assert model.right.tolist() == before["right"][3]
        assert model.right.data_ptr() == before["right"][1]
    assert picture_of_views(model) == before


def test_ties_hold_in_what_is_lent():
    device = devices.resolve("auto")
    model = Views()
    before, ties = picture_of_views(model), tied_names(model)
    assert ties == {"table.weight": ("row", "head.weight", "out.weight")}
    with borrowed(model, device) as lent:
        assert {t.device.type for t in (*lent.parameters(), *lent.buffers())} == {device.type}
        assert tied_names(lent) == ties
        # A buffer is lent as a copy, and takes along what it is tied to.
        assert lent.table.weight.data_ptr() != before["table.weight"][1]
        assert {n: (t.stride(), t.tolist()) for n, t in lent.state_dict().items()} == {
            name: seen[2:] for name, seen in before.items()
        }
    assert picture_of_views(model) == before


def test_what_is_there_already_is_left_alone_bit_for_bit():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, torch.nan], [1, 2]]))
    there = model.weight.data_ptr(), model.bias.data_ptr()
    with swapped(model, copy.deepcopy(model.state_dict()), owned=True):
        assert (model.weight.data_ptr(), model.bias.data_ptr()) == there
    minus = torch.tensor([[-0.0, torch.nan], [1, 2]])
    with swapped(model, {"weight": minus}, owned=True):
        assert model.weight.data_ptr() != there[0]
        assert torch.signbit(model.weight[0, 0])
    views = Views()
    there = views.head.weight.data_ptr()
    with swapped(views, copy.deepcopy(views.state_dict()), owned=True):
        assert views.head.weight.data_ptr() == there


def test_values_that_are_given_away_take_no_memory_twice():
    model = nn.Linear(4, 3)
    before = picture_of_views(model)
    value = torch.randn(3, 4)
    where = value.data_ptr()
    with swapped(model, {"weight": value}, owned=True):
        assert model.weight.data_ptr() == where
    assert picture_of_views(model) == before
    with swapped(model, {"weight": value}):
        assert model.weight.data_ptr() != where
    values = {"weight": model.weight.detach().clone(), "bias": torch.ones(3)}
    equal = weakref.ref(values["weight"].untyped_storage())
    with swapped(model, values, owned=True):
        del values
        gc.collect()
        assert equal() is None  # it was there already


def test_given_values_are_copied_where_their_memory_does_not_fit():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    one = torch.randn(3, 3)
    values = {
        "0.weight": model[1].weight.detach(),  # live in the network
        "1.weight": one,
        "2.weight": one,  # twice
        "0.bias": torch.randn(4)[1:],  # begins at an odd place
        "1.bias": torch.randn(3).double(),
        "2.bias": torch.randn(6)[::2],
    }
    expected = {name: value.float().clone() for name, value in values.items()}
    with swapped(model, values, owned=True):
        state = model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
        assert len({storage_id(t) for t in state.values()}) == 6
        assert all(t.data_ptr() % 64 == 0 for t in state.values())
        assert all(t.is_contiguous() for t in state.values())
        assert state["1.weight"].data_ptr() == one.data_ptr()


@pytest.mark.parametrize("outer", [{}, {"row": torch.full((3,), 3.0)}, {"left": torch.ones(4, 2)}])
def test_one_swapper_does_what_swaps_that_look_anew_do(outer):
    model = Views()
    before = picture_of_views(model)
    swapper = Swapper(model)
    values = {
        "table.weight": torch.randn(5, 3),
        "row": torch.zeros(3),
        "out.bias": torch.ones(5),
        "right": torch.randn(4, 1),
    }
    with swapper.swapped(outer):
        around = picture_of_views(model)
        for name, value in values.items():
            with swapped(model, {name: value}):
                expected = {n: t.clone() for n, t in model.state_dict().items()}
                ties = tied_names(model)
            with swapper.swapped({name: value}):
                assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
                assert tied_names(model) == ties
            assert picture_of_views(model) == around
    assert picture_of_views(model) == before


def test_a_swapper_follows_a_network_that_replaces_its_buffers():
    model = Restless()
    model.cache = torch.zeros(3, 4)
    swapper = Swapper(model)
    model(torch.ones(3, 4))  # puts other tensors in place of some
    cache, new = model.cache, model.new
    with swapper.swapped({"cache": torch.full((3, 4), 5.0)}):
        assert model.cache is cache
        assert model.cache.eq(5).all()
        assert model.new.eq(5).all()  # the same object
    with swapper.swapped({"new": torch.zeros(3, 4)}):
        assert model.new is new
        assert not model.cache.any()
    assert model.cache.eq(1).all()


def test_a_swapper_looks_at_nothing_but_what_changes(monkeypatch):
    model = Views()
    swapper = Swapper(model)
    monkeypatch.setattr(nn.Module, "modules", None)
    monkeypatch.setattr(nn.Module, "state_dict", None)
    monkeypatch.setattr(torch, "equal", None)  # would wait for an accelerator
    with swapper.swapped({"out.bias": torch.ones(5), "head.weight": torch.zeros(3, 5)}):
        assert model.out.bias.tolist() == [1] * 5
        assert not model.table.weight.any()
