"""Files are written whole or not at all, whatever call fails and whatever the file system lacks."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import threading
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from faults import always, never, once, writing_calls

from layerscope.base import writing
from layerscope.base.writing import _draft, _naming, sync_files, write_bytes
from layerscope.errors import ResultError

OLD, NEW = b"old" * 40_000, b"new" * 50_000

MAY_FAIL = ("link", "unlink")
"""Calls whose failure costs nothing: a link is made again, and a draft may stay."""


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Every call fails once


def problems(folder: Path, write=write_bytes, replaces=(False, True)) -> list[str]:
    """Let each call of a writer fail, lie to it, and say what it did wrong."""
    found = []
    for over, number in itertools.product(replaces, (errno.EIO, errno.ENOSPC)):
        for at in itertools.count():
            path = _place(folder / f"{over}-{number}-{at}", over)
            failed, told = _attempt(path, write, once(at, number))
            found += told
            if not failed:
                break
    for lie in (_half, _flipped):
        path = _place(folder / lie.__name__, replaces[-1])
        found += _attempt(path, write, never, lie)[1]
    return found


def _place(folder, over):
    (folder / "a").mkdir(parents=True) if over else folder.mkdir()
    if over:
        (folder / "a" / "file").write_bytes(OLD)
    return folder / "a" / "file"


def _attempt(path, write, fails, lie=None):
    before = path.read_bytes() if path.exists() else None
    raised = None
    with writing_calls(path.parents[1], fails) as calls, pytest.MonkeyPatch.context() as patch:
        if lie is not None:
            patch.setattr(os, "write", lie(os.write))
        try:
            write(path, NEW)
        except ResultError as error:
            raised = str(error)
    found = path.read_bytes() if path.exists() else None
    at = calls.failed[0] if calls.failed else "nothing failed"
    told = []
    if calls.unsafe:
        told.append(f"{at}: {calls.unsafe} before its content lasts")
    if found not in (before, NEW) or (raised is None and found != NEW):
        told.append(f"{at}: {found and found[:9]!r} is there")
    if raised is None and (lie or (calls.failed and at.split()[0] not in MAY_FAIL)):
        told.append(f"{at}: passed over")
    if raised is not None and str(path) not in raised:
        told.append(f"{at}: {raised}")
    return calls.failed, told


def _half(real):
    def write(file, content):
        real(file, content[: len(content) // 2])
        return len(content)

    return write


def _flipped(real):
    def write(file, content):
        changed = bytearray(content)
        changed[len(changed) // 3] ^= 1
        return real(file, changed)

    return write


def test_whichever_call_fails_the_file_is_the_old_one_or_the_new_one(tmp_path):
    assert problems(tmp_path) == []
    assert len(names(tmp_path)) > 40


def test_whichever_call_fails_a_file_that_is_written_once_is_whole(tmp_path):
    assert problems(tmp_path, partial(write_bytes, once=True), replaces=(False,)) == []


# The same, let loose on writers with a mistake


def _named_first(path, content):
    draft = path.with_name(".draft")
    with writing.failures(path):
        path.parent.mkdir(exist_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT)
        os.write(file, content)
        draft.replace(path)
        os.fsync(file)
        os.close(file)
    return path


@contextmanager
def _close_ignored(path, flags, mode=0o666):
    file = os.open(path, flags, mode)
    try:
        yield file
    finally:
        with suppress(OSError):
            os.close(file)


def _without_sync(draft, content, _):
    with _draft._opened(draft, os.O_WRONLY | os.O_CREAT) as file:
        _draft._write_all(file, memoryview(content))


@pytest.mark.parametrize(
    ("name", "mistake", "told"),
    [
        ("_read_back", lambda *_: None, "nothing failed: passed over"),
        ("_opened", _close_ignored, "close a/.*passed over"),
        ("write", _without_sync, "before its content lasts"),
    ],
    ids=["no read-back", "a close error is swallowed", "no fsync"],
)
def test_a_mistake_in_the_writer_is_noticed(tmp_path, monkeypatch, name, mistake, told):
    monkeypatch.setattr(_draft, name, mistake)
    found = problems(tmp_path)
    assert found
    assert any(re.search(told, each) for each in found), found


def test_a_name_given_before_the_content_lasts_is_noticed(tmp_path):
    assert any("before its content lasts" in each for each in problems(tmp_path, _named_first))


def test_bytes_that_the_system_does_not_take_at_once_are_handed_to_it_again(tmp_path, monkeypatch):
    real, sizes = os.write, []

    def few(file, content):
        sizes.append(len(content))
        return real(file, content[:7001])

    monkeypatch.setattr(os, "write", few)
    assert write_bytes(tmp_path / "file", NEW).read_bytes() == NEW
    assert len(sizes) == len(NEW) // 7001 + 1


# What is said


@pytest.mark.parametrize(
    ("number", "told", "elsewhere"),
    [
        (errno.ENOSPC, "Make room", True),
        (errno.EDQUOT, "Make room", True),
        (errno.EROFS, "Allow writing there", True),
        (errno.EACCES, "Allow writing there", True),
        (errno.ENOTDIR, "Choose another", True),
        (errno.EIO, "once the disk, or the connection to it, is sound", False),
        (errno.EMFILE, "close some", False),
    ],
)
def test_errors_say_what_helps(tmp_path, number, told, elsewhere):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    failing = always(number, "open")
    with writing_calls(tmp_path, failing), pytest.raises(ResultError) as stop:
        write_bytes(path, NEW)
    said = str(stop.value)
    assert said.startswith(f"can't write {path}: {os.strerror(number)}. Nothing half-written")
    assert told in said
    assert ("--out" in said) == elsewhere
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def test_what_fails_after_the_name_was_given_says_so(tmp_path):
    with (
        writing_calls(tmp_path, always(errno.EIO, "look at")),
        pytest.raises(ResultError, match=r"It is there, whole, but a power failure may take"),
    ):
        write_bytes(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_folders_are_made_and_last(tmp_path):
    with writing_calls(tmp_path) as calls:
        write_bytes(tmp_path / "a" / "b" / "file", NEW)
    made = [at for at, call in enumerate(calls.seen) if call.startswith("mkdir")]
    for at, parent in zip(made, (".", "a"), strict=True):
        assert calls.seen[at + 1 : at + 3] == [f"look at {parent}", f"fsync {parent}"]
    assert calls.seen[-3:-1] == ["look at a/b", "fsync a/b"]
    assert calls.passed_by == []


def test_files_of_others_last_before_their_folder_gets_its_name(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    path.parent.mkdir(parents=True)
    path.write_bytes(NEW)
    real, synced = os.fsync, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), real(file)))
        sync_files(tmp_path / "a")
    assert synced == [each.stat().st_ino for each in (path, path.parent, tmp_path / "a")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _raising(errno.ENOSPC))
        with pytest.raises(ResultError, match="No space left"):
            sync_files(tmp_path / "a")


def _raising(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 240])
def test_the_longest_names_can_be_written(tmp_path, name):
    path = tmp_path / name
    for once_ in (True, False):
        assert write_bytes(path, NEW, once=once_).read_bytes() == NEW
    with pytest.MonkeyPatch.context() as patch:
        path.unlink()
        patch.setattr(os, "link", _raising(errno.EPERM))
        assert write_bytes(path, NEW, once=True).read_bytes() == NEW
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "\udfff\ud800"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(ResultError, match="can't write"):
        write_bytes(tmp_path / name, NEW)
    assert names(tmp_path) == []


# What file systems lack

NO_LINKS = [
    errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EACCES, errno.EMLINK,
    errno.EINVAL, errno.ENOTTY, errno.EMFILE,
]  # fmt: skip


@pytest.mark.parametrize("number", NO_LINKS, ids=lambda number: errno.errorcode[number])
def test_without_hard_links_the_first_content_stays(tmp_path, number):
    path = tmp_path / "file"
    with writing_calls(tmp_path, always(number, "link")):
        write_bytes(path, OLD, once=True)
        write_bytes(path, NEW, once=True)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["look at", "fsync"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF])
def test_folders_that_can_not_be_synced_are_left_to_their_own_ways(tmp_path, call, number):
    def fails(_, name):
        return (
            number if name == call and (call == "look at" or calls.seen[-1][:4] == "look") else None
        )

    with writing_calls(tmp_path, fails) as calls:
        write_bytes(tmp_path / "file", NEW, once=True)
        write_bytes(tmp_path / "file", OLD)
    assert calls.failed
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.ENOSPC])
def test_a_link_that_fails_once_elects_nobody(tmp_path, number):
    failed = []

    def fails(_, name):
        if name != "link" or failed:
            return None
        failed.append(name)
        return number

    with writing_calls(tmp_path, fails) as calls:
        write_bytes(tmp_path / "file", NEW, once=True)
    assert not any("rename" in call for call in calls.seen)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EPERM, marks=pytest.mark.slow)])
def test_whichever_call_fails_an_election_is_whole(tmp_path, number):
    for at in itertools.count():
        path = tmp_path / str(at) / "file"
        path.parent.mkdir()
        fails = once(at, number)

        def without_links(count, name, fails=fails):
            return errno.EPERM if name == "link" else fails(count, name)

        with writing_calls(path.parent, without_links) as calls, suppress(ResultError):
            write_bytes(path, OLD, once=True)
        assert not path.exists() or path.read_bytes() == OLD
        with writing_calls(path.parent, always(errno.EPERM, "link")):
            write_bytes(path, NEW, once=True)
        kept = path.read_bytes()
        assert kept in (OLD, NEW)
        with writing_calls(path.parent, always(errno.EPERM, "link")):
            write_bytes(path, OLD if kept == NEW else NEW, once=True)
        assert path.read_bytes() == kept
        if at >= len(calls.seen):
            break
    assert at > 15


# Several at once, call by call

STEPS = ("mkdir", "rename", "iterdir", "rmdir", "unlink")


class _Killed(BaseException):
    pass


class Turns:
    """Threads that make one call at a time, in an order that is given.

    Parameters
    ----------
    order : sequence of int
        Which of those that wait makes the next call, counted from 0 and beginning again.
    kill : int, optional
        The thread with number 0 is killed before its so-many-th call.
    """

    def __init__(self, order, kill=None):
        self.order, self.kill = order, kill
        self.changed = threading.Condition()
        self.waiting: dict[int, bool] = {}
        self.running = 0
        self.numbers: dict[int, int] = {}
        self.options: list[int] = []
        self.calls = 0

    def run(self, *works):
        threads = [threading.Thread(target=self._work, args=each) for each in enumerate(works)]
        self.running = len(threads)
        for thread in threads:
            thread.start()
        at = 0
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.running == len(self.waiting), 20)
                if not self.waiting:
                    break
                those = sorted(self.waiting)
                self.options.append(len(those))
                turn = self.order[at] if at < len(self.order) else 0
                self.waiting.pop(those[turn % len(those)])
                self.changed.notify_all()
            at += 1
        for thread in threads:
            thread.join()

    def _work(self, number, work):
        self.numbers[threading.get_ident()] = number
        try:
            work()
        except _Killed:
            pass
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def step(self, real):
        def call(*given, **options):
            number = self.numbers.get(threading.get_ident())
            if number is None:
                return real(*given, **options)
            with self.changed:
                self.waiting[number] = True
                self.changed.notify_all()
                self.changed.wait_for(lambda: number not in self.waiting, 20)
            if number == 0 and self.kill is not None:
                self.calls += 1
                if self.calls > self.kill:
                    raise _Killed
            return real(*given, **options)

        return call


def elected(folder, order, processes=2, kill=None):
    """Let several write once, without links; return what each saw after it, and the options."""
    folder.mkdir()
    path, saw = folder / "file", {}
    turns = Turns(order, kill)

    def writer(number):
        draft = folder / f"draft-{number}"
        draft.write_bytes(b"%d" % number)

        def work():
            _naming._elect(draft, path)
            saw[number] = path.read_bytes()

        return work

    works = [writer(number) for number in range(processes)]
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(Path, name, turns.step(getattr(Path, name)))
        patch.setattr(os.path, "lexists", turns.step(os.path.lexists))
        turns.run(*works)
    return saw, turns.options, names(folder)


def orders(folder, most, **options):
    """Go through orders of two writers, each with another choice at one place; yield what came."""
    todo, count = [()], 0
    while todo and count < most:
        # From the front and the back in turn: early choices and late ones.
        order = todo.pop(0 if count % 2 else -1)
        saw, choices, left = elected(folder / str(count), order, **options)
        todo += [
            (*order, *[0] * (at - len(order)), turn)
            for at in range(len(order), len(choices))
            for turn in range(1, choices[at])
        ]
        count += 1
        yield order, saw, left


def mixed(folder, most, **options):
    for order, saw, left in orders(folder, most, **options):
        if len(set(saw.values())) > 1:
            yield order, saw
        if options.get("kill") is None and left != ["file"]:
            yield order, left


@pytest.mark.parametrize("most", [80, pytest.param(20_000, marks=pytest.mark.slow)])
def test_in_whatever_order_two_elect_they_see_one_content(tmp_path, most):
    assert list(mixed(tmp_path, most)) == []


def by_chance(folder, most):
    """Let three elect in orders by chance; yield those after which they saw different content."""
    for number in range(most):
        chance = random.Random(number)
        order = [turn for _ in range(40) for turn in [chance.randrange(3)] * chance.choice((1, 4))]
        saw, _, _ = elected(folder / f"chance-{number}", order, processes=3)
        if len(set(saw.values())) > 1:
            yield order


@pytest.mark.parametrize("most", [50, pytest.param(10_000, marks=pytest.mark.slow)])
def test_in_orders_by_chance_three_see_one_content(tmp_path, most):
    assert list(by_chance(tmp_path, most)) == []


@pytest.mark.parametrize("kill", range(0, 12, 3))
def test_one_that_was_killed_in_an_election_holds_nobody_up(tmp_path, kill):
    for order, saw, _ in orders(tmp_path, 25, processes=3, kill=kill):
        assert {1, 2} <= saw.keys(), order
        assert len(set(saw.values())) == 1, (order, saw)


def _replaced(draft, target):
    draft.rename(target)


def _looked_first(booth, target):
    """Look whether the name is free before looking into the booth."""
    if os.path.lexists(target):
        return True
    with suppress(FileNotFoundError):
        for draft in booth.iterdir():
            with suppress(FileNotFoundError):
                draft.rename(target)
    return False


@pytest.mark.parametrize(
    ("name", "mistake"),
    [("_elect", _replaced), ("_publish", _looked_first)],
    ids=["the last one wins", "looks in the wrong order"],
)
def test_a_mistake_in_the_election_is_noticed(tmp_path, monkeypatch, name, mistake):
    monkeypatch.setattr(_naming, name, mistake)
    assert any(True for _ in by_chance(tmp_path, 3000))


def test_folder_names_of_the_booth_differ_for_names_that_are_cut_alike(tmp_path):
    one, other = (tmp_path / f"{'x' * 250}{end}" for end in "ab")
    with writing_calls(tmp_path, always(errno.EPERM, "link")) as calls:
        for path in (one, other):
            write_bytes(path, NEW, once=True)
    booths = {call for call in calls.seen if call.startswith("rename .")}
    assert len(booths) >= 2
