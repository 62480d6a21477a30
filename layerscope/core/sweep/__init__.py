"""The sweep: layer × epoch × perturbation × draw → an xarray Dataset.

>>> import layerscope
>>> ds = layerscope.sweep(net, (images, labels), checkpoints="runs/net")    # doctest: +SKIP
>>> ds.value.sel(metric="error", perturbation="reinitialize", draw=0)       # doctest: +SKIP

Every cell is bit for bit what the plain way gives: a copy of the network with the changed weights,
in evaluation mode, on every batch at the same batch size. What the change does not reach is
computed once per batch and reused by every cell. The network that was passed is lent for the time
of the sweep and comes back as it was, whatever happens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import xarray as xr
from torch import nn

from layerscope import results
from layerscope.base import validate
from layerscope.base.undoing import Undo
from layerscope.core import measures as measures_, perturb
from layerscope.core.checkpoints import Series
from layerscope.core.layers import LayerSelection, Norms
from layerscope.core.measures import Measure
from layerscope.core.metrics import Metric
from layerscope.core.networks import network_of
from layerscope.core.running import OutputSpec
from layerscope.core.stopping import Decision, Tolerance
from layerscope.core.sweep._agreeing import Agreement as Agreement, agree as agree, following
from layerscope.core.sweep._call import called
from layerscope.core.sweep._connecting import (
    address_of as address_of,
    connect,
    count_workers as count_workers,
    explained as explained,
    hold as hold,
    require_client as require_client,
    still_wanted as still_wanted,
)
from layerscope.core.sweep._crew import Crew
from layerscope.core.sweep._forecast import Forecast, forecast
from layerscope.core.sweep._grid import perturbations_for as perturbations_for
from layerscope.core.sweep._outer import OuterSweep
from layerscope.core.sweep._request import Request
from layerscope.core.sweep._store import DATASET
from layerscope.core.sweep._tasks import metrics_by_task as metrics_by_task, tasks_of as tasks_of
from layerscope.core.sweep._warning import warn
from layerscope.errors import OptionError, SweepWarning

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DATASET", "Forecast", "called", "connect", "sweep"]


def sweep(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    *,
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None = None,
    layers: LayerSelection = None,
    view: str = "leaf",
    norms: Norms | str | Mapping[str, str] = "own",
    perturbations: Sequence[perturb.PerturbationLike] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    measures: Sequence[str | Measure] | None = None,
    draws: int = 3,
    batch_size: int = 1000,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    out: str | os.PathLike[str] | None = None,
    epochs: Sequence[int] | None = None,
    model_epochs: Sequence[int] | None = None,
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
    output: OutputSpec = None,
    whole: bool = True,
    decide: Decision | Mapping[str, Any] | float | bool = False,
    tolerance: Tolerance | Mapping[str, Any] | float | None = None,
    outcomes: bool = False,
    callback: Callable[[xr.Dataset], object] | None = None,
    between: Callable[[], object] | None = None,
    show_progress: bool = True,
    plan: bool = False,
    client: Client | None = None,
) -> xr.Dataset:
    """Perturb each layer of a trained network, evaluate, and return what came out.

    Parameters
    ----------
    model : nn.Module, str or path
        A network, or the name, folder or file of one, see `layerscope.open_network`. Its weights
        are taken from the last checkpoint for the time of the sweep; without `checkpoints` they
        are its own. It comes back as it was. Of ``DataParallel`` the network inside is taken; what
        is drawn at random is the same for a compiled network as for the plain one. One that holds
        no values, as on the device meta or from ``init_empty_weights``, is a skeleton: a copy of
        it is filled from the last checkpoint, once, tensor by tensor.
    data : pair of tensors, mapping of tensors, iterable of batches, or mapping of data sets
        ``(inputs, targets)`` with inputs of shape ``(n, …)`` and class indices of shape ``(n,)``,
        or ``(n, T)`` for the token after each of T; −100 where there is none. Or a mapping from
        the network's arguments to tensors, with ``"labels"``, as tokenizers and collators make it;
        ``(input_ids, attention_mask, labels)``; rows of ``datasets``; or batches of any of these
        in a fixed order. Several inputs are ``((a, b), targets)``; a list that is one argument,
        ``((images,), targets)``.

        Where labels equal the tokens, as causal networks of Hugging Face's take them, and the
        network's own loss shifts them, metrics shift them too; nothing counts where the attention
        mask is 0. ``ds.attrs["data"]`` says how targets were read.

        A mapping from names to data sets of these forms, ``{"news": news, "code": code}``, is
        several tasks, which are swept one after the other; the Dataset has the dimension ``task``
        then. Data that bring ``metrics`` of their own, a list of Metric, are measured by these.

        What you give reaches the network as it is, of whatever type, in one piece or in batches;
        only data sets of `layerscope.data` normalise their own ``uint8`` pixels.
    checkpoints : series, mapping, or folder, optional
        From epoch to state dict, path or revision, or a folder of files named by epoch
        (``epoch-3.pt``, ``step_10.pt``), see `layerscope.open_series`; the last epoch is the
        trained network. Without any, the network is swept
        with the weights that it holds, and nothing can be set back: everything stands at epoch −1
        then, and ``ds.attrs["weights"]`` is the digest of these weights.
    layers : sequence of str, mapping, or callable, optional
        Names or patterns of rows; or from the name of a group to its patterns; or a function
        of a leaf's name and module that returns the name of its group, None to leave it out. By
        default every row of `view`.
    view : {"tensor", "leaf", "component", "block", "stage"}
        What makes a row: every parameter, every module that holds parameters of its own, or what
        lies together in a component, block or stage of the network, see `layers.find`.
    norms : {"own", "with", "kept"}, Norms or mapping
        What becomes of normalisation layers: rows of their own; moving with the layer that they
        normalise; never perturbed, not in ``fullmodel`` either. A mapping rules their
        ``"parameters"`` and running ``"statistics"`` apart.
    perturbations : sequence of str, Perturbation or function, optional
        ``"reinitialize"`` (to each of `epochs`), ``"rerandomize"`` (`draws` times), …, or your own:
        a `Perturbation`, or a function of a `perturb.Site` that returns tensors by name. By default
        these two, and without checkpoints ``"zero"`` and ``"rerandomize_matched"``.
    metrics : sequence of str or Metric, optional
        ``"error"``, ``"accuracy"``, ``"loss"``, … of `metrics.METRICS`, or your own; by default
        error and loss, and perplexity where an example has several targets, as text has. Targets
        may be of any form where all are your own; ``"mse"`` and ``"bce"`` take those of
        regression and of several labels.
    measures : sequence of str or Measure, optional
        Measures of one pass to put beside the exact effects, as ``ds.measure_value``:
        ``"block_influence"``, ``"angular_distance"``, … of `layerscope.measures.MEASURES`, or your
        own; `layerscope.stats.agreement` says whether they rank the layers alike.
    draws : int
        Random draws of each stochastic perturbation.
    batch_size : int
        For tensors; batches of your own keep their size. Where memory runs out, it is halved,
        with a warning, and the sweep starts again; ``ds.attrs["batch_size"]`` says what it came to,
        of your own batches too: a number, or ``"5 to 16, as given"`` where they differ.
        Under `decide` and `tolerance`, batches of your own are put together, shuffled, and cut
        again into as many examples as the largest of them had. What cells reuse of a batch may
        take a quarter of the memory that is free, 4 GiB at most; ``ds.attrs["reuse"]`` says how
        much that was (``budget_bytes``), and how much of it was taken (``kept_bytes``).
    device : str or torch.device
        ``"auto"`` takes the first of cuda, mps and cpu that is present.
    dtype : str or torch.dtype, optional
        ``"bfloat16"`` or ``"float16"`` to compute under autocast; by default as the network is.
    out : path, optional
        Folder to keep what is done in, and the Dataset at the end. The same call goes on where it
        was stopped, and several processes with the same call share the work. Files of others in
        it stay as they are; one that has a name which the sweep needs is refused. Every task and
        every one of `model_epochs` has a folder of its own in it, such as ``task-news``.
    epochs : sequence of int, optional
        Which of the recorded epochs to re-initialise to; all by default.
    model_epochs : sequence of int, optional
        Recorded epochs whose weights count as the trained network, one after the other, so that one
        sees when during training a layer became critical. Layers are set back to recorded epochs
        up to that one. The Dataset has the dimension ``model_epoch`` then. By default the last
        epoch alone is the trained network.
    seed : int
        Of the random draws.
    fresh : callable, optional
        Returns a freshly initialised network, for re-randomisation. Without it a layer is drawn
        by its modules' own methods where these and the first checkpoint could be draws of one
        initialiser, else from the values of the first checkpoint; ``ds.initializer`` says which.
    output : str, int or callable, optional
        What metrics read of what the network returns: its key or attribute, its place, or a
        function that returns it, as a tensor of shape ``(n, …)`` with classes in the last
        dimension. By default the logits, where ``(n, classes, …)`` is recognised by the targets'
        shape.
    whole : bool
        Add the row ``fullmodel``, in which every layer is perturbed at once. It is the only one
        that needs memory for a second network. Where there is none, the row has no cells but for
        what leaves weights alone, and ``ds.attrs["refused"]`` and a notice say so.
    decide : bool, float, mapping or Decision
        Stop a cell once its layer is settled to be robust or critical; see
        `layerscope.core.stopping.Decision`. The verdicts are in ``ds.verdict``. Examples come in a
        random order then, drawn from `seed`, so `data` must be tensors, or batches that can be put
        together: of one length, padded where need be. What is settled is the mean over targets
        that count, however many an example has. The value of a cell that was stopped is biased
        away from the limit, since it stops when it happens to be clear; trust the verdict, or
        leave `decide` out where the value itself matters.
    tolerance : float, mapping or Tolerance, optional
        Stop a cell once the interval of its value, ``ds.lower`` to ``ds.upper``, is no wider than
        this to either side, at a confidence that holds however often one looks. Otherwise as
        `decide`.
    outcomes : bool
        Keep what every example gave, in ``outcomes.nc`` below `out`, or below the folder of each
        of several tasks or `model_epochs`; opens with xarray.
    callback : callable
        Called after the first batch, and then at most twice a second, with the Dataset as far as
        it is known; for plots that sharpen while the sweep runs. What it raises stops the sweep.
    between : callable, optional
        Called before every cell, for what must not wait until a batch is through, such as a
        button that stops the sweep by raising.
    show_progress : bool
    plan : bool
        Sweep nothing, and return what it would take: cells, arithmetic, memory, bytes of
        checkpoints, time for one worker, for several and for those of `client`. The first batch
        runs through the network for it, and a few weights are made. Nothing is written to `out`;
        what it holds already is told, and not counted.
    client : distributed.Client, optional
        Have the cells computed by the workers of a Dask cluster, to the same bits as here with as
        many threads as a worker has, which is one unless you set it. Workers need layerscope, the
        packages that the network is of, and the checkpoints under the same paths; `out` is written
        here alone. Each finds `device` for itself, which all must find of one kind; where this
        process has none of it, its own passes (``ds.measure_value`` is of them) are on another
        one, and ``ds.attrs["driver"]`` says which. A worker that would compute something else is
        refused. When the sweep ends, is stopped or fails, the cluster is free for the next.

    Returns
    -------
    xarray.Dataset
        As `layerscope.results` describes; with ``plan=True`` a `Forecast` instead, which shows
        itself and has the numbers.

    Raises
    ------
    CheckpointError
        If a checkpoint is damaged, does not fit the network, or holds NaN in a row that is swept.
    ClusterError
        If the cluster does not answer any more, a worker would compute something else, or a cell
        kills whatever worker computes it.
    LayerError
        If a pattern matches nothing, there is no such view or rule, or a layer's initialisation
        is unknown.
    DataError
        If the data have not the form above.
    OptionError
        If an argument has a value that is not allowed, or a perturbation goes back to a checkpoint
        where there are none.
    ResultError
        If `out` belongs to another sweep, or can't be written to.

    Warns
    -----
    SweepWarning
        At the end, where the numbers alone would not show it: labels that were shifted, cells that
        can't be, modules that could not be reused, random values taken on trust; see
        `results.notices`.

    Examples
    --------
    >>> import torch
    >>> from layerscope import models
    >>> net, start = models.build("fcn-1x8", inputs=(4,), classes=2), models.build("fcn-1x8",
    ...     seed=1, inputs=(4,), classes=2)
    >>> pair = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    >>> ds = sweep(net, pair, checkpoints={0: start.state_dict(), 5: net.state_dict()}, draws=2)
    >>> dict(ds.value.sizes)
    {'layer': 3, 'epoch': 3, 'perturbation': 2, 'draw': 2, 'metric': 2}
    """
    call = called(sweep, locals())
    began = time.monotonic()
    draws, seed = validate.integer(draws, "draws", 1, 3), validate.integer(seed, "seed")
    batch_size = validate.integer(batch_size, "batch_size", 1, 64)
    whole, outcomes = validate.flag(whole, "whole"), validate.flag(outcomes, "outcomes")
    plan = validate.flag(plan, "plan")
    folder = None if out is None else validate.path(out, "out", "layers")
    if outcomes and folder is None:
        raise OptionError("outcomes=True keeps what every example gave in a folder; name it: out=.")
    if callback is not None:
        validate.function(callback, "callback", "callback(ds)")
    if between is not None:
        validate.function(between, "between", "between()")
    planned = client if plan and isinstance(client, Crew) else None
    client = None if client is None or planned else require_client(client)
    kinds = perturbations_for(checkpoints, perturbations)  # before anything is read
    request = Request(
        network_of(model, checkpoints),
        data,
        checkpoints=checkpoints,
        layers=layers,
        view=view,
        norms=Norms.of(norms),
        perturbations=kinds,
        metrics=metrics,
        draws=draws,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        epochs=epochs,
        model_epochs=model_epochs,
        seed=seed,
        fresh=fresh,
        output=output,
        whole=whole,
        rule=_rule(decide, tolerance),
        outcomes=outcomes,
        measures=() if measures is None else measures_.parse(measures),
    )
    workers = agree(client, device, show_progress)
    with following(workers):
        parts = replace(request, workers=workers).parts(folder, call, began)
        if plan:
            # Whoever asks for it knows what he gets; all others get a Dataset, as it says.
            crew = planned if client is None else Crew.of(client)
            if crew is not None:
                crew = crew.import_for(parts[0][1].plan.subject.model, client)
            return cast("xr.Dataset", forecast(parts, time.monotonic() - began, crew))
        one = parts[0][1] if parts[0][0] == {} else None
        with Undo() as undo, undo:
            if one is not None and client is None:  # to whom it is sent before it is lent
                one.stay_lent(undo)
            work = OuterSweep(parts, folder=folder, call=call) if one is None else one.open()
            if folder is not None and (unsaid := parts[0][1].not_described):
                warn(
                    f"{'; '.join(unsaid)}: that can't be described, so a sweep into {folder} goes "
                    "on even if it is another by then."
                )
            ds = work.run(callback, between, show_progress=show_progress)
    for notice in results.notices(ds):
        warn(notice, SweepWarning)
    return ds


def _rule(
    decide: Decision | Mapping[str, Any] | float | bool,
    tolerance: Tolerance | Mapping[str, Any] | float | None,
) -> Decision | Tolerance | None:
    if decide is not False and tolerance is not None:
        raise OptionError("decide= and tolerance= both came; a cell can stop by one rule only.")
    if decide is not False:
        return Decision.of(decide)
    return None if tolerance is None else Tolerance.of(tolerance)
