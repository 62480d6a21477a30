"""A packed sweep in a cluster: its workers open it while the driver is still at the first batch."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from layerscope.core.sweep import _worker as worker
from layerscope.core.sweep._connecting import hold, list_workers

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Sent"]


class Sent:
    """A packed sweep that a cluster holds, and that the workers it has now open at once.

    Parameters
    ----------
    client : distributed.Client
    content : bytes
        As `_shipping.pack` made it.

    Attributes
    ----------
    client : distributed.Client
    run : str
        Names the run, which a worker keeps open until it is closed.
    """

    def __init__(self, client: Client, content: bytes) -> None:
        self.client, self.run = client, uuid.uuid4().hex
        self._content, self._held = content, hold(client, content)
        # Bound to their workers, and to nothing else: tiles go wherever they can.
        self._opening = [
            client.submit(
                worker.prepare,
                self.run,
                self._held,
                workers=[address],
                key=f"layerscope-open-{uuid.uuid4().hex}",
                pure=False,
            )
            for address in list_workers(client)
        ]

    def content(self) -> Future[Any]:
        """Return the sweep as the cluster holds it; anew where workers died holding it."""
        if self._held.status == "error":
            self._held = hold(self.client, self._content)
        return self._held

    def close(self) -> None:
        """Leave the cluster as it was; nobody waits for it."""
        if self.client.status == "running":
            with suppress(Exception):
                self.client.cancel([*self._opening, self._held], force=True)
            with suppress(Exception):
                self.client.run(worker.close, self.run, wait=False, on_error="ignore")
