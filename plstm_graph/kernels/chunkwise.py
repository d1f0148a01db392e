r"""The chunkwise form in plain torch: the gating form inside chunks of edges, states between them.

The edges of every block stand in topological order and are cut into chunks. With R = (I - T)^{-1} of the
lines inside a chunk, a state in it is a sum over what starts in the chunk and over the states of earlier
edges, the borders, that its lines continue:

.. math::
    C_e = \sum_{f} R_{ef} \, S_f \, k_{src(f)} v_{src(f)}^T + \sum_{b} (R \, T_{in})_{eb} \, C_b

Only the states of borders are ever made; the rest of a chunk is one attention-like pass. The backward pass
makes the borders anew and goes back chunk by chunk, so that memory grows with the borders alone.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels.cost import CHUNK


class _Chunk(NamedTuple):
    """What one chunk of c edges reads and writes; positions without a name are within the chunk."""

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
    """One way through the DAG."""

    chunks: list[_Chunk]
    num_borders: int


def _plan(dag: LineGraphDAG, way: int) -> _Plan:
    """Cut the edges into chunks; the second way goes through the reversed DAG, from the last edge on.

    No chunk has edges of two blocks: in dense products, NaN of one graph would reach all others.
    """
    src, dst, pred, succ = (x.cpu().numpy() for x in (dag.src, dag.dst, dag.pred, dag.succ))
    edge_ptr = dag.edge_ptr.cpu().numpy()
    edges, lines = np.arange(len(src)), np.arange(len(pred))
    if way == 1:
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
    """What :func:`_cross` takes."""
    source, transition, mark = gates
    return (
        *(x[chunk.nodes] for x in nodes),
        source[chunk.edges],
        transition[chunk.inner_lines],
        transition[chunk.entering_lines],
        mark[chunk.edges],
        states[chunk.entering],
    )


def _cross(
    chunk: _Chunk,
    query: Tensor, key: Tensor, value: Tensor,
    source: Tensor, inner: Tensor, entering: Tensor, mark: Tensor, states: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the chunk adds to its nodes [n, H, V], and the states of its borders [k, H, K, V]."""
    heads, edges, nodes = source.size(1), source.size(0), query.size(0)
    matrix = torch.eye(edges, dtype=source.dtype, device=source.device).repeat(heads, 1, 1)
    matrix = matrix.index_put((_all(heads, matrix), chunk.inner_succ, chunk.inner_pred), -inner.mT)
    given = source.new_zeros(heads, edges, nodes + states.size(0))
    places = (_all(heads, given), torch.arange(edges, device=source.device), chunk.start)
    given = given.index_put(places, source.mT)
    places = (_all(heads, given), chunk.entering_succ, nodes + chunk.entering_pred)
    given = given.index_put(places, entering.mT)
    rows = torch.linalg.solve_triangular(matrix, given, upper=False, unitriangular=True)  # [H, c, n + p]
    gating = torch.zeros_like(rows[:, :1]).expand(-1, nodes, -1)
    gating = gating.index_add(1, chunk.end, mark.mT.unsqueeze(-1) * rows)
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [H, n, K or V]
    arrived = (gating[:, :, :nodes] * (query @ key.mT)) @ value
    before = states.transpose(0, 1).flatten(2)  # [H, p, K V]
    shape = (heads, -1, key.size(2), value.size(2))
    arrived = arrived + torch.einsum("hnk,hnkv->hnv", query, (gating[:, :, nodes:] @ before).view(shape))
    outer = (key.unsqueeze(-1) * value.unsqueeze(-2)).flatten(2)  # [H, n, K V]
    kept = rows[:, chunk.kept]
    left = (kept[:, :, :nodes] @ outer + kept[:, :, nodes:] @ before).view(shape)
    return arrived.transpose(0, 1), left.transpose(0, 1)


def _all(heads: int, like: Tensor) -> Tensor:
    """Index of all heads before two others of one length."""
    return torch.arange(heads, device=like.device).unsqueeze(1)


class _Chunkwise(torch.autograd.Function):
    """The scan of (query, key, value) and (source, transition, mark) of W ways, without the direct part."""

    @staticmethod
    def forward(dag: LineGraphDAG, *inputs: Tensor) -> Tensor:
        output = torch.zeros_like(inputs[2])
        for way, gates in enumerate(zip(*inputs[3:], strict=True)):
            plan = _plan(dag, way)
            states = _no_states(plan, inputs)
            for chunk in plan.chunks:
                arrived, states[chunk.borders] = _cross(chunk, *_read(chunk, inputs[:3], gates, states))
                output.index_add_(0, chunk.nodes, arrived)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dag = inputs[0]
        ctx.save_for_backward(*inputs[1:])  # the inputs only: everything else is computed anew

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in inputs]
        for way, gates in enumerate(zip(*inputs[3:], strict=True)):
            plan = _plan(ctx.dag, way)
            states = _no_states(plan, inputs)
            for chunk in plan.chunks:
                _, states[chunk.borders] = _cross(chunk, *_read(chunk, inputs[:3], gates, states))
            _walk_back(plan, states, grad, inputs[:3], gates, grads[:3], [x[way] for x in grads[3:]])
        return None, *grads


def _no_states(plan: _Plan, inputs: Sequence[Tensor]) -> Tensor:
    """Room for the states of all borders, [B, H, K, V]."""
    return inputs[2].new_zeros(plan.num_borders, *inputs[1].shape[1:], inputs[2].size(2))


def _walk_back(
    plan: _Plan, states: Tensor, grad: Tensor,
    nodes: Sequence[Tensor], gates: Sequence[Tensor],
    node_grads: Sequence[Tensor], gate_grads: Sequence[Tensor],
) -> None:  # fmt: skip
    """Add one way's gradients, from the last chunk to the first."""
    grad_states = torch.zeros_like(states)
    grad_source, grad_transition, grad_mark = gate_grads
    for chunk in reversed(plan.chunks):
        read = [x.detach().requires_grad_() for x in _read(chunk, nodes, gates, states)]
        with torch.enable_grad():
            written = _cross(chunk, *read)
        found = torch.autograd.grad(written, read, (grad[chunk.nodes], grad_states[chunk.borders]))
        for total, part in zip(node_grads, found[:3], strict=True):
            total.index_add_(0, chunk.nodes, part)
        grad_source[chunk.edges] = found[3]
        grad_transition[chunk.inner_lines] = found[4]
        grad_transition[chunk.entering_lines] = found[5]
        grad_mark[chunk.edges] = found[6]
        grad_states.index_add_(0, chunk.entering, found[7])


def stm_chunkwise(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraphDAG) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) [W, …, H] of W ways.

    Complexity: O(E H (c + p) (c + K + V) + B H K V) time and O(B H K V) memory beside inputs and output, for
    chunks of c edges that p borders enter, and B borders in all. Source: arXiv 2506.11997, Appendix A.
    """
    query, key, value, direct = nodes
    own = (direct * (query * key).sum(-1)).unsqueeze(-1) * value
    return own + _Chunkwise.apply(dag, query, key, value, *gates)
