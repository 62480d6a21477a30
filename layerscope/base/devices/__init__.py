"""The one place where a device is named.

>>> from layerscope.base import devices
>>> str(devices.resolve("cpu"))
'cpu'
"""

from __future__ import annotations

from layerscope.base.devices._arithmetic import arithmetic
from layerscope.base.devices._choice import describe, present, resolve
from layerscope.base.devices._memory import (
    KeepMemory,
    free_bytes,
    is_apart,
    out_of_memory,
    release,
    send,
    spare_bytes,
    trim,
    write,
)
from layerscope.base.devices._precision import (
    autocast,
    double,
    multiplies_bfloat16,
    precision,
    short_attention,
)
from layerscope.base.devices._state import (
    Generators,
    NoGradients,
    SteadyChoice,
    Threads,
    random_states,
    same_states,
    wait,
)

__all__ = [
    "Generators",
    "KeepMemory",
    "NoGradients",
    "SteadyChoice",
    "Threads",
    "arithmetic",
    "autocast",
    "describe",
    "double",
    "free_bytes",
    "is_apart",
    "multiplies_bfloat16",
    "out_of_memory",
    "precision",
    "present",
    "random_states",
    "release",
    "resolve",
    "same_states",
    "send",
    "short_attention",
    "spare_bytes",
    "trim",
    "wait",
    "write",
]
