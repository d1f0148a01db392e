"""The equations of a Gaussian process whose kernel is given: weights, landmarks, noise, log-odds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Training graphs with which all others are compared at most, if so many systems of equations are to be
#: solved: one for all targets that have values in the same graphs.
_LIMIT, _SYSTEMS = 12_000, 10

#: Landmarks of more at most, pairs of training graphs and landmarks, and what is added to the kernel of each
#: landmark with itself, as some are alike.
_LANDMARKS, _PAIRS, _JITTER = 6_000, 300_000_000, 1e-4

#: Training graphs by which the noise is chosen, and its range as a share of the signal.
_CHOOSING, _NOISE = 2_000, (1e-3, 10.0)

#: Shares of the linear kernel, the graphs by which one is chosen, and by how much the error of the smallest
#: that will do may be above the best.
_SHARES, _COMPARING, _TOLERANCE = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75), 1_000, 1.01

#: Columns of a matrix that are solved for at once.
_COLUMNS = 1_000


def landmark_count(graphs: int, systems: int) -> int:
    """How many of so many training graphs a Gaussian process compares others with, to be fitted in minutes.

    All of 12,000 if ten systems of equations are solved; of more graphs 6,000 or as many as make 300,000,000
    pairs with these, and fewer where that takes longer.
    """
    work = _SYSTEMS * _LIMIT**3
    if graphs <= _LIMIT and systems * graphs**3 <= work:
        return graphs
    return min(_LANDMARKS, _PAIRS // graphs, int((work / (systems * graphs)) ** 0.5), graphs)


def landmarks(values: Tensor, task: str) -> Tensor:
    """Rows of the graphs with values [n, T] that others are compared with, ascending."""
    rows, number = torch.arange(len(values)), landmark_count(len(values), len(list(_patterns(values))))
    if number == len(values) or task == "regression":
        return _some(rows, number)
    counts = torch.stack([(values == label).sum(0) for label in (0, 1)])
    rarity = (1 / counts.gather(0, values.nan_to_num().long())).masked_fill(values.isnan(), 0.0).amax(1)
    rare = rarity > rarity.median()
    chosen = _some(rows[rare], number // 2)
    others = torch.ones(len(values), dtype=torch.bool).index_fill(0, chosen, False)
    return torch.cat([chosen, _some(rows[others], number - len(chosen))]).sort().values


def solve(kernel: Tensor, values: Tensor, leave_out: bool) -> tuple[Tensor, Tensor]:
    """Weights of all graphs by their kernel [n, n] and values [n, T], and what the others say of each."""
    weights, left_out = torch.zeros_like(values), torch.full_like(values, torch.nan)
    for rows, columns in _patterns(values):
        learned = values[rows][:, columns]
        factor = _factor(kernel[rows[:, None], rows], learned)
        alpha = torch.cholesky_solve(learned, factor)
        weights[rows[:, None], columns] = alpha
        if leave_out:
            missed = alpha / _diagonal_of_inverse(factor)[:, None]
            left_out[rows[:, None], columns] = learned - missed
    return weights, left_out


def solve_by_landmarks(
    kernel: Tensor, among: Tensor, known: Tensor, values: Tensor, leave_out: bool
) -> tuple[Tensor, Tensor]:
    """Weights of landmarks, and what the other graphs say of each, or of some.

    Args:
        kernel: of all graphs and the landmarks, float32 [n, m].
        among: of the landmarks [m, m].
        known: their rows [m].
        values: [n, T].
        leave_out: whether graphs are left out.
    """
    weights, left_out = values.new_zeros(len(known), values.size(1)), torch.full_like(values, torch.nan)
    for rows, columns in _patterns(values):
        learned, of_known = values[rows][:, columns], values[known][:, columns]
        there = ~of_known.isnan().any(1)
        noise = _tuned(among[there][:, there], of_known[there])[0] if there.any() else 1.0
        total, sums = noise * among, torch.zeros_like(of_known)
        total.diagonal().add_(noise * _JITTER)
        for some, part in zip(rows.split(_COLUMNS), learned.split(_COLUMNS), strict=True):
            similarity = kernel[some].double()
            total.addmm_(similarity.T, similarity)
            sums.addmm_(similarity.T, part)
        factor = torch.linalg.cholesky(total)
        alpha = torch.cholesky_solve(sums, factor)
        weights[:, columns] = alpha
        for some in _some(rows, _LIMIT).split(_COLUMNS) if leave_out else ():
            similarity, part = kernel[some].double(), values[some][:, columns]
            leverage = torch.linalg.solve_triangular(factor, similarity.T, upper=False).square().sum(0)
            missed = (part - similarity @ alpha) / (1 - leverage)[:, None]
            left_out[some[:, None], columns] = part - missed
    return weights, left_out


def _factor(kernel: Tensor, values: Tensor) -> Tensor:
    """Cholesky factor of a kernel [n, n] and the noise of values [n, T], which is added to it in place."""
    kernel.diagonal().add_(_tuned(kernel, values)[0])
    return torch.linalg.cholesky(kernel)


def _diagonal_of_inverse(factor: Tensor) -> Tensor:
    """Of the matrix that has this Cholesky factor [n, n], in the memory of a few columns."""
    parts = []
    for start in range(0, len(factor), _COLUMNS):
        rest = factor[start:, start:]  # above, the inverse of the factor is 0
        unit = torch.eye(len(rest), min(_COLUMNS, len(rest)), dtype=factor.dtype)
        parts.append(torch.linalg.solve_triangular(rest, unit, upper=False).square().sum(0))
    return torch.cat(parts)


def _patterns(values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of values [n, T], NaN where missing, and a mask of the columns that are known in these alone."""
    known = ~values.isnan()
    for pattern in known.unique(dim=1).T:
        if pattern.any():
            yield pattern.nonzero()[:, 0], (known == pattern[:, None]).all(0)


def choose_linear_share(bounded: Tensor, linear: Tensor, values: Tensor) -> float:
    """Share of the linear kernel beside the bounded one, [n, n] both, for values [n, T]."""
    errors = torch.zeros(len(_SHARES), dtype=torch.double)
    for rows, columns in _patterns(values):
        rows = _some(rows, _COMPARING)
        few, others = (kernel[rows[:, None], rows] for kernel in (bounded, linear))
        learned = values[rows][:, columns]
        for place, share in enumerate(_SHARES):
            errors[place] += _tuned(few.lerp(others, share), learned)[1]
    return _SHARES[int((errors <= _TOLERANCE * errors.min()).nonzero()[0])]


def _some(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, evenly."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), most)).long()]


def _tuned(kernel: Tensor, values: Tensor) -> tuple[float, float]:
    """The noise that makes the values of at most 2,000 graphs likeliest, together with the best signal.

    Also the sum of the squared errors with which each is predicted by the others.
    """
    from scipy.optimize import minimize_scalar  # takes half a second

    rows = _some(torch.arange(len(kernel)), _CHOOSING)
    scales, vectors = torch.linalg.eigh(kernel[rows][:, rows])
    scales, parts = scales.clamp(min=0), (vectors.T @ values[rows]).square()

    def loss(logarithm: float) -> float:
        total = scales + np.exp(logarithm)
        signal = (parts / total[:, None]).mean(0).clamp(min=1e-12)
        return float(signal.log().mean() + total.log().mean())

    noise = float(np.exp(minimize_scalar(loss, bounds=np.log(_NOISE), method="bounded").x))
    weights = vectors @ (vectors.T @ values[rows] / (scales + noise)[:, None])
    inverse = (vectors.square() / (scales + noise)).sum(1)
    return noise, float((weights / inverse[:, None]).square().sum())


def fit_log_odds(values: Tensor, targets: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Scale and shift [T] that make log-odds of values [n, T], by labels [n, T] smoothed as Platt did.

    Values are what others say of each. Of few graphs, or of labels that graphs say little of, that is the
    opposite: the others have one such label less. The scale would be negative, and turn predictions round.
    Then values are taken for what they are, standardised shares, whose log-odds have a slope at their mean.
    """
    known = ~values.isnan()
    labels = targets.nan_to_num()
    counts = torch.stack([(known & (labels == number)).sum(0) for number in (0, 1)])
    smoothed = torch.where(labels > 0, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    values = values.nan_to_num()
    scale = torch.ones(1 if task == "multiclass" else values.size(1), dtype=values.dtype, requires_grad=True)
    shift = torch.zeros(values.size(1), dtype=values.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([scale, shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        scores = values * scale + shift
        if task == "multiclass":
            rows = known[:, 0]
            total = F.cross_entropy(scores[rows], labels[rows])
        else:
            total = F.binary_cross_entropy_with_logits(scores[known], smoothed[known])
        total = total + 1e-4 * (scale.square().sum() + shift.square().sum())
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    share = (counts[1] + 1) / (counts.sum(0) + 2)
    deviation = (share * (1 - share)).sqrt()
    if task == "multiclass":
        plain = deviation / share, share.log()
    else:
        plain = 1 / deviation, share.logit()
    opposite = scale < 0
    fitted = scale.detach(), shift.detach()
    return tuple(torch.where(opposite, *pair) for pair in zip(plain, fitted, strict=True))  # type: ignore[return-value]
