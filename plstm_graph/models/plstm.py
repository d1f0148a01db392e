"""PLSTM: a network of scans that alternate between P- and D-mode."""

from collections.abc import Sequence
from typing import Literal

from torch_geometric.data import Data

from plstm_graph.conv import PLSTMConv
from plstm_graph.conv.gates import HeadMode
from plstm_graph.dag import LineGraphDAG, Orientation, Root, build_dag, dag_of
from plstm_graph.errors import InputError
from plstm_graph.models.block import Norm, ReadoutNorm, ResidualBlock
from plstm_graph.models.fingerprint import CHANNELS, HASHES, RADIUS
from plstm_graph.models.local import gin_conv
from plstm_graph.models.network import GraphNetwork, JumpingKnowledge

#: Modes that scans take in turn.
_MODES: dict[str, list[HeadMode]] = {"alternate": ["P", "D"], "P": ["P"], "D": ["D"], "PD": ["PD"]}


class PLSTM(GraphNetwork):
    """Graphs to predictions by :class:`~plstm_graph.PLSTMConv` layers beside message passing.

    A prediction does not change when the atoms are renumbered.

    Args:
        out_channels: predictions a graph.
        hidden_channels: width.
        num_layers: blocks.
        heads: of every scan.
        head_dim: query, key and value channels of every head; by default hidden_channels / heads, which
            must then be whole.
        scan_every: 1 for a scan in every block, 2 in every second one, ...
        mode: of the scans: ``"P"``, ``"D"``, ``"PD"`` for half of the heads in each, or ``"alternate"`` for
            ``"P"`` and ``"D"`` in turn.
        orientation: how graphs become DAGs; a batch that carries prepared DAGs (see
            :class:`~plstm_graph.dag.ToLineGraphDAG`) is taken as it was prepared.
        bidirectional: scan the reversed DAG too.
        local: message passing between neighbours (GINE, or GIN without edge features), in every block.
        dropout: in blocks and head.
        norm: before every branch: ``"layer"`` of a node's channels, ``"batch"`` of a batch's nodes, channel
            by channel.
        readout_norm: norm before the readout, by default ``norm``. ``"none"`` keeps how much each atom adds,
            for properties that sum up.
        readout: how nodes make a graph, see :class:`~plstm_graph.models.network.GraphNetwork`.
        jk: ``"last"`` reads the last block out, ``"cat"`` every block and the encoder.
        in_channels: columns of floating-point node features; ``None`` for OGB's atom and bond features.
        edge_dim: columns of floating-point edge features; ``None`` for none, or for OGB's.
        walk_length: steps of the random walks that encode where a node stands; 0 for none.
        state_dim: components of every state, see :class:`~plstm_graph.PLSTMConv`.
        roots: 0 to orient graphs by ``orientation``. Otherwise breadth first from one of their nodes: in
            training from one that is drawn anew in every step, in evaluation from this many, spread evenly
            over the canonical order, one pass each, whose embeddings are averaged.
        fingerprint_size: counts of a circular fingerprint that is read out beside the nodes by heads of its
            own, for features that are categories; a prediction is the mean of all readouts. 0 for none.
        fingerprint_radius: of its largest environments, in edges.
        fingerprint_channels: that it is mapped to; each costs as many weights as there are counts.
        fingerprint_hashes: ways of hashing its environments, each with counts and a head of its own.

    Raises:
        InputError: widths, heads, blocks or roots that do not fit.

    Source: arXiv 2506.11997, Section 3 (P- and D-mode alternate).

    Example:
        >>> from torch_geometric.data import Batch
        >>> from plstm_graph import PLSTM
        >>> from plstm_graph.chem import smiles_to_data
        >>> batch = Batch.from_data_list([smiles_to_data(smiles) for smiles in ("CCO", "c1ccccc1O")])
        >>> network = PLSTM(out_channels=3, hidden_channels=32, num_layers=2)
        >>> network(batch).shape
        torch.Size([2, 3])
        >>> network.embed(batch).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 96,
        num_layers: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        scan_every: int = 1,
        mode: Literal["alternate", "P", "D", "PD"] = "alternate",
        orientation: Orientation = "center",
        bidirectional: bool = True,
        local: bool = True,
        dropout: float = 0.0,
        norm: Norm = "layer",
        readout_norm: ReadoutNorm | None = None,
        readout: str | list[str] = "mean",
        jk: JumpingKnowledge = "last",
        in_channels: int | None = None,
        edge_dim: int | None = None,
        walk_length: int = 0,
        state_dim: int = 1,
        roots: int = 0,
        fingerprint_size: int = 0,
        fingerprint_radius: int = RADIUS,
        fingerprint_channels: int = CHANNELS,
        fingerprint_hashes: int = HASHES,
    ) -> None:
        if roots < 0:
            raise InputError(f"roots must be at least 0, not {roots}.")
        if not 1 <= scan_every <= num_layers:
            raise InputError(f"scan_every must be from 1 to num_layers ({num_layers}), not {scan_every}.")
        if mode not in _MODES:
            raise InputError(f"mode must be {', '.join(map(repr, _MODES))}, not {mode!r}.")
        if scan_every > 1 and not local:
            raise InputError("blocks without a scan need local message passing; set local, or scan_every=1.")

        def block(number: int, edge_width: int | None) -> ResidualBlock:
            scan = None
            scans, rest = divmod(number + 1, scan_every)
            if not rest:
                scan = PLSTMConv(
                    hidden_channels,
                    hidden_channels,
                    heads,
                    mode=_MODES[mode][(scans - 1) % len(_MODES[mode])],
                    bidirectional=bidirectional,
                    edge_dim=edge_width,
                    head_dim=head_dim,
                    orientation=orientation,
                    state_dim=state_dim,
                    root_weight=False,  # the block adds what it is given
                )
            neighbours = gin_conv(hidden_channels, edge_width) if local else None
            return ResidualBlock(hidden_channels, scan, neighbours, dropout, norm)

        super().__init__(
            block,
            num_layers,
            out_channels,
            hidden_channels,
            dropout,
            norm,
            readout,
            jk,
            in_channels,
            edge_dim,
            walk_length,
            fingerprint_size,
            fingerprint_radius,
            fingerprint_channels,
            fingerprint_hashes,
            readout_norm,
        )
        self.heads = heads
        self.head_dim = head_dim
        self.scan_every = scan_every
        self.mode = mode
        self.orientation = orientation
        self.bidirectional = bidirectional
        self.local = local
        self.state_dim = state_dim
        self.roots = roots

    def dags(self, data: Data) -> Sequence[LineGraphDAG]:
        """New ones from this network's roots; without these the one of the batch, or of the orientation."""
        if self.roots and self.training:
            return [build_dag(data, Root())]
        if self.roots:
            return [build_dag(data, Root((number + 0.5) / self.roots)) for number in range(self.roots)]
        prepared = dag_of(data)
        return [build_dag(data, self.orientation) if prepared is None else prepared]
