"""A block in state form: cell states [K, V] along its edges (Numba)."""

import numpy as np

from plstm_graph.compiled import kernel_inner
from plstm_graph.kernels.cpu.solve import solve, transition_gradient


@kernel_inner
def scratch(edges, key_dim, value_dim, like):
    """Memory for the states of the largest block that a call meets in this form, and for their adjoint."""
    return np.empty((2, edges, key_dim * value_dim), like.dtype)


@kernel_inner
def _fill_states(states, nodes, gates, way, h, dag, block):
    """States [edges, K·V] of one way: S_e k v^T at the start of every edge, then the solve."""
    _, key, value, _ = nodes
    source, transition, _ = gates
    _, _, first, last = block
    ends, _, _ = dag
    key_dim, value_dim = key.shape[2], value.shape[2]
    for e in range(first, last):
        n = ends[way, e]
        for i in range(key_dim):
            scaled = source[way, e, h] * key[n, h, i]
            for j in range(value_dim):
                states[e - first, i * value_dim + j] = scaled * value[n, h, j]
    solve(states, key_dim * value_dim, transition, way, h, dag, block, False)


@kernel_inner
def _node_dot(a, b, n, h):
    """Inner product of a[n, h] and b[n, h]."""
    total = a[n, h, 0] * b[n, h, 0]
    for j in range(1, a.shape[2]):
        total += a[n, h, j] * b[n, h, j]
    return total


@kernel_inner
def forward_block(nodes, gates, h, dag, block, memory, out):
    """Write the block's rows of ``out`` [N, H, V] at head h."""
    query, key, value, direct = nodes
    node, count, first, last = block
    states, value_dim = memory[0], value.shape[2]
    for n in range(node, node + count):
        weight = direct[n, h] * _node_dot(query, key, n, h)
        for j in range(value_dim):
            out[n, h, j] = weight * value[n, h, j]
    mark, ends = gates[2], dag[0]
    for way in range(mark.shape[0]):
        _fill_states(states, nodes, gates, way, h, dag, block)
        for e in range(first, last):
            n = ends[1 - way, e]
            for i in range(query.shape[2]):
                scaled = mark[way, e, h] * query[n, h, i]
                for j in range(value_dim):
                    out[n, h, j] += scaled * states[e - first, i * value_dim + j]


@kernel_inner
def backward_block(grad, nodes, gates, h, dag, block, memory, node_grads, gate_grads):
    """Write the gradients of the block's nodes, edges and lines at head h."""
    query, key, value, direct = nodes
    grad_query, grad_key, grad_value, grad_direct = node_grads
    node, count, _, _ = block
    for n in range(node, node + count):
        score = _node_dot(query, key, n, h)
        reached = _node_dot(grad, value, n, h)
        grad_direct[n, h] = score * reached
        for i in range(key.shape[2]):
            grad_query[n, h, i] = direct[n, h] * reached * key[n, h, i]
            grad_key[n, h, i] = direct[n, h] * reached * query[n, h, i]
        for j in range(value.shape[2]):
            grad_value[n, h, j] = direct[n, h] * score * grad[n, h, j]
    for way in range(gates[0].shape[0]):
        _fill_states(memory[0], nodes, gates, way, h, dag, block)
        _way_backward(memory[0], memory[1], grad, nodes, gates, way, h, dag, block, node_grads, gate_grads)


@kernel_inner
def _way_backward(states, adjoint, grad, nodes, gates, way, h, dag, block, node_grads, gate_grads):
    """Add one way's gradients of the nodes and write those of its gates."""
    query, key, value, _ = nodes
    source, transition, mark = gates
    grad_query, grad_key, grad_value, _ = node_grads
    grad_source, grad_transition, grad_mark = gate_grads
    ends, _, _ = dag
    _, _, first, last = block
    key_dim, value_dim = key.shape[2], value.shape[2]
    zero = query.dtype.type(0)
    for e in range(first, last):
        n = ends[1 - way, e]
        marked = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, mark[way, e, h] * query[n, h, i]
            for j in range(value_dim):
                read += states[e - first, base + j] * grad[n, h, j]
                adjoint[e - first, base + j] = scaled * grad[n, h, j]
            marked += read * query[n, h, i]
            grad_query[n, h, i] += mark[way, e, h] * read
        grad_mark[way, e, h] = marked
    solve(adjoint, key_dim * value_dim, transition, way, h, dag, block, True)
    for e in range(first, last):
        n = ends[way, e]
        sourced = zero
        for i in range(key_dim):
            base, read, scaled = i * value_dim, zero, source[way, e, h] * key[n, h, i]
            for j in range(value_dim):
                read += adjoint[e - first, base + j] * value[n, h, j]
                grad_value[n, h, j] += scaled * adjoint[e - first, base + j]
            sourced += read * key[n, h, i]
            grad_key[n, h, i] += source[way, e, h] * read
        grad_source[way, e, h] = sourced
    transition_gradient(adjoint, states, key_dim * value_dim, way, h, dag, block, grad_transition)
