r"""The chunkwise form in plain torch: the gating form inside chunks of edges, states between them.

The edges of every block stand in topological order and are cut into chunks. With R = (I - T)^{-1} of the
lines inside a chunk, a state in it is a sum over what starts in the chunk and over the states of earlier
edges, the borders, that its lines continue:

.. math::
    C_e = \sum_{f} R_{ef} \, S_f \, k_{src(f)} v_{src(f)}^T + \sum_{b} (R \, T_{in})_{eb} \, C_b

Only the states of borders are ever made; the rest of a chunk is one attention-like pass. The backward pass
recomputes the borders and goes back chunk by chunk, so that memory grows with the borders alone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.cost import CHUNK


class _Chunk(NamedTuple):
    """Indices that one chunk of c edges reads and writes; those without a name are within the chunk."""

    edges: Tensor  # [c] of the DAG
    nodes: Tensor  # [n] of the DAG that the edges touch
    start: Tensor  # [c] among these
    end: Tensor
    inner_lines: Tensor  # of the DAG, from edge inner_pred to inner_succ
    inner_pred: Tensor
    inner_succ: Tensor
    entering_lines: Tensor  # of the DAG, from border entering_pred to entering_succ
    entering_pred: Tensor
    entering_succ: Tensor
    entering: Tensor  # [p] borders that lines enter from
    kept: Tensor  # [k] edges whose states later chunks continue
    borders: Tensor  # [k] their numbers


class _Plan(NamedTuple):
    """One direction through the DAG."""

    chunks: list[_Chunk]
    num_borders: int


def _plan(dag: LineGraph, direction: int) -> _Plan:
    """Cut the edges into chunks; the second direction goes through the reversed DAG, from the last edge on.

    No chunk has edges of two blocks: in dense products, NaN of one graph would reach all others.
    """
    src, dst, pred, succ = (x.cpu().numpy() for x in (dag.src, dag.dst, dag.pred, dag.succ))
    edge_ptr = dag.edge_ptr.cpu().numpy()
    edges, lines = np.arange(len(src)), np.arange(len(pred))
    if direction == 1:
        edges, src, dst = edges[::-1], dst[::-1], src[::-1]
        pred, succ = len(src) - 1 - succ, len(src) - 1 - pred
        edge_ptr = (len(src) - edge_ptr)[::-1]
    order = np.argsort(succ, kind="stable")
    pred, succ, lines = pred[order], succ[order], lines[order]
    starts = [np.arange(first, last, CHUNK) for first, last in itertools.pairwise(edge_ptr)]
    cuts = np.concatenate([*starts, edge_ptr[-1:]])
    crossing = np.searchsorted(cuts, pred, "right") != np.searchsorted(cuts, succ, "right")
    borders = np.unique(pred[crossing])
    chunks = []
    for first, last in itertools.pairwise(cuts.tolist()):
        among = slice(*np.searchsorted(succ, (first, last)))
        inner = ~crossing[among]
        entering, column = np.unique(pred[among][~inner], return_inverse=True)
        of_chunk = slice(*np.searchsorted(borders, (first, last)))
        nodes, local = np.unique(np.concatenate([src[first:last], dst[first:last]]), return_inverse=True)
        parts = (
            edges[first:last],
            nodes,
            local[: last - first],
            local[last - first :],
            lines[among][inner],
            pred[among][inner] - first,
            succ[among][inner] - first,
            lines[among][~inner],
            column,
            succ[among][~inner] - first,
            np.searchsorted(borders, entering),
            borders[of_chunk] - first,
            np.arange(len(borders))[of_chunk],
        )
        chunks.append(_Chunk(*(torch.from_numpy(part.copy()).to(dag.device) for part in parts)))
    return _Plan(chunks, len(borders))


def _read(
    chunk: _Chunk, nodes: Sequence[Tensor], gates: Sequence[Tensor], states: Tensor
) -> tuple[Tensor, ...]:
    """Arguments of :func:`_cross`."""
    source, transition, mark = gates
    return (
        *(x[chunk.nodes] for x in nodes),
        source[chunk.edges],
        transition[chunk.inner_lines],
        transition[chunk.entering_lines],
        mark[chunk.edges],
        states[chunk.entering],
    )


class _Resolved(NamedTuple):
    """A chunk's (I - T)^{-1}, applied to what starts at its n nodes and what enters from its p borders."""

    matrix: Tensor  # [H, c, c], I - T
    rows: Tensor  # [H, c, n + p], states of edges by where they come from
    gating: Tensor  # [H, n, n + p], what nodes read


def _resolve(
    chunk: _Chunk, nodes: int, source: Tensor, inner: Tensor, entering: Tensor, mark: Tensor
) -> _Resolved:
    """Solve for the states of a chunk's edges."""
    edges, heads = source.shape
    matrix = torch.eye(edges, dtype=source.dtype, device=source.device).repeat(heads, 1, 1)
    matrix[:, chunk.inner_succ, chunk.inner_pred] = -inner.mT
    given = source.new_zeros(heads, edges, nodes + chunk.entering.size(0))
    given[:, torch.arange(edges, device=source.device), chunk.start] = source.mT
    given[:, chunk.entering_succ, nodes + chunk.entering_pred] = entering.mT
    rows = torch.linalg.solve_triangular(matrix, given, upper=False, unitriangular=True)
    gating = rows.new_zeros(heads, nodes, rows.size(2))
    gating.index_add_(1, chunk.end, mark.mT.unsqueeze(-1) * rows)
    return _Resolved(matrix, rows, gating)


def _cross(
    chunk: _Chunk,
    query: Tensor, key: Tensor, value: Tensor,
    source: Tensor, inner: Tensor, entering: Tensor, mark: Tensor, states: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what the chunk adds to its nodes [n, H, V], and the states of its borders [k, H, K, V]."""
    nodes = query.size(0)
    _, rows, gating = _resolve(chunk, nodes, source, inner, entering, mark)
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [H, n, K or V]
    arrived = (gating[:, :, :nodes] * (query @ key.mT)) @ value
    before = states.transpose(0, 1).flatten(2)  # [H, p, K V]
    shape = key.size(2), value.size(2)
    read = (gating[:, :, nodes:] @ before).unflatten(2, shape)
    arrived = arrived + torch.einsum("hnk,hnkv->hnv", query, read)
    kept = rows[:, chunk.kept]
    left = kept[:, :, :nodes] @ _outer(key, value) + kept[:, :, nodes:] @ before
    return arrived.transpose(0, 1), left.unflatten(2, shape).transpose(0, 1)


def _cross_backward(
    chunk: _Chunk, grad: Tensor, grad_left: Tensor,
    query: Tensor, key: Tensor, value: Tensor,
    source: Tensor, inner: Tensor, entering: Tensor, mark: Tensor, states: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of what :func:`_cross` takes, for those of what it returns."""
    nodes = query.size(0)
    matrix, rows, gating = _resolve(chunk, nodes, source, inner, entering, mark)
    query, key, value, grad = (x.transpose(0, 1) for x in (query, key, value, grad))  # [H, n, K or V]
    before, grad_left = (x.transpose(0, 1).flatten(2) for x in (states, grad_left))  # [H, p or k, K V]
    shape = key.size(2), value.size(2)
    # What nodes read of each other, and of the borders.
    within, across = gating[:, :, :nodes], gating[:, :, nodes:]
    scores, grad_weights = query @ key.mT, grad @ value.mT
    grad_scores, grad_read = within * grad_weights, _outer(query, grad)
    read = (across @ before).unflatten(2, shape)
    grad_query = grad_scores @ key + torch.einsum("hnv,hnkv->hnk", grad, read)
    grad_gating = torch.cat([scores * grad_weights, grad_read @ before.mT], dim=2)
    # What is left at the borders.
    kept = rows[:, chunk.kept]
    grad_outer = (kept[:, :, :nodes].mT @ grad_left).unflatten(2, shape)
    grad_key = grad_scores.mT @ query + torch.einsum("hnkv,hnv->hnk", grad_outer, value)
    grad_value = (within * scores).mT @ grad + torch.einsum("hnkv,hnk->hnv", grad_outer, key)
    grad_before = across.mT @ grad_read + kept[:, :, nodes:].mT @ grad_left
    # Through the solve.
    at_end = grad_gating[:, chunk.end]  # [H, c, n + p]
    grad_rows = mark.mT.unsqueeze(-1) * at_end
    grad_rows[:, chunk.kept] += torch.cat([grad_left @ _outer(key, value).mT, grad_left @ before.mT], dim=2)
    grad_given = torch.linalg.solve_triangular(matrix.mT, grad_rows, upper=True, unitriangular=True)
    edges = torch.arange(source.size(0), device=source.device)
    return (
        *(x.transpose(0, 1) for x in (grad_query, grad_key, grad_value)),
        grad_given[:, edges, chunk.start].mT,
        (grad_given @ rows.mT)[:, chunk.inner_succ, chunk.inner_pred].mT,
        grad_given[:, chunk.entering_succ, nodes + chunk.entering_pred].mT,
        (at_end * rows).sum(-1).mT,
        grad_before.unflatten(2, shape).transpose(0, 1),
    )


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Outer products of [H, n, K] and [H, n, V] as rows [H, n, K V]."""
    return (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(2)


def chunkwise_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions.

    Complexity: O(E H (c + p) (c + K + V) + B H K V) time and O(B H K V) memory beside inputs and output, for
    chunks of c edges that p borders enter, and B borders in all. Source: arXiv 2506.11997, Appendix A.
    """
    query, key, value, direct = nodes
    output = (direct * (query * key).sum(-1)).unsqueeze(-1) * value
    for direction, one_direction in enumerate(zip(*gates, strict=True)):
        plan = _plan(dag, direction)
        states = _no_states(plan, nodes)
        for chunk in plan.chunks:
            arrived, states[chunk.borders] = _cross(chunk, *_read(chunk, nodes[:3], one_direction, states))
            output.index_add_(0, chunk.nodes, arrived)
    return output


def chunkwise_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`chunkwise_forward`) for the gradient of the output."""
    query, key, value, direct = nodes
    scores, grad_weights = (query * key).sum(-1), (grad * value).sum(-1)  # of nodes with themselves
    grad_scores = (direct * grad_weights).unsqueeze(-1)
    grad_value = (direct * scores).unsqueeze(-1) * grad
    node_grads = [grad_scores * key, grad_scores * query, grad_value, scores * grad_weights]
    gate_grads = [torch.zeros_like(x) for x in gates]
    for direction, one_direction in enumerate(zip(*gates, strict=True)):
        plan = _plan(dag, direction)
        states = _no_states(plan, nodes)
        for chunk in plan.chunks:
            _, states[chunk.borders] = _cross(chunk, *_read(chunk, nodes[:3], one_direction, states))
        _walk_back(
            plan, states, grad, nodes[:3], one_direction, node_grads[:3], [x[direction] for x in gate_grads]
        )
    return [*node_grads, *gate_grads]


def _no_states(plan: _Plan, nodes: Sequence[Tensor]) -> Tensor:
    """Room for the states of all borders, [B, H, K, V]."""
    return nodes[2].new_zeros(plan.num_borders, *nodes[1].shape[1:], nodes[2].size(2))


def _walk_back(
    plan: _Plan, states: Tensor, grad: Tensor,
    nodes: Sequence[Tensor], gates: Sequence[Tensor],
    node_grads: Sequence[Tensor], gate_grads: Sequence[Tensor],
) -> None:  # fmt: skip
    """Add one direction's gradients, from the last chunk to the first."""
    grad_states = torch.zeros_like(states)
    grad_source, grad_transition, grad_mark = gate_grads
    for chunk in reversed(plan.chunks):
        read = _read(chunk, nodes, gates, states)
        found = _cross_backward(chunk, grad[chunk.nodes], grad_states[chunk.borders], *read)
        for total, part in zip(node_grads, found[:3], strict=True):
            total.index_add_(0, chunk.nodes, part)
        grad_source[chunk.edges] = found[3]
        grad_transition[chunk.inner_lines] = found[4]
        grad_transition[chunk.entering_lines] = found[5]
        grad_mark[chunk.edges] = found[6]
        grad_states.index_add_(0, chunk.entering, found[7])
