"""ToLineGraphDAG: prepare the DAG once, keep it in the dataset, batch it exactly."""

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from plstm_graph.dag.line_graph import LineGraphDAG
from plstm_graph.dag.orientation import Orientation, resolve, tie_breakers
from plstm_graph.errors import InputError


class LineGraphData(Data):
    """A graph that carries its line-graph DAG through PyG's batching, slicing and ``to_data_list()``.

    The DAG is spread over tensors of its own, whose names and increments are fixed here: ``dag_src``,
    ``dag_dst`` [E] count nodes, ``dag_edge_id`` [E] columns of edge_index, ``dag_pred`` [L] DAG edges and
    ``dag_line_id`` [L] lines; ``dag_num_preds``, ``dag_level`` [E], ``dag_multitree`` [L],
    ``dag_block_nodes`` and ``dag_block_edges`` [B] are plain.
    """

    def __inc__(self, key: str, value: object, *args: object, **kwargs: object) -> object:
        match key:
            case "dag_src" | "dag_dst":
                return self.num_nodes
            case "dag_edge_id":
                return self.edge_index.size(1)
            case "dag_pred":
                return self.dag_src.size(0)
            case "dag_line_id":
                return self.dag_pred.size(0)
            case "dag_num_preds" | "dag_level" | "dag_multitree" | "dag_block_nodes" | "dag_block_edges":
                return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: object, *args: object, **kwargs: object) -> object:
        return 0 if key.startswith("dag_") else super().__cat_dim__(key, value, *args, **kwargs)


# Data sets that were saved with their DAGs load without unpickling anything unsafe.
torch.serialization.add_safe_globals([LineGraphData])


@functional_transform("to_line_graph_dag")
class ToLineGraphDAG(BaseTransform):
    """Orient a graph and add its line-graph DAG, for ``transform`` as well as ``pre_transform``.

    Args:
        orientation: see :func:`plstm_graph.dag.rank_nodes`; ties are broken as described there.

    Raises:
        InputError: a graph that cannot be oriented, such as a directed cycle.
    """

    def __init__(self, orientation: Orientation = "center") -> None:
        self.orientation = orientation

    def forward(self, data: Data) -> LineGraphData:
        """Return the graph as :class:`LineGraphData`; its other attributes are kept."""
        return with_dag(data, build_dag(data, self.orientation))

    def __repr__(self) -> str:
        orientation = (
            self.orientation if isinstance(self.orientation, str) else type(self.orientation).__name__
        )
        return f"{type(self).__name__}({orientation})"


def build_dag(graph: Data, orientation: Orientation = "center") -> LineGraphDAG:
    """Orient a graph or batch, ties by its own canonical ranks or features (see :func:`rank_nodes`)."""
    if graph.edge_index is None or graph.num_nodes is None:
        raise InputError("a graph needs edge_index, and x or num_nodes, to be oriented.")
    node_labels, edge_labels = tie_breakers(graph)
    return LineGraphDAG.from_edge_index(
        graph.edge_index,
        graph.num_nodes,
        rank=resolve(orientation, graph),
        batch=graph.get("batch"),
        node_labels=node_labels,
        edge_labels=edge_labels,
    )


def with_dag(data: Data, dag: LineGraphDAG) -> LineGraphData:
    """A shallow copy of ``data`` that carries ``dag``."""
    return LineGraphData.from_dict(
        {
            **data.to_dict(),
            "dag_edge_id": dag.edge_id,
            "dag_src": dag.src,
            "dag_dst": dag.dst,
            "dag_num_preds": dag.pred_ptr.diff(),
            "dag_pred": dag.pred,
            "dag_line_id": dag.line_id,
            "dag_multitree": dag.multitree,
            "dag_level": dag.level,
            "dag_block_nodes": dag.node_ptr.diff(),
            "dag_block_edges": dag.edge_ptr.diff(),
        }
    )


def dag_of(data: Data) -> LineGraphDAG | None:
    """The DAG that a graph or batch carries, put together without a look at its values."""
    if "dag_src" not in data:
        return None
    return LineGraphDAG(
        # torch.compile can read a tensor's size, but not PyG's property.
        num_nodes=data.num_nodes if data.x is None else data.x.size(0),
        edge_id=data.dag_edge_id,
        src=data.dag_src,
        dst=data.dag_dst,
        pred_ptr=_pointer(data.dag_num_preds),
        pred=data.dag_pred,
        line_id=data.dag_line_id,
        multitree=data.dag_multitree,
        level=data.dag_level,
        node_ptr=_pointer(data.dag_block_nodes),
        edge_ptr=_pointer(data.dag_block_edges),
    )


def _pointer(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
