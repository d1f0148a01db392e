"""LineGraphDAG: edges, line edges and blocks of oriented graphs, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag.adjacency import incoming_lines, oriented_edges
from plstm_graph.dag.bonds import Bonds, check_edge_index
from plstm_graph.dag.levels import edge_levels, line_levels
from plstm_graph.dag.multitree import multitree_lines
from plstm_graph.dag.orientation import Orientation, rank_bonds, resolve
from plstm_graph.errors import InputError


class Lattice(NamedTuple):
    """Graphs of one size whose nodes are numbered row by row; edges point right and down."""

    graphs: int
    height: int
    width: int
    leftwards: bool = False  #: edges point left and down


@dataclass(frozen=True, eq=False, kw_only=True)
class LineGraph:
    """A line graph has the edges of DAGs and the line edges that join them; a scan walks along it.

    Attributes:
        num_nodes: N.
        src, dst: [E] nodes.
        pred_ptr, pred: [E+1], [L] incoming line edges (CSR): edge e continues ``pred[pred_ptr[e] :
            pred_ptr[e+1]]``.
        succ: [L] the edge that a line leads to: ``pred[l]`` → ``succ[l]``; it follows from ``pred_ptr``.
        level: [E] longest path to an edge, in line edges.
        node_ptr, edge_ptr: [B+1] first node and edge of every block.
        lattice: the sequences (of height 1) or grids that the graphs are, if they are and have one size.
    """

    num_nodes: int
    src: Tensor
    dst: Tensor
    pred_ptr: Tensor
    pred: Tensor
    succ: Tensor = field(default=None)  # type: ignore[assignment]
    level: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor
    lattice: Lattice | None = None

    def __post_init__(self) -> None:
        if self.succ is None:
            succ = torch.repeat_interleave(self.pred_ptr.diff(), output_size=self.pred.size(0))
            object.__setattr__(self, "succ", succ)

    @property
    def num_edges(self) -> int:
        """E, the number of DAG edges (bonds)."""
        return self.src.size(0)

    @property
    def num_lines(self) -> int:
        """L, the number of line edges."""
        return self.pred.size(0)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.src.device

    @cached_property
    def largest_block(self) -> int:
        """The most nodes or edges that a block has."""
        sizes = torch.cat([self.node_ptr.diff(), self.edge_ptr.diff()])
        return int(sizes.max()) if sizes.numel() else 0

    @cached_property
    def num_levels(self) -> int:
        """Length of the longest chain of edges."""
        return torch.bincount(self.level).size(0)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same structure on another device."""
        if torch.device(device) == self.device:
            return self
        moved: dict[str, Any] = {
            part.name: value.to(device, non_blocking=non_blocking)
            for part in fields(self)
            if isinstance(value := getattr(self, part.name), Tensor)
        }
        return replace(self, **moved)

    def expand(self, state_dim: int) -> tuple["LineGraph", Tensor]:
        """Every edge ``state_dim`` times, once for each component of its state, and every line its square.

        Component j of edge e becomes edge e·J + j, which continues all components of e's predecessors. A scan
        with matrix transitions is one with scalars on the expanded line graph.

        Returns:
            The expanded line graph, and for each of its lines [L·J²] the number l·J² + j·J + i of the
            transition of line l from component i to component j.

        Complexity: O(L·J²), on the device.
        """
        size, per_line = state_dim, state_dim**2
        inner = torch.arange(size, device=self.device)
        first, count = self.pred_ptr[:-1], self.pred_ptr.diff()
        starts = per_line * first.unsqueeze(1) + inner * size * count.unsqueeze(1)  # [E, J]
        # Incoming lines stand by component, then by predecessor, then by its component.
        among = (torch.arange(self.num_lines, device=self.device) - first[self.succ]).view(-1, 1, 1)
        position = (starts[self.succ].unsqueeze(2) + among * size + inner).flatten()
        transition = torch.empty_like(position)
        transition[position] = torch.arange(len(position), device=self.device)
        expanded = LineGraph(
            num_nodes=self.num_nodes,
            src=self.src.repeat_interleave(size),
            dst=self.dst.repeat_interleave(size),
            pred_ptr=torch.cat([starts.flatten(), per_line * self.pred_ptr[-1:]]),
            pred=self.pred[transition // per_line] * size + transition % size,
            level=self.level.repeat_interleave(size),
            node_ptr=self.node_ptr,
            edge_ptr=self.edge_ptr * size,
        )
        return expanded, transition


@dataclass(frozen=True, eq=False, kw_only=True)
class LineGraphDAG(LineGraph):
    """The line graph of a DAG, or of a batch of DAGs: the one structure that the op works on.

    Edges are grouped by block and, inside a block, in topological order: all predecessors of an edge
    stand before it. A block is a range of nodes that no edge leaves; the graphs of a batch always fall
    into different blocks, and the components of a graph usually do.

    Attributes beside those of :class:`LineGraph`:
        edge_id: [E] column of edge_index (or of the list given) that the edge came from.
        line_id: [L] position in the list of lines given; 0 … L-1 where none was.
        multitree: [L] bool, the lines that D-mode keeps: at most one path between any two edges.
        block_columns: [B] columns of edge_index (or of the list given) in every block, self loops and
            repeated bonds among them: by their number, one that was added later is noticed.

    All index tensors are int64. ``from_edge_index`` and ``from_lines`` validate what they are given; the
    structure is immutable.

    Example:
        >>> import torch
        >>> from plstm_graph import LineGraphDAG
        >>> dag = LineGraphDAG.from_edge_index(torch.tensor([[0, 1, 1], [1, 2, 3]]))  # 0 → 1 → 2 and 1 → 3
        >>> list(zip(dag.src.tolist(), dag.dst.tolist()))
        [(0, 1), (1, 3), (1, 2)]
        >>> list(zip(dag.pred.tolist(), dag.succ.tolist()))  # lines, from edge to edge
        [(0, 1), (0, 2)]
        >>> dag.level.tolist()
        [0, 1, 1]
    """

    edge_id: Tensor
    line_id: Tensor
    multitree: Tensor
    block_columns: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_columns is None:  # every bond is given once
            object.__setattr__(self, "block_columns", self.edge_ptr.diff())

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int | None = None,
        *,
        rank: Orientation = "center",
        batch: Tensor | None = None,
        node_labels: Tensor | None = None,
        edge_labels: Tensor | None = None,
    ) -> "LineGraphDAG":
        """Orient the bonds of a graph or a batch and build the line graph of the DAG.

        A component whose bonds are all given in both directions is undirected and is oriented by
        ``rank``; one that has a bond in one direction only is directed and keeps its directions. Repeated
        bonds count once (the first column stands for them); self loops are left out, since the direct gate is
        a node's own.

        Args:
            edge_index: [2, C] integer.
            num_nodes: N; by default one more than the largest index.
            rank: orientation, see :func:`plstm_graph.dag.rank_nodes`.
            batch: [N] graph of every node; only checked, since blocks follow from the bonds.
            node_labels: [N, …] labels that distinguish nodes before the structure does: features or RDKit's
                canonical ranks. Without them, ends of C-O count as alike.
            edge_labels: [C, …] the same for bonds.

        Raises:
            InputError: bad indices or ranks, bonds between graphs, or a directed cycle, which is named.

        Complexity: O(C log N + L + Σ ancestors of edges with several predecessors), the last for the
        multitree; see :func:`plstm_graph.dag.rank_nodes` for the ranking.
        """
        bonds = Bonds(edge_index, num_nodes, node_labels, edge_labels)
        num_nodes = bonds.num_nodes
        if batch is not None:
            _check_batch(batch, edge_index, num_nodes)
        graph = Data(edge_index=edge_index, x=node_labels, edge_attr=edge_labels, num_nodes=num_nodes)
        ranks = rank_bonds(bonds, resolve(rank, graph))
        ptr, nbr, out_col, in_col, _ = bonds.adjacency
        src, dst, column, edge_ptr = oriented_edges(bonds.node_ptr, ranks, ptr, nbr, out_col, in_col)
        pred_ptr, pred = incoming_lines(src, dst, num_nodes)
        return _assemble(
            num_nodes,
            edge_id=column,
            src=src,
            dst=dst,
            pred_ptr=pred_ptr,
            pred=pred,
            line_id=np.arange(len(pred)),
            node_ptr=bonds.node_ptr,
            edge_ptr=edge_ptr,
            block_columns=bonds.block_columns,
        ).to(edge_index.device)

    @classmethod
    def from_lines(cls, num_nodes: int, edges: Tensor, lines: Tensor) -> "LineGraphDAG":
        """Take the edges [2, E] of a DAG and the line edges [2, L] among them as they are given.

        Args:
            num_nodes: N.
            edges: [2, E] integer, source and destination nodes, in any order.
            lines: [2, L] integer, positions in ``edges`` of a predecessor and its successor, in any order.

        Returns:
            One block; ``edge_id`` and ``line_id`` say where every edge and line went.

        Raises:
            InputError: bad indices, a line between edges that do not meet, a repeated line, or a cycle.

        Complexity: O(N + E + L log L + Σ ancestors of edges with several predecessors).
        """
        src, dst = check_edge_index(edges, num_nodes)
        first, second = check_edge_index(lines, len(src))
        apart = np.flatnonzero(dst[first] != src[second])
        if len(apart):
            raise InputError(
                f"line {apart[0]} joins edges {first[apart[0]]} and {second[apart[0]]}, but the first ends "
                f"at node {dst[first[apart[0]]]} and the second starts at node {src[second[apart[0]]]}."
            )
        level, done = line_levels(first, second, len(src))
        if done < len(src):
            edge = np.argmin(level)
            raise InputError(f"edge {edge} ({src[edge]}→{dst[edge]}) lies on or behind a directed cycle.")
        order = np.lexsort((np.arange(len(src)), level))
        position = np.argsort(order)
        line_id = np.lexsort((position[first], position[second]))
        pred, succ = position[first][line_id], position[second][line_id]
        repeated = np.flatnonzero((pred[1:] == pred[:-1]) & (succ[1:] == succ[:-1]))
        if len(repeated):
            raise InputError(f"lines {line_id[repeated[0]]} and {line_id[repeated[0] + 1]} are the same.")
        pred_ptr = np.searchsorted(succ, np.arange(len(src) + 1))
        return _assemble(
            num_nodes,
            edge_id=order,
            src=src[order],
            dst=dst[order],
            pred_ptr=pred_ptr,
            pred=pred,
            line_id=line_id,
            node_ptr=np.array([0, num_nodes]),
            edge_ptr=np.array([0, len(src)]),
            block_columns=np.array([len(src)]),
        ).to(edges.device)

    @classmethod
    def batch(cls, dags: Sequence["LineGraphDAG"]) -> "LineGraphDAG":
        """Join several DAGs into one; nodes, edges, lines and ids of each follow those of the one before."""
        nodes = np.cumsum([0] + [dag.num_nodes for dag in dags]).tolist()
        edges = np.cumsum([0] + [dag.num_edges for dag in dags]).tolist()
        lines = np.cumsum([0] + [dag.num_lines for dag in dags]).tolist()
        numbered = np.cumsum([0] + [int(dag.block_columns.sum()) for dag in dags]).tolist()

        def join(name: str, offsets: Sequence[int], pointer: bool = False) -> Tensor:
            start = 1 if pointer else 0
            parts = [getattr(dag, name)[start:] + shift for dag, shift in zip(dags, offsets, strict=False)]
            head = [torch.zeros(1, dtype=torch.int64, device=parts[0].device if parts else None)]
            return torch.cat(head + parts if pointer else parts or [head[0][:0]])

        lattices = [dag.lattice for dag in dags]
        lattice = lattices[0] if lattices else None
        if lattice is not None:
            alike = all(other is not None and other[1:] == lattice[1:] for other in lattices)
            graphs = sum(other.graphs for other in lattices if other is not None)
            lattice = lattice._replace(graphs=graphs) if alike else None
        keep = [dag.multitree for dag in dags] or [torch.zeros(0, dtype=torch.bool)]
        columns = [dag.block_columns for dag in dags] or [torch.zeros(0, dtype=torch.int64)]
        return cls(
            num_nodes=nodes[-1],
            edge_id=join("edge_id", numbered),
            src=join("src", nodes),
            dst=join("dst", nodes),
            pred_ptr=join("pred_ptr", lines, pointer=True),
            pred=join("pred", edges),
            line_id=join("line_id", lines),
            multitree=torch.cat(keep),
            level=join("level", [0] * len(dags)),
            node_ptr=join("node_ptr", nodes, pointer=True),
            edge_ptr=join("edge_ptr", edges, pointer=True),
            lattice=lattice,
            block_columns=torch.cat(columns),
        )

    def reverse(self) -> "LineGraphDAG":
        """The DAG with every edge turned round; its ids say where each edge and line came from.

        Edges stand in the opposite order inside their block, which is topological again, so that
        ``dag.reverse().reverse()`` equals ``dag``, but that it is no lattice any more. The multitree is kept:
        its reverse is one too.
        """
        dag = self.to("cpu")
        edge_ptr = dag.edge_ptr.numpy()
        block_ends = np.repeat(edge_ptr[:-1] + edge_ptr[1:] - 1, np.diff(edge_ptr))
        flipped = block_ends - np.arange(dag.num_edges)  # an involution on positions
        pred, succ = flipped[dag.succ.numpy()], flipped[dag.pred.numpy()]
        lines = np.lexsort((pred, succ))
        pred_ptr = np.searchsorted(succ[lines], np.arange(dag.num_edges + 1))
        level = edge_levels(pred_ptr, pred[lines])
        order = torch.from_numpy(flipped)
        return LineGraphDAG(
            num_nodes=dag.num_nodes,
            edge_id=dag.edge_id[order],
            src=dag.dst[order],
            dst=dag.src[order],
            pred_ptr=torch.from_numpy(pred_ptr),
            pred=torch.from_numpy(pred[lines]),
            line_id=dag.line_id[torch.from_numpy(lines)],
            multitree=dag.multitree[torch.from_numpy(lines)],
            level=torch.from_numpy(level),
            node_ptr=dag.node_ptr,
            edge_ptr=dag.edge_ptr,
            block_columns=dag.block_columns,
        ).to(self.device)

    def __repr__(self) -> str:
        sizes = f"nodes={self.num_nodes}, edges={self.num_edges}, lines={self.num_lines}"
        return f"{type(self).__name__}({sizes}, blocks={self.node_ptr.size(0) - 1})"


# torch.export and other transforms take a DAG among a program's inputs apart, and put it together again.
torch.export.register_dataclass(LineGraphDAG, serialized_type_name="plstm_graph.LineGraphDAG")
# Saved programs hold one among their example inputs.
torch.serialization.add_safe_globals([LineGraphDAG, Lattice])


def _assemble(num_nodes: int, **arrays: NDArray[np.int64]) -> LineGraphDAG:
    """Add the multitree and the levels to arrays in topological order, and turn all into tensors."""
    pred_ptr, pred = arrays["pred_ptr"], arrays["pred"]
    arrays |= {"multitree": multitree_lines(pred_ptr, pred), "level": edge_levels(pred_ptr, pred)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return LineGraphDAG(num_nodes=num_nodes, lattice=None, **tensors)


def _check_batch(batch: Tensor, edge_index: Tensor, num_nodes: int) -> None:
    """Say so if ``batch`` does not fit the graph."""
    if not isinstance(batch, Tensor):
        raise InputError(f"batch must be a tensor [num_nodes], not a {type(batch).__name__}.")
    if batch.shape != (num_nodes,):
        raise InputError(f"batch needs the shape [{num_nodes}], not {list(batch.shape)}.")
    if (batch.diff() < 0).any():
        raise InputError("batch must be sorted: the nodes of a graph follow each other.")
    between = (batch[edge_index[0].long()] != batch[edge_index[1].long()]).nonzero()
    if between.numel():
        column = int(between[0])
        raise InputError(f"column {column} of edge_index joins nodes of two graphs of the batch.")
