"""Fused CPU kernels: one block of the DAG at a time, all heads, forward and analytic backward.

A block stays in the cache for molecules. It is computed by one thread, whose sums do not depend on the
others, so results are bitwise the same for any number of threads and for a graph alone or in a batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plstm_graph.kernels.cost import gating_operations, state_operations
from plstm_graph.kernels.cpu import kernels
from plstm_graph.kernels.cpu.threads import run_over_blocks

Gates = tuple[Tensor, Tensor, Tensor]
Arrays = tuple[NDArray, ...]


def cpu_forward(nodes: Sequence[Tensor], gates: Sequence[Gates], structure: Sequence[Tensor]) -> Tensor:
    """Output [N, H, V].

    Args:
        nodes: query, key, value, direct.
        gates: (source, transition, mark) of one or both directions.
        structure: src, dst, pred_ptr, pred, node_ptr, edge_ptr of the DAG.
    """
    output = torch.empty_like(nodes[2], memory_format=torch.contiguous_format)
    arguments = _arguments(nodes, gates, structure)
    out = output.numpy()

    def kernel(first: int, last: int) -> None:
        kernels.forward(first, last, *arguments, out)

    run_over_blocks(kernel, _operations(nodes, len(gates), structure))
    return output


def cpu_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Gates], structure: Sequence[Tensor]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Gradients of ``nodes`` and of ``gates`` (see :func:`cpu_forward`) for the gradient of the output."""
    node_grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in nodes]
    gate_grads = [
        [torch.empty_like(x, memory_format=torch.contiguous_format) for x in gate] for gate in gates
    ]
    arguments = _arguments(nodes, gates, structure)
    upstream, node_out, gate_out = (
        _views([grad])[0],
        _views(node_grads),
        _pair([_views(gate) for gate in gate_grads]),
    )

    def kernel(first: int, last: int) -> None:
        kernels.backward(first, last, upstream, *arguments, node_out, gate_out)

    run_over_blocks(kernel, 2.5 * _operations(nodes, len(gates), structure))
    return node_grads, gate_grads


def _arguments(
    nodes: Sequence[Tensor], gates: Sequence[Gates], structure: Sequence[Tensor]
) -> tuple[Arrays, tuple[Arrays, Arrays], int, Arrays, Arrays]:
    """The arguments that both compiled kernels share: nodes, gates, directions, dag and borders."""
    arrays = _views(structure)
    return _views(nodes), _pair([_views(gate) for gate in gates]), len(gates), arrays[:4], arrays[4:]


def _views(tensors: Sequence[Tensor]) -> Arrays:
    """The memory of the tensors, contiguous."""
    return tuple(x.detach().contiguous().numpy() for x in tensors)


def _pair(gates: list[Arrays]) -> tuple[Arrays, Arrays]:
    """Two directions even of one, so that both cases share one compiled kernel."""
    return gates[0], gates[-1]


def _operations(nodes: Sequence[Tensor], directions: int, structure: Sequence[Tensor]) -> NDArray[np.float64]:
    """Multiply-adds of every block's forward pass: [B]."""
    _, heads, key_dim = nodes[1].shape
    _, _, pred_ptr, _, node_ptr, edge_ptr = _views(structure)
    counts, edges, lines = np.diff(node_ptr), np.diff(edge_ptr), np.diff(pred_ptr[edge_ptr])
    dims = (key_dim, nodes[2].size(2), directions)
    dense = gating_operations.py_func(counts, edges, lines, *dims)
    return heads * np.minimum(dense, state_operations.py_func(edges, lines, *dims)).astype(np.float64)
