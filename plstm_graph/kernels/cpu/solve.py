"""The triangular solves over the line graph that both forms of the fused kernels are made of (Numba).

Throughout: ``dag`` is (ends, pred_ptr, pred); edges start at ``ends[way]`` and end at ``ends[1 - way]``;
``way`` is 0 on the DAG, 1 on the reversed one. ``gates`` are (source [W, E, H], transition [W, L, H],
mark [W, E, H]) for one or two ways, ``block`` is (first node, number of nodes, first edge, last edge + 1)
and ``h`` a head.
"""

from plstm_graph.compiled import kernel_inner


@kernel_inner
def clear(rows, count, width):
    """rows[:count, :width] = 0."""
    for i in range(count):
        for j in range(width):
            rows[i, j] = 0


@kernel_inner
def row_dot(a, i, b, k, width):
    """Inner product of a[i, :width] and b[k, :width], width ≥ 1.

    Rows are indexed, not sliced, here and below: a view of a row costs as much as the work on it.
    """
    total = a[i, 0] * b[k, 0]
    for j in range(1, width):
        total += a[i, j] * b[k, j]
    return total


@kernel_inner
def add_row(a, i, factor, b, k, width):
    """a[i, :width] += factor * b[k, :width]."""
    for j in range(width):
        a[i, j] += factor * b[k, j]


@kernel_inner
def _gather(rows, width, transition, way, h, pred_ptr, pred, first, last):
    """rows ← (I - T)^{-1} rows, in place: every edge gathers from its predecessors."""
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            add_row(rows, e - first, transition[way, line, h], rows, pred[line] - first, width)


@kernel_inner
def _hand_down(rows, width, transition, way, h, pred_ptr, pred, first, last):
    """rows ← (I - T^T)^{-1} rows, in place: every edge hands down to its predecessors."""
    for e in range(last - 1, first - 1, -1):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            add_row(rows, pred[line] - first, transition[way, line, h], rows, e - first, width)


@kernel_inner
def solve(rows, width, transition, way, h, dag, block, adjoint):
    """Run the recurrence of one way, or its adjoint, over ``rows`` [edges, width], in place.

    The recurrence of the reversed DAG gathers from successors, just as the adjoint of the other does.
    """
    _, pred_ptr, pred = dag
    _, _, first, last = block
    if (way == 1) != adjoint:
        _hand_down(rows, width, transition, way, h, pred_ptr, pred, first, last)
    else:
        _gather(rows, width, transition, way, h, pred_ptr, pred, first, last)


@kernel_inner
def transition_gradient(adjoint, rows, width, way, h, dag, block, out):
    """Gradient of every transition: the inner product of what left by the line and what came back."""
    _, pred_ptr, pred = dag
    _, _, first, last = block
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            p = pred[line] - first
            if way == 1:
                out[way, line, h] = row_dot(adjoint, p, rows, e - first, width)
            else:
                out[way, line, h] = row_dot(adjoint, e - first, rows, p, width)
