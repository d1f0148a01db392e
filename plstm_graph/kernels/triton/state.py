"""The state form in Triton, launched: blocks that one program walks, and blocks that go level by level.

Only states that are still to be continued are in memory. The backward pass keeps those that are alive where
a segment begins, and computes the states of one segment after the other anew: segments are √depth levels or,
in a walk, about √edges edges.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import torch
import triton
from torch import Tensor

from plstm_graph.kernels.cost import state_tile
from plstm_graph.kernels.triton.plan import LAUNCH_OPTIONS, Links, States
from plstm_graph.kernels.triton.state_kernels import (
    arrive_kernel,
    level_kernel,
    walk_back_kernel,
    walk_kernel,
)


class _Launcher:
    """The kernels' launches for one batch and one set of sizes; sums are kept in float32 or better."""

    def __init__(self, nodes: Sequence[Tensor], gates: Sequence[Tensor], links: Links, plan: States) -> None:
        query, _, value, _ = nodes
        self.links, self.plan, self.walks = links, plan, plan.walks
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.device = query.device
        self.num_nodes, self.heads, self.key_dim = query.shape
        self.value_dim = value.size(2)
        self.directions, self.num_edges = gates[0].shape[:2]
        self.num_lines = gates[1].size(1)
        self.depth = len(plan.level_ptr) - 1
        self.tile = state_tile(self.key_dim, self.value_dim)
        self.tiles = triton.cdiv(self.value_dim, self.tile.value)
        self.sizes = (
            self.heads, self.key_dim, self.value_dim, self.directions, self.num_edges, self.num_lines,
            len(plan.order),
        )  # fmt: skip
        self.options = {
            "KEY": self.tile.key, "VALUE": self.tile.value, "num_warps": self.tile.warps, **LAUNCH_OPTIONS
        }  # fmt: skip
        self.structure = (*links[:4], plan.order, plan.place, plan.slot)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def states(self, count: int) -> Tensor:
        """Memory for that many states."""
        return self.empty(count, self.heads, self.key_dim, self.value_dim)

    def edges(self, first_step: int, last_step: int) -> tuple[int, int, int, int]:
        """First place and last place + 1 of row 0 and of row 1 in these steps; row 1 goes back by levels."""
        ptr, depth = self.plan.level_ptr, self.depth
        return ptr[first_step], ptr[last_step], ptr[depth - last_step], ptr[depth - first_step]

    def levels(
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
        gate, peer_left, peer_right = read or (memory, memory, memory)
        for step in range(first_step, last_step):
            first_0, last_0, first_1, last_1 = self.edges(step, step + 1)
            count_0 = 0 if adjoint and self.directions == 1 else last_0 - first_0
            count_1 = 0 if not adjoint and self.directions == 1 else last_1 - first_1
            level_kernel[((count_0 + count_1) * self.heads * self.tiles,)](
                left, right, peer_left, peer_right, fill, gate, transition, memory,
                *(memory if x is None else x for x in (kept, to_left, to_right, to_read, to_transition)),
                *self.structure, first_0, count_0, first_1, *segment, self.plan.slots, *self.sizes,
                ADJOINT=adjoint, READ_LEFT=to_left is not None, READ_RIGHT=to_right is not None,
                **self.options,
            )  # fmt: skip

    def walk(
        self, left: Tensor, right: Tensor, fill: Tensor, transition: Tensor, memory: Tensor,
        read: tuple[Tensor, Tensor, Tensor], *, kept: Tensor | None = None, to_left: Tensor | None = None,
        to_right: Tensor | None = None, to_read: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Walk all blocks that are, forward; what is alive where segments begin is copied to ``kept``."""
        if self.walks is None:
            return
        gate, peer_left, peer_right = read
        walk_kernel[(self.walks.blocks * self.directions * self.heads * self.tiles,)](
            left, right, peer_left, peer_right, fill, gate, transition, memory,
            *(memory if x is None else x for x in (kept, to_left, to_right, to_read)), *self.structure,
            self.walks.table, self.walks.blocks, *self.sizes, READ_LEFT=to_left is not None,
            READ_RIGHT=to_right is not None, SNAPSHOTS=kept is not None, **self.options,
        )  # fmt: skip

    def walk_back(self, *tensors: Tensor) -> None:
        """Walk them back: the tensors are those of :func:`.state_kernels.walk_back_kernel`."""
        if self.walks is not None:
            walk_back_kernel[(self.walks.blocks * self.directions * self.heads * self.tiles,)](
                *tensors, *self.structure, self.walks.table, self.walks.blocks, *self.sizes, **self.options
            )

    def arrive(
        self, out: Tensor, direct: Tensor, left: Tensor, right: Tensor, vector: Tensor, rows: Tensor, *,
        adjoint: bool = False, peer: Tensor | None = None, to_direct: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Write direct·(left·right)·vector and what all edges bring to their end: ``out`` [N, H, width].

        With ``peer``, the gradient of ``direct`` too, (left·right)·(peer·vector).
        """
        width, inner = vector.size(2), left.size(2)
        arrive_kernel[(len(self.plan.nodes) * self.heads,)](
            out, out if to_direct is None else to_direct, direct, left, right, vector,
            vector if peer is None else peer, rows, self.plan.nodes, self.plan.place, *self.links[4:],
            self.heads, width, inner, len(rows), self.directions, self.num_nodes, self.num_edges,
            len(self.plan.order), ADJOINT=adjoint, TO_DIRECT=to_direct is not None,
            WIDTH=triton.next_power_of_2(width), INNER=triton.next_power_of_2(inner), num_warps=1,
            **LAUNCH_OPTIONS,
        )  # fmt: skip

    def parts(self, grad: Tensor) -> Tensor:
        """Where the tiles' parts of a gate's gradient are written: in itself, if there is one tile."""
        return grad.unsqueeze(0) if self.tiles == 1 else self.empty(self.tiles, *grad.shape)

    def add_parts(self, grad: Tensor, parts: Tensor, numbers: Tensor) -> None:
        """Write the sum of the parts at these edges or lines."""
        if self.tiles > 1:
            grad[:, numbers] = parts[:, :, numbers].sum(0).to(grad.dtype)


def state_forward(
    out: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], links: Links, plan: States
) -> None:
    """Write the output [N, H, V] at the nodes of the plan.

    Memory: the live states, and V numbers for each edge of the plan, direction and head. Launches: one for
    all walks, one a level, and one more.
    """
    query, key, value, direct = nodes
    source, transition, mark = gates
    run = _Launcher(nodes, gates, links, plan)
    memory = run.states(plan.slots)
    to_right = run.empty(1, run.directions, len(plan.order), run.heads, run.value_dim)
    read = (mark, query, query)
    run.walk(key, value, source, transition, memory, read, to_right=to_right)
    run.levels(0, run.depth, key, value, source, transition, memory, read=read, to_right=to_right)
    run.arrive(out, direct, query, key, value, to_right)


def state_backward(
    grads: Sequence[Tensor],
    grad: Tensor,
    nodes: Sequence[Tensor],
    gates: Sequence[Tensor],
    links: Links,
    plan: States,
) -> None:
    """Write the gradients of ``nodes`` and ``gates`` at the nodes, edges and lines of the plan.

    Memory: the live states √depth times, those of one segment, and what is summed at the nodes. Launches:
    two for all walks, three a level, and three more.
    """
    query, key, value, direct = nodes
    source, transition, mark = gates
    grad_query, grad_key, grad_value, grad_direct, grad_source, grad_transition, grad_mark = grads
    run = _Launcher(nodes, gates, links, plan)
    rows = (run.directions, len(plan.order), run.heads)
    to_left = run.empty(run.tiles, *rows, run.key_dim)
    to_right = run.empty(1, *rows, run.value_dim)
    to_source, to_mark, to_transition = map(run.parts, (grad_source, grad_mark, grad_transition))

    # Down the DAG: what needs the states alone. They are kept where a segment begins.
    memory = run.states(plan.slots)
    kept_of_walks = run.states(0 if run.walks is None else run.walks.kept[run.directions - 1])
    read = (mark, query, grad)
    run.walk(key, value, source, transition, memory, read,
             kept=kept_of_walks, to_left=to_left, to_read=to_mark)  # fmt: skip
    borders = [*range(0, run.depth, isqrt(max(run.depth - 1, 0)) + 1), run.depth]
    alive = []
    for first, last in pairwise(borders):
        alive.append(memory.clone())
        run.levels(first, last, key, value, source, transition, memory,
                   read=read, to_left=to_left, to_read=to_mark)  # fmt: skip
    run.arrive(grad_query, direct, grad, value, key, to_left, peer=query, to_direct=grad_direct)

    # Back up, segment by segment: its states again, then their adjoint in the same memory as before.
    run.walk_back(query, key, value, grad, source, mark, transition, memory, kept_of_walks, to_left, to_right,
                  to_source, to_transition)  # fmt: skip
    segments = [run.edges(*steps) for steps in pairwise(borders)]
    if segments:
        kept = run.states(plan.slots + max(b - a + d - c for a, b, c, d in segments))
    for (first, last), segment in zip(reversed([*pairwise(borders)]), reversed(segments), strict=True):
        kept[: plan.slots] = alive.pop()
        run.levels(first, last, key, value, source, transition, kept, segment=segment)
        run.levels(run.depth - last, run.depth - first, query, grad, mark, transition, memory,
                   segment=segment, kept=kept, read=(source, key, value), to_left=to_left,
                   to_right=to_right, to_read=to_source, to_transition=to_transition)  # fmt: skip
    run.arrive(grad_key, direct, grad, value, query, to_left, adjoint=True)
    run.arrive(grad_value, direct, query, key, grad, to_right, adjoint=True)
    run.add_parts(grad_source, to_source, plan.order)
    run.add_parts(grad_mark, to_mark, plan.order)
    run.add_parts(grad_transition, to_transition, plan.lines)
