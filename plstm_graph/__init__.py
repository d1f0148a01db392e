"""pLSTM graph layers for molecular DAGs."""

from plstm_graph.conv import PLSTMConv
from plstm_graph.dag import LineGraphDAG, ToLineGraphDAG
from plstm_graph.kernels import stm
from plstm_graph.models import PLSTM

__version__ = "0.1.0"
__all__ = ["PLSTM", "LineGraphDAG", "PLSTMConv", "ToLineGraphDAG", "stm"]
