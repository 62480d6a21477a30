"""Networks by name, folder or file, with their weights, and the tokenizers that belong to them.

>>> from layerscope import open_network, open_tokenizer
>>> net = open_network("models/SmolLM2-135M")                               # doctest: +SKIP
>>> net = open_network("EleutherAI/pythia-70m@step1000")                    # doctest: +SKIP
>>> net, tokenizer = open_network("net.gguf"), open_tokenizer("net.gguf")   # doctest: +SKIP

Nothing but weights is read from a file, and no code that comes with a network is run.
"""

from __future__ import annotations

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.networks._dispatched import require_undispatched as require_undispatched
from layerscope.core.networks._finding import Place as Place
from layerscope.core.networks._opening import (
    is_network as is_network,
    load_tokenizer as load_tokenizer,
    network_of as network_of,
    open_network,
    open_tokenizer,
)
from layerscope.core.networks._packed import (
    find_packed as find_packed,
    require_readable as require_readable,
)
from layerscope.core.networks._skeleton import (
    is_skeleton as is_skeleton,
    materialize as materialize,
)
from layerscope.core.networks._tokenizers import (
    is_panic as is_panic,
    load_model as load_model,
    read_tokenizer as read_tokenizer,
)

__all__ = ["open_network", "open_tokenizer"]
