"""Workers that a sweep is planned for, how many compute at a time, and what starting them takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

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
    missing, present : tuple of str
        Modules that not all have imported yet, and those that all have.
    """

    count: int
    here: int
    missing: tuple[str, ...] = ("distributed", _IMPORTED)
    present: tuple[str, ...] = ()

    @classmethod
    def of(cls, client: Client) -> Crew:
        """Count the workers of a cluster."""
        from distributed.utils import get_ip

        hosts = [str(each.get("host")) for each in _workers(client)]
        here = sum(host in (*_LOCAL, get_ip()) for host in hosts)
        return cls(max(1, len(hosts)), here, (_IMPORTED,))

    def import_for(self, network: nn.Module, client: Client | None) -> Crew:
        """Find what is still to be imported for a network, by asking workers that are there."""
        module = type(network).__module__
        wanted = dict.fromkeys(self.missing if module == "__main__" else (*self.missing, module))
        present: dict[str, None] = {}
        if client is not None:
            # A function of this package would be imported there, and with it what is asked about.
            asked = f"[name for name in {[*wanted]!r} if name in __import__('sys').modules]"
            found = list(client.run(eval, asked, on_error="ignore").values())
            present = {name: None for name in wanted if found and all(name in f for f in found)}
        missing = tuple(name for name in wanted if name not in present)
        return replace(self, missing=missing, present=tuple(present))

    @property
    def at_once(self) -> int:
        """How many can compute at a time."""
        return self.count - self.here + min(self.here, _cores())

    def start(self) -> float:
        """Measure the seconds until all have imported what they need, in processes that do so."""
        if not self.missing:
            return 0.0
        rounds = max(1.0, self.here / _cores())
        known = _import_seconds(", ".join(self.present)) if self.present else 0.0
        every = _import_seconds(", ".join((*self.present, *self.missing)))
        return rounds * max(every - known, 0.0)

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
