"""The source-transition-mark op and its backends."""

from plstm_graph.kernels.cost import Backend
from plstm_graph.kernels.op import Gates, Mode, gating_matrix, stm

__all__ = ["Backend", "Gates", "Mode", "gating_matrix", "stm"]
