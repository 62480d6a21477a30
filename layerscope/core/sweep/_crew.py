"""Workers that a sweep is planned for, how many compute at a time, and what starting them takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Crew"]

_IMPORTED = "layerscope.core.sweep"
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Crew:
    """Workers, running or merely planned.

    Attributes
    ----------
    count : int
    here : int
        How many of them are on this machine, and share its cores.
    running : bool
    """

    count: int
    here: int
    running: bool = False

    @classmethod
    def of(cls, client: Client) -> Crew:
        """Count the workers of a cluster."""
        from distributed.utils import get_ip

        hosts = [str(each.get("host")) for each in _workers(client)]
        return cls(max(1, len(hosts)), sum(h in (*_LOCAL, get_ip()) for h in hosts), running=True)

    @property
    def at_once(self) -> int:
        """How many can compute at a time."""
        return self.count - self.here + min(self.here, _cores())

    def start(self) -> float:
        """Measure the seconds until all have imported what they need, by starting one process."""
        rounds = max(1.0, self.here / _cores())
        return rounds * _import_seconds(_IMPORTED if self.running else f"distributed, {_IMPORTED}")

    def __str__(self) -> str:
        if self.at_once == self.count:
            return f"{self.count}"
        return f"{self.count}, of which {self.at_once} compute at a time on the cores there are"


def _workers(client: Client) -> list[dict[str, object]]:
    return list(client.scheduler_info(n_workers=-1).get("workers", {}).values())


def _cores() -> int:
    """Count the processes of as many threads as this one that the machine can run at a time."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // torch.get_num_threads())


@cache
def _import_seconds(names: str) -> float:
    """Time a process that imports some packages and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {names}"], check=False)  # noqa: S603
    return time.perf_counter() - began
