"""The cost model: which backend, form and tile a graph takes, from sizes alone.

- ``"auto"`` takes the fused kernels of the device: ``cpu``, or ``triton`` on a GPU. Where Triton is missing
  or cannot take the heads, ``lattice`` for sequences and grids, dense matrices (``gating``) while all blocks
  are small, else ``chunkwise`` or ``reference``, whichever takes fewer steps one after the other. On a CPU
  the fused kernels are faster than ``lattice`` at every size (benchmarks/speed/lattice.py).
- The fused CPU kernels take the cheaper form, block by block (:func:`prefers_states`).
- The Triton kernels take the gating form for blocks of up to 128 nodes (:func:`gating_tile`): their
  n²·(K + V) multiply-adds stay on the chip, where states move (edges + lines)·K·V numbers through memory.
  What is larger is in state form: long blocks are walked by one program a head, edge by edge; wide ones
  go by level, one launch each (:func:`prefers_walk`).
"""

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch

from plstm_graph.compiled import structure, structure_inner
from plstm_graph.dag import LineGraph

Backend = Literal["auto", "reference", "gating", "chunkwise", "lattice", "cpu", "triton"]

#: Multiply-adds of the fused CPU kernels in gating form in the time of one in state form, whose rows are
#: short and whose states move through the cache: by times of both (docs/choices.md).
_STATE_COST = 4

#: Without fused kernels, larger blocks (nodes or edges) get no matrix of their own: it grows with the square.
_LARGEST_DENSE_BLOCK = 512

#: Edges of a chunk of the chunkwise form: products inside cost its square, steps between chunks are many if
#: it is small.
CHUNK = 128

#: Edges up to which the fused CPU kernels leave a block in state form whole, and of the shortest chunk of a
#: longer one.
WHOLE_STATE_BLOCK, _SHORTEST_STATE_CHUNK = 1024, 64

#: Nodes of the smallest and the largest tile of a Triton program in gating form, and the most numbers of it.
_SMALLEST_GATING_BLOCK, _LARGEST_GATING_BLOCK, _LARGEST_GATING_TILE = 16, 128, 2048

#: The most key channels of a state that a Triton program takes, and the most numbers of a tile of it.
_MOST_KEY_CHANNELS, _LARGEST_STATE_TILE = 256, 2048

#: Edges that a Triton program walks in the time of a launch: about 10 µs by about 0.6 µs, on no device yet.
_EDGES_PER_LAUNCH = 16

#: Numbers of a tile that a warp of a Triton program holds: 16 in each thread's registers in gating form and,
#: since predecessors are loaded beside, 8 in state form.
_GATING_NUMBERS_PER_WARP, _STATE_NUMBERS_PER_WARP = 512, 256

_TRITON_INSTALLED = find_spec("triton") is not None
#: Triton decides when it is imported whether kernels are compiled or interpreted, which the CPU can do.
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_log = logging.getLogger(__name__)


def choose_backend(dag: LineGraph, key_dim: int) -> Backend:
    """Backend of ``"auto"``; a GPU that the Triton kernels cannot serve is logged once for each reason."""
    if dag.device.type == "cpu":
        return "cpu"
    reason = why_not_triton(dag.device, key_dim)
    if reason is None:
        return "triton"
    backend: Backend = "gating"
    if dag.lattice is not None:
        backend = "lattice"
    elif dag.largest_block > _LARGEST_DENSE_BLOCK:
        backend = "chunkwise" if dag.num_edges < CHUNK * dag.num_levels else "reference"
    if not torch.compiler.is_compiling():
        _log_fallback(backend, reason)
    return backend


@cache
def _log_fallback(backend: Backend, reason: str) -> None:
    _log.warning("backend '%s' runs in place of 'triton', which %s.", backend, reason)


def why_not_triton(device: torch.device, key_dim: int) -> str | None:
    """Return why the Triton kernels cannot run, as the end of a sentence; ``None`` if they can."""
    if not _TRITON_INSTALLED:
        return "needs the package triton; install it, or use backend 'auto'"
    if device.type != "cuda" and not (device.type == "cpu" and _TRITON_INTERPRETED):
        return f"needs tensors on a GPU, not on {device}; use backend 'auto', or TRITON_INTERPRET=1 to test"
    if key_dim > _MOST_KEY_CHANNELS:
        return (
            f"takes at most {_MOST_KEY_CHANNELS} key channels a head, not {key_dim}; use more heads, or "
            "backend 'gating', 'chunkwise' or 'reference'"
        )
    return None


@structure_inner
def gating_cost(nodes, edges, lines, key_dim, value_dim, directions):
    """Multiply-adds of one block and head in gating form: a solve over node rows, then two dense products."""
    return nodes * nodes * (key_dim + value_dim) + directions * (edges + lines) * nodes


@structure_inner
def state_cost(edges, lines, key_dim, value_dim, directions):
    """The same in state form, by its time: a solve over states, filled once and read once."""
    return _STATE_COST * directions * (2 * edges + lines) * key_dim * value_dim


@structure
def prefers_states(nodes, edges, lines, key_dim, value_dim, directions):
    """Return if the fused CPU kernels take the state form for a block: narrow heads, long molecules."""
    dense = gating_cost(nodes, edges, lines, key_dim, value_dim, directions)
    return state_cost(edges, lines, key_dim, value_dim, directions) < dense


@structure
def prefers_chunks(nodes, edges, lines, key_dim, value_dim, directions):
    """Return if the fused CPU kernels cut a block into chunks: its states would leave the cache."""
    return edges > WHOLE_STATE_BLOCK and prefers_states(nodes, edges, lines, key_dim, value_dim, directions)


@structure_inner
def state_chunk(last_successor, edges):
    """Edges of a chunk, such that a chunk and the borders of all chunks together hold the fewest states.

    Args:
        last_successor: [edges] of every edge of a block, -1 if it has none.
        edges: number of edges of the block.
    """
    best, fewest = edges, edges
    chunk = _SHORTEST_STATE_CHUNK
    while chunk < edges:
        states = chunk
        for e in range(edges):
            states += last_successor[e] // chunk > e // chunk
        if states < fewest:
            best, fewest = chunk, states
        chunk *= 2
    return best


class GatingTile(NamedTuple):
    """Nodes and channels that a Triton program in gating form holds at once, and its warps."""

    nodes: int
    channels: int
    warps: int


def gating_tile(nodes: int, key_dim: int, value_dim: int) -> GatingTile | None:
    """The smallest tile that holds a block with this number of nodes, or ``None`` if it is in state form."""
    block = max(power_of_two(nodes), _SMALLEST_GATING_BLOCK)
    if block > _LARGEST_GATING_BLOCK:
        return None
    channels = min(power_of_two(max(key_dim, value_dim)), _LARGEST_GATING_TILE // block)
    return GatingTile(block, channels, max(1, block * channels // _GATING_NUMBERS_PER_WARP))


def prefers_walk(edges: int, levels: int) -> bool:
    """Return if a block in state form is walked by one program: it has few edges on a level."""
    return edges <= _EDGES_PER_LAUNCH * levels


class StateTile(NamedTuple):
    """Sizes of a Triton program in state form: all key channels, some of the value channels."""

    key: int
    value: int
    warps: int


def state_tile(key_dim: int, value_dim: int) -> StateTile:
    """The tile of a state that one program takes."""
    key = power_of_two(key_dim)
    value = min(power_of_two(value_dim), _LARGEST_STATE_TILE // key)
    return StateTile(key, value, max(1, key * value // _STATE_NUMBERS_PER_WARP))


def power_of_two(count: int) -> int:
    """The least power of two that is not below a count."""
    return 1 << max(count - 1, 0).bit_length()
