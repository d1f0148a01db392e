"""The bonds of a graph or batch as arrays: neighbours, components, blocks, directions."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plstm_graph.dag.adjacency import (
    Adjacency,
    connected_components,
    contiguous_blocks,
    directed_cycle,
    in_directed_component,
    neighbour_lists,
    topological_depth,
)
from plstm_graph.dag.refinement import canonical_rank, mix, weighted_sums
from plstm_graph.errors import InputError

_MANTISSA = 2**52 - 1  # bits of a float64


class Bonds:
    """Bonds with their neighbour lists, components and blocks, and the depths of directed components.

    Args:
        edge_index: [2, C] integer; both directions of a bond, or one only in a directed graph.
        num_nodes: N; by default one more than the largest index.
        node_labels, edge_labels: [N, …], [C, …] labels that distinguish nodes and bonds, if there are any.

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
            num_nodes = columns.max(initial=-1) + 1
        self.num_nodes = num_nodes = int(num_nodes)
        self.labels = label_keys(node_labels, num_nodes, "x or canonical_rank")
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

    def refined(self, depth: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank of every node [N]: by ``depth``, ties by ``label``, and these by colour refinement."""
        ptr, nbr, _, _, edge_label = self.adjacency
        return canonical_rank(
            self.component_ptr, self.members, ptr, nbr, edge_label.view(np.int64), depth, label
        )

    def canonical_rank(self) -> NDArray[np.int64]:
        """Rank of every node [N] by its label, ties by colour refinement."""
        return self.refined(self.depth, ascending_bits(self.labels))


def label_keys(values: Tensor | None, count: int, what: str) -> NDArray[np.float64]:
    """One number [count] for every row of ``values`` [count, …], alike for rows alike up to rounding.

    A fixed projection, rounded to 20 bits, or to 40 where a row is of whole numbers or of float64: small
    numerical noise neither parts equals nor reorders, and other rows are alike by a chance of one in as many.
    """
    if values is None:
        return np.zeros(count)
    if values.dim() == 0 or values.size(0) != count:
        raise InputError(f"{what} needs {count} rows, not the shape {list(values.shape)}.")
    if values.is_complex():
        raise InputError(f"{what} must be real numbers, not {values.dtype}.")
    values = values.detach().to_dense().cpu().contiguous()
    exact = not values.is_floating_point() or values.dtype == torch.float64
    if values.dtype not in (torch.float32, torch.int64):  # which compiled code takes as they are
        values = values.to(torch.float64)
    width = math.prod(values.shape[1:])
    weights = np.ones(width)
    if width > 1:  # Of scrambled bits: by regular weights, different rows of whole numbers have equal sums.
        weights += (mix(np.arange(1, width + 1)) & _MANTISSA) / (_MANTISSA + 1)
    sums, whole = weighted_sums(values.numpy().reshape(count, width), weights)
    bits = np.where(whole | exact, 40, 20)
    mantissa, exponent = np.frexp(sums)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def ascending_bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers in the order of the floats, equal where these are."""
    bits = (values + 0.0).view(np.int64)  # + 0.0 turns -0.0 into 0.0
    return np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)


def neighbours_of(edge_index: Tensor, num_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbour lists (CSR) of the bonds, see :class:`~plstm_graph.dag.adjacency.Adjacency`: ptr, nbr.

    Raises:
        InputError: indices out of range.
    """
    row, col = check_edge_index(edge_index, num_nodes)
    ptr, nbr, *_ = neighbour_lists(row, col, num_nodes, np.zeros(len(row)))
    return ptr, nbr


def check_edge_index(edge_index: Tensor, num_nodes: int | None) -> NDArray[np.int64]:
    """Return ``edge_index`` as a contiguous [2, C] int64 array, or refuse it."""
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
