"""State tracking: gates whose states have J components, which transitions rotate into each other."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import Linear

from plstm_graph.conv.gates import edge_logits
from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels import Gates
from plstm_graph.kernels.heads import in_float32

#: Reflections in a transition: two make any rotation of a plane, none at all if they are equal.
_REFLECTIONS = 2

#: Logits of the diagonal at the start: tanh keeps 0.9999 of a component.
_OPEN = 5.0


class StateGates(nn.Module):
    r"""Turn scalar gates S, T, M into those of states with J components.

    With unit vectors p, r and u, all of them linear in the features of an edge and of one of its ends
    before they are scaled to length 1, and a diagonal of δ = tanh(·):

    .. math::
        S'_e = S_e \, p_e \qquad M'_e = M_e \, r_e \qquad
        T'_{e'e} = T_{e'e} \prod_i (1 - 2 u_{i,e'e} u_{i,e'e}^T) \, \mathrm{diag}(\delta_{e'e})

    Reflections have a spectral norm of 1 and the diagonal has at most that, so that norms of T' are bounded
    as T is, in P-mode over all successors of an edge together. A reflection turns signs exactly, which
    counts parity over any distance; positive scalars can only forget.

    Args:
        in_channels: width of x, -1 to take it from the first call.
        heads: H.
        state_dim: J.
        bidirectional: gates for the reversed DAG too.
        edge_dim: width of the bond features, ``None`` for none.

    Source: arXiv 2506.11997, Appendices A.5 and A.6.
    """

    def __init__(
        self, in_channels: int, heads: int, state_dim: int, bidirectional: bool, edge_dim: int | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.state_dim = state_dim
        self.directions = 2 if bidirectional else 1
        # Per direction and end of an edge: u's, δ, and p at its start or r at its end.
        self.parts = _REFLECTIONS + 2
        width = self.directions * 2 * self.parts * heads * state_dim
        self.lin_node = Linear(in_channels, width, bias=False)
        self.offset = nn.Parameter(torch.empty(self.directions, 2, self.parts, heads, state_dim))
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start near the scalar gates: reflections that cancel each other, and an open diagonal."""
        self.lin_node.reset_parameters()
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()
        with torch.no_grad():
            self.offset.normal_()
            self.offset[:, :, 1:_REFLECTIONS] = self.offset[:, :, :1]
            self.offset[:, :, _REFLECTIONS] = _OPEN / 2  # of either end

    def forward(
        self, x: Tensor, edge_attr: Tensor | None, dag: LineGraphDAG, gates: list[Gates]
    ) -> list[Gates]:
        """Source [E, H, J], transition [L, H, J, J] and mark [E, H, J] of every direction.

        Args:
            x: [N, in_channels].
            edge_attr: [C, edge_dim] for the columns of edge_index.
            dag: its ``edge_id`` are columns of edge_index.
            gates: source [E, H], transition [L, H] and mark [E, H] of every direction.
        """
        shape = self.offset.shape
        at_node = in_float32(self.lin_node(x) + self.offset.flatten()).unflatten(1, shape)
        at_edge = None
        if edge_attr is not None:
            at_edge = edge_logits(self.lin_edge, edge_attr)[dag.edge_id].unflatten(1, shape)
        tracking = []
        for direction, (source, transition, mark) in enumerate(gates):
            ends, lines = (dag.src, dag.dst), (dag.pred, dag.succ)
            if direction == 1:
                ends, lines = ends[::-1], lines[::-1]
            start, end = (
                at_node[nodes, direction, side] + (0 if at_edge is None else at_edge[:, direction, side])
                for side, nodes in enumerate(ends)
            )  # [E, parts, H, J]
            before, after = lines
            joined = end[before, :-1] + start[after, :-1]  # [L, reflections + 1, H, J]
            turned = torch.diag_embed(joined[:, -1].tanh())
            for i in range(_REFLECTIONS):
                normal = F.normalize(joined[:, i], dim=-1).unsqueeze(-1)  # [L, H, J, 1]
                turned = turned - 2 * normal * (normal.mT @ turned)
            tracking.append(
                Gates(
                    source.unsqueeze(-1) * F.normalize(start[:, -1], dim=-1),
                    transition[..., None, None] * turned,
                    mark.unsqueeze(-1) * F.normalize(end[:, -1], dim=-1),
                )
            )
        return tracking
