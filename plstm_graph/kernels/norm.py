"""RMS norm of heads with an ε of 1, on a CPU in one pass over them, with derivatives of every kind and order.

torch's own is a chain of operations on a CPU, each of which reads and writes all heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.kernels.cpu import norm as kernels
from plstm_graph.kernels.cpu.threads import run_over_ranges
from plstm_graph.kernels.forward_mode import lower_tangents

#: Multiply-adds that take as long as reading, normalising and writing a channel.
_WORK_PER_CHANNEL = 4.0


def rms_norm(heads: Tensor) -> Tensor:
    r"""Divide every head by the root of 1 + its mean square, which leaves small heads nearly alone.

    .. math:: \eta(h) = h / \sqrt{1 + \tfrac{1}{K} \lVert h \rVert^2}
        = \nabla_h \; K \sqrt{1 + \tfrac{1}{K} \lVert h \rVert^2}

    Args:
        heads: [..., H, K], float32 or float64.

    Returns:
        The same shape; no root mean square of a head exceeds 1.

    Complexity: O(channels).
    """
    if heads.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(heads, heads.shape[-1:], eps=1.0)  # one kernel, there
    return _Norm.apply(heads)


@torch.library.custom_op("plstm_graph::rms_norm", mutates_args=(), device_types="cpu")
def _normalise(heads: Tensor) -> Tensor:
    """The norm of heads."""
    return _run(kernels.normalise, heads)


@torch.library.custom_op("plstm_graph::rms_norm_tangent", mutates_args=(), device_types="cpu")
def _multiply_by_jacobian(heads: Tensor, direction: Tensor) -> Tensor:
    """The norm's derivative along a direction, which is its gradient too: its Jacobian is symmetric."""
    return _run(kernels.multiply_by_jacobian, heads, direction)


@_normalise.register_fake
@_multiply_by_jacobian.register_fake
def _(heads: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(heads, memory_format=torch.contiguous_format)


def _run(compiled: Callable[..., None], *tensors: Tensor) -> Tensor:
    """Run compiled code over nodes [N, H, K], however many dimensions stand before the last two."""
    out = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    arrays = [x.detach().contiguous().flatten(0, -3).numpy() for x in (*tensors, out)]
    work = np.full(len(arrays[0]), _WORK_PER_CHANNEL * out.size(-2) * out.size(-1))
    run_over_ranges(partial(_on_range, compiled, arrays), work)
    return out


def _on_range(compiled: Callable[..., None], arrays: list[Any], first: int, last: int) -> None:
    compiled(*(x[first:last] for x in arrays))


class _Norm(torch.autograd.Function):
    """The norm, with rules for all transforms."""

    @staticmethod
    def forward(heads: Tensor) -> Tensor:
        return _normalise(heads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: object) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Derivative.apply(*ctx.saved_tensors, grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        with lower_tangents(ctx.saved_tensors) as (heads,):
            return _Derivative.apply(heads, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], heads: Tensor) -> tuple[Tensor, int]:
        return _Norm.apply(heads.movedim(in_dims[0], 0)), 0


class _Derivative(torch.autograd.Function):
    """The derivative of :class:`_Norm` along a direction."""

    @staticmethod
    def forward(heads: Tensor, direction: Tensor) -> Tensor:
        return _multiply_by_jacobian(heads, direction)

    setup_context = _Norm.setup_context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        heads, direction = ctx.saved_tensors
        return _second_derivative(heads, direction, grad), _Derivative.apply(heads, grad)

    @staticmethod
    def jvp(ctx: Any, heads_tangent: Tensor, direction_tangent: Tensor) -> Tensor:
        with lower_tangents(ctx.saved_tensors) as (heads, direction):
            along_heads = _second_derivative(heads, direction, heads_tangent)
            return along_heads + _Derivative.apply(heads, direction_tangent)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], heads: Tensor, direction: Tensor
    ) -> tuple[Tensor, int]:
        both = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip((heads, direction), in_dims, strict=True)
        )
        return _Derivative.apply(*both), 0


def _second_derivative(heads: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The norm's derivative along two directions, symmetric in them and in what it is multiplied with."""

    def mean(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).mean(-1, keepdim=True)

    inverse = (1 + mean(heads, heads)).reciprocal()
    along_first, along_second = mean(heads, first), mean(heads, second)
    on_heads = 3 * inverse * along_first * along_second - mean(first, second)
    return inverse**1.5 * (on_heads * heads - along_second * first - along_first * second)
