r"""The state form in Triton: one launch a level takes the edges of that level in all blocks and heads.

Forward, on the DAG and on its reverse, and adjoint are one sweep,

.. math:: C_e = a_e \, l_{start(e)} r_{start(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'},

whose states are read at the other end of every edge. The adjoint of one direction walks the other, so one
kernel serves all four, and the two directions of a bidirectional layer share its launches. Only states that
are still to be continued are in memory. The backward pass keeps those that are alive at every √depth-th level
and recomputes the states of one such segment after the other.

All sums run in the order of the structure: no atomics. Row r of the links is a direction and the adjoint of
the other; see :class:`~plstm_graph.kernels.triton.plan.Links`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import torch
import triton
import triton.language as tl
from torch import Tensor

from plstm_graph.kernels.cost import state_tile
from plstm_graph.kernels.triton.plan import LAUNCH_OPTIONS, Levels

#: Sizes that differ from batch to batch or launch to launch: no kernel is compiled for their values.
_SIZES = ["first_0", "count_0", "first_1", "lo_0", "hi_0", "lo_1", "hi_1", "slots", "directions", "num_nodes",
          "num_edges", "num_lines"]  # fmt: skip


@triton.jit
def _position(e, row, slot, num_edges, lo_0, hi_0, lo_1, hi_1, slots):
    """Address of an edge's state: behind all slots if its segment is recorded, else in its slot."""
    lo, hi = tl.where(row == 0, lo_0, lo_1), tl.where(row == 0, hi_0, hi_1)
    base = tl.where(row == 0, slots, slots + hi_0 - lo_0)
    return tl.where((lo <= e) & (e < hi), base + e - lo, tl.load(slot + row * num_edges + e))


@triton.jit(do_not_specialize=_SIZES)
def sweep_kernel(
    left, right, peer_left, peer_right, fill, read, transition, memory, kept,
    to_left, to_right, to_read, to_transition,
    ends, gather_ptr, gather_edge, gather_line, slot,
    first_0, count_0, first_1, lo_0, hi_0, lo_1, hi_1, slots,
    heads, key_dim, value_dim, directions, num_edges, num_lines,
    ADJOINT: tl.constexpr, READ_LEFT: tl.constexpr, READ_RIGHT: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """States of ``count_0`` edges of row 0 from ``first_0`` on, then of edges of row 1 from ``first_1`` on.

    They are filled with fill·left·right^T at their start, read with ``peer_left`` and ``peer_right`` at
    their end. A program is a tile of a state's value channels; sums over these are written tile by tile.
    """
    tiles = tl.cdiv(value_dim, VALUE)
    tile, h = tl.program_id(0) % tiles, tl.program_id(0) // tiles % heads
    i = tl.program_id(0) // tiles // heads
    row = tl.where(i < count_0, 0, 1)
    direction = row
    if ADJOINT:
        direction = 1 - row
    e = tl.where(row == 0, first_0 + i, first_1 + i - count_0).to(tl.int64)
    start, end = tl.load(ends + row * num_edges + e), tl.load(ends + (1 - row) * num_edges + e)
    gate = (direction * num_edges + e) * heads + h
    k, v = tl.arange(0, KEY), tile * VALUE + tl.arange(0, VALUE)
    in_k, in_v = k < key_dim, v < value_dim
    inside = in_k[:, None] & in_v[None, :]
    cells = k[:, None] * value_dim + v[None, :]
    size = key_dim * value_dim

    from_left = tl.load((left + (start * heads + h) * key_dim) + k, mask=in_k, other=0.0)
    from_right = tl.load((right + (start * heads + h) * value_dim) + v, mask=in_v, other=0.0)
    state = (tl.load(fill + gate) * from_left)[:, None] * from_right[None, :]
    at = gather_ptr + row * (num_edges + 1) + e
    for i_line in range(tl.load(at), tl.load(at + 1)):
        before = tl.load(gather_edge + row * num_lines + i_line)
        line = direction * num_lines + tl.load(gather_line + row * num_lines + i_line)
        if ADJOINT:
            position = tl.load(slot + row * num_edges + before)
        else:
            position = _position(before, row, slot, num_edges, lo_0, hi_0, lo_1, hi_1, slots)
        arriving = tl.load((memory + (position * heads + h) * size) + cells, mask=inside, other=0.0)
        state += tl.load(transition + line * heads + h) * arriving
    if ADJOINT:
        position = tl.load(slot + row * num_edges + e)
    else:
        position = _position(e, row, slot, num_edges, lo_0, hi_0, lo_1, hi_1, slots)
    tl.store((memory + (position * heads + h) * size) + cells, state, mask=inside & (position >= 0))

    if READ_LEFT or READ_RIGHT:
        r = tl.load(read + gate)
        at_left = tl.load((peer_left + (end * heads + h) * key_dim) + k, mask=in_k, other=0.0)
        if READ_RIGHT:
            reached = r * tl.sum(at_left[:, None] * state, axis=0)
            tl.store((to_right + gate * value_dim) + v, reached, mask=in_v)
        if READ_LEFT:
            at_right = tl.load((peer_right + (end * heads + h) * value_dim) + v, mask=in_v, other=0.0)
            reached = tl.sum(state * at_right[None, :], axis=1)
            partial = tile.to(tl.int64) * directions * num_edges * heads + gate
            tl.store((to_left + partial * key_dim) + k, r * reached, mask=in_k)
            tl.store(to_read + partial, tl.sum(at_left * reached, axis=0))
    if ADJOINT:  # a transition's gradient: what left by the line times what came back
        at = gather_ptr + direction * (num_edges + 1) + e
        for i_line in range(tl.load(at), tl.load(at + 1)):
            before = tl.load(gather_edge + direction * num_lines + i_line)
            line = direction * num_lines + tl.load(gather_line + direction * num_lines + i_line)
            position = _position(before, direction, slot, num_edges, lo_0, hi_0, lo_1, hi_1, slots)
            left_by = tl.load((kept + (position * heads + h) * size) + cells, mask=inside, other=0.0)
            partial = (tile.to(tl.int64) * directions * num_lines + line) * heads + h
            tl.store(to_transition + partial, tl.sum(tl.sum(state * left_by, axis=1), axis=0))


@triton.jit(do_not_specialize=_SIZES)
def arrive_kernel(
    out, scale, vector, rows, arrive_ptr, arrive_edge, heads, width, directions, num_nodes, num_edges,
    ADJOINT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out [N, H, width] = scale·vector, plus the rows [W, E, H, width] of the edges that end at a node."""
    h, node = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    mine = node * heads + h
    total = tl.load(scale + mine) * tl.load(vector + mine * width + column, mask=inside, other=0.0)
    for direction in range(directions):
        row = direction
        if ADJOINT:
            row = 1 - direction
        at = arrive_ptr + row * (num_nodes + 1) + node
        for a in range(tl.load(at), tl.load(at + 1)):
            e = direction * num_edges + tl.load(arrive_edge + row * num_edges + a)
            total += tl.load(rows + (e * heads + h) * width + column, mask=inside, other=0.0)
    tl.store(out + mine * width + column, total, mask=inside)


class _Launcher:
    """The kernels' launches for one set of sizes."""

    def __init__(self, key: Tensor, value: Tensor, source: Tensor, levels: Levels) -> None:
        self.levels = levels
        self.like = key
        self.num_nodes, self.heads, self.key_dim = key.shape
        self.value_dim = value.size(2)
        self.directions, self.num_edges = source.shape[:2]
        self.depth = len(levels.level_ptr) - 1
        self.tile = state_tile(self.key_dim, self.value_dim)
        self.tiles = triton.cdiv(self.value_dim, self.tile.value)

    def empty(self, *shape: int) -> Tensor:
        return self.like.new_empty(shape)

    def states(self, count: int) -> Tensor:
        """Memory for that many states."""
        return self.empty(count, self.heads, self.key_dim, self.value_dim)

    def edges(self, first_step: int, last_step: int) -> tuple[int, int, int, int]:
        """First edge and last edge + 1 of row 0 and of row 1 in these steps; row 1 takes levels backwards."""
        ptr, depth = self.levels.level_ptr, self.depth
        return ptr[first_step], ptr[last_step], ptr[depth - last_step], ptr[depth - first_step]

    def sweep(
        self, first_step: int, last_step: int, left: Tensor, right: Tensor, fill: Tensor,
        transition: Tensor, memory: Tensor, *, segment: tuple[int, int, int, int] = (0, 0, 0, 0),
        kept: Tensor | None = None, read: tuple[Tensor, Tensor, Tensor] | None = None,
        to_left: Tensor | None = None, to_right: Tensor | None = None, to_read: Tensor | None = None,
        to_transition: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Launch the steps one after the other; an adjoint is told by the states ``kept`` for it.

        Args:
            segment: edges of both directions whose states are recorded, in ``kept`` or else in ``memory``.
            read: (mark or source, left and right at the edges' ends).
        """
        adjoint = kept is not None
        links, nothing = self.levels.links, memory
        gate, peer_left, peer_right = read or (nothing, nothing, nothing)
        for step in range(first_step, last_step):
            first_0, last_0, first_1, last_1 = self.edges(step, step + 1)
            count_0 = 0 if adjoint and self.directions == 1 else last_0 - first_0
            count_1 = 0 if not adjoint and self.directions == 1 else last_1 - first_1
            sweep_kernel[((count_0 + count_1) * self.heads * self.tiles,)](
                left, right, peer_left, peer_right, fill, gate, transition, memory,
                nothing if kept is None else kept,
                *(nothing if x is None else x for x in (to_left, to_right, to_read, to_transition)),
                *links[:4], self.levels.slot, first_0, count_0, first_1, *segment, self.levels.slots,
                self.heads, self.key_dim, self.value_dim, self.directions, self.num_edges,
                links.gather_edge.size(1), ADJOINT=adjoint, READ_LEFT=to_left is not None,
                READ_RIGHT=to_right is not None,
                KEY=self.tile.key, VALUE=self.tile.value, num_warps=self.tile.warps,
                **LAUNCH_OPTIONS,
            )  # fmt: skip

    def arrive(self, scale: Tensor, vector: Tensor, rows: Tensor, adjoint: bool = False) -> Tensor:
        """Add to scale·vector what all edges bring to their end: [N, H, width]."""
        out = torch.empty_like(vector)
        width = vector.size(2)
        arrive_kernel[(self.num_nodes * self.heads,)](
            out, scale, vector, rows, *self.levels.links[4:], self.heads, width, self.directions,
            self.num_nodes, self.num_edges, ADJOINT=adjoint, WIDTH=triton.next_power_of_2(width),
            num_warps=1, **LAUNCH_OPTIONS,
        )  # fmt: skip
        return out


def level_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], levels: Levels) -> Tensor:
    """Output [n, H, V] of the nodes of ``levels``; all inputs in its order and in one dtype.

    Memory: the live states, [W, e, H, V] beside the inputs. Launches: depth + 1.
    """
    query, key, value, direct = nodes
    source, transition, mark = gates
    run = _Launcher(key, value, source, levels)
    to_right = run.empty(run.directions, run.num_edges, run.heads, run.value_dim)
    memory = run.states(levels.slots)
    run.sweep(0, run.depth, key, value, source, transition, memory,
              read=(mark, query, query), to_right=to_right)  # fmt: skip
    return run.arrive(direct * (query * key).sum(-1), value, to_right)


def level_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], levels: Levels
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`level_forward`).

    Memory: the live states √depth times, those of one segment of √depth levels, and what is summed at
    the nodes. Launches: 3·depth + 3.
    """
    query, key, value, direct = nodes
    source, transition, mark = gates
    run = _Launcher(key, value, source, levels)
    gate_shape = (run.tiles, run.directions, run.num_edges, run.heads)
    to_left, to_read = run.empty(*gate_shape, run.key_dim), run.empty(*gate_shape)
    score, reached = (query * key).sum(-1), (grad * value).sum(-1)

    # Down the DAG: what needs the states alone. They are kept where a segment begins.
    memory = run.states(levels.slots)
    borders = [*range(0, run.depth, isqrt(max(run.depth - 1, 0)) + 1), run.depth]
    alive = []
    for first, last in pairwise(borders):
        alive.append(memory.clone())
        run.sweep(first, last, key, value, source, transition, memory,
                  read=(mark, query, grad), to_left=to_left, to_read=to_read)  # fmt: skip
    grad_query = run.arrive(direct * reached, key, to_left.sum(0))
    grad_mark = to_read.sum(0)

    # Back up, segment by segment: its states again, then their adjoint in the same memory as before.
    segments = [run.edges(*steps) for steps in pairwise(borders)]
    longest = max((b - a + d - c for a, b, c, d in segments), default=0)
    kept = run.states(levels.slots + longest)
    to_right = run.empty(run.directions, run.num_edges, run.heads, run.value_dim)
    to_transition = run.empty(run.tiles, *transition.shape)
    for (first, last), segment in zip(reversed([*pairwise(borders)]), reversed(segments), strict=True):
        kept[: levels.slots] = alive.pop()
        run.sweep(first, last, key, value, source, transition, kept, segment=segment)
        run.sweep(run.depth - last, run.depth - first, query, grad, mark, transition, memory,
                  segment=segment, kept=kept, read=(source, key, value), to_left=to_left,
                  to_right=to_right, to_read=to_read, to_transition=to_transition)  # fmt: skip
    grad_key = run.arrive(direct * reached, query, to_left.sum(0), adjoint=True)
    grad_value = run.arrive(direct * score, grad, to_right, adjoint=True)
    grad_nodes = [grad_query, grad_key, grad_value, score * reached]
    return [*grad_nodes, to_read.sum(0), to_transition.sum(0), grad_mark]
