"""Sequences and grids as line-graph DAGs."""

from dataclasses import replace

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import Lattice, LineGraphDAG
from plstm_graph.errors import InputError


def sequence_dag(length: int) -> LineGraphDAG:
    """The line graph of the path 0 → 1 → … → length - 1.

    Along it, a scan is a gated linear attention: causal, and over both sides with ``reverse`` gates.

    Args:
        length: nodes, at least 1.

    Raises:
        InputError: another length.

    Complexity: O(length). Source: arXiv 2506.11997, Appendix A.3.
    """
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}.")
    nodes = torch.arange(length)
    edges, lines = (torch.stack([part[:-1], part[1:]]) for part in (nodes, nodes[:-1]))
    dag = LineGraphDAG.from_lines(length, edges, lines)
    return replace(dag, lattice=Lattice(1, 1, length))


def grid_dag(height: int, width: int, leftwards: bool = False) -> LineGraphDAG:
    """The line graph of a grid whose edges point right and down: node (i, j) is i · width + j.

    A scan with ``reverse`` gates goes left and up as well; the grid whose edges point left and down gives
    the other two quarters. D-mode goes along a row first and then down a column, and not back into a row:
    from a node there is one way to every node below and to the right.

    Args:
        height, width: nodes, at least 1 each.
        leftwards: edges point left and down.

    Raises:
        InputError: another height or width.

    Complexity: O((height · width)²), for a multitree that gives way to this one. Source: arXiv 2506.11997,
    Appendix A.4.
    """
    if height < 1 or width < 1:
        raise InputError(f"height and width must be at least 1, not {height} and {width}.")
    node = torch.arange(height * width).view(height, width)
    row = node.flip(1) if leftwards else node
    across = torch.stack([row[:, :-1].flatten(), row[:, 1:].flatten()])
    down = torch.stack([row[:-1].flatten(), row[1:].flatten()])
    # Numbers of the edges that leave and enter every node, -1 at the border.
    leaving = torch.full((2, height, width), -1)
    entering = torch.full((2, height, width), -1)
    number = torch.arange(across.size(1)).view(height, width - 1)
    leaving[0, :, :-1] = entering[0, :, 1:] = number
    number = torch.arange(down.size(1)).view(height - 1, width) + across.size(1)
    leaving[1, :-1] = entering[1, 1:] = number
    lines, kept = _meeting(entering, leaving)
    dag = LineGraphDAG.from_lines(height * width, torch.cat([across, down], 1), lines)
    return replace(dag, multitree=kept[dag.line_id], lattice=Lattice(1, height, width, leftwards))


def _meeting(entering: Tensor, leaving: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs [2, L] of edges that meet at a node, and which of them D-mode keeps: not from down to across."""
    lines, kept = [], []
    for before in range(2):
        for after in range(2):
            pair = torch.stack([entering[before].flatten(), leaving[after].flatten()])
            pair = pair[:, (pair >= 0).all(0)]
            lines.append(pair)
            kept.append(torch.full((pair.size(1),), (before, after) != (1, 0)))
    return torch.cat(lines, 1), torch.cat(kept)
