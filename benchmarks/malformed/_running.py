"""Running a reader on one input in a process of its own, with limits on memory and time."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from layerscope.errors import LayerscopeError
from malformed._case import CANARY, Case, Reader

__all__ = ["OUTCOMES", "SAME", "Ending", "answer_of", "run"]

OUTCOMES = (
    "own error with path",
    "foreign error",
    "accepted and right",
    "accepted and wrong",
    "executed",
    "hung",
    "over 500 MB",
)

SAME = "as its own library reads it"

_MEGABYTE = 2**20
_MOST = 500 * _MEGABYTE
_SECONDS = 10.0
_LOOK = 0.003  # seconds between two looks at a process


@dataclass(frozen=True)
class Ending:
    """What became of an input.

    Attributes
    ----------
    outcome : str
        One of `OUTCOMES`.
    told : str
        The error, or what was wrong.
    seconds : float
    megabytes : float
        The most it held above what it began with.
    """

    outcome: str
    told: str
    seconds: float
    megabytes: float


def run(reader: Reader, case: Case, folder: Path, sound: str) -> Ending:
    """Read one input in a fork of this process; `sound` is the answer of the sound input."""
    canary = folder.parent / CANARY
    canary.unlink(missing_ok=True)
    get, put = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(get)
        _in_child(reader, case, folder, sound, put)
    os.close(put)
    killed, most = _watch(child)
    with os.fdopen(get, "rb") as pipe:
        said = pipe.read()
    seconds = time.monotonic() - began
    outcome, told = _judge(said, killed)
    if canary.exists():
        outcome, told = "executed", told or "the canary is there"
    return Ending(outcome, told, round(seconds, 2), round(most / _MEGABYTE, 1))


def _judge(said: bytes, killed: str) -> tuple[str, str]:
    if killed in OUTCOMES:
        return killed, ""
    if not said:
        return "foreign error", killed or "ended without a word"
    found = json.loads(said)
    return str(found["outcome"]), str(found["told"])


class _Clock:
    """Ten seconds of a process's work, or of its doing nothing; not of its waiting for a core."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._worked, self._since = 0.0, time.monotonic()

    def late(self) -> bool:
        """Look whether its time is up."""
        with suppress(OSError, ValueError, IndexError):
            told = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
            worked = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
            if worked > self._worked or told[0] == "R":
                self._worked, self._since = worked, time.monotonic()
        return self._worked > _SECONDS or time.monotonic() - self._since > _SECONDS


def _watch(child: int) -> tuple[str, int]:
    """Wait for a process, and end it where it takes too much; how it ended, and its peak."""
    base, clock = _held(child), _Clock(child)
    most = 0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _signal(status), most
        most = max(most, _held(child) - base)
        if most > _MOST or clock.late():
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "over 500 MB" if most > _MOST else "hung", most
        time.sleep(_LOOK)


def _signal(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return ""
    return f"died of {signal.Signals(os.WTERMSIG(status)).name}"


def _held(process: int) -> int:
    """Bytes of its own that a process holds; what is mapped of files comes and goes."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _in_child(reader: Reader, case: Case, folder: Path, sound: str, put: int) -> None:
    """Read, say what became of it, and end; nothing of the parent's is cleaned up."""
    said = {"outcome": "foreign error", "told": "nothing was said"}
    try:
        os.setsid()
        faulthandler.disable()
        warnings.simplefilter("ignore")  # a user reads them; the tests make errors of them
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        # Should it grow faster than it is looked at, the machine is safe.
        limit = _virtual() + 8 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        outcome, told = _attempt(reader, case, folder, sound)
        said = {"outcome": outcome, "told": told}
    except BaseException as error:  # noqa: BLE001 - told to the parent
        said["told"] = f"{type(error).__name__}: {error}"[:300]
    finally:
        with suppress(BaseException):
            os.write(put, json.dumps(said).encode())
        os._exit(0)


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _attempt(reader: Reader, case: Case, folder: Path, sound: str) -> tuple[str, str]:
    try:
        answer = answer_of(reader.read(folder))
    except LayerscopeError as error:
        return _own(str(error), case, folder)
    except MemoryError:
        return "over 500 MB", "MemoryError"
    except BaseException as error:  # noqa: BLE001 - such as a panic of Rust code
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return "over 500 MB", str(error)[:200]
        return "foreign error", f"{type(error).__name__}: {error}"[:300]
    if answer == sound:
        return "accepted and right", ""
    return _compared(reader, folder, answer)


def _own(told: str, case: Case, folder: Path) -> tuple[str, str]:
    """An error of ours must say which file, or which argument, it is about."""
    names = case.names or (str(folder), str(folder.resolve()))
    shortened = told.replace("\n", " ")[:300]
    if any(name in told for name in names):
        return "own error with path", shortened
    return "foreign error", f"without path: {shortened}"


def _compared(reader: Reader, folder: Path, answer: str) -> tuple[str, str]:
    if reader.oracle is None:
        return "accepted and wrong", "other than what was there, which a digest told"
    try:
        expected = reader.oracle(folder)
    except BaseException as error:  # noqa: BLE001 - it refused
        told = f"its own library refuses it: {type(error).__name__}: {error}"
        return "accepted and wrong", told[:300]
    if expected == SAME or answer_of(expected) == answer:
        return "accepted and right", ""
    return "accepted and wrong", "other than its own library reads"


def answer_of(found: Any) -> str:
    """Digest of what a reader returned."""
    seen = hashlib.sha256()
    _add(seen, found)
    return seen.hexdigest()


def _add(seen: Any, found: Any) -> None:
    if isinstance(found, torch.Tensor):
        plain = found.detach().contiguous()
        seen.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        seen.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    elif isinstance(found, np.ndarray):
        seen.update(f"{found.dtype} {found.shape}".encode())
        texts = found.dtype.kind in "OUS"
        seen.update(repr(found.tolist()).encode() if texts else found.tobytes())
    elif isinstance(found, xr.Dataset):
        for name in sorted(map(str, found.variables)):
            variable = found.variables[name]
            _add(seen, [name, variable.dims, variable.values, {**variable.attrs}])
        _add(seen, {**found.attrs})
    elif isinstance(found, Mapping):
        for name in sorted(found, key=str):
            _add(seen, [str(name), found[name]])
    elif isinstance(found, (list, tuple)):
        seen.update(f"[{len(found)}".encode())
        for each in found:
            _add(seen, each)
    else:
        seen.update(f"{type(found).__name__} {found!r};".encode(errors="surrogatepass"))
