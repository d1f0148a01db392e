"""The triangular solves over the line graph that both forms of the fused kernels are made of (Numba).

Throughout: ``dag`` is (src, dst, pred_ptr, pred), ``gates`` (source, transition, mark) of one direction,
``block`` (first node, number of nodes, first edge, last edge + 1), ``h`` a head; ``reverse`` is 0 on the DAG
and 1 on the reversed one, whose edges start at ``dag[reverse]`` and end at ``dag[1 - reverse]``.
"""

from numba import njit

#: Reassociation lets sums use vector registers; NaN and infinity keep their meaning.
jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@jit
def clear(rows, count, width):
    """rows[:count, :width] = 0."""
    for i in range(count):
        for j in range(width):
            rows[i, j] = 0


@jit
def dot(a, b, count):
    """Inner product of the first ``count`` ≥ 1 entries."""
    total = a[0] * b[0]
    for j in range(1, count):
        total += a[j] * b[j]
    return total


@jit
def _gather(rows, width, transition, h, dag, first, last):
    """rows ← (I - T)^{-1} rows, in place: every edge gathers from its predecessors."""
    _, _, pred_ptr, pred = dag
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            t = transition[line, h]
            if t != 0:
                into, other = rows[e - first], rows[pred[line] - first]
                for j in range(width):
                    into[j] += t * other[j]


@jit
def _hand_down(rows, width, transition, h, dag, first, last):
    """rows ← (I - T^T)^{-1} rows, in place: every edge hands down to its predecessors."""
    _, _, pred_ptr, pred = dag
    for e in range(last - 1, first - 1, -1):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            t = transition[line, h]
            if t != 0:
                into, other = rows[pred[line] - first], rows[e - first]
                for j in range(width):
                    into[j] += t * other[j]


@jit
def solve(rows, width, transition, h, dag, block, reverse):
    """Run the recurrence of the DAG or of the reversed one over ``rows`` [edges, width], in place.

    The two are each other's adjoint, so the backward pass of one direction is the other.
    """
    _, _, first, last = block
    if reverse:
        _hand_down(rows, width, transition, h, dag, first, last)
    else:
        _gather(rows, width, transition, h, dag, first, last)


@jit
def transition_gradient(adjoint, rows, width, h, dag, block, reverse, out):
    """Gradient of every transition: the inner product of what left by the line and what came back."""
    _, _, pred_ptr, pred = dag
    _, _, first, last = block
    for e in range(first, last):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            p = pred[line] - first
            if reverse:
                out[line, h] = dot(adjoint[p], rows[e - first], width)
            else:
                out[line, h] = dot(adjoint[e - first], rows[p], width)
