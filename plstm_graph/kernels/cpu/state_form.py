"""A block in state form: cell states [K, V] along its edges (Numba)."""

import numpy as np

from plstm_graph.kernels.cpu.solve import dot, jit, solve, transition_gradient


@jit
def scratch(edges, key_dim, value_dim, like):
    """Memory for the states of the largest block that a call meets in this form, and for their adjoint."""
    return np.empty((2, edges, key_dim * value_dim), like.dtype)


@jit
def _fill_states(states, nodes, gates, h, dag, block, reverse):
    """States [edges, K·V] of one direction: S_e k v^T at the start of every edge, then the solve."""
    _, key, value, _ = nodes
    source, transition, _ = gates
    _, _, first, last = block
    start = dag[reverse]
    key_dim, value_dim = key.shape[2], value.shape[2]
    for e in range(first, last):
        n = start[e]
        for i in range(key_dim):
            scaled = source[e, h] * key[n, h, i]
            for j in range(value_dim):
                states[e - first, i * value_dim + j] = scaled * value[n, h, j]
    solve(states, key_dim * value_dim, transition, h, dag, block, reverse)


@jit
def forward_block(nodes, gates, directions, h, dag, block, memory, out):
    """Write the block's rows of ``out`` [N, H, V] at head h."""
    query, key, value, direct = nodes
    node, count, first, last = block
    states, value_dim = memory[0], value.shape[2]
    for n in range(node, node + count):
        weight = direct[n, h] * dot(query[n, h], key[n, h], key.shape[2])
        for j in range(value_dim):
            out[n, h, j] = weight * value[n, h, j]
    for reverse in range(directions):
        _fill_states(states, nodes, gates[reverse], h, dag, block, reverse)
        mark, end = gates[reverse][2], dag[1 - reverse]
        for e in range(first, last):
            n = end[e]
            for i in range(query.shape[2]):
                scaled = mark[e, h] * query[n, h, i]
                for j in range(value_dim):
                    out[n, h, j] += scaled * states[e - first, i * value_dim + j]


@jit
def backward_block(grad, nodes, gates, directions, h, dag, block, memory, node_grads, gate_grads):
    """Write the gradients of the block's nodes, edges and lines at head h."""
    query, key, value, direct = nodes
    grad_query, grad_key, grad_value, grad_direct = node_grads
    node, count, _, _ = block
    for n in range(node, node + count):
        score = dot(query[n, h], key[n, h], key.shape[2])
        reached = dot(grad[n, h], value[n, h], value.shape[2])
        grad_direct[n, h] = score * reached
        for i in range(key.shape[2]):
            grad_query[n, h, i] = direct[n, h] * reached * key[n, h, i]
            grad_key[n, h, i] = direct[n, h] * reached * query[n, h, i]
        for j in range(value.shape[2]):
            grad_value[n, h, j] = direct[n, h] * score * grad[n, h, j]
    for reverse in range(directions):
        _fill_states(memory[0], nodes, gates[reverse], h, dag, block, reverse)
        _direction_backward(
            memory[0],
            memory[1],
            grad,
            nodes,
            gates[reverse],
            h,
            dag,
            block,
            reverse,
            node_grads,
            gate_grads[reverse],
        )


@jit
def _direction_backward(states, adjoint, grad, nodes, gates, h, dag, block, reverse, node_grads, gate_grads):
    """Add one direction's gradients of the nodes and write those of its gates."""
    query, key, value, _ = nodes
    source, transition, mark = gates
    grad_query, grad_key, grad_value, _ = node_grads
    grad_source, grad_transition, grad_mark = gate_grads
    start, end = dag[reverse], dag[1 - reverse]
    _, _, first, last = block
    key_dim, value_dim = key.shape[2], value.shape[2]
    zero = query.dtype.type(0)
    for e in range(first, last):
        n = end[e]
        marked = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, mark[e, h] * query[n, h, i]
            for j in range(value_dim):
                read += states[e - first, base + j] * grad[n, h, j]
                adjoint[e - first, base + j] = scaled * grad[n, h, j]
            marked += read * query[n, h, i]
            grad_query[n, h, i] += mark[e, h] * read
        grad_mark[e, h] = marked
    solve(adjoint, key_dim * value_dim, transition, h, dag, block, 1 - reverse)
    for e in range(first, last):
        n = start[e]
        sourced = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, source[e, h] * key[n, h, i]
            for j in range(value_dim):
                read += adjoint[e - first, base + j] * value[n, h, j]
                grad_value[n, h, j] += scaled * adjoint[e - first, base + j]
            sourced += read * key[n, h, i]
            grad_key[n, h, i] += source[e, h] * read
        grad_source[e, h] = sourced
    transition_gradient(adjoint, states, key_dim * value_dim, h, dag, block, reverse, grad_transition)
