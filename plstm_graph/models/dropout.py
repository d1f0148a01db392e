"""Dropout whose masks are drawn quickly on a CPU."""

import numpy as np
import torch
from torch import Tensor, nn

from plstm_graph.kernels.scan import is_transformed, is_watched

#: Numbers that a mask's are compared with: 16 random bits each.
_VALUES = 1 << 16


class Dropout(nn.Dropout):
    """Dropout, with a probability that is rounded to 16 bits on a CPU and a scale that makes up for it.

    torch draws a number of 64 bits for every channel there, one by one, which takes an eighth of a training
    step. Here its generator gives the seed of one that fills the mask at once: the same seed of torch repeats
    the same masks.

    Args:
        p: probability.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels of x in training; the others are scaled."""
        dropped = round(self.p * _VALUES)
        plain = x.device.type != "cpu" or is_watched() or is_transformed()
        if not self.training or plain or not 0 < dropped < _VALUES:
            return super().forward(x)
        seed = int(torch.randint(2**63 - 1, ()))
        raw = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))  # four numbers each
        numbers = torch.from_numpy(raw.view(np.int16))[: x.numel()].view(x.shape)
        kept = numbers >= dropped - _VALUES // 2  # signed, as torch computes with them
        return x * kept.to(x.dtype).mul_(_VALUES / (_VALUES - dropped))
