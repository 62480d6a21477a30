"""Marks of tensors: one number each, another where the bits are."""

from __future__ import annotations

import pytest
import torch

from layerscope.base import tensors


@pytest.mark.parametrize("shape", [(), (0,), (5000,), (7, 900), (1, 3, 2000), (40, 3, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
@pytest.mark.parametrize("turned", [False, True])
def test_marks_in_parts_are_those_of_the_whole(shape, dtype, turned, monkeypatch):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(1000).to(dtype)
    tensor = tensor.mT if turned and tensor.ndim > 1 else tensor
    whole = tensors.marks({"a": tensor})
    monkeypatch.setattr(tensors, "_PIECE", 100)
    assert tensors.marks({"a": tensor}) == whole


def test_a_mark_is_another_where_one_bit_of_a_large_tensor_is():
    tensor = torch.zeros(2, 2**22)
    before = tensors.marks({"a": tensor})
    tensor[1, -1] = -0.0
    assert tensors.marks({"a": tensor}) != before


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.complex64])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 21])
def test_another_bit_gives_another_mark_however_tensors_lie(dtype, length):
    memory = torch.zeros(3, length + 1).to(dtype)
    for lying in (memory[0, :length], memory[1, 1:], memory[:, 0], memory[2, 0], memory.T):
        before = tensors.marks({"t": lying})["t"]
        for at in range(lying.numel()):
            place = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), lying.shape))
            lying[place] = 1
            assert tensors.marks({"t": lying})["t"] != before
            lying[place] = 0
