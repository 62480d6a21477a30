"""Checkpoints in memory that are not copies: of the network as it is now, or of one another."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from layerscope.base.tensors import named_tensors, shared_groups
from layerscope.core.checkpoints import _source as files
from layerscope.errors import CheckpointError

__all__ = ["require_apart", "require_copies"]

_COPY = "state_dict() does not copy; keep copy.deepcopy(net.state_dict()) instead"


def require_apart(sources: Mapping[int, files.Checkpoint]) -> None:
    """Refuse two epochs in the same memory: what a loop without copying leaves.

    Raises
    ------
    CheckpointError
    """
    seen: dict[frozenset[int], int] = {}
    for epoch, source in sources.items():
        if isinstance(source, files.InMemory) and (memory := source.memory()):
            if memory in seen:
                raise CheckpointError(
                    f"the checkpoints of epochs {seen[memory]} and {epoch} are the same memory. "
                    f"{_COPY}."
                )
            seen[memory] = epoch


def require_copies(
    model: nn.Module,
    sources: Mapping[int, files.Checkpoint],
    names: Mapping[int, Mapping[str, str]],
) -> None:
    """Refuse checkpoints that share memory in which training writes, with the network or another.

    Such a checkpoint holds the values of now, not those of its epoch. The last one may lie in the
    network, whose values it is to have.

    Parameters
    ----------
    model : nn.Module
    sources : mapping
        By epoch.
    names : mapping
        By epoch, from each name in the network to that in the checkpoint.

    Raises
    ------
    CheckpointError
        Names the first such tensor.
    """
    last = max(sources)
    own = named_tensors(model)
    # None stands for the network.
    held: list[tuple[int | None, str, Tensor]] = [(None, name, own[name]) for name in _moving(own)]
    for epoch, source in sources.items():
        if isinstance(source, files.InMemory):
            held += [(epoch, n, source.tensor(names[epoch][n])) for n in _moving(own)]
    for cluster in shared_groups([tensor for _, _, tensor in held]):
        holders = {held[index][0] for index in cluster}
        if len(holders) > 1 and holders != {None, last}:
            first = min(epoch for epoch in holders if epoch is not None)
            _refuse(first, holders - {first}, held[min(cluster)][1])


def _refuse(epoch: int, others: set[int | None], name: str) -> None:
    if None in others:
        raise CheckpointError(
            f"the checkpoint of epoch {epoch} shares memory with the network ({name}), so that it "
            f"holds what the network holds now. {_COPY}."
        )
    other = min(each for each in others if each is not None)
    raise CheckpointError(
        f"the checkpoints of epochs {epoch} and {other} share memory ({name}), so that both hold "
        f"what was written there last. {_COPY}."
    )


def _moving(held: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that training writes to: parameters, and running statistics.

    Frozen parameters and other buffers, such as a mask, may be the same for all; where every
    parameter is frozen, it was to evaluate the network.
    """
    parameters = {name: t for name, t in held.items() if isinstance(t, nn.Parameter)}
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    statistics = [n for n in held if n.rpartition(".")[2].startswith("running_")]
    return [*(trained or parameters), *statistics]
