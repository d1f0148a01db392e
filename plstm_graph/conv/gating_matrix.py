"""The gating matrix of a layer, and the mask of an explainer on its gates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels import Gates


@dataclass(frozen=True)
class GatingMatrix:
    r"""What every node receives from every other in one layer, exactly: a layer is linear in its values.

    .. math:: h_n = \sum_m \Big( \sum_w G^w_{nm} \Big) (q_n \cdot k_m) \, v_m

    Pairs that no path joins have no entry. A node's own entry is its direct gate, in the first direction.

    Args:
        sender: m, int64 [P].
        receiver: n, int64 [P].
        gating: G, [P, W, H] for the W directions of the scan (the DAG's own, then the reversed one).
        scores: q·k, [P, H].
    """

    sender: Tensor
    receiver: Tensor
    gating: Tensor
    scores: Tensor

    @property
    def weights(self) -> Tensor:
        """Factor of the sender's v in the receiver's h: [P, H]."""
        return self.gating.sum(1) * self.scores

    def dense(self, num_nodes: int) -> Tensor:
        """G as [receiver, sender, W, H], zero where no path leads."""
        matrix = self.gating.new_zeros(num_nodes, num_nodes, *self.gating.shape[1:])
        matrix[self.receiver, self.sender] = self.gating
        return matrix


def mask_gates(gates: list[Gates], mask: Tensor, edge_index: Tensor, dag: LineGraphDAG) -> list[Gates]:
    """Scale every edge's cell state by its mask, so that each path counts as the product of its edges' masks.

    A state is made by the source and by the transitions into the edge, and read by the mark: masking these
    two masks all three. The DAG's own direction takes an edge's column of edge_index, the reversed one the
    column that points the other way, if there is one.

    Args:
        gates: source [E, H], transition [L, H] and mark [E, H] of every direction, or of states with
            components.
        mask: [C], one value for each column of edge_index.
        edge_index: [2, C].
        dag: its edges are columns of edge_index.
    """
    edge_index = edge_index.long()  # a product of two nodes' numbers is too large for 32 bits
    key = edge_index[0] * dag.num_nodes + edge_index[1]
    order = key.argsort(stable=True)
    wanted = dag.dst * dag.num_nodes + dag.src
    position = torch.searchsorted(key[order], wanted).clamp(max=len(key) - 1)
    back = torch.where(key[order[position]] == wanted, order[position], dag.edge_id)
    masked = []
    directions = zip(gates, (dag.edge_id, back), (dag.succ, dag.pred), strict=False)
    for (source, transition, mark), column, entered in directions:
        factor = mask[column]
        source = source * factor.view(-1, *[1] * (source.dim() - 1))
        transition = transition * factor[entered].view(-1, *[1] * (transition.dim() - 1))
        masked.append(Gates(source, transition, mark))
    return masked
