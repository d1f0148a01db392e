"""Sums over the segments of a CSR layout: torch_scatter's kernel where it is installed, torch's where not."""

from typing import Any

import torch
from torch import Tensor

try:
    from torch_scatter import segment_csr
except ImportError:
    segment_csr = None


def segment_sum(values: Tensor, ptr: Tensor) -> Tensor:
    """Sum ``values[ptr[i] : ptr[i+1]]`` for every i, in order and without atomics.

    It has derivatives of any order, in reverse and in forward mode, and runs under :func:`torch.vmap`.

    Args:
        values: [M, …].
        ptr: [S+1] int64, ascending from 0 to M.

    Returns:
        [S, …]; zeros where a segment is empty.
    """
    return _Segments.apply(values, ptr, None)


def _sum(values: Tensor, ptr: Tensor) -> Tensor:
    if segment_csr is not None:
        return segment_csr(values, ptr, reduce="sum")
    if values.size(0) == 0:  # segment_reduce refuses empty data
        return values.new_zeros(ptr.size(0) - 1, *values.shape[1:])
    return torch.segment_reduce(values, "sum", offsets=ptr, axis=0, initial=0)


class _Segments(torch.autograd.Function):
    """The sums of segments or, of a given number of members, the transposed map: each gets its segment's row.

    Both are linear and each is the gradient of the other. The kernels' own gradients have none themselves.
    """

    @staticmethod
    def forward(rows: Tensor, ptr: Tensor, members: int | None) -> Tensor:
        if members is None:
            return _sum(rows, ptr)
        return rows.repeat_interleave(ptr.diff(), dim=0, output_size=members)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int | None], output: Tensor) -> None:
        rows, ptr, ctx.members = inputs
        ctx.transposed = rows.size(0) if ctx.members is None else None
        ctx.save_for_backward(ptr)
        ctx.save_for_forward(ptr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Segments.apply(grad, *ctx.saved_tensors, ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Segments.apply(tangent, *ctx.saved_tensors, ctx.members)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], rows: Tensor, ptr: Tensor, members: int | None
    ) -> tuple[Tensor, int]:
        return _Segments.apply(rows.movedim(in_dims[0], 1), ptr, members), 1
