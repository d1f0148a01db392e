"""A block in state form: cell states [K, V] along its edges, of a long block chunk by chunk (Numba).

Only the states of one chunk are in memory, and those of border edges, which other chunks read. The forward
solve goes from the first chunk to the last and stores the states of border edges. The adjoint solve goes from
the last chunk to the first and stores their gradients. The backward pass recomputes the border states first,
and then the states of one chunk at a time.
"""

import numpy as np

from plstm_graph.compiled import kernel_inner, structure, structure_inner
from plstm_graph.kernels.cost import state_chunk
from plstm_graph.kernels.cpu.solve import add_row, clear, solve, transition_gradient


@kernel_inner
def scratch(edges, key_dim, value_dim, like):
    """Memory for the states of the largest block that a call meets whole, and for their adjoint."""
    width = key_dim * value_dim
    return np.empty((edges, width), like.dtype), np.empty((edges, width), like.dtype)


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
def _solve_states(states, nodes, gates, direction, h, dag, block, span, borders, slots, known):
    """States [edges, K·V] of one direction: S_e k v^T at the start of every edge, then the solve.

    Borders are read and written, or only read if they are ``known``.
    """
    _, key, value, _ = nodes
    source, transition, _ = gates
    first, last = span
    ends, _, _ = dag
    key_dim, value_dim = key.shape[2], value.shape[2]
    for e in range(first, last):
        n = ends[direction, e]
        for i in range(key_dim):
            scaled = source[direction, e, h] * key[n, h, i]
            for j in range(value_dim):
                states[e - first, i * value_dim + j] = scaled * value[n, h, j]
    if borders is not None and direction == 1:
        _take_up(states, key_dim * value_dim, block, span, borders, slots)
    solve(
        states, key_dim * value_dim, transition, direction, h, dag, block, span, borders, slots, False, known
    )
    if borders is not None and direction == 0 and not known:
        _leave(states, key_dim * value_dim, block, span, borders, slots)


@kernel_inner
def _read_states(states, query, mark, direction, h, ends, span, out):
    """Add M_e q^T C_e at the end of every edge."""
    first, last = span
    value_dim = out.shape[2]
    for e in range(first, last):
        n = ends[1 - direction, e]
        for i in range(query.shape[2]):
            scaled = mark[direction, e, h] * query[n, h, i]
            for j in range(value_dim):
                out[n, h, j] += scaled * states[e - first, i * value_dim + j]


@kernel_inner
def _node_dot(a, b, n, h):
    """Inner product of a[n, h] and b[n, h]."""
    total = a[n, h, 0] * b[n, h, 0]
    for j in range(1, a.shape[2]):
        total += a[n, h, j] * b[n, h, j]
    return total


@kernel_inner
def _direct_forward(nodes, h, block, out):
    """Write the direct terms."""
    query, key, value, direct = nodes
    for n in range(block[0], block[0] + block[1]):
        weight = direct[n, h] * _node_dot(query, key, n, h)
        for j in range(value.shape[2]):
            out[n, h, j] = weight * value[n, h, j]


@kernel_inner
def _direct_backward(grad, nodes, h, block, node_grads):
    """Write the gradients of the direct terms."""
    query, key, value, direct = nodes
    grad_query, grad_key, grad_value, grad_direct = node_grads
    for n in range(block[0], block[0] + block[1]):
        score = _node_dot(query, key, n, h)
        reached = _node_dot(grad, value, n, h)
        grad_direct[n, h] = score * reached
        for i in range(key.shape[2]):
            grad_query[n, h, i] = direct[n, h] * reached * key[n, h, i]
            grad_key[n, h, i] = direct[n, h] * reached * query[n, h, i]
        for j in range(value.shape[2]):
            grad_value[n, h, j] = direct[n, h] * score * grad[n, h, j]


@kernel_inner
def forward_block(nodes, gates, h, dag, block, memory, out):
    """Write the block's rows of ``out`` [N, H, V] at head h."""
    states, _ = memory
    span = (block[2], block[3])
    _direct_forward(nodes, h, block, out)
    for direction in range(gates[0].shape[0]):
        _solve_states(states, nodes, gates, direction, h, dag, block, span, None, None, False)
        _read_states(states, nodes[0], gates[2], direction, h, dag[0], span, out)


@kernel_inner
def forward_chunks(nodes, gates, h, dag, block, chunks_of_block, out):
    """Do what :func:`forward_block` does, for a long block that was :func:`cut`."""
    chunk, count, slots = chunks_of_block
    width = nodes[1].shape[2] * nodes[2].shape[2]
    states, borders = np.empty((chunk, width), out.dtype), np.empty((count, width), out.dtype)
    chunks = (block[3] - block[2] + chunk - 1) // chunk
    _direct_forward(nodes, h, block, out)
    for direction in range(gates[0].shape[0]):
        clear(borders, count, width)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 1)
            _solve_states(states, nodes, gates, direction, h, dag, block, span, borders, slots, False)
            _read_states(states, nodes[0], gates[2], direction, h, dag[0], span, out)


@kernel_inner
def backward_block(grad, nodes, gates, h, dag, block, memory, node_grads, gate_grads):
    """Write the gradients of the block's nodes, edges and lines at head h."""
    states, adjoint = memory
    span = (block[2], block[3])
    _direct_backward(grad, nodes, h, block, node_grads)
    for direction in range(gates[0].shape[0]):
        _solve_states(states, nodes, gates, direction, h, dag, block, span, None, None, False)
        _direction_backward(
            states, adjoint, grad, nodes, gates, direction, h, dag, block, span, None, None, None,
            node_grads, gate_grads,
        )  # fmt: skip


@kernel_inner
def backward_chunks(grad, nodes, gates, h, dag, block, chunks_of_block, node_grads, gate_grads):
    """Do what :func:`backward_block` does, for a long block that was :func:`cut`."""
    chunk, count, slots = chunks_of_block
    width = nodes[1].shape[2] * nodes[2].shape[2]
    states, adjoint = np.empty((chunk, width), grad.dtype), np.empty((chunk, width), grad.dtype)
    borders, returned = np.empty((count, width), grad.dtype), np.empty((count, width), grad.dtype)
    chunks = (block[3] - block[2] + chunk - 1) // chunk
    _direct_backward(grad, nodes, h, block, node_grads)
    for direction in range(gates[0].shape[0]):
        clear(borders, count, width)
        clear(returned, count, width)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 1)
            _solve_states(states, nodes, gates, direction, h, dag, block, span, borders, slots, False)
        for turn in range(chunks):
            span = _span(turn, chunks, chunk, block, direction == 0)
            _solve_states(states, nodes, gates, direction, h, dag, block, span, borders, slots, True)
            _direction_backward(
                states, adjoint, grad, nodes, gates, direction, h, dag, block, span, borders, returned, slots,
                node_grads, gate_grads,
            )  # fmt: skip


@kernel_inner
def _direction_backward(
    states, adjoint, grad, nodes, gates, direction, h, dag, block, span, borders, returned, slots,
    node_grads, gate_grads,
):  # fmt: skip
    """Add one direction's gradients of the nodes and write those of its gates, of the edges in the span.

    ``borders`` hold the states of borders, ``returned`` their adjoints.
    """
    query, key, value, _ = nodes
    source, transition, mark = gates
    grad_query, grad_key, grad_value, _ = node_grads
    grad_source, grad_transition, grad_mark = gate_grads
    ends, _, _ = dag
    first, last = span
    key_dim, value_dim = key.shape[2], value.shape[2]
    width = key_dim * value_dim
    zero = query.dtype.type(0)
    for e in range(first, last):
        n = ends[1 - direction, e]
        marked = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, mark[direction, e, h] * query[n, h, i]
            for j in range(value_dim):
                read += states[e - first, base + j] * grad[n, h, j]
                adjoint[e - first, base + j] = scaled * grad[n, h, j]
            marked += read * query[n, h, i]
            grad_query[n, h, i] += mark[direction, e, h] * read
        grad_mark[direction, e, h] = marked
    if returned is not None and direction == 0:
        _take_up(adjoint, width, block, span, returned, slots)
    solve(adjoint, width, transition, direction, h, dag, block, span, returned, slots, True, False)
    if returned is not None and direction == 1:
        _leave(adjoint, width, block, span, returned, slots)
    for e in range(first, last):
        n = ends[direction, e]
        sourced = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, source[direction, e, h] * key[n, h, i]
            for j in range(value_dim):
                read += adjoint[e - first, base + j] * value[n, h, j]
                grad_value[n, h, j] += scaled * adjoint[e - first, base + j]
            sourced += read * key[n, h, i]
            grad_key[n, h, i] += source[direction, e, h] * read
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
