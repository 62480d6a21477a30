"""Clusters by a text or a client: workers started here, or those of a scheduler elsewhere."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from layerscope.base.extras import extra
from layerscope.base.validate import describe
from layerscope.core.sweep._crew import Crew
from layerscope.errors import ClusterError, OptionError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = [
    "HELD",
    "PATIENT",
    "address_of",
    "connect",
    "count_workers",
    "explained",
    "hold",
    "list_workers",
    "require_client",
    "still_wanted",
]

PATIENT = {"distributed.deploy.lost-worker-timeout": "1000 days"}
"""A cluster of this machine gives a worker up for good that happens to be starting again 15 s after
it was killed, unless it is told so."""

_LEAN = {"distributed.worker.profile.enabled": False}
"""Nobody looks at the profile that workers take of themselves a hundred times a second."""

HELD = "layerscope-held-"
"""What the keys of held content begin with."""

_ANSWER_S = 5.0
"""A scheduler that is there answers sooner."""

_LOCAL = re.compile(r"local:(\d+)")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://.+")

_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""Ctrl-C goes to all processes of a terminal; whoever drives the workers ends them in order."""


@contextmanager
def connect(where: str | None, *, start: bool = True) -> Iterator[Client | None]:
    """Connect to workers, and start them if they are to be of this machine.

    Parameters
    ----------
    where : str, optional
        ``"local:4"`` for four processes of one thread each, which end with the block, or the
        address of a scheduler, such as ``"tcp://10.0.0.1:8786"``. None for no cluster.
    start : bool
        False starts nothing: for processes of this machine there is a `Crew` to plan with, and this
        process has as many threads meanwhile as each of them would have.

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
    if local and not start:
        with _one_thread():
            # Whoever wants nothing started knows what he gets.
            yield cast("Client", Crew(int(local[1]), int(local[1])))
        return
    with extra("dask", "a sweep on a cluster"):
        import dask
        import distributed
    if local:
        with (
            dask.config.set(PATIENT | _LEAN),
            distributed.LocalCluster(
                n_workers=int(local[1]),
                threads_per_worker=1,
                dashboard_address=":0",
                preload=[_DEAF],
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        # Nobody's default: xarray would ask its scheduler before it writes a file.
        client = distributed.Client(where, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError):
        raise ClusterError(
            f"no scheduler answers at {where} within {_ANSWER_S:.0f} s; start one there, such as "
            "by dask scheduler, or let --dask local:4 start workers on this machine."
        ) from None
    with client:
        yield client


def require_client(client: Any) -> Client:
    """Check what came as ``client=``.

    Raises
    ------
    ExtraError
        If distributed is not installed.
    OptionError
        If it is no client, one for coroutines, or one that was closed.
    """
    with extra("dask", "a sweep on a cluster"):
        from distributed import Client
    if not isinstance(client, Client):
        raise OptionError(
            f"client is {describe(client)}; give a dask.distributed.Client, such as "
            "Client('tcp://…'), or Client(LocalCluster(n_workers=4, threads_per_worker=1))."
        )
    if client.asynchronous:
        raise OptionError("client is asynchronous; give Client(..., asynchronous=False).")
    if client.status in ("closing", "closed"):
        raise OptionError(
            "client is closed, or its scheduler was gone; connect again, such as by "
            "Client('tcp://…'), and make the call inside of its with block."
        )
    return client


def address_of(client: Client) -> str:
    """Name the scheduler; a client whose scheduler is gone does not know it any more."""
    return str(getattr(getattr(client, "scheduler", None), "address", "its address"))


def count_workers(client: Client) -> int:
    """Count the workers that a scheduler has; none where it is gone."""
    return len(list_workers(client))


def list_workers(client: Client) -> list[str]:
    """List the addresses of the workers that a scheduler has; none where it is gone."""
    return list(client.scheduler_info(n_workers=-1).get("workers", ()))


@contextmanager
def explained(client: Client, kept: Callable[[], str]) -> Iterator[None]:
    """Say what it means that a cluster does not answer.

    Parameters
    ----------
    client : distributed.Client
    kept : callable
        Says what is safe.
    """
    from distributed.comm.core import CommClosedError

    where = address_of(client)
    try:
        yield
    except (CancelledError, asyncio.CancelledError, CommClosedError, TimeoutError) as error:
        raise ClusterError(
            f"the cluster at {where} answers no more, or what it was at was cancelled there "
            f"({type(error).__name__}); {kept()}. Start it again, connect to it, and "
            "make the same call."
        ) from error


def hold(client: Client, content: bytes) -> Future[Any]:
    """Have a cluster hold some content, for the workers to have it from each other."""
    import dask

    # As the result of a task, it is there again when the worker that has it dies.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PB"}):
        return client.submit(held, content, key=f"{HELD}{uuid.uuid4().hex}", pure=False)


def held(content: bytes) -> bytes:
    """Return the content, in a worker that holds it from then on."""
    return content


def still_wanted() -> Callable[[], bool]:
    """Make what tells, in a worker, whether anybody waits for the task that it is at."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # called outside of one
        return lambda: True
    key = worker.get_current_task()

    def ask() -> bool:
        known = worker.state.tasks.get(key)
        return known is not None and known.state != "cancelled"

    return ask


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
