"""The cost model: which form and which backend a graph takes, from sizes alone."""

from typing import Literal

import torch

from plstm_graph.compiled import structure, structure_inner
from plstm_graph.dag import LineGraphDAG

Backend = Literal["auto", "reference", "gating", "cpu"]

#: Off the CPU, blocks above this many nodes or edges go by level: dense matrices grow with the square.
_LARGEST_DENSE_BLOCK = 512


@structure_inner
def gating_operations(nodes, edges, lines, key_dim, value_dim, ways):
    """Multiply-adds of one block and head in gating form: a solve over node rows, then two dense products."""
    return nodes * nodes * (key_dim + value_dim) + ways * (edges + lines) * nodes


@structure_inner
def state_operations(edges, lines, key_dim, value_dim, ways):
    """Multiply-adds of one block and head in state form: a solve over states, filled once and read once."""
    return ways * (2 * edges + lines) * key_dim * value_dim


@structure
def prefers_states(nodes, edges, lines, key_dim, value_dim, ways):
    """Whether the fused kernels take the state form for a block: narrow heads and long molecules."""
    dense = gating_operations(nodes, edges, lines, key_dim, value_dim, ways)
    return state_operations(edges, lines, key_dim, value_dim, ways) < dense


def choose_backend(dag: LineGraphDAG) -> Backend:
    """Backend of ``"auto"``: fused on the CPU; elsewhere dense matrices while all blocks are small."""
    if dag.device.type == "cpu":
        return "cpu"
    extents = torch.cat([dag.node_ptr.diff(), dag.edge_ptr.diff()])
    return "gating" if extents.numel() == 0 or int(extents.max()) <= _LARGEST_DENSE_BLOCK else "reference"
