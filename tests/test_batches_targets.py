"""Types of inputs, targets of any form, outputs of any network, and where classes stand."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

import layerscope
from layerscope import data, metrics
from layerscope.core.batches import FixedBatches
from layerscope.core.metrics import Metric
from layerscope.core.session import Session
from layerscope.errors import DataError, OptionError

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(make, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def swept(make, given, **options):
    """A sweep to another network's weights, and the plain evaluation of the same in a copy."""
    net, start = built(make, 1), built(make, 0)
    series = {0: start.state_dict(), 1: copy.deepcopy(net.state_dict())}
    options = {"perturbations": ["reinitialize"], "device": "cpu", "batch_size": 4, **options}
    ds = layerscope.sweep(net, given, checkpoints=series, show_progress=False, **options)
    plain = {name: options[name] for name in ("metrics", "output", "batch_size") if name in options}
    whole = metrics.evaluate(start, given, device="cpu", **plain)
    cell = ds["value"].sel(layer="fullmodel", epoch=0, perturbation="reinitialize", draw=0)
    assert [tally.mean for tally in whole.values()] == list(cell.values)
    with Session(
        net, given, checkpoints=series, device="cpu",
        **{name: value for name, value in options.items() if name in plain},
    ) as session:  # fmt: skip
        estimate = session.measure({"fullmodel": ("reinitialize", 0)})
    assert [estimate.mean(name) for name in whole] == list(cell.values)
    assert estimate.examples == FixedBatches(given, 4, CPU).count
    return ds, {name: tally.mean for name, tally in whole.items()}, start


# Types of input


class Seen(nn.Module):
    """Says the sum of its inputs, and remembers their types."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.types: set[torch.dtype] = set()

    def forward(self, x):
        self.types.add(x.dtype)
        whole = x.flatten(1).double().sum(1, keepdim=True) * self.scale.double()
        return torch.cat([whole, -whole], 1)


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4), (7,)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_inputs_reach_the_network_as_they_are_in_one_piece_and_in_batches(shape, kind):
    x = torch.randint(256, (6, *shape), generator=seeded()).to(kind)
    y = torch.zeros(6, dtype=torch.long)
    forms = [
        (x, y), [(x, y)], DataLoader(TensorDataset(x, y), batch_size=4), ((x,), y),
        {"x": x, "labels": y}, [{"x": x, "labels": y}],
    ]  # fmt: skip
    first = Metric("first", "", lambda z, _: z[:, 0])
    for form in forms:
        net = Seen()
        found = metrics.evaluate(net, form, first, batch_size=4, device="cpu")["first"].mean
        assert found == float(x.flatten(1).double().sum(1).mean())
        assert net.types == {kind}


def test_only_data_sets_of_ours_normalise_their_pictures(digits):
    part = digits.test.first(5)
    inputs, _ = next(part.batches(5))
    assert torch.equal(inputs, (part.inputs.float() / 255 - 0.1307) / 0.3081)
    tokens = torch.randint(256, (5, 7), generator=seeded()).to(torch.uint8)
    as_text = data.Examples(tokens, tokens.long())
    assert torch.equal(next(as_text.batches(5))[0], tokens)


class Bytes(nn.Module):
    """A network of bytes, which it looks up itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.table(x.long()).mean(1))


def test_bytes_of_text_are_no_pixels():
    x = torch.randint(256, (9, 12), generator=seeded()).to(torch.uint8)
    y = torch.randint(3, (9,), generator=seeded())
    ds, _, start = swept(Bytes, (x, y), metrics=["error", "loss"])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(start(x).double(), y)
    cell = ds["value"].sel(layer="fullmodel", epoch=0, metric="loss").squeeze()
    assert float(cell) == pytest.approx(float(expected), rel=1e-6)


def test_pixels_that_a_network_can_not_take_are_told():
    x = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    net = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten())
    with pytest.raises(DataError, match="images / 255"):
        metrics.evaluate(net, (x, torch.zeros(4).long()), device="cpu")


# Targets of any form


def absolute(outputs, targets):
    return (outputs.reshape(targets.shape) - targets).abs().flatten(1).mean(1)


def dense(width):
    return lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, width))


@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_regression(shape):
    x, y = torch.randn(10, 5, generator=seeded()), torch.randn(10, *shape, generator=seeded(1))
    own = Metric("absolute", "absolute error", absolute)
    for given in ((x, y), [(x[:4], y[:4]), (x[4:], y[4:])]):
        _, found, start = swept(dense(shape[0]), given, metrics=["mse", own])
        with torch.no_grad():
            z = start(x).double()
        assert found["mse"] == pytest.approx(float(((z - y) ** 2).mean()), rel=1e-6)
        assert found["absolute"] == pytest.approx(float((z - y).abs().mean()), rel=1e-6)


class Flat(nn.Module):
    """One number for each example, in no dimension of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, x):
        return self.layer(x).squeeze(1)


@pytest.mark.parametrize("made", [Flat, lambda: nn.Sequential(nn.Linear(5, 1))])
@pytest.mark.parametrize("shape", [(10,), (10, 1)])
def test_one_number_for_each_example_is_never_broadcast(made, shape):
    x, y = torch.randn(10, 5, generator=seeded()), torch.randn(shape, generator=seeded(1))
    _, found, start = swept(made, (x, y), metrics=["mse"])
    with torch.no_grad():
        expected = ((start(x).double().flatten() - y.flatten()) ** 2).mean()
    assert found["mse"] == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(DataError, match=r"mse came with outputs of shape \(4,.* same shape"):
        metrics.evaluate(made(), (x, torch.zeros(10, 3)), "mse", batch_size=4, device="cpu")


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
def test_several_labels(kind):
    x, y = torch.randn(9, 5, generator=seeded()), (torch.rand(9, 4, generator=seeded()) > 0.7)
    exact = Metric("exact", "", lambda z, t: ((z > 0) == (t > 0)).all(1), higher_is_better=True)
    _, found, start = swept(dense(4), (x, y.to(kind)), metrics=["bce", exact])
    with torch.no_grad():
        z = start(x).double()
    said = nn.functional.binary_cross_entropy_with_logits(z, y.double())
    assert found["bce"] == pytest.approx(float(said), rel=1e-6)
    assert found["exact"] == float(((z > 0) == y).all(1).double().mean())


def test_soft_labels():
    x, y = torch.randn(9, 5, generator=seeded()), torch.rand(9, 4, generator=seeded()).softmax(1)
    soft = Metric("soft", "", lambda z, t: -(z.log_softmax(-1) * t).sum(-1))
    _, found, start = swept(dense(4), (x, y), metrics=[soft])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(start(x).double(), y.double())
    assert found["soft"] == pytest.approx(float(expected), rel=1e-6)


def test_targets_that_are_no_tensor():
    """Such as the boxes of each picture, of which there are different numbers."""
    x = torch.randn(6, 5, generator=seeded())
    boxes = [{"boxes": torch.full((count, 1), 0.5)} for count in (1, 3, 2, 0, 1, 2)]

    def nearest(outputs, targets):
        return torch.stack(
            [(z - t["boxes"]).abs().sum() for z, t in zip(outputs, targets, strict=True)]
        )

    given = [(x[:4], boxes[:4]), (x[4:], boxes[4:])]
    _, found, start = swept(dense(1), given, metrics=[Metric("nearest", "", nearest)])
    with torch.no_grad():
        z = start(x)
    expected = np.mean([float((z[i] - boxes[i]["boxes"]).abs().sum()) for i in range(6)])
    assert found["nearest"] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (torch.zeros(6), r"torch.float32; error"),
        (torch.zeros(6, 3), "torch.float32"),
        ([0] * 6, "list"),
    ],
)
def test_what_are_no_class_indices_is_refused_by_metrics_of_classes(targets, told):
    with pytest.raises(DataError, match=rf"targets are (a )?{told}.*'mse'"):
        metrics.evaluate(dense(3)(), [(torch.zeros(6, 5), targets)], "error", device="cpu")


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_class_indices_may_be_of_any_whole_type(kind):
    x, y = torch.randn(9, 5, generator=seeded()), torch.arange(9) % 3
    net = built(dense(3))
    found = metrics.evaluate(net, (x, y.to(kind)), device="cpu")
    assert found == metrics.evaluate(net, (x, y), device="cpu")


# Outputs of any network


class Several(nn.Module):
    """Returns what `form` makes of hidden numbers and logits."""

    def __init__(self, form) -> None:
        super().__init__()
        self.inner, self.head, self.form = nn.Linear(5, 6), nn.Linear(6, 3), form

    def forward(self, x):
        hidden = self.inner(x).relu()
        return self.form(hidden, self.head(hidden))


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda h, z: {"hidden": h, "scores": z}, "scores"),
        (lambda h, z: types.SimpleNamespace(hidden=h, scores=z), "scores"),
        (lambda h, z: [h, z], 1),
        (lambda h, z: (h, z), -1),
        (lambda h, z: {"out": [h, {"z": z}]}, lambda out: out["out"][1]["z"]),
        (lambda _, z: z, lambda out: out),
        (lambda h, z: {"logits": h, 3: z}, 3),
    ],
)
def test_output_says_what_metrics_read(form, output):
    x, y = torch.randn(9, 5, generator=seeded()), torch.arange(9) % 3
    options = {"metrics": ["error", "loss"], "output": output}
    ds, found, _ = swept(lambda: Several(form), (x, y), **options)
    plain = built(lambda: Several(lambda _, z: z))
    assert found == {
        name: tally.mean
        for name, tally in metrics.evaluate(plain, (x, y), batch_size=4, device="cpu").items()
    }
    assert ds.attrs["output"]


def test_output_that_is_not_there_is_told():
    x, y = torch.zeros(4, 5), torch.zeros(4).long()
    net = Several(lambda h, z: {"hidden": h, "scores": z})
    with pytest.raises(DataError, match=r"dict with hidden, scores, and no logits.*output='name'"):
        metrics.evaluate(net, (x, y), device="cpu")
    for output in ("logits", 1, lambda out: out, lambda out: out["hidden"].sum()):
        with pytest.raises(DataError, match=r"gave a .*of the dict with hidden, scores"):
            metrics.evaluate(net, (x, y), device="cpu", output=output)
    with pytest.raises(OptionError, match=r"output is \[1\]"):
        metrics.evaluate(net, (x, y), device="cpu", output=[1])
    with pytest.raises(OptionError, match=r"output= changes in place"):
        metrics.evaluate(net, (x, y), device="cpu", output=lambda out: out["scores"].mul_(2))


def test_output_is_part_of_what_a_sweep_is(tmp_path):
    x, y = torch.randn(9, 5, generator=seeded()), torch.arange(9) % 3

    def make():
        return Several(lambda _, z: (z, -z))

    net, start = built(make, 1), built(make, 0)
    series = {0: start.state_dict(), 1: net.state_dict()}
    options = {"checkpoints": series, "device": "cpu", "show_progress": False, "out": tmp_path}
    layerscope.sweep(net, (x, y), output=0, **options)
    with pytest.raises(layerscope.errors.ResultError, match="output"):
        layerscope.sweep(net, (x, y), output=1, **options)


# A batch that is one argument


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

    def forward(self, packed):
        assert isinstance(packed, PackedSequence)
        return self.head(self.cell(packed)[1][0])


def test_packed_sequences():
    parts = [torch.randn(n, 4, generator=seeded(n)) for n in (5, 2, 4, 1)]
    packed = pack_sequence(parts, enforce_sorted=False)
    y = torch.tensor([0, 1, 2, 1])
    _, found, start = swept(Recurrent, [(packed, y), (packed, y)], metrics=["loss"])
    with torch.no_grad():
        alone = torch.cat([start(pack_sequence([part])) for part in parts])
    expected = nn.functional.cross_entropy(alone.double(), y)
    assert found["loss"] == pytest.approx(float(expected), rel=1e-6)
    other = pack_sequence([part + 1 for part in parts], enforce_sorted=False)
    held = [FixedBatches([(each, y)], 4, CPU).fingerprint for each in (packed, other)]
    assert held[0] != held[1]
    assert FixedBatches([(packed, None)], 4, CPU).count == 4


class OfList(nn.Module):
    """Takes pictures of any size in a list, as networks that find objects do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, images):
        assert isinstance(images, list)
        return self.head(torch.stack([self.conv(image).mean((1, 2)) for image in images]))


def test_lists_of_images():
    images = [torch.randn(1, 4 + n, 5, generator=seeded(n)) for n in range(4)]
    y = torch.tensor([0, 1, 2, 1])
    _, found, start = swept(OfList, [((images,), y)], metrics=["loss"])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(start(images).double(), y)
    assert found["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert FixedBatches([((images,), None)], 4, CPU).count == 4


class Graph:
    """A batch of graphs, as libraries of graphs have it: an object that can be moved."""

    def __init__(self, nodes, where) -> None:
        self.nodes, self.where = nodes, where

    def to(self, device):
        return Graph(self.nodes.to(device), self.where.to(device))


class OfGraphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.node, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, graph):
        hidden = self.node(graph.nodes).relu()
        summed = torch.zeros(int(graph.where.max()) + 1, 6).index_add(0, graph.where, hidden)
        return self.head(summed)


def test_graphs():
    where, y = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 2, 1])
    graphs = [Graph(torch.randn(6, 4, generator=seeded(n)), where) for n in range(2)]
    _, found, start = swept(OfGraphs, [(graph, y) for graph in graphs], metrics=["loss"])
    with torch.no_grad():
        z = torch.cat([start(graph) for graph in graphs])
    expected = nn.functional.cross_entropy(z.double(), torch.cat([y, y]))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-6)
    same = Graph(graphs[0].nodes.clone(), where)
    prints = [FixedBatches([(graph, y)], 4, CPU).fingerprint for graph in (*graphs, same)]
    assert prints[0] == prints[2] != prints[1]


# Where classes stand


class Pixels(nn.Module):
    """Classes in the second dimension, as torch's own losses take them, or in the last."""

    def __init__(self, classes: int = 3, first: bool = True) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(1, classes, 3, padding=1), first

    def forward(self, x):
        z = self.conv(x)
        return z if self.first else z.movedim(1, -1)


def pictures(size, classes):
    x = torch.randn(6, 1, *size, generator=seeded())
    y = torch.randint(classes, (6, *size), generator=seeded(2))
    y[0, 0, :2] = -100
    return x, y


@pytest.mark.parametrize("size", [(4, 5), (3, 5), (5, 5)])
def test_classes_in_the_second_dimension_are_recognised(size):
    x, y = pictures(size, 3)
    _, found, start = swept(Pixels, (x, y), metrics=["error", "loss"])
    with torch.no_grad():
        z = start(x).double()
    assert found["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(z, y, ignore_index=-100)), rel=1e-6
    )
    wrong = (z.argmax(1) != y)[y != -100]
    assert found["error"] == float(wrong.double().mean())
    last = metrics.evaluate(last_of(start), (x, y), batch_size=4, device="cpu")
    assert {name: tally.mean for name, tally in last.items()} == found


def last_of(net):
    other = Pixels(first=False)
    other.load_state_dict(net.state_dict())
    return other


def test_where_classes_could_stand_in_two_places_one_says_where():
    x, y = pictures((3, 3), 3)
    net = built(Pixels)
    with pytest.raises(
        DataError, match=r"\(6, 3, 3, 3\).*output=lambda out: out\.movedim\(1, -1\)"
    ):
        metrics.evaluate(net, (x, y), device="cpu")
    with pytest.raises(DataError, match="Say where"):
        swept(Pixels, (x, y), metrics=["loss"])
    with torch.no_grad():
        z = net(x).double()
    for turned, at in ((lambda out: out.movedim(1, -1), 1), (lambda out: out, -1)):
        found = metrics.evaluate(net, (x, y), device="cpu", output=turned)["error"].mean
        assert found == float((z.argmax(at) != y)[y != -100].double().mean())


def test_tokens_say_that_classes_come_last():
    """As many tokens in a sequence as in the vocabulary are no ambiguity."""
    x = torch.randint(6, (8, 6), generator=seeded())
    y = torch.full_like(x, -100)
    y[:, :-1] = x[:, 1:]
    net = built(lambda: nn.Sequential(nn.Embedding(6, 6)))
    found = metrics.evaluate(net, (x, y), "error", device="cpu")["error"].mean
    with torch.no_grad():
        assert found == float((net(x).argmax(-1) != y)[y != -100].double().mean())


def test_a_later_batch_that_could_be_either_is_read_as_the_first():
    net = Pixels(3)
    batches = [pictures((4, 5), 3), pictures((3, 3), 3)]
    found = metrics.evaluate(net, batches, "error", device="cpu")["error"].mean
    with torch.no_grad():
        wrong = [(net(x).argmax(1) != y)[y != -100] for x, y in batches]
    assert found == float(torch.cat(wrong).double().mean())


def test_integer_masks_of_one_number_each_are_no_classes():
    """Such as depth, or a mask, from one channel: there is nothing to tell classes by."""
    x, y = pictures((4, 5), 2)
    own = Metric("own", "", lambda z, t: ((z[:, 0] > 0) == (t > 0)).float().mean((1, 2)))
    net = Pixels(1)
    found = metrics.evaluate(net, (x, y), own, device="cpu")["own"].mean
    with torch.no_grad():
        expected = ((net(x)[:, 0] > 0) == (y > 0)).double().mean()
    assert found == pytest.approx(float(expected), rel=1e-6)
