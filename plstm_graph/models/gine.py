"""GINE: the same network with message passing between neighbours alone, for comparison."""

from plstm_graph.models.block import ResidualBlock
from plstm_graph.models.network import MoleculeNetwork


class GINE(MoleculeNetwork):
    """Molecules to predictions by GINE layers (Hu et al., arXiv 1905.12265) in PLSTM's skeleton.

    Args:
        out_channels: predictions a molecule.
        hidden_channels: width.
        num_layers: blocks; as many bonds as an atom sees.
        dropout: in blocks and head.
        readout: how atoms make a molecule, by the names of PyG's aggregations.
    """

    def __init__(
        self,
        out_channels: int = 1,
        hidden_channels: int = 96,
        num_layers: int = 4,
        dropout: float = 0.0,
        readout: str = "mean",
    ) -> None:
        blocks = [ResidualBlock(hidden_channels, None, True, dropout) for _ in range(num_layers)]
        super().__init__(blocks, out_channels, hidden_channels, dropout, readout)
