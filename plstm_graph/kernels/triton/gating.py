r"""The gating form in Triton: one program a (block, head), rows of (I - T)^{-1} S_inc in scratch memory.

A program sweeps its block's edges in topological order, row by row: (e + l)·n operations a direction, where
log-depth products of dense matrices take about 4·e³·log2(depth). The rows are read back by the program
that wrote them, so they stay in its cache. Scores take the place of the [nodes, nodes] matrix that attention
makes, and are weighted by the gating matrix row by row. Nodes are padded to ``BLOCK``, edges are not.

All sums run in the order of the structure: no atomics, and one result whatever else is in the batch.

Throughout: ``directions`` is 1, or 2 with the reversed DAG; an edge of direction w starts at ``ends[w]``,
ends at ``ends[1 - w]``, continues the edges ``gather_edge[w]`` by the transitions ``gather_line[w]`` (CSR by
``gather_ptr[w]``), and ``arrive_edge[w]`` are the edges that end at a node (CSR by ``arrive_ptr[w]``).
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.triton.plan import LAUNCH_OPTIONS, MOST_REGISTERS, Bucket, Links

#: Sizes that differ from batch to batch: no kernel is compiled for their values.
_SIZES = ["items", "directions", "num_nodes", "num_edges", "num_lines", "capacity"]


@triton.jit
def _tile(rows, first, h, heads, width, channel, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Pointers to ``CHANNELS`` channels of nodes from ``first`` on in a tensor [N, H, width] at head h."""
    node, c = tl.arange(0, BLOCK)[:, None], tl.arange(0, CHANNELS)[None, :]
    at = rows + (first * heads + h) * width + channel  # a scalar: offsets inside the tile fit 32 bits
    return at + (node * (heads * width) + c)


@triton.jit
def _in_tile(count, width, channel, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Mask of the numbers of such a tile that are the block's."""
    node, c = tl.arange(0, BLOCK)[:, None], tl.arange(0, CHANNELS)[None, :]
    return (node < count) & (c < width - channel)


@triton.jit
def _load_row(rows, node, h, heads, width, channel, CHANNELS: tl.constexpr):
    """The same channels of one node: [CHANNELS], zeros behind."""
    c = tl.arange(0, CHANNELS)
    at = rows + (node * heads + h) * width + channel
    return tl.load(at + c, mask=c < width - channel, other=0.0)


@triton.jit
def _products(
    products, left, right, node, count, h, heads, width, BLOCK: tl.constexpr, CHANNELS: tl.constexpr
):
    """Rows [n, BLOCK]: inner products of every node's ``left`` with all nodes' ``right``, [N, H, width]."""
    cols = tl.arange(0, BLOCK)
    for channel in range(0, width, CHANNELS):
        # Transposed, so that a thread sums over channels of its own.
        inside = tl.trans(_in_tile(count, width, channel, BLOCK, CHANNELS))
        tile = tl.trans(_tile(right, node, h, heads, width, channel, BLOCK, CHANNELS))
        all_nodes = tl.load(tile, mask=inside, other=0.0).to(products.dtype.element_ty)
        for i in range(count):
            mine = _load_row(left, node + i, h, heads, width, channel, CHANNELS).to(products.dtype.element_ty)
            row = tl.sum(all_nodes * mine[:, None], axis=0)
            if channel > 0:
                row += tl.load((products + i * BLOCK) + cols)
            tl.store((products + i * BLOCK) + cols, row)
        tl.debug_barrier()  # other threads read on


@triton.jit
def _resolve(
    rows, source, transition, node, first, last, h, heads, directions, num_edges, num_lines, capacity,
    ends, gather_ptr, gather_edge, gather_line, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows [directions, capacity, BLOCK] = (I - T)^{-1} S_inc, a row for every edge from ``first`` on."""
    cols = tl.arange(0, BLOCK)
    for direction in range(directions):
        for i in range(last - first):
            e = tl.where(direction == 0, first + i, last - 1 - i)
            start = tl.load(ends + direction * num_edges + e) - node
            s = tl.load(source + (direction * num_edges + e) * heads + h).to(rows.dtype.element_ty)
            row = tl.where(cols == start, s, 0.0)
            at = gather_ptr + direction * (num_edges + 1) + e
            for i_line in range(tl.load(at), tl.load(at + 1)):
                before = direction * capacity + tl.load(gather_edge + direction * num_lines + i_line) - first
                line = direction * num_lines + tl.load(gather_line + direction * num_lines + i_line)
                t = tl.load(transition + line * heads + h).to(rows.dtype.element_ty)
                row += t * tl.load((rows + before * BLOCK) + cols)
            tl.store((rows + (direction * capacity + e - first) * BLOCK) + cols, row)
            tl.debug_barrier()  # all threads of the program read this row


@triton.jit
def _gating_row(
    rows, direct, mark, node, i, first, h, heads, directions, num_nodes, num_edges, capacity,
    arrive_ptr, arrive_edge, BLOCK: tl.constexpr,
):  # fmt: skip
    """Row i of a block's gating matrix, M_inc (I - T)^{-1} S_inc + diag(D), of both directions: [BLOCK]."""
    cols = tl.arange(0, BLOCK)
    d = tl.load(direct + (node + i) * heads + h).to(rows.dtype.element_ty)
    gating = tl.where(cols == i, d, 0.0)
    for direction in range(directions):
        at = arrive_ptr + direction * (num_nodes + 1) + node + i
        for a in range(tl.load(at), tl.load(at + 1)):
            e = tl.load(arrive_edge + direction * num_edges + a)
            m = tl.load(mark + (direction * num_edges + e) * heads + h).to(rows.dtype.element_ty)
            gating += m * tl.load((rows + (direction * capacity + e - first) * BLOCK) + cols)
    return gating


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    query, key, value, direct, source, transition, mark, out, scratch,
    ends, gather_ptr, gather_edge, gather_line, arrive_ptr, arrive_edge, node_ptr, edge_ptr, blocks,
    items, heads, key_dim, value_dim, directions, num_nodes, num_edges, num_lines, capacity,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Output of the ``items`` pairs of a block in ``blocks`` and a head, shared out among the programs."""
    rows = scratch + tl.program_id(0).to(tl.int64) * (directions * capacity + BLOCK) * BLOCK
    weights = rows + directions * capacity * BLOCK  # scores first
    cols, c = tl.arange(0, BLOCK), tl.arange(0, CHANNELS)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        block, h = tl.load(blocks + item // heads), item % heads
        node = tl.load(node_ptr + block)
        first, last = tl.load(edge_ptr + block), tl.load(edge_ptr + block + 1)
        count = (tl.load(node_ptr + block + 1) - node).to(tl.int32)
        _resolve(rows, source, transition, node, first, last, h, heads, directions, num_edges, num_lines,
                 capacity, ends, gather_ptr, gather_edge, gather_line, BLOCK)  # fmt: skip
        _products(weights, query, key, node, count, h, heads, key_dim, BLOCK, CHANNELS)
        for i in range(count):
            gating = _gating_row(rows, direct, mark, node, i, first, h, heads, directions, num_nodes,
                                 num_edges, capacity, arrive_ptr, arrive_edge, BLOCK)  # fmt: skip
            weight = gating * tl.load((weights + i * BLOCK) + cols)
            tl.debug_barrier()  # all threads have the score
            tl.store((weights + i * BLOCK) + cols, weight)
        tl.debug_barrier()
        for channel in range(0, value_dim, CHANNELS):
            tile = _tile(value, node, h, heads, value_dim, channel, BLOCK, CHANNELS)
            inside = _in_tile(count, value_dim, channel, BLOCK, CHANNELS)
            v = tl.load(tile, mask=inside, other=0.0).to(rows.dtype.element_ty)
            for i in range(count):
                weight = tl.load((weights + i * BLOCK) + cols)
                hidden = tl.sum(weight[:, None] * v, axis=0)
                at = out + ((node + i) * heads + h) * value_dim + channel
                tl.store(at + c, hidden, mask=c < value_dim - channel)
        tl.debug_barrier()  # nobody overwrites rows that others still read


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    grad, query, key, value, direct, source, transition, mark,
    grad_query, grad_key, grad_value, grad_direct, grad_source, grad_transition, grad_mark, scratch,
    ends, gather_ptr, gather_edge, gather_line, arrive_ptr, arrive_edge, node_ptr, edge_ptr, blocks,
    items, heads, key_dim, value_dim, directions, num_nodes, num_edges, num_lines, capacity,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of the same pairs; the gating matrix is recomputed."""
    rows = scratch + tl.program_id(0).to(tl.int64) * ((directions + 1) * capacity + 3 * BLOCK) * BLOCK
    adjoint = rows + directions * capacity * BLOCK
    scores = adjoint + capacity * BLOCK  # then their gradients
    weights = scores + BLOCK * BLOCK  # gradients of the weights first
    at_gating = weights + BLOCK * BLOCK  # gradients of the gating matrix
    cols, c = tl.arange(0, BLOCK), tl.arange(0, CHANNELS)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        block, h = tl.load(blocks + item // heads), item % heads
        node = tl.load(node_ptr + block)
        first, last = tl.load(edge_ptr + block), tl.load(edge_ptr + block + 1)
        count = (tl.load(node_ptr + block + 1) - node).to(tl.int32)
        _resolve(rows, source, transition, node, first, last, h, heads, directions, num_edges, num_lines,
                 capacity, ends, gather_ptr, gather_edge, gather_line, BLOCK)  # fmt: skip
        _products(scores, query, key, node, count, h, heads, key_dim, BLOCK, CHANNELS)
        _products(weights, grad, value, node, count, h, heads, value_dim, BLOCK, CHANNELS)
        for i in range(count):
            gating = _gating_row(rows, direct, mark, node, i, first, h, heads, directions, num_nodes,
                                 num_edges, capacity, arrive_ptr, arrive_edge, BLOCK)  # fmt: skip
            score = tl.load((scores + i * BLOCK) + cols)
            reached = tl.load((weights + i * BLOCK) + cols)
            tl.debug_barrier()  # all threads have both
            tl.store((scores + i * BLOCK) + cols, gating * reached)
            tl.store((weights + i * BLOCK) + cols, gating * score)
            tl.store((at_gating + i * BLOCK) + cols, score * reached)
            at_direct = tl.sum(tl.where(cols == i, score * reached, 0.0), axis=0)
            tl.store(grad_direct + (node + i) * heads + h, at_direct)
        tl.debug_barrier()
        for channel in range(0, key_dim, CHANNELS):
            inside = _in_tile(count, key_dim, channel, BLOCK, CHANNELS)
            tile = _tile(key, node, h, heads, key_dim, channel, BLOCK, CHANNELS)
            k = tl.load(tile, mask=inside, other=0.0).to(rows.dtype.element_ty)
            grad_k = tl.zeros_like(k)
            for i in range(count):
                at_score = tl.load((scores + i * BLOCK) + cols)
                q = _load_row(query, node + i, h, heads, key_dim, channel, CHANNELS)
                grad_k += at_score[:, None] * q.to(rows.dtype.element_ty)[None, :]
                at = grad_query + ((node + i) * heads + h) * key_dim + channel
                tl.store(at + c, tl.sum(at_score[:, None] * k, axis=0), mask=c < key_dim - channel)
            tile = _tile(grad_key, node, h, heads, key_dim, channel, BLOCK, CHANNELS)
            tl.store(tile, grad_k, mask=inside)
        for channel in range(0, value_dim, CHANNELS):
            grad_v = tl.zeros([BLOCK, CHANNELS], rows.dtype.element_ty)
            for i in range(count):
                weight = tl.load((weights + i * BLOCK) + cols)
                g = _load_row(grad, node + i, h, heads, value_dim, channel, CHANNELS)
                grad_v += weight[:, None] * g.to(rows.dtype.element_ty)[None, :]
            tile = _tile(grad_value, node, h, heads, value_dim, channel, BLOCK, CHANNELS)
            tl.store(tile, grad_v, mask=_in_tile(count, value_dim, channel, BLOCK, CHANNELS))
        for direction in range(directions):
            back = 1 - direction
            for step in range(last - first):
                e = tl.where(direction == 0, last - 1 - step, first + step)
                gate = (direction * num_edges + e) * heads + h
                end = tl.load(ends + back * num_edges + e) - node
                at_end = tl.load((at_gating + end * BLOCK) + cols)
                row = tl.load((rows + (direction * capacity + e - first) * BLOCK) + cols)
                tl.store(grad_mark + gate, tl.sum(at_end * row, axis=0))
                row = tl.load(mark + gate).to(rows.dtype.element_ty) * at_end
                link = gather_ptr + back * (num_edges + 1) + e
                for i_line in range(tl.load(link), tl.load(link + 1)):
                    after = tl.load(gather_edge + back * num_lines + i_line) - first
                    line = direction * num_lines + tl.load(gather_line + back * num_lines + i_line)
                    t = tl.load(transition + line * heads + h).to(rows.dtype.element_ty)
                    row += t * tl.load((adjoint + after * BLOCK) + cols)
                tl.store((adjoint + (e - first) * BLOCK) + cols, row)
                start = tl.load(ends + direction * num_edges + e) - node
                tl.store(grad_source + gate, tl.sum(tl.where(cols == start, row, 0.0), axis=0))
                link = gather_ptr + direction * (num_edges + 1) + e
                for i_line in range(tl.load(link), tl.load(link + 1)):
                    before = (
                        direction * capacity + tl.load(gather_edge + direction * num_lines + i_line) - first
                    )
                    line = direction * num_lines + tl.load(gather_line + direction * num_lines + i_line)
                    at_line = tl.sum(row * tl.load((rows + before * BLOCK) + cols), axis=0)
                    tl.store(grad_transition + line * heads + h, at_line)
                tl.debug_barrier()  # all threads of the program read the adjoint row
        tl.debug_barrier()  # nobody overwrites rows that others still read


def gating_forward(
    out: Tensor,
    nodes: Sequence[Tensor],
    gates: Sequence[Tensor],
    dag: LineGraph,
    links: Links,
    bucket: Bucket,
) -> None:
    """Write the rows of ``out`` [N, H, V] that belong to a bucket's blocks."""
    rows = gates[0].size(0) * bucket.capacity + bucket.tile.nodes
    _launch(forward_kernel, [*nodes, *gates, out], rows, nodes, gates, dag, links, bucket)


def gating_backward(
    grads: Sequence[Tensor],
    grad: Tensor,
    nodes: Sequence[Tensor],
    gates: Sequence[Tensor],
    dag: LineGraph,
    links: Links,
    bucket: Bucket,
) -> None:
    """Write the same blocks' part of ``grads``: of query, key, value, direct, source, transition, mark."""
    rows = (gates[0].size(0) + 1) * bucket.capacity + 3 * bucket.tile.nodes
    _launch(backward_kernel, [grad, *nodes, *gates, *grads], rows, nodes, gates, dag, links, bucket)


def _launch(
    kernel: Any,
    tensors: Sequence[Tensor],
    rows: int,
    nodes: Sequence[Tensor],
    gates: Sequence[Tensor],
    dag: LineGraph,
    links: Links,
    bucket: Bucket,
) -> None:
    """Run a kernel, every program with ``rows`` rows of scratch memory."""
    _, key, value, _ = nodes
    heads, tile = key.size(1), bucket.tile
    items = bucket.blocks.size(0) * heads
    programs = min(items, _resident_programs(key.device, tile.warps))
    dtype = functools.reduce(torch.promote_types, [x.dtype for x in (*nodes, *gates)], torch.float32)
    scratch = torch.empty(programs, rows, tile.nodes, dtype=dtype, device=key.device)
    kernel[(programs,)](
        *tensors, scratch, *links, dag.node_ptr, dag.edge_ptr, bucket.blocks,
        items, heads, key.size(2), value.size(2), gates[0].size(0),
        dag.num_nodes, dag.num_edges, dag.num_lines, bucket.capacity,
        BLOCK=tile.nodes, CHANNELS=tile.channels, num_warps=tile.warps, **LAUNCH_OPTIONS,
    )  # fmt: skip


def _resident_programs(device: torch.device, warps: int) -> int:
    """Number of programs to start: twice what the registers hold, so that none lies idle.

    More would only need more scratch memory, which is to stay in the L2 cache.
    """
    if device.type == "cpu":  # the interpreter runs one after the other
        return 2
    properties = torch.cuda.get_device_properties(device)
    registers: int = properties.regs_per_multiprocessor  # type: ignore[attr-defined]
    resident = registers // (32 * MOST_REGISTERS * warps)
    return 2 * properties.multi_processor_count * max(1, resident)
