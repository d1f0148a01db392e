"""PLSTM: a network of scans that alternate between P- and D-mode."""

from torch_geometric.data import Data

from plstm_graph.conv import PLSTMConv
from plstm_graph.dag import LineGraphDAG, Orientation, build_dag, dag_of
from plstm_graph.errors import InputError
from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.network import MoleculeNetwork


class PLSTM(MoleculeNetwork):
    """Molecules to predictions by :class:`~plstm_graph.PLSTMConv` layers, P- and D-mode in turn.

    A prediction does not change when the atoms are renumbered.

    Args:
        out_channels: predictions a molecule.
        hidden_channels: width.
        num_layers: blocks.
        heads: of every scan.
        head_dim: query, key and value channels of every head; by default hidden_channels / heads, which
            must then be whole.
        scan_every: 1 for a scan in every block, 2 in every second one, ...; the first scan is in P-mode,
            the next in D-mode, and so on.
        orientation: how molecules become DAGs; a batch that carries prepared DAGs (see
            :class:`~plstm_graph.dag.ToLineGraphDAG`) is taken as it was prepared.
        bidirectional: scan the reversed DAG too.
        local: message passing between neighbours, in every block.
        dropout: in blocks and head.
        readout: how atoms make a molecule, by the names of PyG's aggregations.

    Raises:
        InputError: widths, heads or blocks that do not fit.

    Source: arXiv 2506.11997, Section 3 (P- and D-mode alternate).
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 96,
        num_layers: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        scan_every: int = 1,
        orientation: Orientation = "center",
        bidirectional: bool = True,
        local: bool = True,
        dropout: float = 0.0,
        readout: str = "mean",
    ) -> None:
        if not 1 <= scan_every <= num_layers:
            raise InputError(f"scan_every must be from 1 to num_layers ({num_layers}), not {scan_every}.")
        if scan_every > 1 and not local:
            raise InputError("blocks without a scan need local message passing; set local, or scan_every=1.")

        def scan(block: int) -> PLSTMConv | None:
            number, rest = divmod(block + 1, scan_every)
            if rest:
                return None
            return PLSTMConv(
                hidden_channels,
                hidden_channels,
                heads,
                mode="P" if number % 2 else "D",
                bidirectional=bidirectional,
                edge_dim=hidden_channels,
                head_dim=head_dim,
                orientation=orientation,
            )

        blocks = [ResidualBlock(hidden_channels, scan(i), local, dropout) for i in range(num_layers)]
        super().__init__(blocks, out_channels, hidden_channels, dropout, readout)
        self.heads = heads
        self.head_dim = head_dim
        self.scan_every = scan_every
        self.orientation = orientation
        self.bidirectional = bidirectional
        self.local = local

    def dag(self, data: Data) -> LineGraphDAG:
        """The DAG that the batch carries, or a new one by this network's orientation."""
        prepared = dag_of(data)
        return build_dag(data, self.orientation) if prepared is None else prepared
