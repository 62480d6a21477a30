"""Ranges of blocks: which there are, what they are called, and what a Dataset says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope import layers, models
from layerscope.errors import LayerError, OptionError


class Decoder(nn.Module):
    """Embeddings of tokens and positions, blocks, a norm and a head, as language models have."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {"token": nn.Embedding(7, 4), "position": nn.Embedding(5, 4)}
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(blocks)
        )
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        hidden = self.embeddings["token"](tokens) + self.embeddings["position"](places)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.norm(hidden).mean(1))


def spans_of(ds):
    """First block and number of blocks of each row."""
    columns = ds.layer.values, ds.first_block.values, ds.n_blocks.values
    return {str(row): (int(first), int(n)) for row, first, n in zip(*columns, strict=True)}


def swept(model, wanted, view="block", **more):
    torch.manual_seed(0)
    data = torch.randint(7, (6, 5)), torch.randint(2, (6,))
    series = {0: type(model)(3).state_dict(), 3: model.state_dict()}
    kept = {"show_progress": False, "perturbations": ["reinitialize"]} | more
    return layerscope.sweep(model, data, checkpoints=series, layers=wanted, view=view, **kept)


def test_ranges_are_every_run_of_blocks_and_only_of_blocks():
    found = layers.ranges(Decoder(4))
    assert list(found) == [
        "layers.0", "layers.1", "layers.2", "layers.3", "layers.0-1", "layers.1-2", "layers.2-3",
        "layers.0-2", "layers.1-3", "layers.0-3",
    ]  # fmt: skip
    assert found["layers.1-3"] == ["layers.1", "layers.2", "layers.3"]
    assert len(layers.ranges(Decoder(30))) == 465


def test_lengths_restrict_ranges():
    assert list(layers.ranges(Decoder(), 2)) == ["layers.0-1", "layers.1-2"]
    assert next(iter(layers.ranges(Decoder(), (3, 1)))) == "layers.0-2"
    for wrong in (0, 4, [], [1, 9]):
        with pytest.raises(LayerError, match="3 blocks in a row"):
            layers.ranges(Decoder(), wrong)
    with pytest.raises(OptionError, match="lengths"):
        layers.ranges(Decoder(), "2")


def test_cumulative_ranges_grow_from_either_end():
    model = Decoder()
    assert list(layers.cumulative(model)) == ["layers.0", "layers.0-1", "layers.0-2"]
    above = layers.cumulative(model, "above")
    assert list(above) == ["layers.2", "layers.1-2", "layers.0-2"]
    assert above["layers.1-2"] == ["layers.1", "layers.2"]
    with pytest.raises(LayerError, match="below"):
        layers.cumulative(model, "top")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcn-2x4", ["layer1-2", "layer2-3"]),
        ("resnet18", ["s1.1-2", "s1.2-s2.1", "s2.1-2"]),
        ("transformer-4x2", ["block1-2"]),
    ],
)
def test_names_say_what_leads_to_both_ends_once(name, expected):
    assert list(layers.ranges(models.build(name), 2))[:3] == expected


def test_other_views_have_ranges_too():
    net = models.build("resnet18")
    assert list(layers.ranges(net, 2, view="stage")) == ["s1-2", "s2-3", "s3-4"]
    leaves = [row.name for row in layers.find(net, norms="kept")]
    found = layers.ranges(net, 1, view="leaf", norms="kept")
    assert list(found) == leaves


def test_a_dataset_says_which_blocks_a_row_is(tmp_path):
    model = Decoder()
    wanted = layers.ranges(model) | {
        "ends": ["layers.0", "layers.2"],
        "mixed": ["layers.0", "head"],
    }
    ds = swept(model, wanted)
    layerscope.save(ds, tmp_path / "ranges.nc")
    for each in (ds, layerscope.open_dataset(tmp_path / "ranges.nc")):
        assert spans_of(each) == {
            "layers.0": (0, 1), "layers.1": (1, 1), "layers.2": (2, 1), "layers.0-1": (0, 2),
            "layers.1-2": (1, 2), "layers.0-2": (0, 3), "ends": (-1, 0), "mixed": (-1, 0),
            "fullmodel": (-1, 0),
        }  # fmt: skip
    both = layerscope.concat([ds, ds], seeds=[0, 1])
    assert both.first_block.dims == both.n_blocks.dims == ("layer",)


def test_blocks_are_counted_whatever_names_the_rows():
    """A group of one's own, a stage, and single leaves."""
    model = Decoder()
    ds = swept(
        model,
        {"lower": ["layers.0.*", "layers.1.*"], "part": ["layers.0.*", "layers.1.linear1"]},
        "leaf",
    )
    assert ds.n_blocks.sel(layer="lower") == 2
    assert ds.first_block.sel(layer="lower") == 0
    assert ds.n_blocks.sel(layer="part") == 0
    leaves = swept(model, None, "leaf")
    assert (leaves.n_blocks == 0).all()


def test_earlier_datasets_without_blocks_join_newer_ones():
    ds = swept(Decoder(), None)
    joined = layerscope.concat([ds, ds.drop_vars(["first_block", "n_blocks"])], seeds=[0, 1])
    assert "n_blocks" not in joined.coords


def test_distances_of_ranges_are_those_of_their_members():
    ds = swept(model := Decoder(), layers.ranges(model))
    at = ds.distance.sel(epoch=0)
    parts = at.sel(layer=["layers.1", "layers.2"])
    together = at.sel(layer="layers.1-2")
    squares = (parts.sel(norm="l2") ** 2).sum("layer")
    assert np.isclose(together.sel(norm="l2"), squares**0.5, rtol=1e-14)
    assert together.sel(norm="linf") == parts.sel(norm="linf").max()


def test_a_range_is_one_if_its_blocks_are_executed_one_after_the_other():
    class Backwards(Decoder):
        """Runs the last block before the one that is registered before it."""

        def forward(self, tokens):
            hidden = self.embeddings["token"](tokens)
            for at in (0, 2, 1):
                hidden = self.layers[at](hidden)
            return self.head(self.norm(hidden).mean(1))

    model = Backwards()
    ds = swept(model, layers.ranges(model), whole=False)
    assert spans_of(ds) == {
        "layers.0": (0, 1), "layers.2": (1, 1), "layers.1": (2, 1), "layers.1-2": (1, 2),
        "layers.0-1": (-1, 0), "layers.0-2": (0, 3),
    }  # fmt: skip
