"""A block in gating form: rows of (I - T)^{-1} S_inc over its nodes, then one attention-like pass (Numba)."""

import numpy as np

from plstm_graph.compiled import kernel_inner
from plstm_graph.kernels.cpu.solve import solve, transition_gradient
from plstm_graph.kernels.cpu.vectors import (
    add_row,
    clear,
    padded,
    row_dot,
    set_product,
    set_transposed_product,
)


@kernel_inner
def scratch(nodes, edges, dims, directions, like):
    """Memory for the largest block that a call meets in this form.

    Every matrix has an allocation of its own: slices of one would have to be told apart at run time in
    every product, which takes half as long again.
    """
    _, key_dim, value_dim = dims
    width, most, dtype = padded(nodes), max(key_dim, value_dim), like.dtype
    square = (width, width)
    by_node = (np.zeros(square, dtype), np.zeros(square, dtype), np.zeros(square, dtype))
    by_edge = np.empty((directions + 1, edges, width), dtype)
    transposed = (np.zeros((most, width), dtype), np.zeros((most, width), dtype))
    return by_node, by_edge, transposed


@kernel_inner
def _transposed(rows, dim, count, out):
    """out[:dim, :count] = rows[:count, :dim], transposed, zeros in the padding."""
    clear(out, dim, padded(count))
    for n in range(count):
        for j in range(dim):
            out[j, n] = rows[n, j]


@kernel_inner
def _gating_matrix(gating, rows, direct, gates, h, dag, block):
    """Fill ``gating`` [nodes, nodes] with M_inc (I - T)^{-1} S_inc + diag(D), both directions added.

    Leaves (I - T)^{-1} S_inc of each direction in ``rows`` [directions, edges, nodes].
    """
    source, transition, mark = gates
    ends, _, _ = dag
    node, count, first, last = block
    width = padded(count)
    clear(gating, count, width)
    for direction in range(source.shape[0]):
        resolved = rows[direction]
        clear(resolved, last - first, width)
        for e in range(first, last):
            resolved[e - first, ends[direction, e] - node] = source[direction, e, h]
        solve(resolved, width, transition, direction, h, dag, block, (first, last), None, None, False, False)
        for e in range(first, last):
            add_row(gating, ends[1 - direction, e] - node, mark[direction, e, h], resolved, e - first, width)
    values, stride = direct
    for n in range(count):
        gating[n, n] += values[(node + n) * stride + h]


@kernel_inner
def forward_block(rows, direct, gates, h, dag, block, dims, memory, out):
    """Write the block's rows of ``out`` [nodes, V] at head h from those of query, key and value."""
    query, key, value = rows
    by_node, by_edge, transposed = memory
    gating, scores, _ = by_node
    count, width, key_dim = block[1], padded(block[1]), dims[1]
    _gating_matrix(gating, by_edge, direct, gates, h, dag, block)
    _transposed(key, key_dim, count, transposed[0])
    set_product(query, transposed[0], scores, count, key_dim, width)
    for n in range(count):
        for m in range(width):
            scores[n, m] *= gating[n, m]
    set_product(scores, value, out, count, count, padded(dims[2]))


@kernel_inner
def backward_block(
    grad, rows, direct, gates, h, dag, block, dims, memory, row_grads, grad_direct, gate_grads
):  # fmt: skip
    """Write the gradients of the block's rows, edges and lines at head h from that of its output."""
    query, key, value = rows
    grad_query, grad_key, grad_value = row_grads
    by_node, by_edge, transposed = memory
    gating, scores, reached = by_node
    node, count, _, _ = block
    _, key_dim, value_dim = dims
    width = padded(count)
    _gating_matrix(gating, by_edge, direct, gates, h, dag, block)
    _transposed(key, key_dim, count, transposed[0])
    _transposed(value, value_dim, count, transposed[1])
    set_product(query, transposed[0], scores, count, key_dim, width)
    set_product(grad, transposed[1], reached, count, value_dim, width)
    for n in range(count):
        for m in range(width):
            score, reach, gate = scores[n, m], reached[n, m], gating[n, m]
            scores[n, m] = score * reach  # from here on the gradient of the gating matrix
            reached[n, m] = gate * reach  # … of the scores
            gating[n, m] = gate * score  # … and the attention weights
    set_product(reached, key, grad_query, count, count, padded(key_dim))
    set_transposed_product(reached, query, grad_key, count, count, padded(key_dim))
    set_transposed_product(gating, grad, grad_value, count, count, padded(value_dim))
    values, stride = grad_direct
    for n in range(count):
        values[(node + n) * stride + h] = scores[n, n]
    for direction in range(gates[0].shape[0]):
        _gate_gradients(scores, by_edge[direction], by_edge[-1], gates, direction, h, dag, block, gate_grads)


@kernel_inner
def _gate_gradients(grad_gating, rows, adjoint, gates, direction, h, dag, block, gate_grads):
    """Gradients of source, transition and mark of one direction from that of the gating matrix."""
    _, transition, mark = gates
    grad_source, grad_transition, grad_mark = gate_grads
    ends, _, _ = dag
    node, count, first, last = block
    width = padded(count)
    for e in range(first, last):
        row, at_end, m = e - first, ends[1 - direction, e] - node, mark[direction, e, h]
        grad_mark[direction, e, h] = row_dot(grad_gating, at_end, rows, row, width)
        for j in range(width):
            adjoint[row, j] = m * grad_gating[at_end, j]
    span = (first, last)
    solve(adjoint, width, transition, direction, h, dag, block, span, None, None, True, False)
    for e in range(first, last):
        grad_source[direction, e, h] = adjoint[e - first, ends[direction, e] - node]
    transition_gradient(adjoint, rows, width, direction, h, dag, block, span, None, None, grad_transition)
