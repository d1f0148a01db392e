"""A batch of graphs as blocks and branches read it."""

from typing import NamedTuple

from torch import Tensor

from plstm_graph.dag import LineGraphDAG


class Graphs(NamedTuple):
    """The tensors of a batch of graphs.

    Args:
        x: node features [N, ·].
        edge_index: [2, C].
        edge_attr: edge features [C, ·], or ``None``.
        batch: number of each node's graph, int64 [N].
        num_graphs: number of graphs.
        dag: the DAG that scans share, or ``None``.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    batch: Tensor
    num_graphs: int
    dag: LineGraphDAG | None = None
