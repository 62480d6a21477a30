"""Workers asked before a sweep: their threads and their device, which this process then takes too.

Sums differ by threads and by devices in the last bits. Each worker finds the device for itself, as
it may have one that this process lacks; what the workers found is what the sweep says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from layerscope.base import devices, progress
from layerscope.core.sweep import _worker as worker
from layerscope.core.sweep._connecting import address_of, count_workers, explained
from layerscope.core.sweep._warning import warn
from layerscope.core.sweep._worker import About
from layerscope.errors import ClusterError, LayerscopeError, OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Agreement", "Patience", "agree", "following"]

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Agreement:
    """Workers that are to compute a sweep, and what they compute with.

    Attributes
    ----------
    client : distributed.Client
    asked : str
        Device that was asked for, which each worker finds for itself.
    here : torch.device
        Device of the passes that this process runs: of the workers' kind if it has one.
    threads : int
        Processor threads that a pass takes.
    told : dict
        Parts of the sweep's identity that are the workers', where this process has no such device.
    """

    client: Client
    asked: str
    here: torch.device
    threads: int
    told: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Say of a sweep what the workers compute it with, from what this process would say."""
        if not self.told:
            return dict(own)
        # What the network says of a few inputs is this device's, and not theirs.
        return {k: v for k, v in own.items() if k != "network_outputs"} | dict(self.told)


class Patience:
    """Waits for workers, which may come as late as jobs in a queue do, and says so once.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client) -> None:
        self._client, self._since, self._said = client, time.monotonic(), False

    def renew(self) -> None:
        """Note that somebody is at work."""
        self._since = time.monotonic()

    def look(self, count: int, *, met: bool) -> str:
        """Say in a word what is waited for, and warn once if that takes long.

        Parameters
        ----------
        count : int
            Workers that are there.
        met : bool
            Whether any was there before.
        """
        where, waits = address_of(self._client), "the sweep waits for"
        start = f"start some, such as by dask worker {where}"
        told = f"all {count} workers at {where} are at something else; {waits} the first"
        if not count:
            told = f"no worker has joined {where} yet; {waits} the first: {start}"
            if met:
                told = f"no worker is left at {where}; {waits} another: {start}"
        if not self._said and time.monotonic() - self._since > _PATIENCE_S:
            self._said = True
            warn(f"{told}.")
        return "workers are busy" if count else "no worker yet"


def agree(
    client: Client | None, device: str | torch.device, show_progress: bool = True
) -> Agreement | None:
    """Ask workers what they compute with, and wait for the first of them.

    Raises
    ------
    ClusterError
        If they compute on devices of several kinds, or nobody answers any more.
    OptionError
        If there is no such device.
    """
    if client is None:
        return None
    with explained(client, lambda: "nothing was begun"):
        found = _first(client, device, show_progress)
        _require_one_kind(client, device)
    here = _own_device(device, found.device)
    return Agreement(client, str(device), here, found.threads, _told(found, here))


@contextmanager
def following(workers: Agreement | None) -> Iterator[None]:
    """Compute here with as many threads as workers do."""
    if workers is None:
        yield
        return
    before = torch.get_num_threads()
    import dask

    torch.set_num_threads(workers.threads)
    try:
        # Else xarray asks the cluster for a lock to write a file, also one that is gone.
        with dask.config.set(scheduler="threads"):
            yield
    finally:
        torch.set_num_threads(before)


def _first(client: Client, device: str | torch.device, show: bool) -> About:
    """Ask whichever worker has time first."""
    asked, patience = client.submit(worker.about, str(device), pure=False), Patience(client)
    try:
        with progress.bar(1, "wait for workers", "worker", show=show) as advance:
            while True:
                try:
                    found = asked.result(timeout=_LOOK_EVERY_S)
                    break
                except TimeoutError:
                    advance(0, cluster=patience.look(count_workers(client), met=False))
    finally:
        # A wait that ran out leaves a traceback that holds this frame, and with it the answer.
        asked.release()
    if isinstance(found, LayerscopeError):
        raise found
    assert isinstance(found, About)
    return found


def _require_one_kind(client: Client, device: str | torch.device) -> None:
    """Refuse workers some of which compute on a CPU and some on a card, for example."""
    answers = client.run(worker.about, str(device), on_error="ignore") or {}
    kinds: dict[str, list[str]] = {}
    for address, each in answers.items():
        if isinstance(each, OptionError):
            raise each
        kinds.setdefault(each.device, []).append(address)
    if len(kinds) > 1:
        told = "; ".join(f"{kind} at {_some(at)}" for kind, at in sorted(kinds.items()))
        raise ClusterError(
            f"workers compute on devices of several kinds for device={str(device)!r} ({told}), "
            "which give different bits. Ask for one that all have, such as "
            f"device={min(kinds)!r}, or leave the others out of the cluster."
        )


def _some(addresses: list[str]) -> str:
    more = len(addresses) - 2
    return ", ".join(addresses[:2]) + (f" and {more} more" if more > 0 else "")


def _own_device(asked: str | torch.device, kind: str) -> torch.device:
    """Find a device of the workers' kind here, if there is one."""
    for each in (asked, kind):
        with suppress(OptionError):
            found = devices.resolve(each)
            if found.type == kind:
                return found
    return devices.resolve()


def _told(found: About, here: torch.device) -> dict[str, Any]:
    """Take over what workers say of themselves where this process has no such device."""
    if found.device == here.type:
        return {}  # then it must be equal, and a worker that says otherwise is refused
    told = dict(found.told)
    if told["torch"].partition("+")[0] != torch.__version__.partition("+")[0]:
        del told["torch"]  # another version, not the same one built for a card
    return told | {"driver": here.type}
