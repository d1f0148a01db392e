"""A block in state form: cell states [K, V] along its edges, of a long block chunk by chunk (Numba).

Only the states of one chunk are in memory, and those of border edges, which other chunks read. The forward
solve goes from the first chunk to the last and stores the states of border edges. The adjoint solve goes from
the last chunk to the first and stores their gradients. The backward pass recomputes the border states first,
and then the states of one chunk at a time.
"""

import numpy as np

from plstm_graph.compiled import kernel_inner, structure, structure_inner
from plstm_graph.kernels.cost import state_chunk
from plstm_graph.kernels.cpu.solve import solve, transition_gradient
from plstm_graph.kernels.cpu.vectors import add_row, clear, padded, row_dot


@kernel_inner
def scratch(edges, dims, like):
    """Memory for the states of the largest block that a call meets whole, and for their adjoint."""
    width = padded(dims[1] * dims[2])
    return np.zeros((edges, width), like.dtype), np.zeros((edges, width), like.dtype)


@structure
def cut(first, last, pred_ptr, pred):
    """Cut the edges of a long block into chunks: edges of a chunk, borders in all, and the borders' numbers.

    The numbers are [edges], -1 for edges that are no border.
    """
    edges = last - first
    slots = np.full(edges, -1, np.int64)
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            slots[pred[line] - first] = e - first  # the last successor, for now
    chunk = state_chunk(slots, edges)
    borders = 0
    for e in range(edges):
        if slots[e] // chunk > e // chunk:
            slots[e] = borders
            borders += 1
        else:
            slots[e] = -1
    return chunk, borders, slots


@structure_inner
def _span(turn, chunks, chunk, block, backwards):
    """Edges of the chunk whose turn it is."""
    _, _, first, last = block
    number = chunks - 1 - turn if backwards else turn
    return first + number * chunk, min(first + (number + 1) * chunk, last)


@kernel_inner
def _take_up(rows, width, block, span, borders, slots):
    """Add what was handed down to borders in the span."""
    first, last = span
    for e in range(first, last):
        slot = slots[e - block[2]]
        if slot >= 0:
            add_row(rows, e - first, 1, borders, slot, width)


@kernel_inner
def _leave(rows, width, block, span, borders, slots):
    """Keep the rows of borders in the span."""
    first, last = span
    for e in range(first, last):
        slot = slots[e - block[2]]
        if slot >= 0:
            for j in range(width):
                borders[slot, j] = rows[e - first, j]


@kernel_inner
def _solve_states(states, rows, gates, direction, h, dag, block, dims, span, borders, slots, known):
    """States [edges, K·V] of one direction: S_e k v^T at the start of every edge, then the solve.

    Borders are read and written, or only read if they are ``known``.
    """
    _, key, value = rows
    source, transition, _ = gates
    first, last = span
    ends, _, _ = dag
    _, key_dim, value_dim = dims
    width = padded(key_dim * value_dim)
    for e in range(first, last):
        n = ends[direction, e] - block[0]
        for i in range(key_dim):
            scaled = source[direction, e, h] * key[n, i]
            for j in range(value_dim):
                states[e - first, i * value_dim + j] = scaled * value[n, j]
    if borders is not None and direction == 1:
        _take_up(states, width, block, span, borders, slots)
    solve(states, width, transition, direction, h, dag, block, span, borders, slots, False, known)
    if borders is not None and direction == 0 and not known:
        _leave(states, width, block, span, borders, slots)


@kernel_inner
def _read_states(states, query, mark, direction, h, ends, block, dims, span, out):
    """Add M_e q^T C_e at the end of every edge."""
    first, last = span
    _, key_dim, value_dim = dims
    for e in range(first, last):
        n = ends[1 - direction, e] - block[0]
        for i in range(key_dim):
            scaled = mark[direction, e, h] * query[n, i]
            for j in range(value_dim):
                out[n, j] += scaled * states[e - first, i * value_dim + j]


@kernel_inner
def _direct_forward(rows, direct, h, block, dims, out):
    """Write the direct terms."""
    query, key, value = rows
    values, stride = direct
    for n in range(block[1]):
        weight = values[(block[0] + n) * stride + h] * row_dot(query, n, key, n, padded(dims[1]))
        for j in range(dims[2]):
            out[n, j] = weight * value[n, j]


@kernel_inner
def _direct_backward(grad, rows, direct, h, block, dims, row_grads, grad_direct):
    """Write the gradients of the direct terms."""
    query, key, value = rows
    grad_query, grad_key, grad_value = row_grads
    values, stride = direct
    grad_values, grad_stride = grad_direct
    _, key_dim, value_dim = dims
    for n in range(block[1]):
        weight = values[(block[0] + n) * stride + h]
        score = row_dot(query, n, key, n, padded(key_dim))
        reached = row_dot(grad, n, value, n, padded(value_dim))
        grad_values[(block[0] + n) * grad_stride + h] = score * reached
        for i in range(key_dim):
            grad_query[n, i] = weight * reached * key[n, i]
            grad_key[n, i] = weight * reached * query[n, i]
        for j in range(value_dim):
            grad_value[n, j] = weight * score * grad[n, j]


@kernel_inner
def forward_block(rows, direct, gates, h, dag, block, dims, memory, out):
    """Write the block's rows of ``out`` [nodes, V] at head h from those of query, key and value."""
    states, _ = memory
    span = (block[2], block[3])
    _direct_forward(rows, direct, h, block, dims, out)
    for direction in range(gates[0].shape[0]):
        _solve_states(states, rows, gates, direction, h, dag, block, dims, span, None, None, False)
        _read_states(states, rows[0], gates[2], direction, h, dag[0], block, dims, span, out)


@kernel_inner
def forward_chunks(rows, direct, gates, h, dag, block, dims, chunks_of_block, out):
    """Do what :func:`forward_block` does, for a long block that was :func:`cut`."""
    chunk, count, slots = chunks_of_block
    width = padded(dims[1] * dims[2])
    states, borders = np.zeros((chunk, width), out.dtype), np.empty((count, width), out.dtype)
    chunks = (block[3] - block[2] + chunk - 1) // chunk
    _direct_forward(rows, direct, h, block, dims, out)
    for direction in range(gates[0].shape[0]):
        clear(borders, count, width)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 1)
            _solve_states(states, rows, gates, direction, h, dag, block, dims, span, borders, slots, False)
            _read_states(states, rows[0], gates[2], direction, h, dag[0], block, dims, span, out)


@kernel_inner
def backward_block(
    grad, rows, direct, gates, h, dag, block, dims, memory, row_grads, grad_direct, gate_grads
):  # fmt: skip
    """Write the gradients of the block's rows, edges and lines at head h from that of its output."""
    states, adjoint = memory
    span = (block[2], block[3])
    _direct_backward(grad, rows, direct, h, block, dims, row_grads, grad_direct)
    for direction in range(gates[0].shape[0]):
        _solve_states(states, rows, gates, direction, h, dag, block, dims, span, None, None, False)
        _direction_backward(
            states, adjoint, grad, rows, gates, direction, h, dag, block, dims, span, None, None, None,
            row_grads, gate_grads,
        )  # fmt: skip


@kernel_inner
def backward_chunks(
    grad, rows, direct, gates, h, dag, block, dims, chunks_of_block, row_grads, grad_direct, gate_grads
):  # fmt: skip
    """Do what :func:`backward_block` does, for a long block that was :func:`cut`."""
    chunk, count, slots = chunks_of_block
    width = padded(dims[1] * dims[2])
    states, adjoint = np.zeros((chunk, width), grad.dtype), np.zeros((chunk, width), grad.dtype)
    borders, returned = np.empty((count, width), grad.dtype), np.empty((count, width), grad.dtype)
    chunks = (block[3] - block[2] + chunk - 1) // chunk
    _direct_backward(grad, rows, direct, h, block, dims, row_grads, grad_direct)
    for direction in range(gates[0].shape[0]):
        clear(borders, count, width)
        clear(returned, count, width)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 1)
            _solve_states(states, rows, gates, direction, h, dag, block, dims, span, borders, slots, False)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 0)
            _solve_states(states, rows, gates, direction, h, dag, block, dims, span, borders, slots, True)
            _direction_backward(
                states, adjoint, grad, rows, gates, direction, h, dag, block, dims, span, borders, returned,
                slots, row_grads, gate_grads,
            )  # fmt: skip


@kernel_inner
def _direction_backward(
    states, adjoint, grad, rows, gates, direction, h, dag, block, dims, span, borders, returned, slots,
    row_grads, gate_grads,
):  # fmt: skip
    """Add one direction's gradients of the rows and write those of its gates, of the edges in the span.

    ``borders`` hold the states of borders, ``returned`` their adjoints.
    """
    query, key, value = rows
    source, transition, mark = gates
    grad_query, grad_key, grad_value = row_grads
    grad_source, grad_transition, grad_mark = gate_grads
    ends, _, _ = dag
    first, last = span
    _, key_dim, value_dim = dims
    width = padded(key_dim * value_dim)
    zero = query.dtype.type(0)
    for e in range(first, last):
        n = ends[1 - direction, e] - block[0]
        marked = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, mark[direction, e, h] * query[n, i]
            for j in range(value_dim):
                read += states[e - first, base + j] * grad[n, j]
                adjoint[e - first, base + j] = scaled * grad[n, j]
            marked += read * query[n, i]
            grad_query[n, i] += mark[direction, e, h] * read
        grad_mark[direction, e, h] = marked
    if returned is not None and direction == 0:
        _take_up(adjoint, width, block, span, returned, slots)
    solve(adjoint, width, transition, direction, h, dag, block, span, returned, slots, True, False)
    if returned is not None and direction == 1:
        _leave(adjoint, width, block, span, returned, slots)
    for e in range(first, last):
        n = ends[direction, e] - block[0]
        sourced = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, source[direction, e, h] * key[n, i]
            for j in range(value_dim):
                read += adjoint[e - first, base + j] * value[n, j]
                grad_value[n, j] += scaled * adjoint[e - first, base + j]
            sourced += read * key[n, i]
            grad_key[n, i] += source[direction, e, h] * read
        grad_source[direction, e, h] = sourced
    if borders is None:
        transition_gradient(
            adjoint, states, width, direction, h, dag, block, span, None, None, grad_transition
        )
    else:
        before = returned if direction == 1 else borders
        transition_gradient(
            adjoint, states, width, direction, h, dag, block, span, before, slots, grad_transition
        )
