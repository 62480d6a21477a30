"""A series of checkpoints, read lazily."""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.tensors import named_tensors
from layerscope.core import layers
from layerscope.core.checkpoints import _source as files
from layerscope.core.checkpoints._converting import convert
from layerscope.core.checkpoints._damage import DAMAGED, Damage
from layerscope.core.checkpoints._matching import match_names, spare_names
from layerscope.core.checkpoints._sharing import require_apart, require_copies
from layerscope.core.checkpoints._tying import require_one_value
from layerscope.core.checkpoints._writer import UNITS
from layerscope.errors import CheckpointError, choose
from layerscope.results import NO_EPOCH

__all__ = ["WITHOUT_A_PAST", "Series"]

WITHOUT_A_PAST = (
    "Pass checkpoints={0: 'start.pt', …}, or perturbations that need none, such as 'zero', 'skip' "
    "or 'rerandomize'."
)
"""Advice to who wants to set back a network without checkpoints."""

_MOST = 2**53
"""Epochs that a Dataset can say."""

_LARGE = 2**20
"""Elements that are worth giving back the memory of what was read before."""


class Series:
    """Checkpoints of one network by epoch; the last is the trained network.

    Parameters
    ----------
    sources : mapping of int to state dict, path or source
        By epoch. Files are opened for their header only.
    folder : Path, optional
        Where the series is kept.
    manifest : mapping, optional
        What is known of how it was made.
    unit : str, optional
        What checkpoints are counted in, ``"epoch"`` or ``"step"``; by default as the manifest says.
    damaged : {"refuse", "leave out"}
        What becomes of checkpoints before the last that can't be read, or are of another network.

    Attributes
    ----------
    unit : str
    damaged : dict of int to str
        The epochs that were left out, and why they can't be read.

    Raises
    ------
    CheckpointError
        If there are none, an epoch is not a whole number from 0 up, or a file is damaged; with
        ``damaged="leave out"`` only if that is the last, which is the trained network.
    """

    def __init__(
        self,
        sources: Mapping[int, Any],
        folder: Path | None = None,
        manifest: Mapping[str, Any] | None = None,
        unit: str | None = None,
        *,
        damaged: str = DAMAGED[0],
    ) -> None:
        if not sources:
            raise CheckpointError("the series holds no checkpoints; give at least the trained one.")
        for epoch in sources:
            whole = isinstance(epoch, int) and not isinstance(epoch, bool)
            if not whole or not 0 <= epoch < _MOST:
                raise CheckpointError(
                    f"epoch {epoch!r}, of type {type(epoch).__name__}, is not a whole number (int) "
                    "from 0 up; name checkpoints by epoch."
                )
        self._damage = Damage(damaged)
        self._sources = self._opened({epoch: sources[epoch] for epoch in sorted(sources)})
        self._names: dict[int, dict[str, str]] = {}
        self._converted: dict[int, files.Checkpoint] = {}
        self._ignored: tuple[str, ...] = ()
        self._sizes: dict[str, int] = {}
        require_apart(self._sources)
        self.folder = folder
        self.manifest = dict(manifest or {})
        self.unit: str = choose(unit or self.manifest.get("unit", UNITS[0]), UNITS, "unit")

    @classmethod
    def of(cls, model: nn.Module) -> Series:
        """Make a series of the weights that a network holds, and nothing before them.

        They are not copied. There are no `epochs` then, so that nothing can be set back; `last`
        and `first` are `results.NO_EPOCH`.

        Parameters
        ----------
        model : nn.Module

        Returns
        -------
        Series

        Raises
        ------
        CheckpointError
            If a tensor holds no values, as on the device meta.

        Examples
        --------
        >>> Series.of(nn.Linear(2, 1)).epochs
        ()
        """
        # Detached: a network that is lent gives its parameters other memory; these keep theirs.
        state = {name: held.detach() for name, held in named_tensors(model).items()}
        made = cls({0: files.InMemory(state, "the network")})
        made._sources = {NO_EPOCH: made._sources[0]}
        return made

    @property
    def epochs(self) -> tuple[int, ...]:
        """The recorded epochs in order; none where the network came with its weights alone."""
        return tuple(epoch for epoch in self._sources if epoch != NO_EPOCH)

    @property
    def damaged(self) -> dict[int, str]:
        """The epochs that were left out, and why they can't be read; none where all are sound."""
        last = self.last
        return {epoch: why for epoch, why in self._damage.reasons.items() if epoch < last}

    @property
    def first(self) -> int:
        """The first epoch that can be read."""
        return min(self._sources)

    @property
    def last(self) -> int:
        """The epoch of the trained network."""
        return max(self._sources)

    def where(self, epoch: int) -> str:
        """Call a checkpoint by its epoch, for messages."""
        return "the network" if epoch == NO_EPOCH else f"the checkpoint of {self.unit} {epoch}"

    def until(self, epoch: int) -> Series:
        """Return the series as it was when `epoch` was the last: that is the trained network.

        It shares the checkpoints with this one, which stays as it is.

        Raises
        ------
        CheckpointError
            If the epoch was not recorded.
        """
        self.require([epoch])
        cut = copy.copy(self)
        for name in ("_sources", "_names", "_converted"):
            held = getattr(self, name)
            setattr(cut, name, {each: held[each] for each in held if each <= epoch})
        return cut

    def require(self, epochs: Iterable[int]) -> None:
        """Check that every one of `epochs` was recorded.

        Raises
        ------
        CheckpointError
            Names those that were not, and those that were; of a damaged one, what is wrong with it.
        """
        wanted = list(epochs) if isinstance(epochs, Iterable) else [epochs]
        for epoch in set(wanted) & set(self.damaged):
            raise CheckpointError(f"{self.where(epoch)} can't be read: {self.damaged[epoch]}")
        absent = [epoch for epoch in wanted if epoch not in self.epochs]
        if absent and not self.epochs:
            raise CheckpointError(
                f"there is nothing to go back to: no checkpoints came, only the network with the "
                f"weights that it holds, so there is no {self.unit} {', '.join(map(str, absent))}. "
                f"{WITHOUT_A_PAST}"
            )
        if absent:
            without_start = (
                " Without the initial checkpoint nothing can be re-initialised to it; "
                "re-randomising needs none."
            )
            raise CheckpointError(
                f"{self.unit} {', '.join(map(str, absent))} was not recorded; "
                f"there is {', '.join(map(str, self.epochs))}."
                f"{without_start if 0 in absent else ''}"
            )

    def fit(self, model: nn.Module) -> Series:
        """Check every checkpoint against a network and learn how its tensors are named.

        Prefixes that wrappers leave behind (``module.``, ``_orig_mod.``, Lightning's ``model.``)
        are looked through if then every name matches, and so is a missing one, as of a base model
        (``transformer.``). What transformers writes under other names than its networks have is
        read through its own conversion. Buffers that the network does not save, that were dropped
        from newer code, and what is to be ignored, may be in a checkpoint.

        Parameters
        ----------
        model : nn.Module

        Returns
        -------
        Series
            This one, to be chained.

        Raises
        ------
        CheckpointError
            If a checkpoint is of another architecture: shows the first missing, unexpected and
            mismatched tensors. If it holds several values for tensors that are tied. If one before
            the last shares memory with the network, or two with one another: they hold what is
            there now.
        OptionError
            If the network can't be examined, see `layers.require_network`.
        """
        layers.require_network(model)
        wanted = named_tensors(model)
        self._sizes = {name: tensor.numel() for name, tensor in wanted.items()}
        for epoch in self._sources:
            with self._damage.leaving_out(epoch, unless=self.last):
                self._names[epoch] = self._matched(epoch, model, wanted)
                require_one_value(wanted, self._source(epoch), self._names[epoch])
        self._drop_damaged()
        require_copies(model, {e: self._source(e) for e in self._sources}, self._names)
        return self

    def ignoring(self, patterns: Iterable[str]) -> Series:
        """Leave aside tensors that match one of `patterns` where the network does not have them.

        Returns
        -------
        Series
            This one, to be chained.

        Raises
        ------
        CheckpointError
            If a pattern matches no tensor of any checkpoint.
        """
        self._ignored += tuple(patterns)
        held: set[str] = set()
        for epoch, source in self._sources.items():
            with self._damage.leaving_out(epoch, unless=self.last):
                held.update(source.signature())
        self._drop_damaged()
        for pattern in self._ignored:
            if not fnmatch.filter(held, pattern):
                raise CheckpointError(
                    f"ignore has {pattern!r}, which matches none of the {len(held):,} tensors of "
                    "the checkpoints; give names as they stand there, or patterns (*.mask)."
                )
        return self

    def _source(self, epoch: int) -> files.Checkpoint:
        return self._converted.get(epoch) or self._sources[epoch]

    def _matched(
        self, epoch: int, model: nn.Module, wanted: Mapping[str, Tensor]
    ) -> dict[str, str]:
        """Find a checkpoint's names, as it is or as transformers converts it for the network."""
        spare = spare_names(model, self._ignored)
        base = str(getattr(model, "base_model_prefix", ""))
        known = self._converted.pop(epoch, None)
        try:
            return match_names(wanted, self._sources[epoch], spare, base)
        except CheckpointError:
            found = known or convert(model, self._sources[epoch], spare)
            if found is None:
                raise
        names = match_names(wanted, found, spare, base)
        self._converted[epoch] = found
        return names

    def read(self, epoch: int, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read tensors of one checkpoint as copies on the CPU.

        Parameters
        ----------
        epoch : int
        names : iterable of str, optional
            As the network that the series was fitted to names them; all by default.

        Raises
        ------
        CheckpointError
            If the epoch was not recorded, or its file can't be read.
        """
        if epoch not in self._sources:
            self.require([epoch])
        checkpoint = self._source(epoch)
        stored = self._names.get(epoch) or {name: name for name in checkpoint.signature()}
        wanted = list(stored) if names is None else list(names)
        absent = [name for name in wanted if name not in stored]
        if absent:
            raise CheckpointError(f"{checkpoint.where} holds no tensor {absent[0]}.")
        if sum(self._sizes.get(name, 0) for name in wanted) > _LARGE:
            devices.trim()
        found = checkpoint.read(sorted({stored[name] for name in wanted}))
        return {name: found[stored[name]] for name in wanted}

    def shapes(self, epoch: int) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of one checkpoint, under the names that `read` takes."""
        held = self._source(epoch).signature()
        stored = self._names.get(epoch) or {name: name for name in held}
        return {name: held[there][0] for name, there in stored.items()}

    def stored_bytes(self, epoch: int) -> int:
        """Count the bytes of one checkpoint's tensors that are read from files."""
        source = self._source(epoch)
        if isinstance(source, files.InMemory):
            return 0
        return sum(prod(shape) * dtype.itemsize for shape, dtype in source.signature().values())

    @property
    def recorded(self) -> bool:
        """True where a manifest has the SHA-256 of checkpoints, as `layerscope.train` writes it."""
        known = self.manifest.get("epochs", {})
        return any("sha256" in known.get(str(epoch), {}) for epoch in self.epochs)

    @property
    def data_name(self) -> str | None:
        """Name of the data that the manifest says it was trained on; None where it does not.

        Raises
        ------
        CheckpointError
            If it is a path: a manifest of somebody else's would choose which file is read.
        """
        name = self.manifest.get("data", {}).get("name")
        if name is not None and re.search(r"[/\\\0]|^[.~]", name):
            raise CheckpointError(
                f"the manifest in {self.folder} says that the network was trained on {name!r}, "
                "which is a path, and is not opened; name the data yourself, with data= (--data)."
            )
        return None if name is None else str(name)

    def digests(self) -> dict[int, str]:
        """SHA-256 of every checkpoint, compared with the manifest where there is one.

        Raises
        ------
        CheckpointError
            If a file is not the one that was recorded; one that may be left out is from now on.
        """
        found: dict[int, str] = {}
        for epoch, source in self._sources.items():
            with self._damage.leaving_out(epoch, unless=self.last):
                found[epoch] = digest = source.digest()
                self._compare(epoch, source, digest)
        self._drop_damaged()
        return found

    def _compare(self, epoch: int, source: files.Checkpoint, digest: str) -> None:
        recorded = self.manifest.get("epochs", {}).get(str(epoch), {}).get("sha256", digest)
        if recorded != digest:
            raise CheckpointError(
                f"{source.where} is not the file that was recorded: SHA-256 {digest[:12]}…, the "
                f"manifest says {recorded[:12]}…. Train or copy it again."
            )

    def _opened(self, sources: Mapping[int, Any]) -> dict[int, files.Checkpoint]:
        """Open each checkpoint; an adapter on the one network beside it, or on what it names."""
        alone = [epoch for epoch, item in sources.items() if files.is_adapter_alone(item)]
        found: dict[int, files.Checkpoint] = {}
        base = None
        for epoch in sorted(sources, key=lambda epoch: epoch in alone):
            with self._damage.leaving_out(epoch, unless=max(sources)):
                where = f"the checkpoint of epoch {epoch}"
                found[epoch] = files.open_checkpoint(sources[epoch], where, base)
            if len(sources) - len(alone) == 1 and epoch not in alone:
                base = found.get(epoch)
        return {epoch: found[epoch] for epoch in sources if epoch in found}

    def _drop_damaged(self) -> None:
        """Take out what turned out to be damaged; others may be reading what there was."""
        for name in ("_sources", "_names", "_converted"):
            held = getattr(self, name)
            setattr(self, name, {e: held[e] for e in held if e not in self.damaged})

    def __repr__(self) -> str:
        if not self.epochs:
            return "<Series of the weights that a network holds, without checkpoints>"
        place = f" in {self.folder}" if self.folder else ""
        torn = ", ".join(map(str, self.damaged))
        place += f"; damaged: {torn}" if torn else ""
        return f"<Series of {len(self.epochs)} checkpoints, {self.unit}s {self.epochs}{place}>"
