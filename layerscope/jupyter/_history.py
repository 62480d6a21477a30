"""The states that were set one after the other, to go back and forth between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from layerscope.core.layers import VIEWS
from layerscope.core.session import Change
from layerscope.errors import choose

__all__ = ["History", "Scene"]


@dataclass(frozen=True)
class Scene:
    """A view, and what is done to its rows."""

    view: str = "leaf"
    state: Mapping[str, Change] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose(self.view, VIEWS, "view")

    def having(self, changes: Mapping[str, Change | None]) -> Scene:
        """Return the scene with some rows changed; None makes a row trained."""
        merged = {**self.state, **changes}
        return Scene(self.view, {row: c for row, c in merged.items() if c is not None})


class History:
    """Scenes with undo and redo.

    Examples
    --------
    >>> history = History(Scene())
    >>> history.add(Scene("block"))
    >>> history.undo().view, history.redo().view, history.can_redo
    ('leaf', 'block', False)
    """

    def __init__(self, first: Scene) -> None:
        self._scenes, self._at = [first], 0

    @property
    def now(self) -> Scene:
        """The present scene."""
        return self._scenes[self._at]

    @property
    def can_undo(self) -> bool:
        """True if there is an earlier scene."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """True if there is a later scene."""
        return self._at + 1 < len(self._scenes)

    def add(self, scene: Scene) -> None:
        """Go on with a scene; what was undone is gone. The present one again adds nothing."""
        if scene != self.now:
            self._scenes[self._at + 1 :] = [scene]
            self._at += 1

    def undo(self) -> Scene:
        """Go back one scene, if there is one."""
        self._at = max(0, self._at - 1)
        return self.now

    def redo(self) -> Scene:
        """Go forth one scene, if there is one."""
        self._at = min(len(self._scenes) - 1, self._at + 1)
        return self.now
