"""A batch of graphs as blocks and branches read it."""

from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag import LineGraphDAG


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
        """Take the tensors of a graph or batch, without a DAG; edge features only if they are asked for."""
        batch, num_graphs = data.get("batch"), getattr(data, "num_graphs", 1)
        if batch is None:
            batch, num_graphs = data.edge_index.new_zeros(data.x.size(0)), 1
        return cls(
            data.x,
            data.edge_index,
            data.edge_attr if edges else None,
            batch,
            num_graphs,
            descriptors=data.get("descriptors"),
        )
