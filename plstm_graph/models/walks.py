"""Random-walk encodings: how likely a walk comes back to the node that it starts from."""

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.compiled import structure
from plstm_graph.dag.adjacency import neighbour_lists
from plstm_graph.dag.transform import node_count
from plstm_graph.errors import InputError


def return_probabilities(data: Data, walk_length: int) -> Tensor:
    r"""Chances that a random walk of 1, 2, ..., ``walk_length`` steps ends where it began.

    .. math::
        p_{nk} = \big( (D^{-1} A)^k \big)_{nn}

    for the adjacency A of the bonds, in either direction and counted once, and the degrees D.

    Args:
        data: a graph or batch. ``random_walk_pe`` [N, at least walk_length], as PyG's
            ``AddRandomWalkPE`` makes it, is taken as it is.
        walk_length: steps of the longest walk.

    Returns:
        [N, walk_length] on the device of ``edge_index``, float64 if it was made here.

    Raises:
        InputError: ``random_walk_pe`` has another shape.

    Complexity: O(N · walk_length · bonds within walk_length / 2 steps), on the CPU.
    Source: Dwivedi et al., arXiv 2110.07875.
    """
    num_nodes = node_count(data)
    prepared = data.get("random_walk_pe")
    if prepared is None:
        return _from_edge_index(data.edge_index, num_nodes, walk_length)
    if prepared.dim() != 2 or prepared.size(0) != num_nodes or prepared.size(1) < walk_length:
        raise InputError(
            f"random_walk_pe needs the shape [{num_nodes}, at least {walk_length}], "
            f"not {list(prepared.shape)}."
        )
    return prepared[:, :walk_length]


# An op, so that compiled networks call it without a break.
@torch.library.custom_op("plstm_graph::return_probabilities", mutates_args=())
def _from_edge_index(edge_index: Tensor, num_nodes: int, walk_length: int) -> Tensor:
    row, col = edge_index.cpu().numpy()
    ptr, nbr, *_ = neighbour_lists(row, col, num_nodes, np.zeros(len(row)))
    return torch.from_numpy(_return_probabilities(ptr, nbr, walk_length)).to(edge_index.device)


@_from_edge_index.register_fake
def _(edge_index: Tensor, num_nodes: int, walk_length: int) -> Tensor:
    return edge_index.new_empty(num_nodes, walk_length, dtype=torch.float64)


@structure
def _return_probabilities(ptr, nbr, walk_length):
    """Chances [N, walk_length] from walks of half the length.

    With P = D⁻¹A, d_i (P^k)_ij = d_j (P^k)_ji, so that (P^(k+l))_ii = Σ_j (P^k)_ij (P^l)_ij d_i / d_j.
    """
    num_nodes = len(ptr) - 1
    result = np.zeros((num_nodes, walk_length))
    before = np.zeros(num_nodes)  # (P^(k-1))_ij of the present start i
    after = np.zeros(num_nodes)  # (P^k)_ij
    reached = np.empty(num_nodes, np.int64)
    seen = np.zeros(num_nodes, np.bool_)
    for start in range(num_nodes):
        degree = ptr[start + 1] - ptr[start]
        if degree == 0:
            continue
        reached[0] = start
        seen[start] = True
        before[start] = 1.0
        count = 1
        for step in range(1, (walk_length + 1) // 2 + 1):
            for place in range(count):  # nodes that are reached in this step come later in the list
                node = reached[place]
                share = before[node] / (ptr[node + 1] - ptr[node])
                if share > 0.0:
                    for a in range(ptr[node], ptr[node + 1]):
                        other = nbr[a]
                        if not seen[other]:
                            seen[other] = True
                            reached[count] = other
                            count += 1
                        after[other] += share
            odd, even = 0.0, 0.0
            for place in range(count):
                node = reached[place]
                ratio = degree / (ptr[node + 1] - ptr[node])
                odd += before[node] * after[node] * ratio
                even += after[node] * after[node] * ratio
                before[node] = after[node]
                after[node] = 0.0
            result[start, 2 * step - 2] = odd
            if 2 * step <= walk_length:
                result[start, 2 * step - 1] = even
        for place in range(count):
            before[reached[place]] = 0.0
            seen[reached[place]] = False
    return result
