"""A branch that predicts by which training graphs a graph is like, fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plstm_graph.models.branch import Branch
from plstm_graph.models.fingerprint import share_within
from plstm_graph.models.graph_kernel import GraphKernel, Tokens, coloured, linear_kernel
from plstm_graph.models.graphs import Graphs
from plstm_graph.models.kernel_regression import (
    choose_linear_share,
    fit_log_odds,
    landmarks,
    solve,
    solve_by_landmarks,
)
from plstm_graph.ranges import MANY, check_range


class _Fitted(NamedTuple):
    """What was fitted.

    Attributes:
        kernel: of graphs and the training graphs.
        weights: of the training graphs [n, T].
        scale, shift: from sums of kernels to predictions [T].
    """

    kernel: GraphKernel
    weights: Tensor
    scale: Tensor
    shift: Tensor


class GaussianProcess(Branch):
    r"""It predicts by similar training graphs, and learns in closed form, before any gradient.

    A graph's tokens are its circular environments, and its pairs of nodes with their distance. With A and B
    the tokens of two graphs, of either kind, of which equal ones count as often as both have them,

    .. math::
        k(A, B) = \frac{|A \cap B|}{|A \cup B|} \qquad
        f(x) = \bar y + \sum_i \alpha_i \, k(x, x_i) \qquad
        \alpha = (K + \sigma^2 I)^{-1} (y - \bar y)

    with K the mean of both kinds' kernels over the training graphs :math:`x_i`; for counts, these are MinMax
    kernels. If graphs have D descriptors that vary, standardised to z, :math:`\exp(-|z - z'|^2 / 2D)` is a
    third, and K is :math:`(1 - s)` times this mean and s times :math:`z \cdot z' / D`: far from all training
    graphs, where the others vanish, f is linear. Of shares s from 0 to 0.75 the smallest is taken with which
    training graphs that are left out are predicted as well as can be, within 1 % of the squared error. The
    noise :math:`\sigma^2` maximises the marginal likelihood. Of classes, f becomes log-odds a f + b, where a
    and b minimise the log loss of what the other training graphs predict for each.

    Of more than 12,000 training graphs, or fewer where many targets lack values in different ones, landmarks
    :math:`z_j` stand for all, half of them graphs with rare labels if there are as many:
    :math:`f(x) = \bar y + \sum_j \alpha_j \, k(x, z_j)` with
    :math:`\alpha = (K_{zx} K_{xz} + \sigma^2 K_{zz})^{-1} K_{zx} (y - \bar y)`. Share and noise are chosen by
    them alone.

    It has no gradient, is the same in all networks of an ensemble, and has four times the weight of the nodes
    beside it: on validation molecules of six sets it predicted alone as well as with them, or better.

    Args:
        radius: radius of the largest environment, in edges.
        distance: of the farthest pair of nodes, in edges.

    Raises:
        InputError: a number that is out of its range.

    Complexity: for n training graphs, O(n³) once, in 24 n² bytes, and O(n · tokens) for a graph; with m
    landmarks O(n m²) in 4 n m bytes, and O(m · tokens).
    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), 5.4.2 for leaving out and
    8.3.1 for landmarks; Ralaivola et al., Graph kernels for chemical informatics (Neural Networks 2005).
    """

    learns = False
    weight = 4.0

    def __init__(self, radius: int = 3, distance: int = 10) -> None:
        super().__init__()
        check_range(0, MANY, **{"radius of a Gaussian process": radius})
        check_range(1, MANY, **{"distance of a Gaussian process": distance})
        self.radius = radius
        self.distance = distance
        self._fitted: _Fitted | None = None

    def heads(self, beside: int, hidden_channels: int, out_channels: int, dropout: float) -> list[nn.Module]:
        """One that takes what was predicted."""
        self.channels = out_channels
        return [_First(out_channels)]

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Graphs, Tensor]], task: str) -> None:
        """Take the training graphs and their targets.

        Args:
            batches: of graphs and their targets [B, T], NaN where missing: standardised, or 0 and 1, or
                [B, 1] of classes.
            task: ``"regression"``, ``"classification"`` or ``"multiclass"``.
        """
        pairs = [(_on_cpu(graphs), part) for graphs, part in batches]
        values = torch.cat([part for _, part in pairs]).double().cpu()
        if task == "multiclass":
            values = (
                F.one_hot(values[:, 0].nan_to_num().long(), self.channels)
                .double()
                .masked_fill(values.isnan(), torch.nan)
            )
        mean = values.nanmean(0).nan_to_num()  # 0 of a target that no graph has
        std = (values - mean).square().nanmean(0).nan_to_num().sqrt()
        scaled = (values - mean) / torch.where(std > 0, std, 1.0)
        parts = [_Part(self._tokens(graphs), graphs.descriptors) for graphs, _ in pairs]
        known = landmarks(values, task)
        compared = parts if len(known) == len(values) else _taken(parts, known)
        described = [part.descriptors for part in compared if part.descriptors is not None]
        tokens = [part.tokens for part in compared]
        similar = GraphKernel.of(tokens, torch.cat(described) if described else None)
        kernel = _with(similar, compared).double()
        if similar.descriptors is not None:
            z = similar.descriptors.double()
            linear = linear_kernel(z, z)
            similar = similar._replace(linear=choose_linear_share(kernel, linear, scaled[known]))
            kernel.lerp_(linear, similar.linear)
            del linear
        classes = task != "regression"
        if len(known) == len(values):
            weights, left_out = solve(kernel, scaled, classes)
        else:
            weights, left_out = solve_by_landmarks(_with(similar, parts), kernel, known, scaled, classes)
        scale, shift = fit_log_odds(left_out, values, task) if classes else (std, mean)
        self._fitted = _Fitted(similar, weights.float(), scale.float(), shift.float())

    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Predict [num_graphs, T], standardised or as log-odds; zeros in training and before it is fitted."""
        fitted = self._fitted
        if self.training or fitted is None:
            return torch.zeros(graphs.num_graphs, self.channels, device=graphs.x.device)
        device, graphs = graphs.x.device, _on_cpu(graphs)
        with torch.autocast("cpu", enabled=False):
            kernel = fitted.kernel.between(self._tokens(graphs), graphs.descriptors)
            return (kernel @ fitted.weights * fitted.scale + fitted.shift).to(device)

    @torch.no_grad()
    def contributions(self, graphs: Graphs, reference: Graphs, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """Share out among nodes, equally among those of an environment or a pair: [N, T].

        Tokens have what :meth:`~plstm_graph.models.graph_kernel.KnownGraphs.gained` gives them.

        Complexity: O(n · tokens) for a graph.
        """
        device, graphs, reference = graphs.x.device, _on_cpu(graphs), _on_cpu(reference)
        fitted = self._fitted
        if self.training or fitted is None:
            return torch.zeros(len(graphs.x), self.channels, dtype=torch.double, device=device)
        weights = (fitted.weights * fitted.scale).double() * fitted.kernel.share
        new, old = (coloured(part, self.radius, self.distance) for part in (graphs, reference))
        environments, pairs = (
            known.gained(colours, before, graphs.batch[first], weights)
            for known, (colours, first, _), (before, *_) in zip(fitted.kernel.known, new, old, strict=True)
        )
        by_radius = environments.view(self.radius + 1, len(graphs.x), self.channels)
        total = share_within(by_radius, graphs.edge_index)
        for nodes in new[1][1:]:
            total.index_add_(0, nodes, pairs / 2)
        return total.to(device)

    def _tokens(self, graphs: Graphs) -> list[Tokens]:
        """Tokens of both kinds."""
        return [
            Tokens.of(colours, graphs.batch[first], graphs.num_graphs)
            for colours, first, _ in coloured(graphs, self.radius, self.distance)
        ]

    def get_extra_state(self) -> dict[str, Any]:
        """What was fitted, for the network's state."""
        fitted = self._fitted
        return fitted._asdict() | {"kernel": fitted.kernel.state()} if fitted else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what was fitted."""
        kernel = GraphKernel.from_state(state["kernel"]) if state else None
        self._fitted = _Fitted(**state | {"kernel": kernel}) if state else None


class _First(nn.Module):
    """The first channels, which are predictions; descriptors may come behind them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding[:, : self.channels]


def _on_cpu(graphs: Graphs) -> Graphs:
    """Where tokens are counted; descriptors in the precision of the kernel."""
    graphs = Graphs._make(part.cpu() if isinstance(part, Tensor) else part for part in graphs)
    described = graphs.descriptors
    return graphs._replace(descriptors=None if described is None else described.float())


class _Part(NamedTuple):
    """Some graphs: their tokens of both kinds, and their descriptors [B, D], if they have some."""

    tokens: list[Tokens]
    descriptors: Tensor | None


def _taken(parts: Sequence[_Part], rows: Tensor) -> list[_Part]:
    """Those of all graphs that have these rows, ascending."""
    found, start = [], 0
    for tokens, descriptors in parts:
        end = start + len(tokens[0].sizes)
        if len(here := rows[(rows >= start) & (rows < end)] - start):
            described = None if descriptors is None else descriptors[here]
            found.append(_Part([kind.take(here) for kind in tokens], described))
        start = end
    return found


def _with(similar: GraphKernel, parts: Sequence[_Part]) -> Tensor:
    """Kernel of all graphs and the known ones, float32 [n, m]."""
    return torch.cat([similar.between(*part) for part in parts])
