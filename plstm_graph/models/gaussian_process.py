"""A branch that predicts by which training graphs a graph is like, fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plstm_graph.models.branch import Branch
from plstm_graph.models.fingerprint import share_within
from plstm_graph.models.graph_kernel import GraphKernel, Tokens, coloured, linear_kernel
from plstm_graph.models.graphs import Graphs
from plstm_graph.ranges import MANY, check_range

#: Training graphs with which all others are compared at most, if so many systems of equations are to be
#: solved: one for all targets that have values in the same graphs.
LIMIT, _SYSTEMS = 12_000, 10

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


def landmarks(graphs: int, systems: int) -> int:
    """How many of so many training graphs a Gaussian process compares others with, to be fitted in minutes.

    All of 12,000 if ten systems of equations are solved; of more graphs 6,000 or as many as make 300,000,000
    pairs with these, and fewer where that takes longer.
    """
    work = _SYSTEMS * LIMIT**3
    if graphs <= LIMIT and systems * graphs**3 <= work:
        return graphs
    return min(_LANDMARKS, _PAIRS // graphs, int((work / (systems * graphs)) ** 0.5), graphs)


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


class _Memory:
    """Where that is; copies of a network share it, such as averages of weights, which begin before it."""

    fitted: _Fitted | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


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

    Of more than 12,000 training graphs, landmarks :math:`z_j` stand for all, half of them graphs with rare
    labels if there are as many: :math:`f(x) = \bar y + \sum_j \alpha_j \, k(x, z_j)` with
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
        self._memory = _Memory()

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
        mean = values.nanmean(0)
        std = (values - mean).square().nanmean(0).sqrt()
        scaled = (values - mean) / torch.where(std > 0, std, 1.0)
        parts = [_Part(self._tokens(graphs), graphs.descriptors) for graphs, _ in pairs]
        known = _landmarks(values, task)
        compared = parts if len(known) == len(values) else _taken(parts, known)
        described = [part.descriptors for part in compared if part.descriptors is not None]
        tokens = [part.tokens for part in compared]
        similar = GraphKernel.of(tokens, torch.cat(described) if described else None)
        kernel = _with(similar, compared).double()
        if similar.descriptors is not None:
            z = similar.descriptors.double()
            linear = linear_kernel(z, z)
            similar = similar._replace(linear=_linear_share(kernel, linear, scaled[known]))
            kernel.lerp_(linear, similar.linear)
            del linear
        odds = task != "regression"
        if len(known) == len(values):
            weights, left_out = _solved(kernel, scaled, odds)
        else:
            weights, left_out = _solved_by_landmarks(_with(similar, parts), kernel, known, scaled, odds)
        scale, shift = _odds(left_out, values, task) if odds else (std, mean)
        self._memory.fitted = _Fitted(similar, weights.float(), scale.float(), shift.float())

    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Predict [num_graphs, T], standardised or as log-odds; zeros in training and before it is fitted."""
        fitted = self._memory.fitted
        if self.training or fitted is None:
            return torch.zeros(graphs.num_graphs, self.channels, device=graphs.x.device)
        device, graphs = graphs.x.device, _on_cpu(graphs)
        kernel = fitted.kernel.between(self._tokens(graphs), graphs.descriptors)
        return (kernel @ fitted.weights * fitted.scale + fitted.shift).to(device)

    @torch.no_grad()
    def contributions(self, graphs: Graphs, reference: Graphs, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """Share out among nodes, equally among those of an environment or a pair: [N, T].

        Tokens have what :meth:`~plstm_graph.models.graph_kernel.KnownGraphs.gained` gives them.

        Complexity: O(n · tokens) for a graph.
        """
        device, graphs, reference = graphs.x.device, _on_cpu(graphs), _on_cpu(reference)
        fitted = self._memory.fitted
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
        fitted = self._memory.fitted
        return fitted._asdict() | {"kernel": fitted.kernel.state()} if fitted else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what was fitted."""
        self._memory = _Memory()
        if state:
            self._memory.fitted = _Fitted(**state | {"kernel": GraphKernel.from_state(state["kernel"])})


class _First(nn.Module):
    """The first channels, which are predictions; descriptors may come behind them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding[:, : self.channels]


def _on_cpu(graphs: Graphs) -> Graphs:
    """Where tokens are counted."""
    return Graphs._make(part.cpu() if isinstance(part, Tensor) else part for part in graphs)


class _Part(NamedTuple):
    """Some graphs: their tokens of both kinds, and their descriptors [B, D], if they have some."""

    tokens: list[Tokens]
    descriptors: Tensor | None


def _landmarks(values: Tensor, task: str) -> Tensor:
    """Rows of the graphs with values [n, T] that others are compared with, ascending."""
    rows, number = torch.arange(len(values)), landmarks(len(values), len(list(_patterns(values))))
    if number == len(values) or task == "regression":
        return _some(rows, number)
    counts = torch.stack([(values == label).sum(0) for label in (0, 1)])
    rarity = (1 / counts.gather(0, values.nan_to_num().long())).masked_fill(values.isnan(), 0.0).amax(1)
    rare = rarity > rarity.median()
    chosen = _some(rows[rare], number // 2)
    others = torch.ones(len(values), dtype=torch.bool).index_fill(0, chosen, False)
    return torch.cat([chosen, _some(rows[others], number - len(chosen))]).sort().values


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


def _solved(kernel: Tensor, values: Tensor, leave_out: bool) -> tuple[Tensor, Tensor]:
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


def _solved_by_landmarks(
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
        for some in _some(rows, LIMIT).split(_COLUMNS) if leave_out else ():
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


def _linear_share(bounded: Tensor, linear: Tensor, values: Tensor) -> float:
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


def _odds(values: Tensor, targets: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Scale and shift [T] that make log-odds of values [n, T], by labels [n, T] smoothed as Platt did."""
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
        odds = values * scale + shift
        if task == "multiclass":
            rows = known[:, 0]
            total = F.cross_entropy(odds[rows], labels[rows])
        else:
            total = F.binary_cross_entropy_with_logits(odds[known], smoothed[known])
        total = total + 1e-4 * (scale.square().sum() + shift.square().sum())
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    return scale.detach().expand_as(shift), shift.detach()
