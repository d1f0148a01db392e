"""Levels of edges: the longest path to each, in line edges, compiled."""

import numpy as np

from plstm_graph.compiled import structure


@structure
def edge_levels(pred_ptr, pred):
    """Longest path to every edge, edges in topological order: [E] int64. Complexity: O(E + L)."""
    num_edges = len(pred_ptr) - 1
    level = np.zeros(num_edges, np.int64)
    for e in range(num_edges):
        for line in range(pred_ptr[e], pred_ptr[e + 1]):
            level[e] = max(level[e], level[pred[line]] + 1)
    return level


@structure
def line_levels(first, second, num_edges):
    """Levels [E] of edges in any order, -1 behind a cycle, and how many have one (Kahn, 1962)."""
    missing = np.zeros(num_edges, np.int64)
    succ_ptr = np.zeros(num_edges + 1, np.int64)
    for line in range(len(first)):
        succ_ptr[first[line] + 1] += 1
        missing[second[line]] += 1
    succ_ptr = np.cumsum(succ_ptr)
    fill = succ_ptr[:-1].copy()
    succ = np.empty(len(first), np.int64)
    for line in range(len(first)):
        succ[fill[first[line]]] = second[line]
        fill[first[line]] += 1
    level = np.full(num_edges, -1, np.int64)
    longest = np.zeros(num_edges, np.int64)
    ready = np.empty(num_edges, np.int64)
    tail = 0
    for e in range(num_edges):
        if missing[e] == 0:
            ready[tail] = e
            tail += 1
    head = 0
    while head < tail:
        e = ready[head]
        head += 1
        level[e] = longest[e]
        for i in range(succ_ptr[e], succ_ptr[e + 1]):
            longest[succ[i]] = max(longest[succ[i]], longest[e] + 1)
            missing[succ[i]] -= 1
            if missing[succ[i]] == 0:
                ready[tail] = succ[i]
                tail += 1
    return level, tail
