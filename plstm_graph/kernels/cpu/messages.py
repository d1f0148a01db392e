"""Message passing between neighbours as one pass over the edges (Numba)."""

import numpy as np
from torch import Tensor

from plstm_graph.compiled import kernel
from plstm_graph.kernels.cpu.threads import run_over_ranges

_CHANNELS = 16  # that a thread takes at least: a line of the cache in float32


def gine_sum(x: Tensor, edge_index: Tensor, edge_attr: Tensor, own: float) -> Tensor:
    r"""Sum what GINE sends: :math:`y_i = \text{own} \cdot x_i + \sum_{j \to i} \mathrm{relu}(x_j + e_{ji})`.

    It has no gradient. Sums are taken in the order of the columns, whatever the number of threads.

    Args:
        x: [N, K], on the CPU, float32 or float64.
        edge_index: [2, C].
        edge_attr: [C, K], in the dtype of ``x``.
        own: factor of a node's own features.

    Returns:
        [N, K].

    Raises:
        IndexError: a column names no node, or has no features.

    Complexity: O((N + C) K), each number read once.
    """
    nodes, channels = x.shape
    columns = edge_index.size(1)
    if edge_attr.shape != (columns, channels):
        raise IndexError(f"edge_attr must be [{columns}, {channels}], not {list(edge_attr.shape)}.")
    if columns and (edge_index.min() < 0 or edge_index.max() >= nodes):
        raise IndexError(f"edge_index names nodes that are none of 0 to {nodes - 1}.")
    y = x * own
    arrays = [part.contiguous().numpy() for part in (x, edge_index, edge_attr)]

    def run(first: int, last: int) -> None:
        _add_messages(first * _CHANNELS, min(last * _CHANNELS, channels), *arrays, y.numpy())

    run_over_ranges(run, np.full(-(-channels // _CHANNELS), float(_CHANNELS * columns)))
    return y


@kernel
def _add_messages(first, last, x, edge_index, edge_attr, y):
    zero = x.dtype.type(0)
    # Unsigned: whether an index counts from the end would be asked in every step.
    for c in range(np.uintp(edge_index.shape[1])):
        source, target = np.uintp(edge_index[0, c]), np.uintp(edge_index[1, c])
        for k in range(np.uintp(first), np.uintp(last)):
            message = x[source, k] + edge_attr[c, k]
            y[target, k] += zero if message <= zero else message  # NaN stays
