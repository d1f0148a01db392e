"""Fused CPU kernels: one block of the DAG at a time, all heads, forward and analytic backward.

A block stays in the cache for molecules; a long one goes chunk by chunk, with its states between chunks. A
head of it is computed by one thread, whose sums do not depend on the others, so results are bitwise the same
for any number of threads and for a graph alone or in a batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from plstm_graph.compiled import as_python
from plstm_graph.dag import LineGraph
from plstm_graph.kernels.cost import (
    WHOLE_STATE_BLOCK,
    gating_operations,
    prefers_chunks,
    state_operations,
)
from plstm_graph.kernels.cpu import blocks
from plstm_graph.kernels.cpu.bounds import Arrays, check_bounds
from plstm_graph.kernels.cpu.state_form import cut
from plstm_graph.kernels.cpu.threads import run_over_ranges

#: Multiply-adds of the backward pass to one of the forward: seven products for two, three solves for one.
_BACKWARD_OPERATIONS = 3.0


def cpu_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions."""
    output = torch.empty_like(nodes[2], memory_format=torch.contiguous_format)
    arguments = (_views(nodes), _views(gates), *_structure(dag), output.numpy())
    _run(blocks.forward, blocks.forward_long, arguments, nodes, gates, dag, 1.0)
    return output


def cpu_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`cpu_forward`) for the gradient of the output."""
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (*nodes, *gates)]
    outputs = _views(grads[: len(nodes)]), _views(grads[len(nodes) :])
    arguments = (_views([grad])[0], _views(nodes), _views(gates), *_structure(dag), *outputs)
    _run(blocks.backward, blocks.backward_long, arguments, nodes, gates, dag, _BACKWARD_OPERATIONS)
    return grads


def _run(
    kernel: Callable[..., None],
    long_kernel: Callable[..., None],
    arguments: tuple[object, ...],
    nodes: Sequence[Tensor],
    gates: Sequence[Tensor],
    dag: LineGraph,
    factor: float,
) -> None:
    """Run a pass over all blocks, then over the heads of each long one.

    ``factor`` is the work of the pass, to that of the forward pass.
    """
    node_ptr, edge_ptr, pred_ptr, pred = _views([dag.node_ptr, dag.edge_ptr, dag.pred_ptr, dag.pred])
    counts, edges, lines = np.diff(node_ptr), np.diff(edge_ptr), np.diff(pred_ptr[edge_ptr])
    _, heads, key_dim = nodes[1].shape
    dims = (key_dim, nodes[2].size(2), gates[0].size(0))
    dense = as_python(gating_operations)(counts, edges, lines, *dims)
    states = as_python(state_operations)(edges, lines, *dims)
    work = factor * np.minimum(dense, states).astype(np.float64)  # of a head
    long = [
        b
        for b in np.flatnonzero(edges > WHOLE_STATE_BLOCK)
        if prefers_chunks(counts[b], edges[b], lines[b], *dims)
    ]
    cuts = {b: cut(edge_ptr[b], edge_ptr[b + 1], pred_ptr, pred) for b in long}  # the same for all heads
    heads_of_long = [(b, h) for b in long for h in range(heads)]

    def run(first: int, last: int) -> None:
        kernel(first, last, *arguments)

    def run_long(first: int, last: int) -> None:
        for b, h in heads_of_long[first:last]:
            long_kernel(b, h, cuts[b], *arguments)

    short = heads * work
    short[long] = 0
    run_over_ranges(run, short)
    if long:
        run_over_ranges(run_long, np.repeat(work[long], heads))


def _structure(dag: LineGraph) -> tuple[Arrays, Arrays]:
    """The DAG as the kernels take it: (ends, pred_ptr, pred) and (node_ptr, edge_ptr)."""
    ends = torch.stack([dag.src, dag.dst])
    structure = _views([ends, dag.pred_ptr, dag.pred]), _views([dag.node_ptr, dag.edge_ptr])
    check_bounds(*structure, dag.num_nodes)
    return structure


def _views(tensors: Sequence[Tensor]) -> Arrays:
    """The memory of the tensors, contiguous."""
    return tuple(x.detach().contiguous().numpy() for x in tensors)
