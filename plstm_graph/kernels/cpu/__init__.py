"""Fused CPU kernels: one block of the DAG at a time, all heads, forward and analytic backward.

A block stays in the cache for molecules. It is computed by one thread, whose sums do not depend on the
others, so results are bitwise the same for any number of threads and for a graph alone or in a batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels.cost import gating_operations, state_operations
from plstm_graph.kernels.cpu import kernels
from plstm_graph.kernels.cpu.threads import run_over_blocks

Arrays = tuple[NDArray, ...]

#: Multiply-adds of the backward pass to one of the forward: seven products for two, three solves for one.
_BACKWARD_OPERATIONS = 3.0


def cpu_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraphDAG) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) [W, …, H] of W ways."""
    output = torch.empty_like(nodes[2], memory_format=torch.contiguous_format)
    arguments = (_views(nodes), _views(gates), *_structure(dag))
    out = output.numpy()

    def kernel(first: int, last: int) -> None:
        kernels.forward(first, last, *arguments, out)

    run_over_blocks(kernel, _operations(nodes, gates, dag))
    return output


def cpu_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraphDAG
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`cpu_forward`) for the gradient of the output."""
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (*nodes, *gates)]
    arguments = (_views([grad])[0], _views(nodes), _views(gates), *_structure(dag))
    node_out, gate_out = _views(grads[: len(nodes)]), _views(grads[len(nodes) :])

    def kernel(first: int, last: int) -> None:
        kernels.backward(first, last, *arguments, node_out, gate_out)

    run_over_blocks(kernel, _BACKWARD_OPERATIONS * _operations(nodes, gates, dag))
    return grads


def _structure(dag: LineGraphDAG) -> tuple[Arrays, Arrays]:
    """The DAG as the kernels take it: (ends, pred_ptr, pred) and (node_ptr, edge_ptr)."""
    ends = torch.stack([dag.src, dag.dst])
    return _views([ends, dag.pred_ptr, dag.pred]), _views([dag.node_ptr, dag.edge_ptr])


def _views(tensors: Sequence[Tensor]) -> Arrays:
    """The memory of the tensors, contiguous."""
    return tuple(x.detach().contiguous().numpy() for x in tensors)


def _operations(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraphDAG) -> NDArray[np.float64]:
    """Multiply-adds of every block's forward pass: [B]."""
    node_ptr, edge_ptr, pred_ptr = _views([dag.node_ptr, dag.edge_ptr, dag.pred_ptr])
    counts, edges, lines = np.diff(node_ptr), np.diff(edge_ptr), np.diff(pred_ptr[edge_ptr])
    _, heads, key_dim = nodes[1].shape
    dims = (key_dim, nodes[2].size(2), gates[0].size(0))
    dense = gating_operations.py_func(counts, edges, lines, *dims)
    return heads * np.minimum(dense, state_operations.py_func(edges, lines, *dims)).astype(np.float64)
