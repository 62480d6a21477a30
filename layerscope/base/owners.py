"""Owners of files: the process that made a draft, a claim or a temporary folder.

A *mark* names a process so that no other is taken for it: by its machine, by the boot and the
namespace that process numbers count in, by its number, and by when it started. Marks stand in names
of files, so that whoever finds one after a kill can tell it from one that is being written. Of a
process in another container or on another machine nothing can be seen from here; so whoever has a
file for long keeps touching it, and there it counts how long it was not touched.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from layerscope.errors import ResultError

__all__ = [
    "Owner",
    "draft_of",
    "is_touching",
    "keep_touching",
    "left_beside",
    "make_temporary",
    "stop_touching",
    "sweep_drafts",
    "sweep_temporary",
]

_MARK = r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-([1-9]\d{0,9})-(\d{1,19})"
_DRAFT = re.compile(rf"\.(?P<name>.+)\.(?P<mark>{_MARK})\.[0-9a-f]{{6}}\.(?P<kind>\w+)", re.DOTALL)
_BOOTH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.tmp", re.DOTALL)
"""Folder in which processes agree on whose draft takes a name, see `layerscope.base.writing`."""

_TEMPORARY = re.compile(rf"layerscope-(?P<mark>{_MARK})-\w+")

_SILENT_S = 600.0
"""What is of a process that can't be seen from here is nobody's once it is untouched so long."""

_BEAT_S = 3.0

_LONGEST_STEM = 150  # bytes; with the mark it is less than the 255 that file systems take


_ENDED = -1


@dataclass(frozen=True)
class Owner:
    """A process, told from every other that ever had its number.

    Attributes
    ----------
    machine : str
        Digest of the machine's identity and its host name.
    boot : str
        Digest of what is drawn at every boot; the same in all containers of a machine.
    space : str
        Digest of the namespace that process numbers count in; each container has its own.
    pid : int
    start : int
        When it started, in ticks of its machine; 0 where that is not known.
    """

    machine: str
    boot: str
    space: str
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.machine}-{self.boot}-{self.space}-{self.pid}-{self.start}"

    @classmethod
    def of(cls, mark: str) -> Owner | None:
        """Read a mark; None for what is none."""
        if (found := re.fullmatch(_MARK, mark)) is None:
            return None
        machine, boot, space, pid, start = found.groups()
        return cls(machine, boot, space, int(pid), int(start))

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        return _this_process(os.getpid())

    @property
    def shares_kernel(self) -> bool:
        """Tell whether it is on this machine, and has the clock that is read here."""
        return self.boot == Owner.here().boot

    def runs(self) -> bool | None:
        """Tell whether it still runs; None where that can't be seen from here."""
        here = Owner.here()
        if os.name != "posix" or (self.boot, self.space) != (here.boot, here.space):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass  # somebody else's process has that number, or none can
        started = _start_of(str(self.pid)) if here.start else None
        if started is None or (not self.start and started != _ENDED):
            return True  # where nothing says when it started, the number has to do
        return started == self.start

    def is_gone(self, last: float) -> bool:
        """Tell whether it is known to run no more.

        Parameters
        ----------
        last : float
            When it touched its file last, in seconds since 1970.
        """
        if (runs := self.runs()) is not None:
            return not runs
        # Nothing of this machine outlives a boot. Copies of a machine may have the same identity,
        # and the one that is elsewhere may be at it, but not since before this one was started.
        here = Owner.here()
        return self.machine == here.machine and not self.shares_kernel and last < _boot_time()


def draft_of(path: Path) -> Path:
    """Name a draft beside a file or folder: hidden, never used before, with this process's mark.

    >>> draft = draft_of(Path("runs/sweep.nc"))
    >>> draft.parent.as_posix(), draft.name.startswith(".sweep.nc."), draft.suffix
    ('runs', True, '.tmp')
    """
    return path.with_name(f".{_stem(path.name)}.{Owner.here()}.{secrets.token_hex(3)}.tmp")


def _stem(name: str) -> str:
    """Cut a name so that a draft's is still one that file systems take."""
    given = os.fsencode(name)
    return name if len(given) <= _LONGEST_STEM else given[:_LONGEST_STEM].decode(errors="ignore")


def sweep_drafts(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove drafts that processes which are gone left in a folder.

    One whose process runs stays, and so does one of a process elsewhere that was touched within
    the last ten minutes.

    Parameters
    ----------
    folder : Path
        May be missing.
    names : collection of str, optional
        Of the files or folders that drafts are of; all by default.
    """
    wanted = None if names is None else {_stem(name) for name in names}
    for booth, found in _matching(folder, _BOOTH):
        if booth.is_dir() and (folder / found["name"]).is_file():
            sweep_drafts(booth)  # what was not elected by processes that are gone since
            with suppress(OSError):
                booth.rmdir()
    for path, found in _matching(folder, _DRAFT):
        fits = found["kind"] == "tmp" and (wanted is None or found["name"] in wanted)
        if fits and _left_behind(path, found["mark"]):
            _remove(path)


def left_beside(path: Path, kind: str = "tmp", *, mine: bool = False) -> list[Path]:
    """List what gone processes left beside a file or folder under names that `draft_of` made.

    Parameters
    ----------
    path : Path
    kind : str
        Suffix, if they were given another.
    mine : bool
        Also what this process left, such as where something failed.
    """
    found = []
    for each, said in _matching(path.parent, _DRAFT):
        fits = (said["name"], said["kind"]) == (_stem(path.name), kind)
        own = mine and said["mark"] == str(Owner.here())
        if fits and (own or _left_behind(each, said["mark"])):
            found.append(each)
    return sorted(found)


def make_temporary() -> Path:
    """Make a folder in the system's temporary folder, and remove those that were left there.

    Raises
    ------
    ResultError
        If there is no temporary folder that can be written to.
    """
    sweep_temporary()
    try:
        made = Path(tempfile.mkdtemp(prefix=f"layerscope-{Owner.here()}-"))
    except OSError as error:
        raise ResultError(
            f"can't make a temporary folder: {error.strerror or error}. Let the environment "
            "variable TMPDIR name a folder that has room and can be written to."
        ) from None
    keep_touching(made)
    return made


def sweep_temporary() -> None:
    """Remove what processes of this user that are gone left in the system's temporary folder."""
    with suppress(OSError):
        for path, found in _matching(Path(tempfile.gettempdir()), _TEMPORARY):
            mine = not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
            if mine and _left_behind(path, found["mark"]):
                _remove(path)


def _left_behind(path: Path, mark: str) -> bool:
    """Tell whether the process that made a file or folder is gone, as far as can be known."""
    owner = Owner.of(mark)
    try:
        last = path.lstat().st_mtime
    except OSError:
        return False  # somebody else removed it just now
    if owner is None:
        return False
    return owner.is_gone(last) or (owner.runs() is None and time.time() - last > _SILENT_S)


def keep_touching(path: Path) -> None:
    """Touch a file of this process every few seconds, until it is removed or `stop_touching`."""
    _HEART.add(path)


def stop_touching(path: Path) -> None:
    """Leave a file alone from now on."""
    _HEART.discard(path)


def is_touching(path: Path) -> bool:
    """Tell whether this process keeps touching a file, whatever it calls its folder."""
    return _HEART.has(path)


class _Heart:
    """A thread that touches files of this process, while there are any."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        with self._lock:
            self._paths.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="owners", daemon=True)
                self._thread.start()

    def discard(self, path: Path) -> None:
        with self._lock:
            self._paths.discard(path)

    def has(self, path: Path) -> bool:
        folder = os.path.realpath(path.parent)
        with self._lock:
            named = [each for each in self._paths if each.name == path.name]
        return any(os.path.realpath(each.parent) == folder for each in named)

    def touch(self) -> bool:
        """Touch all that are still there; False, and at rest, where none is."""
        with self._lock:
            self._paths = {path for path in self._paths if _touch(path)}
            if not self._paths:
                self._thread = None
            return bool(self._paths)

    def _beat(self) -> None:
        while True:
            time.sleep(_BEAT_S)
            if not self.touch():
                return


def _touch(path: Path) -> bool:
    try:
        os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # may go better the next time
    return True


_HEART = _Heart()


def _forked() -> None:
    """Forget the files of the process that this one was split off from, and its thread."""
    global _HEART
    _HEART = _Heart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _matching(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if (found := pattern.fullmatch(path.name)) is not None:
            yield path, found


def _remove(path: Path) -> None:
    # Another process may be removing it as well, or it can't be removed here; that stops nothing.
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@lru_cache(maxsize=1)
def _this_process(pid: int) -> Owner:
    host = platform.node()
    boot = _read("/proc/sys/kernel/random/boot_id") or f"host {host}"
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
        # Else what is below /proc counts processes otherwise than the system tells this one.
        known = Path("/proc/self").readlink().name == str(pid)
    except OSError:
        space, known = "", False
    start = _start_of("self") if known else None
    machine = f"{_read('/etc/machine-id')} {host}"
    return Owner(_digest(machine), _digest(boot), _digest(space), pid, start or 0)


def _start_of(process: str) -> int | None:
    """Read when a process started; `_ENDED` if nobody waited for its end yet, None if unsaid."""
    # The name, in brackets, may hold anything.
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return _ENDED if fields[0] in ("Z", "X", "x") else int(fields[19])


@lru_cache(maxsize=1)
def _boot_time() -> float:
    """Return when this machine was started, in seconds since 1970; 0 where that is not known."""
    found = re.search(r"^btime (\d+)$", _read("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
