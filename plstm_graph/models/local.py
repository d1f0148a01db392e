"""Networks that pass messages between neighbours alone, in PLSTM's skeleton, for comparison."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GCNConv, GINConv, GINEConv, MessagePassing
from torch_geometric.typing import OptTensor

from plstm_graph.errors import InputError
from plstm_graph.models.block import Norm, ReadoutNorm, ResidualBlock, feed_forward
from plstm_graph.models.fingerprint import CHANNELS, HASHES, RADIUS
from plstm_graph.models.network import GraphNetwork, JumpingKnowledge


class IgnoringEdges(nn.Module):
    """A layer of node features and edges that takes edge features too and leaves them unread."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: OptTensor) -> Tensor:
        """Node features [N, channels] to the same."""
        return self.conv(x, edge_index)


def gin_conv(channels: int, edge_width: int | None) -> nn.Module:
    """GINE where edges have features, GIN where they have none."""
    if edge_width is None:
        return IgnoringEdges(GINConv(feed_forward(channels, channels)))
    return GINEConv(feed_forward(channels, channels))


class LocalNetwork(GraphNetwork, ABC):
    """Graphs to predictions by message passing between neighbours.

    Args:
        out_channels: predictions a graph.
        hidden_channels: width.
        num_layers: blocks; as many edges as a node sees.
        dropout: in blocks and head.
        norm: before every branch: ``"layer"`` of a node's channels, ``"batch"`` of a batch's nodes, channel
            by channel.
        readout_norm: norm before the readout, by default ``norm``. ``"none"`` keeps how much each atom adds,
            for properties that sum up.
        readout: how nodes make a graph, see :class:`~plstm_graph.models.network.GraphNetwork`.
        jk: ``"last"`` reads the last block out, ``"cat"`` every block and the encoder.
        in_channels: columns of floating-point node features; ``None`` for OGB's atom and bond features.
        edge_dim: columns of floating-point edge features; ``None`` for none, or for OGB's.
        walk_length: steps of the random walks that encode where a node stands; 0 for none.
        fingerprint_size: counts of a circular fingerprint that is read out beside the nodes by heads of its
            own, for features that are categories; a prediction is the mean of all readouts. 0 for none.
        fingerprint_radius: of its largest environments, in edges.
        fingerprint_channels: that it is mapped to; each costs as many weights as there are counts.
        fingerprint_hashes: ways of hashing its environments, each with counts and a head of its own.

    Raises:
        InputError: the layer needs edge features and there are none.
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 96,
        num_layers: int = 4,
        dropout: float = 0.0,
        norm: Norm = "layer",
        readout_norm: ReadoutNorm | None = None,
        readout: str | list[str] = "mean",
        jk: JumpingKnowledge = "last",
        in_channels: int | None = None,
        edge_dim: int | None = None,
        walk_length: int = 0,
        fingerprint_size: int = 0,
        fingerprint_radius: int = RADIUS,
        fingerprint_channels: int = CHANNELS,
        fingerprint_hashes: int = HASHES,
    ) -> None:
        def block(number: int, edge_width: int | None) -> ResidualBlock:
            return ResidualBlock(hidden_channels, None, self.conv(hidden_channels, edge_width), dropout, norm)

        super().__init__(
            block,
            num_layers,
            out_channels,
            hidden_channels,
            dropout,
            norm,
            readout,
            jk,
            in_channels,
            edge_dim,
            walk_length,
            fingerprint_size,
            fingerprint_radius,
            fingerprint_channels,
            fingerprint_hashes,
            readout_norm,
        )

    @staticmethod
    @abstractmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """The layer of a block, called with x, edge_index and edge_attr."""


class GIN(LocalNetwork):
    """Graph isomorphism network, blind to edge features (Xu et al., arXiv 1810.00826)."""

    @staticmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """Sum of neighbours, then two linear maps."""
        return gin_conv(channels, None)


class GINE(LocalNetwork):
    """GIN with edge features, which OGB calls GIN (Hu et al., arXiv 1905.12265)."""

    @staticmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """Sum of neighbours and edges, then two linear maps."""
        if edge_width is None:
            raise InputError("GINE needs edge features, and these graphs have none; take GIN.")
        return gin_conv(channels, edge_width)


class GCN(LocalNetwork):
    """Graph convolutional network, blind to edge features (Kipf and Welling, arXiv 1609.02907)."""

    @staticmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """Mean of neighbours, weighted by degrees."""
        return IgnoringEdges(GCNConv(channels, channels))


class GAT(LocalNetwork):
    """Graph attention network with four heads (Brody et al., arXiv 2105.14491, GATv2)."""

    @staticmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """Attention among neighbours, which edge features steer."""
        heads = 4
        if channels % heads:
            raise InputError(f"hidden_channels of GAT must be a multiple of {heads}, not {channels}.")
        return GATv2Conv(channels, channels // heads, heads, edge_dim=edge_width)


class MPNN(LocalNetwork):
    """Message passing neural network (Gilmer et al., arXiv 1704.01212) with a perceptron for messages."""

    @staticmethod
    def conv(channels: int, edge_width: int | None) -> nn.Module:
        """Sum of messages that depend on both ends and the edge."""
        return _MessageConv(channels, edge_width)


class _MessageConv(MessagePassing):
    """Σ over neighbours m of f(x_n, x_m, e_mn), f a perceptron with one hidden layer."""

    def __init__(self, channels: int, edge_width: int | None) -> None:
        super().__init__(aggr="add")
        self.first = nn.Linear(2 * channels + (edge_width or 0), channels)
        self.second = nn.Linear(channels, channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: OptTensor) -> Tensor:
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: OptTensor) -> Tensor:
        ends = [x_i, x_j] if edge_attr is None else [x_i, x_j, edge_attr]
        return self.second(nn.functional.gelu(self.first(torch.cat(ends, dim=1))))
