"""Layout of a batch for the GPU kernels: links in both directions, buckets of blocks, levels of edges.

Everything here is integers, computed once for a DAG and shared by all layers and both passes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from plstm_graph.compiled import structure
from plstm_graph.dag import LineGraph
from plstm_graph.kernels.cost import GatingTile, gating_tile

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


class Levels(NamedTuple):
    """The blocks that go by level: which nodes, edges and lines they have, renumbered from 0.

    Edges are sorted by level. A state needs memory while an edge that continues it is to come: it gets
    a slot and gives it back, as variables share registers; -1 where nothing continues the edge.
    """

    nodes: Tensor  # [n] the DAG's numbers
    edges: Tensor  # [e]
    lines: Tensor  # [l]
    links: Links
    slot: Tensor  # [2, e]
    slots: int  # how many both directions need
    level_ptr: list[int]  # first edge of every level, on the host


class Plan(NamedTuple):
    """Launches of the kernels for one batch and one pair of head dimensions."""

    links: Links
    buckets: list[Bucket]
    levels: Levels | None


# pred_ptr of a DAG → {(K, V): plan}; an entry goes with its tensor.
_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()


def plan_of(dag: LineGraph, key_dim: int, value_dim: int) -> Plan:
    """The plan of a DAG, made once: the sizes of its blocks, and its edges if some go by level, are copied
    to the host. Complexity: O(E log E + L)."""
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
    by_level = np.array([tiles[n] is None for n in nodes.tolist()], dtype=bool)
    links = _make_links(dag.num_nodes, dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.succ)
    return Plan(links, buckets, _make_levels(dag, by_level) if by_level.any() else None)


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


def _make_levels(dag: LineGraph, by_level: NDArray[np.bool_]) -> Levels:
    """Levels of the blocks chosen by ``by_level`` [B]."""
    host = dag.to("cpu")
    node_ptr, edge_ptr, pred_ptr = (x.numpy() for x in (host.node_ptr, host.edge_ptr, host.pred_ptr))
    nodes = np.flatnonzero(np.repeat(by_level, np.diff(node_ptr)))
    edges = np.flatnonzero(np.repeat(by_level, np.diff(edge_ptr)))
    level = host.level.numpy()[edges]
    edges, level = edges[np.argsort(level, kind="stable")], np.sort(level)
    ptr = np.concatenate([[0], np.diff(pred_ptr)[edges].cumsum()])
    lines = np.repeat(pred_ptr[edges] - ptr[:-1], np.diff(ptr)) + np.arange(ptr[-1])
    new_node, new_edge = np.empty(dag.num_nodes, np.int64), np.empty(dag.num_edges, np.int64)
    new_node[nodes], new_edge[edges] = np.arange(len(nodes)), np.arange(len(edges))
    src, dst = new_node[host.src.numpy()[edges]], new_node[host.dst.numpy()[edges]]
    pred, succ = new_edge[host.pred.numpy()[lines]], np.repeat(np.arange(len(edges)), np.diff(ptr))
    links = _make_links(len(nodes), *map(torch.from_numpy, (src, dst, ptr, pred, succ)))
    depth = int(level[-1]) + 1 if len(level) else 0
    forth = np.arange(len(edges))
    slot, slots = [], 0
    for row, (order, step) in enumerate([(forth, level), (forth[::-1].copy(), depth - 1 - level)]):
        gathered = links.gather_ptr[row].numpy(), links.gather_edge[row].numpy()
        numbers, count = _assign_slots(order, step, *gathered)
        slot.append(np.where(numbers < 0, -1, numbers + slots))
        slots += count

    def upload(array: Indices) -> Tensor:
        return torch.from_numpy(array).to(dag.device)

    return Levels(
        nodes=upload(nodes),
        edges=upload(edges),
        lines=upload(lines),
        links=Links(*(x.to(dag.device) for x in links)),
        slot=upload(np.stack(slot)),
        slots=slots,
        level_ptr=np.searchsorted(level, np.arange(depth + 1)).tolist(),
    )


@structure
def _assign_slots(order, step, gather_ptr, gather_edge):
    """Slots [e] for the states of edges that are computed at ``step`` [e], and how many are needed.

    Args:
        order: [e] the edges by step.
        gather_ptr, gather_edge: [e+1], [l] the edges whose states an edge reads (CSR).
    """
    num_edges = len(order)
    last = np.full(num_edges, -1, np.int64)  # when a state is read for the last time
    for e in order:
        for line in range(gather_ptr[e], gather_ptr[e + 1]):
            last[gather_edge[line]] = step[e]
    expired = np.full(num_edges, -1, np.int64)  # edges that are last read at a step, as linked lists
    following = np.empty(num_edges, np.int64)
    slot = np.full(num_edges, -1, np.int64)
    free = np.empty(num_edges, np.int64)
    num_free, num_slots, now = 0, 0, 0
    for e in order:
        while now < step[e]:
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
            slot[e] = num_slots
            num_slots += 1
        following[e] = expired[last[e]]
        expired[last[e]] = e
    return slot, num_slots
