"""pLSTM graph layers for molecular DAGs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plstm_graph.conv import PLSTMConv
    from plstm_graph.dag import LineGraphDAG, ToLineGraphDAG
    from plstm_graph.kernels import stm
    from plstm_graph.models import PLSTM

__version__ = "0.1.0"
__all__ = ["PLSTM", "LineGraphDAG", "PLSTMConv", "ToLineGraphDAG", "stm"]

# Loaded when first asked for: the command line says what it can do without waiting for torch.
_MODULES = {
    "PLSTM": "plstm_graph.models",
    "LineGraphDAG": "plstm_graph.dag",
    "PLSTMConv": "plstm_graph.conv",
    "ToLineGraphDAG": "plstm_graph.dag",
    "stm": "plstm_graph.kernels",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
