"""Networks that pass messages between neighbours alone, in PLSTM's skeleton, for comparison."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GCNConv, GINConv, GINEConv, MessagePassing
from torch_geometric.typing import OptTensor

from plstm_graph.errors import InputError
from plstm_graph.kernels.cpu.messages import gine_sum
from plstm_graph.kernels.scan import is_transformed, is_watched
from plstm_graph.models.block import LocalMixer, feed_forward
from plstm_graph.models.network import GraphNetwork
from plstm_graph.ranges import MANY, check_range


class _FusedGINEConv(GINEConv):
    """GINEConv that sums messages as it makes them, where nothing asks for gradients on a CPU."""

    # What PyG explains by. GINEConv, once built, has one of its own that reads no masks, and hands it on.
    propagate = MessagePassing.propagate

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        traced = torch.is_grad_enabled() or is_watched() or is_transformed()
        wide = x.dtype == edge_attr.dtype and x.dtype in (torch.float32, torch.float64)
        if traced or self.explain or not wide or x.device.type != "cpu":
            return super().forward(x, edge_index, edge_attr)
        return self.nn(gine_sum(x, edge_index, edge_attr, 1 + float(self.eps)))

    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        return x_j.add_(edge_attr).relu_()  # no tensor of a network is larger, or copied so often


def gin_mixer(channels: int, edge_width: int | None) -> LocalMixer:
    """GINE where edges have features, GIN where they have none."""
    if edge_width is None:
        return LocalMixer(GINConv(feed_forward(channels, channels)), takes_edges=False)
    return LocalMixer(_FusedGINEConv(feed_forward(channels, channels)), takes_edges=True)


class LocalNetwork(GraphNetwork, ABC):
    """Graphs to predictions by message passing between neighbours.

    Args:
        out_channels: number of predictions for a graph.
        hidden_channels: width.
        num_layers: number of blocks, and of edges that a node sees.
        **network: Arguments of :class:`~plstm_graph.models.GraphNetwork`.

    Raises:
        InputError: a number that is out of its range, or no edge features for a layer that needs them.
    """

    def __init__(
        self, out_channels: int = 1, hidden_channels: int = 96, num_layers: int = 4, **network: Any
    ) -> None:
        check_range(1, MANY, num_layers=num_layers)
        super().__init__(
            lambda edge_width: (self.mixer(hidden_channels, edge_width) for _ in range(num_layers)),
            out_channels,
            hidden_channels,
            **network,
        )
        self.num_layers = num_layers

    @staticmethod
    @abstractmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """The message passing of a block."""


class GIN(LocalNetwork):
    """Graph isomorphism network, blind to edge features (Xu et al., arXiv 1810.00826)."""

    @staticmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """Sum of neighbours, then two linear maps."""
        return gin_mixer(channels, None)


class GINE(LocalNetwork):
    """GIN with edge features, which OGB calls GIN (Hu et al., arXiv 1905.12265)."""

    @staticmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """Sum of neighbours and edges, then two linear maps."""
        if edge_width is None:
            raise InputError("GINE needs edge features, and these graphs have none; take GIN.")
        return gin_mixer(channels, edge_width)


class GCN(LocalNetwork):
    """Graph convolutional network, blind to edge features (Kipf and Welling, arXiv 1609.02907)."""

    @staticmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """Mean of neighbours, weighted by degrees."""
        return LocalMixer(GCNConv(channels, channels), takes_edges=False)


class GAT(LocalNetwork):
    """Graph attention network with four heads (Brody et al., arXiv 2105.14491, GATv2)."""

    @staticmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """Attention among neighbours, which edge features steer."""
        heads = 4
        if channels % heads:
            raise InputError(f"hidden_channels of GAT must be a multiple of {heads}, not {channels}.")
        return LocalMixer(
            GATv2Conv(channels, channels // heads, heads, edge_dim=edge_width),
            takes_edges=edge_width is not None,
        )


class MPNN(LocalNetwork):
    """Message passing neural network (Gilmer et al., arXiv 1704.01212) with a perceptron for messages."""

    @staticmethod
    def mixer(channels: int, edge_width: int | None) -> LocalMixer:
        """Sum of messages that depend on both ends and the edge."""
        return LocalMixer(_MessageConv(channels, edge_width), takes_edges=True)


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
