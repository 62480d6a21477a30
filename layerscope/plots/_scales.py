"""Colours that stand for values, and how values are written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from layerscope.plots._colours import NO_NUMBER, ColourMap, shades
from layerscope.results import MetricInfo

__all__ = ["Scale", "damage_scale", "label_of", "scale_of"]


class Scale(NamedTuple):
    """Range of values that the colours stand for, and how the values are written."""

    low: float
    high: float
    log: bool
    decimals: int | None
    colours: list[str]

    def colour(self, value: float) -> str:
        """Choose the colour of a value; beyond the range, that of its end; NaN has its own."""
        if np.isnan(value):
            return NO_NUMBER
        # In equal parts, as Bokeh and matplotlib do, so that the ink suits what they draw.
        return self.colours[min(int(self.share(value) * len(self.colours)), len(self.colours) - 1)]

    def share(self, value: float) -> float:
        """Place a value on the way from one end of the colours to the other, in [0, 1], or NaN."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = np.log([low, high, max(at, low)])
        return float(np.clip((at - low) / (high - low), 0, 1))

    @property
    def beyond(self) -> float:
        """A place a little above all values."""
        if self.log:
            return self.high * float((self.high / self.low) ** 0.06)
        return self.high + 0.06 * (self.high - self.low)

    def text(self, value: float) -> str:
        """Write a value as the paper does: .38."""
        if value == 0:
            return "0"
        if self.decimals is None or not np.isfinite(value):
            return _brief(value)
        text = f"{value:z.{self.decimals}f}"  # no minus before what is rounded to nothing
        return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def scale_of(values: pd.Series, metric: MetricInfo | None, cmap: ColourMap | None = None) -> Scale:
    """Choose the range of the colours, and the decimals that fit it.

    Parameters
    ----------
    values : Series
    metric : MetricInfo or None
        Which way is better; None of distances, which start at 0.
    cmap : str, sequence of str or Colormap, optional
        From the best value to the worst, or from 0 on.
    """
    colours = shades(cmap, reverse=metric is not None and metric.higher_is_better)
    if metric is not None and metric.fraction_of:
        return Scale(0.0, 1.0, False, 2, colours)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if metric is None:
        low = 0.0
    if high <= low:
        high = low + 1.0
    log = low > 0 and high / low > (10 if metric is not None and metric.logarithmic else 100)
    return Scale(low, high, log, _decimals(low, high, log), colours)


def damage_scale(
    values: pd.Series, factors: bool, limit: float | None, cmap: ColourMap | None = None
) -> Scale:
    """Choose the range of colours for damage: from none on, up to a limit.

    Parameters
    ----------
    values : Series
        Positive where a network got worse; factors of 1 or more.
    factors : bool
    limit : float or None
        What the darkest colour stands for, and all beyond it; the largest value if None.
    cmap : str, sequence of str or Colormap, optional
    """
    finite = values[np.isfinite(values)]
    none = 1.0 if factors else 0.0
    low, high = min([none, *finite]), max([none, *finite])
    high = high if limit is None else min(high, limit)
    high = high if high > low else low + 1.0
    log = factors and low > 0 and high / low > 10
    beyond = bool((values > high).any())
    # What runs over the end of the scale may be of any size.
    decimals = None if beyond else _decimals(low, high, log)
    return Scale(low, high, log, decimals, shades(cmap))


def _decimals(low: float, high: float, log: bool) -> int | None:
    """Choose how many decimals a value is written with; None where their sizes differ much."""
    largest = max(-low, high)
    # Neither 0.0000 nor numbers that run over the cells beside them.
    plain = not log and 1e-3 <= largest < 9999.5
    return int(np.clip(2 - np.floor(np.log10(largest)), 0, 4)) if plain else None


def _brief(value: float) -> str:
    """Write a number of any size in about four signs: 38, 2.5k, 1e12, .012."""
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else f"{value:g}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.5 would be rounded up to a thousand.
        if unit <= abs(value) * 1.0005 < 1000 * unit:
            share = value / unit
            return f"{share:.0f}{name}" if abs(share) >= 9.95 else f"{share:.1f}{name}"
    if abs(value) >= 1e12 or 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e+", "e").replace("e-0", "e-")
    if abs(value) >= 99.5:
        return f"{value:.0f}"
    return f"{value:.2g}".replace("0.", ".", 1)


def label_of(metric: MetricInfo) -> str:
    """Name the axis or colour bar of a metric."""
    return f"test {metric.label}"
