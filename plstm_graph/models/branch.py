"""Branches: how a graph becomes an embedding, from which a head of its own predicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation, MultiAggregation, SumAggregation
from torch_geometric.nn.resolver import aggregation_resolver

from plstm_graph.errors import InputError
from plstm_graph.models.block import ReadoutNorm, make_norm
from plstm_graph.models.dropout import Dropout
from plstm_graph.models.graphs import Graphs

#: Number of heavy atoms of a usual molecule.
USUAL_SIZE = 20


class Branch(nn.Module, ABC):
    """It reads graphs out to embeddings, for each of which the network makes a head.

    A network predicts the mean over its branches, by their weights, and a branch the mean over its
    embeddings. Each head has a loss of its own: with one for all, the branch that fits the training graphs
    fastest would starve the others.

    Subclasses name their arguments as the attributes that keep them; checkpoints write these down.
    """

    channels: int  #: width of an embedding
    parts: int = 1  #: number of embeddings side by side
    learns: bool = True  #: whether its heads are trained by gradients
    weight: float = 1.0  #: of what it predicts, beside the weights of the network's other branches

    @abstractmethod
    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]]) -> Tensor:
        """Embed graphs: [num_graphs, parts · channels].

        Args:
            graphs: with features as the data have them, before any encoder, and standardised descriptors.
            passes: a pass over the blocks for every DAG: nodes [N, hidden_channels] as the encoder leaves
                them, then as every block does.
        """

    def heads(self, beside: int, hidden_channels: int, out_channels: int, dropout: float) -> list[nn.Module]:
        """A head for each embedding, which reads this many descriptors' channels beside it."""
        return [
            nn.Sequential(
                nn.Linear(self.channels + beside, hidden_channels),
                nn.GELU(),
                Dropout(dropout),
                nn.Linear(hidden_channels, out_channels),
            )
            for _ in range(self.parts)
        ]

    def fit(self, batches: Iterable[tuple[Graphs, Tensor]], task: str) -> None:
        """Learn what has a closed form from the training graphs, before training begins; by default nothing.

        Args:
            batches: of graphs, with standardised descriptors, and their targets [B, T], NaN where missing:
                standardised, or 0 and 1, or [B, 1] of classes.
            task: ``"regression"``, ``"classification"`` or ``"multiclass"``.
        """

    def contributions(self, graphs: Graphs, reference: Graphs, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """Share out among nodes by how much the prediction differs from that for a reference: [N, T].

        Args:
            graphs: with features as the data have them.
            reference: the same graphs with other features.
            predict: from embeddings [num_graphs, parts · channels] to the mean over this branch's heads
                [num_graphs, T] and a constant.

        Raises:
            InputError: the branch cannot be shared out, which is the default.
        """
        raise InputError(
            f"{type(self).__name__} has no contributions of atoms; explain a network that was trained "
            "without it."
        )


class NodeReadout(Branch):
    """The nodes of a graph, read out by PyG's aggregations; passes over several DAGs are averaged.

    Args:
        hidden_channels: width of the nodes.
        readout: ``"mean"``, ``"sum"``, ``"max"`` or another of PyG's names, or ``"scaled_sum"``, the sum over
            20; several, as in ``["mean", "max"]``, are concatenated.
        norm: norm of the nodes, before they are read out.
        layers: number of the last outputs of the encoder and the blocks that are read out.

    Raises:
        InputError: a readout that is none.
    """

    def __init__(
        self, hidden_channels: int, readout: str | list[str], norm: ReadoutNorm, layers: int
    ) -> None:
        super().__init__()
        names = [readout] if isinstance(readout, str) else list(readout)
        self.norms = nn.ModuleList(make_norm(norm, hidden_channels) for _ in range(layers))
        if not names:
            raise InputError("readout is empty; name at least one, such as mean.")
        self.pool = MultiAggregation([_aggregation(name) for name in names])
        self.channels = hidden_channels * layers * len(names)

    def forward(self, graphs: Graphs, passes: Sequence[Sequence[Tensor]]) -> Tensor:
        """Embed graphs by their nodes: [num_graphs, channels]."""
        embeddings = []
        for outputs in passes:
            nodes = [norm(x) for norm, x in zip(self.norms, outputs[-len(self.norms) :], strict=True)]
            embeddings.append(self.pool(torch.cat(nodes, dim=1), graphs.batch, dim_size=graphs.num_graphs))
        return torch.stack(embeddings).mean(0)


def _aggregation(name: str) -> Aggregation:
    """The readout of that name."""
    if name == "scaled_sum":
        return ScaledSum()
    try:
        found = aggregation_resolver(name)
    except (ValueError, TypeError):  # there is none of that name, or it has arguments
        found = None
    if isinstance(found, Aggregation) and type(found) is not Aggregation:
        return found
    raise InputError(
        "readout must be scaled_sum or one of PyG's aggregations without arguments, such as mean, sum, max, "
        f"min, std, median or softmax, not {name!r}."
    )


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
