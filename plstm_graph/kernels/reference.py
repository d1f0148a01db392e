"""The recurrence as the paper writes it, by level, in plain differentiable torch: the oracle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.segments import segment_sum


def cell_states(key: Tensor, value: Tensor, source: Tensor, transition: Tensor, dag: LineGraph) -> Tensor:
    r"""States of all edges, level by level.

    .. math:: C_e = S_e \, k_{src(e)} v_{src(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'}

    Args:
        key, value: [N, H, K], [N, H, V].
        source, transition: [E, H], [L, H].
        dag: edges and lines in the order of the gates.

    Returns:
        [E, H, K, V].

    Complexity: O((E + L) H K V) time, O(E H K V) memory. Source: arXiv 2506.11997, Section 3.
    """
    outer = key.unsqueeze(-1) * value.unsqueeze(-2)  # [N, H, K, V]
    states = source[..., None, None] * outer[dag.src]  # [E, H, K, V]
    # Levels add to the states in place, which need the tangents and the batch that transitions have.
    states = states + transition.new_zeros(())
    num_preds = dag.pred_ptr.diff()
    # Not num_levels: what transforms of torch.func make must not stay with the DAG when they are over.
    in_order = torch.argsort(dag.level, stable=True)
    for edges in in_order.split(torch.bincount(dag.level).tolist())[1:]:
        ptr = torch.cat([dag.pred_ptr[:1], num_preds[edges].cumsum(0)])
        # Lines of edge i of the level: pred_ptr[edge] onwards.
        lines = torch.repeat_interleave(dag.pred_ptr[edges] - ptr[:-1], ptr.diff())
        lines = lines + torch.arange(lines.size(0), device=lines.device)
        arriving = transition[lines][..., None, None] * states[dag.pred[lines]]
        states.index_put_((edges,), segment_sum(arriving, ptr), accumulate=True)
    return states


def marked_sums(query: Tensor, states: Tensor, mark: Tensor, dag: LineGraph) -> Tensor:
    r"""Sum the marked states of the edges that end at a node: [N, H, V].

    .. math:: \sum_{e: dst(e) = n} M_e \, q_n^T C_e
    """
    marked = mark.unsqueeze(-1) * torch.einsum("ehk,ehkv->ehv", query[dag.dst], states)
    order = torch.argsort(dag.dst, stable=True)
    ptr = torch.searchsorted(dag.dst[order], torch.arange(dag.num_nodes + 1, device=dag.device))
    return segment_sum(marked[order], ptr)


def stm_reference(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    r"""Output of one or both directions, the second on the reversed DAG.

    .. math:: h_n = \sum_{e: dst(e) = n} M_e \, q_n^T C_e + D_n (q_n \cdot k_n) v_n

    Args:
        nodes: query, key [N, H, K], value [N, H, V], direct [N, H].
        gates: source [W, E, H], transition [W, L, H], mark [W, E, H].
        dag: edges and lines in the order of the gates.

    Complexity: see :func:`cell_states`.
    """
    query, key, value, direct = nodes
    output = (direct * (query * key).sum(-1)).unsqueeze(-1) * value
    for direction, (source, transition, mark) in enumerate(zip(*gates, strict=True)):
        if direction == 1:
            dag, lines = _turned(dag)
            transition = transition[lines]
        states = cell_states(key, value, source, transition, dag)
        output = output + marked_sums(query, states, mark, dag)
    return output


def _turned(dag: LineGraph) -> tuple[LineGraph, Tensor]:
    """The DAG with every edge turned round, by level; and which line every line of it was.

    Edges keep their numbers: a scan by level needs no other order than that levels go from last to first.
    Unlike :meth:`~plstm_graph.dag.LineGraphDAG.reverse`, it has no part that transforms of :mod:`torch.func`
    do not take.
    """
    lines = torch.argsort(dag.pred, stable=True)
    pred = dag.pred[lines]
    turned = LineGraph(
        num_nodes=dag.num_nodes,
        src=dag.dst,
        dst=dag.src,
        pred_ptr=torch.searchsorted(pred, torch.arange(dag.num_edges + 1, device=dag.device)),
        pred=dag.succ[lines],
        succ=pred,
        level=torch.bincount(dag.level).size(0) - 1 - dag.level,
        node_ptr=dag.node_ptr,
        edge_ptr=dag.edge_ptr,
    )
    return turned, lines
