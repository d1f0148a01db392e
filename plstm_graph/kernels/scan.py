"""The scan of the fused and the dense backends: custom ops, and their derivatives of every kind.

A derivative of a scan is made of scans again, by the same backend: one recurrence, whatever the order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.chunkwise import chunkwise_backward, chunkwise_forward
from plstm_graph.kernels.components import expand_gates
from plstm_graph.kernels.cpu import cpu_backward, cpu_forward
from plstm_graph.kernels.forward_mode import lower_tangents
from plstm_graph.kernels.gating import gating_backward, gating_forward

#: Inputs: query, key, value and direct of nodes, then source, transition and mark of [directions, E or L, H].
_NODES, _INPUTS = 4, 7

#: Tensors of the structure.
_STRUCTURE = 8

#: Where the heads of the inputs stand.
_HEAD_AXES = (1, 1, 1, 1, 2, 2, 2)


def scan(inputs: Sequence[Tensor], dag: LineGraph, backend: str) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions."""
    structure = (dag.src, dag.dst, dag.pred_ptr, dag.pred, dag.succ, dag.level, dag.node_ptr, dag.edge_ptr)
    run = _scan_untraced if is_transformed() else _stm
    return run(*inputs, *structure, backend)


def is_transformed() -> bool:
    """Return if ``torch.func`` or forward mode is at work.

    An op of torch.library has no forward mode, whose tangents would be lost silently, and no torch.func.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_watched() -> bool:
    """Return if a compiler, a tracer or a counter looks at every op, and would miss what reads memory."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


@torch.library.custom_op("plstm_graph::stm", mutates_args=())
def _stm(
    query: Tensor, key: Tensor, value: Tensor, direct: Tensor,
    source: Tensor, transition: Tensor, mark: Tensor,
    src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, succ: Tensor, level: Tensor,
    node_ptr: Tensor, edge_ptr: Tensor, backend: str,
) -> Tensor:  # fmt: skip
    """Output [N, H, V]; gates are [directions, E or L, H], the second direction on the reversed DAG."""
    dag = _dag(query.size(0), src, dst, pred_ptr, pred, succ, level, node_ptr, edge_ptr)
    forward, _ = _passes(backend)
    return forward((query, key, value, direct), (source, transition, mark), dag)


@_stm.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return torch.empty_like(value, dtype=query.dtype, memory_format=torch.contiguous_format)


@torch.library.custom_op("plstm_graph::stm_backward", mutates_args=())
def _stm_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, direct: Tensor,
    source: Tensor, transition: Tensor, mark: Tensor,
    src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, succ: Tensor, level: Tensor,
    node_ptr: Tensor, edge_ptr: Tensor, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the seven inputs."""
    dag = _dag(query.size(0), src, dst, pred_ptr, pred, succ, level, node_ptr, edge_ptr)
    _, backward = _passes(backend)
    return tuple(backward(grad, (query, key, value, direct), (source, transition, mark), dag))  # type: ignore[return-value]


@_stm_backward.register_fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:_INPUTS])


def _passes(backend: str) -> tuple[Callable[..., Tensor], Callable[..., list[Tensor]]]:
    """Forward and backward pass of a backend with a backward pass of its own."""
    if backend == "cpu":
        return cpu_forward, cpu_backward
    if backend == "gating":
        return gating_forward, gating_backward
    if backend == "chunkwise":
        return chunkwise_forward, chunkwise_backward
    from plstm_graph.kernels.triton import triton_backward, triton_forward  # not installed everywhere

    return triton_forward, triton_backward


def _dag(
    num_nodes: int, src: Tensor, dst: Tensor, pred_ptr: Tensor, pred: Tensor, succ: Tensor, level: Tensor,
    node_ptr: Tensor, edge_ptr: Tensor,
) -> LineGraph:  # fmt: skip
    """The line graph again inside the op, which takes tensors only."""
    return LineGraph(
        num_nodes=num_nodes, src=src, dst=dst, pred_ptr=pred_ptr, pred=pred, succ=succ, level=level,
        node_ptr=node_ptr, edge_ptr=edge_ptr,
    )  # fmt: skip


class _Scan(torch.autograd.Function):
    """The op, of the same arguments, with rules for all transforms.

    The line graph is among them as tensors, because transforms wrap what is made in them.
    """

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return _stm(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        ctx.backend = inputs[-1]
        ctx.save_for_backward(*inputs[:-1])  # the inputs only: everything else is recomputed
        ctx.save_for_forward(*inputs[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_ScanBackward.apply(grad, *ctx.saved_tensors, ctx.backend), *[None] * (_STRUCTURE + 1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        with lower_tangents(ctx.saved_tensors) as saved:
            return _tangent(saved, tangents[:_INPUTS], ctx.backend)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        folded = _fold(arguments[:_INPUTS], in_dims, info.batch_size, _HEAD_AXES)
        output = _scan_untraced(*folded, *arguments[_INPUTS:])
        return output.unflatten(1, (info.batch_size, -1)), 1


class _ScanBackward(torch.autograd.Function):
    """The gradients of :class:`_Scan`: of grad · scan(inputs), from grad and the op's arguments."""

    @staticmethod
    def forward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return _stm_backward(grad, *arguments)

    setup_context = _Scan.setup_context

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """Weighted with w, the gradients of g · scan(x) sum to g · J(x) w, with the tangent J(x) w for w."""
        grad, *saved = ctx.saved_tensors
        tangent, pull = _tangent_vjp(saved, weights, ctx.backend)
        return tangent, *pull(grad), *[None] * (_STRUCTURE + 1)

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor, *tangents: Tensor) -> tuple[Tensor, ...]:
        """Linear in the gradient; along the inputs, the derivatives of a gradient are symmetric."""
        with lower_tangents(ctx.saved_tensors) as (grad, *saved):
            along_grad = _ScanBackward.apply(grad_tangent, *saved, ctx.backend)
            _, pull = _tangent_vjp(saved, tangents[:_INPUTS], ctx.backend)
            return tuple(a + b for a, b in zip(along_grad, pull(grad), strict=True))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        inputs, rest = arguments[: _INPUTS + 1], arguments[_INPUTS + 1 :]
        folded = _fold(inputs, in_dims, info.batch_size, (1, *_HEAD_AXES))
        grads = _backward_untraced(*folded, *rest)
        unfolded = (x.unflatten(a, (info.batch_size, -1)) for x, a in zip(grads, _HEAD_AXES, strict=True))
        return tuple(unfolded), _HEAD_AXES


_stm.register_autograd(_Scan.backward, setup_context=_Scan.setup_context)


# The compiler cannot trace autograd functions under transforms, or breaks down.
_scan_untraced, _backward_untraced = (
    torch.compiler.disable(function.apply) for function in (_Scan, _ScanBackward)
)


def _sorted_out(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], LineGraph]:
    """Nodes, gates and DAG from the op's tensors."""
    nodes, gates, structure = tensors[:_NODES], tensors[_NODES:_INPUTS], tensors[_INPUTS:]
    return nodes, gates, _dag(nodes[0].size(0), *structure)


def _fold(
    tensors: Sequence[Tensor], in_dims: Sequence[int | None], size: int, axes: Sequence[int]
) -> list[Tensor]:
    """Samples of a batch as heads, which know nothing of each other either."""
    folded = []
    for x, dim, axis in zip(tensors, in_dims, axes, strict=False):
        if dim is None:
            x = x.unsqueeze(axis).expand(*x.shape[:axis], size, *x.shape[axis:])
        else:
            x = x.movedim(dim, axis)
        folded.append(x.flatten(axis, axis + 1))
    return folded


def _tangent(tensors: Sequence[Tensor], tangents: Sequence[Tensor], backend: str) -> Tensor:
    r"""Derivative of the output along ``tangents`` of the seven inputs.

    Query, key and value bring one scan each, by the product rule: they are more heads of one scan. For the
    gates, states and their tangents are the two components of one state,

    .. math::
        \begin{pmatrix} C_e \\ \dot C_e \end{pmatrix}
        = \begin{pmatrix} S_e \\ \dot S_e \end{pmatrix} k_{src(e)} v_{src(e)}^T
        + \sum_{(e',e)} \begin{pmatrix} T_{e'e} & 0 \\ \dot T_{e'e} & T_{e'e} \end{pmatrix}
        \begin{pmatrix} C_{e'} \\ \dot C_{e'} \end{pmatrix}

    which the marks (Ṁ, M) read. Args: ``tensors`` are the op's. Complexity: that of a scan with three times
    the heads, and of one with states of two components.
    """
    nodes, gates, dag = _sorted_out(tensors)
    query, key, value, direct = nodes
    query_dot, key_dot, value_dot, direct_dot = tangents[:_NODES]
    products = (query_dot, query, query), (key, key_dot, key), (value, value, value_dot), [direct] * 3
    side_by_side = [torch.cat(x, dim=1) for x in products] + [torch.cat([x] * 3, dim=2) for x in gates]
    of_query, of_key, of_value = scan(side_by_side, dag, backend).chunk(3, dim=1)
    directions = []
    for source, transition, mark, *dotted in zip(*gates, *tangents[_NODES:], strict=True):
        source_dot, transition_dot, mark_dot = dotted
        rows = [transition, torch.zeros_like(transition)], [transition_dot, transition]
        matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # [L, H, 2, 2]
        directions.append((torch.stack([source, source_dot], -1), matrix, torch.stack([mark_dot, mark], -1)))
    expanded, dual = expand_gates(directions, dag)
    dual_gates = [torch.stack(kind) for kind in zip(*expanded, strict=True)]
    of_gates = scan([query, key, value, direct_dot, *dual_gates], dual, backend)
    return of_query + of_key + of_value + of_gates


def _tangent_vjp(tensors: Sequence[Tensor], tangents: Sequence[Tensor], backend: str) -> tuple[Any, ...]:
    """The tangent, and its gradients of the seven inputs as a function of its gradient."""
    inputs, structure = tensors[:_INPUTS], tensors[_INPUTS:]

    def tangent(*inputs: Tensor) -> Tensor:
        return _tangent([*inputs, *structure], tangents, backend)

    return torch.func.vjp(tangent, *inputs)
