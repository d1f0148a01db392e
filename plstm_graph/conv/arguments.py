"""Checks of a layer's arguments: nodes, bonds and a DAG have to fit each other."""

from typing import NoReturn

import torch
from torch import Tensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from plstm_graph.dag import LineGraphDAG, Orientation
from plstm_graph.dag.transform import STALE
from plstm_graph.errors import InputError
from plstm_graph.kernels.checks import is_batched
from plstm_graph.kernels.scan import is_watched

#: The same message of a layer that turns columns round.
TURNED = (
    "The prepared DAG does not fit edge_index: with flow='target_to_source' it has to be of "
    "edge_index.flip(0), and of no other graph; prepare that, or leave dag out."
)


def refuse_torchscript() -> NoReturn:
    """Refuse to become TorchScript or an ONNX graph."""
    raise InputError(
        "torch.jit and ONNX have no scan along a graph; use torch.export or torch.compile, with dag=."
    )


def check_traceable(dag: LineGraphDAG | None) -> None:
    """Refuse tracers that would keep one graph's DAG as a constant, or cannot follow how one is built."""
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():  # type: ignore[attr-defined]
        refuse_torchscript()
    if dag is None and torch.compiler.is_exporting():
        raise InputError(
            "torch.export cannot follow how a DAG is built; pass dag=, from plstm_graph.dag.build_dag(data)."
        )


def one_set_of_nodes(x: Tensor | tuple[Tensor, Tensor], in_channels: int) -> Tensor:
    """Node features [N, in_channels], also where they are given twice, as (x, x)."""
    if isinstance(x, tuple | list):
        if len(x) != 2 or x[0] is not x[1]:
            raise InputError(
                "x must be one tensor of node features, or the same one twice, (x, x): a scan walks one set "
                "of nodes, not from one set to another (bipartite graphs)."
            )
        x = x[0]
    if not isinstance(x, Tensor):
        raise InputError(f"x must be a tensor [num_nodes, {in_channels}], not a {type(x).__name__}.")
    # No membership: the size may be a symbol of torch.compile.
    if x.dim() != 2 or (in_channels != -1 and x.size(1) != in_channels):
        raise InputError(f"x needs the shape [num_nodes, {in_channels}], not {list(x.shape)}.")
    return x


def columns_of(
    edge_index: Tensor, edge_attr: Tensor | None, takes_features: bool
) -> tuple[Tensor, Tensor | None]:
    """Bonds as [2, C] and their features, also where they are given as a sparse adjacency.

    Args:
        edge_index: [2, C], or a ``torch.sparse`` matrix whose rows are the bonds' ends, as PyG has it
            (``adj_t``); its values are the bonds' features if the layer takes any.
        edge_attr: [C, edge_dim].
        takes_features: whether the layer takes features of bonds.
    """
    if not isinstance(edge_index, Tensor):
        raise InputError(f"edge_index must be a tensor, not a {type(edge_index).__name__}.")
    if not isinstance(edge_attr, Tensor | None):
        raise InputError(f"edge_attr must be a tensor, not a {type(edge_attr).__name__}.")
    if not is_torch_sparse_tensor(edge_index):
        return edge_index, edge_attr
    if edge_attr is not None:
        raise InputError("edge_attr has no order in a sparse adjacency; put it into the adjacency's values.")
    columns, values = to_edge_index(edge_index)
    return columns.flip(0), values if takes_features else None


def check_features(x: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> None:
    """Refuse features that do not fit the columns of edge_index, or are not numbers to compute with."""
    if edge_attr is not None and edge_attr.shape[:1] != edge_index.shape[1:]:
        rows, columns = sum(edge_attr.shape[:1]), edge_index.size(1)
        raise InputError(f"edge_attr has {rows} rows, but edge_index has {columns} columns.")
    for name, features in (("x", x), ("edge_attr", edge_attr)):
        if features is None:
            continue
        if not features.is_floating_point():
            raise InputError(f"{name} must be floating point, not {features.dtype}; encode it first.")
        if features.device != edge_index.device:
            raise InputError(
                f"{name} is on {features.device}, but edge_index is on {edge_index.device}; move one."
            )


# What compiles ends here and goes on afterwards: the structure is the work of compiled code of its own.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def dag_of_arguments(
    x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor | None, orientation: Orientation
) -> LineGraphDAG:
    """Orient the bonds, ties by x and edge_attr, and build the line graph.

    Features only break ties and take no part in any derivative: under ``torch.func`` they are unwrapped.
    """
    node_labels = _values("x", x)
    edge_labels = None if edge_attr is None else _values("edge_attr", edge_attr)
    with torch._C._DisableFuncTorch():
        return LineGraphDAG.from_edge_index(
            edge_index,
            x.size(0),
            rank=orientation,
            batch=batch,
            node_labels=node_labels,
            edge_labels=edge_labels,
        )


def _values(name: str, features: Tensor) -> Tensor:
    """The numbers that ``torch.func`` has wrapped, of one sample."""
    if is_batched(features):
        raise InputError(
            f"Under torch.func.vmap, {name} would orient every sample in its own way; pass dag=, from "
            "plstm_graph.dag.build_dag(data)."
        )
    return torch.func.debug_unwrap(features)


def check_dag(dag: LineGraphDAG, x: Tensor, edge_index: Tensor, stale: str = STALE) -> None:
    """Refuse a prepared DAG whose edges are no longer the columns of edge_index that they were.

    Columns that go the other way are counted, not compared. On a GPU, and in a compiled graph, the comparison
    is an assertion of torch's, which nothing waits for.
    """
    if not isinstance(dag, LineGraphDAG):
        raise InputError(f"dag must be a LineGraphDAG, such as dag_of(data), not a {type(dag).__name__}.")
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.is_floating_point():
        raise InputError(
            f"edge_index must be integers [2, num_edges], not {edge_index.dtype} {list(edge_index.shape)}."
        )
    if dag.num_nodes != x.size(0):
        raise InputError(f"the DAG has {dag.num_nodes} nodes, but x has {x.size(0)} rows.")
    if dag.device != edge_index.device:
        raise InputError(
            f"the DAG is on {dag.device}, but edge_index is on {edge_index.device}; move it with dag.to()."
        )
    count = edge_index.size(1)
    fits = dag.block_columns.sum() == count
    if count > 0:
        # A position out of range must not be read; the number of columns differs then.
        named = edge_index.index_select(1, dag.edge_id.clamp(max=count - 1))
        fits = fits & (named[0] == dag.src).all() & (named[1] == dag.dst).all()
    if fits.is_cuda or is_watched():
        torch._assert_async(fits, stale)
    elif not fits:
        raise InputError(stale)
