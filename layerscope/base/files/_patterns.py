"""Regular expressions of a stranger's, some of which take for ever to match."""

from __future__ import annotations

import re

__all__ = ["is_endless"]

_PARTS = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*+\]?|\(|\)|\||[*+]|\{\d*,?\d*\}|.", re.DOTALL
)
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}|\{\d{3,}.*\}")


def is_endless(pattern: str) -> bool:
    r"""Check for a repeated group with something repeated or left open in it, or a back reference.

    The time that such a pattern takes may double with each letter of a text. Patterns that divide
    text into words have none.

    Examples
    --------
    >>> [is_endless(each) for each in (r"(a+)+$", r"(a|a)*", r"(?:'s|'t)|\p{L}+[(+]*(a+)?")]
    [True, True, False]
    """
    open_groups, closed = [False], False
    for part in _PARTS.findall(pattern):
        repeated = _UNBOUNDED.fullmatch(part) is not None
        if repeated and closed:
            return True
        closed = False
        if part == "(":
            open_groups.append(False)
        elif part == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] |= closed
        elif part == "|" or repeated:
            open_groups[-1] = True
        elif re.fullmatch(r"\\[1-9gk]", part):
            return True
    return False
