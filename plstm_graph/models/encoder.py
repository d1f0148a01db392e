"""Encoders make channels for the blocks of a graph's own features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from plstm_graph.chem import ATOM_FEATURE_DIMS, BOND_FEATURE_DIMS
from plstm_graph.dag.walks import walks_of
from plstm_graph.errors import InputError
from plstm_graph.kernels.scan import is_transformed, is_watched
from plstm_graph.ranges import MANY, WIDE, check_range


class CategoryEncoder(nn.Module):
    """It sums a vector for the category in each column.

    From the same seed, OGB's columns get the numbers that its ``AtomEncoder`` and ``BondEncoder`` give them.

    Args:
        dims: number of categories of every column.
        channels: width of the vectors.

    Source: Hu et al., Open Graph Benchmark, arXiv 2005.00687.
    """

    dims: Tensor
    starts: Tensor  # of the columns' vectors, among all

    def __init__(self, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.columns = nn.ModuleList()
        for dim in dims:
            column = nn.Embedding(dim, channels)
            nn.init.xavier_uniform_(column.weight)
            self.columns.append(column)
        self.register_buffer("dims", torch.tensor(dims), persistent=False)
        self.register_buffer("starts", self.dims.cumsum(0) - self.dims, persistent=False)

    def forward(self, categories: Tensor) -> Tensor:
        """Categories int64 [rows, columns] to [rows, channels].

        Raises:
            InputError: a column has no such category. On a GPU it is torch that complains, without a number.
        """
        outside = (categories < 0) | (categories >= self.dims)
        if outside.is_cuda or is_watched() or is_transformed():
            torch._assert_async(~outside.any(), "A column of the features has no such category.")
        elif outside.any():
            raise InputError(self._out_of_range(categories, outside))
        # Vectors by column, added one after the other, take ten times as long.
        table = torch.cat(list(self.columns.parameters()))
        return F.embedding_bag(categories + self.starts, table, mode="sum")

    def _out_of_range(self, categories: Tensor, outside: Tensor) -> str:
        row, column = outside.nonzero()[0].tolist()
        return (
            f"Column {column} of the features takes 0 to {int(self.dims[column]) - 1}, but row {row} has "
            f"{categories[row, column]}; plstm_graph.chem.smiles_to_data makes such features."
        )


class GraphEncoder(nn.Module):
    """It maps node and edge features to channels, and adds random-walk encodings to the nodes.

    Args:
        channels: width of what it gives.
        in_channels: number of floating-point node features; ``None`` for OGB's atom and bond features.
        edge_dim: number of floating-point edge features; ``None`` for none, or for OGB's.
        walk_length: number of random-walk encodings, see :class:`~plstm_graph.dag.AddRandomWalkPE`; 0 for
            none.

    Raises:
        InputError: ``edge_dim`` without ``in_channels``, or a number that is out of its range.
    """

    def __init__(
        self, channels: int, in_channels: int | None, edge_dim: int | None, walk_length: int
    ) -> None:
        super().__init__()
        if in_channels is None and edge_dim is not None:
            raise InputError("edge_dim is for features other than OGB's; give in_channels too.")
        check_range(0, MANY, walk_length=walk_length)
        check_range(1, WIDE, in_channels=in_channels, edge_dim=edge_dim)
        self.in_channels = in_channels
        self.edge_dim = edge_dim
        self.walk_length = walk_length
        self.nodes: nn.Module
        self.edges: nn.Module | None = None
        if in_channels is None:
            self.nodes = CategoryEncoder(ATOM_FEATURE_DIMS, channels)
            self.edges = CategoryEncoder(BOND_FEATURE_DIMS, channels)
        else:
            self.nodes = nn.Linear(in_channels, channels)
            if edge_dim is not None:
                self.edges = nn.Linear(edge_dim, channels)
        self.walks = nn.Linear(walk_length, channels, bias=False) if walk_length else None
        #: Width of the encoded edge features; None if edges have none.
        self.edge_width = None if self.edges is None else channels

    def forward(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """Encoded node features [N, channels] and edge features [C, channels] of a graph or batch."""
        self._check_features(data)
        x = self.nodes(data.x)
        if self.walks is not None:
            x = x + self.walks(walks_of(data, self.walk_length).to(x.dtype))
        return x, None if self.edges is None else self.edges(data.edge_attr)

    def _check_features(self, data: Data) -> None:
        """Refuse features that the encoders would misread or could not read."""
        ogb = self.in_channels is None
        wanted = {
            "x": len(ATOM_FEATURE_DIMS) if ogb else self.in_channels,
            "edge_attr": len(BOND_FEATURE_DIMS) if ogb else self.edge_dim,
        }
        for name, columns in wanted.items():
            if columns is None:
                continue
            values = data.get(name)
            fits = values is not None and values.dim() == 2 and values.size(1) == columns
            if fits and (values.dtype == torch.int64 if ogb else values.is_floating_point()):
                continue
            found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
            if ogb:
                raise InputError(
                    f"{name} must hold OGB's features, int64 [rows, {columns}], not {found}; "
                    "plstm_graph.chem.smiles_to_data makes them."
                )
            raise InputError(f"{name} must be of floating point and [rows, {columns}], not {found}.")
