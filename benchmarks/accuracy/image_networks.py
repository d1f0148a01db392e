"""Networks for images: square grids of patches, which are the nodes, numbered row by row."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from plstm_graph.conv import PLSTMConv
from plstm_graph.dag import LineGraphDAG, grid_dag
from plstm_graph.errors import InputError
from plstm_graph.models.block import SCAN_START, feed_forward, make_norm
from plstm_graph.models.branch import NodeReadout
from plstm_graph.models.graphs import Graphs


class GridNetwork(nn.Module):
    """Patches to predictions: two convolutions, then blocks that know where in the grid a patch stands.

    The convolutions tell a patch of its neighbours, 5 x 5, since what is drawn is larger than a patch.

    Args:
        block: makes a block from its number; it is called with patches [N, hidden_channels], the number of
            images and the side of their grid.
        num_layers: number of blocks.
        out_channels: number of predictions for an image.
        hidden_channels: width.
        dropout: probability, in blocks and head.
        readout: how patches make an image.
        in_channels: number of pixels of a patch.
    """

    def __init__(
        self,
        block: Callable[[int], nn.Module],
        num_layers: int,
        out_channels: int,
        hidden_channels: int,
        dropout: float,
        readout: str,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.encoder = nn.Linear(in_channels, hidden_channels)
        self.blocks = nn.ModuleList(block(number) for number in range(num_layers))
        self.readout = NodeReadout(hidden_channels, readout, "layer", layers=1)
        self.head = nn.Sequential(
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_channels, out_channels),
        )

        def convolution() -> nn.Module:
            return nn.Conv2d(hidden_channels, hidden_channels, kernel_size=3, padding=1)

        self.stem = nn.Sequential(nn.GELU(), convolution(), nn.GELU(), convolution())

    def forward(self, data: Data) -> Tensor:
        """Predict [images, out_channels] for a batch of square grids with patches ``x`` [N, in_channels].

        Raises:
            InputError: The graphs are no square grids of one size.
        """
        graphs = Graphs.from_data(data, edges=False)
        num_graphs = graphs.num_graphs
        side = math.isqrt(data.x.size(0) // max(num_graphs, 1))
        counts = torch.bincount(graphs.batch, minlength=num_graphs)
        if not (counts == side * side).all():
            raise InputError("The images of a batch must be square grids of one size, patch by patch.")
        x = self.encoder(data.x)
        images = x.view(num_graphs, side, side, -1).permute(0, 3, 1, 2)  # [images, channels, rows, columns]
        x = x + self.stem(images).permute(0, 2, 3, 1).reshape(x.shape)
        x = self.add_positions(x, num_graphs, side)
        for block in self.blocks:
            x = block(x, num_graphs, side)
        return self.head(self.readout(graphs, [[x]]))

    def add_positions(self, x: Tensor, num_graphs: int, side: int) -> Tensor:
        """Add to encoded patches what tells their positions, if blocks do not see them."""
        return x


class GridPLSTM(GridNetwork):
    """Images by scans in four directions, in D- and P-mode in turn; no position is encoded.

    D-mode comes first: it tells every patch what there is, by which the next block's P-mode can turn.

    Args:
        out_channels: number of predictions for an image.
        hidden_channels: width.
        num_layers: number of blocks.
        heads: number of heads of every scan.
        head_dim: query, key and value channels of every head.
        dropout: probability, in blocks and head.
        readout: how patches make an image.
        in_channels: number of pixels of a patch.

    Source: arXiv 2506.11997, Sections 3 and 5.1.
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 64,
        num_layers: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        dropout: float = 0.0,
        readout: str = "mean",
        in_channels: int = 16,
    ) -> None:
        def block(number: int) -> nn.Module:
            return _ScanBlock(hidden_channels, heads, head_dim, "P" if number % 2 else "D", dropout)

        super().__init__(block, num_layers, out_channels, hidden_channels, dropout, readout, in_channels)
        self.heads = heads
        self.head_dim = head_dim


class _ScanBlock(nn.Module):
    """x + scans in four directions of norm(x), then x + feed-forward(norm(x))."""

    def __init__(self, channels: int, heads: int, head_dim: int | None, mode: Any, dropout: float) -> None:
        super().__init__()
        self.norm = make_norm("layer", channels)
        # Each goes down and, on the reversed DAG, up; one to the right and back, one to the left and back.
        scans = [
            PLSTMConv(channels, channels, heads, mode, head_dim=head_dim, root_weight=False) for _ in range(2)
        ]
        self.scans = nn.ModuleList(scans)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(make_norm("layer", channels), feed_forward(channels, 2 * channels))
        with torch.no_grad():
            for scan in scans:
                scan.lin_out.weight.mul_(SCAN_START)

    def forward(self, x: Tensor, num_graphs: int, side: int) -> Tensor:
        normed, mixed = self.norm(x), torch.zeros_like(x)
        for scan, leftwards in zip(self.scans, (False, True), strict=True):
            dag = _grids(num_graphs, side, leftwards, x.device)
            mixed = mixed + scan(normed, torch.stack([dag.src, dag.dst]), dag=dag)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(x))


@lru_cache(maxsize=8)
def _grids(num_graphs: int, side: int, leftwards: bool, device: torch.device) -> LineGraphDAG:
    """The same for all blocks, and for all batches but the last of an epoch."""
    dag = LineGraphDAG.batch([grid_dag(side, side, leftwards)] * num_graphs)
    return replace(dag, edge_id=torch.arange(dag.num_edges)).to(device)  # columns in the order of its edges


class ViT(GridNetwork):
    """A vision transformer (Dosovitskiy et al., arXiv 2010.11929) with sines and cosines of the positions.

    Args:
        out_channels: number of predictions for an image.
        hidden_channels: width, a multiple of 4 and of heads.
        num_layers: number of blocks.
        heads: number of heads of the attention.
        dropout: probability, in blocks and head.
        readout: how patches make an image.
        in_channels: number of pixels of a patch.

    Raises:
        InputError: A width that does not fit.
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 64,
        num_layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        readout: str = "mean",
        in_channels: int = 16,
    ) -> None:
        if hidden_channels % 4 or hidden_channels % heads:
            raise InputError(f"hidden_channels must be a multiple of 4 and of heads, not {hidden_channels}.")

        def block(number: int) -> nn.Module:
            return _AttentionBlock(hidden_channels, heads, dropout)

        super().__init__(block, num_layers, out_channels, hidden_channels, dropout, readout, in_channels)
        self.heads = heads

    def add_positions(self, x: Tensor, num_graphs: int, side: int) -> Tensor:
        """Half of the channels tell the row, half the column, by wavelengths from 2π to 20,000π patches."""
        quarter = x.size(1) // 4
        rate = 10_000 ** -(torch.arange(quarter, device=x.device, dtype=x.dtype) / quarter)
        angle = torch.arange(side, device=x.device, dtype=x.dtype).unsqueeze(1) * rate
        code = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, channels / 2]
        rows, columns = code.repeat_interleave(side, 0), code.repeat(side, 1)
        return x + torch.cat([rows, columns], dim=1).repeat(num_graphs, 1)


class _AttentionBlock(nn.Module):
    """One pre-norm transformer layer within every image."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            channels, heads, 4 * channels, dropout, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, x: Tensor, num_graphs: int, side: int) -> Tensor:
        return self.layer(x.unflatten(0, (num_graphs, side * side))).flatten(0, 1)
