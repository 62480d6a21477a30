"""Revisions on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from layerscope.base.extras import extra
from layerscope.errors import CheckpointError

__all__ = ["REVISION", "fetch"]

REVISION = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
"""``org/name@revision``, such as ``EleutherAI/pythia-70m@step1000``."""

# The safe form where there is one.
_WANTED = (
    ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)


def fetch(repo: str, revision: str) -> Path:
    """Fetch the weights of a revision into the hub's own cache; return their folder.

    Raises
    ------
    CheckpointError
        If the revision can't be fetched or holds no weights.
    ExtraError
        If huggingface_hub is not installed.
    """
    with extra("huggingface", f"fetching {repo}@{revision} from the Hugging Face hub"):
        import huggingface_hub
    for patterns in _WANTED:
        try:
            folder = Path(
                huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
            )
        # The hub's errors are those of its HTTP library, which are OSErrors, and ValueErrors.
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"can't fetch {repo}@{revision}: {reason}") from None
        if any(folder.glob(patterns[0])) or any(folder.glob(patterns[1])):
            return folder
    raise CheckpointError(
        f"{repo}@{revision} holds no weights; there must be {_WANTED[0][0]} or {_WANTED[1][0]}, "
        "in one file or several with an index."
    )
