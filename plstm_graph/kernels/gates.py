"""Gates from logits of nodes and edges: what the fused kernels compute too, differentiable in every way."""

from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels.cpu.gates import WEIGHT_FLOOR
from plstm_graph.kernels.layout import HeadLayout


class Gates(NamedTuple):
    """The gates of one direction of a DAG, in the order of its edges and lines."""

    source: Tensor  #: [E, H], or [E, H, J] of states with J components
    transition: Tensor  #: [L, H], or [L, H, J, J]
    mark: Tensor  #: as source


def gates_of(
    logits: Tensor, edge_logits: Tensor | None, dag: LineGraphDAG, layout: HeadLayout
) -> list[Gates]:
    r"""Gates of every direction of a DAG, stable by construction.

    With the logistic function σ and logits that are sums of a node's and a bond's, for an edge e from i to j
    that is entered by e' and for every head:

    .. math::
        S_e = \sigma(s_i + s_e) \qquad M_e = \sigma(m_j + m_e) \qquad
        a_{e'} = a_i + a_{e'}^{bond} \qquad c_e = c_j + c_e^{bond}

        \text{P: } T_{e'e} = \sigma(a_{e'}) \frac{w_e}{\sum_{(e',f)} w_f}, \; w_e = \sigma(c_e) \qquad
        \text{D: } T_{e'e} = \sigma(a_{e'} + c_e)

    In P-mode the transitions out of an edge sum to σ(a) ≤ 1, in D-mode each is below 1. With both, the first
    half of the heads is in P-mode. Transitions of heads in D-mode are 0 on the lines outside the multitree.

    Args:
        logits: [N, 4·W·H] of nodes, see :class:`~plstm_graph.kernels.layout.GatePlaces`.
        edge_logits: [C, 4·W·H] for the columns of edge_index, or ``None`` for none.
        dag: its ``edge_id`` are columns of edge_index.
        layout: the heads.

    Returns:
        Source [E, H], transition [L, H] and mark [E, H] of every direction, in the order of ``dag``.

    Complexity: O((E + L) H). No tensor is wider than the heads along lines: a linear map of what surrounds a
    line is a sum of maps of its parts. Source: arXiv 2506.11997, Section 3 and Equation 9.
    """
    at_src, at_dst = logits.tensor_split([layout.start_logits], dim=1)
    edges = torch.cat([at_src.index_select(0, dag.src), at_dst.index_select(0, dag.dst)], dim=1)
    if edge_logits is not None:
        edges = edges + edge_logits.index_select(0, dag.edge_id)
    logit = edges.unflatten(1, (-1, layout.heads)).unbind(1)  # [E, H] each
    gate = edges.sigmoid().unflatten(1, (-1, layout.heads)).unbind(1)
    gates, shared = [], layout.shared_heads
    lines = (dag.pred, dag.succ), (dag.succ, dag.pred)
    for places, (before, after) in zip(layout.places, lines, strict=False):
        keep, share = places.keep, places.share
        kinds = []
        if shared > 0:
            kinds.append(_shares(gate[keep][:, :shared], gate[share][:, :shared], before, after))
        if shared < layout.heads:
            of_d = _products(logit[keep][:, shared:], logit[share][:, shared:], before, after)
            kinds.append(torch.where(dag.multitree.unsqueeze(1), of_d, 0))
        transition = kinds[0] if len(kinds) == 1 else torch.cat(kinds, dim=1)
        gates.append(Gates(gate[places.source], transition, gate[places.mark]))
    return gates


def _products(keep: Tensor, share: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """D-mode transitions [L, H] from the logits [E, H] of the edges that lines leave and enter."""
    return (keep.index_select(0, before) + share.index_select(0, after)).sigmoid()


def _shares(keep: Tensor, share: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """P-mode transitions [L, H]: what edges keep [E, H], split by the weights [E, H] of their successors."""
    weight = share + WEIGHT_FLOOR
    weights = weight.index_select(0, after)
    total = torch.zeros_like(weight).index_add(0, before, weights)
    return weights * (keep / total.clamp(min=WEIGHT_FLOOR)).index_select(0, before)
