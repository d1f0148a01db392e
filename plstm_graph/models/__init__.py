"""Networks from molecules to predictions."""

from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.gine import GINE
from plstm_graph.models.network import MoleculeNetwork
from plstm_graph.models.plstm import PLSTM

__all__ = ["GINE", "PLSTM", "MoleculeNetwork", "ResidualBlock"]
