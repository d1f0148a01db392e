"""Breadth-first distances from a centre, an end or a given node of every connected component, compiled."""

import numpy as np

from plstm_graph.compiled import structure, structure_inner

#: Beyond this many visited bonds the search for an extremal node settles for the best one seen.
_WORK_LIMIT = 50_000_000


@structure_inner
def _breadth_first(root, farthest, adj_ptr, adj, distance, queue):
    """Fill ``distance``, -1 on the component of ``root``, and ``queue`` with its nodes by distance.

    Those farther away are left out; returns how many are not.
    """
    queue[0] = root
    distance[root] = 0
    head, tail = 0, 1
    while head < tail and distance[queue[head]] < farthest:
        node = queue[head]
        head += 1
        for a in range(adj_ptr[node], adj_ptr[node + 1]):
            other = adj[a]
            if distance[other] < 0:
                distance[other] = distance[node] + 1
                queue[tail] = other
                tail += 1
    return tail


@structure_inner
def _pick(component, exact, lower, upper, rank, central):
    """Next node worth measuring: least lower bound (centre) or largest upper bound (end)."""
    best = -1
    for node in component:
        if exact[node]:
            continue
        if best < 0:
            best = node
            continue
        gain = lower[best] - lower[node] if central else upper[node] - upper[best]
        if gain > 0 or (gain == 0 and rank[node] < rank[best]):
            best = node
    return best


@structure_inner
def _extremal_node(component, adj_ptr, adj, rank, central, distance, queue, exact, lower, upper):
    """Node of least (``central``) or largest eccentricity; of several, the one of lowest rank.

    Every measured eccentricity bounds all others by the triangle inequality (Takes and Kosters, 2013),
    so that a handful of searches decides, not one from every node.
    """
    size = len(component)
    work = 0
    winner, winner_ecc = -1, 0
    while True:
        node = _pick(component, exact, lower, upper, rank, central)
        if node < 0 or work > _WORK_LIMIT:
            break
        if winner >= 0 and (lower[node] > winner_ecc if central else upper[node] < winner_ecc):
            break
        for other in component:
            distance[other] = -1
        _breadth_first(node, size, adj_ptr, adj, distance, queue)
        ecc = distance[queue[size - 1]]
        exact[node] = True
        for other in component:
            lower[other] = max(lower[other], distance[other], ecc - distance[other])
            upper[other] = min(upper[other], ecc + distance[other])
            work += adj_ptr[other + 1] - adj_ptr[other]
        gain = (winner_ecc - ecc) if central else (ecc - winner_ecc)
        if winner < 0 or gain > 0 or (gain == 0 and rank[node] < rank[winner]):
            winner, winner_ecc = node, ecc
    return winner


@structure
def distance_from_extremal_node(component_ptr, members, adj_ptr, adj, rank, central):
    """Distance of every node from its component's centre, or from an end of a longest shortest path.

    Args:
        component_ptr, members: [C+1], [N] int64, the nodes of every connected component.
        adj_ptr, adj: [N+1], [A] int64, undirected neighbour lists (CSR).
        rank: [N] int64, canonical rank, which decides between nodes of equal eccentricity.
        central: the node of least eccentricity if true, else one of the largest.

    Returns:
        distance: [N] int64, in bonds.

    Complexity: O(s A), s searches a component: a handful on molecules, as many as nodes where all
    eccentricities are equal (a ring), up to a limit on the total work.
    """
    num_nodes = len(rank)
    distance = np.full(num_nodes, -1, np.int64)
    queue = np.empty(num_nodes, np.int64)
    exact = np.zeros(num_nodes, np.bool_)
    lower = np.zeros(num_nodes, np.int64)
    upper = np.full(num_nodes, num_nodes, np.int64)
    for c in range(len(component_ptr) - 1):
        component = members[component_ptr[c] : component_ptr[c + 1]]
        root = _extremal_node(component, adj_ptr, adj, rank, central, distance, queue, exact, lower, upper)
        for node in component:
            distance[node] = -1
        _breadth_first(root, num_nodes, adj_ptr, adj, distance, queue)
    return distance


@structure
def distance_from(roots, adj_ptr, adj):
    """Distance of every node from the root of its component.

    Args:
        roots: [C] int64, one node of every connected component.
        adj_ptr, adj: [N+1], [A] int64, undirected neighbour lists (CSR).

    Returns:
        distance: [N] int64, in bonds.

    Complexity: O(N + A).
    """
    num_nodes = len(adj_ptr) - 1
    distance = np.full(num_nodes, -1, np.int64)
    queue = np.empty(num_nodes, np.int64)
    for root in roots:
        _breadth_first(root, num_nodes, adj_ptr, adj, distance, queue)
    return distance


@structure
def pairs_within(farthest, adj_ptr, adj):
    """Pairs of nodes that are joined by at most ``farthest`` bonds, each once: first, second, distance [P].

    Args:
        farthest: in bonds.
        adj_ptr, adj: [N+1], [A] int64, undirected neighbour lists (CSR).

    Complexity: O(N + searched bonds): of a molecule of n atoms O(n²) at most.
    """
    num_nodes = len(adj_ptr) - 1
    distance = np.full(num_nodes, -1, np.int64)
    queue = np.empty(num_nodes, np.int64)
    pairs = np.empty((4 * num_nodes + 1, 3), np.int64)
    count = 0
    for root in range(num_nodes):
        reached = _breadth_first(root, farthest, adj_ptr, adj, distance, queue)
        for other in queue[:reached]:
            if other > root:
                if count == len(pairs):
                    pairs = np.concatenate((pairs, np.empty_like(pairs)))
                pairs[count, 0], pairs[count, 1], pairs[count, 2] = root, other, distance[other]
                count += 1
            distance[other] = -1  # for the next root
    return pairs[:count, 0], pairs[:count, 1], pairs[:count, 2]
