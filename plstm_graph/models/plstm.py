"""PLSTM: a network of scans that alternate between P- and D-mode."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn
from torch_geometric.data import Data

from plstm_graph.conv import PLSTMConv
from plstm_graph.dag import LineGraphDAG, Orientation, Preparation, Root, build_dag, dag_of
from plstm_graph.errors import InputError
from plstm_graph.kernels import HeadMode
from plstm_graph.models.block import ScanMixer
from plstm_graph.models.local import gin_mixer
from plstm_graph.models.network import GraphNetwork
from plstm_graph.ranges import MANY, check_range

#: Modes that scans take in turn.
_MODES: dict[str, list[HeadMode]] = {"alternate": ["P", "D"], "P": ["P"], "D": ["D"], "PD": ["PD"]}


class PLSTM(GraphNetwork):
    """Graphs to predictions by :class:`~plstm_graph.PLSTMConv` layers beside message passing.

    A prediction does not change when the atoms are renumbered, unless the orientation reads their numbers.

    Args:
        out_channels: number of predictions for a graph.
        hidden_channels: width.
        num_layers: number of blocks.
        heads: number of heads of every scan.
        head_dim: query, key and value channels of every head; by default hidden_channels / heads,
            rounded up.
        scan_every: 1 for a scan in every block, 2 in every second one, ...; in the last one, if there are
            fewer.
        mode: mode of the scans: ``"P"``, ``"D"``, ``"PD"`` for half of the heads in each, or ``"alternate"``
            for ``"P"`` and ``"D"`` in turn.
        orientation: how graphs become DAGs; a batch that carries prepared DAGs (see
            :class:`~plstm_graph.dag.ToLineGraphDAG`) is taken as it was prepared.
        roots: 0 to orient graphs by ``orientation``. Otherwise breadth first from one of their nodes: in
            training from one that is newly drawn in every step, in evaluation from this many, spread evenly
            over the canonical order, one pass each, whose embeddings are averaged.
        bidirectional: scan the reversed DAG too.
        state_dim: components of every state, see :class:`~plstm_graph.PLSTMConv`.
        local: message passing between neighbours (GINE, or GIN without edge features), in every block.
        **network: Arguments of :class:`~plstm_graph.models.GraphNetwork`.

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
        *,
        heads: int = 4,
        head_dim: int | None = None,
        scan_every: int = 1,
        mode: Literal["alternate", "P", "D", "PD"] = "alternate",
        orientation: Orientation = "center",
        roots: int = 0,
        bidirectional: bool = True,
        state_dim: int = 1,
        local: bool = True,
        **network: Any,
    ) -> None:
        check_range(1, MANY, num_layers=num_layers, scan_every=scan_every)
        check_range(0, MANY, roots=roots)
        scan_every = min(scan_every, num_layers)
        if mode not in _MODES:
            raise InputError(f"mode must be {', '.join(map(repr, _MODES))}, not {mode!r}.")
        if scan_every > 1 and not local:
            raise InputError("blocks without a scan need local message passing; set local, or scan_every=1.")

        def mixers(edge_width: int | None) -> Iterator[nn.Module]:
            for number in range(num_layers):
                scans, rest = divmod(number + 1, scan_every)
                if rest:
                    yield gin_mixer(hidden_channels, edge_width)
                    continue
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
                yield ScanMixer(scan, gin_mixer(hidden_channels, edge_width) if local else None)

        super().__init__(mixers, out_channels, hidden_channels, **network)
        self.num_layers = num_layers
        self.heads = heads
        self.head_dim = head_dim
        self.scan_every = scan_every
        self.mode = mode
        self.orientation = orientation
        self.roots = roots
        self.bidirectional = bidirectional
        self.state_dim = state_dim
        self.local = local

    @classmethod
    def preparation(cls, arguments: Mapping[str, Any]) -> Preparation:
        """DAGs of the orientation, but none where roots are drawn."""
        orientation = None if arguments.get("roots") else arguments.get("orientation", "center")
        return super().preparation(arguments)._replace(orientation=orientation)

    def dags(self, data: Data) -> Sequence[LineGraphDAG]:
        """New ones from this network's roots; without these the one of the batch, or of the orientation."""
        if self.roots and self.training:
            return [build_dag(data, Root())]
        if self.roots:
            return [build_dag(data, Root((number + 0.5) / self.roots)) for number in range(self.roots)]
        prepared = dag_of(data)
        return [build_dag(data, self.orientation) if prepared is None else prepared]
