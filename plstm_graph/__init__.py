"""pLSTM graph layers for molecular DAGs."""

from typing import TYPE_CHECKING

from plstm_graph.lazy import lazy_names

if TYPE_CHECKING:
    from plstm_graph.conv import PLSTMConv
    from plstm_graph.dag import LineGraphDAG, ToLineGraphDAG
    from plstm_graph.kernels import stm
    from plstm_graph.models import PLSTM

__version__ = "0.1.0"
__all__ = ["PLSTM", "LineGraphDAG", "PLSTMConv", "ToLineGraphDAG", "stm"]

# The command line says what it can do without waiting for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PLSTM": "plstm_graph.models",
        "LineGraphDAG": "plstm_graph.dag",
        "PLSTMConv": "plstm_graph.conv",
        "ToLineGraphDAG": "plstm_graph.dag",
        "stm": "plstm_graph.kernels",
    },
)
