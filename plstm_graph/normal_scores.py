"""Targets of which order matters more than size: learned by their normal scores."""

import torch
from torch import Tensor, nn

#: Points between which the map is linear.
_KNOTS = 256


class NormalScores(nn.Module):
    r"""A monotone map from every target's values to the normal scores of training values, and back.

    The score of the value with rank r among n is :math:`\Phi^{-1}\big((r - 1/2) / n\big)`, r the mean rank of
    equal values; between 256 of these pairs, or all if they are fewer, the map is linear. Squared errors of
    scores do not depend on how skewed targets are, and what is predicted by them is a median more than a
    mean: an absolute error or a rank correlation asks for that.

    Args:
        targets: number of targets T.
    """

    values: Tensor  # [T, 256], not decreasing
    scores: Tensor  # likewise

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(-1, 1, _KNOTS).repeat(targets, 1))
        self.register_buffer("scores", torch.linspace(-1, 1, _KNOTS).repeat(targets, 1))

    def fit(self, targets: Tensor) -> None:
        """Take training values [n, T], NaN where missing, of each target one at least."""
        for column, target in enumerate(targets.double().unbind(1)):
            known, counts = target[~target.isnan()].unique(return_counts=True)
            ends = counts.cumsum(0)
            scores = torch.special.ndtri((ends - counts.double() / 2) / ends[-1])
            if len(known) == 1:
                known, scores = torch.cat([known - 1, known + 1]), scores.new_tensor([-1.0, 1.0])
            knots = torch.linspace(0, len(known) - 1, _KNOTS, dtype=torch.float64).round().long()
            self.values[column], self.scores[column] = known[knots], scores[knots]

    def forward(self, values: Tensor) -> Tensor:
        """Scores of values [B, T]; NaN of NaN."""
        return _interpolate(values, self.values, self.scores)

    def inverse(self, scores: Tensor) -> Tensor:
        """Values of scores [B, T], which stay in the range of the training values."""
        return _interpolate(scores, self.scores, self.values)


def _interpolate(x: Tensor, knots: Tensor, images: Tensor) -> Tensor:
    """The piecewise linear map of x [B, T] from knots [T, K] to images [T, K], constant beyond the ends."""
    columns = x.T.contiguous()
    last = torch.searchsorted(knots, columns).clamp(1, knots.size(1) - 1)
    (a, b), (u, v) = ((part.gather(1, last - 1), part.gather(1, last)) for part in (knots, images))
    share = ((columns - a) / (b - a)).clamp(0, 1)
    # Of fewer values, some are several knots. What is missing stays so.
    return u.lerp(v, torch.where((b > a) | columns.isnan(), share, 0.5)).T
