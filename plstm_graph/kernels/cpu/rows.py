"""Rows of a block's nodes at one head: read from and written to a tensor's columns, and normed (Numba).

A tensor [N, columns] is (its memory from the first of the columns that are meant, numbers from row to row).
"""

import numpy as np

from plstm_graph.compiled import kernel_inner
from plstm_graph.kernels.cpu.vectors import padded


@kernel_inner
def scratch(nodes, dims, like):
    """Memory for rows of the largest block: query, key, value, their gradients, output and its gradient."""
    shape, dtype = (padded(nodes), padded(max(dims[1], dims[2]))), like.dtype
    rows = (np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype))
    grads = (np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype))
    outputs = (np.zeros(shape, dtype), np.zeros(shape, dtype))
    return rows, grads, outputs, np.ones((2, nodes), dtype)


@kernel_inner
def load(tensor, h, dim, block, out):
    """out[:count] = the block's rows at head h, zeros in the padding."""
    memory, stride = tensor
    for n in range(block[1]):
        start = (block[0] + n) * stride + h * dim
        for j in range(dim):
            out[n, j] = memory[start + j]
        for j in range(dim, out.shape[1]):
            out[n, j] = 0


@kernel_inner
def store(rows, h, dim, block, tensor):
    """The other way."""
    memory, stride = tensor
    for n in range(block[1]):
        start = (block[0] + n) * stride + h * dim
        for j in range(dim):
            memory[start + j] = rows[n, j]


@kernel_inner
def normalise(rows, count, dim, largest, factor, scales):
    """Scale rows by a factor f and s = 1 / sqrt(1 + mean(h h) / r²), in place; ``scales`` [count] keep s.

    Without f, no root mean square of a row exceeds r, the ``largest``.
    """
    zero, one, channels = rows.dtype.type(0), rows.dtype.type(1), rows.dtype.type(dim) * largest * largest
    for n in range(count):
        square = zero
        for j in range(dim):
            square += rows[n, j] * rows[n, j]
        scales[n] = one / np.sqrt(one + square / channels)
        scale = scales[n] * factor
        for j in range(dim):
            rows[n, j] *= scale


@kernel_inner
def normalise_backward(grads, rows, count, dim, largest, factor, scales):
    """The gradient of rows before they were normed, in place: s f (d - y Σ(y d) / (f² r² K))."""
    zero, channels = rows.dtype.type(0), rows.dtype.type(dim) * largest * largest
    for n in range(count):
        product = zero
        for j in range(dim):
            product += rows[n, j] * grads[n, j]
        back = product / (factor * factor * channels)
        scale = scales[n] * factor
        for j in range(dim):
            grads[n, j] = scale * (grads[n, j] - back * rows[n, j])
