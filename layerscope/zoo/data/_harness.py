"""Tasks of the Language Model Evaluation Harness (lm-eval) as data: an example is a document.

Tokens, padding, order and scores are lm-eval's own. What it asks of a network are requests, a
context and its continuation each; the requests of a document stay in one batch here, since its
score needs all of them. Within a batch they lie as lm-eval puts them: longest first, filled up with
zeros on the right, one row for requests that differ in a last single token alone. Documents come in
the order of their longest request (those of a rolling log-likelihood as they are), so that batches
of documents with one row each are lm-eval's own, bit for bit. Of documents with several rows its
batches mix what belongs to different ones, so that log-likelihoods differ in the last bits, as
they do between two batch sizes of lm-eval's.

References
----------
Gao, L. et al. (2024). The Language Model Evaluation Harness. doi:10.5281/zenodo.12608602
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.base import validate
from layerscope.core.batches import Grouped
from layerscope.errors import DataError
from layerscope.zoo.data import _requests as requests
from layerscope.zoo.data._aggregations import metrics_of

__all__ = ["HarnessTask", "harness_task"]

_AT_ONCE = 2**26
"""Logits that are turned into log-probabilities together."""


def harness_task(
    task: Any,
    tokenizer: Any,
    *,
    max_length: int = 2048,
    num_fewshot: int | None = None,
    limit: int | None = None,
    add_bos_token: bool | None = None,
) -> HarnessTask:
    """Load a task of lm-eval whose score comes from log-likelihoods, for a causal network.

    Parameters
    ----------
    task : str, path, mapping or lm_eval Task
        The name of a task; a YAML file or a configuration of one's own; or a task of lm-eval.
    tokenizer : transformers tokenizer
        Of the network.
    max_length : int
        Tokens that the network sees at most, as ``HFLM(max_length=…)``; what is longer loses its
        beginning, or is cut into windows.
    num_fewshot : int, optional
        Worked examples before each question; by default as the task says.
    limit : int, optional
        Take the first documents only.
    add_bos_token : bool, optional
        As for ``HFLM``.

    Returns
    -------
    HarnessTask
        To be given to `layerscope.sweep`, alone or as one of several tasks.

    Raises
    ------
    DataError
        If its scores come from generated text, or none is a mean over documents.
    ExtraError
        If lm-eval is not installed.
    """
    if limit is not None:
        limit = validate.integer(limit, "limit", 1, 100)
    found = requests.build(task, num_fewshot=num_fewshot, limit=limit)
    encoded = requests.encode(
        found, tokenizer, validate.integer(max_length, "max_length", 2, 2048), add_bos_token
    )
    if not encoded:
        raise DataError(f"the task {requests.name_of(found)} has no documents.")
    return HarnessTask(found, encoded)


class HarnessTask:
    """Documents of a task with what is asked about each; see `harness_task`.

    Parameters
    ----------
    task : lm_eval Task
    documents : sequence of Document

    Attributes
    ----------
    name : str
    metrics : list of Metric
        Scores that are means over documents, by lm-eval's names.
    left_out : dict of str to str
        Scores that are none, and why.
    doc_ids : list of int
        Of the documents in the order in which they are evaluated: an example's place in a
        Dataset of outcomes leads from here to lm-eval's ``doc_id``.
    chance : float
        Error by guessing, of a multiple choice; NaN of others.
    fingerprint : str
        SHA-256 of the tokens, the documents, and the task's configuration.
    """

    def __init__(self, task: Any, documents: Sequence[requests.Document]) -> None:
        self._task = task
        rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
        self._documents = list(documents) if rolling else sorted(documents, key=lambda d: d.key)
        self.name = requests.name_of(task)
        self.doc_ids = [document.doc_id for document in self._documents]
        scores = self.scores(self._documents[0], self._documents[0].silent())
        self.metrics, self.left_out = metrics_of(task, scores)
        if not self.metrics:
            why = "; ".join(f"{name} {reason}" for name, reason in self.left_out.items())
            raise DataError(f"the task {self.name} has no score that is a mean: {why or 'none'}.")
        self.chance = _chance(task, self._documents)
        self.fingerprint = _fingerprint(task, self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __repr__(self) -> str:
        scores = ", ".join(metric.name for metric in self.metrics)
        return f"<{len(self):,} documents of {self.name}, measured by {scores}>"

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Documents]]:
        """Yield tokens, shape ``(rows, length)``, and the documents that they are of.

        Parameters
        ----------
        size : int
            Documents in a batch.
        order : Tensor, optional
            Shape ``(n,)``; by the longest request by default.
        """
        places = range(len(self)) if order is None else order.tolist()
        for start in range(0, len(places), size):
            chosen = [self._documents[place] for place in places[start : start + size]]
            yield _batch(self, chosen)

    def scores(self, document: requests.Document, answers: Sequence[Any]) -> dict[str, Any]:
        """Score a document from the log-likelihoods of its requests, as the task does."""
        found: dict[str, Any] = self._task.process_results(document.doc, list(answers))
        return found


@dataclass(frozen=True)
class _Asked:
    """One request in a batch: its row, and there the positions of what is to be said."""

    row: int
    start: int
    tokens: tuple[int, ...]


class Documents(Grouped):
    """Documents of one batch: what is asked about each, and what a network's outputs score.

    Parameters
    ----------
    task : HarnessTask
    documents : sequence of Document
    asked : sequence of sequence of _Asked
        Of each document.
    """

    __slots__ = ("_asked", "_documents", "_known", "_task", "rows")

    def __init__(
        self,
        task: HarnessTask,
        documents: Sequence[requests.Document],
        asked: Sequence[Sequence[_Asked]],
    ) -> None:
        self._task, self._documents, self._asked = task, list(documents), [*map(list, asked)]
        self.rows = [len({each.row for each in of}) for of in self._asked]
        self._known: tuple[weakref.ref[Tensor], list[dict[str, Any]]] | None = None

    def __repr__(self) -> str:
        return f"documents {[document.doc_id for document in self._documents]}"

    def __deepcopy__(self, _: Any) -> Documents:
        return self  # which nobody changes

    def log_likelihoods(self, outputs: Tensor) -> list[list[tuple[float, bool]]]:
        """Log-likelihood of each continuation, and whether the network would have said just it.

        Parameters
        ----------
        outputs : Tensor
            Logits, shape ``(rows, length, classes)``.

        Returns
        -------
        list of list of (float, bool)
            Of each document, for each of its requests.
        """
        flat = [each for asked in self._asked for each in asked]
        rows = [each.row for each in flat for _ in each.tokens]
        places = [each.start + at for each in flat for at in range(len(each.tokens))]
        said = torch.tensor([token for each in flat for token in each.tokens])
        values, greedy = _log_probabilities(outputs, rows, places, said)
        sizes = [len(each.tokens) for each in flat]
        pieces = zip(torch.split(values, sizes), torch.split(greedy, sizes), strict=True)
        found = iter([(float(value.sum()), bool(best.all())) for value, best in pieces])
        return [[next(found) for _ in asked] for asked in self._asked]

    def scores(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Scores of each document by name, as lm-eval's ``process_results`` gives them."""
        # Several metrics are read from the same outputs, one after the other.
        if self._known is None or self._known[0]() is not outputs:
            answers = self.log_likelihoods(outputs)
            scored = [
                self._task.scores(document, document.answers(of))
                for document, of in zip(self._documents, answers, strict=True)
            ]
            self._known = weakref.ref(outputs), scored
        return self._known[1]


def _log_probabilities(
    outputs: Tensor, rows: Sequence[int], places: Sequence[int], said: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token at its place, and whether it is the largest, on the CPU."""
    count = max(1, _AT_ONCE // outputs.shape[-1])
    device = outputs.device
    where = torch.tensor([rows, places], device=device)
    values, greedy = [], []
    for start in range(0, len(rows), count):
        row, place = where[:, start : start + count]
        wanted = said[start : start + count].to(device)
        logits = torch.log_softmax(outputs[row, place], dim=-1)
        values.append(logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1))
        greedy.append(logits.argmax(-1) == wanted)
    return torch.cat(values).cpu(), torch.cat(greedy).cpu()


def _batch(task: HarnessTask, documents: Sequence[requests.Document]) -> tuple[Tensor, Documents]:
    """Lay the requests of documents out as lm-eval lays out a batch."""
    rows = [(place, row) for place, document in enumerate(documents) for row in document.rows]
    rows.sort(key=lambda each: each[1].key)
    length = max(len(row.tokens) for _, row in rows)
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    asked: list[dict[int, _Asked]] = [{} for _ in documents]
    for index, (place, row) in enumerate(rows):
        inputs[index, : len(row.tokens)] = torch.tensor(row.tokens)
        for number, said in row.continuations:
            start = len(row.tokens) - len(said)
            asked[place][number] = _Asked(index, start, said)
    return inputs, Documents(task, documents, [[of[n] for n in sorted(of)] for of in asked])


def _chance(task: Any, documents: Sequence[requests.Document]) -> float:
    if task.OUTPUT_TYPE != "multiple_choice":
        return float("nan")
    shares = [1 / max(1, len(task.doc_to_choice(document.doc))) for document in documents]
    return 1 - sum(shares) / len(shares)


def _fingerprint(task: Any, documents: Sequence[requests.Document]) -> str:
    seen = hashlib.sha256(json.dumps(requests.describe(task), default=str).encode())
    for document in documents:
        told = [document.doc_id, document.doc, [row.told for row in document.rows]]
        seen.update(json.dumps(told, default=str).encode())
    return seen.hexdigest()
