"""How the nodes of a graph become one vector."""

from torch import Tensor
from torch_geometric.nn.aggr import MultiAggregation, SumAggregation

#: Heavy atoms of a usual molecule.
USUAL_SIZE = 20


class ScaledSum(SumAggregation):
    """The sum of a graph's nodes, divided by 20.

    It grows with the graph as a sum does, and is as large as a mean for a molecule of 20 atoms: a head that
    is fed plain sums sees inputs twenty times as large, and learns that much less steadily.
    """

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """Nodes [N, channels] to graphs [dim_size, channels]."""
        return super().forward(x, index, ptr, dim_size, dim) / USUAL_SIZE


def make_readout(names: list[str]) -> MultiAggregation:
    """Readouts side by side: ``"scaled_sum"``, and PyG's aggregations by their names."""
    return MultiAggregation([ScaledSum() if name == "scaled_sum" else name for name in names])
