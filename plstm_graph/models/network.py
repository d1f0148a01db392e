"""From node and edge features to predictions for every graph: what all networks here share."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args, overload

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from plstm_graph.chem import ATOM_FEATURE_DIMS, BOND_FEATURE_DIMS
from plstm_graph.conv import GatingMatrix
from plstm_graph.dag import LineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.models.block import Norm, ReadoutNorm, ResidualBlock, make_norm
from plstm_graph.models.embedding import CategoryEncoder
from plstm_graph.models.fingerprint import CHANNELS, HASHES, RADIUS, CircularFingerprint
from plstm_graph.models.readout import make_readout
from plstm_graph.models.walks import return_probabilities

JumpingKnowledge = Literal["last", "cat"]


class GraphNetwork(nn.Module):
    """Encoders, residual blocks, readout and head.

    Args:
        block: makes a block from its number, from 0, and the width of the encoded edge features, which is
            ``None`` if edges have none.
        num_layers: blocks.
        out_channels: predictions a graph.
        hidden_channels: width.
        dropout: in the heads.
        norm: of the blocks, ``"layer"`` of a node's channels, or ``"batch"`` of a batch's nodes, channel by
            channel.
        readout_norm: of what is read out, likewise, or ``"none"``; by default that of the blocks. ``"layer"``
            makes nodes equally large, which hides how much each adds to a property that sums up.
        readout: how nodes make a graph: ``"mean"``, ``"sum"``, ``"max"`` or another of PyG's names, or
            ``"scaled_sum"``, the sum over 20; several, as in ``["mean", "max"]``, are concatenated.
        jk: what is read out: the nodes as the ``"last"`` block leaves them, or ``"cat"``, which adds the
            encoder's and every other block's (jumping knowledge, Xu et al., arXiv 1806.03536).
        in_channels: columns of floating-point node features; ``None`` for OGB's atom and bond features.
        edge_dim: columns of floating-point edge features; ``None`` for none, or for OGB's.
        walk_length: steps of random walks, whose chances to return tell nodes of a ring, a chain or a branch
            apart before any block (:func:`~plstm_graph.models.walks.return_probabilities`); 0 for none.
        fingerprint_size: counts of a circular fingerprint that is read out beside the nodes
            (:class:`~plstm_graph.models.fingerprint.CircularFingerprint`), by heads of their own; a
            prediction is the mean of what nodes and fingerprints give. 0 for none. Use it for categorical
            features only: hashing ignores similarity. For OGB's features a second, coarser fingerprint, whose
            environments are one edge wider, hashes only elements and bond types.
        fingerprint_radius: of its largest environments, in edges.
        fingerprint_channels: that it is mapped to; each costs as many weights as there are counts.
        fingerprint_hashes: ways of hashing, each with counts, channels and a head of its own: environments
            that share a count in one do not in the others.

    Raises:
        InputError: ``edge_dim`` without ``in_channels``, a negative length, size or radius, or no channels or
            hashes.
    """

    def __init__(
        self,
        block: Callable[[int, int | None], ResidualBlock],
        num_layers: int,
        out_channels: int,
        hidden_channels: int,
        dropout: float,
        norm: Norm,
        readout: str | list[str],
        jk: JumpingKnowledge,
        in_channels: int | None,
        edge_dim: int | None,
        walk_length: int,
        fingerprint_size: int = 0,
        fingerprint_radius: int = RADIUS,
        fingerprint_channels: int = CHANNELS,
        fingerprint_hashes: int = HASHES,
        readout_norm: ReadoutNorm | None = None,
    ) -> None:
        super().__init__()
        if in_channels is None and edge_dim is not None:
            raise InputError("edge_dim is for features other than OGB's; give in_channels too.")
        for name, number, lowest in (
            ("walk_length", walk_length, 0),
            ("fingerprint_size", fingerprint_size, 0),
            ("fingerprint_radius", fingerprint_radius, 0),
            ("fingerprint_channels", fingerprint_channels, 1),
            ("fingerprint_hashes", fingerprint_hashes, 1),
        ):
            if number < lowest:
                raise InputError(f"{name} must be at least {lowest}, not {number}.")
        if norm not in get_args(Norm):
            raise InputError(f"norm must be 'layer' or 'batch', not {norm!r}.")
        if readout_norm is not None and readout_norm not in get_args(ReadoutNorm):
            raise InputError(f"readout_norm must be 'layer', 'batch' or 'none', not {readout_norm!r}.")
        if jk not in get_args(JumpingKnowledge):
            raise InputError(f"jk must be 'last' or 'cat', not {jk!r}.")
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        self.num_layers = num_layers
        self.dropout = dropout
        self.norm = norm
        self.readout_norm = readout_norm
        self.readout = readout
        self.jk = jk
        self.in_channels = in_channels
        self.edge_dim = edge_dim
        self.walk_length = walk_length
        self.fingerprint_size = fingerprint_size
        self.fingerprint_radius = fingerprint_radius
        self.fingerprint_channels = fingerprint_channels
        self.fingerprint_hashes = fingerprint_hashes
        self.node_encoder: nn.Module
        self.edge_encoder: nn.Module | None = None
        if in_channels is None:
            self.node_encoder = CategoryEncoder(ATOM_FEATURE_DIMS, hidden_channels)
            self.edge_encoder = CategoryEncoder(BOND_FEATURE_DIMS, hidden_channels)
        else:
            self.node_encoder = nn.Linear(in_channels, hidden_channels)
            if edge_dim is not None:
                self.edge_encoder = nn.Linear(edge_dim, hidden_channels)
        self.walk_encoder = nn.Linear(walk_length, hidden_channels, bias=False) if walk_length else None
        edge_width = None if self.edge_encoder is None else hidden_channels
        self.blocks = nn.ModuleList(block(number, edge_width) for number in range(num_layers))
        self.norms = nn.ModuleList(
            make_norm(readout_norm or norm, hidden_channels)
            for _ in range(num_layers + 1 if jk == "cat" else 1)
        )
        readouts = [readout] if isinstance(readout, str) else list(readout)
        self.pool = make_readout(readouts)
        #: Channels that the nodes of a graph are read out to.
        self.node_channels = hidden_channels * len(self.norms) * len(readouts)
        #: Channels of a graph's embedding: these, and those of a fingerprint.
        self.embedding_channels = self.node_channels

        def head(channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(channels, hidden_channels),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden_channels, out_channels),
            )

        self.head = head(self.node_channels)
        self.fingerprints = nn.ModuleList()
        self.fingerprint_heads = nn.ModuleList()
        if fingerprint_size:
            # OGB's first columns are the element and the type of the bond; of these alone, about as many
            # environments of one edge more differ.
            grades = [(fingerprint_radius, None), (fingerprint_radius + 1, 1)]
            for radius, columns in grades if in_channels is None else grades[:1]:
                self.fingerprints.append(
                    CircularFingerprint(
                        fingerprint_size, radius, fingerprint_channels, fingerprint_hashes, columns
                    )
                )
                self.fingerprint_heads.extend(head(fingerprint_channels) for _ in range(fingerprint_hashes))
            self.embedding_channels += fingerprint_channels * len(self.fingerprint_heads)

    @overload
    def forward(self, data: Data, return_gating: Literal[False] = ...) -> Tensor: ...

    @overload
    def forward(self, data: Data, return_gating: Literal[True]) -> tuple[Tensor, list[GatingMatrix]]: ...

    def forward(self, data: Data, return_gating: bool = False) -> Tensor | tuple[Tensor, list[GatingMatrix]]:
        """Predict [num_graphs, out_channels] for a graph or a batch.

        Args:
            data: ``x`` [N, in_channels] and ``edge_attr`` [C, edge_dim] in the network's precision, or
                OGB's features: int64 [N, 9] and [C, 3]; ``edge_index`` [2, C].
            return_gating: return the gating matrix of every scan too, in the order of the blocks, and that
                once for every DAG.

        Raises:
            InputError: other features than the network was made for.
        """
        gatings: list[GatingMatrix] | None = [] if return_gating else None
        nodes, *hashed = self.outputs(self.embed(data, gatings))
        readouts = nodes.unsqueeze(0)
        if hashed:  # of a fingerprint the mean over the ways of hashing
            fingerprints = torch.stack(hashed).unflatten(0, (-1, self.fingerprint_hashes)).mean(1)
            readouts = torch.cat([readouts, fingerprints])
        prediction = readouts.mean(0)
        return prediction if gatings is None else (prediction, gatings)

    def embed(self, data: Data, gatings: list[GatingMatrix] | None = None) -> Tensor:
        """Embed every graph: [num_graphs, embedding_channels], the inputs of the heads side by side.

        Scans append their gating matrices to ``gatings``, if that is given.
        """
        return self.beside_fingerprint(self.embed_nodes(data, gatings), data)

    def outputs(self, embedding: Tensor) -> list[Tensor]:
        """What each head makes of embeddings [B, embedding_channels]: [B, out_channels], the nodes' first.

        In training each has a loss of its own: with one shared head, the branch that fits the training graphs
        fastest would starve the others.
        """
        widths = [self.node_channels] + [self.fingerprint_channels] * len(self.fingerprint_heads)
        heads = [self.head, *self.fingerprint_heads]
        return [head(part) for head, part in zip(heads, embedding.split(widths, dim=1), strict=True)]

    def embed_nodes(self, data: Data, gatings: list[GatingMatrix] | None = None) -> Tensor:
        """Read the nodes of every graph out: [num_graphs, node_channels], without a fingerprint."""
        x, edge_attr = self.encode(data)
        _, edge_index, _, batch, num_graphs = self.features(data)
        return self.embed_encoded(x, edge_index, edge_attr, batch, num_graphs, self.dags(data), gatings)

    def beside_fingerprint(self, embedding: Tensor, data: Data) -> Tensor:
        """Put fingerprints beside what the nodes are read out to, if the network reads any."""
        if not self.fingerprints:
            return embedding
        features = self.features(data)
        return torch.cat([embedding, *(fingerprint(*features) for fingerprint in self.fingerprints)], dim=1)

    def features(self, data: Data) -> tuple[Tensor, Tensor, Tensor | None, Tensor, int]:
        """What is read before any encoder: x, edge_index, edge_attr or none, batch, num_graphs."""
        batch, num_graphs = data.get("batch"), getattr(data, "num_graphs", 1)
        if batch is None:
            batch, num_graphs = data.edge_index.new_zeros(data.x.size(0)), 1
        edge_attr = None if self.edge_encoder is None else data.edge_attr
        return data.x, data.edge_index, edge_attr, batch, num_graphs

    def encode(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """Node features [N, hidden_channels] and edge features [C, hidden_channels], before any block."""
        self._check_features(data)
        x = self.node_encoder(data.x)
        if self.walk_encoder is not None:
            x = x + self.walk_encoder(return_probabilities(data, self.walk_length).to(x.dtype))
        return x, None if self.edge_encoder is None else self.edge_encoder(data.edge_attr)

    def embed_encoded(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        batch: Tensor,
        num_graphs: int,
        dags: Sequence[LineGraphDAG | None],
        gatings: list[GatingMatrix] | None = None,
    ) -> Tensor:
        """What the nodes are read out to after :meth:`encode`; embeddings by several DAGs are averaged."""
        embeddings = []
        for dag in dags:
            outputs = self.run_blocks(x, edge_index, edge_attr, batch, num_graphs, dag, gatings)
            # The last so many as there are norms: one, or all.
            nodes = [norm(x) for norm, x in zip(self.norms, outputs[-len(self.norms) :], strict=True)]
            embeddings.append(self.pool(torch.cat(nodes, dim=1), batch, dim_size=num_graphs))
        return torch.stack(embeddings).mean(0)

    def run_blocks(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        batch: Tensor,
        num_graphs: int,
        dag: LineGraphDAG | None,
        gatings: list[GatingMatrix] | None,
    ) -> list[Tensor]:
        """Nodes [N, hidden_channels] as the encoder and every block leave them.

        For networks whose blocks take something else, or have something between them.
        """
        outputs = [x]
        for block in self.blocks:
            outputs.append(block(outputs[-1], edge_index, edge_attr, dag, gatings))
        return outputs

    def dags(self, data: Data) -> Sequence[LineGraphDAG | None]:
        """The DAGs, each of which all scans share in a pass of its own; ``None`` without scans."""
        return [None]

    def _check_features(self, data: Data) -> None:
        """Refuse features that the encoders would misread or could not read."""
        ogb = self.in_channels is None
        wanted = {
            "x": len(ATOM_FEATURE_DIMS) if ogb else self.in_channels,
            "edge_attr": len(BOND_FEATURE_DIMS) if ogb else self.edge_dim,
        }
        for name, columns in wanted.items():
            if columns is None:
                continue
            values = data.get(name)
            fits = values is not None and values.dim() == 2 and values.size(1) == columns
            if fits and (values.dtype == torch.int64 if ogb else values.is_floating_point()):
                continue
            found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
            if ogb:
                raise InputError(
                    f"{name} must hold OGB's features, int64 [rows, {columns}], not {found}; "
                    "plstm_graph.chem.smiles_to_data makes them."
                )
            raise InputError(f"{name} must be of floating point and [rows, {columns}], not {found}.")
