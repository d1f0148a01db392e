"""One DAG for all layers that are called with the same ``edge_index``."""

import threading

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from plstm_graph.dag import LineGraphDAG, Orientation

# edge_index → {(orientation, nodes, version): dag}; an entry goes with its tensor.
_dags: WeakIdKeyDictionary = WeakIdKeyDictionary()
_lock = threading.Lock()


def shared_dag(
    edge_index: Tensor,
    x: Tensor,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    orientation: Orientation,
) -> LineGraphDAG:
    """The DAG that ``edge_index`` was last given, or a new one.

    The first caller's ``x`` and ``edge_attr`` break ties between nodes that the structure leaves equal, so
    that a model orients its input by the input's features and all its layers see one DAG. A tensor that
    was changed in place counts as new.
    """

    def build() -> LineGraphDAG:
        return LineGraphDAG.from_edge_index(
            edge_index, x.size(0), rank=orientation, batch=batch, node_labels=x, edge_labels=edge_attr
        )

    if edge_index.is_inference():  # such tensors do not count their changes
        return build()
    name = orientation if isinstance(orientation, str) else id(orientation)
    key = (name, x.size(0), edge_index._version)
    with _lock:
        known = _dags.setdefault(edge_index, {})
        if key in known:
            return known[key][0]
    dag = build()
    with _lock:
        # Entries of older versions are of no more use; a rank kept with its DAG keeps its id taken.
        for old in [k for k in known if k[2] != edge_index._version]:
            del known[old]
        return known.setdefault(key, (dag, orientation))[0]
