"""Networks from graphs to predictions."""

from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.branch import Branch, NodeReadout
from plstm_graph.models.fingerprint import CircularFingerprint
from plstm_graph.models.gaussian_process import GaussianProcess
from plstm_graph.models.graphs import Graphs
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
    "Branch",
    "CircularFingerprint",
    "GaussianProcess",
    "GraphNetwork",
    "Graphs",
    "LocalNetwork",
    "NodeReadout",
    "ResidualBlock",
]
