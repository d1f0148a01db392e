"""Bonds of an ``edge_index`` as sorted neighbour lists, and the blocks they fall into, compiled."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plstm_graph.compiled import structure

#: What the label of a column counts at its target, beside 1 at its source: labels that differ between the
#: directions of a bond tell its ends apart.
_AT_TARGET = 1.324717957244746


class Adjacency(NamedTuple):
    """Undirected neighbour lists (CSR), sorted, without self loops and repeated bonds.

    ``out_col[a]`` and ``in_col[a]`` are the first columns of edge_index that run from the list's
    owner to ``nbr[a]`` and back, -1 where there is none; ``label[a]`` tells bonds, and the ends of each,
    apart by attribute.
    """

    ptr: NDArray[np.int64]
    nbr: NDArray[np.int64]
    out_col: NDArray[np.int64]
    in_col: NDArray[np.int64]
    label: NDArray[np.float64]


@structure
def neighbour_lists(row, col, num_nodes, edge_label):
    """Build the fields of :class:`Adjacency` from ``row``, ``col`` [C] and ``edge_label`` [C].

    Two counting sorts, by neighbour and then by owner, leave every list sorted. Complexity: O(N + C).
    """
    num_cols = len(row)
    # An entry 2c is column c seen from its source, 2c + 1 the same seen from its target.
    by_nbr_ptr = np.zeros(num_nodes + 1, np.int64)
    for c in range(num_cols):
        if row[c] != col[c]:
            by_nbr_ptr[row[c] + 1] += 1
            by_nbr_ptr[col[c] + 1] += 1
    for node in range(num_nodes):
        by_nbr_ptr[node + 1] += by_nbr_ptr[node]
    num_entries = by_nbr_ptr[num_nodes]
    by_nbr = np.empty(num_entries, np.int64)
    fill = by_nbr_ptr[:-1].copy()
    for c in range(num_cols):
        if row[c] != col[c]:
            by_nbr[fill[col[c]]] = 2 * c
            fill[col[c]] += 1
            by_nbr[fill[row[c]]] = 2 * c + 1
            fill[row[c]] += 1
    # Every entry has its mirror at the other end, so both sorts share their pointers.
    by_owner = np.empty(num_entries, np.int64)
    fill = by_nbr_ptr[:-1].copy()
    for entry in by_nbr:
        owner = row[entry >> 1] if entry & 1 == 0 else col[entry >> 1]
        by_owner[fill[owner]] = entry
        fill[owner] += 1

    ptr = np.zeros(num_nodes + 1, np.int64)
    nbr = np.empty(num_entries, np.int64)
    out_col = np.empty(num_entries, np.int64)
    in_col = np.empty(num_entries, np.int64)
    label = np.zeros(num_entries, np.float64)
    count = 0
    for node in range(num_nodes):
        for i in range(by_nbr_ptr[node], by_nbr_ptr[node + 1]):
            c, incoming = by_owner[i] >> 1, by_owner[i] & 1
            other = row[c] if incoming else col[c]
            if count == ptr[node] or nbr[count - 1] != other:
                nbr[count] = other
                out_col[count] = -1
                in_col[count] = -1
                count += 1
            if incoming and in_col[count - 1] < 0:
                in_col[count - 1] = c
            elif not incoming and out_col[count - 1] < 0:
                out_col[count - 1] = c
            else:
                continue  # a repeated bond
            label[count - 1] += edge_label[c] * _AT_TARGET if incoming else edge_label[c]
        ptr[node + 1] = count
    return ptr, nbr[:count], out_col[:count], in_col[:count], label[:count]


@structure
def connected_components(ptr, nbr):
    """The nodes of one component after the other: component_ptr [C+1], members [N]."""
    num_nodes = len(ptr) - 1
    starts = np.empty(num_nodes + 1, np.int64)
    members = np.empty(num_nodes, np.int64)
    seen = np.zeros(num_nodes, np.bool_)
    count, head, tail = 0, 0, 0
    for root in range(num_nodes):
        if seen[root]:
            continue
        starts[count] = tail
        count += 1
        seen[root] = True
        members[tail] = root
        tail += 1
        while head < tail:
            node = members[head]
            head += 1
            for a in range(ptr[node], ptr[node + 1]):
                if not seen[nbr[a]]:
                    seen[nbr[a]] = True
                    members[tail] = nbr[a]
                    tail += 1
    starts[count] = num_nodes
    return starts[: count + 1], members


@structure
def contiguous_blocks(ptr, nbr):
    """First node of every block of the finest partition into node ranges that no bond leaves: [B+1].

    The graphs of a PyG batch always fall into different blocks, so nothing has to be told of the batch.
    """
    num_nodes = len(ptr) - 1
    starts = np.empty(num_nodes + 1, np.int64)
    count = 0
    reach = -1
    for node in range(num_nodes):
        if node > reach:
            starts[count] = node
            count += 1
            reach = node
        if ptr[node + 1] > ptr[node]:  # lists are sorted: the last neighbour reaches furthest
            reach = max(reach, nbr[ptr[node + 1] - 1])
    starts[count] = num_nodes
    return starts[: count + 1]


@structure
def in_directed_component(component_ptr, members, ptr, out_col, in_col):
    """Return, for every node, if its component has a bond in one direction only: [N] bool."""
    directed = np.zeros(len(members), np.bool_)
    for c in range(len(component_ptr) - 1):
        nodes = members[component_ptr[c] : component_ptr[c + 1]]
        one_sided = False
        for node in nodes:
            for a in range(ptr[node], ptr[node + 1]):
                one_sided = one_sided or out_col[a] < 0 or in_col[a] < 0
        for node in nodes:
            directed[node] = one_sided
    return directed


@structure
def topological_depth(directed, ptr, nbr, out_col, in_col):
    """Longest path to every node of the directed components, 0 in the others (Kahn, 1962).

    Returns:
        depth: [N] int64; -1 at nodes on or behind a directed cycle.
    """
    num_nodes = len(directed)
    depth = np.zeros(num_nodes, np.int64)
    missing = np.zeros(num_nodes, np.int64)
    ready = np.empty(num_nodes, np.int64)
    head, tail = 0, 0
    for node in range(num_nodes):
        if not directed[node]:
            continue
        depth[node] = -1
        for a in range(ptr[node], ptr[node + 1]):
            if in_col[a] >= 0:
                missing[node] += 1
        if missing[node] == 0:
            ready[tail] = node
            tail += 1
    while head < tail:
        node = ready[head]
        head += 1
        depth[node] = 0
        for a in range(ptr[node], ptr[node + 1]):
            if in_col[a] >= 0:
                depth[node] = max(depth[node], depth[nbr[a]] + 1)
            if out_col[a] >= 0:
                missing[nbr[a]] -= 1
                if missing[nbr[a]] == 0:
                    ready[tail] = nbr[a]
                    tail += 1
    return depth


@structure
def directed_cycle(depth, ptr, nbr, in_col):
    """Nodes of one directed cycle in the order of its edges, given that ``depth`` has a -1."""
    num_nodes = len(depth)
    step = np.full(num_nodes, -1, np.int64)
    node = np.argmin(depth)
    path = np.empty(num_nodes, np.int64)
    length = 0
    while step[node] < 0:  # walk against the edges: a node on or behind a cycle has such a predecessor
        step[node] = length
        path[length] = node
        length += 1
        for a in range(ptr[node], ptr[node + 1]):
            if in_col[a] >= 0 and depth[nbr[a]] < 0:
                node = nbr[a]
                break
    return path[step[node] : length][::-1].copy()


@structure
def oriented_edges(node_ptr, rank, ptr, nbr, out_col, in_col):
    """Every bond once, from the lower to the higher rank, sorted by (block, rank[src], rank[dst]).

    Returns:
        src, dst: [E] int64; column: [E] int64, the column of edge_index that runs src → dst (the
        opposite one where only that is given); edge_ptr: [B+1] int64.
    """
    num_nodes = len(rank)
    num_edges = len(nbr) // 2
    by_rank = np.empty(num_nodes, np.int64)
    for node in range(num_nodes):
        by_rank[rank[node]] = node
    # first[n]: where the edges that leave n begin. Targets visited by rank arrive sorted.
    fill = np.empty(num_nodes, np.int64)
    edge_ptr = np.zeros(len(node_ptr), np.int64)
    count = 0
    for b in range(len(node_ptr) - 1):
        for p in range(node_ptr[b], node_ptr[b + 1]):
            node = by_rank[p]
            fill[node] = count
            for a in range(ptr[node], ptr[node + 1]):
                if rank[nbr[a]] > rank[node]:
                    count += 1
        edge_ptr[b + 1] = count
    src = np.empty(num_edges, np.int64)
    dst = np.empty(num_edges, np.int64)
    column = np.empty(num_edges, np.int64)
    for node in by_rank:
        for a in range(ptr[node], ptr[node + 1]):
            other = nbr[a]
            if rank[other] < rank[node]:
                e = fill[other]
                fill[other] += 1
                src[e] = other
                dst[e] = node
                column[e] = in_col[a] if in_col[a] >= 0 else out_col[a]
    return src, dst, column, edge_ptr


@structure
def incoming_lines(src, dst, num_nodes):
    """All line edges of a DAG whose edges are in topological order: pred_ptr [E+1], pred [L]."""
    num_edges = len(src)
    in_ptr = np.zeros(num_nodes + 1, np.int64)
    for e in range(num_edges):
        in_ptr[dst[e] + 1] += 1
    for node in range(num_nodes):
        in_ptr[node + 1] += in_ptr[node]
    fill = in_ptr[:-1].copy()
    incoming = np.empty(num_edges, np.int64)
    pred_ptr = np.zeros(num_edges + 1, np.int64)
    for e in range(num_edges):
        incoming[fill[dst[e]]] = e
        fill[dst[e]] += 1
        pred_ptr[e + 1] = pred_ptr[e] + in_ptr[src[e] + 1] - in_ptr[src[e]]
    pred = np.empty(pred_ptr[num_edges], np.int64)
    for e in range(num_edges):
        for i in range(pred_ptr[e + 1] - pred_ptr[e]):
            pred[pred_ptr[e] + i] = incoming[in_ptr[src[e]] + i]
    return pred_ptr, pred
