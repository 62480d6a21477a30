"""Single texts as a language model reads them, trained and changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from layerscope.core.batches import NO_TARGET, Arguments, Batch, tokens as tokens_of
from layerscope.core.metrics import predicted_class
from layerscope.core.running import find_logits
from layerscope.errors import DataError

if TYPE_CHECKING:
    from layerscope.core.session._session import Session

__all__ = ["Continuation", "Text", "TextReader"]

_IDS, _MASK = "input_ids", "attention_mask"
_PIECE = 256


@dataclass(frozen=True, eq=False)
class Text:
    """One text, token by token.

    Attributes
    ----------
    tokens : Tensor
        int64 of shape ``(T,)``, on the CPU: what the network was given.
    targets : Tensor
        Likewise, the token that is right after each; −100 where none counts.
    trained, predicted : Tensor
        Likewise, the token with the largest logit, of the trained network and as changed; −1 where
        logits hold NaN.
    trained_loss, loss : Tensor
        float of shape ``(T,)``, the cross-entropy of the target in nats; NaN where none counts.
    """

    tokens: Tensor
    targets: Tensor
    trained: Tensor
    predicted: Tensor
    trained_loss: Tensor
    loss: Tensor

    @property
    def counted(self) -> Tensor:
        """True where there is a target."""
        return self.targets != NO_TARGET

    @property
    def changed(self) -> Tensor:
        """True where there is a target and another token is predicted now."""
        return (self.predicted != self.trained) & self.counted


@dataclass(frozen=True)
class Continuation:
    """A prompt's continuations so far, token by token.

    Attributes
    ----------
    trained, changed : tuple of int
        By the trained network, and by the changed one.
    """

    trained: tuple[int, ...]
    changed: tuple[int, ...]


class TextReader:
    """Reads single texts with the network of a session, as trained and as changed.

    Parameters
    ----------
    session : Session
        Of a network that is given tokens, and predicts one at each position.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def texts(
        self, places: Sequence[int], state: Mapping[str, Any], view: str = "leaf"
    ) -> Iterator[Text]:
        """Score texts of the data token by token.

        Each is given to the network alone, so that losses can differ in the last bits from those
        of `Session.evaluate`.

        Parameters
        ----------
        places : sequence of int
            Numbers of examples, in the order that they are seen in.
        state, view
            As for `Session.evaluate`.

        Raises
        ------
        DataError
            If examples are no texts.
        """
        run, data = self._session.runner(state, view), self._session.data
        wanted, found, start = set(places), dict[int, Batch](), 0
        for length, batch in zip(data.lengths, data, strict=True):
            for place in sorted(wanted & set(range(start, start + length))):
                found[place] = _one_of(batch, length, place - start)
            start += length
        for place in places:
            yield _text_of(found[place], *run(found[place][0]))

    def continuations(
        self, tokens: Sequence[int], count: int, state: Mapping[str, Any], view: str = "leaf"
    ) -> Iterator[Continuation]:
        """Continue a prompt token by token, each the likeliest.

        Every token is that of a pass over all that stands before it, with no cache of keys and
        values, which a block that is passed over would leave with gaps.

        Parameters
        ----------
        tokens : sequence of int
            Of the prompt; at least one.
        count : int
            How many are to follow.
        state, view
            As for `Session.evaluate`.

        Yields
        ------
        Continuation
            As far as it is known: after each token of both networks. It ends early where a network
            outputs NaN.

        Raises
        ------
        DataError
            If the network is not given tokens, or there are none.
        """
        if not tokens:
            raise DataError("the prompt has no tokens; write at least one.")
        like, device = self._session.data.first[0], self._session.device
        run, plain = self._session.runner(state, view), self._session.runner({}, view)
        said = Continuation((), ())
        for _ in range(count):
            before, after = run(_prompt(like, [*tokens, *said.changed], device))
            if said.trained != said.changed:
                before, _ = plain(_prompt(like, [*tokens, *said.trained], device))
            following = _greedy_token(before), _greedy_token(after)
            if min(following) < 0:
                return
            said = Continuation((*said.trained, following[0]), (*said.changed, following[1]))
            yield said


def _one_of(batch: Batch, length: int, place: int) -> Batch:
    """Cut a single example out of a batch of this length, as a batch of one."""

    def cut(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == length
        return leaf[place : place + 1] if whole else leaf

    inputs, targets = batch
    if isinstance(inputs, Arguments):  # which tree_map takes for a leaf
        return Arguments({name: tree_map(cut, each) for name, each in inputs.items()}), cut(targets)
    return tree_map(cut, inputs), tree_map(cut, targets)


def _prompt(like: Any, ids: Sequence[int], device: torch.device) -> Any:
    """Put the tokens of a prompt into the form in which a network is given inputs.

    Parameters
    ----------
    like : Any
        The inputs of a batch, alone or by name.
    ids : sequence of int
    device : torch.device

    Raises
    ------
    DataError
        If inputs are not tokens.
    """
    row = torch.tensor([list(ids)], dtype=torch.int64, device=device)
    if isinstance(like, Mapping) and _IDS in like:
        named = {_IDS: row} | ({_MASK: torch.ones_like(row)} if _MASK in like else {})
        return Arguments(named) if isinstance(like, Arguments) else named
    first = like[0] if isinstance(like, (tuple, list)) and like else like
    if torch.is_tensor(first) and not first.is_floating_point() and first.ndim == 2:
        more = (torch.ones_like(row),) if isinstance(like, (tuple, list)) and len(like) == 2 else ()
        return (row, *more) if isinstance(like, (tuple, list)) else row
    raise DataError(
        "the network is not given tokens, so that no prompt can be continued; its inputs are "
        "neither a tensor of whole numbers of shape (n, T) nor 'input_ids' by name."
    )


def _text_of(batch: Batch, trained: Any, changed: Any) -> Text:
    """Score a batch of one text.

    Raises
    ------
    DataError
        If it is none: the network does not predict a token at each position.
    """
    inputs, targets = batch
    given = tokens_of(inputs, targets)
    before, after = find_logits(trained), find_logits(changed)
    if given is None or before.ndim != 3 or before.shape[:2] != targets.shape:
        raise DataError("these are no texts: there is no prediction of a token at each position.")
    wanted = targets[0]
    return Text(
        tokens=given[0].cpu(),
        targets=wanted.cpu(),
        trained=predicted_class(before)[0].cpu(),
        predicted=predicted_class(after)[0].cpu(),
        trained_loss=_losses(before[0], wanted),
        loss=_losses(after[0], wanted),
    )


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at each position, piece by piece, since vocabularies are large."""
    pieces = [
        cross_entropy(piece.float(), wanted, ignore_index=NO_TARGET, reduction="none")
        for piece, wanted in zip(
            torch.split(logits, _PIECE), torch.split(targets, _PIECE), strict=True
        )
    ]
    return torch.cat(pieces).masked_fill(targets == NO_TARGET, torch.nan).cpu()


def _greedy_token(outputs: Any) -> int:
    """Choose the token that follows: the largest logit at the last position; −1 at NaN."""
    return int(predicted_class(find_logits(outputs)[:, -1:])[0, -1])
