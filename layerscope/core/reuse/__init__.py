"""Forward passes with changed weights that compute only what the change can reach.

A sweep asks the same question many times: what does the network say about this batch if one
layer has other weights? Most of each answer is known already. A `Recorder` runs the network once
over the batch, keeps what later passes will ask for, and lets whole modules hand that back:

>>> with Recorder(model) as recorder:                             # doctest: +SKIP
...     for group in recorder.walk(lambda: model(inputs), [Group.of("conv1"), Group.of("fc")]):
...         # here the caller swaps parameters: model.fc.weight.data = other
...         outputs = recorder.replay(lambda: model(inputs), group)

Every output has the bits that a copy of the network with those weights would give.

Why that holds
--------------
Nothing is assumed about the network's source; it is watched. For each new form of input, one
extra pass under a dispatch mode writes a log of every operator: the module call it ran in, the
storages it read and wrote. Storages, not tensors, so that views, tied weights, ``.data`` and
in-place operations are seen for what they are. From the log, for one group of changed modules:

1. *What the change reaches.* An operator is reached if it reads a storage that holds a changed
   tensor, a random number or memory of unknown origin, or that a reached operator wrote. A value
   that becomes a Python number may steer the program, so once a reached one does, all that
   follows is reached.
2. *What is skipped.* The outermost module calls without a reached operator and without a reached
   output, which therefore compute what they computed before. It does not matter whether they
   come before the changed module or beside it. Calls with any other effect are never skipped,
   nor is what contains them: own state, random numbers, user's hooks, compiled code.
3. *What they hand back.* The very tensors, so that strides and alignment stay; that is right if
   whatever still runs reads them only after the last write. Where something that still runs
   writes to them, each pass gets its own copy of the whole storage, on which the tensors are laid
   out as before, so that what was an alias stays one. What only skipped modules read is a stand-in
   of the right form that takes no memory. A skip for which none of this is right is given up, and
   the calls inside it are considered instead.

A module can also be *passed over*: wherever it is called, a copy of the hidden states, which are
the first tensor that it is given, stands for what it returns.

>>> outputs = recorder.replay(call, Group.of(skipped=["block2"]))  # doctest: +SKIP

All its operators then count as reached, with all that they wrote, and what it was given counts as
read. Where the program could tell without an operator that it was passed over, the whole pass is
run plainly: if it holds hooks, changes attributes of modules, or if the hidden states that it
returned are not laid out like a copy of those that it was given, in memory of their own. If it
returned more than hidden states, which the program now finds missing, nothing after it is reused.

*Other blocks* may run at a place, by a `layerscope.core.running.Route`:

>>> outputs = recorder.replay(call, Group.of(routes={"block2": (("block2", "block2"),)}))
... # doctest: +SKIP

The log says nothing about what they do, so only what comes before the first such place is reused.
Besides hidden states each gets what it was given in the recorded pass, or at its own place what it
is given now.

The recording itself runs without the mode, as plainly as any other pass, and is compared with the
log: the calls, their order, the outputs' forms, the version counters. Each replay checks that the
calls come in order, and afterwards that no remembered tensor was changed. Whatever does not fit
is run again plainly and counted.

Taken on trust: the network is deterministic; it reads tensors through PyTorch's operators (the
usual ways around them, such as ``numpy()`` and ``tolist()``, are noticed, a C extension that is
given a bare tensor is not); it does not catch errors that an operator raises because of the
values it got; it has no effect on Python objects other than its modules. `call` runs the network
over the same batch each time, and enters ``autocast``, if at all, inside itself, since autocast
caches cast weights. Don't use the network in two threads at once.
"""

from __future__ import annotations

from layerscope.core.reuse._forms import Group, Recording
from layerscope.core.reuse._recorder import Recorder
from layerscope.core.reuse._state import moved_by
from layerscope.core.reuse._timing import PassCosts, Work, time_passes

__all__ = ["Group", "PassCosts", "Recorder", "Recording", "Work", "moved_by", "time_passes"]
