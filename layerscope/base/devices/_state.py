"""State that PyTorch keeps for a thread and for a process: lent, and put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from layerscope.base.undoing import Undo


class Threads(Undo):
    """Compute with so many threads on the CPU, on which the last bits depend; None: as it is."""

    def __init__(self, count: int | None) -> None:
        super().__init__()
        self._count = count

    def begin(self) -> None:
        """Set the number."""
        before = torch.get_num_threads()
        self.add(lambda: torch.set_num_threads(before))
        torch.set_num_threads(self._count or before)


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class SteadyChoice(Undo):
    """Let cuDNN choose how to convolve by rule, not by what happened to be fastest when tried.

    A choice by trial differs from process to process, and the last bits with it. Elsewhere than
    on CUDA nothing is done.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def begin(self) -> None:
        """Switch trials off."""
        if self._device.type == "cuda":
            before = torch.backends.cudnn.benchmark
            self.add(lambda: setattr(torch.backends.cudnn, "benchmark", before))
            torch.backends.cudnn.benchmark = False


def random_states() -> list[torch.Tensor]:
    """Return the states of torch's global generators, of the CPU and of devices in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states.append(torch.mps.get_rng_state())
    return states


def same_states(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Tell whether no random number was drawn between two calls of `random_states`."""
    return len(before) == len(after) and all(map(torch.equal, before, after))


class NoGradients(Undo):
    """No gradients; afterwards everything that PyTorch keeps for a thread is as it was.

    That is the mode of gradients, autocast, and modes that watch operators.
    """

    def begin(self) -> Self:
        """Switch gradients off."""
        gradients = torch.is_grad_enabled()
        self.add(lambda: torch.set_grad_enabled(gradients))
        self.add(_autocast_as_now())
        self.add(_modes_as_now())
        torch.set_grad_enabled(False)
        return self


def _autocast_as_now() -> Callable[[], None]:
    """Return what brings autocast back to where it is now."""
    kinds = ("cpu", "cuda", "mps")
    known = {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds
    }
    cached, depth = torch.is_autocast_cache_enabled(), _autocast_depth()

    def restore() -> None:
        for kind, (enabled, dtype) in known.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        while _autocast_depth() > depth:
            if torch.autocast_decrement_nesting() == 0:
                # It remembers cast weights until the outermost ends.
                torch.clear_autocast_cache()

    return restore


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _modes_as_now() -> Callable[[], None]:
    """Return what ends modes that were entered later and are still on."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (_get_current_function_mode_stack, torch.overrides._pop_mode),
        (_get_current_dispatch_mode_stack, torch.utils._python_dispatch._pop_mode),
    )
    depths = [len(stack()) for stack, _ in kinds]

    def restore() -> None:
        for (stack, pop), depth in zip(kinds, depths, strict=True):
            while len(stack()) > depth:
                try:
                    stack()[-1].__exit__(None, None, None)
                except IndexError:  # it was interrupted half-way through this
                    pop()

    return restore


class Generators(Undo):
    """Lend torch's global generators, of the CPU and of `device`; afterwards they are as before.

    The block is given a function that takes a seed and sets them all to it.

    Examples
    --------
    >>> with Generators(torch.device("cpu")) as seed:
    ...     seed(7)
    ...     one = torch.rand(3)
    >>> bool((one == torch.rand(3, generator=torch.Generator().manual_seed(7))).all())
    True
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def begin(self) -> Callable[[int], None]:
        """Note where the generators are."""
        generators = [torch.default_generator]
        if self._device.type == "mps":
            generators.append(torch.mps._get_default_mps_generator())
        elif self._device.type != "cpu":
            backend = torch.get_device_module(self._device)
            backend.init()  # the generators are there from then on
            at = self._device.index
            generators.append(
                backend.default_generators[backend.current_device() if at is None else at]
            )
        for generator in generators:
            before = generator.get_state()
            self.add(lambda which=generator, state=before: which.set_state(state))  # type: ignore[misc]

        def seed(number: int) -> None:
            for generator in generators:
                generator.manual_seed(number)

        return seed
