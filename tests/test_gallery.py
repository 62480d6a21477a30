"""The gallery: made from manifests alone, and plain about what disagrees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import matplotlib.pyplot as plt
import msgspec
import pytest

from layerscope import experiments
from layerscope.cli import main
from layerscope.errors import OptionError, ResultError
from layerscope.paper import gallery, rules
from layerscope.paper.gallery._markdown import as_markdown
from layerscope.paper.gallery._pages import totals
from layerscope.paper.gallery._runs import Claim

EVIL = "<script>alert(1)</script> | `x` [a](javascript:b) *c* a_b $d$"
CLAIMS = [
    Claim(
        "layer1 is critical", "it is: +40 points, 30 to 47", True, rule="lowest-critical", runs=3
    ),
    Claim("0.07", "0.04, 0.03 to 0.05", False, rule="printed-errors", runs=3, reduced="half"),
    Claim(EVIL, EVIL, None, runs=3),
]
CELL = {"layer": "layer1", "column": "0", "paper": "0.38", "measured": 0.41, "agrees": True}
NUMBERS = [
    {
        "what": "test errors",
        "reduced": "half",
        "cells": [CELL, CELL | {"layer": EVIL, "column": "rand", "agrees": False}],
    }
]
PNG = b"\x89PNG\r\n\x1a\n not much of a picture"


def run(root, name="fcn-mnist", scale="small", files=(), **about):
    folder = root / name / scale
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_bytes(PNG)
    manifest = {
        "experiment": name,
        "scale": scale,
        "parameters": {"network": "fcn-3x256", "epochs": 3, "seeds": 2},
        "data": {"name": "mnist-5k"},
        "seconds": 100.0,
        "training_seconds": [3600.0, 3600.0],
        "command": f"layerscope reproduce {name}",
        "machine": {"device": "cpu (2 threads)"},
        "files": {file: {} for file in files},
    } | about
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def told(tmp_path):
    """A run whose notebook said what it found."""
    claims = [msgspec.to_builtins(claim) for claim in CLAIMS]
    summary = {"finding": EVIL, "claims": claims, "figure": "odd name.png"}
    summary |= {"found": f"short {EVIL}", "comparisons": NUMBERS}
    run(tmp_path / "runs", files=["01 a+b.ipynb", "odd name.png"], summary=summary)
    return tmp_path / "runs"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_summary_stands_as_it_was_told(told):
    (only,) = gallery.read(told)
    assert (only.finding, only.claims) == (EVIL, tuple(CLAIMS))
    assert only.agreement == "1 of 3 agree, 1 disagree, 1 undecided"
    assert only.title == experiments.EXPERIMENTS["fcn-mnist"].title
    assert only.facts["training"] == "2.0 h for the networks swept"
    assert only.facts["seeds"] == "2"


def test_html_answers_plainly_and_escapes_everything(told, tmp_path):
    path = gallery.write(told, tmp_path / "out" / "gallery.html")
    page = Page(path.read_text("utf-8"))
    assert [tag for tag, _ in page.found if tag == "script"] == []
    # Card, sentence, both sides of a claim, and a layer of the printed numbers.
    assert page.text.count(EVIL) == 5
    kinds = [each.get("class") for tag, each in page.found if tag == "span"]
    assert [kind for kind in kinds if kind in ("yes", "no", "open")] == ["yes", "no", "open"]
    assert "(reduced: half)" in page.text
    assert "1 of 2 printed numbers" in page.text
    assert "Why this threshold: The paper's own layers leave a gap" in page.text
    pictures = [each["src"] for tag, each in page.found if tag == "img"]
    assert len(pictures) == 2
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    assert "width" not in dict(page.found)["img"], "of no picture the size is not known"
    links = [each["href"] for tag, each in page.found if tag == "a"]
    assert "#run0" in links
    (notebook,) = (each for each in links if not each.startswith("#"))
    assert (path.parent / unquote(notebook)).is_file()
    known = {each["id"] for _, each in page.found if "id" in each}
    assert {each[1:] for each in links if each.startswith("#")} <= known


def test_html_shows_pictures_at_the_size_of_their_text(tmp_path):
    folder = run(tmp_path, files=["a.png"], summary={"finding": "x", "figure": "a.png"})
    figure = plt.figure(figsize=(4, 2))
    figure.savefig(folder / "a.png", dpi=300)
    plt.close(figure)
    page = Page(gallery.write(tmp_path, tmp_path / "gallery.html").read_text("utf-8"))
    small, whole = (each for tag, each in page.found if tag == "img")
    assert whole["width"] == "540"  # of 1200
    assert len(small["src"]) < len(whole["src"])


def test_markdown_shows_figures_beside_it_and_escapes_everything(told):
    path = gallery.write(told, told / "GALLERY.md")
    text = path.read_text("utf-8")
    small, picture = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert picture == "fcn-mnist/small/odd%20name.png"
    assert small == "thumbnails/fcn-mnist-small.png"
    assert (told / small).is_file()
    assert (told / unquote(picture)).is_file()
    assert "<script" not in text
    assert r"\| \`x\` \[a\](javascript:b) \*c\* a\_b \$d\$" in text
    # Every row of a table has as many cells as its header.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert re.findall(r"\| \*\*(\w+)\*\* \|$", text, re.MULTILINE) == [
        "agrees",
        "disagrees",
        "undecided",
    ]
    assert "0.38 / 0.410" in text
    assert "0.38 / **0.410**" in text


def test_a_run_without_a_summary_points_to_its_notebook(tmp_path):
    run(tmp_path, files=["01.ipynb"], summary=None)
    (only,) = gallery.read(tmp_path)
    assert only.finding == "This run left no summary; its notebook says what came out."
    assert only.agreement == "no statements of the paper to compare with"
    assert only.notebook.name == "01.ipynb"


def test_a_run_with_a_table_alone_shows_it(repository):
    (recipes,) = (
        each
        for each in gallery.read(repository / "papermill_runs")
        if each.name == "fcn-mnist-recipe"
    )
    assert "0.01 with the initialiser he-normal comes closest" in recipes.finding
    assert recipes.rows[0][:3] == ("lr", "initializer", "final")
    assert recipes.rows[1][:2] == ("", "the paper")
    assert recipes.agreement == "no statements of the paper to compare with"


def test_the_committed_gallery_is_what_the_command_makes(repository, tmp_path):
    runs = repository / "papermill_runs"
    kept = (runs / "GALLERY.md").read_text("utf-8")
    # Runs that somebody made here, such as the demo's, are not committed.
    known = subprocess.run(
        ["git", "ls-files", "papermill_runs/*/*/manifest.json"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    if not known.stdout:
        pytest.skip("only a git checkout tells which runs are committed")
    for name in known.stdout.split():
        folder = (repository / name).parent
        shutil.copytree(folder, tmp_path / "runs" / folder.relative_to(runs))
    made = gallery.write(tmp_path / "runs", tmp_path / "runs" / "GALLERY.md").read_text("utf-8")
    # Links are relative to the page, which lies elsewhere here.
    plain = re.compile(r"\]\([^)#]*\)")
    assert plain.sub("]()", made) == plain.sub("]()", kept), (
        "runs have changed: layerscope gallery papermill_runs -o papermill_runs/GALLERY.md"
    )


def test_one_run_decides_nothing_and_is_not_counted(tmp_path):
    claims = [
        {"paper": name, "measured": "m", "agrees": None, "runs": 1, "holds": holds}
        for name, holds in (("a", True), ("b", False))
    ]
    run(tmp_path, summary={"finding": "x", "claims": claims})
    (only,) = gallery.read(tmp_path)
    assert only.agreement == "one run decides nothing; 1 of 2 on the paper's side"
    page = Page(gallery.write(tmp_path, tmp_path / "gallery.html").read_text("utf-8"))
    assert "Of 0 tests of the paper's statements" in page.text


def test_counts_on_the_cards_add_up_to_those_at_the_head(repository):
    runs = gallery.read(repository / "papermill_runs")
    text = as_markdown(runs, repository / "papermill_runs").partition("## Run by run")[0]
    head, counted = totals(runs), re.findall(r"\*(statements: [^*]+)\*", text)
    for word in ("agree", "disagree", "undecided"):
        found = [re.findall(rf"(\d+) {word}", each) for each in counted]
        assert f"{sum(int(count) for (count,) in filter(None, found))} " in head, word
    printed = re.search(r"(\d+) of (\d+) printed numbers agree, beside (\d+) with", head).groups()
    cells = re.findall(r"printed numbers: (\d+) of (\d+) agree(?:, (\d+) more)?", text)
    added = [sum(int(count or 0) for count in each) for each in zip(*cells, strict=True)]
    assert added == list(map(int, printed))


def test_rules_that_are_younger_than_a_run_are_told(tmp_path):
    claims = [{"paper": "a", "measured": "m", "agrees": True, "runs": 3, "rule": rule}
              for rule in ("lowest-critical", "printed-errors", "")]  # fmt: skip
    fixed = rules.RULES["lowest-critical"].fixed
    for scale, day in (("small", "2020-01-01"), ("paper", fixed)):
        summary = {"finding": "x", "claims": claims}
        run(tmp_path, scale=scale, summary=summary, started=f"{day}T10:00:00")
    assert {each.scale: each.later for each in gallery.read(tmp_path)} == {"small": 1, "paper": 0}
    assert "Of the 4 tests 1 are by rules that were fixed when" in totals(gallery.read(tmp_path))


def test_headings_are_words_and_runs_are_grouped_by_question(repository, tmp_path):
    runs = gallery.read(repository / "papermill_runs")
    assert not [run.subject for run in runs if re.search(r"[+=]|-w0|[0-9a-f]{8}", run.subject)]
    path = gallery.write(repository / "papermill_runs", tmp_path / "gallery.html")
    page = Page(path.read_text("utf-8"))
    assert len([1 for tag, _ in page.found if tag == "article"]) == len(runs)
    assert page.text.index("where training began?") < page.text.index(
        "robust layers matter together"
    )
    assert not re.search(r"(src|href)=\"(https?:)?//", path.read_text("utf-8")), "nothing is loaded"


def test_runs_come_in_the_papers_order_and_drafts_not_at_all(tmp_path):
    for name, scale in (("zoo", "small"), ("fcn-mnist-recipe", "small"), ("fcn-mnist", "small")):
        run(tmp_path, name, scale)
    run(tmp_path, "fcn-mnist", ".small.12.tmp")
    names = [each.name for each in gallery.read(tmp_path)]
    assert names == ["fcn-mnist", "fcn-mnist-recipe", "zoo"]


def test_files_outside_the_run_are_left_alone(tmp_path):
    (tmp_path / "secret.png").write_bytes(PNG)
    summary = {"finding": "x", "figure": "secret.png", "claims": []}
    folder = run(tmp_path / "runs", summary=summary, files=[])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"../../../secret.png": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match=r"manifest\.json .* names '\.\./\.\./\.\./secret\.png'"):
        gallery.read(tmp_path / "runs")


def test_links_out_of_the_run_are_left_alone(tmp_path):
    (tmp_path / "secret.png").write_bytes(PNG)
    summary = {"finding": "x", "figure": "a.png"}
    folder = run(tmp_path / "runs", summary=summary, files=["a.png"])
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    (only,) = gallery.read(tmp_path / "runs")
    assert only.figure is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"experiment": "x"}', "[" * 100_000, b"\xff", b"\0", b""]
)
def test_a_damaged_manifest_is_named(tmp_path, content):
    path = run(tmp_path) / "manifest.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ResultError, match=r"manifest\.json is not the manifest of a run"):
        gallery.read(tmp_path)


@pytest.mark.parametrize(
    "about",
    [
        {"experiment": []},
        {"parameters": 3},
        {"files": ["a.png"]},
        {"files": {"a\0b": {}}},
        {"files": {"/etc/passwd": {}}},
        {"files": {"x" * 300: {}}},
        {"files": {"a.png": {"sha256": 3}}},
        {"seconds": "100"},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"training_seconds": [None]},
        {"data": "mnist"},
        {"machine": 3},
        {"command": {}},
        {"summary": "damaged"},
        {"summary": {"claims": [{"paper": "x"}]}},
        {"summary": {"claims": [{"paper": "x", "measured": "y", "agrees": "no"}]}},
        {"summary": {"figure": 3}},
        {"summary": {"finding": []}},
    ],
)
def test_a_manifest_with_a_wrong_type_is_named(tmp_path, about):
    path = run(tmp_path) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | about))
    with pytest.raises(ResultError, match=r"manifest\.json is not the manifest of a run"):
        gallery.read(tmp_path)


@pytest.mark.parametrize("table", [
    b"", b"a,b\n\xff\xfe,1\n", b'a,b\n"1,2\n', b"a,b\n1,2,3,4\n5\n6,7,8,9,10\n",
    b",".join([b"a"] * 100_000), b"a,b\n" + b"1,2\n" * 1_000_000,
])  # fmt: skip
def test_a_damaged_table_is_named(tmp_path, table):
    folder = run(tmp_path, files=["a.csv"])
    (folder / "a.csv").write_bytes(table)
    with pytest.raises(ResultError, match=r"a\.csv"):
        gallery.read(tmp_path)


def test_pipes_are_not_waited_for(tmp_path):
    folder = run(tmp_path, files=["a.png"], summary={"figure": "a.png"})
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    (only,) = gallery.read(tmp_path)
    assert only.figure is None
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ResultError, match=r"manifest\.json: it is a named pipe"):
        gallery.read(tmp_path)


def test_no_runs_and_other_kinds_of_page_are_refused(tmp_path, told, capsys):
    with pytest.raises(ResultError, match=r"there is no finished run.*layerscope reproduce NAME"):
        gallery.read(tmp_path / "none")
    with pytest.raises(OptionError, match=r"gallery\.pdf, with .* '\.pdf'.*\.html or \.md"):
        gallery.write(told, tmp_path / "gallery.pdf")
    assert main(["gallery", str(told)]) == 0
    assert capsys.readouterr().out.split() == [
        str(told / "gallery.html"),
        str(told / "GALLERY.md"),
    ]
