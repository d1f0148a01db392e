"""RMS norm of heads with an ε of 1, and its derivative along a direction, compiled."""

import numpy as np

from plstm_graph.compiled import kernel


@kernel
def normalise(heads, out):
    """out = h / sqrt(1 + mean(h h)) for every head h of nodes [N, H, K]."""
    nodes, count, channels = heads.shape
    zero, one = heads.dtype.type(0), heads.dtype.type(1)
    for n in range(nodes):
        for h in range(count):
            square = zero
            for c in range(channels):
                square += heads[n, h, c] * heads[n, h, c]
            scale = one / np.sqrt(one + square / heads.dtype.type(channels))
            for c in range(channels):
                out[n, h, c] = heads[n, h, c] * scale


@kernel
def multiply_by_jacobian(heads, direction, out):
    """out = r (d - y mean(y d)) for every head h and its direction d, with r h = y, the norm."""
    nodes, count, channels = heads.shape
    zero, one = heads.dtype.type(0), heads.dtype.type(1)
    for n in range(nodes):
        for h in range(count):
            square, product = zero, zero
            for c in range(channels):
                square += heads[n, h, c] * heads[n, h, c]
                product += heads[n, h, c] * direction[n, h, c]
            scale = one / np.sqrt(one + square / heads.dtype.type(channels))
            back = scale * scale * product / heads.dtype.type(channels)
            for c in range(channels):
                out[n, h, c] = scale * (direction[n, h, c] - back * heads[n, h, c])
