"""The fused kernels over a range of blocks: each in the form that takes fewer operations (Numba).

Long blocks in state form are for kernels of their own, which take one head of one block at a time.

Throughout: ``nodes`` are query, key, value and direct as tensors of columns (see :mod:`.rows`), ``gates``
(source [W, E, H], transition [W, L, H], mark [W, E, H]), W = 2 with the reversed DAG, else 1, ``dag`` is
(ends [2, E], pred_ptr, pred), ``borders`` (node_ptr, edge_ptr), ``dims`` (H, K, V). ``norm`` is (the root
mean square that the RMS norm of heads lets no query and key exceed, 0 for a scan without norms, the factor of
queries after it, and [N, H] by what it has multiplied outputs).
"""

from plstm_graph.compiled import kernel, kernel_inner
from plstm_graph.kernels.cost import prefers_chunks, prefers_states
from plstm_graph.kernels.cpu import gating_form, rows, state_form

_gating_scratch, _gating_forward = gating_form.scratch, gating_form.forward_block
_state_scratch, _state_forward = state_form.scratch, state_form.forward_block
_gating_backward, _state_backward = gating_form.backward_block, state_form.backward_block
_forward_chunks, _backward_chunks = state_form.forward_chunks, state_form.backward_chunks
_row_scratch, _load, _store = rows.scratch, rows.load, rows.store
_normalise, _normalise_backward = rows.normalise, rows.normalise_backward

_GATING, _STATE, _CHUNKS = 0, 1, 2


@kernel_inner
def _block(b, dag, borders, dims, directions):
    """Block b as (first node, number of nodes, first edge, last edge + 1), and its form."""
    node_ptr, edge_ptr = borders
    _, key_dim, value_dim = dims
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
def _scratch(first_block, last_block, dag, borders, dims, directions, like):
    """Memory for the largest block in gating form, for the largest in state form, and for rows of both."""
    most, nodes, edges, state_edges = 1, 1, 1, 0
    for b in range(first_block, last_block):
        (_, count, first, last), form = _block(b, dag, borders, dims, directions)
        if form != _CHUNKS:
            most = max(most, count)
        if form == _STATE:
            state_edges = max(state_edges, last - first)
        elif form == _GATING:
            nodes, edges = max(nodes, count), max(edges, last - first)
    dense = _gating_scratch(nodes, edges, dims, directions, like)
    return dense, _state_scratch(state_edges, dims, like), _row_scratch(most, dims, like)


@kernel_inner
def _load_inputs(nodes, h, block, dims, norm, inputs, norms):
    """Read the block's queries, keys and values at head h."""
    largest, factor, _ = norm
    _, key_dim, value_dim = dims
    query, key, value = inputs
    _load(nodes[0], h, key_dim, block, query)
    _load(nodes[1], h, key_dim, block, key)
    _load(nodes[2], h, value_dim, block, value)
    if largest > 0:
        _normalise(query, block[1], key_dim, largest, factor, norms[0])
        _normalise(key, block[1], key_dim, largest, key.dtype.type(1), norms[1])


@kernel_inner
def _store_output(rows, h, block, dims, norm, norms, out):
    """Write the block's outputs at head h."""
    largest, _, scales = norm
    if largest > 0:
        _normalise(rows, block[1], dims[2], rows.dtype.type(1), rows.dtype.type(1), norms[0])
        for n in range(block[1]):
            scales[block[0] + n, h] = norms[0, n]
    _store(rows, h, dims[2], block, out)


@kernel_inner
def _load_gradient(grad, out, h, block, dims, norm, outputs, norms):
    """Read the gradient of the block's outputs at head h as they were before a norm."""
    largest, _, scales = norm
    rows, grads = outputs
    _load(grad, h, dims[2], block, grads)
    if largest > 0:
        _load(out, h, dims[2], block, rows)
        for n in range(block[1]):
            norms[0, n] = scales[block[0] + n, h]
        _normalise_backward(grads, rows, block[1], dims[2], rows.dtype.type(1), rows.dtype.type(1), norms[0])


@kernel_inner
def _store_gradients(row_grads, inputs, h, block, dims, norm, norms, node_grads):
    """Write the gradients of the block's queries, keys and values at head h as they were before a norm."""
    largest, factor, _ = norm
    _, key_dim, value_dim = dims
    if largest > 0:
        one = row_grads[0].dtype.type(1)
        _normalise_backward(row_grads[0], inputs[0], block[1], key_dim, largest, factor, norms[0])
        _normalise_backward(row_grads[1], inputs[1], block[1], key_dim, largest, one, norms[1])
    _store(row_grads[0], h, key_dim, block, node_grads[0])
    _store(row_grads[1], h, key_dim, block, node_grads[1])
    _store(row_grads[2], h, value_dim, block, node_grads[2])


@kernel
def forward(first_block, last_block, nodes, gates, dag, borders, dims, norm, out):
    """Write the output of blocks ``first_block … last_block - 1`` but the long ones to ``out`` [N, H·V]."""
    directions = gates[0].shape[0]
    dense, cells, (inputs, _, (hidden, _), norms) = _scratch(
        first_block, last_block, dag, borders, dims, directions, out[0]
    )
    for b in range(first_block, last_block):
        block, form = _block(b, dag, borders, dims, directions)
        for h in range(dims[0] if form != _CHUNKS else 0):
            _load_inputs(nodes, h, block, dims, norm, inputs, norms)
            if form == _STATE:
                _state_forward(inputs, nodes[3], gates, h, dag, block, dims, cells, hidden)
            else:
                _gating_forward(inputs, nodes[3], gates, h, dag, block, dims, dense, hidden)
            _store_output(hidden, h, block, dims, norm, norms, out)


@kernel
def backward(
    first_block, last_block, grad, nodes, gates, dag, borders, dims, norm, out, node_grads, gate_grads,
):  # fmt: skip
    """Write the gradients of blocks ``first_block … last_block - 1`` but the long ones.

    All but the inputs is recomputed.

    Args:
        grad: [N, H·V] gradient of the output.
        node_grads, gate_grads: laid out like ``nodes`` and ``gates``.
    """
    directions = gates[0].shape[0]
    dense, cells, (inputs, row_grads, outputs, norms) = _scratch(
        first_block, last_block, dag, borders, dims, directions, grad[0]
    )
    for b in range(first_block, last_block):
        block, form = _block(b, dag, borders, dims, directions)
        for h in range(dims[0] if form != _CHUNKS else 0):
            _load_gradient(grad, out, h, block, dims, norm, outputs, norms)
            _load_inputs(nodes, h, block, dims, norm, inputs, norms)
            if form == _STATE:
                _state_backward(
                    outputs[1], inputs, nodes[3], gates, h, dag, block, dims, cells,
                    row_grads, node_grads[3], gate_grads,
                )  # fmt: skip
            else:
                _gating_backward(
                    outputs[1], inputs, nodes[3], gates, h, dag, block, dims, dense,
                    row_grads, node_grads[3], gate_grads,
                )  # fmt: skip
            _store_gradients(row_grads, inputs, h, block, dims, norm, norms, node_grads)


@kernel
def forward_long(b, h, chunks, nodes, gates, dag, borders, dims, norm, out):
    """Write the output of head h of the long block b, cut into ``chunks``, see :func:`forward`."""
    block, _ = _block(b, dag, borders, dims, gates[0].shape[0])
    inputs, _, (hidden, _), norms = _row_scratch(block[1], dims, out[0])
    _load_inputs(nodes, h, block, dims, norm, inputs, norms)
    _forward_chunks(inputs, nodes[3], gates, h, dag, block, dims, chunks, hidden)
    _store_output(hidden, h, block, dims, norm, norms, out)


@kernel
def backward_long(
    b, h, chunks, grad, nodes, gates, dag, borders, dims, norm, out, node_grads, gate_grads
):  # fmt: skip
    """Write the gradients of head h of the long block b, cut into ``chunks``, see :func:`backward`."""
    block, _ = _block(b, dag, borders, dims, gates[0].shape[0])
    inputs, row_grads, outputs, norms = _row_scratch(block[1], dims, grad[0])
    _load_gradient(grad, out, h, block, dims, norm, outputs, norms)
    _load_inputs(nodes, h, block, dims, norm, inputs, norms)
    _backward_chunks(
        outputs[1], inputs, nodes[3], gates, h, dag, block, dims, chunks,
        row_grads, node_grads[3], gate_grads,
    )  # fmt: skip
    _store_gradients(row_grads, inputs, h, block, dims, norm, norms, node_grads)
