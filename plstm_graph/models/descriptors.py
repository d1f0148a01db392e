"""Descriptors of graphs: numbers that are known of each beside its nodes and edges."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plstm_graph.errors import InputError
from plstm_graph.ranges import WIDE, check_range

#: Deviations from the mean at which descriptors are clipped: some of RDKit's grow with a factorial.
_CLIP = 5.0

#: What channels are multiplied by: beside an embedding of a thousand, sixty are learned too slowly without.
_SCALE = 4.0


class DescriptorEncoder(nn.Module):
    r"""It maps descriptors of graphs to channels, which every head of a network reads beside an embedding.

    With :math:`m_j` 1 where descriptor j is missing and 0 elsewhere, mean :math:`\mu` and deviation
    :math:`\sigma` over the training graphs:

    .. math::
        z_j = (1 - m_j) \, \mathrm{clip}\big((d_j - \mu_j) / \sigma_j, -5, 5\big) \qquad
        h = 4 \, \mathrm{GELU}(W [z, m] + b)

    A missing value so counts as the mean, and is flagged. What is constant over the training graphs says
    nothing: its z is 0.

    Args:
        descriptors: number of descriptors D.
        channels: width of h.

    Complexity: O(graphs · descriptors · channels).
    """

    mean: Tensor
    scale: Tensor  # 1 / sigma, 0 where that is 0: finite, as averages of weights need it
    fitted: Tensor

    def __init__(self, descriptors: int, channels: int) -> None:
        super().__init__()
        check_range(1, WIDE, descriptors=descriptors)
        self.lin = nn.Linear(2 * descriptors, channels)
        self.register_buffer("mean", torch.zeros(descriptors))
        self.register_buffer("scale", torch.ones(descriptors))
        self.register_buffer("fitted", torch.tensor(0))  # a number: averages of weights need one

    def fit(self, values: Tensor) -> None:
        """Take mean and deviation from training graphs [n, D], NaN where missing, unless they are known."""
        self.check(values)
        if self.fitted:
            return
        values = values.double()
        mean = values.nanmean(0).nan_to_num()
        std = (values - mean).square().nanmean(0).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 0, 1 / std, 0.0))
        self.fitted.fill_(1)

    def forward(self, values: Tensor | None) -> Tensor:
        """Descriptors [num_graphs, D], NaN where missing, to [num_graphs, channels].

        Raises:
            InputError: there are none, or not that many.
        """
        scaled = self.standardise(values)
        missing = self.check(values).isnan()
        return _SCALE * F.gelu(self.lin(torch.cat([scaled, missing.to(scaled)], dim=1)))

    def standardise(self, values: Tensor | None) -> Tensor:
        """z of descriptors [num_graphs, D]; :class:`InputError` as in the call."""
        values = self.check(values).to(self.mean)
        return ((values - self.mean) * self.scale).clamp(-_CLIP, _CLIP).nan_to_num(0.0)

    def check(self, values: Tensor | None) -> Tensor:
        """Return the descriptors of a batch, if they are as many as the network reads.

        Raises:
            InputError: they are not.
        """
        wanted = self.mean.numel()
        if values is None or values.dim() != 2 or values.size(1) != wanted:
            found = "nothing" if values is None else list(values.shape)
            raise InputError(
                f"The network reads descriptors [num_graphs, {wanted}] of a batch, not {found}; for a "
                "checkpoint's, smiles_to_data(smiles, predictor.descriptor_names) computes them."
            )
        return values
