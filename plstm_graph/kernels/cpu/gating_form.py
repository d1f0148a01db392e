"""A block in gating form: rows of (I - T)^{-1} S_inc over its nodes, then one attention-like pass (Numba)."""

import numpy as np

from plstm_graph.compiled import kernel_inner
from plstm_graph.kernels.cpu.solve import add_row, clear, row_dot, solve, transition_gradient

#: Rows of dense scratch are padded to whole vectors, which keeps inner loops free of remainders.
_LANES = 8


@kernel_inner
def _padded(count):
    return (count + _LANES - 1) // _LANES * _LANES


@kernel_inner
def scratch(nodes, edges, key_dim, value_dim, directions, like):
    """Memory for the largest block that a call meets in this form.

    Every matrix has an allocation of its own: slices of one would have to be told apart at run time in
    every product, which takes half as long again.
    """
    width, most, dtype = _padded(nodes), max(key_dim, value_dim), like.dtype
    dim = _padded(most)
    square = (nodes, width)
    by_node = (np.zeros(square, dtype), np.zeros(square, dtype), np.zeros(square, dtype))
    by_edge = np.empty((directions + 1, edges, width), dtype)
    flat = (nodes, dim)
    by_dim = (np.zeros(flat, dtype), np.zeros(flat, dtype), np.zeros(flat, dtype), np.zeros(flat, dtype))
    transposed = (np.zeros((most, width), dtype), np.zeros((most, width), dtype))
    return by_node, by_edge, by_dim, transposed


@kernel_inner
def _accumulate_product(a, b, c, rows, inner, cols):
    """c[:rows, :cols] += a[:rows, :inner] @ b[:inner, :cols], four rows of b at a time."""
    for i in range(rows):
        k = 0
        while k + 4 <= inner:
            a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(cols):
                c[i, j] += a0 * b[k, j] + a1 * b[k + 1, j] + a2 * b[k + 2, j] + a3 * b[k + 3, j]
            k += 4
        while k < inner:
            add_row(c, i, a[i, k], b, k, cols)
            k += 1


@kernel_inner
def _load(rows, h, block, out):
    """out[:count] = rows of the block's nodes at head h, zeros in the padding."""
    node, count, _, _ = block
    dim, width = rows.shape[2], _padded(rows.shape[2])
    for n in range(count):
        for j in range(dim):
            out[n, j] = rows[node + n, h, j]
        for j in range(dim, width):
            out[n, j] = 0


@kernel_inner
def _load_transposed(rows, h, block, out):
    """out[:, :count] = the same, transposed."""
    node, count, _, _ = block
    clear(out, rows.shape[2], _padded(count))
    for n in range(count):
        for j in range(rows.shape[2]):
            out[j, n] = rows[node + n, h, j]


@kernel_inner
def _store_product(a, b, scratch, h, block, out):
    """Rows of the block's nodes at head h in ``out`` = a @ b."""
    node, count, _, _ = block
    width = _padded(out.shape[2])
    clear(scratch, count, width)
    _accumulate_product(a, b, scratch, count, count, width)
    for n in range(count):
        for j in range(out.shape[2]):
            out[node + n, h, j] = scratch[n, j]


@kernel_inner
def _transpose(a, count):
    """Transpose a[:count, :count] in place."""
    for i in range(count):
        for j in range(i):
            a[i, j], a[j, i] = a[j, i], a[i, j]


@kernel_inner
def _gating_matrix(gating, rows, direct, gates, h, dag, block):
    """Fill ``gating`` [nodes, nodes] with M_inc (I - T)^{-1} S_inc + diag(D), both directions added.

    Leaves (I - T)^{-1} S_inc of each direction in ``rows`` [directions, edges, nodes].
    """
    source, transition, mark = gates
    ends, _, _ = dag
    node, count, first, last = block
    width = _padded(count)
    clear(gating, count, width)
    for direction in range(source.shape[0]):
        resolved = rows[direction]
        clear(resolved, last - first, width)
        for e in range(first, last):
            resolved[e - first, ends[direction, e] - node] = source[direction, e, h]
        solve(resolved, width, transition, direction, h, dag, block, (first, last), None, None, False, False)
        for e in range(first, last):
            add_row(gating, ends[1 - direction, e] - node, mark[direction, e, h], resolved, e - first, width)
    for n in range(count):
        gating[n, n] += direct[node + n, h]


@kernel_inner
def forward_block(nodes, gates, h, dag, block, memory, out):
    """Write the block's rows of ``out`` [N, H, V] at head h."""
    query, key, value, direct = nodes
    by_node, by_edge, by_dim, transposed = memory
    gating, scores, _ = by_node
    count, width = block[1], _padded(block[1])
    _gating_matrix(gating, by_edge, direct, gates, h, dag, block)
    _load(query, h, block, by_dim[0])
    _load(value, h, block, by_dim[1])
    _load_transposed(key, h, block, transposed[0])
    clear(scores, count, width)
    _accumulate_product(by_dim[0], transposed[0], scores, count, key.shape[2], width)
    for n in range(count):
        for m in range(width):
            scores[n, m] *= gating[n, m]
    _store_product(scores, by_dim[1], by_dim[2], h, block, out)


@kernel_inner
def backward_block(grad, nodes, gates, h, dag, block, memory, node_grads, gate_grads):
    """Write the gradients of the block's nodes, edges and lines at head h."""
    query, key, value, direct = nodes
    grad_query, grad_key, grad_value, grad_direct = node_grads
    by_node, by_edge, by_dim, transposed = memory
    gating, scores, reached = by_node
    q, k, g, product = by_dim
    node, count, _, _ = block
    width = _padded(count)
    _gating_matrix(gating, by_edge, direct, gates, h, dag, block)
    _load(query, h, block, q)
    _load(key, h, block, k)
    _load(grad, h, block, g)
    _load_transposed(key, h, block, transposed[0])
    _load_transposed(value, h, block, transposed[1])
    clear(scores, count, width)
    _accumulate_product(q, transposed[0], scores, count, key.shape[2], width)
    clear(reached, count, width)
    _accumulate_product(g, transposed[1], reached, count, value.shape[2], width)
    for n in range(count):
        for m in range(width):
            score, reach, gate = scores[n, m], reached[n, m], gating[n, m]
            scores[n, m] = score * reach  # from here on the gradient of the gating matrix
            reached[n, m] = gate * reach  # … of the scores
            gating[n, m] = gate * score  # … and the attention weights
    _store_product(reached, k, product, h, block, grad_query)
    _transpose(reached, count)
    _store_product(reached, q, product, h, block, grad_key)
    _transpose(gating, count)
    _store_product(gating, g, product, h, block, grad_value)
    for n in range(count):
        grad_direct[node + n, h] = scores[n, n]
    for direction in range(gates[0].shape[0]):
        _gate_gradients(scores, by_edge[direction], by_edge[-1], gates, direction, h, dag, block, gate_grads)


@kernel_inner
def _gate_gradients(grad_gating, rows, adjoint, gates, direction, h, dag, block, gate_grads):
    """Gradients of source, transition and mark of one direction from that of the gating matrix."""
    _, transition, mark = gates
    grad_source, grad_transition, grad_mark = gate_grads
    ends, _, _ = dag
    node, count, first, last = block
    width = _padded(count)
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
