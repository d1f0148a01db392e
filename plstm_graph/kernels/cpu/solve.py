"""The triangular solves over the line graph that both forms of the fused kernels are made of (Numba).

Throughout: ``dag`` is (ends, pred_ptr, pred); ``direction`` is 0 on the DAG, 1 on the reversed one, and edges
start at ``ends[direction]`` and end at ``ends[1 - direction]``. ``gates`` are (source [W, E, H], transition
[W, L, H], mark [W, E, H]) for one or two directions, ``block`` is (first node, number of nodes, first edge,
last edge + 1) and ``h`` a head.

A solve goes over a ``span`` of edges, (first edge, last edge + 1), whose rows are at hand: a whole block, or
a chunk of a long one. Lines enter a chunk from edges before it, the borders, whose rows are kept apart: edge
e has row ``slots[e - first edge of the block]`` of ``borders``. Both are ``None`` for a whole block, which
compiled code then does not ask about.
"""

from plstm_graph.compiled import kernel_inner
from plstm_graph.kernels.cpu.vectors import add_row, row_dot


@kernel_inner
def _gather(rows, width, transition, direction, h, dag, block, span, borders, slots):
    """rows ← (I - T)^{-1} rows, in place: every edge gathers from its predecessors."""
    _, pred_ptr, pred = dag
    first, last = span
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            p = pred[line]
            if borders is not None and p < first:
                add_row(rows, e - first, transition[direction, line, h], borders, slots[p - block[2]], width)
            else:
                add_row(rows, e - first, transition[direction, line, h], rows, p - first, width)


@kernel_inner
def _hand_down(rows, width, transition, direction, h, dag, block, span, borders, slots, inside):
    """rows ← (I - T^T)^{-1} rows, in place: every edge hands down to its predecessors."""
    _, pred_ptr, pred = dag
    first, last = span
    for e in range(last - 1, first - 1, -1):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            p = pred[line]
            if borders is not None and p < first:
                if not inside:
                    add_row(
                        borders, slots[p - block[2]], transition[direction, line, h], rows, e - first, width
                    )
            else:
                add_row(rows, p - first, transition[direction, line, h], rows, e - first, width)


@kernel_inner
def solve(rows, width, transition, direction, h, dag, block, span, borders, slots, adjoint, inside):
    """Run the recurrence of one direction, or its adjoint, over ``rows`` [edges, width], in place.

    The recurrence of the reversed DAG gathers from successors, just as the adjoint of the other does: edges
    of a span hand down to borders before it too, unless they are to stay ``inside``.
    """
    if (direction == 1) != adjoint:
        _hand_down(rows, width, transition, direction, h, dag, block, span, borders, slots, inside)
    else:
        _gather(rows, width, transition, direction, h, dag, block, span, borders, slots)


@kernel_inner
def transition_gradient(adjoint, rows, width, direction, h, dag, block, span, borders, slots, out):
    """Gradient of every transition: the inner product of what left by the line and what came back.

    ``borders`` hold rows on the DAG's own direction, adjoints on the reversed one.
    """
    _, pred_ptr, pred = dag
    first, last = span
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            p = pred[line]
            if borders is not None and p < first:
                own = rows if direction == 1 else adjoint
                out[direction, line, h] = row_dot(own, e - first, borders, slots[p - block[2]], width)
            elif direction == 1:
                out[direction, line, h] = row_dot(adjoint, p - first, rows, e - first, width)
            else:
                out[direction, line, h] = row_dot(adjoint, e - first, rows, p - first, width)
