"""A batch of graphs as blocks and branches read it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag import LineGraphDAG
from plstm_graph.dag.bonds import check_edge_index
from plstm_graph.errors import InputError


class Graphs(NamedTuple):
    """The tensors of a batch of graphs.

    Attributes:
        x: node features [N, ·].
        edge_index: [2, C].
        edge_attr: edge features [C, ·], or ``None``.
        batch: number of each node's graph, int64 [N].
        num_graphs: number of graphs.
        dag: the DAG that scans share, or ``None``.
        descriptors: of each graph [num_graphs, D], or ``None``.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    batch: Tensor
    num_graphs: int
    dag: LineGraphDAG | None = None
    descriptors: Tensor | None = None

    @classmethod
    def from_data(cls, data: Data, edges: bool = True) -> "Graphs":
        """Take the tensors of a graph or batch, without a DAG; edge features only if they are asked for.

        Raises:
            InputError: it has no nodes' features or bonds, or bonds of nodes that it does not have.
        """
        x, edge_index = data.x, data.edge_index
        if x is None or edge_index is None:
            raise InputError("A graph needs x, the features of its nodes, and edge_index [2, num_edges].")
        if not torch.compiler.is_compiling() and edge_index.device.type == "cpu":  # a GPU asserts by itself
            check_edge_index(edge_index, x.size(0))
        edge_index = edge_index.long()
        batch = data.get("batch")
        if batch is None:
            batch, num_graphs = edge_index.new_zeros(x.size(0)), 1
        elif hasattr(data, "num_graphs"):
            num_graphs = data.num_graphs
        else:  # it was not made as a batch
            num_graphs = int(batch.max()) + 1 if len(batch) else 0
        return cls(
            x,
            edge_index,
            data.edge_attr if edges else None,
            batch,
            num_graphs,
            descriptors=data.get("descriptors"),
        )
