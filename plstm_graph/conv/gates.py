"""Source, transition, mark and direct gates from node and bond features, stable by construction."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import Linear

from plstm_graph.dag import LineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.kernels import Gates

#: Of a layer's heads: all in P-mode, all in D-mode, or half of them in each.
HeadMode = Literal["P", "D", "PD"]

#: Logits of the transitions at the start, from the first head to the last: 1/e is left after about 3000
#: bonds and after 8. The first keeps signals over any molecule, the last looks at the neighbourhood.
_LONGEST, _SHORTEST = 8.0, 2.0


class _Columns(NamedTuple):
    """Positions of a direction's logits among those of an edge, in blocks of H."""

    source: int
    mark: int
    keep: int  # a
    share: int  # c


#: By the number of directions. Each gate looks at the node at one end of its bond: the DAG's own direction at
#: its start for the source and at its end for the others, the reversed direction the other way about. First
#: stand the logits of the node at the start of an edge, then those of the node at its end.
_COLUMNS = {1: [_Columns(0, 1, 2, 3)], 2: [_Columns(0, 5, 6, 7), _Columns(4, 1, 2, 3)]}

#: How many of these blocks are the start's.
_AT_START = {1: 1, 2: 4}

#: Shares of a P-mode edge are ratios of positive weights; the floor keeps them defined.
_WEIGHT_FLOOR = 1e-6


class STMGates(nn.Module):
    r"""Gates of one or both directions of a DAG.

    With node features x, bond features b and logistic function σ, for an edge e from n to m that is
    entered by e' and for every head:

    .. math::
        S_e = \sigma(W_S [x_n, b_e]) \qquad M_e = \sigma(W_M [x_m, b_e]) \qquad D_n = W_D x_n + 1

        \text{P: } T_{e'e} = \sigma(a_{e'}) \frac{w_e}{\sum_{(e',f)} w_f} \qquad
        \text{D: } T_{e'e} = \sigma(a_{e'} + c_e)

    with :math:`a_{e'} = W_A [x_n, b_{e'}]`, :math:`c_e = W_C [x_m, b_e]` and :math:`w_e = \sigma(c_e)`.
    In P-mode the transitions out of an edge sum to σ(a) ≤ 1, in D-mode each is below 1. With both, the first
    half of the heads is in P-mode, and the others' transitions are 0 on the lines outside the multitree. No
    tensor is wider than the heads along lines: a linear map of [b_{e'}, x_n, b_e, x_m] is a sum of maps of
    its parts.

    Args:
        in_channels: width of x, -1 to take it from the first call.
        heads: H.
        mode: ``"P"``, ``"D"`` or ``"PD"``.
        bidirectional: gates for the reversed DAG too.
        edge_dim: width of b, ``None`` for none.

    Source: arXiv 2506.11997, Section 3 and Equation 9.
    """

    def __init__(
        self, in_channels: int, heads: int, mode: HeadMode, bidirectional: bool, edge_dim: int | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.mode = mode
        self.directions = 2 if bidirectional else 1
        blocks = len(_Columns._fields) * self.directions
        # The offsets stand apart from the map, since they have values of their own to start from, which a
        # width that is inferred later must not overwrite. The last are the direct gate's.
        self.lin_node = Linear(in_channels, (blocks + 1) * heads, bias=False)
        self.offset = nn.Parameter(torch.empty(blocks + 1, heads))
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, blocks * heads, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with open transitions, so that gradients cross a thousand bonds (in the first head)."""
        self.lin_node.reset_parameters()
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()
        with torch.no_grad():
            self.offset.zero_()
            kinds = len(self.mode)  # P and D heads each get the full range of decay rates
            reach = torch.linspace(_LONGEST, _SHORTEST, self.heads // kinds).repeat(kinds)
            for columns in _COLUMNS[self.directions]:
                self.offset[columns.keep] = reach
            self.offset[-1] = 1

    def forward(self, x: Tensor, edge_attr: Tensor | None, dag: LineGraphDAG) -> tuple[list[Gates], Tensor]:
        """Source [E,H], transition [L,H] and mark [E,H] per direction, and direct [N,H], in the dag's order.

        Args:
            x: [N, in_channels].
            edge_attr: [C, edge_dim] for the columns of edge_index.
            dag: its ``edge_id`` are columns of edge_index.
        """
        # In half precision a gate that keeps 0.9997 would keep all, and a closed one have no share.
        logits = in_float32(self.lin_node(x) + self.offset.flatten())
        blocks = _AT_START[self.directions], 4 * self.directions - _AT_START[self.directions], 1
        at_src, at_dst, direct = logits.split([count * self.heads for count in blocks], dim=1)
        edges = torch.cat([at_src.index_select(0, dag.src), at_dst.index_select(0, dag.dst)], dim=1)
        if edge_attr is not None:
            edges = edges + edge_logits(self.lin_edge, edge_attr).index_select(0, dag.edge_id)
        logit = edges.unflatten(1, (-1, self.heads)).unbind(1)  # [E, H] each
        gate = edges.sigmoid().unflatten(1, (-1, self.heads)).unbind(1)
        gates = []
        lines = (dag.pred, dag.succ), (dag.succ, dag.pred)
        for columns, (before, after) in zip(_COLUMNS[self.directions], lines, strict=False):
            keep, share = columns.keep, columns.share
            if self.mode == "P":
                transition = _shares(gate[keep], gate[share], before, after)
            elif self.mode == "D":
                transition = _products(logit[keep], logit[share], before, after)
            else:
                half = self.heads // 2
                of_p = _shares(gate[keep][:, :half], gate[share][:, :half], before, after)
                of_d = _products(logit[keep][:, half:], logit[share][:, half:], before, after)
                of_d = torch.where(dag.multitree.unsqueeze(1), of_d, 0)
                transition = torch.cat([of_p, of_d], dim=1)
            gates.append(Gates(gate[columns.source], transition, gate[columns.mark]))
        return gates, direct


def in_float32(x: Tensor) -> Tensor:
    """Convert to float32, if it is not that or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def edge_logits(lin_edge: Linear | None, edge_attr: Tensor) -> Tensor:
    """Map bond features to logits, by column of edge_index: [C, out_channels] of the map.

    Raises:
        InputError: There is no map, or it is for features of another width.
    """
    if lin_edge is None:
        raise InputError(
            "edge_attr was given, but the layer was built without edge_dim; pass edge_dim to it."
        )
    edge_attr = edge_attr.unsqueeze(-1) if edge_attr.dim() == 1 else edge_attr
    wanted = lin_edge.in_channels
    if edge_attr.dim() != 2 or wanted not in (-1, edge_attr.size(1)):
        raise InputError(f"edge_attr needs the shape [num_edges, {wanted}], not {list(edge_attr.shape)}.")
    return lin_edge(edge_attr)


def _products(keep: Tensor, share: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """D-mode transitions [L, H] from the logits [E, H] of the edges that lines leave and enter."""
    return (keep.index_select(0, before) + share.index_select(0, after)).sigmoid()


def _shares(keep: Tensor, share: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """P-mode transitions [L, H]: what edges keep [E, H], split by the weights [E, H] of their successors."""
    weight = share + _WEIGHT_FLOOR
    weights = weight.index_select(0, after)
    total = torch.zeros_like(weight).index_add(0, before, weights)
    return weights * (keep / total.clamp(min=_WEIGHT_FLOOR)).index_select(0, before)
