"""Packages that a light installation lacks: each belongs to an extra, and its absence says which.

>>> with extra("zoo", "a Vision Transformer"):
...     import no_such_package
Traceback (most recent call last):
...
layerscope.errors.ExtraError: no_such_package is needed for a Vision Transformer; pip install "layerscope[zoo]"
"""  # noqa: E501 – as it is printed

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from layerscope.errors import ExtraError

__all__ = ["extra", "require"]


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Import packages of an extra inside this context.

    Parameters
    ----------
    name : str
        The extra, as ``pyproject.toml`` has it.
    purpose : str
        What the packages are needed for.

    Raises
    ------
    ExtraError
        If a package is not installed. One that is there and broken fails with its own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        if package == "layerscope":
            raise
        raise ExtraError(
            f'{package} is needed for {purpose}; pip install "layerscope[{name}]"', name=package
        ) from None


def require(package: str, name: str, purpose: str) -> None:
    """Refuse to go on without a package of an extra, without importing it.

    Raises
    ------
    ExtraError
        If it is not installed.
    """
    with extra(name, purpose):
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
