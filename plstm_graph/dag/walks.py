"""Random-walk encodings: how likely a walk comes back to the node that it starts from."""

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from plstm_graph.compiled import structure
from plstm_graph.dag.bonds import neighbours_of
from plstm_graph.dag.transform import node_count
from plstm_graph.errors import InputError


@functional_transform("add_random_walk_encodings")
class AddRandomWalkPE(BaseTransform):
    r"""It adds random-walk encodings, the probabilities that a walk is back where it began.

    .. math::
        p_{nk} = \big( (D^{-1} A)^k \big)_{nn}, \quad k = 1, \dots, K

    for the adjacency A of the bonds, in either direction and counted once, and the degrees D. They stand in
    ``random_walk_pe`` [N, K], K = ``walk_length``, float32, as those of PyG's transform of this name, whose
    dense powers take longer. Networks with ``walk_length`` compute them in every call on graphs that do not
    carry them.

    Args:
        walk_length: number of steps of the longest walk.

    Complexity: O(N · walk_length · bonds within walk_length / 2 steps), on the CPU.
    Source: Dwivedi et al., arXiv 2110.07875.
    """

    def __init__(self, walk_length: int) -> None:
        if walk_length < 1:
            raise InputError(f"walk_length must be at least 1, not {walk_length}.")
        self.walk_length = walk_length

    def forward(self, data: Data) -> Data:
        """Return the graph with its encodings; its other attributes are kept."""
        data.random_walk_pe = random_walk_pe(data.edge_index, node_count(data), self.walk_length).float()
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.walk_length})"


def walks_of(data: Data, walk_length: int) -> Tensor:
    """Random-walk encodings [N, walk_length] of a graph or batch: its own, or new ones in float64.

    Raises:
        InputError: ``random_walk_pe`` has another shape.
    """
    num_nodes = node_count(data)
    prepared = data.get("random_walk_pe")
    if prepared is None:
        return random_walk_pe(data.edge_index, num_nodes, walk_length)
    if prepared.dim() != 2 or prepared.size(0) != num_nodes or prepared.size(1) < walk_length:
        raise InputError(
            f"random_walk_pe needs the shape [{num_nodes}, at least {walk_length}], "
            f"not {list(prepared.shape)}."
        )
    return prepared[:, :walk_length]


# An op, so that compiled networks call it without a break.
@torch.library.custom_op("plstm_graph::random_walk_pe", mutates_args=())
def random_walk_pe(edge_index: Tensor, num_nodes: int, walk_length: int) -> Tensor:
    """Random-walk encodings, float64 [num_nodes, walk_length] on the device of ``edge_index``."""
    ptr, nbr = neighbours_of(edge_index, num_nodes)
    return torch.from_numpy(_return_probabilities(ptr, nbr, walk_length)).to(edge_index.device)


@random_walk_pe.register_fake
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
            for position in range(count):  # nodes that are reached in this step come later in the list
                node = reached[position]
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
            for position in range(count):
                node = reached[position]
                ratio = degree / (ptr[node + 1] - ptr[node])
                odd += before[node] * after[node] * ratio
                even += after[node] * after[node] * ratio
                before[node] = after[node]
                after[node] = 0.0
            result[start, 2 * step - 2] = odd
            if 2 * step <= walk_length:
                result[start, 2 * step - 1] = even
        for position in range(count):
            before[reached[position]] = 0.0
            seen[reached[position]] = False
    return result
