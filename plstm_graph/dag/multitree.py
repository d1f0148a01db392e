"""Pruning of a line graph to a multitree (D-mode): at most one path between any two edges."""

import numpy as np

from plstm_graph.compiled import structure, structure_inner


@structure_inner
def _ancestors(edge, pred_ptr, pred, keep, seen, visit, stack):
    """List ``edge`` and its kept ancestors in ``stack``; -1 as soon as one of them is in ``seen``.

    The kept lines are a multitree, so every ancestor is met once and no second check is needed.
    """
    stack[0] = edge
    head, tail = 0, 1
    while head < tail:
        current = stack[head]
        head += 1
        if seen[current] == visit:
            return -1
        for line in range(pred_ptr[current], pred_ptr[current + 1]):
            if keep[line]:
                stack[tail] = pred[line]
                tail += 1
    return tail


@structure
def multitree_lines(pred_ptr, pred):
    """Choose the line edges that D-mode keeps.

    Edges are visited in topological order and their incoming lines in the order of the predecessors,
    which follows the ranking. A line is kept unless the ancestors that it brings meet those that the
    edge already has: then two paths would join them.

    Args:
        pred_ptr, pred: [E+1], [L] int64, incoming line edges in topological order (CSR).

    Returns:
        keep: [L] bool.

    Complexity: O(L + Σ ancestors of edges with several predecessors).
    """
    num_edges = len(pred_ptr) - 1
    keep = np.zeros(len(pred), np.bool_)
    seen = np.full(num_edges, -1, np.int64)
    stack = np.empty(num_edges + 1, np.int64)
    for edge in range(num_edges):
        first, last = pred_ptr[edge], pred_ptr[edge + 1]
        if last - first == 1:
            keep[first] = True
        if last - first < 2:
            continue
        # Edges that leave one node follow each other and share their predecessors: decide once.
        if edge > 0 and _same_predecessors(edge, pred_ptr, pred):
            before = pred_ptr[edge - 1]
            for i in range(last - first):
                keep[first + i] = keep[before + i]
            continue
        for line in range(first, last):
            count = _ancestors(pred[line], pred_ptr, pred, keep, seen, edge, stack)
            if count > 0:
                keep[line] = True
                for i in range(count):
                    seen[stack[i]] = edge
    return keep


@structure_inner
def _same_predecessors(edge, pred_ptr, pred):
    """Whether ``edge`` has the same predecessors as the edge before it."""
    first, before = pred_ptr[edge], pred_ptr[edge - 1]
    count = pred_ptr[edge + 1] - first
    if first - before != count:
        return False
    return np.array_equal(pred[first : first + count], pred[before : before + count])
