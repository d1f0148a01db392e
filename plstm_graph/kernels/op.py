"""The source-transition-mark op: one differentiable function in front of all backends."""

from typing import Literal

import torch
from torch import Tensor

from plstm_graph.dag import LineGraphDAG
from plstm_graph.kernels.checks import check_gates, check_names, check_nodes
from plstm_graph.kernels.cost import Backend, choose_backend
from plstm_graph.kernels.cpu import cpu_backward, cpu_forward
from plstm_graph.kernels.gating import gating_backward, gating_forward
from plstm_graph.kernels.reference import stm_reference

Mode = Literal["P", "D"]
Gates = tuple[Tensor, Tensor, Tensor]


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
    reverse: Gates | None = None,
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
        source, mark: [E, H].
        transition: [L, H]. A stable scan needs Σ|T| ≤ 1 over the successors of an edge (P-mode) or
            \|T\| ≤ 1 (D-mode); the op takes any.
        direct: [N, H].
        dag: the structure, on the same device.
        mode: ``"P"`` uses all lines, ``"D"`` those of the multitree.
        reverse: (source, transition, mark) of the reversed DAG, which is added in the same pass; gate i
            belongs to edge or line i of ``dag``, walked from its end to its start.
        backend: ``"reference"`` (by level, differentiable torch), ``"gating"`` (dense, any device), ``"cpu"``
            (fused), or ``"auto"`` (see :func:`plstm_graph.kernels.cost.choose_backend`).

    Returns:
        [N, H, V], in the dtype of ``query``. Sums are kept in float32 or better. On the CPU the result is
        bitwise the same for any number of threads and whatever else is in the batch.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an unknown mode or backend.

    Complexity: (pairs joined by a path)·(K + V) a head in gating form, (E + L)·K·V in state form; the
    fused kernel takes the cheaper for every block. Source: arXiv 2506.11997, Section 3 and Appendix A.
    """
    check_names(mode, backend, dag)
    check_nodes(query, key, value, direct, dag)
    gates = [(source, transition, mark)] + ([] if reverse is None else [reverse])
    for prefix, gate in zip(("", "reverse "), gates, strict=False):
        check_gates(prefix, *gate, query.size(1), dag)
    if mode == "D":
        keep = dag.multitree.unsqueeze(1)
        gates = [(s, torch.where(keep, t, 0), m) for s, t, m in gates]
    # Sums in half precision would lose what a long path carries.
    dtype = torch.promote_types(query.dtype, torch.float32)
    nodes = (query.to(dtype), key.to(dtype), value.to(dtype), direct.to(dtype))
    gates = [(s.to(dtype), t.to(dtype), m.to(dtype)) for s, t, m in gates]
    if backend == "auto":
        backend = choose_backend(dag)
    if backend == "reference":
        output = stm_reference(*nodes, gates, dag)
    else:
        structure = (dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.level, dag.node_ptr, dag.edge_ptr)
        output = _stm(
            *nodes, *gates[0], *(gates[1] if reverse is not None else (None, None, None)), *structure, backend
        )
    return output.to(query.dtype)


@torch.library.custom_op("plstm_graph::stm", mutates_args=())
def _stm(
    query: Tensor, key: Tensor, value: Tensor, direct: Tensor,
    source: Tensor, transition: Tensor, mark: Tensor,
    reverse_source: Tensor | None, reverse_transition: Tensor | None, reverse_mark: Tensor | None,
    src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, level: Tensor,
    node_ptr: Tensor, edge_ptr: Tensor, backend: str,
) -> Tensor:  # fmt: skip
    nodes = (query, key, value, direct)
    gates = _directions(source, transition, mark, reverse_source, reverse_transition, reverse_mark)
    if backend == "cpu":
        return cpu_forward(nodes, gates, (src, dst, pred_ptr, pred, node_ptr, edge_ptr))
    return gating_forward(
        *nodes, gates, _dag(query.size(0), src, dst, pred_ptr, pred, level, node_ptr, edge_ptr)
    )


@_stm.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@torch.library.custom_op("plstm_graph::stm_backward", mutates_args=())
def _stm_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, direct: Tensor,
    source: Tensor, transition: Tensor, mark: Tensor,
    reverse_source: Tensor | None, reverse_transition: Tensor | None, reverse_mark: Tensor | None,
    src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, level: Tensor,
    node_ptr: Tensor, edge_ptr: Tensor, backend: str,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the four node inputs, then of the gates of one or both directions."""
    nodes = (query, key, value, direct)
    gates = _directions(source, transition, mark, reverse_source, reverse_transition, reverse_mark)
    if backend == "cpu":
        node_grads, gate_grads = cpu_backward(
            grad, nodes, gates, (src, dst, pred_ptr, pred, node_ptr, edge_ptr)
        )
    else:
        dag = _dag(query.size(0), src, dst, pred_ptr, pred, level, node_ptr, edge_ptr)
        node_grads, gate_grads = gating_backward(grad, *nodes, gates, dag)
    return [*node_grads, *(x for gate in gate_grads for x in gate)]


@_stm_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, direct: Tensor,
    source: Tensor, transition: Tensor, mark: Tensor,
    reverse_source: Tensor | None, reverse_transition: Tensor | None, reverse_mark: Tensor | None,
    *_: object,
) -> list[Tensor]:  # fmt: skip
    gates = _directions(source, transition, mark, reverse_source, reverse_transition, reverse_mark)
    inputs = [query, key, value, direct, *(x for gate in gates for x in gate)]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:-1])  # the inputs only: everything else is computed anew
    ctx.backend = inputs[-1]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    grads = _stm_backward(grad, *ctx.saved_tensors, ctx.backend)
    if len(grads) == 7:
        grads = [*grads, None, None, None]
    return (*grads, *[None] * 8)


_stm.register_autograd(_backward, setup_context=_setup_context)


def _directions(
    source: Tensor, transition: Tensor, mark: Tensor,
    reverse_source: Tensor | None, reverse_transition: Tensor | None, reverse_mark: Tensor | None,
) -> list[Gates]:  # fmt: skip
    """The gates of one or both directions."""
    forward = (source, transition, mark)
    if reverse_source is None or reverse_transition is None or reverse_mark is None:
        return [forward]
    return [forward, (reverse_source, reverse_transition, reverse_mark)]


def _dag(
    num_nodes: int,
    src: Tensor,
    dst: Tensor,
    pred_ptr: Tensor,
    pred: Tensor,
    level: Tensor,
    node_ptr: Tensor,
    edge_ptr: Tensor,
) -> LineGraphDAG:
    """The structure again inside the op, which takes tensors only; ids and multitree play no part there."""
    return LineGraphDAG(num_nodes, src, src, dst, pred_ptr, pred, pred, pred, level, node_ptr, edge_ptr)
