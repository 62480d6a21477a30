"""What is recorded stays, what is half-written does not count, and no sweep takes another's."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from layerscope import testing
from layerscope.base import owners
from layerscope.core.sweep._recorded import Recorded
from layerscope.core.sweep._store import Store
from layerscope.errors import ResultError
from layerscope.results._meaning import fill_in

IDENTITY = {"seed": 0, "layers": ["a", "b"], "data": {"sha256": "ab", "examples": 3}}


def arrays(number: float = 0.1 + 0.2) -> dict[str, np.ndarray]:
    return {
        "keys": np.array(["k1", "k2"]),
        "tally/loss": np.array([[3, number, 1e-300], [2, np.inf, np.nan]]),
    }


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and one[key].tobytes() == other[key].tobytes()
        for key in one
    )


def test_a_part_survives_bit_for_bit_and_the_first_writer_wins(tmp_path):
    parts = Store(tmp_path / "new" / "sweep", IDENTITY).parts(10)
    assert parts.read("p") is None
    assert not parts.has("p")
    parts.write("p", arrays())
    parts.write("p", arrays(7.0))
    again = Store(tmp_path / "new" / "sweep", IDENTITY).parts(10)
    assert same(again.read("p"), arrays())
    assert len(again) == 1
    # Another batch size is another way of cutting the work.
    assert Store(tmp_path / "new" / "sweep", IDENTITY).parts(5).read("p") is None


@pytest.mark.parametrize("records", [False, True])
def test_of_two_sweeps_that_begin_together_one_is_refused(tmp_path, monkeypatch, records):
    """Also where the other one comes between the first look at the folder and the last."""
    require_own, others = Store._require_own, []

    def meanwhile(self, name):
        if not others:
            others.append(None)
            others.append(Store(tmp_path, {**IDENTITY, "seed": 1}))
            if records:
                others[1].parts(10).write("p", arrays())
        require_own(self, name)

    monkeypatch.setattr(Store, "_require_own", meanwhile)
    with pytest.raises(ResultError, match="belongs to another sweep: seed"):
        Store(tmp_path, IDENTITY)


def test_the_same_sweep_in_another_order_of_keys_is_the_same(tmp_path):
    Store(tmp_path, IDENTITY)
    Store(tmp_path, {**dict(reversed(IDENTITY.items())), "layers": ("a", "b")})


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({**IDENTITY, "seed": 1}, r"seed \(1 here, 0 there\) differ"),
        ({**IDENTITY, "data": {"sha256": "ac", "examples": 3}}, "data differ"),
        ({**IDENTITY, "layers": ["b", "a"], "seed": 1}, r"layers, seed \(1 here, 0 there\) differ"),
        ({"seed": 0, "layers": ["a", "b"]}, "data differ"),
        ({**IDENTITY, "epochs": [1]}, r"epochs \(1 here, none there\) differ"),
    ],
)
def test_a_folder_of_another_sweep_is_refused_naming_what_differs(tmp_path, other, named):
    Store(tmp_path, IDENTITY).parts(1).write("p", arrays())
    with pytest.raises(ResultError, match=rf"belongs to another sweep: {named}.*--out"):
        Store(tmp_path, other)
    assert same(Store(tmp_path, IDENTITY).parts(1).read("p"), arrays())


@pytest.mark.parametrize(
    ("mine", "theirs", "advice"),
    [
        ({"dtype": "bfloat16"}, {"dtype": ""}, "To go on with that one, give dtype=None."),
        (
            {"arithmetic": {"matmul precision": "high", "torch.backends.fp32_precision": "tf32"}},
            {"arithmetic": {"matmul precision": "highest", "torch.backends.fp32_precision": ""}},
            "run torch.set_float32_matmul_precision('highest') first.",
        ),
        ({"threads": 1, "seed": 2}, {"threads": 2}, "_threads(2) first, and give seed=0."),
        (
            {"arithmetic": {"torch.backends.a.b": "True", "deterministic algorithms": "on"}},
            {"arithmetic": {"torch.backends.a.b": "False", "deterministic algorithms": "off"}},
            "run torch.use_deterministic_algorithms(False); torch.backends.a.b = False",
        ),
        # Whoever has another processor, other data or code of his own can't do anything.
        ({"arithmetic": {"processor maker": "amd"}}, {"arithmetic": {"processor maker": "x"}}, ""),
        ({"seed": 1, "metric_code": {"own": "ab"}}, {"metric_code": {}}, ""),
    ],
)  # fmt: skip
def test_it_is_said_with_what_the_same_call_goes_on(tmp_path, mine, theirs, advice):
    Store(tmp_path, IDENTITY | theirs)
    with pytest.raises(ResultError) as refused:
        Store(tmp_path, IDENTITY | mine)
    assert advice in str(refused.value)
    assert ("To go on" in str(refused.value)) == bool(advice)
    assert "hoose another folder" in str(refused.value)


def test_a_full_disk_says_what_is_safe_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    store = Store(tmp_path, IDENTITY)
    store.parts(1).write("p", arrays())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultError, match="No space left on device") as stop:
        store.parts(1).write("q", arrays())
    assert stop.value.__notes__ == [f"1 finished parts are safe in {tmp_path}."]
    monkeypatch.undo()
    assert store.parts(1).read("q") is None
    assert sorted(path.name for path in (tmp_path / "parts-1").iterdir()) == ["p.npz"]


def test_old_strays_are_swept_and_young_ones_left_to_their_writer(tmp_path):
    folder = tmp_path / "parts-1"
    Store(tmp_path, IDENTITY).parts(1).write("p", arrays())
    here = owners.Owner.here()
    elsewhere = replace(here, boot="0" * 8, machine="1" * 8)
    drafts = [
        f".q.npz.{owner}.{of}.tmp" for owner in (here, elsewhere) for of in ("a" * 6, "b" * 6)
    ]
    drafts.append(f".q.npz.{replace(here, start=here.start - 1)}.abcdef.tmp")
    for name, age in zip(drafts, (3600, 5, 3600, 5, 5), strict=True):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    Store(tmp_path, IDENTITY).parts(1)
    # Those of a process that runs, and the young one of a process that can't be seen from here.
    kept = [drafts[0], drafts[1], drafts[3], "p.npz"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_part_is_moved_aside_and_counted(tmp_path, damage):
    parts = Store(tmp_path, IDENTITY).parts(1)
    parts.write("p", arrays())
    path = tmp_path / "parts-1" / "p.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    half = len(content) // 2
    path.write_bytes({"cut": content[:half], "flipped": content, "empty": b""}[damage])
    assert parts.read("p") is None
    assert parts.damaged == ["p"]
    parts.write("p", arrays())
    assert same(parts.read("p"), arrays())


def test_a_place_that_can_not_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "sweep"):
        with pytest.raises(ResultError, match=rf"can't write {folder}.*Choose another folder"):
            Store(folder, IDENTITY)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "\udcff"])
def test_an_identity_that_can_not_be_read_is_refused(tmp_path, content):
    (tmp_path / "sweep.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ResultError, match=r"sweep\.json is damaged or not layerscope's.*--out"):
        Store(tmp_path, IDENTITY)


def test_the_finished_dataset_stays_and_what_it_was_made_of_goes(tmp_path):
    store = Store(tmp_path, IDENTITY)
    assert store.finished() is None
    assert not store.is_finished()
    store.parts(1).write("p", arrays())
    # With what its metrics mean, which is filled in when it is opened.
    ds = fill_in(testing.dataset(layers=2, epochs=(0, 1), draws=2))
    ds = ds.assign_attrs(identity=store.digest)
    store.show(ds)
    assert store.finish(ds) == tmp_path / "sweep.nc"
    assert Store(tmp_path, IDENTITY).finished().identical(ds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.nc"]
    assert json.loads((tmp_path / "sweep.json").read_text()) == IDENTITY
    # A kill between writing the Dataset and removing the rest is put right at the next call.
    store.parts(1).write("p", arrays())
    assert store.finished().identical(ds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.nc"]


# Claims


def test_a_claim_keeps_others_away_until_it_is_given_back(tmp_path):
    one, other = (Store(tmp_path, IDENTITY).parts(1) for _ in range(2))
    assert one.free("p")
    with one.claim("p") as mine:
        assert mine
        assert not other.free("p")
        with other.claim("p") as theirs:
            assert not theirs
        assert not other.free("p")  # a refused claim takes nothing away
        assert other.free("q")
    with pytest.raises(KeyboardInterrupt), one.claim("p"):
        raise KeyboardInterrupt
    assert other.free("p")
    with other.claim("p") as theirs:
        assert theirs


def test_a_claim_is_known_whatever_its_folder_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store(tmp_path, IDENTITY).parts(1).claim("p"):
        assert not Store(Path(), IDENTITY).parts(1).free("p")


def test_a_claim_that_could_not_be_removed_keeps_its_own_process_from_nothing(
    tmp_path, monkeypatch
):
    def fails(*_, **__):
        raise OSError(errno.EROFS, "read-only")

    parts = Store(tmp_path, IDENTITY).parts(1)
    with monkeypatch.context() as patch, parts.claim("p"):
        patch.setattr(Path, "unlink", fails)
    assert (tmp_path / "parts-1" / "p.claim").is_symlink()
    assert parts.free("p")
    with parts.claim("p") as mine:
        assert mine


def _claim_and_die(folder) -> None:
    with Store(folder, IDENTITY).parts(1).claim("p"):
        os._exit(9)


def test_the_claim_of_a_process_that_died_is_nobodys(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(tmp_path,))
    child.start()
    child.join()
    assert (tmp_path / "parts-1" / "p.claim").is_symlink()
    parts = Store(tmp_path, IDENTITY).parts(1)
    assert parts.free("p")
    with parts.claim("p") as mine:
        assert mine


HERE = owners.Owner.here()
PARENT = replace(HERE, pid=os.getppid(), start=owners._start_of(str(os.getppid())) or 0)
LATER = replace(HERE, start=HERE.start + 1)
ELSEWHERE = replace(HERE, boot="0" * 8, machine="1" * 8)
CONTAINER = replace(HERE, space="0" * 8)


@pytest.mark.parametrize(
    ("mark", "age"),
    [
        ("", 0),
        ("what is this?", 0),
        ("123@a-host", 0),
        pytest.param(f"{HERE}x", 0, id="longer"),
        (LATER, 0),  # another process got its number
        (replace(HERE, pid=2**22 + 1), 0),  # more than there are
        (replace(HERE, pid=10**9), 0),
        (replace(HERE, boot="0" * 8), 10**8),  # this machine, before it was started
        (CONTAINER, 31),
        (PARENT, 31),  # a process that is stopped
        (HERE, 0),  # given back by this process, and could not be removed
        (ELSEWHERE, 601),
    ],
)
def test_nobody_waits_for_a_claim_whose_process_is_gone(tmp_path, mark, age):
    parts = Store(tmp_path, IDENTITY).parts(1)
    path = tmp_path / "parts-1" / "p.claim"
    path.parent.mkdir()
    path.symlink_to(str(mark) or " ")
    os.utime(path, (time.time() - age,) * 2, follow_symlinks=False)
    assert parts.free("p")
    with parts.claim("p") as mine:
        assert mine
        assert str(path.readlink()) == str(HERE)
    assert not path.is_symlink()


def test_who_was_not_waited_for_by_its_parent_is_gone_as_well(tmp_path):
    pid = os.fork()
    if pid == 0:
        with Store(tmp_path, IDENTITY).parts(1).claim("p"):
            os._exit(9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert Store(tmp_path, IDENTITY).parts(1).free("p")
    os.waitpid(pid, 0)


@pytest.mark.parametrize("mark", [PARENT, CONTAINER, ELSEWHERE], ids=["here", "container", "far"])
def test_a_claim_lasts_while_it_is_renewed(tmp_path, mark):
    parts = Store(tmp_path, IDENTITY).parts(1)
    path = tmp_path / "parts-1" / "p.claim"
    path.parent.mkdir()
    path.symlink_to(str(mark))
    assert not parts.free("p")
    with parts.claim("p") as mine:
        assert not mine
    assert str(path.readlink()) == str(mark)


def test_a_claim_from_elsewhere_is_nobodys_once_it_is_silent_by_the_clock_here(
    tmp_path, monkeypatch
):
    """Clocks of two machines differ; that one is ahead makes nobody wait, or be passed over."""
    path = tmp_path / "parts-1" / "p.claim"
    path.parent.mkdir()
    path.symlink_to(str(ELSEWHERE))
    os.utime(path, (time.time() + 300,) * 2, follow_symlinks=False)
    parts, now = Store(tmp_path, IDENTITY).parts(1), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 80)
    assert not parts.free("p")
    os.utime(path, (time.time() + 380,) * 2, follow_symlinks=False)
    monkeypatch.setattr(time, "monotonic", lambda: now + 160)
    assert not parts.free("p")
    monkeypatch.setattr(time, "monotonic", lambda: now + 251)
    assert parts.free("p")


def test_what_is_claimed_is_touched_as_long_as_it_is(tmp_path):
    parts = Store(tmp_path, IDENTITY).parts(1)
    path = tmp_path / "parts-1" / "p.claim"
    with parts.claim("p"):
        os.utime(path, (time.time() - 25,) * 2, follow_symlinks=False)
        owners._HEART.touch()
        assert time.time() - path.lstat().st_mtime < 20
    assert path not in owners._HEART._paths


def test_what_is_no_claim_stays_and_nobody_waits_for_it(tmp_path):
    parts = Store(tmp_path, IDENTITY).parts(1)
    path = tmp_path / "parts-1" / "p.claim"
    path.mkdir(parents=True)
    assert parts.free("p")
    with parts.claim("p") as mine:
        assert mine
    assert path.is_dir()


class TwoHandles(RuleBasedStateMachine):
    """Two processes' view of one folder, against a plain dictionary."""

    names = st.sampled_from(["a", "b", "c"])

    @initialize()
    def open(self):

        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[str, float] = {}
        self.reopen(0)
        self.reopen(1)

    @rule(which=st.integers(0, 1))
    def reopen(self, which):
        self.handles = getattr(self, "handles", {})
        self.handles[which] = Store(Path(self.folder.name), IDENTITY).parts(1)

    @rule(which=st.integers(0, 1), name=names, number=st.floats(allow_nan=False))
    def write(self, which, name, number):
        self.handles[which].write(name, arrays(number))
        self.model.setdefault(name, number)

    @rule(which=st.integers(0, 1), name=names)
    def read(self, which, name):
        found = self.handles[which].read(name)
        if name in self.model:
            assert same(found, arrays(self.model[name]))
        else:
            assert found is None

    @rule(which=st.integers(0, 1), name=names)
    def damage(self, which, name):
        if self.model.pop(name, None) is not None:
            path = self.handles[which]._path(name)
            path.write_bytes(path.read_bytes()[:-30])
            assert self.handles[which].read(name) is None

    @invariant()
    def both_see_what_was_acknowledged(self):
        for handle in getattr(self, "handles", {}).values():
            assert len(handle) == len(self.model)
            assert all(handle.has(name) for name in self.model)

    def teardown(self):
        self.folder.cleanup()


TestTwoHandles = TwoHandles.TestCase
TestTwoHandles.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


# What happens at the same moment


def test_nobody_stumbles_over_parts_that_another_process_has_just_removed(tmp_path, monkeypatch):
    """Whoever is done removes the folder; another looks into it just then."""
    store = Store(tmp_path, IDENTITY)
    parts = store.parts(10)
    parts.write("p", arrays())
    isdir, listdir, scandir = Path.is_dir, os.listdir, os.scandir

    def gone(read):
        def call(folder="."):
            named = isinstance(folder, str | os.PathLike)  # else it is being removed
            if named and Path(folder).name == "parts-10" and isdir(Path(folder)):
                shutil.rmtree(folder)
            return read(folder)

        return call

    def looks():
        yield parts.names
        yield parts.taken
        yield lambda: len(parts)
        yield lambda: store.parts(10).names()
        yield lambda: Store(tmp_path, IDENTITY).parts(10).names()
        yield lambda: sorted(Recorded.of(store, 10).fragments)

    for look in looks():
        parts.write("p", arrays())
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", gone(listdir))
            patch.setattr(os, "scandir", gone(scandir))
            # As a glob looks for the folder first.
            assert not look()
        assert not (tmp_path / "parts-10").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_a_part_is_packed_stays_one(tmp_path, monkeypatch):
    parts = Store(tmp_path, IDENTITY).parts(10)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile._ZipWriteFile, "__init__", stopped)
        with pytest.raises(KeyboardInterrupt):
            parts.write("p", arrays())
    assert not parts.has("p")
    parts.write("p", arrays())
    assert same(parts.read("p"), arrays())
