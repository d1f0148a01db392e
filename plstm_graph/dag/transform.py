"""ToLineGraphDAG: prepare the DAG once, keep it in the dataset, batch it exactly."""

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from plstm_graph.dag.line_graph import LineGraphDAG
from plstm_graph.dag.orientation import Orientation, Root, check_orientation, resolve, tie_breakers
from plstm_graph.errors import InputError

#: The message of a layer or :func:`dag_of` for a graph that was changed after its DAG was prepared.
STALE = (
    "The prepared DAG does not fit edge_index, which was changed after it was prepared; apply ToLineGraphDAG "
    "after all other transforms, or leave dag out."
)

#: The tensors that hold a DAG in a graph: what their rows are, and what their entries number, if anything.
DAG_LAYOUT: dict[str, tuple[str, str | None]] = {
    "dag_src": ("edges", "nodes"),
    "dag_dst": ("edges", "nodes"),
    "dag_edge_id": ("edges", "columns"),
    "dag_num_preds": ("edges", None),
    "dag_level": ("edges", None),
    "dag_pred": ("lines", "edges"),
    "dag_line_id": ("lines", "lines"),
    "dag_multitree": ("lines", None),
    # No "node" in a name: PyG would take such a tensor's size for the number of nodes.
    "dag_block_sizes": ("blocks", None),
    "dag_block_edges": ("blocks", None),
    "dag_block_columns": ("blocks", None),
}


class Preparation(NamedTuple):
    """Attributes that are prepared for a network.

    Attributes:
        orientation: orientation of their DAGs; ``None`` for no DAGs.
        walk_length: number of random-walk encodings.
    """

    orientation: Orientation | None = None
    walk_length: int = 0


class LineGraphData(Data):
    """A graph that carries its line-graph DAG through PyG's batching, slicing and ``to_data_list()``.

    The DAG is spread over tensors of its own, whose increments :data:`DAG_LAYOUT` fixes: a column is one
    of edge_index, an edge one of the DAG.
    """

    def __inc__(self, key: str, value: object, *args: object, **kwargs: object) -> object:
        if key not in DAG_LAYOUT:
            return super().__inc__(key, value, *args, **kwargs)
        match DAG_LAYOUT[key][1]:
            case "nodes":
                return self.num_nodes
            case "columns":
                if self.edge_index is None:
                    raise InputError(STALE)
                return self.edge_index.size(1)
            case "edges":
                return self.dag_src.size(0)
            case "lines":
                return self.dag_pred.size(0)
        return 0

    def __cat_dim__(self, key: str, value: object, *args: object, **kwargs: object) -> object:
        return 0 if key in DAG_LAYOUT else super().__cat_dim__(key, value, *args, **kwargs)

    # A subgraph would cut a DAG's tensors that happen to be as long as its nodes or columns are many.
    def is_node_attr(self, key: str) -> bool:
        """Return if an attribute has a row for every node; those of the DAG have it by chance alone."""
        return key not in DAG_LAYOUT and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        """Return if an attribute has a row for every column of edge_index; the DAG's have it by chance."""
        return key not in DAG_LAYOUT and super().is_edge_attr(key)


# Data sets that were saved with their DAGs load without unpickling anything unsafe.
torch.serialization.add_safe_globals([LineGraphData])


@functional_transform("to_line_graph_dag")
class ToLineGraphDAG(BaseTransform):
    """Orient a graph and add its line-graph DAG, for ``transform`` as well as ``pre_transform``.

    Args:
        orientation: ranking of the nodes, see :func:`plstm_graph.dag.rank_nodes`.

    Raises:
        InputError: a graph that cannot be oriented, such as a directed cycle.

    Example:
        >>> from torch_geometric.data import Batch
        >>> from plstm_graph import PLSTMConv, ToLineGraphDAG
        >>> from plstm_graph.chem import smiles_to_data
        >>> from plstm_graph.dag import dag_of
        >>> prepare = ToLineGraphDAG("center")
        >>> batch = Batch.from_data_list([prepare(smiles_to_data(smiles)) for smiles in ("CCO", "c1ccccc1O")])
        >>> conv = PLSTMConv(9, 16)
        >>> conv(batch.x.float(), batch.edge_index, dag=dag_of(batch)).shape
        torch.Size([10, 16])
    """

    def __init__(self, orientation: Orientation = "center") -> None:
        self.orientation = check_orientation(orientation)

    def forward(self, data: Data) -> LineGraphData:
        """Return the graph as :class:`LineGraphData`, or a batch as one of these; all attributes are kept.

        A class that is derived from ``Data`` is kept if it is derived from :class:`LineGraphData`.
        """
        if isinstance(data, Batch):  # which knows where each graph's tensors begin
            batch = Batch.from_data_list([self.forward(graph) for graph in data.to_data_list()])
            # What was added to the batch itself is no graph's.
            return batch.update({key: value for key, value in data.to_dict().items() if key not in batch})
        return with_dag(data, build_dag(data, self.orientation))

    def __repr__(self) -> str:
        orientation = (
            self.orientation if isinstance(self.orientation, str | Root) else type(self.orientation).__name__
        )
        return f"{type(self).__name__}({orientation})"


# What compiles ends here and goes on afterwards: the structure is the work of compiled code of its own.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def build_dag(graph: Data, orientation: Orientation = "center") -> LineGraphDAG:
    """Orient a graph or batch, ties by its own canonical ranks or features (see :func:`rank_nodes`)."""
    if not isinstance(graph, Data):
        raise InputError(f"A DAG is made of a graph or batch of PyG's, not a {type(graph).__name__}.")
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
    """A shallow copy of ``data`` that carries ``dag``.

    Raises:
        InputError: its class batches in a way of its own, which would be lost.
    """
    if isinstance(data, LineGraphData):
        data = copy(data)
    elif any(getattr(type(data), name) is not getattr(Data, name) for name in ("__inc__", "__cat_dim__")):
        raise InputError(
            f"{type(data).__name__} batches in a way of its own; derive it from LineGraphData of "
            "plstm_graph.dag in place of Data, that its graphs can carry a DAG."
        )
    else:
        data = LineGraphData.from_dict(data.to_dict())
    return data.update(dag_tensors(dag))


def dag_tensors(dag: LineGraphDAG) -> dict[str, Tensor]:
    """The tensors that hold a DAG in a graph, see :data:`DAG_LAYOUT`."""
    return {
        "dag_src": dag.src,
        "dag_dst": dag.dst,
        "dag_edge_id": dag.edge_id,
        "dag_num_preds": dag.pred_ptr.diff(),
        "dag_level": dag.level,
        "dag_pred": dag.pred,
        "dag_line_id": dag.line_id,
        "dag_multitree": dag.multitree,
        "dag_block_sizes": dag.node_ptr.diff(),
        "dag_block_edges": dag.edge_ptr.diff(),
        "dag_block_columns": dag.block_columns,
    }


def dag_of(data: Data) -> LineGraphDAG | None:
    """The DAG that a graph or batch carries, put together without a look at its values; ``None`` without one.

    Raises:
        InputError: its tensors were cut since, by a transform.
    """
    if data.get("dag_src") is None:  # `in` is not for torch.compile of torch 2.7
        return None
    rows: dict[str, int] = {}
    for key, (what, _) in DAG_LAYOUT.items():
        if data[key].size(0) != rows.setdefault(what, data[key].size(0)):
            raise InputError(STALE)
    try:
        return LineGraphDAG(
            num_nodes=node_count(data),
            edge_id=data.dag_edge_id,
            src=data.dag_src,
            dst=data.dag_dst,
            pred_ptr=_pointer(data.dag_num_preds),
            pred=data.dag_pred,
            line_id=data.dag_line_id,
            multitree=data.dag_multitree,
            level=data.dag_level,
            node_ptr=_pointer(data.dag_block_sizes),
            edge_ptr=_pointer(data.dag_block_edges),
            block_columns=data.dag_block_columns,
        )
    except RuntimeError as error:  # fewer or more lines than the edges have predecessors
        raise InputError(STALE) from error


def node_count(data: Data) -> int:
    """N; torch.compile can read a tensor's size, but not PyG's property."""
    return data.num_nodes if data.x is None else data.x.size(0)


def _pointer(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
