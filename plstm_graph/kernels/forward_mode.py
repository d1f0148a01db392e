"""Derivatives in forward mode need this beyond torch's rules for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.autograd import forward_ad


@contextmanager
def lower_tangents(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Let a ``jvp`` have tangents of its own, along those of transforms around the one that it serves.

    Around a ``jvp``, torch turns tangents off at all levels, and jvp of jvp would lack terms silently. The
    tensors come back without those of the level itself.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield [forward_ad.unpack_dual(x).primal for x in tensors]
