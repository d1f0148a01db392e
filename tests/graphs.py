"""Graphs for the tests: strategies, molecules, and slow but plain ways to look at a DAG."""

import networkx as nx
import torch
from hypothesis import strategies as st
from torch import Tensor

from plstm_graph import LineGraphDAG
from plstm_graph.kernels.heads import head_inputs

MOLECULES = [
    "C",
    "CCO",
    "c1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "[Na+].[Cl-]",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C1CC2CCC1CC2",
    "OC(=O)CCCCC(=O)O.NCCCN",
    "C1=CC2=C3C(=C1)C=CC4=C3C(=CC=C4)C=C2",
]


def both_directions(bonds: Tensor) -> Tensor:
    """Columns u→v and v→u for bonds [2, E]."""
    return torch.cat([bonds, bonds.flip(0)], dim=1)


def path(num_nodes: int) -> Tensor:
    """Bonds [2, N-1] of a path, each in one direction."""
    nodes = torch.arange(num_nodes)
    return torch.stack([nodes[:-1], nodes[1:]])


@st.composite
def bond_lists(draw: st.DrawFn, max_nodes: int = 14) -> tuple[int, Tensor]:
    """A simple undirected graph: number of nodes and bonds [2, E], each once, any components."""
    num_nodes = draw(st.integers(1, max_nodes))
    pairs = [(i, j) for i in range(num_nodes) for j in range(i + 1, num_nodes)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * num_nodes)) if pairs else []
    return num_nodes, torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2).T


def random_gates(
    dag: LineGraphDAG, heads: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Source [E,H], transition [L,H] and mark [E,H], positive and negative."""
    shapes = (dag.num_edges, dag.num_lines, dag.num_edges)
    return tuple(torch.rand(n, heads, dtype=dtype, generator=generator) * 2 - 1 for n in shapes)


def line_matrix(dag: LineGraphDAG, keep: Tensor | None = None) -> Tensor:
    """Adjacency of the line graph: [E, E] float64, one where column e' precedes row e."""
    matrix = torch.zeros(dag.num_edges, dag.num_edges, dtype=torch.float64)
    chosen = torch.ones(dag.num_lines, dtype=torch.bool) if keep is None else keep
    matrix[dag.succ[chosen], dag.pred[chosen]] = 1
    return matrix


def path_counts(matrix: Tensor) -> Tensor:
    """Number of paths between any two edges: (I - A)^{-1}."""
    return torch.linalg.inv(torch.eye(len(matrix), dtype=matrix.dtype) - matrix).round()


def nx_graph(num_nodes: int, bonds: Tensor) -> nx.Graph:
    """The same graph for networkx."""
    graph = nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(bonds.T.tolist())
    return graph


def gates_of_layer(conv, x, edge_attr, dag):
    """Scalar gates of every direction that a layer makes of features."""
    logits = None if edge_attr is None else conv.lin_edge(edge_attr)
    return head_inputs(conv.project(x), logits, dag, conv.layout).gates
