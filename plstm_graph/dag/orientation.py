"""Orientation: rankings of the nodes, from the lower to the higher of which every bond points."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag.adjacency import (
    Adjacency,
    connected_components,
    contiguous_blocks,
    directed_cycle,
    in_directed_component,
    neighbour_lists,
    topological_depth,
)
from plstm_graph.dag.distance import distance_from, distance_from_extremal_node
from plstm_graph.dag.refinement import canonical_rank, weighted_sums
from plstm_graph.errors import InputError

OrientationName = Literal["center", "bfs", "canonical", "index"]


@dataclass(frozen=True)
class Root:
    """The orientation by distance from one node of every component.

    Args:
        place: the node's place in the canonical order of its component, from 0 to below 1; ``None`` draws a
            node at random, by torch's numbers, whenever a graph is oriented.

    Raises:
        InputError: a place outside of that.
    """

    place: float | None = None

    def __post_init__(self) -> None:
        if self.place is not None and not 0 <= self.place < 1:
            raise InputError(f"the place of a root must be from 0 to below 1, not {self.place}.")


#: A name, a root, a rank for every node, or a function that gives one for a PyG graph.
Orientation = OrientationName | Root | Tensor | Callable[[Data], Tensor]


def rank_nodes(graph: Data, orientation: Orientation = "center") -> Tensor:
    """Rank the nodes of a graph; bonds point from the lower to the higher rank.

    - ``"center"``: by distance from the centre (the node of least eccentricity) of the component.
    - ``"bfs"``: by distance from an end of a longest shortest path of the component.
    - ``"canonical"``: by ``graph.canonical_rank``, or else by colour refinement.
    - ``"index"``: by the nodes' numbers.
    - :class:`Root`: by distance from a node that is drawn, or has its place in the canonical order.
    - a tensor [N] of ranks, or a function that returns one for the graph.

    Ties are broken canonically: by ``graph.canonical_rank`` [N] (RDKit's, see :mod:`plstm_graph.chem`) if
    the graph has it, else by ``graph.x`` and ``graph.edge_attr``, and then by colour refinement. Nodes
    that are still tied are automorphic but for graphs that refinement is known to confuse. A component
    that has a bond in one direction only is directed and is ranked by its own topological order.

    Args:
        graph: a graph or batch with ``edge_index`` [2, C].
        orientation: as above.

    Returns:
        rank: [N] int64, a permutation of 0 … N-1 in which components follow each other.

    Raises:
        InputError: bad indices or ranks, or a directed cycle, which is named.

    Complexity: O(C log N) and a handful of breadth-first searches a component.
    """
    structure = Structure(graph.edge_index, graph.num_nodes, *tie_breakers(graph))
    return torch.from_numpy(structure.rank(resolve(orientation, graph)))


def tie_breakers(graph: Data) -> tuple[Tensor | None, Tensor | None]:
    """What tells the nodes [N, …] and the columns [C, …] of a graph apart before its structure does."""
    if graph.get("canonical_rank") is not None:
        return graph.canonical_rank, None
    return graph.get("x"), graph.get("edge_attr")


def resolve(orientation: Orientation, graph: Data) -> OrientationName | Root | Tensor:
    """Call an orientation that is a function, check the name of one that is a string."""
    if isinstance(orientation, str) and orientation not in get_args(OrientationName):
        names = ", ".join(repr(name) for name in get_args(OrientationName))
        raise InputError(
            f"orientation {orientation!r} is unknown; use one of {names}, a Root, a tensor or a function."
        )
    if isinstance(orientation, str | Root | Tensor):
        return orientation
    if not callable(orientation):
        raise InputError(
            f"orientation must be a name, a Root, a tensor or a function, not {type(orientation).__name__}."
        )
    return orientation(graph)


def label_keys(values: Tensor | None, count: int, what: str) -> NDArray[np.float64]:
    """One number [count] for every row of ``values`` [count, …], alike for rows alike up to rounding.

    A fixed projection, rounded to 20 bits: small numerical noise neither parts equals nor reorders.
    """
    if values is None:
        return np.zeros(count)
    if values.size(0) != count:
        raise InputError(f"{what} has {values.size(0)} rows, but the graph has {count}.")
    values = values.detach().cpu().contiguous()
    if values.dtype not in (torch.float32, torch.int64):  # which compiled code takes as they are
        values = values.to(torch.float64)
    width = math.prod(values.shape[1:])
    weights = 1 + np.arange(1, width + 1) * 0.6180339887498949 % 1 if width > 1 else np.ones(width)
    mantissa, exponent = np.frexp(weighted_sums(values.numpy().reshape(count, width), weights))
    return np.ldexp(np.rint(mantissa * 2**20), exponent)


class Structure:
    """Bonds of a graph or batch as arrays: neighbour lists, components, blocks, directions.

    Args:
        edge_index: [2, C] integer; both directions of a bond, or one only in a directed graph.
        num_nodes: N; by default one more than the largest index.
        node_labels, edge_labels: [N, …], [C, …] what tells nodes and bonds apart, if anything does.

    Raises:
        InputError: indices out of range, or a directed cycle.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_nodes: int | None,
        node_labels: Tensor | None = None,
        edge_labels: Tensor | None = None,
    ) -> None:
        columns = check_edge_index(edge_index, num_nodes)
        if num_nodes is None:
            num_nodes = int(columns.max(initial=-1)) + 1
        self.num_nodes = num_nodes
        self.labels = label_keys(node_labels, num_nodes, "x")
        edge_keys = label_keys(edge_labels, columns.shape[1], "edge_attr")
        self.adjacency = Adjacency(*neighbour_lists(columns[0], columns[1], num_nodes, edge_keys))
        ptr, nbr, out_col, in_col, _ = self.adjacency
        self.node_ptr = contiguous_blocks(ptr, nbr)
        block = np.repeat(np.arange(len(self.node_ptr) - 1), np.diff(self.node_ptr))
        self.block_columns = np.bincount(block[columns[0]], minlength=len(self.node_ptr) - 1)
        self.component_ptr, self.members = connected_components(ptr, nbr)
        self.in_directed = in_directed_component(self.component_ptr, self.members, ptr, out_col, in_col)
        self.depth = np.zeros(num_nodes, np.int64)
        if self.in_directed.any():
            self.depth = topological_depth(self.in_directed, ptr, nbr, out_col, in_col)
            if self.depth.min() < 0:
                raise InputError(_cycle_message(directed_cycle(self.depth, ptr, nbr, in_col)))

    def rank(self, orientation: OrientationName | Root | Tensor) -> NDArray[np.int64]:
        """Rank of every node, for a name, a root or given ranks (see :func:`rank_nodes`)."""
        if isinstance(orientation, str) and orientation == "index":
            return self._refined(self.depth, np.arange(self.num_nodes))
        canonical = self._refined(self.depth, ascending_bits(self.labels))
        if isinstance(orientation, Tensor):
            if orientation.dim() != 1:
                raise InputError(f"a rank needs the shape [{self.num_nodes}], not {list(orientation.shape)}.")
            first = ascending_bits(label_keys(orientation, self.num_nodes, "rank"))
        elif isinstance(orientation, Root):
            roots = self._roots(orientation.place, canonical)
            first = distance_from(roots, self.adjacency.ptr, self.adjacency.nbr)
        elif orientation == "canonical" or self.in_directed.all():
            return canonical
        else:
            ptr, nbr = self.adjacency.ptr, self.adjacency.nbr
            components = (self.component_ptr, self.members)
            first = distance_from_extremal_node(*components, ptr, nbr, canonical, orientation == "center")
        return self._refined(np.where(self.in_directed, self.depth, first), canonical)

    def _roots(self, place: float | None, canonical: NDArray[np.int64]) -> NDArray[np.int64]:
        """A node of every component: [components]."""
        sizes = np.diff(self.component_ptr)
        if place is None:
            offset, members = torch.rand(len(sizes), dtype=torch.float64).numpy() * sizes, self.members
        else:
            # Components follow each other in the canonical order as they do in the list of members.
            offset, members = place * sizes, np.argsort(canonical)
        return members[self.component_ptr[:-1] + offset.astype(np.int64)]

    def _refined(self, depth: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.int64]:
        ptr, nbr, _, _, edge_label = self.adjacency
        bonds = (ptr, nbr, edge_label.view(np.int64))
        return canonical_rank(self.component_ptr, self.members, *bonds, depth, label)


def ascending_bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers in the order of the floats, equal where these are."""
    bits = (values + 0.0).view(np.int64)  # + 0.0 turns -0.0 into 0.0
    return np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)


def check_edge_index(edge_index: Tensor, num_nodes: int | None) -> NDArray[np.int64]:
    """Return ``edge_index`` as a contiguous [2, C] int64 array, or say what is wrong with it."""
    if not isinstance(edge_index, Tensor):
        raise InputError(f"edge_index must be a tensor [2, num_edges], not {type(edge_index).__name__}.")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise InputError(f"edge_index needs the shape [2, num_edges], not {list(edge_index.shape)}.")
    if edge_index.is_floating_point() or edge_index.is_complex() or edge_index.dtype == torch.bool:
        raise InputError(f"edge_index must hold integers, not {edge_index.dtype}.")
    # EdgeIndex is a tensor with metadata; NumPy wants the plain one.
    columns = np.ascontiguousarray(edge_index.detach().as_subclass(Tensor).cpu().numpy(), dtype=np.int64)
    least, largest = columns.min(initial=0), columns.max(initial=-1)
    if least < 0:
        raise InputError(f"edge_index names node {least}, but nodes are numbered from 0.")
    if num_nodes is not None and largest >= num_nodes:
        raise InputError(f"edge_index names node {largest}, but the nodes are numbered 0 to {num_nodes - 1}.")
    return columns


def _cycle_message(nodes: NDArray[np.int64]) -> str:
    """Name a directed cycle; a long one by its first nodes."""
    shown = [str(node) for node in nodes[:8]] + (["…"] if len(nodes) > 8 else [])
    cycle = "→".join([*shown, str(nodes[0])])
    return (
        f"bonds {cycle} form a directed cycle of length {len(nodes)}; an undirected graph needs every bond "
        "in both directions (torch_geometric.utils.to_undirected), a directed one must be acyclic."
    )
