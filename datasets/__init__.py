"""Lightning data modules for molecules and other graphs: the package ``plstm_graph.datasets``."""

from plstm_graph.datasets.arrows import ArrowPointing
from plstm_graph.datasets.base import GraphDataModule, MoleculeDataModule
from plstm_graph.datasets.builtin import FreeSolv, Solubility
from plstm_graph.datasets.ogb_mol import OGB
from plstm_graph.datasets.peptides import PeptideEnds
from plstm_graph.datasets.smiles_csv import CSV, MoleculeNet
from plstm_graph.datasets.tu import TU

__all__ = [
    "CSV",
    "OGB",
    "TU",
    "ArrowPointing",
    "FreeSolv",
    "GraphDataModule",
    "MoleculeDataModule",
    "MoleculeNet",
    "PeptideEnds",
    "Solubility",
]
