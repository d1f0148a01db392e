"""Circular fingerprints: which environments a graph's nodes have, hashed, counted and read out."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plstm_graph.dag.bonds import neighbours_of
from plstm_graph.dag.distance import pairs_within
from plstm_graph.dag.refinement import STEP, hash_rows, mix
from plstm_graph.models.branch import Branch
from plstm_graph.models.dropout import Dropout
from plstm_graph.models.gradients import path_gradients
from plstm_graph.models.graphs import Graphs
from plstm_graph.ranges import MANY, WIDE, check_range

#: The fingerprint that the auxiliary task predicts: small, so that every count is set in some molecules.
_TASK_SIZE, _TASK_RADIUS = 1024, 2

#: What the logarithms of counts are multiplied by. A molecule has some sixty that are not 0, whose weights
#: all move at once: at the learning rate of the other layers their sum would go too far.
_SCALE = 0.25


class CircularFingerprint(Branch):
    r"""It reads a graph out by the environments of its nodes, as Morgan fingerprints do.

    With f(n) the features of a node and b(n, m) those of an edge, every node has a colour for each radius,
    the hash of all that is found within as many edges of it, and :math:`c_k` counts the colours of a graph
    that leave the rest k when they are divided by the size:

    .. math::
        h^0_n = \mathrm{hash}(f(n)) \qquad
        h^r_n = \mathrm{hash}\big(h^{r-1}_n, \{(h^{r-1}_m, b(m, n)) : m \to n\}\big) \qquad
        c_k = |\{(n, r) : h^r_n \bmod \mathrm{size} = k\}|

    The readout is a linear map of :math:`\log(1 + c) / 4` and a GELU. Hashes do not depend on how nodes are
    numbered, nor on what else is in the batch.

    About a hundred environments share a count, so that one that matters can be hidden by the others. Every
    further fingerprint hashes the colours again, and collides differently. Use it for categorical features
    only: hashing ignores similarity.

    Args:
        size: number of counts of a fingerprint.
        radius: radius of the largest environment, in edges.
        channels: width of a fingerprint's readout; each channel costs as many weights as there are counts.
        hashes: number of hash functions, each with a fingerprint, a readout and a head of its own.
        columns: number of features of nodes and edges that are read, from the first; ``None`` for all. Of
            OGB's features the first are the element and the type of the bond: with ``columns=1`` and a larger
            radius, a second branch finds alike what the first tells apart.
        hidden: share of a fingerprint's entries that training hides in every step; fewer where molecules are
            many for what is to be learned.

    Raises:
        InputError: a number that is out of its range.

    Complexity: O((N + C) · radius · feature columns + B · hashes · size · channels) for B graphs.
    Source: Rogers and Hahn, Extended-connectivity fingerprints (J. Chem. Inf. Model. 2010); Shervashidze et
    al., Weisfeiler-Lehman graph kernels (JMLR 2011).
    """

    def __init__(
        self,
        size: int = 1024,
        radius: int = 2,
        channels: int = 64,
        hashes: int = 2,
        columns: int | None = None,
        hidden: float = 0.5,
    ) -> None:
        super().__init__()
        for name, number in {"size": size, "channels": channels, "columns": columns}.items():
            check_range(1, WIDE, **{f"{name} of a fingerprint": number})
        check_range(1, MANY, **{"hashes of a fingerprint": hashes})
        check_range(0, MANY, **{"radius of a fingerprint": radius})
        check_range(0, 1, **{"hidden of a fingerprint": hidden})
        self.size = size
        self.radius = radius
        self.channels = channels
        self.hashes = self.parts = hashes
        self.columns = columns
        self.hidden = hidden
        self.hide = Dropout(hidden)
        self.lins = nn.ModuleList(nn.Linear(size, channels) for _ in range(hashes))

    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]] = ()) -> Tensor:
        """Embed graphs [num_graphs, hashes · channels] by their features before any encoder."""
        return self._read_out(_count(colours, graphs, self.size) for colours in self._colours(graphs))

    def contributions(self, graphs: Graphs, reference: Graphs, predict: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Share out among nodes, equally among those of an environment: [N, T].

        By integrated gradients of counts: with :math:`s_k` the mean of :math:`\partial f / \partial c_k` on
        the straight way from the reference's counts to the graph's, an environment gets
        :math:`s_k - s_{k'}`, where k counts it in the graph, and k' what is there in the reference.
        """
        colours = [torch.stack(self._colours(part)) for part in (reference, graphs)]
        starts, ends = (
            torch.stack([_count(hashed, graphs, self.size) for hashed in part]) for part in colours
        )
        first = torch.arange(self.hashes, device=starts.device)[:, None, None] * graphs.num_graphs
        old, new = ((first + graphs.batch) * self.size + part.remainder(self.size) for part in colours)
        shares: dict[int, Tensor] = {}
        for target, [slopes] in path_gradients(
            lambda counts: predict(self._read_out(counts)), [starts], [ends]
        ):
            gained = (slopes.flatten()[new] - slopes.flatten()[old]).sum(0)
            shares[target] = shares.get(target, 0) + gained
        return share_within(torch.stack(list(shares.values()), dim=2), graphs.edge_index)

    def _colours(self, graphs: Graphs) -> list[Tensor]:
        """Colours of the nodes [radius + 1, N] for every hash function."""
        edge_attr = None if graphs.edge_attr is None else graphs.edge_attr[:, : self.columns]
        graphs = graphs._replace(x=graphs.x[:, : self.columns], edge_attr=edge_attr)
        colours = [environments(graphs, self.radius)]
        while len(colours) < self.hashes:
            colours.append(mix(colours[-1]))  # as many different ones as before, in other counts
        return colours

    def _read_out(self, counts: Iterable[Tensor]) -> Tensor:
        """Embed graphs by their counts [num_graphs, size] for every hash function."""
        dtype = next(self.lins.parameters()).dtype
        scaled = (self.hide(_SCALE * part.log1p().to(dtype)) for part in counts)
        return torch.cat([F.gelu(lin(part)) for lin, part in zip(self.lins, scaled, strict=True)], dim=1)


class FingerprintTask(nn.Module):
    r"""A second task, whose targets every graph has: its fingerprint, from what its nodes are read out to.

    With c the 1,024 counts of the environments of a graph within two edges (as in
    :class:`CircularFingerprint`) and :math:`h` its embedding, the loss is

    .. math::
        \frac{1}{1024} \sum_k \big(w_k^T h + b_k - \log(1 + c_k)\big)^2

    in the mean over the graphs. A network that is trained on it too learns differences between molecules
    that few labels show.

    Args:
        channels: width of the embedding.

    Complexity: O(B · 1024 · channels) for B graphs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, _TASK_SIZE)

    def forward(self, embedding: Tensor, graphs: Graphs) -> Tensor:
        """The loss of embeddings [num_graphs, channels] of graphs, whose features no encoder has read."""
        counts = environment_counts(graphs, _TASK_SIZE, _TASK_RADIUS)
        return F.mse_loss(self.lin(embedding), counts.log1p().to(embedding.dtype))


def environment_counts(graphs: Graphs, size: int, radius: int) -> Tensor:
    """The fingerprints, float32 [num_graphs, size]: how many environments of a graph each count has."""
    return _count(environments(graphs, radius), graphs, size)


def _count(colours: Tensor, graphs: Graphs, size: int) -> Tensor:
    """Count the colours [R, N] of the nodes of graphs by their rests: float32 [num_graphs, size]."""
    index = (graphs.batch * size + colours.remainder(size)).flatten()
    # Sums of ones are exact in any order.
    ones = torch.ones(len(index), device=index.device)
    return ones.new_zeros(graphs.num_graphs * size).index_add(0, index, ones).view(graphs.num_graphs, size)


def environments(graphs: Graphs, radius: int) -> Tensor:
    """Colours of the nodes for the radii 0 to ``radius``, int64 [radius + 1, N]."""
    source, target = graphs.edge_index
    colour = hash_rows(graphs.x)
    edge = torch.zeros_like(source) if graphs.edge_attr is None else hash_rows(graphs.edge_attr)
    colours = [colour]
    for _ in range(radius):
        neighbours = torch.zeros_like(colour).index_add(0, target, mix(colour[source] * STEP + edge))
        colour = mix(colour * STEP + neighbours)
        colours.append(colour)
    return torch.stack(colours)


def count_colours(colours: Tensor, graph: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the equal colours of every graph.

    Args:
        colours: int64 [M].
        graph: the graph of each, int64 [M].

    Returns:
        The different colours, the graph of each, in ascending order, and how often it has the colour, [D].
    """
    order, begins = _sorted(colours, graph)
    first = begins.nonzero()[:, 0]
    counts = F.pad(first, (0, 1), value=len(order)).diff()
    return colours[order][first], graph[order][first], counts


def occurrences(colours: Tensor, graph: Tensor) -> Tensor:
    """Number the equal colours [M] of every graph, which :func:`count_colours` counts, from 0: [M]."""
    order, begins = _sorted(colours, graph)
    place = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, place - place.where(begins, 0).cummax(0).values)


def _sorted(colours: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
    """By graph, then by colour, equal ones in their order; and which are the first of their kind."""
    order = colours.argsort(stable=True)
    order = order[graph[order].argsort(stable=True)]
    key = torch.stack([graph[order], colours[order]])
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[1:] = (key[:, 1:] != key[:, :-1]).any(0)
    return order, begins


def node_pairs(edge_index: Tensor, number: int, farthest: int) -> list[Tensor]:
    """Pairs of nodes at most ``farthest`` edges apart, each once: first, second, distance [P]."""
    ptr, nbr = neighbours_of(edge_index, number)
    return [torch.from_numpy(part).to(edge_index.device) for part in pairs_within(farthest, ptr, nbr)]


def share_within(shares: Tensor, edge_index: Tensor) -> Tensor:
    """Share out what environments have, [radius + 1, N, T], equally among the nodes within: [N, T]."""
    first, second, distance = node_pairs(edge_index, shares.size(1), len(shares) - 1)
    centre, other, distance = torch.cat([first, second]), torch.cat([second, first]), distance.repeat(2)
    total = torch.zeros_like(shares[0])
    for radius, share in enumerate(shares):
        near = distance <= radius
        share = share / (1 + torch.bincount(centre[near], minlength=len(share)))[:, None]
        total += share.index_add(0, other[near], share[centre[near]])
    return total
