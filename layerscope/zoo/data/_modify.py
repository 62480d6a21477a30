"""Data sets made smaller or harder, each change recorded in the name.

>>> from layerscope import data
>>> digits = data.load("mnist-5k").of_classes([3, 8]).subset(100, seed=1)
>>> digits
<mnist-5k+classes=3,8+size=100@1: 100 + 200 images of (1, 28, 28)>
>>> data.load(digits.name).train.fingerprint == digits.train.fingerprint
True
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from layerscope.base import seeds
from layerscope.errors import DataError, OptionError, choose

__all__ = ["Modifiers", "apply", "split"]

_PARTS = ("train", "test")
_KNOWN = ("classes", "size", "test_size", "random_labels", "test_random_labels")
# Names of files may hold a plus sign too: only one before a modifier divides.
_DIVIDER = re.compile(r"\+(?=[a-z_]+=)")


class Modifiers:
    """Changes of a data set with the parts `train` and `test`.

    Every method returns a new data set whose name says what was done, in the form that `load`
    understands; the content, and so the fingerprint, follows from the name alone.
    """

    name: str
    classes: int
    train: Any
    test: Any

    def with_random_labels(self, share: float, seed: int = 0, part: str = "train") -> Self:
        """Replace a share of the labels by draws that are uniform over all classes.

        Parameters
        ----------
        share : float
            Fraction of the labels in [0, 1]; exactly ``round(share * n)`` of them, chosen without
            repetition, are drawn anew. A draw may hit the true class (Zhang, Bengio, Hardt,
            Recht, Vinyals, 2017).
        seed : int
            Of the choice and of the draws.
        part : str
            ``"train"`` or ``"test"``.

        Raises
        ------
        OptionError
            If `share` is outside [0, 1], or the data are sequences.
        """
        if not 0 <= share <= 1:
            raise OptionError(f"random_labels is {share}; it must be a share between 0 and 1.")
        old = self._get_labels(part, "random labels")
        draw = seeds.generator("random labels", part, seed)
        chosen = torch.randperm(len(old), generator=draw)[: round(share * len(old))]
        new = old.clone()
        new[chosen] = torch.randint(self.classes, (len(chosen),), generator=draw, dtype=old.dtype)
        word = f"{_prefix(part)}random_labels={float(share):g}@{seed}"
        return self._replace(word, {part: getattr(self, part).labelled(new)})

    def of_classes(self, classes: Sequence[int]) -> Self:
        """Keep only the examples of `classes`, in both parts, labelled 0…k−1 in the order given.

        Raises
        ------
        OptionError
            If a class is named twice or is not there, or the data are sequences.
        """
        wanted = [int(label) for label in classes]
        wrong = [label for label in wanted if not 0 <= label < self.classes]
        if wrong or not wanted or len(set(wanted)) < len(wanted):
            raise OptionError(
                f"classes is {wanted}; give different ones of the {self.classes} there are, "
                f"0…{self.classes - 1}."
            )
        number = torch.full((self.classes,), -1)
        number[wanted] = torch.arange(len(wanted))
        parts = {}
        for part in _PARTS:
            new = number[self._get_labels(part, "classes")]
            (kept,) = torch.nonzero(new >= 0, as_tuple=True)
            parts[part] = getattr(self, part).take(kept).labelled(new[kept])
        return self._replace("classes=" + ",".join(map(str, wanted)), parts, classes=len(wanted))

    def subset(self, count: int, seed: int = 0, part: str = "train") -> Self:
        """Keep `count` examples, each class by its share, in the order they had.

        Parameters
        ----------
        count : int
        seed : int
            Of the choice within each class.
        part : str
            ``"train"`` or ``"test"``.

        Raises
        ------
        OptionError
            If there are not so many.
        """
        whole = getattr(self, choose(part, _PARTS, "part"))
        if not 1 <= count <= len(whole):
            raise OptionError(
                f"{_prefix(part)}size is {count}; it must lie between 1 and {len(whole):,}, the "
                f"number of examples in {whole.name}."
            )
        draw = seeds.generator("subset", part, seed)
        kept = _stratify(whole.targets, int(count), draw)
        return self._replace(f"{_prefix(part)}size={count}@{seed}", {part: whole.take(kept)})

    def _get_labels(self, part: str, what: str) -> Tensor:
        targets: Tensor = getattr(self, choose(part, _PARTS, "part")).targets
        if targets.ndim != 1:
            raise OptionError(
                f"{self.name} has targets of shape {tuple(targets.shape)}, not one class for each "
                f"example: {what} can't be set. Leave the option out."
            )
        return targets

    def _replace(self, word: str, parts: dict[str, Any], **others: Any) -> Self:
        renamed = {
            part: replace(value, name=f"{value.name}+{word}") for part, value in parts.items()
        }
        changes: dict[str, Any] = {"name": f"{self.name}+{word}", **renamed, **others}
        return replace(self, **changes)  # type: ignore[type-var]


def _prefix(part: str) -> str:
    return "" if part == "train" else "test_"


def _stratify(targets: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Indices, ascending, of `count` examples; each class by its share, to the nearest example."""
    total = len(targets)
    if targets.ndim > 1:
        return torch.randperm(total, generator=draw)[:count].sort().values
    labels, sizes = torch.unique(targets, return_counts=True)
    quotas = sizes * count // total
    # What rounding down left goes to the largest remainders; a tie to the smaller label.
    remainders = sizes * count % total
    quotas[
        torch.argsort(remainders, descending=True, stable=True)[: count - int(quotas.sum())]
    ] += 1
    kept = []
    for label, quota in zip(labels, quotas, strict=True):
        (where,) = torch.nonzero(targets == label, as_tuple=True)
        kept.append(where[torch.randperm(len(where), generator=draw)[: int(quota)]])
    return torch.cat(kept).sort().values


def split(name: str) -> tuple[str, list[str]]:
    """Divide ``"cifar10+classes=0,1+size=5000@1"`` into the name and its modifiers.

    >>> split("c++/pets+size=10")
    ('c++/pets', ['size=10'])
    """
    plain, *words = _DIVIDER.split(name)
    return plain, words


def apply(data: Any, words: Sequence[str]) -> Any:
    """Apply modifiers, as `split` returns them, from left to right.

    Parameters
    ----------
    data : ImageData, ImageStream or TextData
        Stays as it is.
    words : sequence of str
        Such as ``"size=100"``.

    Raises
    ------
    OptionError
        If one is unknown, or has a value of the wrong form.
    DataError
        If a class that is asked for has no examples left.
    """
    for word in words:
        key, _, value = word.partition("=")
        choose(key, _KNOWN, "modifier of a data set")
        part = "test" if key.startswith("test_") else "train"
        amount, _, seed = value.partition("@")
        try:
            if key == "classes":
                data = data.of_classes([int(label) for label in value.split(",")])
            elif key.endswith("size"):
                data = data.subset(int(amount), int(seed or 0), part)
            else:
                data = data.with_random_labels(float(amount), int(seed or 0), part)
        except OptionError:
            raise
        except ValueError:
            raise OptionError(
                f"the modifier {word!r} can't be read; write such as classes=0,1 or size=5000@1 "
                "or random_labels=0.5@1, a seed after the @."
            ) from None
        if len(data.train) == 0 or len(data.test) == 0:
            raise DataError(f"{data.name} has no examples left; choose other classes.")
    return data


def words(
    classes: Sequence[int] | None,
    size: int | None,
    test_size: int | None,
    random_labels: float | None,
    seed: int,
) -> list[str]:
    """The modifiers that arguments ask for: classes first, then sizes, then labels."""
    found = []
    if classes is not None:
        found.append("classes=" + ",".join(str(int(label)) for label in classes))
    for key, value in (("size", size), ("test_size", test_size), ("random_labels", random_labels)):
        if value is not None:
            found.append(f"{key}={value}@{seed}")
    return found
