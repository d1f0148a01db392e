"""Gates from logits of nodes and edges, forward and backward, over a range of blocks (Numba).

Throughout: an edge has Z = 4·W·H logits, those of its column in ``at_edge`` [C, Z] (of none if that is empty)
plus those of its ends in ``at_node``, a tensor of columns (see :mod:`.rows`): the first ``from_start`` of the
start, the others of the end. ``places`` [W, 4] say which of the 4·W blocks of H are a direction's source,
mark, keep and share. The first ``shared`` heads are in P-mode, the others in D-mode. ``dag`` is (ends [2, E],
pred_ptr, pred, edge_id, multitree), ``borders`` (node_ptr, edge_ptr).

``values`` [E, Z] keep what the backward pass needs: gates, and logits where only a line makes them gates,
which are keep and share of heads in D-mode.
"""

import numpy as np

from plstm_graph.compiled import kernel, kernel_inner

#: Shares of a P-mode edge are ratios of positive weights; the floor keeps them defined. It stands among the
#: compiled functions since Numba's cache depends on the files that hold these.
WEIGHT_FLOOR = 1e-6

_SOURCE, _MARK, _KEEP, _SHARE = 0, 1, 2, 3


@kernel_inner
def _logistic(z, one):
    """σ(z), with 1 in the type of z."""
    return one / (one + np.exp(-z))


@kernel_inner
def _fill_values(e, at_node, at_edge, dag, from_start, heads, shared, places, values):
    """Write the row of edge e."""
    memory, stride = at_node
    ends, _, _, edge_id, _ = dag
    count, one = values.shape[1], values.dtype.type(1)
    start, end = ends[0, e] * stride, ends[1, e] * stride
    for z in range(from_start):
        values[e, z] = memory[start + z]
    for z in range(from_start, count):
        values[e, z] = memory[end + z]
    if at_edge.shape[0] > 0:
        column = edge_id[e]
        for z in range(count):
            values[e, z] += at_edge[column, z]
    if shared == heads:
        for z in range(count):
            values[e, z] = _logistic(values[e, z], one)
        return
    for direction in range(places.shape[0]):
        for kind in range(4):
            block = places[direction, kind] * heads
            for z in range(block, block + (shared if kind >= _KEEP else heads)):
                values[e, z] = _logistic(values[e, z], one)


@kernel_inner
def _add_weights(direction, first, last, dag, heads, shared, places, values, totals):
    """totals[e - first, h] = the sum of the weights of what follows edge e, in P-mode."""
    _, pred_ptr, pred, _, _ = dag
    share = places[direction, _SHARE] * heads
    floor = values.dtype.type(WEIGHT_FLOOR)
    for e in range(last - first):
        for h in range(shared):
            totals[e, h] = 0
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            before, after = (pred[line], e) if direction == 0 else (e, pred[line])
            for h in range(shared):
                totals[before - first, h] += values[after, share + h] + floor


@kernel_inner
def _most_edges(first_block, last_block, borders):
    """Edges of the largest block."""
    most = 1
    for b in range(first_block, last_block):
        most = max(most, borders[1][b + 1] - borders[1][b])
    return most


@kernel
def forward(
    first_block, last_block, at_node, at_edge, dag, borders, from_start, heads, shared, places, values, gates
):
    """Write the gates (source [W, E, H], transition [W, L, H], mark [W, E, H]) of the blocks, and values."""
    source, transition, mark = gates
    _, pred_ptr, pred, _, multitree = dag
    one, floor = values.dtype.type(1), values.dtype.type(WEIGHT_FLOOR)
    totals = np.empty((_most_edges(first_block, last_block, borders), heads), values.dtype)
    for b in range(first_block, last_block):
        first, last = borders[1][b], borders[1][b + 1]
        for e in range(first, last):
            _fill_values(e, at_node, at_edge, dag, from_start, heads, shared, places, values)
            for direction in range(places.shape[0]):
                for h in range(heads):
                    source[direction, e, h] = values[e, places[direction, _SOURCE] * heads + h]
                    mark[direction, e, h] = values[e, places[direction, _MARK] * heads + h]
        for direction in range(places.shape[0]):
            keep, share = places[direction, _KEEP] * heads, places[direction, _SHARE] * heads
            _add_weights(direction, first, last, dag, heads, shared, places, values, totals)
            for e in range(first, last):
                for line in range(pred_ptr[e], pred_ptr[e + 1]):
                    before, after = (pred[line], e) if direction == 0 else (e, pred[line])
                    for h in range(shared):
                        kept = values[before, keep + h] / totals[before - first, h]
                        transition[direction, line, h] = (values[after, share + h] + floor) * kept
                    for h in range(shared, heads):
                        transition[direction, line, h] = 0
                        if multitree[line]:
                            transition[direction, line, h] = _logistic(
                                values[before, keep + h] + values[after, share + h], one
                            )


@kernel_inner
def _hand_to_ends(b, grads, dag, borders, from_start, grad_node, grad_edge):
    """Add the gradients of a block's edges up at their ends, and write them to their columns."""
    ends, _, _, edge_id, _ = dag
    memory, stride = grad_node
    node_ptr, edge_ptr = borders
    first, count = edge_ptr[b], grads.shape[1]
    for n in range(node_ptr[b], node_ptr[b + 1]):
        for z in range(count):
            memory[n * stride + z] = 0
    for e in range(first, edge_ptr[b + 1]):
        start, end = ends[0, e] * stride, ends[1, e] * stride
        for z in range(from_start):
            memory[start + z] += grads[e - first, z]
        for z in range(from_start, count):
            memory[end + z] += grads[e - first, z]
        if grad_edge.shape[0] > 0:
            column = edge_id[e]
            for z in range(count):
                grad_edge[column, z] += grads[e - first, z]


@kernel
def backward(
    first_block, last_block, gate_grads, transition, dag, borders, from_start, heads, shared, places, values,
    grad_node, grad_edge,
):  # fmt: skip
    """Write the gradients of the blocks' logits to ``grad_node``, and add them to ``grad_edge`` [C, Z]."""
    grad_source, grad_transition, grad_mark = gate_grads
    _, pred_ptr, pred, _, _ = dag
    count, one, floor = values.shape[1], values.dtype.type(1), values.dtype.type(WEIGHT_FLOOR)
    most = _most_edges(first_block, last_block, borders)
    grads = np.empty((most, count), values.dtype)
    totals, returned = np.empty((most, heads), values.dtype), np.empty((most, heads), values.dtype)
    for b in range(first_block, last_block):
        first, last = borders[1][b], borders[1][b + 1]
        for e in range(last - first):
            for z in range(count):
                grads[e, z] = 0
        for direction in range(places.shape[0]):
            keep, share = places[direction, _KEEP] * heads, places[direction, _SHARE] * heads
            _add_weights(direction, first, last, dag, heads, shared, places, values, totals)
            for e in range(last - first):
                for h in range(heads):
                    returned[e, h] = 0
            for e in range(first, last):
                for h in range(heads):
                    z = places[direction, _SOURCE] * heads + h
                    grads[e - first, z] = grad_source[direction, e, h] * values[e, z] * (one - values[e, z])
                    z = places[direction, _MARK] * heads + h
                    grads[e - first, z] = grad_mark[direction, e, h] * values[e, z] * (one - values[e, z])
                for line in range(pred_ptr[e], pred_ptr[e + 1]):
                    before, after = (pred[line], e) if direction == 0 else (e, pred[line])
                    for h in range(shared):
                        weight = values[after, share + h] + floor
                        returned[before - first, h] += grad_transition[direction, line, h] * weight
                    for h in range(shared, heads):
                        passed = transition[direction, line, h]
                        grad = grad_transition[direction, line, h] * passed * (one - passed)
                        grads[before - first, keep + h] += grad
                        grads[after - first, share + h] += grad
            for e in range(first, last):
                for h in range(shared):
                    if totals[e - first, h] > 0:
                        returned[e - first, h] /= totals[e - first, h]  # from here on the gradient of keep
                        totals[e - first, h] = values[e, keep + h] / totals[e - first, h]
                    kept = values[e, keep + h]
                    grads[e - first, keep + h] = returned[e - first, h] * kept * (one - kept)
            for e in range(first, last):
                for line in range(pred_ptr[e], pred_ptr[e + 1]):
                    before, after = (pred[line], e) if direction == 0 else (e, pred[line])
                    for h in range(shared):
                        above_mean = grad_transition[direction, line, h] - returned[before - first, h]
                        grads[after - first, share + h] += totals[before - first, h] * above_mean
            for e in range(first, last):
                for h in range(shared):
                    weight = values[e, share + h]
                    grads[e - first, share + h] *= weight * (one - weight)
        _hand_to_ends(b, grads, dag, borders, from_start, grad_node, grad_edge)
