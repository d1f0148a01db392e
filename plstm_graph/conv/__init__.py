"""Graph layers."""

from plstm_graph.conv.explanation import GatingMatrix
from plstm_graph.conv.gates import STMGates
from plstm_graph.conv.plstm_conv import PLSTMConv

__all__ = ["GatingMatrix", "PLSTMConv", "STMGates"]
