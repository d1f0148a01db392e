"""The pre-norm residual block that all networks of this package are made of."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm

from plstm_graph.conv import GatingMatrix, PLSTMConv
from plstm_graph.dag import LineGraphDAG

#: Over a node's channels, or over a batch's nodes channel by channel.
Norm = Literal["layer", "batch"]
#: Nodes may be read out as they are, too.
ReadoutNorm = Literal[Norm, "none"]

#: Scale of the scan's output map at the start of training.
SCAN_START = 0.1


class ResidualBlock(nn.Module):
    """x + mix(norm(x)), then x + feed-forward(norm(x)).

    Mixing is the sum of a scan that crosses the graph and message passing between neighbours, or one
    of the two.

    Args:
        channels: width.
        scan: a :class:`~plstm_graph.PLSTMConv`, or ``None``.
        local: a layer that is called with x, edge_index and edge_attr, or ``None``.
        dropout: of both branches.
        norm: ``"layer"`` or ``"batch"``.
    """

    def __init__(
        self, channels: int, scan: PLSTMConv | None, local: nn.Module | None, dropout: float, norm: Norm
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels)
        self.scan = scan
        self.local = local
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(make_norm(norm, channels), feed_forward(channels, 2 * channels))
        if scan is not None:  # products of three maps, summed over a molecule, would outweigh the rest
            with torch.no_grad():
                scan.lin_out.weight.mul_(SCAN_START)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        dag: LineGraphDAG | None,
        gatings: list[GatingMatrix] | None = None,
    ) -> Tensor:
        """Node features [N, channels] to the same, with encoded edge features [C, channels] if there are.

        The scan appends its gating matrix to ``gatings``, if that is given.
        """
        normed = self.norm(x)
        mixed = []
        if self.scan is not None and gatings is not None:
            scanned, gating = self.scan(normed, edge_index, edge_attr, dag=dag, return_gating=True)
            mixed.append(scanned)
            gatings.append(gating)
        elif self.scan is not None:
            mixed.append(self.scan(normed, edge_index, edge_attr, dag=dag))
        if self.local is not None:
            mixed.append(self.local(normed, edge_index, edge_attr))
        x = x + self.dropout(sum(mixed[1:], start=mixed[0]))
        return x + self.dropout(self.feed_forward(x))


def make_norm(norm: ReadoutNorm, channels: int) -> nn.Module:
    """The normalisation of that name, for nodes [N, channels]."""
    if norm == "none":
        return nn.Identity()
    if norm == "layer":
        return nn.LayerNorm(channels)
    return BatchNorm(channels, allow_single_element=True)  # a last batch may be one atom


def feed_forward(channels: int, hidden: int) -> nn.Sequential:
    """Two linear maps with a GELU between."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
