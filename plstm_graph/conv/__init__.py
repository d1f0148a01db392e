"""Graph layers."""

from plstm_graph.conv.gating_matrix import GatingMatrix
from plstm_graph.conv.plstm_conv import PLSTMConv
from plstm_graph.conv.states import StateGates

__all__ = ["GatingMatrix", "PLSTMConv", "StateGates"]
