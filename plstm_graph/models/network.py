"""GraphNetwork: an encoder, residual blocks, and branches that each predict."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from plstm_graph.dag import LineGraphDAG, Preparation
from plstm_graph.errors import InputError
from plstm_graph.models.block import Norm, ReadoutNorm, ResidualBlock
from plstm_graph.models.branch import Branch, NodeReadout
from plstm_graph.models.descriptors import DescriptorEncoder
from plstm_graph.models.encoder import GraphEncoder
from plstm_graph.models.graphs import Graphs
from plstm_graph.ranges import WIDE, check_range

JumpingKnowledge = Literal["last", "cat"]


class GraphNetwork(nn.Module):
    r"""A network from node and edge features to predictions for every graph.

    An encoder makes channels of features, residual blocks mix them, and branches read every graph out, each
    with heads of its own. The first branch reads the nodes
    (:class:`~plstm_graph.models.branch.NodeReadout`). The prediction is the mean over branches, by their
    weights, and of a branch the mean over its heads.

    Args:
        mixers: makes what every block mixes nodes by, from the width of the encoded edge features, which is
            ``None`` if edges have none: modules from :class:`~plstm_graph.models.graphs.Graphs` to nodes.
        out_channels: number of predictions for a graph.
        hidden_channels: width.
        dropout: probability, in blocks and heads.
        norm: norm of the blocks, ``"layer"`` of a node's channels, or ``"batch"`` of a batch's nodes, channel
            by channel.
        readout_norm: norm before the readout, by default ``norm``. ``"none"`` keeps how much each atom adds,
            for properties that sum up.
        readout: how nodes make a graph: ``"mean"``, ``"sum"``, ``"max"`` or another of PyG's names, or
            ``"scaled_sum"``, the sum over 20; several, as in ``["mean", "max"]``, are concatenated.
        jk: layers that are read out: the nodes as the ``"last"`` block leaves them, or ``"cat"``, which adds
            the encoder's and every other block's (jumping knowledge, Xu et al., arXiv 1806.03536).
        in_channels: number of floating-point node features; ``None`` for OGB's atom and bond features.
        edge_dim: number of floating-point edge features; ``None`` for none, or for OGB's.
        walk_length: number of random-walk encodings of the nodes (:class:`~plstm_graph.dag.AddRandomWalkPE`);
            0 for none.
        branches: further branches beside the nodes', such as
            :class:`~plstm_graph.models.CircularFingerprint`.
        descriptors: number of descriptors of a graph, which every head reads beside its branch
            (:class:`~plstm_graph.models.descriptors.DescriptorEncoder`); 0 for none.

    Raises:
        InputError: an unknown norm, readout or jk, a number that is out of its range, or ``edge_dim`` without
            ``in_channels``.
    """

    def __init__(
        self,
        mixers: Callable[[int | None], Iterable[nn.Module]],
        out_channels: int,
        hidden_channels: int,
        *,
        dropout: float = 0.0,
        norm: Norm = "layer",
        readout_norm: ReadoutNorm | None = None,
        readout: str | list[str] = "mean",
        jk: JumpingKnowledge = "last",
        in_channels: int | None = None,
        edge_dim: int | None = None,
        walk_length: int = 0,
        branches: Sequence[Branch] = (),
        descriptors: int = 0,
    ) -> None:
        super().__init__()
        check_range(1, WIDE, out_channels=out_channels, hidden_channels=hidden_channels)
        check_range(0, 1, dropout=dropout)
        if norm not in get_args(Norm):
            raise InputError(f"norm must be 'layer' or 'batch', not {norm!r}.")
        if readout_norm is not None and readout_norm not in get_args(ReadoutNorm):
            raise InputError(f"readout_norm must be 'layer', 'batch' or 'none', not {readout_norm!r}.")
        if jk not in get_args(JumpingKnowledge):
            raise InputError(f"jk must be 'last' or 'cat', not {jk!r}.")
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        self.dropout = dropout
        self.norm = norm
        self.readout_norm = readout_norm
        self.readout = readout
        self.jk = jk
        self.in_channels = in_channels
        self.edge_dim = edge_dim
        self.walk_length = walk_length
        self.descriptors = descriptors
        self.encoder = GraphEncoder(hidden_channels, in_channels, edge_dim, walk_length)
        self.blocks = nn.ModuleList(
            ResidualBlock(hidden_channels, mixer, dropout, norm) for mixer in mixers(self.encoder.edge_width)
        )
        layers = len(self.blocks) + 1 if jk == "cat" else 1
        nodes = NodeReadout(hidden_channels, readout, readout_norm or norm, layers)
        read_out: list[Branch] = [nodes, *branches]
        self.branches = nn.ModuleList(read_out)
        self.descriptor_encoder = None
        if descriptors:
            self.descriptor_encoder = DescriptorEncoder(descriptors, hidden_channels)
        beside = hidden_channels if descriptors else 0
        self.predictors = nn.ModuleList(
            head
            for branch in read_out
            for head in branch.heads(beside, hidden_channels, out_channels, dropout)
        )
        self._parts = [branch.parts for branch in read_out]
        #: The weight of every branch, as a share of all.
        self.shares = [branch.weight / sum(other.weight for other in read_out) for branch in read_out]
        self._learning = [branch.learns for branch in read_out for _ in range(branch.parts)]
        self._widths = [*(branch.channels for branch in read_out for _ in range(branch.parts)), beside]
        #: Width of what the nodes are read out to.
        self.node_channels = nodes.channels
        #: Width of a graph's embedding: those of all branches, the nodes' first, then the descriptors'.
        self.embedding_channels = sum(self._widths)

    @classmethod
    def preparation(cls, arguments: Mapping[str, Any]) -> Preparation:
        """Return what data modules prepare for a network of this class with these arguments."""
        return Preparation(walk_length=arguments.get("walk_length", 0))

    def forward(self, data: Data) -> Tensor:
        """Predict [num_graphs, out_channels] for a graph or a batch.

        Args:
            data: ``x`` [N, in_channels] and ``edge_attr`` [C, edge_dim] in the network's precision, or
                OGB's features: int64 [N, 9] and [C, 3]; ``edge_index`` [2, C]; and ``descriptors``
                [num_graphs, D], NaN where missing, if the network was made for them.

        Raises:
            InputError: other features than the network was made for.
        """
        return self.predict(self.embed(data))

    def embed(self, data: Data) -> Tensor:
        """Embed every graph: [num_graphs, embedding_channels], the inputs of the heads side by side."""
        graphs = self.graphs(data)
        x, edge_attr = self.encode(data)
        return self.read_out(graphs, graphs._replace(x=x, edge_attr=edge_attr), self.dags(data))

    def outputs(self, embedding: Tensor) -> list[Tensor]:
        """What the heads that learn make of embeddings [B, embedding_channels]: [B, out_channels] each."""
        return list(compress(self._outputs(embedding), self._learning))

    def _outputs(self, embedding: Tensor) -> list[Tensor]:
        """Apply each head to its part of embeddings."""
        *parts, beside = embedding.split(self._widths, dim=1)
        if self.descriptors:
            parts = [torch.cat([part, beside], dim=1) for part in parts]
        return [predictor(part) for predictor, part in zip(self.predictors, parts, strict=True)]

    def predict(self, embedding: Tensor) -> Tensor:
        """Predict [B, out_channels] from embeddings [B, embedding_channels]."""
        outputs = torch.stack(self._outputs(embedding))
        parts = [part.mean(0) for part in outputs.split(self._parts)]
        return torch.stack([share * part for share, part in zip(self.shares, parts, strict=True)]).sum(0)

    def graphs(self, data: Data) -> Graphs:
        """The tensors of a graph or batch as they are before any encoder; InputError if it is none."""
        if not isinstance(data, Data):
            raise InputError(
                f"A network takes a graph or a batch of PyG's, such as smiles_to_data(smiles) or "
                f"Batch.from_data_list(graphs), not a {type(data).__name__}."
            )
        return Graphs.from_data(data, edges=self.encoder.edges is not None)

    def encode(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """Node features [N, hidden_channels] and edge features [C, hidden_channels], before any block."""
        return self.encoder(data)

    def read_out(self, graphs: Graphs, encoded: Graphs, dags: Sequence[LineGraphDAG | None]) -> Tensor:
        """Embed graphs [num_graphs, embedding_channels] by a pass over the blocks for each of their DAGs.

        Args:
            graphs: with features as the data have them.
            encoded: the same with encoded features.
            dags: one for each pass, see :meth:`dags`.
        """
        passes = [self.run_blocks(encoded._replace(dag=dag)) for dag in dags]
        known = self._standardised(graphs)
        dtype = next(self.predictors.parameters()).dtype  # some branches predict in float32 always
        parts = [branch(known, passes).to(dtype) for branch in self.branches]
        if self.descriptor_encoder is not None:
            parts.append(self.descriptor_encoder(graphs.descriptors))
        return torch.cat(parts, dim=1)

    def fit_branches(self, batches: Iterable[Data], targets: Callable[[Data], Tensor], task: str) -> None:
        """Have branches learn what has a closed form, see :meth:`~plstm_graph.models.Branch.fit`.

        Args:
            batches: of the training graphs, in any order.
            targets: what is to be learned of a batch.
            task: ``"regression"``, ``"classification"`` or ``"multiclass"``.
        """
        waiting = [branch for branch in self.branches if isinstance(branch, Branch) and not branch.learns]
        if waiting:
            known = [(self._standardised(self.graphs(batch)), targets(batch)) for batch in batches]
            if not known:
                raise InputError(f"{type(waiting[0]).__name__} learns from training graphs; there are none.")
            for branch in waiting:
                branch.fit(known, task)

    def _standardised(self, graphs: Graphs) -> Graphs:
        """With descriptors as branches read them."""
        if self.descriptor_encoder is None:
            return graphs
        return graphs._replace(descriptors=self.descriptor_encoder.standardise(graphs.descriptors))

    def run_blocks(self, graphs: Graphs) -> list[Tensor]:
        """Nodes [N, hidden_channels] as the encoder and every block leave them.

        For networks that have something between their blocks.
        """
        outputs = [graphs.x]
        for block in self.blocks:
            outputs.append(block(graphs._replace(x=outputs[-1])))
        return outputs

    def dags(self, data: Data) -> Sequence[LineGraphDAG | None]:
        """The DAGs, each of which all scans share in a pass of its own; ``None`` without scans."""
        return [None]
