"""Bounds of a line graph's indices, checked once before compiled code follows them (Numba)."""

from typing import Any

from numpy.typing import NDArray

from plstm_graph.compiled import structure
from plstm_graph.errors import InputError

Arrays = tuple[NDArray[Any], ...]

_CHANGED = (
    "The tensors of this LineGraphDAG were changed, or never fitted each other: their indices lead out of "
    "the graph. Build it again, with LineGraphDAG.from_edge_index or from_lines."
)


def check_bounds(dag: Arrays, borders: Arrays, num_nodes: int) -> None:
    """Refuse indices that lead out of their block, or backwards in the order of the edges.

    A DAG that this package has built has none, but tensors can be changed, and a compiled kernel would read
    and write wherever they point.

    Args:
        dag: (ends [2, E], pred_ptr, pred).
        borders: (node_ptr, edge_ptr).
        num_nodes: N.

    Raises:
        InputError: There are such indices.

    Complexity: O(E + L).
    """
    (ends, pred_ptr, pred), (node_ptr, edge_ptr) = dag, borders
    sizes = len(pred_ptr) == ends.shape[1] + 1 and len(node_ptr) == len(edge_ptr)
    if not (sizes and _leads_nowhere_else(ends, pred_ptr, pred, node_ptr, edge_ptr, num_nodes)):
        raise InputError(_CHANGED)


def check_columns(edge_id: NDArray[Any], multitree: NDArray[Any], dag: Arrays, columns: int) -> None:
    """Refuse columns of edge_index that it does not have, or lines of the multitree that the DAG has not.

    Args:
        edge_id: column of every edge.
        multitree: whether D-mode keeps a line.
        dag: (ends [2, E], pred_ptr, pred).
        columns: number of columns, 0 if none are read.

    Raises:
        InputError: There are such columns or lines.

    Complexity: O(E).
    """
    ends, _, pred = dag
    fits = len(edge_id) == ends.shape[1] and len(multitree) == len(pred)
    if not fits or (columns > 0 and len(edge_id) > 0 and not 0 <= edge_id.min() <= edge_id.max() < columns):
        raise InputError(_CHANGED)


@structure
def _leads_nowhere_else(ends, pred_ptr, pred, node_ptr, edge_ptr, num_nodes):
    """Return if nodes and predecessors of every edge are where the kernels expect them."""
    blocks, edges = len(node_ptr) - 1, ends.shape[1]
    if blocks < 0 or node_ptr[0] != 0 or edge_ptr[0] != 0 or pred_ptr[0] != 0:
        return False
    if node_ptr[blocks] != num_nodes or edge_ptr[blocks] != edges or pred_ptr[edges] != len(pred):
        return False
    for e in range(edges):
        if pred_ptr[e] > pred_ptr[e + 1]:
            return False
    for b in range(blocks):
        if node_ptr[b] > node_ptr[b + 1] or edge_ptr[b] > edge_ptr[b + 1]:
            return False
    for b in range(blocks):
        for e in range(edge_ptr[b], edge_ptr[b + 1]):
            for side in range(2):
                if ends[side, e] < node_ptr[b] or ends[side, e] >= node_ptr[b + 1]:
                    return False
            for line in range(pred_ptr[e], pred_ptr[e + 1]):
                if pred[line] < edge_ptr[b] or pred[line] >= e:
                    return False
    return True
