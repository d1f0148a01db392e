r"""The gating form in plain torch: resolve the recurrence by log-depth products, then attend once.

.. math:: G = M_{inc} (I - T)^{-1} S_{inc} + \mathrm{diag}(D), \qquad H = (G \circ Q K^T) V

Blocks of like size are padded to one batch of dense matrices, so it runs on any device torch has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph


@dataclass(frozen=True)
class _Bucket:
    """Blocks of like size, padded: which nodes, edges and lines fall where in [b, n] and [b, e] layouts."""

    blocks: int
    size: int
    nodes: Tensor  # global
    edges: Tensor
    lines: Tensor
    node_slot: Tensor  # position in [blocks * size]
    edge_slot: Tensor
    src_slot: Tensor  # per edge: node slot within its block
    dst_slot: Tensor
    pred_slot: Tensor  # per line: edge slots within its block
    succ_slot: Tensor
    line_block: Tensor


def _buckets(dag: LineGraph) -> Iterator[_Bucket]:
    """Group blocks by the next power of two of max(nodes, edges), at least 8."""
    node_count, edge_count = dag.node_ptr.diff(), dag.edge_ptr.diff()
    extent = torch.maximum(node_count, edge_count).clamp(min=8)
    power = torch.ceil(torch.log2(extent.double())).long()
    node_block = torch.repeat_interleave(node_count, output_size=dag.num_nodes)
    edge_block = torch.repeat_interleave(edge_count, output_size=dag.num_edges)
    node_local = torch.arange(dag.num_nodes, device=dag.device) - dag.node_ptr[node_block]
    edge_local = torch.arange(dag.num_edges, device=dag.device) - dag.edge_ptr[edge_block]
    for p in torch.unique(power).tolist():
        chosen = power == p
        number = chosen.cumsum(0) - 1  # of a block within its bucket
        size = 2**p
        nodes = chosen[node_block].nonzero().squeeze(1)
        edges = chosen[edge_block].nonzero().squeeze(1)
        lines = chosen[edge_block[dag.succ]].nonzero().squeeze(1)
        yield _Bucket(
            blocks=int(chosen.sum()),
            size=size,
            nodes=nodes,
            edges=edges,
            lines=lines,
            node_slot=number[node_block[nodes]] * size + node_local[nodes],
            edge_slot=number[edge_block[edges]] * size + edge_local[edges],
            src_slot=node_local[dag.src[edges]],
            dst_slot=node_local[dag.dst[edges]],
            pred_slot=edge_local[dag.pred[lines]],
            succ_slot=edge_local[dag.succ[lines]],
            line_block=number[edge_block[dag.succ[lines]]],
        )


def _pad(rows: Tensor, slots: Tensor, bucket: _Bucket) -> Tensor:
    """Rows [m, H, …] into a zero-padded [b, H, size, …]."""
    padded = rows.new_zeros(bucket.blocks * bucket.size, *rows.shape[1:])
    padded[slots] = rows
    return padded.unflatten(0, (bucket.blocks, bucket.size)).transpose(1, 2)


def _unpad(padded: Tensor, slots: Tensor) -> Tensor:
    """Rows [m, H, …] out of [b, H, size, …]."""
    return padded.transpose(1, 2).flatten(0, 1)[slots]


def _transition_matrix(transition: Tensor, bucket: _Bucket) -> Tensor:
    """T as the adjacency of the line graph: [b, H, successor, predecessor]."""
    matrix = transition.new_zeros(bucket.blocks, transition.size(1), bucket.size, bucket.size)
    matrix[bucket.line_block, :, bucket.succ_slot, bucket.pred_slot] = transition[bucket.lines]
    return matrix


def _resolvent(matrix: Tensor, num_levels: int) -> Tensor:
    """(I - T)^{-1} = (I + T)(I + T²)(I + T⁴)… for a nilpotent T: log2(depth) products."""
    total = matrix + torch.eye(matrix.size(-1), dtype=matrix.dtype, device=matrix.device)
    reach = 2
    while reach < num_levels:
        matrix = matrix @ matrix
        total = total + total @ matrix
        reach *= 2
    return total


@dataclass(frozen=True)
class _Direction:
    """Gates and resolvent of one direction of the DAGs of a bucket; ``end`` is where its edges arrive."""

    source: Tensor  # [b, H, e]
    mark: Tensor
    resolvent: Tensor  # [b, H, e, e]
    start_inc: Tensor  # [b, 1, e, n], one at the node where an edge begins
    end_inc: Tensor

    def gating(self) -> Tensor:
        """M_inc (I - T)^{-1} S_inc: [b, H, n, n]."""
        return self.marked().mT @ self.resolvent @ self.sourced()

    def sourced(self) -> Tensor:
        return self.source.unsqueeze(-1) * self.start_inc

    def marked(self) -> Tensor:
        return self.mark.unsqueeze(-1) * self.end_inc

    def gradients(self, grad_gating: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of source [b,H,e], transition matrix [b,H,e,e] and mark [b,H,e]."""
        arrived = self.resolvent @ self.sourced()  # [b, H, e, n]
        at_end = self.end_inc @ grad_gating  # [b, H, e, n]
        grad_mark = (at_end * arrived).sum(-1)
        adjoint = self.resolvent.mT @ (self.mark.unsqueeze(-1) * at_end)
        grad_source = (adjoint * self.start_inc).sum(-1)
        return grad_source, adjoint @ arrived.mT, grad_mark


def _directions(gates: Sequence[Tensor], bucket: _Bucket, num_levels: int) -> list[_Direction]:
    """The DAG's own direction and, if its gates are given, that of the reversed one."""
    columns = torch.arange(bucket.size, device=bucket.edges.device)
    one = gates[0].new_ones(len(bucket.edges), 1, 1)
    at_src = _pad(one * (bucket.src_slot[:, None, None] == columns), bucket.edge_slot, bucket)
    at_dst = _pad(one * (bucket.dst_slot[:, None, None] == columns), bucket.edge_slot, bucket)
    directions = []
    for direction, (source, transition, mark) in enumerate(zip(*gates, strict=True)):
        matrix = _transition_matrix(transition, bucket)
        directions.append(
            _Direction(
                source=_pad(source[bucket.edges], bucket.edge_slot, bucket),
                mark=_pad(mark[bucket.edges], bucket.edge_slot, bucket),
                resolvent=_resolvent(matrix.mT if direction == 1 else matrix, num_levels),
                start_inc=at_dst if direction == 1 else at_src,
                end_inc=at_src if direction == 1 else at_dst,
            )
        )
    return directions


def gating_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions.

    Complexity: O(B s³ H log depth) time for B blocks padded to s edges.
    """
    output = torch.zeros_like(nodes[2])
    for bucket in _buckets(dag):
        q, k, v, direct = (_pad(x[bucket.nodes], bucket.node_slot, bucket) for x in nodes)
        gating = torch.diag_embed(direct)
        for direction in _directions(gates, bucket, dag.num_levels):
            gating = gating + direction.gating()
        output[bucket.nodes] = _unpad((gating * (q @ k.mT)) @ v, bucket.node_slot)
    return output


def gating_entries(direct: Tensor, gates: Sequence[Tensor], dag: LineGraph) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of the gating matrix where it is not zero: receiver [P], sender [P], values [P, W, H].

    Every node has an entry of its own, whose first direction holds the direct gate.
    """
    receivers, senders, entries = [], [], []
    for bucket in _buckets(dag):
        directions = torch.stack(
            [direction.gating() for direction in _directions(gates, bucket, dag.num_levels)], dim=1
        )
        own = torch.diag_embed(_pad(direct[bucket.nodes], bucket.node_slot, bucket))
        directions = torch.cat(
            [directions[:, :1] + own.unsqueeze(1), directions[:, 1:]], dim=1
        )  # [b, W, H, n, n]
        node = bucket.nodes.new_full((bucket.blocks * bucket.size,), -1)
        node[bucket.node_slot] = bucket.nodes
        node = node.view(bucket.blocks, bucket.size)
        joined = directions.detach().ne(0).flatten(1, 2).any(1) | torch.diag_embed(node >= 0)
        block, row, column = joined.nonzero(as_tuple=True)
        receivers.append(node[block, row])
        senders.append(node[block, column])
        entries.append(directions[block, :, :, row, column])
    if not entries:  # no node at all
        none = dag.src.new_empty(0)
        return none, none, direct.new_empty(0, len(gates[0]), direct.size(1))
    receiver, sender = torch.cat(receivers), torch.cat(senders)
    order = (receiver * dag.num_nodes + sender).argsort()
    return receiver[order], sender[order], torch.cat(entries)[order]


def gating_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`gating_forward`) for the gradient of the output.

    The gating matrix is recomputed; the gradient of R = (I - T)^{-1} is R^T · dR · R^T.
    """
    grads = [torch.zeros_like(x) for x in (*nodes, *gates)]
    grad_source, grad_transition, grad_mark = grads[4:]
    for bucket in _buckets(dag):
        q, k, v, direct, g = (_pad(x[bucket.nodes], bucket.node_slot, bucket) for x in (*nodes, grad))
        directions = _directions(gates, bucket, dag.num_levels)
        gating = torch.diag_embed(direct)
        for direction in directions:
            gating = gating + direction.gating()
        scores, grad_weights = q @ k.mT, g @ v.mT
        grad_scores, grad_gating = gating * grad_weights, scores * grad_weights
        dense = (grad_scores @ k, grad_scores.mT @ q, (gating * scores).mT @ g)
        for total, part in zip(grads, (*dense, grad_gating.diagonal(dim1=-2, dim2=-1)), strict=False):
            total[bucket.nodes] = _unpad(part, bucket.node_slot)
        for i, direction in enumerate(directions):
            at_source, matrix, at_mark = direction.gradients(grad_gating)
            matrix = matrix.mT if i == 1 else matrix
            grad_source[i, bucket.edges] = _unpad(at_source, bucket.edge_slot)
            grad_transition[i, bucket.lines] = matrix[
                bucket.line_block, :, bucket.succ_slot, bucket.pred_slot
            ]
            grad_mark[i, bucket.edges] = _unpad(at_mark, bucket.edge_slot)
    return grads
