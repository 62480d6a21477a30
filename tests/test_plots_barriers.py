"""The figure of barriers: every layer has its curve, every barrier its mark, at its block."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
import xarray as xr

from layerscope import plots, stats, testing
from layerscope.errors import OptionError, ResultError


@pytest.fixture(scope="module")
def ds():
    """Four blocks, alone and cumulated, at three places on the way to another network."""
    rows = [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (0, 3), (2, 2), (1, 3), (0, 4), (-1, 0)]
    names = [f"blocks.{first}-{first + n - 1}" for first, n in rows[:-1]] + ["fullmodel"]
    found = testing.dataset(layers=9, epochs=(0, 1, 2), draws=1)
    found = found.isel(perturbation=[0], draw=[0], epoch=found.epoch.values == 0)
    found = found.assign_coords(
        layer=names, first_block=("layer", [r[0] for r in rows]),
        n_blocks=("layer", [r[1] for r in rows]),
    )  # fmt: skip
    heights = np.linspace(0.1, 0.5, 10)[:, None, None, None, None]

    def at(alpha, name):
        value = found.value * 0 + found.baseline + heights * (alpha if alpha < 1 else 0.5)
        return found.assign(value=value).drop_vars(
            [n for n in found.data_vars if n not in ("value", "baseline", "standard_error")]
        ).assign_coords(
            perturbation=[name], alpha=("perturbation", [alpha]), towards=("perturbation", ["b"])
        )  # fmt: skip

    return xr.concat(
        [at(a, f"blend('b', {a})") for a in (0.5, 0.9, 1.0)],
        "perturbation",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )


def test_each_barrier_stands_at_its_block(ds):
    layout = plots.barriers(ds, "error")
    assert isinstance(layout, hv.Layout)
    table = stats.barrier(ds, "error").set_index("layer")
    right = layout.values()[1]
    marks = {each.label: each.dframe() for each in right.values() if isinstance(each, hv.Scatter)}
    assert set(marks) == {"one at a time", "all from below", "all from above"}
    for label, rows in {
        "one at a time": ["blocks.0-0", "blocks.1-1", "blocks.2-2", "blocks.3-3"],
        "all from below": ["blocks.0-0", "blocks.0-1", "blocks.0-2", "blocks.0-3"],
        "all from above": ["blocks.0-3", "blocks.1-3", "blocks.2-3", "blocks.3-3"],
    }.items():
        frame = marks[label]
        assert np.round(frame["place"]).tolist() == [0, 1, 2, 3]
        assert frame["barrier"].tolist() == table.loc[rows, "barrier"].tolist()
        assert frame["hover layer"].tolist() == rows


def test_each_layer_has_its_way_and_the_whole_network_too(ds):
    left = plots.barriers(ds, "error").values()[0]
    curves = [each for each in left.values() if isinstance(each, hv.Curve)]
    assert len(curves) == 5
    assert all(each.dframe()["alpha"].tolist() == [0.0, 0.5, 0.9, 1.0] for each in curves)
    assert all(each.dframe()["worse"].iloc[0] == 0 for each in curves)


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_barriers_are_drawn_by_both_backends(ds, suffix, tmp_path):
    saved = plots.save(plots.barriers(ds, "error"), tmp_path / f"barriers.{suffix}")
    assert saved.stat().st_size > 10_000


def test_barriers_say_what_they_lack(ds):
    with pytest.raises(OptionError, match="other network"):
        plots.barriers(ds, "error", towards="c")
    with pytest.raises(ResultError, match=r"perturb\.blend"):
        plots.barriers(ds.assign_coords(towards=("perturbation", [""] * 3)), "error")
