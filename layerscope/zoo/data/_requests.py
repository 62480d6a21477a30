"""Requests of a task of lm-eval to a network, in tokens: by lm-eval's own code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from layerscope.base.extras import extra
from layerscope.base.validate import describe as describe_value
from layerscope.errors import DataError, OptionError

__all__ = ["Document", "Row", "build", "describe", "encode", "name_of"]

_FEWSHOT_SEED = 1234  # lm-eval's own
_PURPOSE = "tasks of the Language Model Evaluation Harness"
_KINDS = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")


@dataclass(frozen=True)
class Row:
    """Tokens that the network sees, and what may follow.

    Attributes
    ----------
    tokens : tuple of int
    whole : tuple of int
        With the last token of the first continuation, by which lm-eval sorts.
    continuations : tuple of (int, tuple of int)
        Number of the request in its document, and the tokens whose probability it asks for: the
        last of them follows the row, the others are its end.
    """

    tokens: tuple[int, ...]
    whole: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def key(self) -> tuple[int, tuple[int, ...]]:
        """Sort longest first, as lm-eval does."""
        return -len(self.whole), self.whole

    @property
    def told(self) -> list[Any]:
        """All of it in plain values."""
        return [self.tokens, self.continuations]


@dataclass(frozen=True)
class Document:
    """A document, and the rows that ask about it."""

    doc_id: int
    doc: Any
    rows: tuple[Row, ...]
    rolling: bool

    @cached_property
    def key(self) -> tuple[int, tuple[int, ...]]:
        """Sort by the longest row, longest first."""
        return min(row.key for row in self.rows)

    def answers(self, found: Sequence[tuple[float, bool]]) -> list[Any]:
        """Put log-likelihoods of requests into the form that a task takes."""
        # Windows are summed in their order, as lm-eval does.
        return [sum(value for value, _ in found)] if self.rolling else list(found)

    def silent(self) -> list[Any]:
        """Answers of no meaning, to see what scores there are."""
        count = sum(len(row.continuations) for row in self.rows)
        return self.answers([(-1.0 - at, False) for at in range(count)])


def build(task: Any, *, num_fewshot: int | None, limit: int | None) -> Any:
    """Make a task of lm-eval from its name, file or configuration, with its requests.

    Raises
    ------
    DataError
        If it generates, or filters what it is given.
    OptionError
        If it is none of these.
    """
    found = _task(task)
    kind = str(getattr(found, "OUTPUT_TYPE", None))
    if kind not in _KINDS:
        raise DataError(
            f"the task {name_of(found)} is scored by what a network generates ({kind}), token "
            "after token, where a sweep runs it once; take a task of multiple choice or "
            "log-likelihood. A score of one's own from generation is a Metric on a network that "
            "generates, see layerscope.data.Task."
        )
    if getattr(getattr(found, "config", None), "filter_list", None):
        raise DataError(f"the task {name_of(found)} filters answers, which is not done here.")
    if num_fewshot is not None:
        found.set_config(key="num_fewshot", value=num_fewshot)
    found.set_fewshot_seed(seed=_FEWSHOT_SEED)
    found.build_all_requests(limit=limit, rank=0, world_size=1)
    return found


def encode(
    task: Any, tokenizer: Any, max_length: int, add_bos_token: bool | None
) -> list[Document]:
    """Turn the requests of a task into rows of tokens, document by document."""
    recorder = _recorder(tokenizer, max_length, add_bos_token)
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    by_document: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    found = []
    for doc_id, instances in by_document.items():
        ordered = sorted(instances, key=lambda each: each.idx)
        pairs = recorder.pairs(ordered, rolling=rolling)
        if not pairs or not all(context and said for context, said in pairs):
            raise DataError(
                f"document {doc_id} of the task {name_of(task)} asks for no token: is a "
                "continuation empty, or does it begin without the space that sets it apart?"
            )
        rows = _rows(pairs, max_length, apart=rolling)
        found.append(Document(doc_id, ordered[0].doc, rows, rolling))
    return found


def describe(task: Any) -> dict[str, Any]:
    """Describe a task in plain values."""
    with extra("lm-eval", _PURPOSE):
        import lm_eval
    config = task.dump_config() if hasattr(task, "dump_config") else {}
    version = getattr(lm_eval, "__version__", "")
    return {"name": name_of(task), "lm_eval": version, "config": config}


def name_of(task: Any) -> str:
    """Name a task."""
    config = getattr(task, "config", None)
    return str(getattr(config, "task", None) or type(task).__name__)


def _task(task: Any) -> Any:
    with extra("lm-eval", _PURPOSE):
        from lm_eval.api.task import ConfigurableTask, Task
        from lm_eval.tasks import TaskManager, get_task_dict
        from lm_eval.tasks._yaml_loader import load_yaml
    if isinstance(task, Task):
        return task
    if isinstance(task, Mapping):
        return ConfigurableTask(config=dict(task))
    path = Path(task) if isinstance(task, (str, os.PathLike)) else None
    if path is not None and path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise DataError(f"there is no file {path}; give a task's YAML file.")
        return ConfigurableTask(config=load_yaml(path, resolve_func=True))
    if not isinstance(task, str):
        raise OptionError(
            f"task is {describe_value(task)}; give the name of a task of lm-eval, its YAML file, a "
            "mapping of its configuration, or a task object."
        )
    manager = TaskManager()
    if task not in manager.all_subtasks:
        raise OptionError(f"lm-eval knows no task {task!r}; groups are given one task at a time.")
    return next(iter(get_task_dict([task], manager).values()))


def _recorder(tokenizer: Any, max_length: int, add_bos_token: bool | None) -> Any:
    """Make a network of lm-eval's that answers nothing, and keeps what it was asked in tokens."""
    with extra("lm-eval", _PURPOSE):
        from lm_eval.api.model import LM
        from lm_eval.models.huggingface import HFLM

    class Recorder(HFLM):  # type: ignore[misc, no-any-unimported, unused-ignore]
        """Everything of HFLM's up to the network."""

        def __init__(self) -> None:
            LM.__init__(self)  # not HFLM's, which loads a network
            self.tokenizer, self._max_length = tokenizer, max_length
            self.add_bos_token, self.custom_prefix_token_id = add_bos_token, None
            self.backend, self.batch_size_per_gpu, self._device = "causal", 1, "cpu"
            self._rank, self._world_size, self.enable_thinking = 0, 1, None
            self._asked: list[tuple[list[int], list[int]]] = []

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self._asked += [(list(context), list(said)) for _, context, said in requests]
            return [(0.0, False)] * len(requests)

        def pairs(self, instances: Any, *, rolling: bool) -> list[tuple[list[int], list[int]]]:
            """Tokens of context and continuation of each request, or of each window."""
            self._asked = []
            ask = self.loglikelihood_rolling if rolling else self.loglikelihood
            ask(instances, disable_tqdm=True)
            return self._asked

    return Recorder()


def _rows(
    pairs: Sequence[tuple[list[int], list[int]]], max_length: int, *, apart: bool
) -> tuple[Row, ...]:
    """Put requests that see the same tokens into one row, as lm-eval does."""
    together: dict[Any, list[tuple[int, list[int], list[int]]]] = {}
    for number, (context, said) in enumerate(pairs):
        key = (number if apart else 0, tuple(context + said[:-1]))
        together.setdefault(key, []).append((number, context, said))
    found = []
    for requests in together.values():
        _, context, first = requests[0]
        whole = tuple(context + first)
        seen = whole[-(max_length + 1) :][:-1]
        asked = tuple((number, tuple(said)) for number, _, said in requests)
        found.append(Row(seen, whole, asked))
    return tuple(found)
