"""The explorer's state as one figure: strip, numbers and heat map, as files for a paper."""

from __future__ import annotations

import copy
import io
import threading

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import nn

from layerscope import plots, results, testing
from layerscope.core.session import changes
from layerscope.jupyter import (
    LayerExplorer,
    _drawing as drawing,
    _figure as figure,
    _words as words,
)
from layerscope.jupyter._history import Scene
from layerscope.jupyter._strip import Strip

ACCENT = "#b83c0c"


def drawn(explorer):
    scene, ds = explorer._history.now, explorer._swept()
    strip = explorer.controls.strip
    return figure.of_state("net", scene, strip, explorer.estimate, ds, "error")


def written(picture):
    return [text.get_text() for text in picture.texts]


def boxes(picture):
    """Of the strip, from left to right: colour, and whether it is marked as changed."""
    there = sorted((each for each in picture.artists if hasattr(each, "get_hatch")), key=left)
    return [(to_hex(box.get_facecolor()), box.get_hatch() is not None) for box in there]


def left(box):
    return box.get_x()


def frames(picture):
    """Cells of the heat map that are framed, (column, row) counted from the lower left."""
    patches = picture.axes[0].patches
    framed = [p for p in patches if p.get_edgecolor() and to_hex(p.get_edgecolor()) == ACCENT]
    return sorted((p.get_x() + 0.5, p.get_y() + 0.5) for p in framed)


def test_the_figure_shows_what_the_explorer_shows(explorer):
    explorer.controls.start.click()
    explorer.state = {"layer1": ("reinitialize", 0), "layer3": "rerandomize"}
    assert explorer.wait(120)
    picture = drawn(explorer)
    shown = explorer.controls.strip.blocks
    assert boxes(picture) == [(block["colour"], block["name"] != "layer2") for block in shown]
    said = written(picture)
    assert {"layer1", "layer2", "layer3", "initial", "re-randomised", "e0", "R"} <= set(said)
    assert "layer1 initial, layer3 re-randomised" in said
    for reading in words.readings(explorer.estimate):
        assert set(reading) <= {*said, ""}
    assert words.coverage(explorer.estimate) in said
    # Columns are rand, 0, 1, 2; rows upwards the whole network, layer3, layer2, layer1.
    assert frames(picture) == [(0.0, 1.0), (1.0, 3.0)]
    assert "framed" in picture.axes[0].get_xlabel()
    assert picture.get_label() == "net: layer1 initial, layer3 re-randomised"
    assert not plt.get_fignums()


def test_numbers_are_those_of_the_estimate(explorer):
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(60)
    estimate = explorer.estimate
    error, loss = words.readings(estimate)
    lower, upper = estimate.change_interval("error")
    assert error.value == f"{100 * estimate.mean('error'):.2f} %"
    assert error.change == f"{100 * estimate.change('error'):+.2f} points".replace("-", "−")
    assert error.change_interval == f"{100 * lower:+.2f} to {100 * upper:+.2f}".replace("-", "−")
    assert loss.change == f"{estimate.change('loss'):+.3g}".replace("-", "−")
    assert loss.interval == "{:.4g} to {:.4g}".format(*estimate.interval("loss"))
    moved = len(estimate.changed())
    assert words.coverage(estimate) == (
        f"over 125 examples; {moved} of them ({100 * moved / 125:.1f} %) are predicted otherwise"
    )


def test_before_a_sweep_there_is_no_heat_map(explorer):
    explorer.state = {"layer2": "zero"}
    assert explorer.wait(60)
    picture = drawn(explorer)
    assert not picture.axes
    assert "set to zero" in written(picture)
    assert [changed for _, changed in boxes(picture)] == [False, True, False]


def test_a_dataset_alone_has_no_numbers():
    explorer = LayerExplorer(testing.dataset(layers=4))
    explorer.state = {"layer3": ("reinitialize", 8), "layer4": "zero"}
    picture = drawn(explorer)
    assert frames(picture) == [(5.0, 2.0)]  # no column is called zero
    assert "against trained" not in written(picture)
    assert any(" with that layer alone reset to 0" in text for text in written(picture))
    explorer.close()


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF-")]
)
def test_a_saved_state_is_the_same_every_time(explorer, tmp_path, suffix, magic):
    explorer.controls.start.click()
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(120)
    explorer.controls.path.value = str(tmp_path / f"state{suffix}")
    explorer.controls.save.click()
    assert explorer.wait(60)
    saved = explorer.controls.saved
    assert (saved.kind, saved.path) == ("info", str(tmp_path / f"state{suffix}"))
    assert saved.text == f"Saved {saved.path}"
    content = (tmp_path / f"state{suffix}").read_bytes()
    assert content.startswith(magic)
    explorer.save_figure(tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == content


def test_what_is_saved_in_the_background_is_what_was_shown_then(explorer, tmp_path, monkeypatch):
    """And the Dataset and the page as well; where one can't be written, that is said."""
    parts, held = explorer.controls, threading.Event()
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda *a, **k: (held.wait(60), save(*a, **k))[1])
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(120)
    parts.path.value = str(tmp_path / "state.png")
    parts.save.click()
    explorer.state = {}  # is answered meanwhile
    assert explorer._worker.wait(60)
    assert (parts.saved.kind, parts.saved.path) == ("busy", "")
    held.set()
    assert explorer.wait(60)
    explorer.state = {"layer1": ("reinitialize", 0)}
    assert explorer.wait(60)
    explorer.save_figure(tmp_path / "again.png")
    assert (tmp_path / "state.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    parts.store.click()
    assert "no Dataset yet" in parts.status.text
    explorer.keep("one")
    parts.store.click()
    parts.export.click()
    assert explorer.wait(60)
    assert parts.saved.path == str(tmp_path / "state.html")
    assert list(results.open_dataset(tmp_path / "state.nc")["scenario"].values) == ["one"]
    parts.path.value = str(tmp_path / "none" / "\0")
    parts.export.click()
    assert explorer.wait(60)
    assert (parts.saved.kind, parts.saved.path) == ("error", "")
    assert "is not saved" in parts.saved.text


def test_a_saved_state_is_as_wide_as_paper(explorer, tmp_path):
    explorer.controls.start.click()
    assert explorer.wait(120)
    explorer.save_figure(tmp_path / "page.png", width="page")
    with Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())) as image:
        assert abs(image.width / 300 - 6.75) < 0.1


def test_names_from_files_are_drawn_as_text(tmp_path):
    evil = "<img src=x onerror=alert(1)> $x"
    net = nn.Sequential()
    net.add_module(evil, nn.Linear(4, 2))
    states = {0: copy.deepcopy(net.state_dict()), 1: net.state_dict()}
    explorer = LayerExplorer(net, (torch.randn(8, 4), torch.arange(8) % 2), states, device="cpu")
    explorer.state = {evil: ("reinitialize", 0)}
    assert explorer.wait(60)
    explorer.save_figure(tmp_path / "state.html")
    page = (tmp_path / "state.html").read_text("utf-8")
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    assert page.count("<img") == page.count("data:image/svg+xml;base64,") == 1
    explorer.save_figure(tmp_path / "state.svg")
    explorer.close()


@pytest.mark.parametrize("layers", [1, 12, 40, 300])
def test_any_number_of_layers_fits_a_page(layers):
    ds = testing.dataset(layers=layers)
    explorer = LayerExplorer(ds)
    scene = Scene("leaf", changes({"layer1": ("reinitialize", 0)}))
    info = results.metric(None, "error")
    blocks = drawing.blocks(explorer._layers(), scene.state, None, {}, info)
    picture = figure.of_state("net", scene, Strip(blocks=blocks), None, None, "error")
    strip = [each for each in picture.artists if hasattr(each, "get_hatch")]
    wide = picture.get_figwidth()
    ends = np.array([[box.get_x(), box.get_x() + box.get_width()] for box in strip]) * wide
    assert len(strip) == layers
    assert (ends[:, 1] > ends[:, 0]).all()
    assert (ends[1:, 0] >= ends[:-1, 1]).all()  # side by side
    assert ends.max() <= 6.75
    assert ("layer1" in written(picture)) == (layers < 300)
    explorer.close()


def test_the_heat_map_is_coloured_by_what_the_page_is(explorer):
    explorer.sweep()
    assert explorer.wait(120)
    for by in ("damage", "value"):
        explorer.controls.colour.value = by
        picture = figure.of_state(
            "net", explorer._history.now, explorer.controls.strip, explorer.estimate,
            explorer._swept(), "error", by=by,
        )  # fmt: skip
        bar = picture.axes[1].get_ylabel() + picture.axes[1].get_xlabel()
        assert ("damage" in bar) == (by == "damage")
        cells = explorer.controls.grid.cells
        drawn_ = [text.get_text().replace("0.", ".") for text in picture.axes[0].texts]
        shown = [cell["text"].replace("0.", ".") for row in cells for cell in row]
        assert sorted(drawn_) == sorted(shown)


def test_kept_states_stand_in_the_figure(explorer, tmp_path):
    for name, state in {"none": {}, "two $reset$": {"layer1": "zero", "layer2": "zero"}}.items():
        explorer.state = state
        assert explorer.wait(60)
        explorer.keep(name)
    rows_ = explorer.controls.kept.rows
    picture = figure.of_state(
        "net", explorer._history.now, explorer.controls.strip, explorer.estimate, None, "error",
        kept=rows_,
    )  # fmt: skip
    said = written(picture)
    for row in rows_:
        assert {row["value"], row["change"]} <= set(said)
    assert {"kept states", "none", r"two \$reset\$"} <= set(said)
    bars = [each for each in picture.artists if hasattr(each, "get_hatch")
            and to_hex(each.get_facecolor()) == "#2b8a9b"]  # fmt: skip
    wide = sorted(bar.get_width() for bar in bars)
    none, two = (row["share"] for row in rows_)
    assert wide[0] / wide[1] == pytest.approx(min(none, two) / max(none, two))
    explorer.save_figure(tmp_path / "kept.png")
    assert (tmp_path / "kept.png").stat().st_size > 10_000
