"""What is lent comes back: every bit, pointer, mode, hook and buffer, whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerscope.borrow import borrowed, like, swapped
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
            assert not torch.is_grad_enabled()
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
