"""From OGB's atom and bond features to one prediction a molecule: what all networks here share."""

from collections.abc import Sequence

import torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.resolver import aggregation_resolver

from plstm_graph.dag import LineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.models.block import ResidualBlock

#: Columns of OGB's atom and bond features.
ATOM_FEATURES, BOND_FEATURES = 9, 3


class MoleculeNetwork(nn.Module):
    """Encoders, residual blocks, readout and head.

    Args:
        blocks: applied in turn.
        out_channels: predictions a molecule.
        hidden_channels: width.
        dropout: in the head.
        readout: how atoms make a molecule: ``"mean"``, ``"sum"``, ``"max"`` or another of PyG's names.
    """

    def __init__(
        self,
        blocks: Sequence[ResidualBlock],
        out_channels: int,
        hidden_channels: int,
        dropout: float,
        readout: str,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        self.num_layers = len(blocks)
        self.dropout = dropout
        self.readout = readout
        self.atom_encoder = AtomEncoder(hidden_channels)
        self.bond_encoder = BondEncoder(hidden_channels)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_channels)
        self.pool: Aggregation = aggregation_resolver(readout)
        self.head = nn.Sequential(
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_channels, out_channels),
        )

    def forward(self, data: Data) -> Tensor:
        """Predict [num_graphs, out_channels] for a graph or a batch.

        Args:
            data: ``x`` [N, 9] and ``edge_attr`` [C, 3] int64 (OGB's features), ``edge_index`` [2, C].

        Raises:
            InputError: other features than OGB's.
        """
        return self.head(self.embed(data))

    def embed(self, data: Data) -> Tensor:
        """Embed every graph: [num_graphs, hidden_channels], the input of the head."""
        _check_features(data)
        x, edge_attr = self.atom_encoder(data.x), self.bond_encoder(data.edge_attr)
        dag = self.dag(data)
        for block in self.blocks:
            x = block(x, data.edge_index, edge_attr, dag)
        batch, num_graphs = data.get("batch"), getattr(data, "num_graphs", 1)
        if batch is None:
            batch, num_graphs = data.edge_index.new_zeros(x.size(0)), 1
        return self.pool(self.norm(x), batch, dim_size=num_graphs)

    def dag(self, data: Data) -> LineGraphDAG | None:
        """The DAG that the blocks' scans share; none without scans."""
        return None


def _check_features(data: Data) -> None:
    """Refuse features that OGB's encoders would misread."""
    for name, columns in (("x", ATOM_FEATURES), ("edge_attr", BOND_FEATURES)):
        values = data.get(name)
        if values is None or values.dim() != 2 or values.size(1) != columns or values.dtype != torch.int64:
            found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
            raise InputError(
                f"{name} must hold OGB's features, int64 [rows, {columns}], not {found}; "
                "plstm_graph.chem.smiles_to_data makes them."
            )
