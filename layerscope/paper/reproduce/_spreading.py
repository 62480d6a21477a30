"""A run on a cluster: what its notebook will train is trained first, all at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import ClusterError, LayerscopeError, OptionError
from layerscope.paper import experiments
from layerscope.paper.reproduce._executing import NotebookError, execute

if TYPE_CHECKING:
    from distributed import Client

    from layerscope.core.sweep import Agreement

__all__ = ["agree", "settings", "train_ahead"]


def agree(client: Client | None, device: str, show_progress: bool) -> Agreement | None:
    """Ask the workers what they compute with; None where there are none to be asked.

    Raises
    ------
    ClusterError, OptionError
        As `layerscope.sweep` does; also if the notebook's process can't reach them.
    """
    if client is None:
        return None
    from layerscope.core import sweep as engine

    client = engine.require_client(client)
    if engine.address_of(client).startswith("inproc://"):
        raise OptionError(
            "the workers are threads of this process, which the notebook's own can't reach; give "
            "a client of LocalCluster(processes=True), or of a scheduler elsewhere."
        )
    return engine.agree(client, device, show_progress)


def settings(workers: Agreement | None) -> dict[str, str]:
    """Environment in which the notebook finds the workers, and computes as they do."""
    if workers is None:
        return {}
    from layerscope.core import sweep as engine

    return {
        experiments.CLUSTER_VARIABLE: engine.address_of(workers.client),
        "OMP_NUM_THREADS": str(workers.threads),
    }


def train_ahead(
    source: Path, draft: Path, given: Mapping[str, Any], workers: Agreement | None
) -> None:
    """Train what a notebook will ask for before it asks what came of it.

    The notebook runs up to there, training nothing; whatever it asks for later, it has trained when
    it does.

    Raises
    ------
    ClusterError
        If a worker does not see the folder of series, or the cluster answers no more.
    """
    if workers is None:
        return
    place = draft / "rehearsal.tmp"
    place.mkdir()
    os.environ[experiments.REHEARSAL_VARIABLE] = str(place.resolve())
    try:
        with suppress(NotebookError):  # with which it ends; the run itself says what else is wrong
            execute(source, place, given, place / "notebook")
    finally:
        del os.environ[experiments.REHEARSAL_VARIABLE]
    try:
        series = Path(os.environ[experiments.SERIES_VARIABLE])
        experiments.spread(workers.client, experiments.noted(place), series)
    except ClusterError:
        raise
    except LayerscopeError:
        pass  # of a training, which the run itself comes upon in the cell that asks for it
    finally:
        shutil.rmtree(place, ignore_errors=True)
