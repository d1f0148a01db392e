"""The source-transition-mark op: one differentiable function in front of all backends."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph, LineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.kernels.checks import (
    check_backend,
    check_direct,
    check_gates,
    check_mode,
    check_nodes,
    check_unbatched,
)
from plstm_graph.kernels.components import expand_gates
from plstm_graph.kernels.cost import Backend, choose_backend
from plstm_graph.kernels.gates import Gates
from plstm_graph.kernels.gating import gating_entries
from plstm_graph.kernels.lattice import stm_lattice
from plstm_graph.kernels.reference import stm_reference
from plstm_graph.kernels.scan import scan

Mode = Literal["P", "D"]


def stm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    dag: LineGraphDAG,
    *,
    mode: Mode = "P",
    reverse: Gates | tuple[Tensor, Tensor, Tensor] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Let values cross a DAG by source, transition and mark gates.

    .. math::
        C_e = S_e \, k_{src(e)} v_{src(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'}, \qquad
        h_n = \sum_{e: dst(e) = n} M_e \, q_n^T C_e + D_n (q_n \cdot k_n) v_n

    All edges and lines stand in the order of ``dag``.

    Args:
        query, key: [N, H, K].
        value: [N, H, V].
        source, mark: [E, H], or [E, H, J] for states of J components, [J, K, V].
        transition: [L, H], or [L, H, J, J] from the last index to the one before. A stable scan needs
            Σ‖T‖ ≤ 1 over the successors of an edge (P-mode) or ‖T‖ ≤ 1 (D-mode); the op takes any.
        direct: [N, H].
        dag: the structure, on the same device.
        mode: ``"P"`` uses all lines, ``"D"`` those of the multitree.
        reverse: (source, transition, mark) of the reversed DAG, which is added in the same pass; gate i
            belongs to edge or line i of ``dag``, walked from its end to its start.
        backend: ``"reference"`` (by level, differentiable torch), ``"gating"`` (dense, any device),
            ``"chunkwise"`` (dense within chunks, any device), ``"lattice"`` (sequences and grids in
            logarithmic depth, any device), ``"cpu"`` (fused), ``"triton"`` (fused, GPU), or ``"auto"``
            (see :mod:`plstm_graph.kernels.cost`).

    Returns:
        [N, H, V], in the dtype of ``query``. Sums are kept in float32 or better. On the CPU the result is
        bitwise the same for any number of threads and whatever else is in the batch.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode or backend.

    Complexity: (pairs joined by a path)·(K + V) a head in gating form, (E + L)·K·V in state form; the
    fused kernel takes the cheaper for every block. J components count as J·E edges and J²·L lines.
    Source: arXiv 2506.11997, Section 3 and Appendix A.

    Example:
        A path of three nodes whose gates are all open sums the values of a node and its ancestors:

        >>> import torch
        >>> from plstm_graph import LineGraphDAG, stm
        >>> dag = LineGraphDAG.from_edge_index(torch.tensor([[0, 1], [1, 2]]))
        >>> query = key = torch.ones(3, 1, 1)
        >>> value = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
        >>> source = mark = torch.ones(dag.num_edges, 1)
        >>> transition, direct = torch.ones(dag.num_lines, 1), torch.ones(3, 1)
        >>> stm(query, key, value, source, transition, mark, direct, dag).flatten()
        tensor([  1.,  11., 111.])
    """
    nodes, gates = [query, key, value, direct], _of_directions(source, transition, mark, reverse)
    check_mode(mode)
    check_nodes(query, key, value, direct, dag)
    check_gates(gates, query.size(1), dag)
    stacked, graph = _stack(gates, dag, mode)
    check_backend(backend, graph, query.size(2))
    if backend == "auto":
        backend = choose_backend(graph, query.size(2))
    if backend != "triton":  # whose kernels convert what they load
        # Sums in half precision would lose what a long path carries.
        dtype = torch.promote_types(query.dtype, torch.float32)
        nodes, stacked = [x.to(dtype) for x in nodes], [x.to(dtype) for x in stacked]
    if backend == "reference":
        return stm_reference(nodes, stacked, graph).to(query.dtype)
    if backend == "lattice" and graph.lattice is not None:
        return stm_lattice(nodes, stacked, graph, graph.lattice).to(query.dtype)
    return scan([*nodes, *stacked], graph, backend).to(query.dtype)


def gating_matrix(
    source: Tensor,
    transition: Tensor,
    mark: Tensor,
    direct: Tensor,
    dag: LineGraphDAG,
    *,
    mode: Mode = "P",
    reverse: Gates | tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gating matrix by which :func:`stm` weights query-key products, of every direction apart.

    .. math:: G = M_{inc} (I - T)^{-1} S_{inc} + \mathrm{diag}(D), \qquad H = (G \circ Q K^T) V

    Args: as those of :func:`stm`.

    Returns:
        receiver and sender, int64 [P], of all pairs of nodes that a path joins, and of every node with
        itself, in ascending order; and the entries of G, [P, W, H], for W = 1 or, with ``reverse``, 2
        directions. Direct gates are in the first.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode.

    Complexity: O(s³ H log depth) for a block of s edges. Source: arXiv 2506.11997, Appendix A.
    """
    gates = _of_directions(source, transition, mark, reverse)
    check_mode(mode)
    check_unbatched(source, transition, mark, direct)
    heads = source.size(1) if source.dim() > 1 else 1
    check_gates(gates, heads, dag)
    check_direct(direct, dag, heads)
    stacked, graph = _stack(gates, dag, mode)
    dtype = torch.promote_types(direct.dtype, torch.float32)  # as the scan itself
    receiver, sender, entries = gating_entries(direct.to(dtype), [x.to(dtype) for x in stacked], graph)
    return receiver, sender, entries.to(direct.dtype)


def _of_directions(
    source: Tensor, transition: Tensor, mark: Tensor, reverse: Sequence[Tensor] | None
) -> list[Gates]:
    """The gates of the DAG's own direction and, if there are any, of the reversed one."""
    own = Gates(source, transition, mark)
    if reverse is not None and len(reverse) != 3:
        raise InputError(f"reverse must be source, transition and mark, not {len(reverse)} tensors.")
    return [own] if reverse is None else [own, Gates(*reverse)]


def _stack(gates: list[Gates], dag: LineGraphDAG, mode: Mode) -> tuple[list[Tensor], LineGraph]:
    """Source, transition and mark as [directions, E or L, H], zero on the lines that the mode leaves out.

    With them comes their line graph: that of the DAG, or one of the states' components.
    """
    directions: Sequence[tuple[Tensor, ...]] = gates
    graph: LineGraph = dag
    if mode == "D":
        kept = dag.multitree.view(-1, *[1] * (gates[0].transition.dim() - 1))
        directions = [(s, torch.where(kept, transition, 0), m) for s, transition, m in gates]
    if gates[0].source.dim() == 3:
        directions, graph = expand_gates(directions, dag)
    # A view of one direction's gates, which need no copy.
    stacked = [
        kind[0].unsqueeze(0) if len(kind) == 1 else torch.stack(kind)
        for kind in zip(*directions, strict=True)
    ]
    return stacked, graph
