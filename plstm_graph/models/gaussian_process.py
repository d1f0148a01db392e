"""A branch that predicts by which training graphs a graph is like, fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import scatter

from plstm_graph.dag.refinement import mix
from plstm_graph.errors import InputError
from plstm_graph.models.branch import Branch
from plstm_graph.models.fingerprint import (
    STEP,
    counted,
    environments,
    hash_rows,
    node_pairs,
    occurrences,
    share_within,
)
from plstm_graph.models.graphs import Graphs
from plstm_graph.ranges import MANY, check_range
from plstm_graph.similarity import Counts, count_common

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: Training graphs that are taken at most, and targets of so many: what is solved are as many linear
#: equations, which are others for targets that are missing elsewhere.
LIMIT, _TARGETS = 12_000, 10

#: Training graphs by which the noise is chosen, and its range as a share of the signal.
_CHOOSING, _NOISE = 2_000, (1e-3, 10.0)

#: More than a graph has tokens.
_MANY = 2**32

#: Columns of a matrix that are solved for at once.
_COLUMNS = 1_000


def affordable(graphs: int, targets: int) -> bool:
    """Whether a Gaussian process is fitted in minutes: 12,000 training graphs at most, of ten targets."""
    return graphs <= LIMIT and targets * graphs**3 <= _TARGETS * LIMIT**3


class _Tokens(NamedTuple):
    """The different tokens of a batch of graphs, graph by graph.

    Attributes:
        colours: [D].
        counts: how often its graph has each, int32 [D].
        ptr: where those of every graph begin [B + 1].
        sizes: number of tokens of every graph, equal ones too [B].
    """

    colours: Tensor
    counts: Tensor
    ptr: Tensor
    sizes: Tensor


class _Memory(dict[str, Tensor]):
    """What was fitted; copies of a network share it, such as averages of weights, which begin before that."""

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
    third. The noise :math:`\sigma^2` maximises the marginal likelihood. Of classes, f becomes
    log-odds a f + b, where a and b minimise the log loss of what the other training graphs predict for each.

    It has no gradient, is the same in all networks of an ensemble, and has four times the weight of the nodes
    beside it: on validation molecules of six sets it predicted alone as well as with them, or better.

    Args:
        radius: radius of the largest environment, in edges.
        distance: of the farthest pair of nodes, in edges.

    Raises:
        InputError: a number that is out of its range.

    Complexity: for n training graphs, O(n³) once, in 24 n² bytes, and O(n · tokens) for a graph.
    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), 5.4.2 for leaving out;
    Ralaivola et al., Graph kernels for chemical informatics (Neural Networks 2005).
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

        Raises:
            InputError: it would take too long, see :func:`affordable`.
        """
        pairs = [(_on_cpu(graphs), part) for graphs, part in batches]
        targets = torch.cat([part for _, part in pairs])
        if not affordable(*targets.shape):
            raise InputError(
                f"A Gaussian process of {len(targets):,} training graphs and {targets.size(1)} targets would "
                "take too long; leave it out of the network's branches."
            )
        values = targets.double().cpu()
        if task == "multiclass":
            values = (
                F.one_hot(values[:, 0].nan_to_num().long(), self.channels)
                .double()
                .masked_fill(values.isnan(), torch.nan)
            )
        self._memory.clear()
        tokens = [self._tokens(graphs) for graphs, _ in pairs]
        for kind in range(2):
            self._remember(kind, [part[kind] for part in tokens])
        beside = [graphs.descriptors for graphs, _ in pairs]
        if described := [part for part in beside if part is not None]:
            self._memory["descriptors"] = torch.cat(described)
        kernel = torch.cat([self._kernel(*part) for part in zip(tokens, beside, strict=True)]).double()
        del tokens
        mean = values.nanmean(0)
        std = (values - mean).square().nanmean(0).sqrt()
        scaled = (values - mean) / torch.where(std > 0, std, 1.0)
        weights, left_out = torch.zeros_like(values), torch.full_like(values, torch.nan)
        known = ~values.isnan()
        for pattern in known.unique(dim=1).T:
            columns = (known == pattern[:, None]).all(0)
            rows = pattern.nonzero()[:, 0]
            learned = scaled[rows][:, columns]
            factor = _factor(kernel[rows[:, None], rows], learned)
            alpha = torch.cholesky_solve(learned, factor)
            weights[rows[:, None], columns] = alpha
            if task != "regression":
                missed = alpha / _diagonal_of_inverse(factor)[:, None]
                left_out[rows[:, None], columns] = learned - missed
        scale, shift = std, mean
        if task != "regression":
            scale, shift = _odds(left_out, values, task)
        self._memory |= {"weights": weights.float(), "scale": scale.float(), "shift": shift.float()}

    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Predict [num_graphs, T], standardised or as log-odds; zeros in training and before it is fitted."""
        memory = self._memory
        if self.training or not memory:
            return torch.zeros(graphs.num_graphs, self.channels, device=graphs.x.device)
        device, graphs = graphs.x.device, _on_cpu(graphs)
        kernel = self._kernel(self._tokens(graphs), graphs.descriptors)
        values = kernel @ memory["weights"] * memory["scale"] + memory["shift"]
        return values.to(device)

    @torch.no_grad()
    def contributions(self, graphs: Graphs, reference: Graphs, predict: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Share out among nodes, equally among those of an environment or a pair: [N, T].

        A graph and its reference have equally many tokens, A and R. On the straight way from R to A,
        :math:`k(\cdot, B)` depends on how much is shared alone, so that its integrated gradient has a closed
        form: an environment or pair, of which the token is a in A and r in R, gets

        .. math::
            \frac{|A| + |B|}{|A \cup B| \, |R \cup B|} \big([a \in B] - [r \in B]\big)

        What is equal in both gets nothing. Of the rest, equal ones of a graph share equally: which is which
        is arbitrary.

        Complexity: O(n · tokens) for a graph.
        """
        device, graphs, reference = graphs.x.device, _on_cpu(graphs), _on_cpu(reference)
        memory, total = self._memory, torch.zeros(len(graphs.x), self.channels, dtype=torch.double)
        if self.training or not memory:
            return total.to(device)
        weights = (memory["weights"] * memory["scale"]).double() / (2 + ("descriptors" in memory))
        batch = graphs.batch
        both = zip(self._coloured(graphs), self._coloured(reference), strict=True)
        for kind, ((new, first, second), (old, *_)) in enumerate(both):
            order = (new != old).argsort(stable=True)  # what is equal in both is numbered alike
            order = order[batch[first[order]].argsort(stable=True)]
            graph, ends = batch[first[order]], (new[order], old[order])
            ranges = [self._ranges(kind, colours, graph) for colours in ends]
            sizes = memory[f"sizes{kind}"]
            gained = [total.new_empty(len(order), self.channels) for _ in ends]
            start = 0
            for count in torch.bincount(graph).tolist():
                rows = slice(start, start := start + count)
                held = [self._held(kind, *part[:, rows]) for part in ranges]
                unions = [count + sizes - torch.from_numpy(part.sum(0)) for part in held]
                slopes = weights * ((count + sizes) / (unions[0] * unions[1]).clamp(min=1))[:, None]
                for share, part in zip(gained, held, strict=True):
                    share[rows] = torch.from_numpy(part @ slopes.numpy())
            for share, colours in zip(gained, ends, strict=True):
                equal = mix(colours * STEP + 2 * graph + (ends[0] != ends[1])).unique(return_inverse=True)[1]
                share[:] = scatter(share, equal, reduce="mean")[equal]
            shares = torch.empty_like(gained[0]).index_copy_(0, order, gained[0] - gained[1])
            if kind == 0:
                total += share_within(shares.view(self.radius + 1, *total.shape), graphs.edge_index)
            else:
                total.index_add_(0, first, shares / 2).index_add_(0, second, shares / 2)
        return total.to(device)

    def _ranges(self, kind: int, colours: Tensor, graph: Tensor) -> Tensor:
        """Where those training graphs begin and end, among the holders, that have tokens as often: [2, M]."""
        ptr, holders, counts, _ = self._kept(kind)
        place, number = self._place(kind, colours), occurrences(colours, graph)
        many = torch.repeat_interleave(ptr.diff()) * _MANY - counts  # ascending
        # Those with more than so many before; of unknown tokens there are none, at the end.
        ends = torch.searchsorted(many, place * _MANY - number)
        return torch.stack([F.pad(ptr, (0, 1), value=len(holders))[place], ends])

    def _held(self, kind: int, begins: Tensor, ends: Tensor) -> csr_array:
        """Which training graphs are in these ranges of holders: ones [M, n]."""
        from scipy.sparse import csr_array

        _, holders, _, sizes = self._kept(kind)
        lengths = ends - begins
        ptr = F.pad(lengths.cumsum(0), (1, 0))
        entry = torch.arange(int(ptr[-1])) + torch.repeat_interleave(begins - ptr[:-1], lengths)
        indices = holders[entry].numpy(), ptr.numpy()
        return csr_array((np.ones(len(entry)), *indices), (len(lengths), len(sizes)))

    def _tokens(self, graphs: Graphs) -> list[_Tokens]:
        """Tokens of both kinds."""
        found = []
        for colours, first, _ in self._coloured(graphs):
            different, graph, counts = counted(colours, graphs.batch[first])
            sizes = torch.zeros(graphs.num_graphs, dtype=torch.long).index_add_(0, graph, counts)
            ptr = F.pad(torch.bincount(graph, minlength=graphs.num_graphs).cumsum(0), (1, 0))
            found.append(_Tokens(different, counts.int(), ptr, sizes))
        return found

    def _coloured(self, graphs: Graphs) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Colours [M] of both kinds, and the nodes of each: both, or twice an environment's centre."""
        colours = environments(graphs, self.radius)
        first, second, distance = node_pairs(graphs.edge_index, len(graphs.x), self.distance)
        node, centre = hash_rows(graphs.x), torch.arange(len(graphs.x)).repeat(len(colours))
        pairs = mix(node[first] + node[second]) * STEP + distance
        return [(colours.flatten(), centre, centre), (mix(pairs), first, second)]

    def _remember(self, kind: int, parts: list[_Tokens]) -> None:
        """Keep which training graphs hold each token of a kind, and how often, those that have most first."""
        tokens, place = torch.cat([part.colours for part in parts]).unique(return_inverse=True)
        counts = torch.cat([part.counts for part in parts])
        order = (place * _MANY - counts).argsort(stable=True)
        holders = torch.repeat_interleave(torch.cat([part.ptr.diff() for part in parts]))[order]
        self._memory |= {
            f"tokens{kind}": tokens,
            f"ptr{kind}": F.pad(torch.bincount(place, minlength=len(tokens)).cumsum(0), (1, 0)),
            f"holders{kind}": holders.short(),  # of which LIMIT is below 2^15
            f"counts{kind}": counts[order],
            f"sizes{kind}": torch.cat([part.sizes for part in parts]),
        }

    def _kept(self, kind: int) -> list[Tensor]:
        """Where the holders of every token of a kind begin, these, how often they have it, their sizes."""
        return [self._memory[f"{name}{kind}"] for name in ("ptr", "holders", "counts", "sizes")]

    def _place(self, kind: int, tokens: Tensor) -> Tensor:
        """Numbers of tokens among those of the training graphs, which are as many as that where not known."""
        known = self._memory[f"tokens{kind}"]
        place = torch.searchsorted(known, tokens)
        return place.where(F.pad(known, (0, 1))[place] == tokens, len(known))

    def _kernel(self, parts: Sequence[_Tokens], descriptors: Tensor | None) -> Tensor:
        """Mean of the kernels of graphs with these tokens and all training graphs: [B, n] float32."""
        kernels = []
        for kind, part in enumerate(parts):
            *known, sizes = self._kept(kind)
            place = self._place(kind, part.colours)
            there = place < len(self._memory[f"tokens{kind}"])
            kept = F.pad(there.cumsum(0), (1, 0))[part.ptr]
            queries, holders = (
                Counts(*(array.numpy() for array in arrays))
                for arrays in ((kept, place[there], part.counts[there]), known)
            )
            shared = torch.from_numpy(count_common(queries, holders, len(sizes)))
            every = part.sizes[:, None] + sizes - shared
            # Of graphs without pairs, such as methane, all are alike.
            kernels.append(torch.where(every > 0, shared / every.clamp(min=1), 1.0).float())
        if descriptors is not None:
            others = self._memory["descriptors"]
            varying = (others != others[0]).any(0).sum().clamp(min=1)
            kernels.append((-torch.cdist(descriptors, others).square() / (2 * varying)).exp())
        return torch.stack(kernels).mean(0)

    def get_extra_state(self) -> dict[str, Tensor]:
        """What was fitted, for the network's state."""
        return dict(self._memory)

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take what was fitted."""
        self._memory = _Memory(state)


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


def _factor(kernel: Tensor, values: Tensor) -> Tensor:
    """Cholesky factor of a kernel [n, n] and the noise of values [n, T], which is added to it in place."""
    kernel.diagonal().add_(_noise(kernel, values))
    return torch.linalg.cholesky(kernel)


def _diagonal_of_inverse(factor: Tensor) -> Tensor:
    """Of the matrix that has this Cholesky factor [n, n], in the memory of a few columns."""
    parts = []
    for start in range(0, len(factor), _COLUMNS):
        rest = factor[start:, start:]  # above, the inverse of the factor is 0
        unit = torch.eye(len(rest), min(_COLUMNS, len(rest)), dtype=factor.dtype)
        parts.append(torch.linalg.solve_triangular(rest, unit, upper=False).square().sum(0))
    return torch.cat(parts)


def _noise(kernel: Tensor, values: Tensor) -> float:
    """The noise that makes the values of at most 2,000 graphs likeliest, together with the best signal."""
    from scipy.optimize import minimize_scalar  # takes half a second

    rows = torch.linspace(0, len(kernel) - 1, min(len(kernel), _CHOOSING)).long()
    scales, vectors = torch.linalg.eigh(kernel[rows][:, rows])
    scales, parts = scales.clamp(min=0), (vectors.T @ values[rows]).square()

    def loss(logarithm: float) -> float:
        total = scales + np.exp(logarithm)
        signal = (parts / total[:, None]).mean(0).clamp(min=1e-12)
        return float(signal.log().mean() + total.log().mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_NOISE), method="bounded").x))


def _odds(values: Tensor, targets: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Scale and shift [T] that make log-odds of values [n, T], by labels [n, T] smoothed as Platt did."""
    known = ~targets.isnan()
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
