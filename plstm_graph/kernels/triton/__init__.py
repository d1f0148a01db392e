"""GPU kernels in Triton: small blocks in gating form, one launch a bucket; large ones in state form."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from plstm_graph.dag import LineGraph
from plstm_graph.kernels.triton.gating import gating_backward, gating_forward
from plstm_graph.kernels.triton.plan import plan_of
from plstm_graph.kernels.triton.state import state_backward, state_forward


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
        if plan.states is not None:
            state_forward(out, nodes, gates, plan.links, plan.states)
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
        if plan.states is not None:
            state_backward(grads, grad, nodes, gates, plan.links, plan.states)
    return grads


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().contiguous() for x in tensors]


def _on_device(tensor: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()
