"""What holds for any pattern, stack of perturbations, Dataset and series, not only for a few."""

from __future__ import annotations

import fnmatch

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from torch import nn

import layerscope
from layerscope import layers, perturb, results
from layerscope.core import plain
from layerscope.core.checkpoints import SeriesWriter, open_series
from layerscope.errors import LayerError, OptionError

FEW = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# Patterns of layers

NAMES = st.text("ab[]*?!-é0_ ", min_size=1, max_size=4)
TREES = st.recursive(
    st.just(None), lambda inside: st.dictionaries(NAMES, inside, min_size=1, max_size=3),
    max_leaves=6,
).filter(bool)  # fmt: skip


def network(tree):
    """A module of such names, a layer at each end."""
    if tree is None:
        return nn.Linear(2, 2)
    module = nn.Module()
    for name, inside in tree.items():
        module.add_module(name, network(inside))
    return module


@MANY
@given(TREES, st.lists(st.text("ab[]*?!-é0_ .", max_size=6), min_size=1, max_size=3))
@example({"a[0]": None, "a0": None}, ["a[0]"])
@example({"a": None}, ["[!"])
def test_patterns_select_what_they_match_in_order_or_say_that_nothing_does(tree, patterns):
    rows = layers.find(network(tree))
    names = [row.name for row in rows]
    assert [layers.select(rows, [name]) for name in names] == [[row] for row in rows]
    matched = [
        {pattern} if pattern in names else {n for n in names if fnmatch.fnmatchcase(n, pattern)}
        for pattern in patterns
    ]
    if all(matched):
        chosen = [row for row in rows if row.name in set.union(*matched)]
        assert layers.select(rows, patterns) == chosen
        assert layers.find(network(tree), wanted=patterns) == chosen
        (group,) = layers.select(rows, {"all": patterns})
        assert set(group.tensors) == {name for row in chosen for name in row.tensors}
    else:
        with pytest.raises(LayerError):
            layers.select(rows, patterns)
        with pytest.raises(LayerError):
            layers.find(network(tree), wanted=patterns)


# Stacks of perturbations

SHARES = st.floats(0, 1).map(lambda value: round(value, 3))
CERTAIN = st.one_of(
    st.sampled_from(["zero", "reinitialize"]), SHARES.map(lambda share: f"interpolate({share})")
)
CHANCE = st.one_of(
    st.sampled_from(["rerandomize", "rerandomize_matched"]),
    st.tuples(SHARES, st.booleans()).map(lambda given: f"noise({given[0]}, relative={given[1]})"),
)
STACKS = st.lists(CERTAIN | CHANCE, min_size=1, max_size=3).map("+".join)


def trained():
    """A small network, its checkpoints and a batch."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    data = torch.randn(20, 3, generator=generator), torch.arange(20) % 2
    return model.eval(), {0: start, 1: model.state_dict()}, data


@FEW
@given(STACKS)
def test_any_stack_gives_the_numbers_of_a_deep_copy_and_leaves_the_network_as_it_was(stack):
    model, checkpoints, data = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        (kind,) = perturb.parse(stack)
    except OptionError:
        assume(False)
    ds = layerscope.sweep(
        model, data, checkpoints=checkpoints, perturbations=[stack], layers=["3"], epochs=[0],
        metrics=["loss"], show_progress=False, device="cpu",
    )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    series = open_series(checkpoints).fit(model)
    (row,) = layers.find(model, wanted=["3"])
    epoch = 0 if kind.uses_checkpoint else results.NO_EPOCH
    found = ds.value.sel(layer="3", epoch=epoch, draw=0, metric="loss").item()
    expected = plain.cell(model, series, [data], row, kind, epoch, wanted=["loss"])["loss"].mean
    assert found == expected


@MANY
@given(STACKS)
def test_the_name_of_a_stack_makes_the_same_stack(stack):
    try:
        (made,) = perturb.parse(stack)
    except OptionError:  # such as a part that leaves nothing of those before it
        return
    (again,) = perturb.parse(made.name)
    for what in ("name", "uses_checkpoint", "stochastic", "redraws"):
        assert getattr(again, what) == getattr(made, what)
    assert dict(again.settings) == dict(made.settings)


@MANY
@given(
    st.text(max_size=20)
    | st.lists(
        st.sampled_from(
            ["zero", "noise", "(", ")", "+", ",", "=", "0.1", "'", "[", "scale", "-", "{"]
        ),
        max_size=12,
    ).map("".join)
)
@example("(" * 5000)
@example("zero+" * 3000 + "zero")
@example("noise(" + "-" * 20_000 + "1)")
@example("noise('\ud800')")
@example("zero\0")
def test_any_text_is_a_perturbation_or_an_error_of_ours(text):
    try:
        found = perturb.parse(text)
    except OptionError:
        return
    assert all(isinstance(each, perturb.Perturbation) for each in found)


# Datasets on disk

WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/."), min_size=1, max_size=8
).filter(lambda name: name == name.strip())
ATTRIBUTES = st.dictionaries(
    WORDS.filter(lambda name: name.lower() not in {"units", "calendar", "dtype", "coordinates"}),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.lists(st.floats(allow_nan=False), min_size=2, max_size=3),
    max_size=3,
)  # fmt: skip
TYPES = st.sampled_from(["f8", "f4", "i8", "i4", "u1", "?", "U"])


@st.composite
def datasets(draw):
    """Any Dataset that netCDF can hold as it is."""
    sizes = draw(
        st.dictionaries(WORDS.map("d_{}".format), st.integers(1, 4), min_size=1, max_size=3)
    )
    held = {}
    for name in draw(st.sets(WORDS.map("v_{}".format), min_size=1, max_size=4)):
        dims = draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=2))
        shape, kind = [sizes[dim] for dim in dims], draw(TYPES)
        count = int(np.prod(shape))
        values = draw(st.binary(min_size=8 * count, max_size=8 * count))
        array = np.frombuffer(values, "u1").reshape(count, 8)
        if kind == "U":
            texts = [bytes(row).decode("latin-1").replace("\0", "") for row in array]
            array = np.array(texts, object).reshape(shape)
        elif kind == "?":
            array = (array[:, 0] % 2).astype(bool).reshape(shape)
        else:
            wide = np.ascontiguousarray(array[:, : np.dtype(kind).itemsize])
            array = wide.view(kind).reshape(shape)
        held[name] = (dims, array, draw(ATTRIBUTES))
    return xr.Dataset(held, attrs=draw(ATTRIBUTES))


@FEW
@given(ds=datasets())
def test_a_dataset_comes_back_from_its_file_to_the_last_bit(ds, tmp_path):
    found = results.open_dataset(results.save(ds, tmp_path / "a.nc"))
    assert set(found.variables) == set(ds.variables)
    for name, variable in ds.variables.items():
        there = found.variables[name]
        assert there.dims == variable.dims
        if variable.dtype == object:
            assert there.values.tolist() == variable.values.tolist()
        else:
            assert (there.dtype, there.values.tobytes()) == (
                variable.dtype,
                variable.values.tobytes(),
            )
        assert_same_attributes(there.attrs, variable.attrs)
    assert_same_attributes(found.attrs, ds.attrs)


def assert_same_attributes(found, expected):
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


# Series

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@FEW
@given(
    recorded=st.dictionaries(
        st.integers(0, 10**6), st.dictionaries(WORDS, NUMBERS, max_size=3), min_size=1, max_size=4
    )
)
def test_a_series_says_what_was_recorded(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    writer = SeriesWriter(folder, {"data": {"name": "é", "sha256": "0" * 64}})
    for epoch, metrics in recorded.items():
        writer.record(epoch, {"weight": torch.full((2,), float(epoch))}, metrics)
    series = open_series(folder)
    assert series.epochs == tuple(sorted(recorded))
    assert series.digests().keys() == recorded.keys()
    told = series.manifest
    assert {int(e): entry["metrics"] for e, entry in told["epochs"].items()} == recorded
    assert told["data"] == {"name": "é", "sha256": "0" * 64}
