"""GPU kernels in Triton: small blocks in gating form, one launch a bucket; large ones level by level."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.triton.gating import gating_backward, gating_forward
from plstm_graph.kernels.triton.level import level_backward, level_forward
from plstm_graph.kernels.triton.plan import Levels, plan_of


def triton_forward(nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph) -> Tensor:
    """Output [N, H, V] for (query, key, value, direct) and (source, transition, mark) of W directions.

    Inputs may be of any floating dtypes, the output is of the query's; sums are kept in float32 or better.
    """
    nodes, gates = _contiguous(nodes), _contiguous(gates)
    out = torch.empty_like(nodes[2], dtype=nodes[0].dtype)
    plan = plan_of(dag, nodes[1].size(2), nodes[2].size(2))
    with _on_device(out):
        for bucket in plan.buckets:
            gating_forward(out, nodes, gates, dag, plan.links, bucket)
        if plan.levels is not None:
            part = level_forward(*_select(nodes, gates, plan.levels), plan.levels)
            out[plan.levels.nodes] = part.to(out.dtype)
    return out


def triton_backward(
    grad: Tensor, nodes: Sequence[Tensor], gates: Sequence[Tensor], dag: LineGraph
) -> list[Tensor]:
    """Gradients of ``nodes`` and ``gates`` (see :func:`triton_forward`) for the gradient of the output."""
    nodes, gates, grad = _contiguous(nodes), _contiguous(gates), grad.contiguous()
    grads = [torch.empty_like(x) for x in (*nodes, *gates)]
    plan = plan_of(dag, nodes[1].size(2), nodes[2].size(2))
    with _on_device(grad):
        for bucket in plan.buckets:
            gating_backward(grads, grad, nodes, gates, dag, plan.links, bucket)
        levels = plan.levels
        if levels is not None:
            inner_nodes, inner_gates = _select(nodes, gates, levels)
            inner_grad = grad[levels.nodes].to(inner_nodes[0].dtype)
            parts = level_backward(inner_grad, inner_nodes, inner_gates, levels)
            for whole, part in zip(grads[:4], parts[:4], strict=True):
                whole[levels.nodes] = part.to(whole.dtype)
            numbers = (levels.edges, levels.lines, levels.edges)
            for whole, part, number in zip(grads[4:], parts[4:], numbers, strict=True):
                whole[:, number] = part.to(whole.dtype)
    return grads


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().contiguous() for x in tensors]


def _on_device(tensor: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def _select(
    nodes: Sequence[Tensor], gates: Sequence[Tensor], levels: Levels
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs of the blocks that go by level, in their order and in the dtype of the sums."""
    dtype = torch.promote_types(nodes[0].dtype, torch.float32)
    numbers = (levels.edges, levels.lines, levels.edges)
    return (
        [x[levels.nodes].to(dtype) for x in nodes],
        [x[:, number].to(dtype) for x, number in zip(gates, numbers, strict=True)],
    )
