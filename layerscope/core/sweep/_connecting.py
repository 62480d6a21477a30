"""Clusters by a text: workers started here, or the address of a scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from layerscope.base.extras import extra
from layerscope.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connect"]

_LOCAL = re.compile(r"local:(\d+)")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://.+")

_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""Ctrl-C goes to all processes of a terminal; whoever drives the workers ends them in order."""


@contextmanager
def connect(where: str | None) -> Iterator[Client | None]:
    """Connect to workers, and start them if they are to be of this machine.

    Parameters
    ----------
    where : str, optional
        ``"local:4"`` for four processes of one thread each, which end with the block, or the
        address of a scheduler, such as ``"tcp://10.0.0.1:8786"``. None for no cluster.

    Raises
    ------
    ClusterError
        If nobody answers at the address.
    ExtraError
        If distributed is not installed.
    OptionError
        If it is neither.
    """
    if where is None:
        yield None
        return
    local = _LOCAL.fullmatch(where)
    if not (local and int(local[1])) and not _ADDRESS.fullmatch(where):
        raise OptionError(
            f"{where!r} is no cluster; give local:N for N processes of this machine, or the "
            "address of a scheduler, such as tcp://10.0.0.1:8786."
        )
    with extra("dask", "a sweep on a cluster"):
        import distributed
    if local:
        with (
            distributed.LocalCluster(
                n_workers=int(local[1]),
                threads_per_worker=1,
                dashboard_address=":0",
                preload=[_DEAF],
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(where)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"no scheduler answers at {where} ({error}); start one there, such as by dask "
            "scheduler, or let --dask local:4 start workers on this machine."
        ) from None
    with client:
        yield client
