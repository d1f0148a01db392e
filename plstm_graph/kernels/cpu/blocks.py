"""The fused kernels over a range of blocks: each in the form that takes fewer operations (Numba).

Long blocks in state form are for kernels of their own, which take one head of one block at a time.
"""

from plstm_graph.compiled import kernel, kernel_inner
from plstm_graph.kernels.cost import prefers_chunks, prefers_states
from plstm_graph.kernels.cpu import gating_form, state_form

_gating_scratch, _gating_forward = gating_form.scratch, gating_form.forward_block
_state_scratch, _state_forward = state_form.scratch, state_form.forward_block
_gating_backward, _state_backward = gating_form.backward_block, state_form.backward_block
_forward_chunks, _backward_chunks = state_form.forward_chunks, state_form.backward_chunks

_GATING, _STATE, _CHUNKS = 0, 1, 2


@kernel_inner
def _block(b, dag, borders, dims):
    """Block b as (first node, number of nodes, first edge, last edge + 1), and its form."""
    node_ptr, edge_ptr = borders
    key_dim, value_dim, directions = dims
    node, first, last = node_ptr[b], edge_ptr[b], edge_ptr[b + 1]
    count = node_ptr[b + 1] - node
    lines = dag[1][last] - dag[1][first]
    form = _GATING
    if prefers_chunks(count, last - first, lines, key_dim, value_dim, directions):
        form = _CHUNKS
    elif prefers_states(count, last - first, lines, key_dim, value_dim, directions):
        form = _STATE
    return (node, count, first, last), form


@kernel_inner
def _scratch(first_block, last_block, dag, borders, dims, like):
    """Memory for the largest block in gating form and for the largest in state form."""
    nodes, edges, state_edges = 1, 1, 0
    for b in range(first_block, last_block):
        (_, count, first, last), form = _block(b, dag, borders, dims)
        if form == _STATE:
            state_edges = max(state_edges, last - first)
        elif form == _GATING:
            nodes, edges = max(nodes, count), max(edges, last - first)
    key_dim, value_dim, directions = dims
    dense = _gating_scratch(nodes, edges, key_dim, value_dim, directions, like)
    return dense, _state_scratch(state_edges, key_dim, value_dim, like)


@kernel
def forward(first_block, last_block, nodes, gates, dag, borders, out):
    """Write the output of blocks ``first_block … last_block - 1`` but the long ones to ``out`` [N, H, V].

    Args:
        nodes: (query, key, value, direct).
        gates: (source [W, E, H], transition [W, L, H], mark [W, E, H]), W = 2 with the reversed DAG, else 1.
        dag: (ends [2, E], pred_ptr, pred).
        borders: (node_ptr, edge_ptr).
    """
    dims = (nodes[1].shape[2], nodes[2].shape[2], gates[0].shape[0])
    dense, cells = _scratch(first_block, last_block, dag, borders, dims, out)
    for b in range(first_block, last_block):
        block, form = _block(b, dag, borders, dims)
        for h in range(out.shape[1] if form != _CHUNKS else 0):
            if form == _STATE:
                _state_forward(nodes, gates, h, dag, block, cells, out)
            else:
                _gating_forward(nodes, gates, h, dag, block, dense, out)


@kernel
def backward(first_block, last_block, grad, nodes, gates, dag, borders, node_grads, gate_grads):
    """Write the gradients of blocks ``first_block … last_block - 1`` but the long ones.

    All but the inputs is recomputed.

    Args:
        grad: [N, H, V] gradient of the output.
        node_grads, gate_grads: laid out like ``nodes`` and ``gates`` (see :func:`forward`).
    """
    dims = (nodes[1].shape[2], nodes[2].shape[2], gates[0].shape[0])
    dense, cells = _scratch(first_block, last_block, dag, borders, dims, grad)
    for b in range(first_block, last_block):
        block, form = _block(b, dag, borders, dims)
        for h in range(grad.shape[1] if form != _CHUNKS else 0):
            if form == _STATE:
                _state_backward(grad, nodes, gates, h, dag, block, cells, node_grads, gate_grads)
            else:
                _gating_backward(grad, nodes, gates, h, dag, block, dense, node_grads, gate_grads)


@kernel
def forward_long(b, h, chunks, nodes, gates, dag, borders, out):
    """Write the output of head h of the long block b, cut into ``chunks``, see :func:`forward`."""
    dims = (nodes[1].shape[2], nodes[2].shape[2], gates[0].shape[0])
    block, _ = _block(b, dag, borders, dims)
    _forward_chunks(nodes, gates, h, dag, block, chunks, out)


@kernel
def backward_long(b, h, chunks, grad, nodes, gates, dag, borders, node_grads, gate_grads):
    """Write the gradients of head h of the long block b, cut into ``chunks``, see :func:`backward`."""
    dims = (nodes[1].shape[2], nodes[2].shape[2], gates[0].shape[0])
    block, _ = _block(b, dag, borders, dims)
    _backward_chunks(grad, nodes, gates, h, dag, block, chunks, node_grads, gate_grads)
