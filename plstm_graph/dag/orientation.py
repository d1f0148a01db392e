"""Orientation: rankings of the nodes, from the lower to the higher of which every bond points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.dag.bonds import Bonds
from plstm_graph.dag.distance import distance_from, distance_from_extremal_node
from plstm_graph.errors import InputError

OrientationName = Literal["center", "bfs", "canonical", "index"]


@dataclass(frozen=True)
class Root:
    """The orientation by distance from one node of every component.

    Args:
        position: position of the node in the canonical order of its component, from 0 to below 1; ``None``
            draws a node at random, by torch's numbers, whenever a graph is oriented.

    Raises:
        InputError: a position outside of that.
    """

    position: float | None = None

    def __post_init__(self) -> None:
        if self.position is not None and not 0 <= self.position < 1:
            raise InputError(f"the position of a root must be from 0 to below 1, not {self.position}.")


#: A name, a root, a rank for every node, or a function that gives one for a PyG graph.
Orientation = OrientationName | Root | Tensor | Callable[[Data], Tensor]


def rank_nodes(graph: Data, orientation: Orientation = "center") -> Tensor:
    """Rank the nodes of a graph; bonds point from the lower to the higher rank.

    - ``"center"``: by distance from the centre (the node of least eccentricity) of the component.
    - ``"bfs"``: by distance from an end of a longest shortest path of the component.
    - ``"canonical"``: by ``graph.canonical_rank``, or else by colour refinement.
    - ``"index"``: by the nodes' numbers.
    - :class:`Root`: by distance from a node that is drawn, or has its position in the canonical order.
    - a tensor [N] of ranks, or a function that returns one for the graph.

    Ties are broken canonically: by ``graph.canonical_rank`` [N] (RDKit's, see :mod:`plstm_graph.chem`) if
    the graph has it, else by ``graph.x`` and ``graph.edge_attr``, and then by colour refinement. Nodes
    that are still tied are automorphic but for graphs that refinement is known to confuse. A component
    that has a bond in one direction only is directed and is ranked by its own topological order.

    Args:
        graph: a graph or batch with ``edge_index`` [2, C].
        orientation: one of these.

    Returns:
        rank: [N] int64, a permutation of 0 … N-1 in which components follow each other.

    Raises:
        InputError: bad indices or ranks, or a directed cycle, which is named.

    Complexity: O(C log N) and a handful of breadth-first searches a component.
    """
    bonds = Bonds(graph.edge_index, graph.num_nodes, *tie_breakers(graph))
    return torch.from_numpy(rank_bonds(bonds, resolve(orientation, graph)))


def tie_breakers(graph: Data) -> tuple[Tensor | None, Tensor | None]:
    """Labels of the nodes [N, …] and the columns [C, …] of a graph, which break ties."""
    if graph.get("canonical_rank") is not None:
        return graph.canonical_rank, None
    return graph.get("x"), graph.get("edge_attr")


def check_orientation(orientation: Orientation) -> Orientation:
    """Return an orientation; InputError if it is none, or has an unknown name."""
    if isinstance(orientation, str) and orientation not in get_args(OrientationName):
        names = ", ".join(repr(name) for name in get_args(OrientationName))
        raise InputError(
            f"orientation {orientation!r} is unknown; use one of {names}, a Root, a tensor or a function."
        )
    if not isinstance(orientation, str | Root | Tensor) and not callable(orientation):
        raise InputError(
            f"orientation must be a name, a Root, a tensor or a function, not {type(orientation).__name__}."
        )
    return orientation


def resolve(orientation: Orientation, graph: Data) -> OrientationName | Root | Tensor:
    """Call an orientation that is a function; InputError if it, or what it returns, is none."""
    check_orientation(orientation)
    if isinstance(orientation, str | Root | Tensor):
        return orientation
    returned = check_orientation(orientation(graph))
    if not isinstance(returned, str | Root | Tensor):
        raise InputError("orientation is a function that returns another one; call that in the first.")
    return returned


def rank_bonds(bonds: Bonds, orientation: OrientationName | Root | Tensor) -> NDArray[np.int64]:
    """Rank of every node, for a name, a root or given ranks (see :func:`rank_nodes`)."""
    if isinstance(orientation, str) and orientation == "index":
        return bonds.refined(bonds.depth, np.arange(bonds.num_nodes))
    canonical = bonds.canonical_rank()
    ptr, nbr = bonds.adjacency.ptr, bonds.adjacency.nbr
    if isinstance(orientation, Tensor):
        first = _places(orientation, bonds.num_nodes)
    elif isinstance(orientation, Root):
        first = distance_from(_roots(bonds, orientation.position, canonical), ptr, nbr)
    elif orientation == "canonical" or bonds.in_directed.all():
        return canonical
    else:
        components = (bonds.component_ptr, bonds.members)
        first = distance_from_extremal_node(*components, ptr, nbr, canonical, orientation == "center")
    return bonds.refined(np.where(bonds.in_directed, bonds.depth, first), canonical)


def _places(rank: Tensor, num_nodes: int) -> NDArray[np.int64]:
    """Places [num_nodes] of given ranks among the different ones, without any rounding."""
    if rank.dim() != 1:
        raise InputError(f"a rank needs the shape [{num_nodes}], not {list(rank.shape)}.")
    if rank.size(0) != num_nodes:
        raise InputError(f"rank has {rank.size(0)} rows, but the graph has {num_nodes}.")
    if rank.is_complex() or rank.isnan().any():
        raise InputError("a rank needs real numbers that are not NaN.")
    return rank.detach().cpu().unique(return_inverse=True)[1].numpy()


def _roots(bonds: Bonds, position: float | None, canonical: NDArray[np.int64]) -> NDArray[np.int64]:
    """A node of every component: [components]."""
    sizes = np.diff(bonds.component_ptr)
    if position is None:
        offset, members = (
            torch.rand(len(sizes), dtype=torch.float64, device="cpu").numpy() * sizes,
            bonds.members,
        )
    else:
        # Components follow each other in the canonical order as they do in the list of members.
        offset, members = position * sizes, np.argsort(canonical)
    return members[bonds.component_ptr[:-1] + offset.astype(np.int64)]
