"""Gradients on the way from a reference, of which integrated gradients are made."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

#: Points of the midpoint rule.
STEPS = 32


def path_gradients(
    function: Callable[..., Tensor], starts: Sequence[Tensor], ends: Sequence[Tensor]
) -> Iterator[tuple[int, list[Tensor]]]:
    """Outputs by number, and 32nds of the means of their gradients between starts and ends: 32 · T of them.

    Args:
        function: of tensors like these, to [B, T], which are summed up over the rows.
        starts, ends: of the straight path.

    Complexity: 32 passes forward and T·32 backward. Source: Sundararajan et al., arXiv 1703.01365.
    """
    for step in range(STEPS):
        share = (step + 0.5) / STEPS
        points = [torch.lerp(a, b, share).requires_grad_() for a, b in zip(starts, ends, strict=True)]
        columns = function(*points).sum(0).unbind()
        for number, column in enumerate(columns):
            more = number + 1 < len(columns)
            gradients = torch.autograd.grad(column, points, retain_graph=more, materialize_grads=True)
            yield number, [gradient / STEPS for gradient in gradients]
