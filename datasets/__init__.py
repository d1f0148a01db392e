"""Lightning data modules for molecules and other graphs: the package ``plstm_graph.datasets``."""

from typing import TYPE_CHECKING

from plstm_graph.lazy import lazy_names

if TYPE_CHECKING:
    from plstm_graph.datasets.base import GraphDataModule, MoleculeDataModule
    from plstm_graph.datasets.builtin import FreeSolv, Solubility
    from plstm_graph.datasets.molecule_net import MoleculeNet
    from plstm_graph.datasets.ogb_mol import OGB
    from plstm_graph.datasets.peptides import PeptideEnds
    from plstm_graph.datasets.peptides_func import PeptidesFunc
    from plstm_graph.datasets.published import TDC, Lipids, MoleculeACE
    from plstm_graph.datasets.smiles_csv import CSV
    from plstm_graph.datasets.tu import TU

__all__ = [
    "CSV",
    "OGB",
    "TDC",
    "TU",
    "FreeSolv",
    "GraphDataModule",
    "Lipids",
    "MoleculeACE",
    "MoleculeDataModule",
    "MoleculeNet",
    "PeptideEnds",
    "PeptidesFunc",
    "Solubility",
]

# Workers that featurise start without Lightning.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CSV": "plstm_graph.datasets.smiles_csv",
        "OGB": "plstm_graph.datasets.ogb_mol",
        "TDC": "plstm_graph.datasets.published",
        "TU": "plstm_graph.datasets.tu",
        "FreeSolv": "plstm_graph.datasets.builtin",
        "GraphDataModule": "plstm_graph.datasets.base",
        "Lipids": "plstm_graph.datasets.published",
        "MoleculeACE": "plstm_graph.datasets.published",
        "MoleculeDataModule": "plstm_graph.datasets.base",
        "MoleculeNet": "plstm_graph.datasets.molecule_net",
        "PeptideEnds": "plstm_graph.datasets.peptides",
        "PeptidesFunc": "plstm_graph.datasets.peptides_func",
        "Solubility": "plstm_graph.datasets.builtin",
    },
)
