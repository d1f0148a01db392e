"""The source-transition-mark op and its backends."""

from plstm_graph.kernels.cost import Backend
from plstm_graph.kernels.gates import Gates, gates_of
from plstm_graph.kernels.layout import HeadLayout, HeadMode
from plstm_graph.kernels.op import Mode, gating_matrix, stm

__all__ = ["Backend", "Gates", "HeadLayout", "HeadMode", "Mode", "gates_of", "gating_matrix", "stm"]
