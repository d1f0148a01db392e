"""PLSTM: a network of scans that alternate between P- and D-mode."""

from torch_geometric.data import Data

from plstm_graph.conv import PLSTMConv
from plstm_graph.dag import LineGraphDAG, Orientation, build_dag, dag_of
from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.network import MoleculeNetwork


class PLSTM(MoleculeNetwork):
    """Molecules to predictions by :class:`~plstm_graph.PLSTMConv` layers, P- and D-mode in turn.

    A prediction does not change when the atoms are renumbered.

    Args:
        out_channels: predictions a molecule.
        hidden_channels: width, a multiple of ``heads``.
        num_layers: blocks; the even ones scan in P-mode, the odd ones in D-mode.
        heads: of every scan.
        orientation: how molecules become DAGs; a batch that carries prepared DAGs (see
            :class:`~plstm_graph.dag.ToLineGraphDAG`) is taken as it was prepared.
        bidirectional: scan the reversed DAG too.
        local: message passing between neighbours beside every scan.
        dropout: in blocks and head.
        readout: how atoms make a molecule, by the names of PyG's aggregations.

    Raises:
        InputError: a width that is no multiple of ``heads``.

    Source: arXiv 2506.11997, Section 3 (P- and D-mode alternate).
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 96,
        num_layers: int = 4,
        heads: int = 4,
        orientation: Orientation = "center",
        bidirectional: bool = True,
        local: bool = True,
        dropout: float = 0.0,
        readout: str = "mean",
    ) -> None:
        blocks = [
            ResidualBlock(
                hidden_channels,
                scan=PLSTMConv(
                    hidden_channels,
                    hidden_channels,
                    heads,
                    mode="D" if i % 2 else "P",
                    bidirectional=bidirectional,
                    edge_dim=hidden_channels,
                    orientation=orientation,
                ),
                local=local,
                dropout=dropout,
            )
            for i in range(num_layers)
        ]
        super().__init__(blocks, out_channels, hidden_channels, dropout, readout)
        self.heads = heads
        self.orientation = orientation
        self.bidirectional = bidirectional
        self.local = local

    def dag(self, data: Data) -> LineGraphDAG:
        """The DAG that the batch carries, or a new one by this network's orientation."""
        prepared = dag_of(data)
        return build_dag(data, self.orientation) if prepared is None else prepared
