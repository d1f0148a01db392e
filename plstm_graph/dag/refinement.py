"""Canonical node ranks by colour refinement (Weisfeiler-Leman), compiled, for a whole batch at once."""

import numpy as np
import torch
from torch import Tensor

from plstm_graph.compiled import kernel, structure, structure_inner

#: The 64-bit FNV prime, which keeps values apart that are hashed together.
STEP = 1099511628211


def mix(value):
    """Scramble 64 bits, so that sums of scrambled colours tell multisets of colours apart.

    ``value`` is an integer of compiled code, or an int64 tensor.
    """
    value = (value ^ (value >> 30)) * -4658895280553007687
    value = (value ^ (value >> 27)) * -7723592293110705685
    return value ^ (value >> 31)


_mix = structure_inner(mix)


def hash_rows(features: Tensor) -> Tensor:
    """One number for every row of integers, or of floating-point numbers as they are in float32."""
    if features.is_floating_point():
        features = (features.float() + 0.0).view(torch.int32)  # the sum makes -0 the 0 that it equals
    columns = torch.arange(1, features.size(1) + 1, device=features.device)
    return mix((features.long() + 1) * STEP + mix(columns)).sum(1)


@kernel
def weighted_sums(rows, weights):
    """Σ_j rows[i, j] weights[j] in float64, bitwise alike for rows alike, and if all of a row are whole."""
    sums = np.zeros(len(rows))
    whole = np.ones(len(rows), np.bool_)
    for i in range(len(rows)):
        total = 0.0
        for j in range(len(weights)):
            total += rows[i, j] * weights[j]
        sums[i] = total
        for j in range(len(weights)):
            if rows[i, j] != np.floor(rows[i, j]):
                whole[i] = False
                break
    return sums, whole


@structure_inner
def sort_by_key(items, key):
    """Sort ``items`` by ``key[item]`` in place, not stably (Shell's sort).

    NumPy's sort compiles for seconds and gains nothing on cells of a molecule's size.
    """
    gap = 1
    while gap < len(items) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, len(items)):
            item = items[i]
            j = i - gap
            while j >= 0 and key[items[j]] > key[item]:
                items[j + gap] = items[j]
                j -= gap
            items[j + gap] = item
        gap //= 3


@structure_inner
def _collect_signatures(changed, num_changed, adj_ptr, adj, adj_key, cell, cell_len, sig, touched):
    """Sum what changed around every node that still shares its cell; return how many such nodes."""
    num_touched = 0
    for i in range(num_changed):
        node = changed[i]
        for a in range(adj_ptr[node], adj_ptr[node + 1]):
            other = adj[a]
            if cell_len[cell[other]] == 1:
                continue
            if sig[other] == 0:
                touched[num_touched] = other
                num_touched += 1
            sig[other] += _mix(cell[node] * STEP + adj_key[a] + 1)
            if sig[other] == 0:  # zero means untouched
                sig[other] = 1
    return num_touched


@structure_inner
def _split_cell(first, length, moved, order, sig, cell, cell_lo, cell_len, changed, counts):
    """Split one cell into runs of equal signature; all but the longest run get new colours.

    Leaving the longest run its colour means that a node changes colour at most log2(N) times. The nodes at
    the end of the cell have moved; the others before them are one run, which nobody walks in vain.
    """
    last = first + length
    tail = last - moved
    sort_by_key(order[tail:last], sig)
    longest, longest_lo = tail - first, first
    lo = tail
    while lo < last:
        hi = _run_end(order, sig, lo, last)
        if hi - lo > longest:
            longest, longest_lo = hi - lo, lo
        lo = hi
    keeper = cell[order[longest_lo]]
    cell_lo[keeper] = longest_lo
    cell_len[keeper] = longest
    if longest_lo != first and tail > first:
        _new_cell(first, tail, order, cell, cell_lo, cell_len, changed, counts)
    lo = tail
    while lo < last:
        hi = _run_end(order, sig, lo, last)
        if lo != longest_lo:
            _new_cell(lo, hi, order, cell, cell_lo, cell_len, changed, counts)
        lo = hi


@structure_inner
def _run_end(order, key, lo, last):
    """End of the run of equal keys that begins at ``lo``."""
    hi = lo + 1
    while hi < last and key[order[hi]] == key[order[lo]]:
        hi += 1
    return hi


@structure_inner
def _new_cell(lo, hi, order, cell, cell_lo, cell_len, changed, counts):
    """Give ``order[lo:hi]`` a new colour and list its nodes as changed; counts = [cells, changed]."""
    cell_lo[counts[0]] = lo
    cell_len[counts[0]] = hi - lo
    for i in range(lo, hi):
        cell[order[i]] = counts[0]
        changed[counts[1]] = order[i]
        counts[1] += 1
    counts[0] += 1


@structure_inner
def _refine(order, pos, adj_ptr, adj, adj_key, cell, cell_lo, cell_len, cell_moved, sig, touched,
            touched_cells, changed, counts):  # fmt: skip
    """Split cells until nodes of one colour see the same colours around them."""
    while counts[1] > 0:
        num_touched = _collect_signatures(
            changed, counts[1], adj_ptr, adj, adj_key, cell, cell_len, sig, touched
        )
        num_touched_cells = 0
        for i in range(num_touched):  # gather the touched nodes at their cell's end
            node = touched[i]
            c = cell[node]
            if cell_moved[c] == 0:
                touched_cells[num_touched_cells] = c
                num_touched_cells += 1
            target = cell_lo[c] + cell_len[c] - 1 - cell_moved[c]
            other = order[target]
            order[pos[node]], pos[other] = other, pos[node]
            order[target], pos[node] = node, target
            cell_moved[c] += 1
        # New colours are numbered by position: by structure alone, whatever the nodes' numbers.
        sort_by_key(touched_cells[:num_touched_cells], cell_lo)
        counts[1] = 0
        for i in range(num_touched_cells):
            c = touched_cells[i]
            first, length, moved = cell_lo[c], cell_len[c], cell_moved[c]
            cell_moved[c] = 0
            _split_cell(first, length, moved, order, sig, cell, cell_lo, cell_len, changed, counts)
            for p in range(first + length - moved, first + length):
                pos[order[p]] = p
        for i in range(num_touched):
            sig[touched[i]] = 0


@structure
def canonical_rank(component_ptr, members, adj_ptr, adj, adj_key, depth, label):
    """Rank the nodes of one component after the other by depth, then label, then colour refinement.

    Nodes that refinement cannot tell apart are taken to be automorphic: one is singled out and the
    rest is refined again until every node has a colour of its own.

    Args:
        component_ptr, members: [C+1], [N] int64, the nodes of every connected component.
        adj_ptr, adj: [N+1], [A] int64, undirected neighbour lists (CSR).
        adj_key: [A] int64 labels of the bonds; zeros where there are none.
        depth, label: [N] int64 labels of the nodes, read before their bonds.

    Returns:
        rank: [N] int64, a permutation of 0 … N-1; components keep their order.

    Complexity: O(A log N).
    """
    num_nodes = len(depth)
    order = members.copy()
    pos = np.empty(num_nodes, np.int64)
    cell = np.empty(num_nodes, np.int64)
    cell_lo = np.empty(num_nodes, np.int64)
    cell_len = np.empty(num_nodes, np.int64)
    cell_moved = np.zeros(num_nodes, np.int64)
    changed = np.empty(num_nodes, np.int64)
    touched = np.empty(num_nodes, np.int64)
    touched_cells = np.empty(num_nodes, np.int64)
    sig = np.zeros(num_nodes, np.int64)
    counts = np.empty(2, np.int64)  # cells of the component, nodes whose colour has just changed
    rank = np.empty(num_nodes, np.int64)
    for c in range(len(component_ptr) - 1):
        first, last = component_ptr[c], component_ptr[c + 1]
        counts[:] = 0
        sort_by_key(order[first:last], depth)
        lo = first
        while lo < last:
            deep = _run_end(order, depth, lo, last)
            sort_by_key(order[lo:deep], label)
            while lo < deep:  # nodes of equal depth and label begin in one cell
                hi = _run_end(order, label, lo, deep)
                _new_cell(lo, hi, order, cell, cell_lo, cell_len, changed, counts)
                lo = hi
        for p in range(first, last):
            pos[order[p]] = p
        p = first
        while p < last:
            _refine(order, pos, adj_ptr, adj, adj_key, cell, cell_lo, cell_len, cell_moved, sig,
                    touched, touched_cells, changed, counts)  # fmt: skip
            while p < last and cell_len[cell[order[p]]] == 1:
                p += 1
            if p < last:  # single out one of several equals
                rest = cell[order[p]]
                cell_lo[rest] += 1
                cell_len[rest] -= 1
                _new_cell(p, p + 1, order, cell, cell_lo, cell_len, changed, counts)
        for p in range(first, last):
            rank[order[p]] = p
    return rank
