"""How sure predictions are: temperatures, conformal intervals and sets, from the validation rows."""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from plstm_graph.errors import InputError
from plstm_graph.predictor import Task

Array = NDArray[np.float64]
Numbers = NDArray[np.float32] | Array

_LEAST = 1e-15  # that probabilities are away from 0 and 1, whose logarithms are finite then


class Calibration:
    r"""What the errors on validation rows say of further predictions.

    A probability p becomes :math:`\mathrm{sigmoid}(\mathrm{logit}(p) / \tau)`, those of several classes
    :math:`\mathrm{softmax}(\log(p) / \tau)`. A target's temperature :math:`\tau` minimises the log loss of n
    validation rows, with labels smoothed as by Platt (1999), as classes may not overlap. An interval is the
    prediction ± q · d, where d is 1 for one network, else the networks' deviation plus its mean over
    validation rows, and q the :math:`\lceil (n + 1)\, \text{confidence} \rceil`-th smallest |y - p| / d. A
    set has every class whose 1 - p is at most the like quantile of the rows of that class. Both hold the
    truth with this confidence, sets whichever class it is, for rows drawn as the validation rows were.

    Args:
        task: What is predicted.
        predictions: [n, T] by each of K networks, in the targets' unit or as probabilities.
        targets: [n, T], or [n, 1] of classes; NaN where a value is missing.

    Source: Guo et al., arXiv 1706.04599; Papadopoulos et al., ECML 2002; Vovk, arXiv 1209.2673.
    """

    def __init__(self, task: Task, predictions: Sequence[Numbers], targets: Numbers) -> None:
        self.task = task
        mean, std = combine(predictions)
        if task == "regression":
            self._usual = None if std is None else std.mean(0)
            self._errors = np.abs(targets - mean) / self._difficulty(std)
            return
        odds = np.log(self._of_classes(mean))
        pairs = zip(odds.swapaxes(0, 1), targets.T, strict=True)
        self.temperatures = np.array([_temperature(*pair) for pair in pairs])  #: [T], or [1] for multiclass
        shares = self._of_classes(self.probabilities(mean))
        own = targets[:, :, None] == np.arange(shares.shape[2])
        self._errors = np.where(own, 1 - shares, np.nan)

    def _difficulty(self, std: Array | None) -> Array | float:
        if std is None or self._usual is None:
            return 1.0
        return np.where(self._usual > 0, std + self._usual, 1.0)

    def _of_classes(self, values: Numbers) -> Array:
        """Probabilities of every class, [n, T, 2] or [n, 1, classes]."""
        shares = values[:, None] if self.task == "multiclass" else np.stack([1 - values, values], 2)
        return shares.clip(_LEAST, 1 - _LEAST)

    def probabilities(self, mean: Numbers) -> Array:
        """Calibrate probabilities [n, T], of classes or of the second of two."""
        scaled = np.log(self._of_classes(mean)) / self.temperatures[:, None]
        shares = np.exp(_log_softmax(scaled))
        return shares[:, 0] if self.task == "multiclass" else shares[:, :, 1]

    def intervals(self, mean: Numbers, std: Array | None, confidence: float) -> tuple[Array, Array]:
        """Lower and upper bounds [n, T] of a regression, from the networks' mean and deviation [n, T].

        Raises:
            InputError: A target has too few validation values for this confidence.
        """
        quantiles = _quantiles(self._errors, confidence)
        if np.isinf(quantiles).any():
            few = np.count_nonzero(~np.isnan(self._errors), 0).min()
            raise InputError(
                f"A target has {few} validation values, which allow intervals of a confidence of at most "
                f"{math.floor(1000 * few / (few + 1)) / 1000}, not {confidence}: ask for less, or "
                "train on more rows."
            )
        width = quantiles * self._difficulty(std)
        return mean - width, mean + width

    def sets(self, probabilities: Numbers, confidence: float) -> NDArray[np.bool_]:
        """Which classes are in the set, [n, T, 2] or [n, classes], for calibrated probabilities [n, T].

        A class with too few validation rows for this confidence is in all sets.
        """
        limits = _quantiles(self._errors, confidence) + 1e-12  # of what is equal, the last digit may differ
        chosen = 1 - self._of_classes(probabilities) <= limits
        return chosen[:, 0] if self.task == "multiclass" else chosen


def combine(predictions: Sequence[Numbers]) -> tuple[Array, Array | None]:
    """Mean over K networks [...] and, of several, their standard deviation."""
    values = np.array(predictions, np.float64)
    return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else None


def _quantiles(errors: Array, confidence: float) -> Array:
    """The conformal ones of errors [n, ...] but NaN, infinite where these are too few."""
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise InputError(f"confidence must be a number between 0 and 1, not {confidence!r}.")
    known = np.count_nonzero(~np.isnan(errors), 0)
    ranks = np.ceil(((known + 1) * confidence).round(9)).astype(int)  # 10 · 0.9 is 9 and no more
    chosen = np.take_along_axis(np.sort(errors, 0), ranks.clip(max=len(errors))[None] - 1, 0)[0]
    return np.where(ranks > known, np.inf, chosen)


def _log_softmax(logits: Array) -> Array:
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def _temperature(odds: Array, classes: Numbers) -> float:
    """That of logits [n, classes] for labels [n], 1 where these are missing or of one class."""
    known = ~np.isnan(classes)
    odds, labels = odds[known], classes[known].astype(int)
    counts = np.bincount(labels, minlength=odds.shape[1])
    if np.count_nonzero(counts) < 2:
        return 1.0
    from scipy.optimize import minimize_scalar  # takes half a second

    smoothed = (np.diag(counts) + 1) / (counts + len(counts))[:, None]

    def loss(logarithm: float) -> float:
        return -float((smoothed[labels] * _log_softmax(odds / math.exp(logarithm))).sum())

    return math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-6}).x)
