"""Sums over the segments of a CSR layout: torch_scatter's kernel where it is installed, torch's where not."""

import torch
from torch import Tensor

try:
    from torch_scatter import segment_csr
except ImportError:
    segment_csr = None


def segment_sum(values: Tensor, ptr: Tensor) -> Tensor:
    """Sum ``values[ptr[i] : ptr[i+1]]`` for every i, in order and without atomics.

    Args:
        values: [M, …].
        ptr: [S+1] int64, ascending from 0 to M.

    Returns:
        [S, …]; zeros where a segment is empty.
    """
    if segment_csr is not None:
        return segment_csr(values, ptr, reduce="sum")
    if values.size(0) == 0:  # segment_reduce refuses empty data
        return values.new_zeros(ptr.size(0) - 1, *values.shape[1:])
    return torch.segment_reduce(values, "sum", offsets=ptr, axis=0, initial=0)
