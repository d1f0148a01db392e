r"""Sequences and grids in logarithmic depth: regions of nodes are joined two by two, in plain torch.

A region is one linear map. What goes in are the states of the edges that enter it and k v^T of its nodes;
what comes out are the states of the edges that leave it and what its nodes' marks read:

.. math::
    Z = \begin{pmatrix} T & S \\ M & G \end{pmatrix}

The map of two regions side by side follows from theirs by one product over the edges between them. Nodes are
joined to tiles, whose G is one attention-like pass; tiles are joined to the whole with their states in place
of their nodes, and on the way back every tile learns the states that enter it. A sequence is a grid without
edges down.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.dag import Lattice, LineGraph
from plstm_graph.kernels.cost import power_of_two

#: Nodes of a tile: of a sequence, and along either side of a grid.
_SEQUENCE_TILE, _GRID_TILE = 64, 8


def stm_lattice(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph, lattice: Lattice) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions.

    Args:
        lattice: sizes of the sequences or grids of ``dag``.

    Complexity: for tiles of n nodes with p edges at their border, O(N H (n (K + V) + n p + p K V)) time in
    O(log N) steps, and on a grid of s nodes along a side O(s³ H + s² H K V) for what joins the tiles.
    Source: arXiv 2506.11997, Appendices A.3 and A.4.
    """
    query, key, value, direct = nodes
    output = (direct * (query * key).sum(-1)).unsqueeze(-1) * value
    for direction, one_direction in enumerate(zip(*gates, strict=True)):
        maps = _node_maps(one_direction, dag, lattice, direction)
        turned = _turned(lattice, direction)
        maps, *laid_out = (
            x.unflatten(0, lattice[:3]).flip(turned) for x in (maps, query, key, value)
        )  # [graphs, height, width, …], edges point right and down
        output = output + _scan(maps, *laid_out).flip(turned).flatten(0, 2)
    return output


def _turned(lattice: Lattice, direction: int) -> list[int]:
    """Axes along which edges point left or up, on the DAG or, as direction 1, on the reversed one."""
    return ([1] if direction == 1 else []) + ([2] if lattice.leftwards != (direction == 1) else [])


def _node_maps(gates: tuple[Tensor, ...], dag: LineGraph, lattice: Lattice, direction: int) -> Tensor:
    """Z of single nodes [N, H, p + 1, p + 1], for p = 2 edges of a grid, right and down, 1 of a sequence."""
    source, transition, mark = gates
    start, end, before, after = dag.src, dag.dst, dag.pred, dag.succ
    if direction == 1:
        start, end, before, after = end, start, after, before
    ports = _ports(lattice.height)
    edge = (dag.src // lattice.width != dag.dst // lattice.width).long()  # 0 across, 1 down
    node = torch.full_like(edge, ports)
    maps = source.new_zeros(dag.num_nodes, ports + 1, ports + 1, source.size(1))
    maps = maps.index_put((start, edge, node), source)
    maps = maps.index_put((end, node, edge), mark)
    maps = maps.index_put((end[before], edge[after], edge[before]), transition)
    return maps.permute(0, 3, 1, 2)


def _ports(height: int) -> int:
    """Edges that enter a node, and as many that leave it."""
    return 1 if height == 1 else 2


def _scan(maps: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Sum what arrives over edges that point right and down: [graphs, height, width, H, V]."""
    height, width = maps.shape[1:3]
    most = (1, _SEQUENCE_TILE) if height == 1 else (_GRID_TILE, _GRID_TILE)
    tile = [min(side, power_of_two(size)) for side, size in zip(most, (height, width), strict=True)]
    # Pad to a power of two of tiles: nodes without gates contribute and receive nothing.
    padded = [power_of_two(-(-size // side)) * side for size, side in zip((height, width), tile, strict=True)]
    below, right = padded[0] - height, padded[1] - width
    query, key, value = (
        F.pad(x, (0, 0, 0, 0, 0, right, 0, below)).flatten(1, 2) for x in (query, key, value)
    )
    regions, number = _join_to_tiles(F.pad(maps, (0, 0, 0, 0, 0, 0, 0, right, 0, below)), tile)
    query, key, value = (x[:, number].transpose(-2, -3) for x in (query, key, value))  # [..., H, n, K or V]
    ports = regions.rows + regions.columns
    into, (marks, gating) = (
        regions.maps[..., :ports, :],
        regions.maps[..., ports:, :].split([ports, number.size(2)], dim=-1),
    )
    sourced = into[..., ports:].unsqueeze(-1) * key.unsqueeze(-3)  # [..., H, ports, n, K]
    left = sourced.mT @ value.unsqueeze(-3)  # [..., H, ports, K, V]
    tiles = _Regions(into[..., :ports], regions.rows, regions.columns)
    before = tiles.entering(left.flatten(-2))  # [..., H, ports, K·V]
    marked = (marks.unsqueeze(-1) * query.unsqueeze(-2)).flatten(-2)  # [..., H, n, ports·K]
    arrived = (gating * (query @ key.mT)) @ value
    arrived = arrived + marked @ before.unflatten(-1, (key.size(-1), -1)).flatten(-3, -2)
    arrived = arrived.transpose(-2, -3).flatten(1, 3)[:, number.flatten().argsort()]
    return arrived.unflatten(1, padded)[:, :height, :width]


def _join_to_tiles(maps: Tensor, tile: list[int]) -> tuple["_Regions", Tensor]:
    """Join nodes [graphs, height, width, …] to tiles of this number of rows and columns.

    Beside the tiles: the numbers of their nodes, [rows of tiles, columns of tiles, n], as they stand in maps.
    """
    height, width = maps.shape[1:3]
    regions = _Regions(maps, 1, _ports(height) - 1)
    number = torch.arange(height * width, device=maps.device).view(1, height, width, 1)
    rows, columns = 1, 1
    while (rows, columns) != tuple(tile):
        across = columns < tile[1] and (rows == tile[0] or columns <= rows)
        rows, columns = (rows, 2 * columns) if across else (2 * rows, columns)
        regions = regions.join(across)
        number = torch.cat(_halves(number, across), dim=3)
    return regions, number[0]


def _halves(x: Tensor, across: bool) -> tuple[Tensor, Tensor]:
    """The first and the second of every two neighbours in [graphs, height, width, …]."""
    return (x[:, :, 0::2], x[:, :, 1::2]) if across else (x[:, 0::2], x[:, 1::2])


class _Regions(NamedTuple):
    """Regions of one size that cover lattices.

    Attributes:
        maps: [graphs, height, width, H, out, in], where height and width count regions. Out are the edges
            that leave, in are those that enter, across first; nodes follow, or are left out.
        rows: edges that enter from the left; as many leave on the right.
        columns: edges that enter from above; as many leave below.
    """

    maps: Tensor
    rows: int
    columns: int

    def join(self, across: bool) -> "_Regions":
        """Join every two neighbours, side by side or one above the other; nodes stand one after the other."""
        first, second = _halves(self.maps, across)
        ports = self.rows + self.columns
        shared = slice(self.rows) if across else slice(self.rows, ports)
        passed = second[..., shared] @ first[..., shared, :]
        # The first block does not depend on the second. What both share enters the first, leaves the second.
        of_first = torch.cat(self._side_by_side(first, torch.zeros_like(second), first, across, -1), dim=-1)
        of_second = torch.cat(self._side_by_side(passed, second, passed, across, -1), dim=-1)
        maps = torch.cat(self._side_by_side(of_first, of_second, of_second, across, -2), dim=-2)
        rows, columns = (self.rows, 2 * self.columns) if across else (2 * self.rows, self.columns)
        return _Regions(maps, rows, columns)

    def _side_by_side(
        self, first: Tensor, second: Tensor, shared: Tensor, across: bool, dim: int
    ) -> list[Tensor]:
        """The edges and nodes of two neighbours in order; one of them has those edges that both share."""
        sizes = [self.rows, self.columns, first.size(dim) - self.rows - self.columns]
        one, other, common = (x.split(sizes, dim) for x in (first, second, shared))
        rows = [common[0]] if across else [one[0], other[0]]
        columns = [one[1], other[1]] if across else [common[1]]
        return [*rows, *columns, one[2], other[2]]

    def entering(self, states: Tensor) -> Tensor:
        """States of the edges that enter every region, if none enters the lattice: [..., H, ports, K·V].

        Args:
            states: of the edges that leave every region, as far as they are the region's own; likewise.
        """
        maps = self.maps
        height, width = maps.shape[1:3]
        if height == width == 1:
            return torch.zeros_like(states)
        across = width >= height
        shared = slice(self.rows) if across else slice(self.rows, None)
        (first, second), (own, after) = _halves(maps, across), _halves(states, across)
        after = after + second[..., shared] @ own[..., shared, :]
        joined = self.join(across)
        states = torch.cat(self._side_by_side(own, after, after, across, -2), dim=-2)
        before = joined.entering(states)
        rows, columns = before[..., : joined.rows, :], before[..., joined.rows :, :]
        one, other = (columns if across else rows).tensor_split(2, dim=-2)
        into_first = torch.cat([rows, one] if across else [one, columns], dim=-2)
        passed = own[..., shared, :] + first[..., shared, :] @ into_first
        into_second = torch.cat([passed, other] if across else [other, passed], dim=-2)
        axis = 2 if across else 1
        return torch.stack([into_first, into_second], dim=axis + 1).flatten(axis, axis + 1)
