"""A kernel of graphs by the environments and the pairs of nodes that they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import scatter

from plstm_graph.dag.refinement import STEP, hash_rows, mix
from plstm_graph.models.fingerprint import (
    count_colours,
    environments,
    node_pairs,
    occurrences,
)
from plstm_graph.models.graphs import Graphs
from plstm_graph.similarity import Counts, count_common

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: More than a graph has tokens.
_MANY = 2**32


def coloured(graphs: Graphs, radius: int, distance: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Find the tokens of graphs: their environments, and their pairs of nodes with their distance.

    Returns:
        For both kinds, the tokens' colours [M], and the nodes of each: both, or a centre twice.
    """
    colours = environments(graphs, radius)
    first, second, apart = node_pairs(graphs.edge_index, len(graphs.x), distance)
    node, centre = hash_rows(graphs.x), torch.arange(len(graphs.x)).repeat(len(colours))
    pairs = mix(node[first] + node[second]) * STEP + apart
    return [(colours.flatten(), centre, centre), (mix(pairs), first, second)]


class Tokens(NamedTuple):
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

    @classmethod
    def of(cls, colours: Tensor, graph: Tensor, num_graphs: int) -> Tokens:
        """Count colours [M] of so many graphs, of which ``graph`` [M] names each one's."""
        different, holder, counts = count_colours(colours, graph)
        ptr = F.pad(torch.bincount(holder, minlength=num_graphs).cumsum(0), (1, 0))
        return cls(different, counts.int(), ptr, torch.bincount(graph, minlength=num_graphs))

    def take(self, graphs: Tensor) -> Tokens:
        """Those of some of the graphs."""
        lengths = self.ptr.diff()[graphs]
        ptr = F.pad(lengths.cumsum(0), (1, 0))
        places = torch.arange(int(ptr[-1])) + torch.repeat_interleave(self.ptr[graphs] - ptr[:-1], lengths)
        return Tokens(self.colours[places], self.counts[places], ptr, self.sizes[graphs])


class KnownGraphs(NamedTuple):
    r"""The tokens of n graphs, token by token, for their MinMax kernel with others.

    With A and B the tokens of two graphs, of which equal ones count as often as both have them,
    :math:`k(A, B) = |A \cap B| / |A \cup B|`.

    Attributes:
        colours: of the different tokens, ascending [D].
        ptr: where the graphs that hold each token begin [D + 1].
        holders: these graphs, those first that hold it most often, int16 [H].
        counts: how often they do, int32 [H].
        sizes: number of tokens of every graph, equal ones too [n].
    """

    colours: Tensor
    ptr: Tensor
    holders: Tensor
    counts: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, batches: Sequence[Tokens]) -> KnownGraphs:
        """Take the graphs of batches, fewer than 2^15 of them."""
        found = torch.cat([part.colours for part in batches])
        colours, place = found.unique(return_inverse=True)
        counts = torch.cat([part.counts for part in batches])
        order = (place * _MANY - counts).argsort(stable=True)
        holders = torch.repeat_interleave(torch.cat([part.ptr.diff() for part in batches]))[order]
        ptr = F.pad(torch.bincount(place, minlength=len(colours)).cumsum(0), (1, 0))
        sizes = torch.cat([part.sizes for part in batches])
        return cls(colours, ptr, holders.short(), counts[order], sizes)

    def kernel(self, tokens: Tokens) -> Tensor:
        """Kernel of other graphs and these, float32 [B, n]; of graphs without tokens, all are alike.

        Complexity: O(B n + holders of all tokens of the others), on torch's threads.
        """
        place = self._place(tokens.colours)
        there = place < len(self.colours)
        ptr = F.pad(there.cumsum(0), (1, 0))[tokens.ptr]
        queries, holders = (
            Counts(*(array.numpy() for array in arrays))
            for arrays in ((ptr, place[there], tokens.counts[there]), (self.ptr, self.holders, self.counts))
        )
        shared = torch.from_numpy(count_common(queries, holders, len(self.sizes)))
        union = tokens.sizes[:, None] + self.sizes - shared
        return torch.where(union > 0, shared / union.clamp(min=1), 1.0).float()

    def gained(self, new: Tensor, old: Tensor, graph: Tensor, weights: Tensor) -> Tensor:
        r"""Share out among tokens what a weighted sum of the kernels gains from old tokens to new ones.

        Graphs have as many tokens before, R, as after, A. On the straight way from R to A,
        :math:`k(\cdot, B)` depends on how much is shared alone, so that its integrated gradient has a closed
        form: a token that is a in A and r in R gets

        .. math::
            \frac{|A| + |B|}{|A \cup B| \, |R \cup B|} \big([a \in B] - [r \in B]\big)

        What is equal in both gets nothing. Of the rest, equal ones of a graph share equally: which is which
        is arbitrary.

        Args:
            new, old: colours [M].
            graph: of each [M].
            weights: of every known graph in T sums, float64 [n, T].

        Returns:
            float64 [M, T].

        Complexity: O(M n T) at most: of every token, its holders' weights.
        """
        order = (new != old).argsort(stable=True)  # what is equal in both is numbered alike
        order = order[graph[order].argsort(stable=True)]
        graph, ends = graph[order], [new[order], old[order]]
        ranges = self._holding(ends, graph)
        gained = [weights.new_empty(len(order), weights.size(1)) for _ in ends]
        start = 0
        for count in torch.bincount(graph).tolist():
            rows = slice(start, start := start + count)
            held = [self._held(*part[:, rows]) for part in ranges]
            unions = [count + self.sizes - torch.from_numpy(part.sum(0)) for part in held]
            slopes = weights * ((count + self.sizes) / (unions[0] * unions[1]).clamp(min=1))[:, None]
            for share, part in zip(gained, held, strict=True):
                share[rows] = torch.from_numpy(part @ slopes.numpy())
        for share, colours in zip(gained, ends, strict=True):
            equal = mix(colours * STEP + 2 * graph + (ends[0] != ends[1])).unique(return_inverse=True)[1]
            share[:] = scatter(share, equal, reduce="mean")[equal]
        return torch.empty_like(gained[0]).index_copy_(0, order, gained[0] - gained[1])

    def _place(self, colours: Tensor) -> Tensor:
        """Numbers of tokens among the known ones, which are as many as that where not known."""
        place = torch.searchsorted(self.colours, colours)
        return place.where(F.pad(self.colours, (0, 1))[place] == colours, len(self.colours))

    def _holding(self, parts: Sequence[Tensor], graph: Tensor) -> list[Tensor]:
        """Where the holders begin and end that have each token as often as its graph has, [2, M] a part."""
        many = torch.repeat_interleave(self.ptr.diff()) * _MANY - self.counts  # ascending
        found = []
        for colours in parts:
            place = self._place(colours)
            # Those with more than so many before; of unknown tokens there are none, at the end.
            ends = torch.searchsorted(many, place * _MANY - occurrences(colours, graph))
            found.append(torch.stack([F.pad(self.ptr, (0, 1), value=len(self.holders))[place], ends]))
        return found

    def _held(self, begins: Tensor, ends: Tensor) -> csr_array:
        """Which graphs are in these ranges of holders: ones [M, n]."""
        from scipy.sparse import csr_array

        lengths = ends - begins
        ptr = F.pad(lengths.cumsum(0), (1, 0))
        entry = torch.arange(int(ptr[-1])) + torch.repeat_interleave(begins - ptr[:-1], lengths)
        indices = self.holders[entry].numpy(), ptr.numpy()
        return csr_array((np.ones(len(entry)), *indices), (len(lengths), len(self.sizes)))


class GraphKernel(NamedTuple):
    r"""The mean of two MinMax kernels, of environments and of pairs of nodes, and of one of descriptors.

    If graphs have D descriptors that vary, standardised to z, the last is :math:`\exp(-|z - z'|^2 / 2D)`. All
    are bounded; a share may be of one that is not, :math:`z \cdot z' / D`.

    Attributes:
        known: the tokens of n graphs, of each kind.
        descriptors: of these graphs [n, ·], or ``None``.
        linear: share of the kernel that is not bounded.
    """

    known: list[KnownGraphs]
    descriptors: Tensor | None
    linear: float = 0.0

    @classmethod
    def of(cls, batches: Sequence[Sequence[Tokens]], descriptors: Tensor | None) -> GraphKernel:
        """Take the graphs whose tokens of both kinds are in batches."""
        return cls([KnownGraphs.of(kind) for kind in zip(*batches, strict=True)], descriptors)

    @property
    def share(self) -> float:
        """That of each kind of tokens."""
        return (1 - self.linear) / (len(self.known) + (self.descriptors is not None))

    def between(self, tokens: Sequence[Tokens], descriptors: Tensor | None) -> Tensor:
        """Kernel of other graphs, by their tokens of both kinds, and the known ones: float32 [B, n]."""
        kernels = [known.kernel(part) for known, part in zip(self.known, tokens, strict=True)]
        if self.descriptors is None or descriptors is None:
            return torch.stack(kernels).mean(0)
        apart = torch.cdist(descriptors, self.descriptors).square()
        kernels.append((-apart / (2 * _varying(self.descriptors))).exp())
        mean = torch.stack(kernels).mean(0)
        return mean.lerp(linear_kernel(descriptors, self.descriptors), self.linear) if self.linear else mean

    def state(self) -> dict[str, Any]:
        """All that it knows, as a dictionary of numbers, tensors and dictionaries of these."""
        return self._asdict() | {"known": [known._asdict() for known in self.known]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> GraphKernel:
        """The kernel of a state."""
        return cls(**state | {"known": [KnownGraphs(**known) for known in state["known"]]})


def linear_kernel(descriptors: Tensor, known: Tensor) -> Tensor:
    """The kernel that is not bounded, of descriptors [B, D] and those of known graphs [n, D]: [B, n]."""
    return descriptors @ known.T / _varying(known)


def _varying(known: Tensor) -> Tensor:
    """How many of the descriptors [n, D] vary, or 1."""
    return (known != known[0]).any(0).sum().clamp(min=1)
