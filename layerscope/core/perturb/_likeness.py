"""Likeness of tensors that were drawn: of their values, and of how these are arranged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["alike", "independent", "orthogonal_gain", "patterned", "rest"]

_CELLS = 65_536
_MOST = 200_000
_LARGE = 4_000_000
_LINES = 64
_EXACT = 1e-9
_FEWEST = 8
_LIMIT = 6.0
# A value that comes up this often did not come from a density.
_ATOM = 0.05


def alike(drawn: Tensor, start: Tensor) -> bool:
    """Check whether two tensors of a shape could be draws of one initialiser.

    Their values must look like samples of one distribution, the same slices must be constant, the
    same values repeated, and rows, columns, neighbours and the diagonal must hang together alike.
    """
    if not drawn.is_floating_point():
        return torch.equal(drawn, start)
    if not torch.equal(_constant_slices(drawn), _constant_slices(start)):
        return False
    a, b = _part(drawn), _part(start)
    return _same_distribution(a, b) and _same_atoms(a, b) and _same_arrangement(a, b)


def independent(start: Tensor) -> bool:
    """Check whether elements could have been drawn independently, from one density."""
    values = _part(start)
    if values.numel() < _FEWEST or _is_constant(values):
        return True
    scores, exact = _arrangement(values)
    return not bool(exact.any()) and float(scores.abs().max()) < _LIMIT and not _paired(values)


def patterned(start: Tensor) -> Tensor:
    """Mark elements that are no draws but a pattern: constant slices, values repeated in order.

    A mask of the tensor's shape. Values that repeat in no order, such as random signs, are draws.
    """
    values = start.detach()
    if _is_constant(values):
        return torch.zeros_like(values, dtype=torch.bool)
    constant = _constant_slices(values)
    mask = constant.view(-1, *[1] * (values.ndim - 1)).expand(values.shape).clone()
    # Some of a large tensor tell which values it repeats.
    some = values.flatten()[:: max(1, values.numel() // _MOST)]
    found, counts = torch.unique(some, return_counts=True)
    often = found[counts >= max(3, _ATOM * len(some))]
    often = often[~torch.isin(often, torch.unique(values[constant]))] if constant.any() else often
    if not len(often):
        return mask
    repeated = torch.isin(values, often)
    # Random signs, or a few numbers drawn at random: nothing tells the places apart.
    if bool(repeated.all()) and values.numel() >= 4 * _FEWEST:
        scores, exact = _arrangement(_part(values))
        if not exact.any() and float(scores.abs().max()) < _LIMIT / 2:
            return mask
    return mask | repeated


def rest(start: Tensor) -> Tensor:
    """Return the rest of a tensor without its pattern: other slices, or else other elements."""
    mask = patterned(start)
    kept = mask.flatten(1).all(1) if mask.ndim > 1 else mask
    if mask.ndim > 1 and torch.equal(mask.flatten(1).any(1), kept):
        return start[~kept]
    return start[~mask]


def orthogonal_gain(start: Tensor) -> float | None:
    """The common length of a matrix's rows, or columns if these are fewer, where orthogonal.

    None of a matrix that is not, or is one in blocks, as recurrent ones may be.
    """
    if start.ndim < 2 or min(len(start), start[0].numel()) < 2 or patterned(start).any():
        return None
    matrix = start.detach().flatten(1)
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    if not _orthogonal(wide):
        return None
    lengths = wide.double().norm(dim=1)
    if float(lengths.std(correction=0)) > 1e-4 * float(lengths.mean()):
        return None
    in_blocks = wide is not matrix and _orthogonal(matrix[: len(wide)])
    return None if in_blocks else float(lengths.mean())


def _part(values: Tensor) -> Tensor:
    """The first slices of a large tensor, or all of it, in double precision."""
    if values.ndim and values.numel() > _LARGE:
        values = values[: max(_LINES, _LARGE * len(values) // values.numel())]
    return values.detach().double()


def _is_constant(values: Tensor) -> bool:
    return values.numel() == 0 or bool((values == values.flatten()[0]).all())


def _constant_slices(values: Tensor) -> Tensor:
    """Mark slices along the first axis that hold one value throughout, such as a padding row."""
    if values.ndim < 2 or values[0].numel() < 3:
        return torch.zeros(len(values) if values.ndim else 1, dtype=torch.bool)
    flat = values.flatten(1)
    same: Tensor = (flat == flat[:, :1]).all(1)
    return same


def _same_atoms(a: Tensor, b: Tensor) -> bool:
    """Check that the value that either repeats most often is as frequent in the other."""
    a, b = (values.flatten()[:: max(1, values.numel() // _MOST)] for values in (a, b))
    for values, other in ((a, b), (b, a)):
        found, counts = torch.unique(values, return_counts=True)
        top = int(counts.argmax())
        if int(counts[top]) >= max(3, len(values) // 8) and len(torch.unique(other)) == len(other):
            return False
        one = int(counts[top]) / values.numel()
        two = int((other == found[top]).sum()) / other.numel()
        mean = (one + two) / 2
        noise = math.sqrt(2 * mean * (1 - mean) / values.numel())
        if int(counts[top]) >= 3 and abs(one - two) > _LIMIT * noise:
            return False
    return True


def _same_arrangement(a: Tensor, b: Tensor) -> bool:
    if a.numel() < _FEWEST or _is_constant(a) or _is_constant(b):
        return True
    (one, exact), (two, other) = _arrangement(a), _arrangement(b)
    if one.shape != two.shape:
        return False
    room = 1.5 * _LIMIT + 0.2 * torch.maximum(one.abs(), two.abs())
    return torch.equal(exact, other) and bool(((one - two).abs() <= room).all())


def _paired(values: Tensor) -> bool:
    """Check whether many values have one of opposite sign, or a second that equals them.

    In short types, whose numbers are few, that happens by itself.
    """
    for short in (torch.bfloat16, torch.float16):
        if torch.equal(values.to(short).double(), values):
            return False
    some = values.flatten()[:_MOST]
    count, others = len(some), len(torch.unique(some.abs()))
    # Of fewer still, such as random signs, `patterned` says what they are.
    return count // 8 < others < count - max(3, _ATOM * count)


def _arrangement(values: Tensor) -> tuple[Tensor, Tensor]:
    """Score how elements hang together, and tell what holds exactly.

    Returns
    -------
    scores : Tensor
        Each about standard normal where elements are independent and of one distribution.
    exact : Tensor of bool
        Orthogonality of rows and of columns, symmetry and antisymmetry.
    """
    x = (values - values.mean()) / values.std(correction=0)
    tail = float((x**4).mean()) - 1
    if x.ndim < 2 or min(len(x), x[0].numel()) < 2:
        return torch.stack(_of_line(x.flatten())), torch.zeros(4, dtype=torch.bool)
    matrix, raw = x.flatten(1), values.flatten(1)
    side = min(matrix.shape)
    scores = [*_of_lines(matrix, tail), *_of_lines(matrix.T, tail)]
    inner = math.prod(x.shape[2:])
    if inner > 1:
        scores += _of_lines(x.reshape(-1, inner).T, tail)
    square = matrix[:side, :side]
    diagonal = square.diagonal()
    if tail > _EXACT:
        scores.append(((diagonal**2).mean() - 1) * math.sqrt(side / tail))
    scores.append(diagonal.mean() * math.sqrt(side))
    pairs = max(side * (side - 1) / 2, 1)
    scores.append((square * square.T).triu(1).sum() / math.sqrt(pairs))
    ends = raw[:side, :side]
    scale = (ends**2).mean() + 1e-300
    exact = [_orthogonal(raw), _orthogonal(raw.T)]
    whole = raw.shape[0] == raw.shape[1]
    exact += [whole and bool(((ends - s * ends.T) ** 2).mean() < _EXACT * scale) for s in (1, -1)]
    return torch.stack(scores), torch.tensor(exact)


def _of_line(x: Tensor) -> list[Tensor]:
    chunks = [part.mean() ** 2 * len(part) for part in x.tensor_split(_FEWEST) if len(part)]
    return [(x[1:] * x[:-1]).sum() / math.sqrt(len(x) - 1), _score(torch.stack(chunks).mean(), 8)]


def _of_lines(x: Tensor, tail: float) -> list[Tensor]:
    """Score the means, sizes and angles of the first rows, and how each goes on in the next."""
    lines = x[: max(2, min(_LINES, _CELLS // x.shape[1]))]
    count, length = lines.shape
    means = lines.mean(1) ** 2 * length
    # Of random signs all squares are the same.
    sizes = ((lines**2).mean(1) - 1) ** 2 * length / tail if tail > _EXACT else means
    scores = [_score(means.mean(), count), _score(sizes.mean(), count)]
    scores.append((lines[1:] * lines[:-1]).sum() / math.sqrt((count - 1) * length))
    if length >= _FEWEST:
        pairs = count * (count - 1) / 2
        scores.append(_score((_cosines(lines) ** 2).mean() * length, pairs))
    return scores


def _cosines(lines: Tensor) -> Tensor:
    lines = lines.double()
    unit = lines / (lines.norm(dim=1, keepdim=True) + 1e-300)
    above: Tensor = (unit @ unit.T)[tuple(torch.triu_indices(len(lines), len(lines), 1))]
    return above


def _orthogonal(matrix: Tensor) -> bool:
    lines = matrix[: max(2, min(_LINES, _CELLS // matrix.shape[1]))]
    if len(matrix) > matrix.shape[1] or bool((lines == 0).all(1).any()):
        return False
    return bool((_cosines(lines) ** 2).mean() < _EXACT)


def _score(mean: Tensor, count: float) -> Tensor:
    """Make a mean of so many squares of standard normal numbers a standard normal one.

    Wilson, E. B., Hilferty, M. M. (1931). The distribution of chi-square. PNAS 17.
    """
    spread = 2 / (9 * count)
    return (mean.clamp(min=0) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def _same_distribution(a: Tensor, b: Tensor, limit: int = 20_000) -> bool:
    """Test whether two samples could come from one distribution.

    By the two-sample Kolmogorov–Smirnov test, with the correction for small samples of Stephens,
    M. A. (1970), Journal of the Royal Statistical Society B 32.
    """
    from scipy.special import kolmogorov  # scipy.stats would take 60 MB

    x, y = (t.flatten()[:limit].sort().values for t in (a, b))
    if len(x) < 2:
        return True  # one number says nothing about where it came from
    if bool(x[0] == x[-1]) or bool(y[0] == y[-1]):
        return torch.equal(x[[0, -1]], y[[0, -1]])
    # Of as many values, that so many of one lie beyond all of the other: a chance of 1 in 2^14.
    if any(int((one.abs() > other.abs().max()).sum()) >= 14 for one, other in ((x, y), (y, x))):
        return False
    steps = torch.cat([x, y])
    below = (torch.searchsorted(t, steps, right=True) / len(t) for t in (x, y))
    distance = float(torch.sub(*below).abs().max())
    size = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    # Strict: a true match is then rejected once in 10,000 tensors, and falls back on `empirical`.
    return float(kolmogorov((size + 0.12 + 0.11 / size) * distance)) > 1e-4
