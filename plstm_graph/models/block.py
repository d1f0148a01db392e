"""The pre-norm residual block that networks are made of, and what it mixes nodes by."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm

from plstm_graph.conv import PLSTMConv
from plstm_graph.models.dropout import Dropout
from plstm_graph.models.graphs import Graphs

#: Over a node's channels, or over a batch's nodes channel by channel.
Norm = Literal["layer", "batch"]
#: Nodes may be read out as they are, too.
ReadoutNorm = Literal[Norm, "none"]

#: Scale of the scan's output map at the start of training.
SCAN_START = 0.1


class ResidualBlock(nn.Module):
    """x + mixer(norm(x)), then x + feed-forward(norm(x)).

    Args:
        channels: width.
        mixer: a module from :class:`Graphs` to nodes [N, channels].
        dropout: probability, behind the mixer and behind the feed-forward maps.
        norm: ``"layer"`` or ``"batch"``.
    """

    def __init__(self, channels: int, mixer: nn.Module, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels)
        self.mixer = mixer
        self.dropout = Dropout(dropout)
        self.feed_forward = nn.Sequential(make_norm(norm, channels), feed_forward(channels, 2 * channels))

    def forward(self, graphs: Graphs) -> Tensor:
        """Nodes [N, channels] from graphs with encoded features."""
        x = graphs.x
        x = x + self.dropout(self.mixer(graphs._replace(x=self.norm(x))))
        return x + self.dropout(self.feed_forward(x))


class LocalMixer(nn.Module):
    """Message passing between neighbours.

    Args:
        conv: a layer of PyG.
        takes_edges: whether it is called with edge features.
    """

    def __init__(self, conv: nn.Module, takes_edges: bool) -> None:
        super().__init__()
        self.conv = conv
        self.takes_edges = takes_edges

    def forward(self, graphs: Graphs) -> Tensor:
        """Pass messages: [N, channels]."""
        edges = [graphs.edge_attr] if self.takes_edges else []
        return self.conv(graphs.x, graphs.edge_index, *edges)


class ScanMixer(nn.Module):
    """The sum of a scan that crosses the graph and of message passing between neighbours, if there is any.

    Args:
        scan: the layer.
        local: the mixer that is added, or ``None``.
    """

    def __init__(self, scan: PLSTMConv, local: LocalMixer | None) -> None:
        super().__init__()
        self.scan = scan
        self.local = local
        with torch.no_grad():  # products of three maps, summed over a molecule, would outweigh the rest
            scan.lin_out.weight.mul_(SCAN_START)

    def forward(self, graphs: Graphs) -> Tensor:
        """Sum of both: [N, channels]."""
        mixed = self.scan(graphs.x, graphs.edge_index, graphs.edge_attr, dag=graphs.dag)
        return mixed if self.local is None else mixed + self.local(graphs)


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
