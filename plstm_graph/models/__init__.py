"""Networks from graphs to predictions."""

from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.grid import GridNetwork, GridPLSTM, ViT
from plstm_graph.models.local import GAT, GCN, GIN, GINE, MPNN, LocalNetwork
from plstm_graph.models.network import GraphNetwork
from plstm_graph.models.plstm import PLSTM

__all__ = [
    "GAT",
    "GCN",
    "GIN",
    "GINE",
    "MPNN",
    "PLSTM",
    "GraphNetwork",
    "GridNetwork",
    "GridPLSTM",
    "LocalNetwork",
    "ResidualBlock",
    "ViT",
]
