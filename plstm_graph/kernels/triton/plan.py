"""Layout of a batch for the GPU kernels: links in both directions, buckets of blocks, order of edges.

Everything here is integers, computed once for a DAG and shared by all layers and both passes; of states with
several components, whose line graph is made in every layer, once for that.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from plstm_graph.compiled import structure
from plstm_graph.dag import LineGraph
from plstm_graph.kernels.cost import GatingTile, gating_tile, prefers_walk

Indices = NDArray[np.int64]

#: Registers that a thread can have.
MOST_REGISTERS = 255

#: One stage: loads that the compiler moves ahead of a loop would miss what the loop stores. All the
#: registers: the assembler would rather spill some, to make room for more programs.
LAUNCH_OPTIONS: dict[str, int] = {"num_stages": 1}
if torch.version.hip is None:
    LAUNCH_OPTIONS["maxnreg"] = MOST_REGISTERS


class Links(NamedTuple):
    """A DAG (row 0) and its reverse (row 1), as both kinds of kernels walk them.

    An edge of direction w starts at ``ends[w]`` and ends at ``ends[1 - w]``. It continues the edges
    ``gather_edge[w]`` by the transitions ``gather_line[w]`` (CSR by ``gather_ptr[w]``), and the edges
    ``arrive_edge[w]`` end at a node (CSR by ``arrive_ptr[w]``).
    """

    ends: Tensor  # [2, E]
    gather_ptr: Tensor  # [2, E + 1]
    gather_edge: Tensor  # [2, L]
    gather_line: Tensor  # [2, L]
    arrive_ptr: Tensor  # [2, N + 1]
    arrive_edge: Tensor  # [2, E]


class Bucket(NamedTuple):
    """Blocks that one launch of a gating kernel takes."""

    blocks: Tensor  # [b]
    tile: GatingTile
    capacity: int  # edges of the largest block


class Walks(NamedTuple):
    """Blocks whose edges one program takes one after the other, in an order that goes deep first."""

    blocks: int
    table: Tensor  # [7, 2, b] for each direction of each block, see _walk_table
    kept: tuple[int, int]  # states that a backward pass keeps in one direction, in both


class States(NamedTuple):
    """The blocks in state form: first those that are walked, then those that go by level.

    A state needs memory while an edge that continues it is to come: it gets a slot and gives it back, as
    variables share registers; -1 where nothing continues the edge. What runs at the same time shares none:
    the two directions, the walks, the edges of a level.
    """

    nodes: Tensor  # [n]
    order: Tensor  # [e] edges: walk by walk, then level by level
    lines: Tensor  # [l]
    place: Tensor  # [E] of an edge in this order
    slot: Tensor  # [2, E]
    slots: int  # how many there are
    walks: Walks | None
    level_ptr: list[int]  # first place of every level, on the host; of none, if all blocks are walked


class Plan(NamedTuple):
    """Launches of the kernels for one batch and one pair of head dimensions."""

    links: Links
    buckets: list[Bucket]
    states: States | None


# pred_ptr of a DAG → {(K, V): plan}; an entry goes with its tensor.
_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()


def plan_of(dag: LineGraph, key_dim: int, value_dim: int) -> Plan:
    """The plan of a DAG, made once: the sizes of its blocks, and its edges if some blocks are in state form,
    are copied to the host. Complexity: O(E log E + L)."""
    plans = _plans.setdefault(dag.pred_ptr, {})
    if (key_dim, value_dim) not in plans:
        plans[key_dim, value_dim] = _make_plan(dag, key_dim, value_dim)
    return plans[key_dim, value_dim]


def _make_plan(dag: LineGraph, key_dim: int, value_dim: int) -> Plan:
    nodes, edges = torch.stack([dag.node_ptr.diff(), dag.edge_ptr.diff()]).cpu().numpy()
    tiles = {n: gating_tile(n, key_dim, value_dim) for n in np.unique(nodes).tolist()}
    buckets = []
    for tile in sorted({tile for tile in tiles.values() if tile is not None}):
        blocks = np.flatnonzero([tiles[n] == tile for n in nodes.tolist()])
        # Programs take blocks in turn: with the largest first, none is left with a large one at the end.
        blocks = blocks[np.argsort(-edges[blocks], kind="stable")]
        buckets.append(Bucket(torch.from_numpy(blocks).to(dag.device), tile, int(edges[blocks[0]])))
    links = _make_links(dag.num_nodes, dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.succ)
    large = np.flatnonzero([tiles[n] is None for n in nodes.tolist()])
    return Plan(links, buckets, _make_states(dag, links, large) if len(large) else None)


def _make_links(
    num_nodes: int, src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, succ: Tensor
) -> Links:
    by_pred = torch.argsort(pred, stable=True)
    return Links(
        ends=torch.stack([src, dst]),
        gather_ptr=torch.stack([pred_ptr, _pointer(pred, src.size(0))]),
        gather_edge=torch.stack([pred, succ[by_pred]]),
        gather_line=torch.stack([torch.arange(pred.size(0), device=pred.device), by_pred]),
        arrive_ptr=torch.stack([_pointer(x, num_nodes) for x in (dst, src)]),
        arrive_edge=torch.stack([torch.argsort(x, stable=True) for x in (dst, src)]),
    )


def _pointer(group: Tensor, count: int) -> Tensor:
    """Start of each of ``count`` groups once ``group`` is sorted: [count + 1]."""
    sizes = torch.bincount(group, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _make_states(dag: LineGraph, links: Links, blocks: Indices) -> States:
    """Order and memory of these blocks."""
    host, links = dag.to("cpu"), Links(*(x.cpu() for x in links))
    node_ptr, edge_ptr, pred_ptr, levels = (
        x.numpy() for x in (host.node_ptr, host.edge_ptr, host.pred_ptr, host.level)
    )
    edges = np.diff(edge_ptr)[blocks]
    depth = [levels[a : a + n].max(initial=-1) + 1 for a, n in zip(edge_ptr[blocks], edges, strict=True)]
    walked = np.array([prefers_walk(n, d) for n, d in zip(edges, depth, strict=True)])
    # Programs take walks in turn: with the largest first, none is left with a large one at the end.
    walks = blocks[walked][np.argsort(-edges[walked], kind="stable")]
    blocks = np.concatenate([walks, blocks[~walked]])
    first, edges = edge_ptr[blocks], np.diff(edge_ptr)[blocks]

    gathered = [(links.gather_ptr[row].numpy(), links.gather_edge[row].numpy()) for row in (0, 1)]
    by_level = _ranges(first[len(walks) :], edges[len(walks) :])
    by_level = by_level[np.argsort(levels[by_level], kind="stable")]
    deep = _deep_order(first[: len(walks)], edges[: len(walks)], pred_ptr, *gathered[1])
    order, of_walks = np.concatenate([deep, by_level]), len(deep)
    level = levels[by_level]
    last_level = level.max(initial=-1)

    # What runs one after the other shares slots: a walk, and all levels.
    groups = np.concatenate([[0], edges[: len(walks)].cumsum(), [len(order)]])
    opposite = np.repeat(groups[:-1] + groups[1:] - 1, np.diff(groups)) - np.arange(len(order))
    slot, slots = np.full((2, dag.num_edges), -1), 0
    of_walk = np.empty((2, 2, len(walks)), np.int64)  # first slot and number of slots
    for row, own in enumerate([order, order[opposite]]):
        step = np.arange(len(order))
        step[of_walks:] = of_walks + (level if row == 0 else last_level - level[::-1])
        borders = _assign_slots(slot[row], slots, groups, own, step, *gathered[row])
        of_walk[:, row] = borders[: len(walks)], np.diff(borders)[: len(walks)]
        slots = int(borders[-1])
    place = np.full(dag.num_edges, -1)
    place[order] = np.arange(len(order))

    def upload(array: Indices) -> Tensor:
        return torch.from_numpy(array).to(dag.device)

    table, kept = _walk_table(groups[: len(walks) + 1], *of_walk)
    return States(
        nodes=upload(_ranges(node_ptr[blocks], np.diff(node_ptr)[blocks])),
        order=upload(order),
        lines=upload(_ranges(pred_ptr[first], pred_ptr[first + edges] - pred_ptr[first])),
        place=upload(place),
        slot=upload(slot),
        slots=slots,
        walks=Walks(len(walks), upload(table), kept) if len(walks) else None,
        level_ptr=(of_walks + np.searchsorted(level, np.arange(last_level + 2))).tolist(),
    )


def _ranges(first: Indices, count: Indices) -> Indices:
    """The numbers of several ranges, one range after the other."""
    return np.repeat(first - count.cumsum() + count, count) + np.arange(count.sum())


def _walk_table(places: Indices, first_slot: Indices, slots: Indices) -> tuple[Indices, tuple[int, int]]:
    """For each direction and walk its first and last place + 1, first slot and number of slots, edges of a
    segment, and where what it keeps begins: the states alive at every segment's start, those of one segment.

    Segments are as long as keeps the fewest states. Returns also how many that are in one direction and both.
    """
    count = np.broadcast_to(np.diff(places), slots.shape)
    segment = np.clip(np.ceil(np.sqrt(count * slots)).astype(np.int64), 1, np.maximum(count, 1))
    alive = -(-count // segment) * slots
    end = (alive + segment).cumsum().reshape(slots.shape)
    first, last = (np.broadcast_to(x, slots.shape) for x in (places[:-1], places[1:]))
    start = end - alive - segment
    kept = (int(end[0].max(initial=0)), int(end.max(initial=0)))
    return np.stack([first, last, first_slot, slots, segment, start, start + alive]), kept


@structure
def _deep_order(first, count, pred_ptr, succ_ptr, succ):
    """Edges of blocks in a topological order in which most follow an edge that they continue.

    Of the edges that continue another, the one before the longest chain comes last: few states wait.

    Args:
        first, count: [b] first edge and number of edges of every block.
        pred_ptr: [E+1] by which edges count those that they continue.
        succ_ptr, succ: [E+1], [L] the edges that continue an edge (CSR).
    """
    order = np.empty(count.sum(), np.int64)
    num_edges = len(pred_ptr) - 1
    missing, height = np.zeros(num_edges, np.int64), np.zeros(num_edges, np.int64)
    stack = np.empty(num_edges, np.int64)
    done = 0
    for b in range(len(first)):
        top = 0
        for e in range(first[b] + count[b] - 1, first[b] - 1, -1):
            missing[e] = pred_ptr[e + 1] - pred_ptr[e]
            if missing[e] == 0:
                stack[top] = e
                top += 1
            for line in range(succ_ptr[e], succ_ptr[e + 1]):
                height[e] = max(height[e], height[succ[line]] + 1)
        while top > 0:
            top -= 1
            e = stack[top]
            order[done] = e
            done += 1
            bottom = top
            for line in range(succ_ptr[e], succ_ptr[e + 1]):
                after = succ[line]
                missing[after] -= 1
                if missing[after] == 0:
                    stack[top] = after
                    if height[after] > height[stack[bottom]]:
                        stack[bottom], stack[top] = stack[top], stack[bottom]
                    top += 1
    return order


@structure
def _assign_slots(slot, slots, groups, order, step, gather_ptr, gather_edge):
    """Write slots [E] for the states of edges; groups of edges share none.

    Args:
        slots: number of the first slot.
        groups: [g+1] borders of the groups in ``order``.
        order, step: [e] edges, and when their states are computed, ascending in a group.
        gather_ptr, gather_edge: [E+1], [L] the edges whose states an edge reads (CSR).

    Returns:
        The first slot of every group, and behind them the number of the next slot: [g+1].
    """
    num_edges = len(slot)
    last = np.full(num_edges, -1, np.int64)  # when a state is read for the last time
    for i in range(len(order)):
        for line in range(gather_ptr[order[i]], gather_ptr[order[i] + 1]):
            last[gather_edge[line]] = step[i]
    expired = np.full(len(order), -1, np.int64)  # edges that are last read at a step, as linked lists
    following = np.empty(num_edges, np.int64)
    free = np.empty(num_edges, np.int64)
    borders = np.empty(len(groups), np.int64)
    for g in range(len(groups) - 1):
        borders[g] = slots
        num_free, now = 0, groups[g]
        for i in range(groups[g], groups[g + 1]):
            e = order[i]
            while now < step[i]:
                other = expired[now]
                while other >= 0:
                    free[num_free] = slot[other]
                    num_free += 1
                    other = following[other]
                now += 1
            if last[e] < 0:
                continue
            if num_free > 0:
                num_free -= 1
                slot[e] = free[num_free]
            else:
                slot[e] = slots
                slots += 1
            following[e] = expired[last[e]]
            expired[last[e]] = e
    borders[-1] = slots
    return borders
